"""Tensors of real values, and those that are to be filled."""

from typing import Any

import torch
from torch import Tensor

from qlesson.checks.words import Shape, shown

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def tensor(name: str, x: Any) -> None:
    """A tensor, of whatever kind."""
    if not isinstance(x, Tensor):
        no_symbol(name, x)
        remedy = f"call {name}.dequantize()" if is_quantized(x) else f"use torch.tensor({name})"
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}: {remedy}.")
    not_torchs_codes(name, x)


def not_torchs_codes(name: str, x: Tensor) -> None:
    """What torch.quantize_per_tensor makes has no operation that a formula here is made of."""
    if x.is_quantized:
        raise TypeError(
            f"{name} holds torch's own codes, {x.dtype}: use {name}.dequantize(), or "
            f"{name}.int_repr() for the codes."
        )


def no_symbol(name: str, x: Any) -> None:
    """What torch.fx passes where a tensor would be; it has every attribute that is asked for."""
    if isinstance(x, torch.fx.Proxy):
        raise TypeError(
            f"{name} is a torch.fx.Proxy, since a symbolic trace has no tensors: use "
            "torch.export.export or torch.compile."
        )


def plain(x: Tensor) -> Tensor:
    """x without gradient, and of no subclass; but in a graph that is compiled all tensors are of
    one, which must stay."""
    return bare(x.detach())


def held(x: Tensor) -> Tensor:
    """x as something holds it: x itself, where it is plain."""
    return x if type(x) is Tensor and not x.requires_grad else plain(x)


def bare(x: Tensor) -> Tensor:
    """The same, with its gradient."""
    return x if type(x) is Tensor or torch.compiler.is_compiling() else x.as_subclass(Tensor)


def real(name: str, x: Any) -> None:
    """Numbers on one line: no formula here means anything for a complex number or a truth value."""
    if isinstance(x, int | float) and not isinstance(x, bool):
        return
    if isinstance(x, Tensor):
        not_torchs_codes(name, x)
    try:
        dtype = x.dtype if isinstance(x, Tensor) else torch.as_tensor(x).dtype
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be made of numbers, got {type(x).__name__}.") from None
    if dtype.is_complex:
        raise TypeError(f"{name} must be real, got {dtype}: take .real and .imag, each by itself.")
    if dtype == torch.bool:
        raise TypeError(
            f"{name} must hold numbers, got truth values: use .float(), if 0 and 1 are meant."
        )


def float_tensor(name: str, r: Any) -> Tensor:
    """A strided float tensor with values in it; without gradient, and of no subclass."""
    if is_quantized(r):
        raise TypeError(f"{name} is a {type(r).__name__} already: call {name}.dequantize() first.")
    tensor(name, r)
    strided(name, r)
    if r.dtype not in FLOATS:
        if r.is_complex():
            real(name, r)
        remedy = f"use {name}.float() first"
        raise TypeError(f"{name} must be {one_of_floats()}, got {r.dtype}: {remedy}.")
    on_a_device(name, r)
    not_empty(name, r)
    return plain(r)


def strided(name: str, x: Tensor) -> None:
    """Values that lie in memory one by one."""
    if x.is_nested or x.layout != torch.strided:
        kind = "nested" if x.is_nested else x.layout
        remedy = "pass one tensor at a time" if x.is_nested else f"use {name}.to_dense() first"
        raise TypeError(f"{name} has layout {kind}: {remedy}.")


def on_a_device(name: str, x: Tensor) -> None:
    """A tensor that holds values."""
    if x.is_meta:
        raise TypeError(
            f"{name} is on the meta device and holds no values: move it to a real device."
        )


def known(name: str, x: Any) -> None:
    """Values that a search or a choice can look at."""
    if not torch.compiler.is_compiling() and hasattr(x, "fake_mode"):
        raise TypeError(f"{name} is a fake tensor and holds no values: pass a real one.")


def numbers(name: str, x: Any) -> Tensor:
    """A tensor with real values in it, of any dtype; without gradient, and of no subclass."""
    tensor(name, x)
    real(name, x)
    strided(name, x)
    on_a_device(name, x)
    not_empty(name, x)
    return plain(x)


def same_shape(name: str, x: Tensor, other: str, y: Tensor, why: str) -> None:
    """Two tensors of one shape."""
    if x.shape != y.shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and {other} {tuple(y.shape)}: {why}. Reshape one "
            "of them."
        )


def broadcasts(name: str, x: Tensor, other: str, y: Tensor) -> None:
    """A tensor that broadcasts against another, without making it larger."""
    if x.ndim > y.ndim or any(
        n not in (1, m) for n, m in zip(reversed(x.shape), reversed(y.shape), strict=False)
    ):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, which does not broadcast against {other}'s "
            f"{tuple(y.shape)}: reshape it."
        )


def same_device(name: str, x: Tensor, other: str, y: Tensor) -> None:
    """Two tensors in one place."""
    if x.device != y.device:
        raise ValueError(f"{name} is on {x.device} and {other} on {y.device}: move one of them.")


def matrix(name: str, x: Tensor, axes: str) -> None:
    """Two axes, named as in "[out, in]"."""
    if len(x.shape) != 2:
        many = len(x.shape) > 2
        remedy = f": use {name}.flatten(0, -2)" if many else f": use {name}.reshape(...)"
        raise ValueError(f"{name} must be {axes}, got the shape {tuple(x.shape)}{remedy}.")


def last_axis(name: str, x: Tensor, length: int) -> None:
    """One value for each input of a layer."""
    if x.ndim == 0 or x.shape[-1] != length:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, but its last axis must be the layer's "
            f"in_features={length}."
        )


def layer_input(name: str, x: Any, device: torch.device | None = None) -> None:
    """What a float layer on this device takes; its values are not read."""
    tensor(name, x)
    strided(name, x)
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be {one_of_floats()}, got {x.dtype}.")
    if device is not None and x.device != device:
        raise ValueError(f"{name} is on {x.device}, and the layer on {device}: move one of them.")


def samples(name: str, x: Any) -> Tensor:
    """What a layer met, [samples, in], to compute with."""
    x = numbers(name, x)
    known(name, x)
    matrix(name, x, "[samples, in]")
    finite(name, x)
    return x


def layer_weight(weight: Any) -> Tensor:
    """A layer's weight [out, in], as a plain float tensor."""
    known("weight", weight)
    weight = float_tensor("weight", weight)
    matrix("weight", weight, "[out, in]")
    finite("weight", weight)
    return weight


def layer(weight: Any, inputs: Any) -> tuple[Tensor, Tensor]:
    """A layer's weight [out, in] and its inputs [samples, in], as plain float tensors."""
    weight = layer_weight(weight)
    known("inputs", inputs)
    inputs = float_tensor("inputs", inputs)
    matrix("inputs", inputs, "[samples, in]")
    finite("inputs", inputs)
    if weight.shape[1] != inputs.shape[1]:
        raise ValueError(
            f"weight has {weight.shape[1]} columns and inputs have {inputs.shape[1]}: both need "
            "one for each input of the layer. A weight stored as [in, out] needs weight.T."
        )
    same_device("weight", weight, "inputs", inputs)
    return weight, inputs


def not_empty(name: str, r: Tensor) -> None:
    """At least one value."""
    if r.numel() == 0:
        shape = tuple(r.shape)
        raise ValueError(f"{name} is empty (shape {shape}): pass at least one value.")


def finite(name: str, r: Tensor) -> None:
    """No NaN and no infinity; in one more reading of r."""
    if not all_finite(*torch.aminmax(r)):
        refuse_non_finite(name, r)


def refuse_non_finite(name: str, r: Tensor) -> None:
    """The sentence, for r in which NaN or infinity was found."""
    bad = ~torch.isfinite(r)
    first = tuple(bad.nonzero()[0].tolist())
    nans = int(torch.isnan(r).sum())
    raise ValueError(
        f"{name} holds {nans} NaN and {int(bad.sum()) - nans} infinite values, the first at index "
        f"{first}: remove or replace them first, for example with torch.nan_to_num({name})."
    )


def ascending(book: Tensor) -> bool:
    """Whether a row of values is sorted; True where nobody can look."""
    return not readable(book) or holds((book[1:] >= book[:-1]).all())


def all_finite(*tensors: Tensor) -> bool:
    """Whether no value is NaN or infinite; True where nobody can look."""
    return not all(map(readable, tensors)) or all(holds(torch.isfinite(x).all()) for x in tensors)


def readable(x: Tensor) -> bool:
    """Whether a check can read the values: not in a graph that is compiled, nor in torch.vmap, nor
    those of a fake tensor."""
    if torch.compiler.is_compiling() or x.is_meta or hasattr(x, "fake_mode"):
        return False
    try:
        x.data_ptr()
    except RuntimeError:  # inside torch.vmap
        return False
    return True


def holds(condition: Any) -> bool:
    """Whether a condition, a tensor, is true; True where nobody can look."""
    return not readable(condition) or bool(condition)


def is_quantized(x: Any) -> bool:
    """Whether x is a QTensor, Blocks, or what stands for one: codes that become values."""
    coded = hasattr(x, "bits_per_value") and hasattr(x, "dequantize")
    return coded and not isinstance(x, (type, torch.fx.Proxy))


def float_dtype(name: str, dtype: Any) -> None:
    """One of the float dtypes that values come in."""
    if dtype not in FLOATS:
        raise ValueError(f"{name} must be {one_of_floats()}, got {shown(dtype)}.")


def one_of_floats() -> str:
    """The float dtypes, as a sentence lists them."""
    return "torch." + ", torch.".join(dtype_name(d) for d in FLOATS)


def dtype_name(dtype: torch.dtype) -> str:
    """float32, where torch writes torch.float32."""
    return str(dtype).removeprefix("torch.")


def ends(r_min: Any, r_max: Any) -> None:
    """The two ends of ranges: finite, of one shape, and in order."""
    for name, x in (("r_min", r_min), ("r_max", r_max)):
        finite(name, numbers(name, x))
    same_shape("r_min", r_min, "r_max", r_max, "each block has one of each")
    same_device("r_min", r_min, "r_max", r_max)
    if readable(r_min) and readable(r_max) and not holds((r_min <= r_max).all()):
        raise ValueError("r_min is larger than r_max: pass the smaller end first.")


# --- what is to be filled ---


def out(
    out: Any, shape: Shape, dtype: torch.dtype, device: torch.device, kept: dict[str, Tensor]
) -> None:
    """A tensor that can be filled; `kept` are those that must stay as they are, by name."""
    tensor("out", out)
    strided("out", out)

    def remedy() -> str:
        return f"use torch.empty({tuple(shape)}, dtype={dtype}, device={str(device)!r})."

    for what, got, wanted in (
        ("shape", tuple(out.shape), tuple(shape)),
        ("dtype", out.dtype, dtype),
        ("device", out.device, device),
    ):
        if got != wanted:
            raise ValueError(f"out has {what} {got}, but needs {wanted}: {remedy()}")
    if out.requires_grad:
        raise ValueError("out requires a gradient, and filling it has none: pass out.detach().")
    if of_inference_alone(out):
        raise ValueError(
            f"out was made in torch.inference_mode(), and can be filled there alone: {remedy()}"
        )
    if not out.is_contiguous() and _may_overlap_itself(out):
        expanded = any(n > 1 and step == 0 for n, step in zip(out.shape, out.stride(), strict=True))
        how = "is expanded" if expanded else "overlaps itself"
        raise ValueError(f"out {how}, so its elements share memory: {remedy()}")
    met = _overlapped(out, kept)
    if met is not None:
        raise ValueError(f"out shares memory with {met}, which must stay as it is: {remedy()}")


def of_inference_alone(x: Tensor) -> bool:
    """Whether x was made in inference mode, and this is none: autograd cannot take it."""
    if torch.compiler.is_compiling():
        return False  # nobody can ask there
    return x.is_inference() and not torch.is_inference_mode_enabled()


def _may_overlap_itself(x: Tensor) -> bool:
    """Whether some stride steps into the elements that the smaller strides reach."""
    reached = 0
    for step, n in sorted((s, n) for n, s in zip(x.shape, x.stride(), strict=True) if n > 1):
        if step <= reached:
            return True
        reached += (n - 1) * step
    return False


def _overlapped(out: Tensor, kept: dict[str, Tensor]) -> str | None:
    """The first of `kept`, on out's device, whose range of addresses meets out's; None where nobody
    can look."""
    if not readable(out):
        return None
    try:
        start, end = _ends(out)
        for name, x in kept.items():
            first, last = _ends(x)
            if start < last and first < end:
                return name
    except RuntimeError:  # inside torch.vmap
        pass
    return None


def _ends(x: Tensor) -> tuple[int, int]:
    """The addresses between which x's values lie."""
    start = x.data_ptr()
    if x.is_contiguous():  # asked at once, since the caches are cold where a tensor is large
        return start, start + x.nbytes
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return start, start + (last + 1) * x.element_size()
