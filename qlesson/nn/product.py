"""Inputs times the codes of a layer, packed as they are: x W_hat^T.

    weight-only      y = sum_g s_g sum_{k in g} x (q - z), or with a minimum m_g in the place of
                     -s_g z: float sums, within n eps of float64 where the sum of x (q - z) over
                     32 neighbours, which the scale follows, is not beyond float32. Compiled, an x
                     that is one of few may lose about 2^-23 of the largest of the 32 neighbours it
                     is in (2^-22 where codes of up to 4 bits are unsigned and have no offset), in
                     bfloat16 2^-15, or 2^-127 where that is more; on a GPU what is infinite, or
                     sums to it over 32 neighbours, may become NaN beside a minimum
    8-bit inputs     y = sum_g float(acc_g) (s_x s_g), g ascending, where acc_g is exact in int32:
                     the same bits on every path

`qlesson.kernels.product` reads packed codes as they lie. Here stands what decides on it, and what
runs without it, on some rows of W_hat at a time, so that a whole W_hat is never made. Both are for
plain QTensors and Blocks in PerTensor(), PerAxis(0) or groups along the inputs. Others (16 bits,
scales along the other axis, subclasses of Blocks) and inputs that need a gradient take W_hat whole.
"""

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, is_autocast_enabled, is_grad_enabled
from torch.compiler import is_compiling

from qlesson import kernels
from qlesson.affine import computing, rounded
from qlesson.blocks import Blocks
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.kernels import modes, product
from qlesson.kernels.compilers import is_followed, lies_in_memory
from qlesson.kernels.product import FLOATS, Packed, Prepared
from qlesson.nn.integer import four_terms, int8_codes
from qlesson.nn.weight import QuantizedWeight
from qlesson.qtensor import QTensor
from qlesson.scheme import Scheme

TILE, TILE_CUDA = 2**20, 2**24  # values of W_hat at a time; on a GPU each operation is a launch
# What each weight is for the kernel, by its id, for as long as it lives: asking a WeakKeyDictionary
# takes a thirtieth of a small product's time.
_held: dict[int, Any] = {}


def at_once(
    x: object, codes: QuantizedWeight, bias: Tensor | None, scheme: Scheme | None
) -> Tensor | None:
    """`linear`, or with a scheme `quantized_linear`, where the kernel takes x as it is.

    None where anything is left to be asked, checked or made.
    """
    if is_compiling() or type(x) is not Tensor or not x.is_cpu or x.dtype not in FLOATS:
        return None
    if is_autocast_enabled("cpu") or is_followed():
        return None
    if is_grad_enabled() and (
        x.requires_grad or (bias is not None and bias.requires_grad) or _learns(codes)
    ):
        return None
    ready = _found(codes)
    if ready is None or (scheme is not None and not product.quantizes(scheme)):
        return None
    return product.at_once(x, ready, bias, scheme)


def _learns(codes: QuantizedWeight) -> bool:
    """Whether a scale or a minimum is to; the layer then refuses it."""
    parts: dict[str, Any] = codes._buffers
    minimum = parts.get("minimum")
    return parts["scale"].requires_grad or (minimum is not None and minimum.requires_grad)


def linear(x: Tensor, codes: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """x W_hat^T + b in x's dtype, for float x [..., inputs] on the codes' device."""
    ready = _prepared(codes)
    w = packed_of(codes) if ready is None else ready.of
    if w is None or (x.requires_grad and torch.is_grad_enabled()):
        return F.linear(x, codes.values(x.dtype), _rounded(bias, x.dtype))
    casts = not x.is_meta and torch.is_autocast_enabled(x.device.type)  # torch knows none of meta's
    if casts and x.dtype is not torch.float64:  # as F.linear
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _product(x, w, ready, bias, _is_added_later(bias))


def _product(
    x: Tensor, w: Packed, ready: Prepared | None, bias: Tensor | None, later: bool = False
) -> Tensor:
    """x W_hat^T + b in x's dtype, by what there is; `later` adds the bias to a finished product."""
    given = (x.to(computing(x.dtype)), None) if later else (x, bias)
    y = None
    if torch.compiler.is_compiling():
        y = _linear(*given, *w)
    elif ready is not None and product.runs(x, ready.nbytes):
        y = product.linear(given[0], ready, given[1])
    if y is None:
        y, later = _by_triton(x, w), True
        if y is None:
            return _in_tiles(x, w, _rounded(bias, x.dtype))
    y = y + bias if later and bias is not None else y
    return y if y.dtype == x.dtype else rounded(y, x.dtype)


def _is_added_later(bias: Tensor | None) -> bool:
    """Since it learns, or a transform of torch.func holds it, or it has more digits than the kernel
    adds, the kernel is not to see it."""
    if bias is None:
        return False
    if (bias.requires_grad and torch.is_grad_enabled()) or bias.dtype is torch.float64:
        return True
    return not torch.compiler.is_compiling() and not lies_in_memory(bias)


def quantized_linear(
    x: Tensor, codes: QuantizedWeight, scheme: Scheme, bias: Tensor | None
) -> Tensor | None:
    """x, quantized in its own range, times W_hat^T, plus b, in x's dtype: the bits of its steps.

    None where the kernel does not run, or the steps have to say what is wrong with x.
    """
    ready = _prepared(codes)
    if ready is None or _is_added_later(bias) or not product.quantizes(scheme):
        return None
    if not product.runs(x, ready.nbytes):
        return None
    y = product.quantized_linear(x, ready, scheme, bias)
    return y if y is None or y.dtype == x.dtype else rounded(y, x.dtype)


def int_linear(x: QTensor, codes: QuantizedWeight) -> Tensor:
    """s_x s_w sum_k (x - z_x)(w - z_w), summed over the groups: float [tokens, outputs]."""
    w = packed_of(codes)
    assert w is not None  # the layer has refused the others
    q_x, z_x = int8_codes(x.q, x.zero_point)
    inputs = q_x, x.scale.to(computing(x.scale.dtype)).view(-1, 1), z_x.view(-1, 1)
    if torch.compiler.is_compiling():
        return _int_linear(*inputs, *w)
    return _int_product(*inputs, w, _prepared(codes))


def rows_at_once(ids: object, codes: QuantizedWeight) -> Tensor | None:
    """`rows` for numbers [...], where the kernel takes them as they are, and they are of rows."""
    if torch.compiler.is_compiling() or type(ids) is not Tensor or ids.dtype is not torch.int64:
        return None
    if not ids.is_cpu or is_followed() or (torch.is_grad_enabled() and _learns(codes)):
        return None
    ready, like = _found(codes), codes._buffers["like"]
    if ready is None or like is None:
        return None
    return product.rows_at_once(ids, ready, like.dtype)


def rows(ids: Tensor, codes: QuantizedWeight) -> Tensor:
    """W_hat of the rows with these numbers [n], which were checked: no others are unpacked."""
    ready, dtype = _prepared(codes), codes.like.dtype
    found = None
    if ready is not None and dtype in product.FLOATS:
        if product.runs(ids, len(ids) * codes.packed.shape[1]):
            found = product.rows(ids.to(torch.int64), ready, dtype)
    return codes.rows(ids) if found is None else found


def accumulators(x: QTensor, codes: QuantizedWeight) -> Iterator[Tensor]:
    """One int32 sum [tokens, outputs] per group of columns; without groups there is one."""
    w = packed_of(codes)
    assert w is not None
    return _accumulators(*int8_codes(x.q, x.zero_point), w)


def groups(codes: QuantizedWeight) -> list[slice]:
    """The columns that share a scale in each row."""
    _, size = codes.granularity.block_shape(codes.shape)
    return _slices(codes.shape[1], size)


def packed_of(codes: QuantizedWeight) -> Packed | None:
    """The codes as the kernel takes them; None for a weight that is not among those above."""
    granularity = codes.granularity
    if codes.bits > 8 or not codes.by_rows or codes.kind not in (QTensor, Blocks):
        return None
    if type(granularity) is PerAxis and granularity not in (PerAxis(0), PerAxis(-2)):
        return None
    offset = codes.zero_point if codes.has_scheme else codes.minimum
    scale = codes.scale
    if type(granularity) is PerTensor:
        scale = scale.view(1, 1)
        offset = None if offset is None else offset.view(1, 1)
    size = granularity.block_shape(codes.shape)[1]
    return Packed(codes.packed, scale, offset, codes.bits, codes.signed, codes.shape[1], size)


def _prepared(codes: QuantizedWeight) -> Prepared | None:
    """The same for the kernel, found once; again when a buffer is another, or lies elsewhere. None
    where torch follows each operation."""
    return None if torch.compiler.is_compiling() or is_followed() else _found(codes)


def _found(codes: QuantizedWeight) -> Prepared | None:
    """The tensors, and where they lie, say whether they are those of before: another view may
    begin at the same place."""
    parts: dict[str, Any] = codes._buffers
    offset = parts.get("zero_point")
    if offset is None:
        offset = parts.get("minimum")
    packed, scale = parts["packed"], parts["scale"]
    lie = packed.data_ptr(), scale.data_ptr(), offset is not None and offset.data_ptr()
    held = _held.get(id(codes))
    if held is not None and held[0] is packed and held[1] is scale and held[2] is offset:
        if held[3] == lie:
            return held[4]
    w = packed_of(codes)
    ready = None if w is None else product.prepared(w)
    read = [x for x in (packed, scale, offset) if x is not None]
    if all(x.is_contiguous() for x in read):  # else the kernel reads copies of what they are now
        forget = ref(codes, partial(_forget, id(codes)))
        _held[id(codes)] = packed, scale, offset, lie, ready, forget
    return ready


def _forget(weight: int, _: object) -> None:
    _held.pop(weight, None)


# --- as single operations of a graph, which then holds no loop over rows ---
@torch.library.custom_op("qlesson::linear", mutates_args=())
def _linear(
    x: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    bits: int,
    signed: bool,
    width: int,
    group_size: int,
) -> Tensor:
    w = Packed(packed, scale, offset, bits, signed, width, group_size)
    return _product(x, w, product.prepared(w), bias)


@_linear.register_fake
def _(x: Tensor, bias: Tensor | None, packed: Tensor, *rest: object) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(packed))


@torch.library.custom_op("qlesson::int_linear", mutates_args=())
def _int_linear(
    q_x: Tensor,
    s_x: Tensor,
    z_x: Tensor,
    packed: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    bits: int,
    signed: bool,
    width: int,
    group_size: int,
) -> Tensor:
    w = Packed(packed, scale, offset, bits, signed, width, group_size)
    return _int_product(q_x, s_x, z_x, w, product.prepared(w))


@_int_linear.register_fake
def _(q_x: Tensor, s_x: Tensor, z_x: Tensor, packed: Tensor, *rest: object) -> Tensor:
    return s_x.new_empty(q_x.shape[0], len(packed))


# --- on a GPU ---
def _by_triton(x: Tensor, w: Packed) -> Tensor | None:
    """x W_hat^T for x [..., width], or None where Triton's kernels are not for it."""
    m = x.numel() // w.width
    if (gpu := _triton(w)) and m <= gpu.MOST and gpu.runs(m, x, w):
        with modes.or_eagerly():
            return gpu.linear(x.reshape(-1, w.width), w).view(*x.shape[:-1], -1)
    return None


def _int_by_triton(q_x: Tensor, s_x: Tensor, z_x: Tensor, w: Packed) -> Tensor | None:
    """For many inputs too where sums end with each group: eagerly each is a product of its own."""
    m, groups = len(q_x), w.scale.shape[1]
    if (gpu := _triton(w)) and (m <= gpu.MOST or groups > 1) and gpu.runs(m, s_x, w):
        scale, zero_point = (p.flatten().expand(len(q_x)) for p in (s_x, z_x))
        with modes.or_eagerly():
            return gpu.int_linear(q_x, scale, zero_point, w)
    return None


def _triton(w: Packed) -> Any:
    """The kernels for the GPU on which the codes lie."""
    if w.packed.device.type != "cuda":
        return None
    try:
        return importlib.import_module("qlesson.kernels.product_triton")
    except ImportError:
        return None


# --- what runs without a kernel ---
def _in_tiles(x: Tensor, w: Packed, bias: Tensor | None) -> Tensor:
    parts = [
        F.linear(x, _values(w.rows(rows), x.dtype), None if bias is None else bias[rows])
        for rows in _tiles(w)
    ]
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def _values(w: Packed, dtype: torch.dtype) -> Tensor:
    """W_hat, as `dequantize` gives it."""
    q = w.codes()
    shape = (len(q), w.scale.shape[1])
    scale, offset = w.scale.expand(shape), w.offset
    by_minimum = offset is not None and offset.is_floating_point()
    formula = kernels.dequantize_blocks if by_minimum else kernels.dequantize
    if offset is None:
        offset = torch.zeros_like(scale, dtype=q.dtype)
    r_hat = torch.empty_like(q, dtype=dtype)
    steps = scale.contiguous(), offset.expand(shape).contiguous()
    return kernels.run(formula, (), q, *steps, PerGroup(w.group_size), r_hat)


def _int_product(
    q_x: Tensor, s_x: Tensor, z_x: Tensor, w: Packed, ready: Prepared | None
) -> Tensor:
    found = None
    if ready is not None and product.runs(s_x, ready.nbytes):
        scale, zero_point = (p.flatten().expand(len(q_x)) for p in (s_x, z_x))
        found = product.int_linear(q_x, scale, zero_point, ready)
    if found is None:
        found = _int_by_triton(q_x, s_x, z_x, w)
    if found is not None:
        return found
    parts = []
    for rows in _tiles(w):
        part = w.rows(rows)
        s_w, y = part.scale.to(s_x.dtype), torch.zeros((), dtype=s_x.dtype, device=s_x.device)
        for i, acc in enumerate(_accumulators(q_x, z_x, part)):
            y = y + acc.to(s_x.dtype) * (s_x * s_w[:, i])
        parts.append(y)
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _accumulators(q_x: Tensor, z_x: Tensor, w: Packed) -> Iterator[Tensor]:
    q = w.codes()
    offset = torch.zeros_like(w.scale, dtype=q.dtype) if w.offset is None else w.offset
    q_w, z_w = int8_codes(q, offset)
    for i, columns in enumerate(_slices(w.width, w.group_size)):
        yield four_terms(q_x[:, columns], z_x, q_w[:, columns], z_w[:, i]).total()


def _tiles(w: Packed) -> list[slice]:
    values = TILE_CUDA if w.packed.is_cuda else TILE
    return _slices(len(w.packed), max(1, values // w.width))


def _slices(n: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _rounded(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else rounded(bias, dtype)
