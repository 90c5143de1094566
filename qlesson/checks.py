"""The gate: one function per kind of bad value, and one sentence that names it and its remedy.

Nothing is repaired in silence. A function here raises, or returns what it was given, made plain.
They stand on torch alone, so every room of the package can call them; a scheme is asked for its
codes by its attributes. What only one function refuses, it refuses itself.
"""

import sys
from fnmatch import fnmatchcase
from numbers import Integral, Real

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
IDS = (torch.int64, torch.int32)  # what nn.Embedding takes


# --- a tensor of real values ---


def tensor(name, x):
    """A tensor, of whatever kind."""
    if not isinstance(x, Tensor):
        remedy = f"call {name}.dequantize()" if is_quantized(x) else f"use torch.tensor({name})"
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}: {remedy}.")


def plain(x) -> Tensor:
    """x without gradient, and of no subclass; but in a graph that is compiled all tensors are of
    one, which must stay."""
    return x.detach() if torch.compiler.is_compiling() else x.detach().as_subclass(Tensor)


def real(name, x):
    """Numbers on one line: no formula here means anything for a complex number or a truth value."""
    if isinstance(x, int | float) and not isinstance(x, bool):
        return
    dtype = x.dtype if isinstance(x, Tensor) else torch.as_tensor(x).dtype
    if dtype.is_complex:
        raise TypeError(
            f"{name} must be real, got {dtype}: take {name}.real and {name}.imag, each by itself."
        )
    if dtype == torch.bool:
        raise TypeError(
            f"{name} must hold numbers, got truth values: use {name}.float(), if 0 and 1 are meant."
        )


def float_tensor(name, r) -> Tensor:
    """A strided float tensor with values in it; without gradient, and of no subclass."""
    if is_quantized(r):
        raise TypeError(f"{name} is a QTensor already: call {name}.dequantize() first.")
    tensor(name, r)
    if r.is_nested or r.layout != torch.strided:
        kind = "nested" if r.is_nested else r.layout
        remedy = "pass one tensor at a time" if r.is_nested else f"use {name}.to_dense() first"
        raise TypeError(f"{name} has layout {kind}: {remedy}.")
    if r.dtype not in FLOATS:
        if r.is_complex():
            real(name, r)
        remedy = f"use {name}.float() first"
        raise TypeError(f"{name} must be {one_of_floats()}, got {r.dtype}: {remedy}.")
    if r.is_meta:
        raise TypeError(
            f"{name} is on the meta device and holds no values: move it to a real device."
        )
    not_empty(name, r)
    return plain(r)


def not_empty(name, r):
    """At least one value."""
    if r.numel() == 0:
        shape = tuple(r.shape)
        raise ValueError(f"{name} is empty (shape {shape}): there is no range to quantize.")


def finite(name, r):
    """No NaN and no infinity; in one more reading of r."""
    if not all_finite(*torch.aminmax(r)):
        refuse_non_finite(name, r)


def refuse_non_finite(name, r):
    """The sentence, for r in which NaN or infinity was found."""
    bad = ~torch.isfinite(r)
    first = tuple(bad.nonzero()[0].tolist())
    nans = int(torch.isnan(r).sum())
    raise ValueError(
        f"{name} holds {nans} NaN and {int(bad.sum()) - nans} infinite values, the first at index "
        f"{first}: remove or replace them first, for example with torch.nan_to_num({name})."
    )


def ascending(book) -> bool:
    """Whether a row of values is sorted; True where nobody can look."""
    return not _readable(book) or not bool((book[1:] < book[:-1]).any())


def all_finite(*tensors) -> bool:
    """Whether no value is NaN or infinite; True where nobody can look."""
    return not all(map(_readable, tensors)) or all(bool(torch.isfinite(x).all()) for x in tensors)


def _readable(x) -> bool:
    """Whether a check can read the values: not in a graph that is compiled, nor in torch.vmap."""
    if torch.compiler.is_compiling() or x.is_meta:
        return False
    try:
        x.data_ptr()
    except RuntimeError:  # inside torch.vmap
        return False
    return True


def is_quantized(x) -> bool:
    """Whether x is a QTensor, or what stands for one: codes that know how to become values."""
    return hasattr(x, "dequantize") and hasattr(x, "scheme")


def one_of_floats() -> str:
    """The float dtypes, as a sentence lists them."""
    return "torch." + ", torch.".join(_name(d) for d in FLOATS)


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")


def ends(r_min, r_max):
    """The two ends of ranges: finite, of one shape, and in order."""
    for name, x in (("r_min", r_min), ("r_max", r_max)):
        tensor(name, x)
        real(name, x)
        not_empty(name, x)
        finite(name, x)
    if r_min.shape != r_max.shape:
        raise ValueError(
            f"r_min has shape {tuple(r_min.shape)} and r_max {tuple(r_max.shape)}: pass one of "
            "each for each block."
        )
    if _readable(r_min) and _readable(r_max) and bool((r_min > r_max).any()):
        raise ValueError("r_min is larger than r_max: pass the smaller end first.")


# --- a scale and a zero point ---


def number(name, value) -> float:
    """A finite or infinite real number, as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a torch tensor, got {type(value).__name__}.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a float: pass a finite number.") from None


def qparams(given, scheme, shape, dtype, device, check=True, move=False) -> tuple[Tensor, Tensor]:
    """Scale and zero point for a tensor of this shape, in the dtypes they are stored in.

    dtype  of the scale;  check  whether to read the values where their dtypes leave a doubt
    move   take them from another device too: of a layer they are made once
    """
    try:
        scale, zero_point = given
    except (TypeError, ValueError):
        raise TypeError(
            f"qparams must be ql.QParams(scale, zero_point), got {type(given).__name__}."
        ) from None
    if not isinstance(scale, Tensor):
        scale = torch.tensor(number("scale", scale), dtype=dtype, device=device)
    if not isinstance(zero_point, Tensor):
        zero_point = torch.tensor(
            number("zero_point", zero_point), dtype=torch.float64, device=device
        )
    if move:
        scale, zero_point = scale.to(device), zero_point.to(device)
    shape_and_device(scale, zero_point, scheme.granularity, shape, device)
    scale = plain(scale).to(dtype)
    zero_point = plain(zero_point)
    if check or zero_point.dtype != scheme.dtype:
        qparams_values(scale, zero_point, scheme)
    return scale, zero_point.to(scheme.dtype)


def shape_and_device(scale, zero_point, granularity, shape, device):
    """Both in the granularity's scale shape and on the device of the tensor that they belong to."""
    expected = granularity.scale_shape(shape)
    for name, x in (("scale", scale), ("zero_point", zero_point)):
        if tuple(x.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but {granularity} on a tensor of "
                f"shape {tuple(shape)} needs {expected}: reshape it, or let "
                "ql.choose_qparams(r, scheme) make it."
            )
        if x.device != device:
            raise ValueError(
                f"{name} is on {x.device}, but the tensor is on {device}: move one of them."
            )
    if scale.dtype not in FLOATS:
        raise ValueError(f"scale must be a float tensor, got {_name(scale.dtype)}.")


def qparams_values(scale, zero_point, scheme):
    """Scales that are steps, and zero points that are codes: both read at once, and once."""
    real("zero_point", zero_point)
    if not (_readable(scale) and _readable(zero_point)):
        return
    good = (torch.isfinite(scale) & (scale > 0)).all()
    if not _every_value_is_a_code(zero_point.dtype, scheme):
        good = good & _are_codes(zero_point, scheme).all()
    if bool(good):
        return
    scales(scale)
    zero_points(zero_point, scheme)


def scales(scale, name="scale"):
    """Scales, a number or a tensor, that are steps: positive and finite."""
    real(name, scale)
    if not isinstance(scale, Tensor):
        scale = torch.as_tensor(scale, dtype=torch.float64)
    if _readable(scale) and not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"{name} must be positive and finite: pass the step in units of r.")


def zero_points(z, scheme):
    """Zero points, a number or a tensor, that are codes; 0 in a symmetric scheme."""
    real("zero_point", z)
    if isinstance(z, Tensor) and _every_value_is_a_code(z.dtype, scheme):
        return
    z = torch.as_tensor(z, dtype=torch.float64)
    if _readable(z) and not bool(_are_codes(z, scheme).all()):
        low, high = _zero_point_ends(scheme)
        wanted = "0 in a symmetric scheme" if low == high else f"an integer from {low} to {high}"
        raise ValueError(
            f"zero_point must be {wanted}, got values from {z.min().item():g} to "
            f"{z.max().item():g}."
        )


def _are_codes(z, scheme) -> Tensor:
    (low, high), z = _zero_point_ends(scheme), z.double()
    return (z >= low) & (z <= high) & (z == z.round())


def _every_value_is_a_code(dtype, scheme) -> bool:
    """Whether there is nothing to read: int8 holds the codes of 8 bits, and no others."""
    return dtype == scheme.dtype and scheme.mapping == "asymmetric" and scheme.bits in (8, 16)


def _zero_point_ends(scheme):
    return (0, 0) if scheme.mapping == "symmetric" else (scheme.quant_min, scheme.quant_max)


# --- codes, sums of codes, and ids ---


def codes(name, q, *dtypes, remedy="ql.quantize(r, scheme) makes them"):
    """A tensor of codes in one of these integer dtypes: a cast would wrap around, or cut off."""
    if not isinstance(q, Tensor) or q.dtype not in dtypes:
        kind = q.dtype if isinstance(q, Tensor) else type(q).__name__
        wanted = " or ".join(str(d) for d in dtypes)
        raise TypeError(f"{name} must hold integers in {wanted}, got {kind}: {remedy}.")


def integers(name, x):
    """A whole number, or a tensor of an integer dtype."""
    if isinstance(x, Tensor):
        good = not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
    else:
        good = isinstance(x, Integral) and not isinstance(x, bool)
    if not good:
        kind = x.dtype if isinstance(x, Tensor) else repr(x)
        raise TypeError(f"{name} must be made of integers, got {kind}: round it first.")


def ids(name, x, count):
    """Row numbers from 0 to count - 1, as nn.Embedding takes them.

    On a GPU, and while a model is compiled, the lookup itself refuses what is out of range: reading
    the ids here would wait for the GPU.
    """
    if not isinstance(x, Tensor) or x.dtype not in IDS:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be row numbers in int64 or int32, got {kind}.")
    if x.device.type != "cpu" or not _readable(x) or x.numel() == 0:
        return
    low, high = (end.item() for end in torch.aminmax(x))
    if low < 0 or high >= count:
        raise IndexError(f"{name} reach from {low} to {high}, but the rows are 0 to {count - 1}.")


# --- names ---


def fits(pattern, name, names) -> bool:
    """Whether a pattern, as in fnmatch, means this name. One that is a name means that one alone:
    "h[0]" is a layer here, and as a pattern would be "h0"."""
    return name == pattern if pattern in names else fnmatchcase(name, pattern)


# --- what is to be filled ---


def out(out, shape, dtype, device, kept):
    """A tensor that can be filled; `kept` are those that must stay as they are, by name."""
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


# --- warnings ---


def levels_to_caller() -> int:
    """The stacklevel that makes a warning point at the first line outside qlesson and torch."""
    frame, level = sys._getframe(1), 1
    inside = ("qlesson", "torch")
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    return level
