"""How a formula runs: in which pieces, eager or compiled (notebook 12).

There is one formula, in `qlesson.affine`. Eager runs it one operation at a time, on pieces that
stay in the cache; compiled, it is one loop: by hand where torch.compile's is far from the floor
(loops.cpp on a processor, loops_triton.py on a GPU), else torch.compile's. All give the same
bits.
"""

import math
import warnings
from collections import Counter

import torch
from torch import Tensor

from qlesson import ranges
from qlesson.checks import levels_to_caller
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.kernels.compilers import _bare, _compiled, _lies_in_memory
from qlesson.kernels.loops import _choose_and_quantize, _dequantize, _min_max, _quantize
from qlesson.kernels.pieces import COMPILED_PIECE, COPIED_PIECE, EAGER_PIECE, _eager_piece, cut

# One scale for all is repeated for rows of this many values, so that every core has some rows; a
# tensor of less than two rows costs less than a compiled call does, and runs eagerly.
ROW = 1024
# "auto" runs eagerly until so many values went through one formula. On two cores compiling takes
# 5 to 10 s and saves 0.5 ns a value; on an H100, by stored trials, about 0.01 ns.
PAYS_OFF = {"cpu": 2**34, "cuda": 2**38}

MODES = ("auto", "eager", "compiled")

_state = {"mode": "auto", "broken": False}
_seen = Counter()  # how many values "auto" sent through each formula


class use_kernels:
    """Choose how the formulas run: from now on, or inside a `with` block (notebook 12).

    "eager"     one operation of torch at a time, in pieces that stay in the cache
    "compiled"  the same formula as one loop; the first call of each kind waits some seconds for a
                C++ compiler (a CPU) or for Triton (CUDA)
    "auto"      eager, until so many values went through one formula that compiling pays off

    The mode is one for the whole process: `with` blocks in several threads at once mix it up, and
    change nothing but the time. The results are the same, bit for bit. float64 runs eagerly in
    every mode, and so does everything, after one warning, where there is no compiler.

    Raises ValueError for another word.
    """

    def __init__(self, mode: str):
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}.")
        self.mode = mode
        self._before, _state["mode"] = _state["mode"], mode

    def __enter__(self):
        _state["mode"] = self.mode
        return self

    def __exit__(self, *error):
        _state["mode"] = self._before


# --- the jobs; scale and zero_point have the granularity's scale shape ---
def quantize(r, scale, zero_point, granularity, out, quant_min, quant_max, rounding) -> Tensor:
    """Fill `out` with the codes of r."""
    constants = (quant_min, quant_max, rounding)
    if torch.compiler.is_compiling():
        return _traced(_quantize, constants, r, scale, zero_point, granularity, out)
    return _run(_quantize, constants, r, scale, zero_point, granularity, out)


def dequantize(q, scale, zero_point, granularity, out) -> Tensor:
    """Fill `out` with the values of the codes q, in out's float dtype."""
    if torch.compiler.is_compiling():
        return _traced(_dequantize, (), q, scale, zero_point, granularity, out)
    return _run(_dequantize, (), q, scale, zero_point, granularity, out)


def min_max(r, granularity) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each block: `ranges.min_max`, in one reading of r."""
    if torch.compiler.is_compiling():
        return ranges.min_max(r, granularity)
    shape = granularity.scale_shape(r.shape)
    if math.prod(shape) == 1:
        ends = torch.aminmax(r) if r.is_cuda else _ends(r)
        return tuple(x.view(shape) for x in ends)
    blocks = _own_blocks(r, granularity)
    if blocks is not None and _compiles(_min_max, (), r):
        ends = _call(_min_max, (), blocks)
        if ends is not None:
            return ends[0].view(shape), ends[1].view(shape)
    return ranges.min_max(r, granularity)


def _ends(r):
    """The smallest and the largest value of all r: of rows, then of what the rows gave."""
    n = r.numel() // ROW * ROW
    if n and r.is_contiguous() and _compiles(_min_max, (), r):
        ends = _call(_min_max, (), r.view(-1)[:n].view(-1, ROW))
        if ends is not None:
            r = torch.cat([*ends, r.view(-1)[n:]])
    return torch.aminmax(r)


def choose_and_quantize(r, scheme, out) -> tuple[Tensor, Tensor] | None:
    """Fill `out`, scale and zero point together; None where that is not to be.

    It is for compiled rows and groups along the last axis. A block with NaN or infinity gets a
    scale that is not finite: refusing it is the caller's.
    """
    if torch.compiler.is_compiling() or not out.is_contiguous():
        return None
    blocks = _own_blocks(r, scheme.granularity)
    if blocks is None or blocks.ndim != 2 or len(blocks) < 64:
        return None
    constants = (scheme.quant_min, scheme.quant_max, scheme.rounding)
    constants += (scheme.mapping, scheme.include_zero)
    if not _compiles(_choose_and_quantize, constants, r, out):
        return None
    # As numbers the compiler would know them, and on a GPU multiply by 1 / 255.
    ends = r.new_tensor([scheme.quant_min, scheme.quant_max], dtype=torch.float32)
    scale = r.new_empty((len(blocks), 1), dtype=torch.float32)
    zero_point = r.new_empty((len(blocks), 1), dtype=scheme.dtype)
    tensors = (blocks, scale, zero_point, out.view(blocks.shape))
    rows = len(blocks) if r.is_cuda else EAGER_PIECE  # so many ranges stay in the cache
    for part in zip(*(t.split(rows) for t in tensors), strict=True):
        if _call(_choose_and_quantize, constants, ends, *part) is None:
            return None
    shape = scheme.granularity.scale_shape(r.shape)
    return scale.view(shape), zero_point.view(shape)


# --- eager or compiled, piece by piece ---
def _run(formula, constants, x, scale, zero_point, granularity, out) -> Tensor:
    """Apply a formula to x, and fill `out`."""
    compiled = _compiles(formula, constants, x, scale, zero_point, out)
    whole = COMPILED_PIECE if compiled else _eager_piece(x)
    for where, home in cut(x, granularity, whole):
        piece = (x[where], scale[home], zero_point[home], granularity, out[where])
        if compiled and piece[0].numel() >= 2 * ROW:
            _compiled_piece(formula, constants, *piece)
        else:
            _eager(formula, constants, *piece)
    return out


def _traced(formula, constants, x, scale, zero_point, granularity, out) -> Tensor:
    """The same in one piece, for the graph of a model that is compiled or exported whole."""
    blocks = granularity.split(x)
    filled = torch.empty_like(blocks, dtype=out.dtype)
    formula(blocks, granularity.align(scale), granularity.align(zero_point), filled, *constants)
    return out.copy_(granularity.join(filled, x.shape))


def _eager(formula, constants, x, scale, zero_point, granularity, out):
    """A piece of few values, one operation at a time."""
    scale, zero_point = granularity.align(scale), granularity.align(zero_point)
    formula(granularity.split(x), scale, zero_point, granularity.split(out), *constants)


def _compiled_piece(formula, constants, x, scale, zero_point, granularity, out):
    """A piece as one loop; through a small copy where it does not lie straight in memory.

    Eagerly, where the granularity is the reader's own: what its blocks are in memory, it alone
    knows.
    """
    if type(granularity) not in (PerTensor, PerAxis, PerGroup):
        for where, home in cut(x, granularity, _eager_piece(x)):
            piece = (x[where], scale[home], zero_point[home], granularity, out[where])
            _eager(formula, constants, *piece)
        return
    if not (x.is_contiguous() and out.is_contiguous()):
        for where, home in cut(x, granularity, COPIED_PIECE):
            straight = torch.empty(x[where].shape, dtype=out.dtype, device=out.device)
            part = (x[where].contiguous(), scale[home], zero_point[home], granularity, straight)
            _compiled_piece(formula, constants, *part)
            out[where].copy_(straight)
        return
    whole = rows(x, scale, zero_point, granularity, out)
    if _call(formula, constants, *whole) is None:
        _run(formula, constants, x, scale, zero_point, granularity, out)  # eagerly, from now on
    elif whole[0].numel() < x.numel():
        rest = slice(whole[0].numel(), None)
        _eager(
            formula,
            constants,
            x.view(-1)[rest],
            scale.view(()),
            zero_point.view(()),
            PerTensor(),
            out.view(-1)[rest],
        )


def rows(x, scale, zero_point, granularity, out):
    """(x, scale, zero_point, out) as a loop takes them: [m, n] with a scale for each row, or
    [m, n, c] with a scale for each (m, c).

    One scale for all is repeated for rows of `ROW` values; what is no whole row is left over.
    """
    if scale.numel() == 1:
        n = x.numel() // ROW
        repeated = [p.reshape(1, 1).expand(n, 1).contiguous() for p in (scale, zero_point)]
        x, out = (t.view(-1)[: n * ROW].view(n, ROW) for t in (x, out))
        return x, *repeated, out
    blocks = _blocks(x, granularity)
    if blocks.ndim == 3:
        shape = (len(blocks), 1, blocks.shape[2])
        return blocks, scale.reshape(shape), zero_point.reshape(shape), out.view(blocks.shape)
    times = len(blocks) // scale.numel()
    repeated = [p.reshape(1, -1).expand(times, -1).reshape(-1, 1) for p in (scale, zero_point)]
    return blocks, *repeated, out.view(blocks.shape)


def _own_blocks(r, granularity) -> Tensor | None:
    """The blocks of r where each has a scale of its own."""
    blocks = _blocks(r, granularity)
    if blocks is None or blocks.ndim == 3:
        return blocks
    return blocks if len(blocks) == math.prod(granularity.scale_shape(r.shape)) else None


def _blocks(x, granularity) -> Tensor | None:
    """A contiguous x as [blocks, n] with a scale for each row, the same scales again for each index
    of the axes before the kept one, or as [m, n, c] with a scale for each (m, c); else None."""
    if not x.is_contiguous() or type(granularity) not in (PerAxis, PerGroup):
        return None
    axis = granularity.axis % x.ndim
    inner = math.prod(x.shape[axis + 1 :])
    if isinstance(granularity, PerAxis):
        n = x.shape[axis]
        return x.view(1, -1, n) if inner == 1 else x.view(-1, inner)
    size = min(granularity.group_size, x.shape[axis])
    if x.shape[axis] % size:
        return None
    if size == inner == 1:
        return x.view(1, 1, -1)
    return x.view(-1, size) if inner == 1 else x.view(-1, size, inner)


# --- the compiler ---
def _compiles(formula, constants, *tensors) -> bool:
    """Whether these tensors go through the compiled formula."""
    x = tensors[0]
    if _state["mode"] == "eager" or _state["broken"] or torch.compiler.is_compiling():
        return False
    if x.device.type not in PAYS_OFF or any(t.dtype == torch.float64 for t in tensors):
        return False
    if torch.jit.is_tracing() or not all(map(_lies_in_memory, (*tensors, x.new_empty(1)))):
        return False
    if _state["mode"] == "compiled":
        return x.numel() >= 2 * ROW
    key = (formula, constants, x.device.type, x.dtype)
    _seen[key] += x.numel()
    return _seen[key] > PAYS_OFF[x.device.type]


def _call(formula, constants, *tensors):
    """What the compiled formula returns; None, with a warning, where there is no compiler."""
    try:
        kinds = tuple((t.dtype, t.ndim) for t in tensors)
        kernel = _compiled(formula, constants, kinds, tensors[0].device.type)
        torch.get_num_threads()  # sets it too: a new thread of Python has OpenMP's own number
        return kernel(*map(_bare, tensors))
    except Exception as error:
        _state["broken"] = True
        cause = error.__cause__ or error
        first = next(filter(None, map(str.strip, str(cause).splitlines())), type(cause).__name__)
        warnings.warn(
            f"torch.compile does not work here ({first[:100]}). The formulas run eagerly: the "
            "results are the same, and large tensors take longer. Install a C++ compiler such as "
            'g++ and start again, or choose ql.use_kernels("eager").',
            RuntimeWarning,
            stacklevel=levels_to_caller(),
        )
        return None
