"""Scales and zero points."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from qlesson.checks.tensors import (
    FLOATS,
    dtype_name,
    holds,
    on_a_device,
    plain,
    readable,
    real,
    strided,
)
from qlesson.checks.words import Shape


def _number(name: str, value: Any) -> float:
    """A finite or infinite real number, as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a torch tensor, got {type(value).__name__}.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a float: pass a finite number.") from None


def qparams(
    given: Any,
    scheme: Any,
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    check: bool = True,
    move: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point for a tensor of this shape, in the dtypes they are stored in.

    dtype  of the scale, where the scheme names none
    check  whether to read the values where their dtypes leave a doubt
    move   take them from another device too: of a layer they are made once
    """
    try:
        scale, zero_point = given
    except (TypeError, ValueError):
        raise TypeError(
            f"qparams must be ql.QParams(scale, zero_point), got {type(given).__name__}."
        ) from None
    kept = scheme.scale_dtype
    if not isinstance(scale, Tensor):
        number = _number("scale", scale)
        scale = torch.tensor(number, dtype=kept or dtype, device=device)
        if kept and scale.item() != number and number == number:
            remedy = f"pass torch.tensor({number!r}, dtype={kept})"
            if not 0 < abs(scale.item()) < math.inf:
                remedy = "use scale_dtype=None"
            raise TypeError(
                f"scale={number!r} is no number of {kept}, the scheme's scale_dtype: {remedy}."
            )
    if not isinstance(zero_point, Tensor):
        zero_point = torch.tensor(
            _number("zero_point", zero_point), dtype=torch.float64, device=device
        )
    for name, x in (("scale", scale), ("zero_point", zero_point)):
        strided(name, x)
    if move and not (scale.is_meta or zero_point.is_meta):
        scale, zero_point = scale.to(device), zero_point.to(device)
    shape_and_device(scale, zero_point, scheme.granularity, shape, device)
    stored_as(scale, scheme)
    scale = plain(scale).to(kept or dtype)
    zero_point = plain(zero_point)
    if check or zero_point.dtype != scheme.dtype:
        qparams_values(scale, zero_point, scheme)
    return scale, zero_point.to(scheme.dtype)


def shape_and_device(
    scale: Tensor, zero_point: Tensor, granularity: Any, shape: Shape, device: torch.device
) -> None:
    """Both in the granularity's scale shape and on the device of the tensor that they belong to."""
    for name, x in (("scale", scale), ("zero_point", zero_point)):
        step_of(name, x, granularity, shape, device)


def stored_as(scale: Tensor, scheme: Any) -> None:
    """A scale in the dtype that the scheme stores scales in, if it names one."""
    if scheme.scale_dtype not in (None, scale.dtype):
        raise TypeError(
            f"scale is in {scale.dtype}, and the scheme stores scales in {scheme.scale_dtype}: "
            f"round it first, scale.to({scheme.scale_dtype}), or let ql.choose_qparams(r, scheme) "
            "make it."
        )


def step_of(name: str, x: Tensor, granularity: Any, shape: Shape, device: torch.device) -> None:
    """A scale, or a zero point, where it belongs."""
    expected = granularity.scale_shape(shape)
    if tuple(x.shape) != expected:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, but {granularity} on a tensor of shape "
            f"{tuple(shape)} needs {expected}: reshape it, or let ql.choose_qparams(r, scheme) "
            "make it."
        )
    if x.device != device:
        raise ValueError(
            f"{name} is on {x.device}, but the tensor is on {device}: move one of them."
        )
    if name == "scale" and x.dtype not in FLOATS:
        raise ValueError(f"scale must be a float tensor, got {dtype_name(x.dtype)}.")


def qparams_values(scale: Tensor, zero_point: Tensor, scheme: Any) -> None:
    """Scales that are steps, and zero points that are codes: both read at once, and once.

    And no code may stand for more than the largest float: `ql.choose_qparams` gives no such scale.
    """
    real("zero_point", zero_point)
    if not (readable(scale) and readable(zero_point)):
        return
    reached = (scale if scale.dtype == torch.float64 else scale.float()) * scheme.reach
    good = (torch.isfinite(reached) & (scale > 0)).all()
    if not _every_value_is_a_code(zero_point.dtype, scheme):
        good = good & _are_codes(zero_point, scheme).all()
    if holds(good):
        return
    scales("scale", scale)
    zero_points("zero_point", zero_point, scheme)
    raise ValueError(
        f"scale is so large that scale * {scheme.reach} is infinite in "
        f"{dtype_name(reached.dtype)}: scale r down{or_wider(scheme, scale)}."
    )


def or_wider(scheme: Any, computed: Tensor, fits_float32: bool = False) -> str:
    """What else helps where a range is too wide for the dtype of its scales."""
    stored, in_double = scheme.scale_dtype, computed.dtype is torch.float64
    if fits_float32:
        return ", or use scale_dtype=torch.float32"
    if stored in (None, torch.float64):
        return "" if in_double else ", or pass it as float64"
    return ", or use scale_dtype=None" + ("" if in_double else " and pass it as float64")


def scales_in(name: str, scale: Tensor, dtype: torch.dtype, scheme: Any) -> None:
    """Scales that in the dtype of what is to hold them are steps still, of finite codes."""
    if not readable(scale):
        return
    held = scale.to(dtype)
    reached = (held if held.dtype == torch.float64 else held.float()) * scheme.reach
    if not holds((torch.isfinite(reached) & (held > 0)).all()):
        raise ValueError(
            f"{name} has scales from {scale.min().item():g} to {scale.max().item():g}, and in "
            f"{dtype_name(dtype)}, which is to hold them, they are no steps, or codes stand for "
            "what is infinite: load them into a model of the dtype that they were saved in."
        )


def scales(name: str, scale: Any, device: torch.device | None = None) -> Tensor:
    """Scales, a number, which becomes a tensor on the device, or a tensor, that are steps: positive
    and finite."""
    real(name, scale)
    if isinstance(scale, Tensor):
        strided(name, scale)
        on_a_device(name, scale)
    else:
        number = _number(name, scale) if isinstance(scale, Real) else scale
        scale = torch.as_tensor(number, dtype=torch.float64, device=device)
    if readable(scale) and not holds((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"{name} must be positive and finite: pass the step in units of r.")
    return scale


def zero_points(name: str, z: Any, scheme: Any) -> None:
    """Zero points, a number or a tensor, that are codes; 0 in a symmetric scheme."""
    real(name, z)
    if isinstance(z, Tensor):
        strided(name, z)
        on_a_device(name, z)
    if isinstance(z, Tensor) and _every_value_is_a_code(z.dtype, scheme):
        return
    z = torch.as_tensor(z, dtype=torch.float64)
    if readable(z) and not holds(_are_codes(z, scheme).all()):
        low, high = _zero_point_ends(scheme)
        wanted = "0 in a symmetric scheme" if low == high else f"an integer from {low} to {high}"
        raise ValueError(
            f"{name} must be {wanted}, got values from {z.min().item():g} to {z.max().item():g}."
        )


def _are_codes(z: Tensor, scheme: Any) -> Tensor:
    (low, high), z = _zero_point_ends(scheme), z.double()
    return (z >= low) & (z <= high) & (z == z.round())


def _every_value_is_a_code(dtype: torch.dtype, scheme: Any) -> bool:
    """Whether there is nothing to read: int8 holds the codes of 8 bits, and no others."""
    return dtype == scheme.dtype and scheme.mapping == "asymmetric" and scheme.bits in (8, 16)


def _zero_point_ends(scheme: Any) -> tuple[int, int]:
    return (0, 0) if scheme.mapping == "symmetric" else (scheme.quant_min, scheme.quant_max)
