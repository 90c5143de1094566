"""The arithmetic of a quantized layer: products and sums of codes, no float (notebook 09).

    sum_k (x - z_x)(w - z_w) = sum x w - z_w sum x - z_x sum w + n z_x z_w

All of it is exact. `qlesson.nn.layers` has the layers that use it.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qlesson import checks
from qlesson.kernels.compilers import is_followed
from qlesson.scheme import Scheme

INT32_MAX = 2**31 - 1
EXACT_IN_FLOAT = 1024  # products of two int8 codes whose sum float32 holds: 1024 * 128 * 128 = 2^24


def int_matmul(x: Tensor, w: Tensor) -> Tensor:
    """x w^T on integers: int8 [m, k] and int8 [n, k] -> int32 [m, n], exact modulo 2^32.

    torch._int_mm where a first product shows it exact, else float32 in slices of k that float32
    sums exactly. An x86 CPU without VNNI adds pairs of products in 16 bits: what does not fit is
    lost (pytorch/pytorch issue 136746).
    """
    _check_factors(x, w)
    if x.shape[1] < 2 or not _int_mm_is_exact(x.device) or not len(x) or not len(w):
        return _matmul_in_slices(x, w)
    x, w = _row_by_row(x), _row_by_row(w)
    return _padded_int_mm(x, w) if x.device.type == "cuda" else torch._int_mm(x, w.t())


def _check_factors(x: Tensor, w: Tensor) -> None:
    """Two matrices of int8 codes with rows of one length."""
    for name, q in (("x", x), ("w", w)):
        checks.codes(name, q, torch.int8, remedy="see int8_codes")
        checks.matrix(name, q, f"[rows, {name}'s columns]")
    if x.shape[1] != w.shape[1]:
        raise ValueError(
            f"x has {x.shape[1]} columns and w has {w.shape[1]}: both need one for each input."
        )
    checks.same_device("x", x, "w", w)


def _check_sums(w_sums: Tensor, w: Tensor) -> None:
    """One sum for each row of w."""
    remedy = "use w.sum(1, dtype=torch.int32)"
    checks.codes("w_sums", w_sums, torch.int32, remedy=remedy)
    if w_sums.shape != w.shape[:1]:
        raise ValueError(
            f"w_sums has shape {tuple(w_sums.shape)}, but needs {tuple(w.shape[:1])}: {remedy}."
        )
    checks.same_device("w_sums", w_sums, "w", w)


def _row_by_row(x: Tensor) -> Tensor:
    """x with strides (k, 1). On a CPU torch._int_mm reads others wrong (2.13), and k = 1 too."""
    return x.reshape(-1).view(x.shape)


def _padded_int_mm(x: Tensor, w: Tensor) -> Tensor:
    """CUDA's kernel wants more than 16 rows, and multiples of 8: zeros are added and cut off."""
    (m, k), n = x.shape, len(w)
    x = F.pad(x, (0, -k % 8, 0, max(24 - m, -m % 8)))
    w = F.pad(w, (0, -k % 8, 0, -n % 8))
    return torch._int_mm(x, w.t())[:m, :n]


def _matmul_in_slices(x: Tensor, w: Tensor) -> Tensor:
    """The same product in float32: each slice's sums are integers that float32 holds."""
    total = torch.zeros(x.shape[0], len(w), dtype=torch.int32, device=x.device)
    with torch.autocast(x.device.type, enabled=False):  # it would round the sums to bfloat16
        for a, b in zip(x.split(EXACT_IN_FLOAT, 1), w.split(EXACT_IN_FLOAT, 1), strict=True):
            total = total + (a.float() @ b.float().t()).to(torch.int32)
    return total


def _int_mm_is_exact(device: torch.device) -> bool:
    """Whether torch._int_mm exists on this device, and loses nothing on the largest codes.

    A graph that is compiled or traced cannot try it, and may run on another processor: False.
    """
    return not torch.compiler.is_compiling() and not is_followed() and _tried(device)


@cache
def _tried(device: torch.device) -> bool:
    x = torch.full((32, 64), 127, dtype=torch.int8, device=device)
    try:
        return bool((torch._int_mm(x, x.t()) == 64 * 127 * 127).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


class FourTerms(NamedTuple):
    """The terms of sum_k (x - z_x)(w - z_w), int32, each broadcasting to [m, n]."""

    products: Tensor  # sum_k x w                [m, n]
    input_sums: Tensor  # z_w sum_k x            [m, n], or [m, 1] with one z_w
    weight_sums: Tensor  # z_x sum_k w           [m, n], or [1, n] with one z_x
    constant: Tensor  # k z_x z_w                [m, n], or less

    def total(self) -> Tensor:
        """products - input_sums - weight_sums + constant."""
        return self.products - self.input_sums - self.weight_sums + self.constant


def four_terms(
    x: Tensor, z_x: Tensor | int, w: Tensor, z_w: Tensor | int, w_sums: Tensor | None = None
) -> FourTerms:
    """sum_k (x - z_x)(w - z_w) = sum x w - z_w sum x - z_x sum w + k z_x z_w   (notebook 09).

    x       int8 codes of the input [m, k], and z_x its zero point: one, or one per row [m, 1]
    w       int8 codes of the weight [n, k], and z_w its zero point: one, or one per row [n]
    w_sums  sum_k w in int32 [n], when it is known before

    Only the first two need a sum over the input; with a static z_x the others are known before.
    z_w = 0 removes the second and the last. Arithmetic modulo 2^32: a term may overflow, and the
    total is right as long as it fits in 32 bits itself.
    """
    _check_factors(x, w)
    if w_sums is None:
        w_sums = w.sum(1, dtype=torch.int32)
    _check_sums(w_sums, w)
    x_sums = x.sum(1, keepdim=True, dtype=torch.int32)
    z_x, z_w = _zero_point("z_x", z_x, x_sums), _zero_point("z_w", z_w, w_sums)
    return FourTerms(int_matmul(x, w), z_w * x_sums, z_x * w_sums, x.shape[1] * z_x * z_w)


def _zero_point(name: str, z: Tensor | int, sums: Tensor) -> Tensor:
    """A zero point of codes moved to int8, as int32: a cast alone would cut fractions off.

    Of another shape than one per row's sum, [n, 1] for [n], it would make all terms wrong.
    """
    checks.integers(name, z)
    z = z if isinstance(z, Tensor) else torch.tensor(z, device="cpu")
    checks.broadcasts(name, z, "the row sum", sums)
    if not (z.is_cuda and z.dtype == torch.int32):  # where reading would wait
        checks.code_values(name, z, -INT32_MAX, INT32_MAX, "pass the zero point of int8 codes")
    return z.to(sums.device, torch.int32)


def int8_codes(q: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """Codes as int8 and zero points as int32, both moved by -128 where the codes are uint8.

    q - z stays what it was.
    """
    checks.codes("q", q, torch.int8, torch.uint8, remedy="the product takes at most 8 bits")
    checks.tensor("zero_point", zero_point)
    checks.integers("zero_point", zero_point)
    held = torch.iinfo(q.dtype)
    checks.code_values("zero_point", zero_point, held.min, held.max, "pass a code of q's dtype")
    if q.dtype == torch.uint8:
        # modulo 256; a view as int8 would stop vmap (2.11)
        return q.to(torch.int8).add_(-128), zero_point.to(torch.int32) - 128
    return q, zero_point.to(torch.int32)


def _check_one(name: str, x: Tensor | float) -> None:
    """One number for all: another shape would make the result larger, or go by rows."""
    if isinstance(x, Tensor) and x.numel() != 1:
        raise ValueError(
            f"{name} must be one number, got the shape {tuple(x.shape)}: use ql.PerTensor()."
        )


def safe_length(x_scheme: Scheme, w_scheme: Scheme) -> int:
    """The largest n for which no sum of n products (q_x - z_x)(q_w - z_w) can leave int32.

    n * x_scheme.reach * w_scheme.reach <= 2^31 - 1   (notebook 09).
    """
    for name, scheme in (("x_scheme", x_scheme), ("w_scheme", w_scheme)):
        checks.scheme(name, scheme)
    return INT32_MAX // (x_scheme.reach * w_scheme.reach)


def integer_bias(bias: Tensor, x_scale: Tensor, w_scale: Tensor) -> Tensor:
    """round(bias / (s_x s_w)) in int32, [n]: the bias in units of the accumulator.

    It costs at most s_x s_w / 2 per output. w_scale is one number or one per output [n].
    Raises ValueError where a bias needs more than 32 bits, or is NaN.
    """
    bias = checks.numbers("bias", bias)
    checks.known("bias", bias)
    checks.finite("bias", bias)
    x_scale = checks.scales("x_scale", x_scale, bias.device)
    _check_one("x_scale", x_scale)
    x_scale = x_scale.reshape(())
    w_scale = checks.scales("w_scale", w_scale, bias.device).flatten()
    for name, scale in (("x_scale", x_scale), ("w_scale", w_scale)):
        checks.broadcasts(name, scale.squeeze(), "bias", bias)
        checks.known(name, scale)
        checks.same_device(name, scale, "bias", bias)
    codes = torch.round(bias.double() / (x_scale.double() * w_scale.double()))
    if bool((codes.abs() > INT32_MAX).any()):
        largest, unit = codes.abs().argmax(), (x_scale * w_scale).expand_as(codes)
        raise ValueError(
            f"A bias of {bias[largest].item():g} needs more than 32 bits in units of s_x s_w = "
            f"{unit[largest].item():g}: keep it in float, or use a larger scale."
        )
    return codes.to(torch.int32)


class FixedPoint(NamedTuple):
    """A positive factor as an integer and a shift: multiplier / 2^shift."""

    multiplier: Tensor
    shift: Tensor


def fixed_point(factor: Tensor) -> FixedPoint:
    """factor = multiplier / 2^shift, to 31 bits: 2^30 <= multiplier < 2^31, both int64.

    The form of gemmlowp (Jacob et al. 2018, arXiv:1712.05877, section 2.2); off by at most
    2^-31 of the factor. A factor below 2^-32 becomes 0: no int32 times it reaches one half.
    Raises ValueError for a factor that is not positive, or not below 2^30.
    """
    factor = checks.scales("factor", factor).double()
    if not checks.holds((factor < 2**30).all()):
        raise ValueError(
            f"factor must be positive and below 2^30, got {factor.max().item():g}: use a larger "
            "scale for the result."
        )
    mantissa, exponent = torch.frexp(factor)
    multiplier = torch.round(mantissa * 2**31).long()
    full = multiplier == 2**31
    multiplier, exponent = torch.where(full, 2**30, multiplier), exponent.long() + full
    tiny = exponent < -31
    return FixedPoint(torch.where(tiny, 0, multiplier), torch.where(tiny, 62, 31 - exponent))


def requantize(
    accumulator: Tensor, factor: FixedPoint, zero_point: Tensor | int, scheme: Scheme
) -> Tensor:
    """q = clip(floor(accumulator * multiplier / 2^shift + 1/2) + zero_point), no float in between.

    accumulator  int32 [m, n], in units of s_x s_w; factor is s_x s_w / s_y, one or one per column
    Returns codes of the scheme's dtype.

    Rounded once, half up, in 64 bits, as TensorFlow Lite does with TFLITE_SINGLE_ROUNDING.
    gemmlowp rounds twice, and a code may then differ by one (notebook 09, More).
    """
    checks.codes("accumulator", accumulator, torch.int32, remedy="int_matmul makes them")
    checks.of_type("factor", factor, FixedPoint, "fixed_point(factor) makes it")
    checks.scheme("scheme", scheme)
    checks.zero_points("zero_point", zero_point, scheme)
    _check_one("zero_point", zero_point)
    _check_factor(factor, accumulator)
    product = accumulator.long() * factor.multiplier
    rounded = (product + (1 << (factor.shift - 1))) >> factor.shift
    codes = rounded + torch.as_tensor(zero_point, device=rounded.device).long()
    return codes.clamp(scheme.quant_min, scheme.quant_max).to(scheme.dtype)


def _check_factor(factor: FixedPoint, accumulator: Tensor) -> None:
    """One, or one per column: [n, 1] would go by rows."""
    row = accumulator.new_empty(accumulator.shape[-1:])
    for part in factor:
        checks.broadcasts("factor", part, "a row of accumulator", row)


def int_conv2d(
    q: Tensor,
    z_q: Tensor | int,
    w: Tensor,
    z_w: Tensor | int,
    stride: int = 1,
    padding: int = 0,
) -> Tensor:
    """A convolution of codes as a matrix product: int8 [b, c, h, w], [n, c, kh, kw] -> int32.

    Each window of the input becomes one row of c * kh * kw codes. Outside the picture lies the
    real 0, so the padding holds the code z_q, not the code 0 (notebook 09). Codes in uint8 become
    int8 by `int8_codes`.
    """
    checks.codes("q", q, torch.int8, remedy="see int8_codes")
    checks.codes("w", w, torch.int8, remedy="see int8_codes")
    checks.zero_points("z_q", z_q, Scheme())
    checks.integers("z_q", z_q)
    _check_one("z_q", z_q)
    checks.whole("stride", stride, low=1)
    checks.whole("padding", padding, low=0)
    _check_windows(q, w, padding)
    padded = F.pad(q.float(), (padding,) * 4, value=float(z_q))
    windows = F.unfold(padded, w.shape[2:], stride=stride)  # float32 holds every code
    height, width = (
        (n - k) // stride + 1 for n, k in zip(padded.shape[2:], w.shape[2:], strict=True)
    )
    rows = windows.transpose(1, 2).flatten(0, 1).to(torch.int8)
    acc = four_terms(rows, z_q, w.flatten(1), z_w).total()
    return acc.view(q.shape[0], height, width, len(w)).permute(0, 3, 1, 2)


def _check_windows(q: Tensor, w: Tensor, padding: int) -> None:
    """Pictures and windows of as many channels, and no window larger than a picture."""
    for name, x, axes in (("q", q, "[b, c, h, w]"), ("w", w, "[n, c, kh, kw]")):
        if x.ndim != 4 or x.numel() == 0:
            raise ValueError(f"{name} must be {axes}, got the shape {tuple(x.shape)}: reshape it.")
        checks.known(name, x)
    sides = zip(q.shape[2:], w.shape[2:], strict=True)
    if q.shape[1] != w.shape[1] or any(n + 2 * padding < k for n, k in sides):
        raise ValueError(
            f"q has shape {tuple(q.shape)} and w {tuple(w.shape)}: both need as many channels, and "
            "a window has to fit into a picture."
        )
    checks.same_device("q", q, "w", w)
