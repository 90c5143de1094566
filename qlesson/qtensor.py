"""The checked whole: choose_qparams, quantize, fake_quantize and QTensor.

r -> range -> (scale, zero_point) -> q -> r_hat, for every granularity. The formulas are in
`qlesson.affine`; here stand the checks, and the edges where a formula alone would fail.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qlesson import checks, kernels
from qlesson.affine import QParams, computing, stored, too_small, widened
from qlesson.granularity import Granularity, PerTensor, rows
from qlesson.scheme import Scheme, qparams_of

FindRange = Callable[[Tensor, Scheme], tuple[Tensor, Tensor]]
Parts = Mapping[str, Any]  # of a QTensor or of Blocks, by name


class ZeroPointClipped(UserWarning):
    """The literal formula put the zero point outside the codes: part of the range is lost."""


@torch.no_grad()
def choose_qparams(
    r: Tensor, scheme: Scheme = Scheme(), find_range: FindRange | None = None
) -> QParams:
    """Scale and zero point for r, from the range of each block.

    The scale is float32 (float64 for float64 r), or in the scheme's scale_dtype; the zero point has
    the scheme's dtype. Both have the granularity's scale shape and lie on r's device (notebooks 02,
    03).

    find_range  a function of (r, scheme) that gives r_min and r_max in the scale's shape, such as
                `ranges.mse_search`; None takes the smallest and the largest value

    Warns with ZeroPointClipped where include_zero=False makes the formula clip the zero point.
    Raises ValueError for NaN, infinity, an empty tensor, an axis out of range or a range too
    wide for the dtype; TypeError for anything but a strided float tensor.
    """
    r = _checked(r, scheme)
    chosen = kernels.choose(r, scheme) if find_range is None else None
    return chosen or _qparams_from_range(*range_ends(r, scheme, find_range), scheme)


def quantize_by(find_range: FindRange | None, r: Tensor, scheme: Scheme) -> "QTensor":
    """r quantized in the range that find_range gives, as `choose_qparams` says."""
    qparams = None if find_range is None else choose_qparams(r, scheme, find_range)
    return quantize(r, scheme, qparams)


def range_ends(r: Tensor, scheme: Scheme, find_range: FindRange | None) -> tuple[Tensor, Tensor]:
    """The finite ends of each block's range, for an r that was checked but for its values."""
    if find_range is not None:
        checks.finite("r", r)
        return _found_range(find_range, r, scheme)
    r_min, r_max = kernels.min_max(r, scheme.granularity)
    if not checks.all_finite(r_min, r_max):
        checks.refuse_non_finite("r", r)
    return r_min, r_max


def _found_range(find_range: FindRange, r: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """What find_range gives, two tensors in the scale's shape on r's device, as r is computed."""
    checks.function("find_range", find_range, "(r, scheme), such as ranges.mse_search")
    shape, found = scheme.granularity.scale_shape(r.shape), find_range(r, scheme)
    given = found if isinstance(found, tuple | list) else ()
    shapes = [tuple(x.shape) for x in given if isinstance(x, Tensor)]
    if shapes != [shape, shape] or any(x.device != r.device for x in found):
        raise ValueError(
            f"find_range must give r_min and r_max, two tensors of shape {shape} on {r.device}: "
            f"it gave {checks.shown(found)}."
        )
    checks.ends(*found)
    return found[0].to(computing(r.dtype)), found[1].to(computing(r.dtype))


@torch.no_grad()
def qparams_from_range(r_min: Tensor, r_max: Tensor, scheme: Scheme) -> QParams:
    """Scale and zero point for finite ends r_min <= r_max of each block, wherever they come from.

    A range of zero width is widened to hold 0, like every range under include_zero=True. One
    that is still too narrow for a normal float scale gets scale = 1 and zero_point = 0.
    """
    checks.scheme("scheme", scheme)
    checks.ends(r_min, r_max)
    return _qparams_from_range(r_min, r_max, scheme)


def _qparams_from_range(r_min: Tensor, r_max: Tensor, scheme: Scheme) -> QParams:
    """The same, of ends that were checked."""
    r_min, r_max = _at_least_float32(r_min), _at_least_float32(r_max)
    scale, zero_point = qparams_of(r_min, r_max, scheme)
    refuse_too_wide(r_min, r_max, scheme, scale)
    if scheme.mapping == "asymmetric" and not scheme.include_zero:
        _warn_if_clipped(r_min, r_max, scale, zero_point, scheme)
    return QParams(scale, zero_point.to(scheme.dtype))


def _fits(r: Tensor, scheme: Scheme) -> bool:
    """Whether no block of r can be refused: all of r as one block is not. NaN gives scale NaN."""
    r_min, r_max = map(_at_least_float32, kernels.min_max(r, PerTensor()))
    scale = qparams_of(r_min, r_max, scheme).scale
    return checks.all_finite(_at_least_float32(scale) * scheme.reach)


def refuse_too_wide(
    r_min: Tensor, r_max: Tensor, scheme: Scheme, scale: Tensor, *more: Tensor
) -> None:
    """Raises ValueError where the values of some codes, or more that is stored, are infinite."""
    if not checks.all_finite(_at_least_float32(scale.amax()) * scheme.reach, *more):
        single = replace(scheme, scale_dtype=torch.float32)
        wide = qparams_of(r_min.float(), r_max.float(), single).scale * scheme.reach
        remedy = f"Scale r down{checks.or_wider(scheme, r_min, checks.all_finite(wide))}."
        raise ValueError(
            f"r reaches from {r_min.min().item():g} to {r_max.max().item():g}: that range is too "
            f"wide for {checks.dtype_name(scale.dtype)}. {remedy}"
        )


def quantize(
    r: Tensor,
    scheme: Scheme = Scheme(),
    qparams: QParams | None = None,
    *,
    check: bool = True,
    out: Tensor | None = None,
) -> "QTensor":
    """q = clip(round(r / scale + zero_point), quant_min, quant_max), as a QTensor (notebook 04).

    r        float32, float64, float16 or bfloat16, of any shape; half is computed in float32
    qparams  scale and zero point in the granularity's scale shape on r's device, or two numbers
             per tensor; None takes them from r with `choose_qparams`
    check    with given qparams, look for NaN and infinity in r first. check=False skips that
             reading of r: then infinity saturates and NaN becomes code 0. And it trusts a zero
             point that comes in the scheme's dtype, with its scale. Without qparams NaN and
             infinity are always refused; check=False lets `out` be written before that.
    out      the integer tensor to fill: r's shape, the scheme's dtype, r's device

    Raises ValueError or TypeError as `choose_qparams`, for qparams or `out` that do not fit, and
    for a scale that is not positive or a zero point that is no code.
    """
    r = _checked(r, scheme)
    if qparams is not None:
        qparams = _checked_qparams(r, scheme, qparams, check)
        if check:
            checks.finite("r", r)
    if out is not None:
        kept = {"r": r} | (qparams._asdict() if qparams else {})
        checks.out(out, r.shape, scheme.dtype, r.device, kept)
    q = torch.empty_like(r, dtype=scheme.dtype) if out is None else out
    if qparams is None:
        may_fill = out is None or not check
        chosen = kernels.choose_and_quantize(r, scheme, q, lambda: may_fill or _fits(r, scheme))
        if chosen is not None:
            return QTensor._trusted(q, *chosen, scheme)
        qparams = choose_qparams(r, scheme)  # and says what is wrong with r
    codes = scheme.quant_min, scheme.quant_max, scheme.rounding
    kernels.run(kernels.quantize, codes, r, *qparams, scheme.granularity, q)
    return QTensor._trusted(q, *qparams, scheme)


@dataclass(frozen=True, eq=False)
class QTensor:
    """Codes together with what gives them meaning (notebook 04).

    q           integer codes, in the shape of r and the scheme's dtype
    scale       float, in the granularity's scale shape, in units of r per code
    zero_point  the code of 0.0, in the scheme's dtype and scale's shape
    scheme      the Scheme they were made with

    Raises TypeError or ValueError for parts that do not fit together, for a scale that is not
    positive and finite, and for a zero point that is no code (0, in a symmetric scheme).
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    scheme: Scheme

    def __post_init__(self) -> None:
        q, scale, zero_point, scheme = self.q, self.scale, self.zero_point, self.scheme
        checks.scheme("scheme", scheme)
        for name, x in (("q", q), ("scale", scale), ("zero_point", zero_point)):
            checks.tensor(name, x)
            checks.strided(name, x)
            object.__setattr__(self, name, checks.held(x))
        if q.dtype != scheme.dtype:
            raise ValueError(
                f"q has dtype {checks.dtype_name(q.dtype)}, the scheme's codes are "
                f"{checks.dtype_name(scheme.dtype)}: make q with ql.quantize(r, scheme)."
            )
        if q.numel() == 0:
            raise ValueError(f"q is empty (shape {tuple(q.shape)}): there are no codes.")
        if zero_point.dtype != scheme.dtype:
            raise ValueError(
                f"zero_point has dtype {checks.dtype_name(zero_point.dtype)}, but is stored like "
                f"the codes in {checks.dtype_name(scheme.dtype)}: use "
                f"zero_point.to({scheme.dtype})."
            )
        checks.scales_for(scheme.granularity, q.shape)
        checks.shape_and_device(scale, zero_point, scheme.granularity, q.shape, q.device)
        checks.stored_as(scale, scheme)
        if not scale.is_meta:
            checks.qparams_values(scale, zero_point, scheme)
            made = "make q with ql.quantize(r, scheme)"
            checks.code_values("q", q, scheme.quant_min, scheme.quant_max, made)

    @classmethod
    def _trusted(cls, q: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme) -> "QTensor":
        """Of parts made or checked before: to read them again would cost a wait for the GPU."""
        x = object.__new__(cls)
        held = x.__dict__  # each by itself: torch 2.11 puts no update of it into a graph
        held["q"], held["scale"], held["zero_point"], held["scheme"] = q, scale, zero_point, scheme
        return x

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

    @property
    def packed_nbytes(self) -> float:
        """The same in bytes, of all values: codes packed, with their scales and zero points."""
        return self.bits_per_value * self.q.numel() / 8

    def to(self, device: torch.device | str) -> "QTensor":
        """The same QTensor on another device."""
        device = checks.device("device", device, computes=False)
        q, scale, zero_point = (x.to(device) for x in (self.q, self.scale, self.zero_point))
        return QTensor._trusted(q, scale, zero_point, self.scheme)

    def dequantize(self, dtype: torch.dtype | None = None, *, out: Tensor | None = None) -> Tensor:
        """r_hat = scale * (q - zero_point), in units of r (notebook 04).

        dtype  the result's float dtype, rounded to once at the end; None is float32, or float64
               for float64 scales. A value too large for it becomes its largest number
               (float16: 65504)
        out    the float tensor to fill: q's shape, that dtype, q's device
        """
        dtype = computing(self.scale.dtype) if dtype is None else dtype
        checks.float_dtype("dtype", dtype)
        if out is not None:
            kept = {"q": self.q, "scale": self.scale, "zero_point": self.zero_point}
            checks.out(out, self.shape, dtype, self.device, kept)
        r_hat = torch.empty_like(self.q, dtype=dtype) if out is None else out
        with torch.no_grad():  # no decorator: a graph takes none of an object made in it
            return self._fill(vars(self), self.scheme.granularity, r_hat)

    @staticmethod
    def _fill(parts: Parts, granularity: Granularity, r_hat: Tensor) -> Tensor:
        """The formula, on parts by name: a layer that holds them as its own calls it too."""
        held = parts["q"], parts["scale"], parts["zero_point"]
        return kernels.run(kernels.dequantize, (), *held, granularity, r_hat)


def fake_quantize(r: Tensor, scheme: Scheme = Scheme(), qparams: QParams | None = None) -> Tensor:
    """The value of quantize(r).dequantize(r.dtype), with gradients to train through.

    That of r is 1 where the code before clipping lies in the range, else 0: the straight-through
    estimator of Bengio et al. 2013, arXiv:1308.3432 (notebook 12).

    That of a given scale, if it requires one, is q - z - r / s where the code lies in the range,
    else q - z, summed over the values that share the scale: like the estimator of Esser et al.
    2020, arXiv:1902.08153, equation 3. But a value less than half a step beyond the last code
    counts as rounded, as in torch's learnable fake quantize; by equation 3 it counts as clipped.
    """
    plain, given = _checked(r, scheme), qparams
    if given is None:
        qparams = choose_qparams(plain, scheme)
    else:
        qparams = _checked_qparams(plain, scheme, given, check=True)
        checks.finite("r", plain)
    held, learning = [checks.bare(r), *qparams], None
    if given is not None and isinstance(given[0], Tensor) and given[0].requires_grad:
        learning = given[0]
        held = [x.clone() if checks.of_inference_alone(x) else x for x in held]
    return _FakeQuantize.apply(learning, *held, scheme)[0]


class _FakeQuantize(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        learning: Tensor | None, r: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme
    ) -> tuple[Tensor, Tensor, Tensor]:
        """r_hat, where the code is in the range, and the codes; `learning` is a scale that does."""
        low, high, granularity = scheme.quant_min, scheme.quant_max, scheme.granularity
        codes = low - 1, high + 1, scheme.rounding  # what lands at either end lies outside
        q = torch.empty_like(r, dtype=torch.int32)
        kernels.run(kernels.quantize, codes, r, scale, zero_point, granularity, q)
        inside = (q >= low) & (q <= high)
        q, r_hat = q.clamp(low, high), torch.empty_like(r)
        kernels.run(kernels.dequantize, (), q, scale, zero_point, granularity, r_hat)
        # In a graph torch 2.11 gives what is filled no gradient.
        return r_hat.clone() if torch.compiler.is_compiling() else r_hat, inside, q

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        (_, r, scale, zero_point, scheme), (_, inside, q) = inputs, output
        ctx.mark_non_differentiable(inside, q)
        ctx.set_materialize_grads(False)  # theirs would be zeros, as large as r
        ctx.granularity, learns = scheme.granularity, ctx.needs_input_grad[0]
        ctx.save_for_backward(inside, *((r, q, scale, zero_point) if learns else ()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return 5 * (None,)
        inside, *learning = ctx.saved_tensors
        of_scale = _scale_gradient(ctx.granularity, grad, inside, *learning) if learning else None
        return of_scale, torch.where(inside, grad, 0), None, None, None  # even an infinite gradient


def _scale_gradient(granularity: Granularity, grad: Tensor, *saved: Tensor) -> Tensor:
    """grad * (q - z - r / s, or q - z where clipped), summed over each block, in float64."""
    inside, r, q, scale, zero_point = saved
    grads, there = rows(granularity, grad.double())
    s, z = scale.reshape(-1, 1).double(), zero_point.reshape(-1, 1).double()
    codes, values, kept = (rows(granularity, x.double())[0] for x in (q, r, inside))
    slope = codes - z - torch.where(kept > 0, values / s, 0)
    return (there * grads * slope).sum(1).reshape(scale.shape).to(scale.dtype)


def _checked(r: Tensor, scheme: Scheme) -> Tensor:
    """r as a plain tensor without gradient. Raises where it cannot be quantized."""
    checks.scheme("scheme", scheme)
    r = checks.float_tensor("r", r)
    checks.scales_for(scheme.granularity, r.shape)
    return r


def _checked_qparams(
    r: Tensor, scheme: Scheme, qparams: QParams | tuple | None, check: bool
) -> QParams:
    """Given qparams, in the dtypes they are stored in."""
    dtype = computing(r.dtype)
    return QParams(*checks.qparams(qparams, scheme, r.shape, dtype, r.device, check))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(computing(x.dtype))


def _warn_if_clipped(
    r_min: Tensor, r_max: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme
) -> None:
    if not checks.readable(scale):
        return
    steps = scheme.quant_max - scheme.quant_min
    r_min, r_max = widened(r_min, r_max, steps, False, scheme.scale_dtype)
    exact = torch.round(scheme.quant_min - r_min / scale.to(r_min.dtype))
    step = stored((r_max - r_min) / r_min.new_tensor(steps), scheme.scale_dtype)
    clipped = (exact != zero_point) & ~too_small(step)
    count = int(clipped.sum())
    if not count:
        return
    i = int(clipped.flatten().nonzero()[0])
    low, high, s, z, z_exact = (
        x.flatten()[i].item() for x in (r_min, r_max, scale, zero_point, exact)
    )
    first = s * (scheme.quant_min - z)
    last = s * (scheme.quant_max - z)
    lost = f"values above {last:.4g} come back as {last:.4g}"
    if high < 0:
        lost = f"values below {first:.4g} come back as {first:.4g}"
    many = f" ({count} of {clipped.numel()} zero points; this is the first)" if count > 1 else ""
    warnings.warn(
        f"r reaches from {low:.4g} to {high:.4g}, so the zero point {z_exact:.0f} lies outside the "
        f"codes {scheme.quant_min} to {scheme.quant_max} and was clipped to {z:.0f}{many}: {lost}. "
        "include_zero=True widens the range to hold 0, at the price of a larger step.",
        ZeroPointClipped,
        stacklevel=checks.levels_to_caller(),
    )
