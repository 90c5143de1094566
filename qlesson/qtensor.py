"""The checked whole: choose_qparams, quantize, fake_quantize and QTensor.

r -> range -> (scale, zero_point) -> q -> r_hat, for every granularity. The formulas are in
`qlesson.affine`; here stand the checks, and the edges where a formula alone would fail.
"""

import warnings
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from qlesson import kernels
from qlesson.affine import QParams, safe_qparams, too_small, widened
from qlesson.scheme import Scheme

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class ZeroPointClipped(UserWarning):
    """The literal formula put the zero point outside the codes: part of the range is lost."""


@torch.no_grad()
def choose_qparams(r: Tensor, scheme: Scheme = Scheme()) -> QParams:
    """Scale and zero point for r, from the smallest and the largest value of each block.

    The scale is float32 (float64 for float64 r), the zero point has the scheme's dtype; both
    have the granularity's scale shape and lie on r's device (notebooks 02, 03, 06).

    Warns with ZeroPointClipped where include_zero=False makes the formula clip the zero point.
    Raises ValueError for NaN, infinity, an empty tensor, an axis out of range or a range too
    wide for the dtype; TypeError for anything but a strided float tensor.
    """
    r = _float_tensor(r, scheme)
    r_min, r_max = kernels.min_max(r, scheme.granularity)
    if not _all_finite(r_min, r_max):
        _refuse_non_finite(r)
    return qparams_from_range(r_min, r_max, scheme)


@torch.no_grad()
def qparams_from_range(r_min: Tensor, r_max: Tensor, scheme: Scheme) -> QParams:
    """Scale and zero point for finite ends r_min <= r_max of each block, wherever they come from.

    A range of zero width is widened to hold 0, like every range under include_zero=True. One
    that is still too narrow for a normal float scale gets scale = 1 and zero_point = 0.
    """
    r_min, r_max = _at_least_float32(r_min), _at_least_float32(r_max)
    codes = scheme.quant_min, scheme.quant_max
    scale, zero_point = safe_qparams(r_min, r_max, *codes, scheme.mapping, scheme.include_zero)
    if not _all_finite(scale.amax() * _levels(scheme)):
        raise ValueError(
            f"r reaches from {r_min.min().item():g} to {r_max.max().item():g}: that range is too "
            f"wide for {_name(scale.dtype)}. Scale r down, or pass it as float64."
        )
    if scheme.mapping == "asymmetric" and not scheme.include_zero:
        _warn_if_clipped(r_min, r_max, scale, zero_point, scheme)
    return QParams(scale, zero_point.to(scheme.dtype))


@torch.no_grad()
def quantize(
    r: Tensor,
    scheme: Scheme = Scheme(),
    qparams: QParams | None = None,
    *,
    check: bool = True,
    out: Tensor | None = None,
) -> "QTensor":
    """q = clip(round(r / scale + zero_point), quant_min, quant_max), as a QTensor (notebook 01).

    r        float32, float64, float16 or bfloat16, of any shape; half is computed in float32
    qparams  scale and zero point in the granularity's scale shape on r's device, or two numbers
             per tensor; None takes them from r with `choose_qparams`
    check    with given qparams, look for NaN and infinity in r first. check=False skips that
             reading of r: then infinity saturates and NaN becomes code 0. Without qparams NaN
             and infinity are always refused; check=False lets `out` be written before that.
    out      the integer tensor to fill: r's shape, the scheme's dtype, r's device

    Raises ValueError or TypeError as `choose_qparams`, for qparams or `out` that do not fit, and
    for a scale that is not positive or a zero point that is no code.
    """
    r = _float_tensor(r, scheme)
    if qparams is not None:
        qparams = _checked_qparams(r, scheme, qparams, check)
        if check and not _all_finite(*torch.aminmax(r)):
            _refuse_non_finite(r)
    if out is not None:
        kept = {"r": r} | (qparams._asdict() if qparams else {})
        _check_out(out, r.shape, scheme.dtype, r.device, kept)
    q = torch.empty_like(r, dtype=scheme.dtype) if out is None else out
    if qparams is None and (out is None or not check):
        qparams = _chosen_while_quantizing(r, scheme, q)
        if qparams is not None:
            return QTensor(q, *qparams, scheme)
    if qparams is None:
        qparams = choose_qparams(r, scheme)
    return QTensor(_codes(r, qparams, scheme, q), *qparams, scheme)


def _chosen_while_quantizing(r, scheme, out) -> QParams | None:
    """Scale and zero point, and `out` filled with them; None where the kernels do not do both."""
    if scheme.mapping == "asymmetric" and not scheme.include_zero:
        return None  # the warning needs the range
    qparams = kernels.choose_and_quantize(r, scheme, out)
    if qparams is not None and not _all_finite(qparams[0].amax() * _levels(scheme)):
        choose_qparams(r, scheme)  # says what is wrong
    return qparams and QParams(*qparams)


@dataclass(frozen=True, eq=False)
class QTensor:
    """Codes together with what gives them meaning (notebook 04).

    q           integer codes, in the shape of r and the scheme's dtype
    scale       float, in the granularity's scale shape, in units of r per code
    zero_point  the code of 0.0, in the scheme's dtype and scale's shape
    scheme      the Scheme they were made with
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    scheme: Scheme

    def __post_init__(self):
        for name in ("q", "scale", "zero_point"):
            if not isinstance(getattr(self, name), Tensor):
                kind = type(getattr(self, name)).__name__
                raise TypeError(f"{name} must be a torch tensor, got {kind}.")
        if self.q.dtype != self.scheme.dtype:
            raise ValueError(
                f"q has dtype {_name(self.q.dtype)}, the scheme's codes are "
                f"{_name(self.scheme.dtype)}: make q with ql.quantize(r, scheme)."
            )
        if self.q.numel() == 0:
            raise ValueError(f"q is empty (shape {tuple(self.q.shape)}): there are no codes.")
        if self.zero_point.dtype != self.scheme.dtype:
            raise ValueError(
                f"zero_point has dtype {_name(self.zero_point.dtype)}, but is stored like the "
                f"codes in {_name(self.scheme.dtype)}: use zero_point.to({self.scheme.dtype})."
            )
        expected = self.scheme.granularity.scale_shape(self.q.shape)
        _check_shape_and_device(self.scale, self.zero_point, expected, self.q, self.scheme)

    @property
    def shape(self) -> torch.Size:
        """The shape of r and of q."""
        return self.q.shape

    @property
    def device(self) -> torch.device:
        """The device that holds the codes."""
        return self.q.device

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held: q, scale and zero point."""
        return self.q.nbytes + self.scale.nbytes + self.zero_point.nbytes

    @property
    def bits_per_value(self) -> float:
        """bits + (scale bits + zero point bits) * number of scales / number of values.

        What a value costs when the codes are packed. The zero point takes `bits` bits, or none
        in symmetric mode, where it is always 0 (notebook 06).
        """
        zero_point_bits = 0 if self.scheme.mapping == "symmetric" else self.scheme.bits
        per_scale = 8 * self.scale.element_size() + zero_point_bits
        return self.scheme.bits + per_scale * self.scale.numel() / self.q.numel()

    def to(self, device) -> "QTensor":
        """The same QTensor on another device."""
        moved = (x.to(device) for x in (self.q, self.scale, self.zero_point))
        return QTensor(*moved, self.scheme)

    @torch.no_grad()
    def dequantize(self, dtype: torch.dtype | None = None, *, out: Tensor | None = None) -> Tensor:
        """r_hat = scale * (q - zero_point), in units of r (notebook 04).

        dtype  the result's float dtype, rounded to once at the end; None is the scale's own.
               A value too large for it becomes its largest number (float16: 65504)
        out    the float tensor to fill: q's shape, that dtype, q's device
        """
        dtype = self.scale.dtype if dtype is None else dtype
        if dtype not in FLOATS:
            raise ValueError(f"dtype must be {_one_of_floats()}, got {dtype!r}.")
        if out is not None:
            kept = {"q": self.q, "scale": self.scale, "zero_point": self.zero_point}
            _check_out(out, self.shape, dtype, self.device, kept)
        r_hat = torch.empty_like(self.q, dtype=dtype) if out is None else out
        held = (self.q, self.scale, self.zero_point)
        return kernels.dequantize(*held, self.scheme.granularity, r_hat)


def fake_quantize(r: Tensor, scheme: Scheme = Scheme(), qparams: QParams | None = None) -> Tensor:
    """The value of quantize(r).dequantize(r.dtype), with a gradient to train through.

    The gradient is 1 where the code before clipping lies in the range, else 0: the
    straight-through estimator of Bengio et al. 2013, arXiv:1308.3432 (notebook 11).
    """
    plain = _float_tensor(r, scheme)
    if qparams is None:
        qparams = choose_qparams(plain, scheme)
    else:
        qparams = _checked_qparams(plain, scheme, qparams, check=True)
        if not _all_finite(*torch.aminmax(plain)):
            _refuse_non_finite(plain)
    return _FakeQuantize.apply(r.as_subclass(Tensor), qparams, scheme)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, r, qparams, scheme):
        low, high = scheme.quant_min, scheme.quant_max
        # One code more at either end: what lands there lies outside the range.
        q = _codes(r, qparams, scheme, torch.empty_like(r, dtype=torch.int32), margin=1)
        ctx.save_for_backward((q >= low) & (q <= high))
        r_hat = torch.empty_like(r)
        return kernels.dequantize(q.clamp_(low, high), *qparams, scheme.granularity, r_hat)

    @staticmethod
    def backward(ctx, grad):
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grad, 0), None, None  # even an infinite gradient


def _codes(r, qparams, scheme, out, margin=0) -> Tensor:
    """Fill `out` with the codes of r, clipped to the scheme's, and `margin` more at either end."""
    low, high = scheme.quant_min - margin, scheme.quant_max + margin
    return kernels.quantize(r, *qparams, scheme.granularity, out, low, high, scheme.rounding)


def _at_least_float32(x):
    return x if x.dtype == torch.float64 else x.float()


def _levels(scheme) -> int:
    """How many steps of the scale the range spans; in symmetric mode, its half."""
    lowest = 0 if scheme.mapping == "symmetric" else scheme.quant_min
    return scheme.quant_max - lowest


def _all_finite(*tensors) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in tensors)


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _one_of_floats() -> str:
    return "torch." + ", torch.".join(_name(d) for d in FLOATS)


def _float_tensor(r, scheme) -> Tensor:
    """r as a plain tensor without gradient, or a sentence about why it cannot be quantized."""
    if not isinstance(scheme, Scheme):
        raise TypeError(
            f"scheme must be a ql.Scheme, got {scheme!r}: for 8 bits, use ql.Scheme(bits=8)."
        )
    if isinstance(r, QTensor):
        raise TypeError("r is a QTensor already: call r.dequantize() first.")
    if not isinstance(r, Tensor):
        raise TypeError(f"r must be a torch tensor, got {type(r).__name__}: use torch.tensor(r).")
    if r.is_nested or r.layout != torch.strided:
        kind = "nested" if r.is_nested else r.layout
        remedy = "pass one tensor at a time" if r.is_nested else "use r.to_dense() first"
        raise TypeError(f"r has layout {kind}: {remedy}.")
    if r.dtype not in FLOATS:
        raise TypeError(f"r must be {_one_of_floats()}, got {r.dtype}: use r.float() first.")
    if r.is_meta:
        raise TypeError("r is on the meta device and holds no values: move it to a real device.")
    if r.numel() == 0:
        raise ValueError(f"r is empty (shape {tuple(r.shape)}): there is no range to quantize.")
    scheme.granularity.scale_shape(r.shape)  # names an axis out of range
    return r.detach().as_subclass(Tensor)


def _refuse_non_finite(r):
    bad = ~torch.isfinite(r)
    first = tuple(bad.nonzero()[0].tolist())
    nans = int(torch.isnan(r).sum())
    raise ValueError(
        f"r holds {nans} NaN and {int(bad.sum()) - nans} infinite values, the first at index "
        f"{first}: remove or replace them first, for example with torch.nan_to_num(r)."
    )


def _checked_qparams(r, scheme, qparams, check) -> QParams:
    """Given qparams in the dtypes they are stored in, or a sentence about what does not fit."""
    try:
        scale, zero_point = qparams
    except (TypeError, ValueError):
        raise TypeError(
            f"qparams must be ql.QParams(scale, zero_point), got {type(qparams).__name__}."
        ) from None
    expected = scheme.granularity.scale_shape(r.shape)
    dtype = torch.float64 if r.dtype == torch.float64 else torch.float32
    if not isinstance(scale, Tensor):
        scale = torch.tensor(_number("scale", scale), dtype=dtype, device=r.device)
    if not isinstance(zero_point, Tensor):
        zero_point = torch.tensor(
            _number("zero_point", zero_point), dtype=torch.float64, device=r.device
        )
    _check_shape_and_device(scale, zero_point, expected, r, scheme)
    scale = scale.detach().as_subclass(Tensor).to(dtype)
    zero_point = zero_point.detach().as_subclass(Tensor)
    if check or zero_point.dtype != scheme.dtype:
        _check_values(scale, zero_point, scheme)
    return QParams(scale, zero_point.to(scheme.dtype))


def _number(name, value):
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a torch tensor, got {type(value).__name__}.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a float: pass a finite number.") from None


def _check_shape_and_device(scale, zero_point, expected, r, scheme):
    for name, x in (("scale", scale), ("zero_point", zero_point)):
        if tuple(x.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but {scheme.granularity} on a tensor of "
                f"shape {tuple(r.shape)} needs {expected}: reshape it, or let "
                "ql.choose_qparams(r, scheme) make it."
            )
        if x.device != r.device:
            raise ValueError(
                f"{name} is on {x.device}, but the tensor is on {r.device}: move one of them."
            )
    if scale.dtype not in FLOATS:
        raise ValueError(f"scale must be a float tensor, got {_name(scale.dtype)}.")


def _check_values(scale, zero_point, scheme):
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError("scale must be positive and finite: pass the step in units of r.")
    low, high = (0, 0) if scheme.mapping == "symmetric" else (scheme.quant_min, scheme.quant_max)
    z = zero_point.double()
    if not bool(((z >= low) & (z <= high) & (z == z.round())).all()):
        wanted = "0 in a symmetric scheme" if low == high else f"an integer from {low} to {high}"
        raise ValueError(
            f"zero_point must be {wanted}, got values from {z.min().item():g} to "
            f"{z.max().item():g}."
        )


def _check_out(out, shape, dtype, device, kept):
    """A sentence about why `out` cannot be filled, before anything is written."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a torch tensor, got {type(out).__name__}.")
    remedy = f"use torch.empty({tuple(shape)}, dtype={dtype}, device={str(device)!r})."
    for what, got, wanted in (
        ("shape", tuple(out.shape), tuple(shape)),
        ("dtype", out.dtype, dtype),
        ("device", out.device, device),
    ):
        if got != wanted:
            raise ValueError(f"out has {what} {got}, but needs {wanted}: {remedy}")
    if out.requires_grad:
        raise ValueError("out requires a gradient, and filling it has none: pass out.detach().")
    if any(n > 1 and step == 0 for n, step in zip(out.shape, out.stride(), strict=True)):
        raise ValueError(f"out is expanded, so its elements share memory: {remedy}")
    if _may_overlap_itself(out):
        raise ValueError(f"out overlaps itself, so its elements share memory: {remedy}")
    for name, x in kept.items():
        if _overlap(out, x):
            raise ValueError(f"out shares memory with {name}, which must stay as it is: {remedy}")


def _may_overlap_itself(x) -> bool:
    """Whether some stride steps into the elements that the smaller strides reach."""
    reached = 0
    for step, n in sorted((s, n) for n, s in zip(x.shape, x.stride(), strict=True) if n > 1):
        if step <= reached:
            return True
        reached += (n - 1) * step
    return False


def _overlap(a, b) -> bool:
    """Whether the byte ranges of two tensors on one device meet."""

    def ends(x):
        last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
        return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()

    (a_start, a_end), (b_start, b_end) = ends(a), ends(b)
    return a_start < b_end and b_start < a_end


def _warn_if_clipped(r_min, r_max, scale, zero_point, scheme):
    steps = scheme.quant_max - scheme.quant_min
    r_min, r_max = widened(r_min, r_max, steps, include_zero=False)
    exact = torch.round(scheme.quant_min - r_min / scale)
    clipped = (exact != zero_point) & ~too_small((r_max - r_min) / r_min.new_tensor(steps))
    count = int(clipped.sum())
    if not count:
        return
    i = int(clipped.flatten().nonzero()[0])
    low, high, step, z, z_exact = (
        x.flatten()[i].item() for x in (r_min, r_max, scale, zero_point, exact)
    )
    first = step * (scheme.quant_min - z)
    last = step * (scheme.quant_max - z)
    lost = f"values above {last:.4g} come back as {last:.4g}"
    if high < 0:
        lost = f"values below {first:.4g} come back as {first:.4g}"
    many = f" ({count} of {clipped.numel()} zero points; this is the first)" if count > 1 else ""
    warnings.warn(
        f"r reaches from {low:.4g} to {high:.4g}, so the zero point {z_exact:.0f} lies outside the "
        f"codes {scheme.quant_min} to {scheme.quant_max} and was clipped to {z:.0f}{many}: {lost}. "
        "include_zero=True widens the range to hold 0, at the price of a larger step.",
        ZeroPointClipped,
        stacklevel=kernels.levels_to_caller(),
    )
