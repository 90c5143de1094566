"""The formulas of affine quantization, one short function each.

They work on tensors that already broadcast against each other, or on plain numbers.
They refuse what no formula means, complex numbers and truth values, and check nothing else:
`qlesson.qtensor` is the checked, granular whole.

Letters of the course: r real value, s scale, z zero point, q code.

    q     = clip(round(r / s + z), quant_min, quant_max)
    r_hat = s * (q - z)

Every division is by a tensor on r's own device. On CUDA, dividing by a Python number or by a
CPU tensor multiplies by the reciprocal instead, and some codes change. So does torch.compile on a
GPU where the divisor is known when it compiles: pass quant_min and quant_max as tensors there
(notebook 13). And its division is approximate, unless torch's option
eager_numerics.division_rounding is true.
"""

from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qlesson import checks

Value = Tensor | float
EXACT = 2**24  # float32 holds every whole number up to here


class QParams(NamedTuple):
    """The scale (in units of r per code) and the zero point (a code)."""

    scale: Tensor
    zero_point: Tensor


@torch.no_grad()
def asymmetric_qparams(r_min: Value, r_max: Value, quant_min: Value, quant_max: Value) -> QParams:
    """scale = (r_max - r_min) / (quant_max - quant_min),
    zero_point = clip(round(quant_min - r_min / scale), quant_min, quant_max)   (notebook 02).

    The literal formula: a zero point outside the codes is clipped without a warning, and
    r_min = r_max divides by zero. `qlesson.choose_qparams` deals with both.

    r_min, r_max: the ends of the range, in units of r; numbers, or tensors of equal shape.
    quant_min, quant_max: the smallest and the largest code.
    Returns the scale in float32 (float64 for float64 ends) and the zero point in int32 (int64
    where codes lie beyond).
    """
    like = _widest(r_min, r_max, quant_min, quant_max)
    r_min, r_max = _as_float(r_min, like), _as_float(r_max, like)
    scale = (r_max - r_min) / _as_float(_steps(quant_min, quant_max), r_min)
    zero_point = torch.round(quant_min - r_min / scale)
    zero_point = clip(zero_point, quant_min, quant_max)
    return QParams(scale, zero_point.to(_holds(quant_min, quant_max)))


@torch.no_grad()
def symmetric_qparams(r_max: Value, quant_max: Value) -> QParams:
    """scale = max|r| / quant_max, zero_point = 0   (notebook 03).

    r_max: the largest magnitude max|r|, in units of r; a number or a tensor.
    quant_max: the largest code; the smallest is -quant_max.
    Returns the scale in float32 (float64 for a float64 r_max) and the zero point in int32.
    """
    r_max = _as_float(r_max)
    scale = r_max / _as_float(quant_max, r_max)
    return QParams(scale, torch.zeros_like(scale, dtype=torch.int32))


@torch.no_grad()
def quantize_affine(
    r: Value,
    scale: Value,
    zero_point: Value,
    quant_min: Value,
    quant_max: Value,
    dtype: torch.dtype = torch.int8,
    rounding: str = "inside",
) -> Tensor:
    """q = clip(round(r / scale + zero_point), quant_min, quant_max)   (notebook 01).

    round is half to even. The clip comes before the cast: a cast alone wraps around.
    `rounding="outside"` computes round(r / scale) + zero_point, the order of ONNX
    QuantizeLinear; torchao and torch.fake_quantize round outside too, and multiply by 1/scale.

    r, scale, zero_point: tensors that broadcast, or numbers.
    Returns codes of the given integer dtype, in r's broadcast shape.
    """
    r = _as_float(r)
    scale, zero_point = _as_float(scale, r), _as_float(zero_point, r)
    if rounding == "inside":
        q = torch.round(r / scale + zero_point)
    else:
        q = torch.round(r / scale) + zero_point
    return clip(q, quant_min, quant_max).to(dtype)


@torch.no_grad()
def dequantize_affine(q: Value, scale: Value, zero_point: Value) -> Tensor:
    """r_hat = scale * (q - zero_point)   (notebook 04).

    The subtraction is done in float: in int8, 127 - (-77) wraps around to -52.

    q, scale, zero_point: tensors that broadcast, or numbers.
    Returns float32, or float64 when the scale is float64, in units of r.
    """
    device = q.device if isinstance(q, Tensor) else None
    scale = _as_float(scale).to(device)
    return scale * (_as_float(q, scale) - _as_float(zero_point, scale))


@torch.no_grad()
def quantize_blocks(r: Value, scale: Value, minimum: Value, quant_max: Value) -> Tensor:
    """q = clip(round((r - minimum) / scale), 0, quant_max), in float64.

    0 / 0 is the code 0. r, scale, minimum: tensors that broadcast, or numbers. Returns uint8.
    """
    like = _as_float(r).double()
    q = torch.round((like - _as_float(minimum, like)) / _as_float(scale, like))
    return clip(q.nan_to_num(0, torch.inf, -torch.inf), 0, quant_max).to(torch.uint8)


@torch.no_grad()
def dequantize_blocks(q: Value, scale: Value, minimum: Value) -> Tensor:
    """r_hat = scale * q + minimum, the product rounded, then the sum.

    q, scale, minimum: tensors that broadcast, or numbers. Returns float32, or float64 where the
    scale or the minimum is float64, in units of r.
    """
    device = q.device if isinstance(q, Tensor) else None
    scale = _as_float(scale, _widest(scale, minimum)).to(device)
    q, minimum = _as_float(q, scale), _as_float(minimum, scale)
    if torch.compiler.is_compiling() and scale.dtype == torch.float32:
        # A compiler for GPUs fuses a product and a sum, and rounds once: a cast keeps them apart.
        return (scale.double() * q.double()).float() + minimum
    return scale * q + minimum


@torch.no_grad()
def safe_qparams(
    r_min: Tensor,
    r_max: Tensor,
    quant_min: Value,
    quant_max: Value,
    mapping: str = "asymmetric",
    include_zero: bool = True,
    scale_dtype: torch.dtype | None = None,
) -> QParams:
    """The two formulas above, and what they leave open: a range that is too narrow.

    An asymmetric range is `widened`. Where the scale is still `too_small`, scale = 1 and
    zero_point = 0.

    r_min, r_max: float tensors of equal shape, r_min <= r_max, in units of r.
    """
    if mapping == "symmetric":
        scale, zero_point = symmetric_qparams(torch.maximum(-r_min, r_max), quant_max)
        scale = stored(scale, scale_dtype)
    else:
        steps = _steps(quant_min, quant_max)
        r_min, r_max = widened(r_min, r_max, steps, include_zero, scale_dtype)
        scale, zero_point = asymmetric_qparams(r_min, r_max, quant_min, quant_max)
        if scale_dtype is not None:
            scale = stored(scale, scale_dtype)
            zero_point = _zero_point(r_min, _as_float(scale, r_min), quant_min, quant_max)
    empty = too_small(scale)
    return QParams(torch.where(empty, 1, scale), torch.where(empty, 0, zero_point))


def _zero_point(r_min: Tensor, scale: Tensor, quant_min: Value, quant_max: Value) -> Tensor:
    """The formula's zero point, of a scale that was rounded since: both must belong together."""
    zero_point = clip(torch.round(quant_min - r_min / scale), quant_min, quant_max)
    return zero_point.to(_holds(quant_min, quant_max))


# No no_grad of its own, which its callers have: torch.export notes each, and cannot load what it
# saved of one that holds nothing before the next.
def widened(
    r_min: Tensor,
    r_max: Tensor,
    steps: Value,
    include_zero: bool,
    scale_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The ends of a range, moved to hold 0: with include_zero, or where its scale is too small.

    steps: quant_max - quant_min. Two float tensors in units of r.
    """
    low, high = r_min.clamp(max=0), r_max.clamp(min=0)
    if include_zero:
        return low, high
    narrow = too_small(stored((r_max - r_min) / _as_float(steps, r_min), scale_dtype))
    return torch.where(narrow, low, r_min), torch.where(narrow, high, r_max)


def computing(dtype: torch.dtype) -> torch.dtype:
    """The dtype that values or scales of this dtype are computed in: half ones in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def too_small(scale: Tensor) -> Tensor:
    """Where a scale is zero, or subnormal in the dtype that is computed in: dividing by it would
    lose digits or overflow. The subnormal numbers of float16 are none in float32."""
    scale = _as_float(scale)
    return scale < torch.finfo(scale.dtype).tiny


def stored(scale: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The scale in the dtype that it is stored in, rounded once; None leaves it as it is."""
    return scale if dtype is None else rounded(scale, dtype)


def _digits_of_a_half(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 or float64 x rounded to the numbers of a half dtype, in float32, by its bits."""
    x = _to_odd(x) if x.dtype == torch.float64 else x
    dropped = 13 if dtype == torch.float16 else 16
    bits = x.view(torch.int32)
    bits = bits + (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1)
    kept = (bits & -(1 << dropped)).view(torch.float32)
    if dtype == torch.float16:  # which has fewer exponents
        kept = torch.where(x.abs() < 2.0**-14, torch.round(x * 2.0**24) * 2.0**-24, kept)
        kept = torch.where(kept.abs() > torch.finfo(dtype).max, x * torch.inf, kept)
    return torch.where(x.isnan(), x, kept)


# As `widened`.
def narrowed(r_hat: Tensor, dtype: torch.dtype) -> Tensor:
    """r_hat in another float dtype, rounded once; what does not fit becomes the largest number.

    float16 ends at 65504: a cast alone turns 65520 into infinity.
    """
    largest = torch.finfo(dtype).max
    if largest < torch.finfo(r_hat.dtype).max:
        r_hat = r_hat.clamp(-largest, largest)
    return rounded(r_hat, dtype)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another float dtype, rounded once: the cast, where torch's own would round twice.

    torch takes float64 to half by way of float32, and what lies just beyond the middle of two
    halves becomes that middle: 1 + 2^-11 + 2^-40 would be 1. So where float32 cannot hold x, the
    one of its two neighbours there is taken whose last bit is 1 (rounding to odd: Boldo and
    Melquiond 2008, doi 10.1109/TC.2007.70819). That is never such a middle. And in a graph that is
    compiled a cast to half is left out where its result is read again, so there the bits round.

    A gradient goes through, as through the cast; an x that has one is cast.
    """
    learns = x.requires_grad and torch.is_grad_enabled()
    if x.element_size() == 2 or torch.finfo(dtype).bits > 16 or learns:
        return x.to(dtype)
    if torch.compiler.is_compiling():
        x = _digits_of_a_half(x, dtype)
    return (_to_odd(x) if x.dtype == torch.float64 else x).to(dtype)


def _to_odd(x: Tensor) -> Tensor:
    """A float64 x in float32, where it does not fit the neighbour whose last bit is 1."""
    single = x.to(torch.float32)
    bits = single.view(torch.int32)
    outwards = torch.where(single.double().abs() < x.abs(), 1, -1)
    even = (single.double() != x) & (bits & 1 == 0)
    return (bits + torch.where(even, outwards, 0)).to(torch.int32).view(torch.float32)


def two_to(power: Tensor) -> Tensor:
    """2^power in float64, to the last bit, for whole powers from -1022 to 1023, an int64 tensor."""
    return ((power + 1023) << 52).view(torch.float64)


def clip(q: Tensor, quant_min: Value, quant_max: Value) -> Tensor:
    """q, and the nearer end where it lies outside: torch.clamp, in a dtype that holds both ends.

    float32 would round 2^31 - 1 to 2^31, so whole ends beyond 2^24 are compared in int64, and
    others in float64. Of a tensor its dtype says how far it may reach.
    """
    q = checks.bare(q)  # a subclass may come from an end, too
    ends: list[Any] = [_code(quant_min), _code(quant_max)]
    if any(map(_beyond_float32, ends)):
        q = q.double() if any(map(_is_real, ends)) else _in_int64(q)
    if len({isinstance(x, Tensor) for x in ends}) == 2:  # torch.clamp takes two of one kind
        ends = [x if isinstance(x, Tensor) else q.new_tensor(x) for x in ends]
    return torch.clamp(q, *ends)


def _steps(quant_min: Value, quant_max: Value) -> Value:
    """quant_max - quant_min, exactly: int8 would wrap around, and float32 round."""
    kept = torch.float32, torch.float64
    low, high = (
        x.double() if isinstance(x, Tensor) and x.dtype not in kept else x
        for x in map(_code, (quant_min, quant_max))
    )
    return high - low


def _code(x: Any) -> Value:
    """x as a tensor, or as a number of Python's own, whole where it can be: NumPy's wrap around."""
    checks.real("every argument of a formula", x)
    if isinstance(x, Tensor):
        return x if type(x) is Tensor else checks.plain(x)
    if isinstance(x, int):
        return x
    if isinstance(x, Integral):
        return int(x)
    x = float(x)
    return int(x) if x.is_integer() else x


def _is_real(x: Value) -> bool:
    return x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, float)


def _beyond_float32(x: Value) -> bool:
    """Whether x is more than float32 counts to, or may be."""
    if isinstance(x, Tensor):
        return x.element_size() > 2 and x.dtype != torch.float32
    return abs(x) > EXACT


def _holds(*codes: Value) -> torch.dtype:
    """The dtype of a zero point between these codes."""
    inside = all(isinstance(x, Tensor) or -(2**31) <= x < 2**31 for x in map(_code, codes))
    return torch.int32 if inside else torch.int64


def _in_int64(q: Tensor) -> Tensor:
    q, beyond = q.double().nan_to_num(0), 2.0**63  # which no int64 holds
    whole = torch.where(q.abs() < beyond, q, 0).long()
    whole = torch.where(q >= beyond, 2**63 - 1, whole)
    return torch.where(q <= -beyond, -(2**63), whole)


def _widest(*ends: Value) -> Tensor | None:
    """The tensor whose dtype and device count: a float64 one before the others."""
    for end in ends:
        checks.real("every argument of a formula", end)
    tensors = [x for x in ends if isinstance(x, Tensor)]
    wide = [x for x in tensors if x.dtype == torch.float64]
    return next(iter(wide or tensors), None)


def _as_float(x: Any, like: Any = None) -> Tensor:
    """x as a tensor to compute with, on the device and in the computing dtype of `like`.

    Without `like`, float64 stays float64 and everything else becomes float32. Half precision
    is raised first: its few digits would move the zero point.
    """
    checks.real("every argument of a formula", x)
    wide = like if isinstance(like, Tensor) else x
    wide = isinstance(wide, Tensor) and wide.dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    device = like.device if isinstance(like, Tensor) else None
    if not isinstance(x, Tensor):
        return torch.as_tensor(x, dtype=dtype, device=device)
    if type(x) is not Tensor:
        x = checks.plain(x)
    return x.to(dtype=dtype, device=device)  # torch.export traces no as_tensor of a tensor
