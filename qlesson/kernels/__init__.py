"""How a formula runs: in which pieces, eager or compiled (notebook 13).

There is one formula, in `qlesson.affine`. Eager runs it one operation at a time, on pieces that
stay in the cache; compiled, it is one loop: by hand where torch.compile's is far from the floor
(loops.cpp on a processor, loops_triton.py on a GPU), else torch.compile's. All give the same
bits.
"""

import ctypes
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from qlesson.affine import QParams
from qlesson.granularity import Granularity, in_memory, is_known
from qlesson.kernels import loops
from qlesson.kernels.compilers import Constants, Formula, _compiled
from qlesson.kernels.loops import dequantize, dequantize_blocks, quantize, quantize_blocks
from qlesson.kernels.modes import ROW, _compiles, or_eagerly, use_kernels
from qlesson.kernels.pieces import COMPILED_PIECE, COPIED_PIECE, EAGER_PIECE, _eager_piece, cut
from qlesson.scheme import Scheme

__all__ = [
    "EAGER_PIECE",
    "choose",
    "choose_and_quantize",
    "dequantize",
    "dequantize_blocks",
    "in_pieces",
    "min_max",
    "quantize",
    "quantize_blocks",
    "run",
    "use_kernels",
]


# --- a formula with given scale and zero point, both in the granularity's scale shape ---
def run(
    formula: Formula,
    constants: Constants,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    granularity: Granularity,
    out: Tensor,
) -> Tensor:
    """Fill `out` with what a formula makes of x: `quantize` its codes, `dequantize` its values.

    constants  the last arguments of the formula; a loop knows them when it is compiled
    """
    work = (formula, constants, x, scale, zero_point, granularity, out)
    if torch.compiler.is_compiling():
        return _traced(*work)
    if is_known(granularity) and _compiles(formula, constants, x, scale, zero_point, out):
        with or_eagerly():
            return _in_loops(*work)
    return in_pieces(*work)


def in_pieces(
    formula: Formula,
    constants: Constants,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    granularity: Granularity,
    out: Tensor,
) -> Tensor:
    """One operation at a time, on pieces that stay in the cache."""
    for where, home in cut(x, granularity, _eager_piece(x)):
        piece = (x[where], scale[home], zero_point[home], granularity, out[where])
        _eager(formula, constants, *piece)
    return out


def _eager(
    formula: Formula,
    constants: Constants,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    granularity: Granularity,
    out: Tensor,
) -> None:
    """A piece of few values, one operation at a time."""
    scale, zero_point = granularity.align(scale), granularity.align(zero_point)
    blocks = granularity.split(out)
    formula(granularity.split(x), scale, zero_point, blocks, *constants)
    if not is_known(granularity):  # the reader's own may fill up a short group, which copies
        out.copy_(granularity.join(blocks, out.shape))


def _traced(
    formula: Formula,
    constants: Constants,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    granularity: Granularity,
    out: Tensor,
) -> Tensor:
    """The same in one piece, for the graph of a model that is compiled or exported whole."""
    blocks = granularity.split(x)
    filled = torch.empty_like(blocks, dtype=out.dtype)
    formula(blocks, granularity.align(scale), granularity.align(zero_point), filled, *constants)
    return out.copy_(granularity.join(filled, x.shape))


def _in_loops(
    formula: Formula,
    constants: Constants,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    granularity: Granularity,
    out: Tensor,
) -> Tensor:
    """One loop for a piece; a short piece costs less eagerly than a compiled call does."""
    for r, s, z, target in _straight_pieces(x, scale, zero_point, granularity, out):
        if r.numel() < 2 * ROW:
            _eager(formula, constants, r, s, z, granularity, target)
            continue
        straight = target
        if not target.is_contiguous():
            straight = torch.empty(target.shape, dtype=out.dtype, device=out.device)
        tensors = rows(r.contiguous(), s, z, granularity, straight)
        _loop(formula, constants, *tensors)()
        rest = slice(tensors[0].numel(), None)  # with one scale for all: what is no whole row
        if rest.start < r.numel():
            left = r.reshape(-1)[rest], s.view(()), z.view(()), straight.view(-1)[rest]
            formula(*left, *constants)
        if straight is not target:
            target.copy_(straight)
    increment_version(out)  # autograd does not see what is written at an address
    return out


def _straight_pieces(
    x: Tensor, scale: Tensor, zero_point: Tensor, granularity: Granularity, out: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Pieces of (x, scale, zero_point, out): large where x and out lie straight in memory, else
    small, so that their copies stay in the cache."""
    straight = x.is_contiguous() and out.is_contiguous()
    if straight and x.numel() <= COMPILED_PIECE and in_memory(granularity, x) is not None:
        yield x, scale, zero_point, out
        return
    for where, home in cut(x, granularity, COMPILED_PIECE):
        piece = x[where], scale[home], zero_point[home], out[where]
        if piece[0].is_contiguous() and piece[-1].is_contiguous():
            yield piece
            continue
        r, s, z, q = piece
        for here, its in cut(r, granularity, COPIED_PIECE):
            yield r[here], s[its], z[its], q[here]


def rows(
    x: Tensor, scale: Tensor, zero_point: Tensor, granularity: Granularity, out: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, scale, zero_point, out) as a loop takes them: [m, n] with a scale for each row, or
    [m, n, c] with a scale for each (m, c).

    One scale for all is repeated for rows of `ROW` values; what is no whole row is left over.
    """
    blocks = in_memory(granularity, x)
    if scale.numel() == 1:
        n = x.numel() // ROW
        blocks = x.view(-1)[: n * ROW].view(n, ROW)
        out = out.view(-1)[: n * ROW]
    assert blocks is not None  # x lies straight, and all its groups are of one length
    if blocks.ndim == 3:
        shape = (blocks.shape[0], 1, blocks.shape[2])
        return blocks, scale.reshape(shape), zero_point.reshape(shape), out.view(blocks.shape)
    times = blocks.shape[0] // scale.numel()
    scale, zero_point = scale.reshape(-1, 1), zero_point.reshape(-1, 1)
    if times > 1:
        scale, zero_point = scale.repeat(times, 1), zero_point.repeat(times, 1)
    return blocks, scale, zero_point, out.view(blocks.shape)


# --- ranges, and ranges and codes at once ---
def min_max(r: Tensor, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each block, in the granularity's scale shape.

    A NaN makes both of its block NaN, so whoever looks for NaN and infinity looks here.
    """
    shape = granularity.scale_shape(r.shape)
    if not torch.compiler.is_compiling():
        if math.prod(shape) == 1 and is_known(granularity):
            r_min, r_max = _min_max_of_all(r)
            return r_min.view(shape), r_max.view(shape)
        blocks = _own_blocks(r, granularity, shape)
        if blocks is not None and _compiles(loops.min_max, (), r):
            with or_eagerly():
                r_min, r_max = _loop(loops.min_max, (), blocks)()
                return r_min.view(shape), r_max.view(shape)
    return granularity.reduce(torch.amin, r), granularity.reduce(torch.amax, r)


def _min_max_of_all(r: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of r: of rows, then of what the rows gave."""
    n = r.numel() // ROW * ROW
    if n and r.is_contiguous() and _compiles(loops.min_max, (), r):
        with or_eagerly():
            ends = _loop(loops.min_max, (), r.view(-1)[:n].view(-1, ROW))()
            r = torch.cat([*ends, r.view(-1)[n:]])
    return torch.aminmax(r)


def choose(r: Tensor, scheme: Scheme) -> QParams | None:
    """Scale and zero point in one reading of r and one wait; None where that is not to be.

    It is for a GPU, where each operation of the eager formula is a launch: for any blocks in
    memory, ranges that hold 0, and values and scales that are finite.
    """
    if torch.compiler.is_compiling() or _is_literal(scheme) or not _on_gpu(r):
        return None
    shape, codes = scheme.granularity.scale_shape(r.shape), (scheme.quant_min, scheme.quant_max)
    blocks = _own_blocks(r, scheme.granularity, shape)
    constants = (*codes, scheme.mapping, scheme.include_zero, scheme.scale_dtype)
    if blocks is None or not _compiles(loops.choose, constants, r):
        return None
    chosen, steps = _room(r, scheme, shape, blocks)
    with or_eagerly():
        _loop(loops.choose, constants, _held(codes, r.device), blocks, *steps)()
        return chosen if _fits(chosen, scheme) else None
    return None


def choose_and_quantize(
    r: Tensor, scheme: Scheme, out: Tensor, may_fill: Callable[[], bool]
) -> QParams | None:
    """Fill `out`, scale and zero point together; None where that is not to be.

    may_fill  asked where it is to be, before `out` is written

    It is for compiled blocks, on a processor for at least 64, and for a range that holds 0: a
    literal one may call for a warning, which needs its ends. And for values and scales that are
    finite: saying what is wrong is the caller's.
    """
    if torch.compiler.is_compiling() or _is_literal(scheme) or not out.is_contiguous():
        return None
    shape = scheme.granularity.scale_shape(r.shape)
    blocks = _own_blocks(r, scheme.granularity, shape)
    if blocks is None or (math.prod(shape) < 64 and not _on_gpu(r)):
        return None
    codes = scheme.quant_min, scheme.quant_max
    constants = (*codes, scheme.rounding, scheme.mapping, scheme.include_zero, scheme.scale_dtype)
    if not _compiles(loops.choose_and_quantize, constants, r, out) or not may_fill():
        return None
    chosen, steps = _room(r, scheme, shape, blocks)
    tensors = blocks, *steps, out.view(blocks.shape)
    with or_eagerly():
        largest = _loop(loops.choose_and_quantize, constants, _held(codes, r.device), *tensors)()
        increment_version(out)
        if isinstance(largest, float):  # of a block with NaN or infinity it is infinite
            fits = math.isfinite(ctypes.c_float(largest * scheme.reach).value)
        else:
            fits = _fits(chosen, scheme)
        return chosen if fits else None
    return None


def _is_literal(scheme: Scheme) -> bool:
    return scheme.mapping == "asymmetric" and not scheme.include_zero


def _on_gpu(r: Tensor) -> bool:
    return r.is_cuda


def _room(
    r: Tensor, scheme: Scheme, shape: tuple[int, ...], blocks: Tensor
) -> tuple[QParams, tuple[Tensor, Tensor]]:
    """Scale and zero point of this shape, to be filled; and both with the axes of blocks."""
    one_each = (blocks.shape[0], 1, *blocks.shape[2:])
    scale = r.new_empty(shape, dtype=scheme.scale_dtype or torch.float32)
    zero_point = r.new_empty(shape, dtype=scheme.dtype)
    return QParams(scale, zero_point), (scale.view(one_each), zero_point.view(one_each))


def _fits(chosen: QParams, scheme: Scheme) -> bool:
    return math.isfinite(chosen.scale.amax().float() * scheme.reach)


@cache  # since the caches are cold where a tensor is large
def _held(codes: tuple[int, int], device: torch.device) -> Tensor:
    """As numbers the compiler would know them, and on a GPU multiply by 1 / 255."""
    return torch.tensor(codes, dtype=torch.float32, device=device)


def _own_blocks(r: Tensor, granularity: Granularity, shape: tuple[int, ...]) -> Tensor | None:
    """The blocks of r in memory, where each has a scale of its own, of scales in this shape."""
    blocks = in_memory(granularity, r)
    if blocks is None or blocks.ndim == 3:
        return blocks
    return blocks if blocks.shape[0] == math.prod(shape) else None


def _loop(formula: Formula, constants: Constants, *tensors: Tensor) -> Callable[[], Any]:
    """The compiled formula, to be called; it is compiled for each kind of tensors once."""
    kinds = tuple([(t.dtype, t.ndim) for t in tensors])
    kernel = _compiled(formula, constants, kinds, tensors[0].device.type)
    torch.get_num_threads()  # sets it too: a new thread of Python has OpenMP's own number
    return partial(kernel, *[x.contiguous() for x in tensors])
