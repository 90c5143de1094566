"""How a formula runs: on which device, in which pieces, eager or compiled (notebook 12).

There is one formula, in `qlesson.affine`. Eager runs it one operation at a time, on pieces that
stay in the cache; compiled, it is one loop: by hand where torch.compile's is far from the floor
(kernels.cpp on a processor, kernels_triton.py on a GPU), else torch.compile's. All give the same
bits.
"""

import ctypes
import importlib
import itertools
import math
import os
import threading
import types
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from qlesson import ranges
from qlesson.affine import dequantize_affine, narrowed, quantize_affine, safe_qparams
from qlesson.checks import levels_to_caller
from qlesson.granularity import PerAxis, PerGroup, PerTensor

# Values that eager takes at a time on a CPU. Measured on two cores, 2^25 float32 values with given
# scale: 53, 30, 22 and 22 ms in pieces of 2^15 to 2^18, and 139 ms all in one piece: its
# intermediates leave the cache, and each is written into fresh pages (bench_results/cpu.json).
EAGER_PIECE = 2**17
# On a GPU each operation is a launch: few large pieces.
EAGER_PIECE_CUDA = 2**24
# A compiled loop takes up to 2^30 values at once, so that an index fits into 32 bits; what is not
# contiguous goes through a copy that stays in the cache.
COMPILED_PIECE = 2**30
COPIED_PIECE = 2**18
# One scale for all is repeated for rows of this many values, so that every core has some rows; a
# tensor of less than two rows costs less than a compiled call does, and runs eagerly.
ROW = 1024
# "auto" runs eagerly until so many values went through one formula. On two cores compiling takes
# 5 to 10 s and saves 0.5 ns a value; on an H100, by stored trials, about 0.01 ns.
PAYS_OFF = {"cpu": 2**34, "cuda": 2**38}

MODES = ("auto", "eager", "compiled")

_state = {"mode": "auto", "broken": False}
_filters = threading.RLock()  # of warnings
_seen = Counter()  # how many values "auto" sent through each formula


def best_device() -> torch.device:
    """cuda when it is available, else cpu. The environment variable QLESSON_DEVICE overrides.

    Raises ValueError when QLESSON_DEVICE names a device that torch does not have.
    """
    name = os.environ.get("QLESSON_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # meta holds no values, and fails here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"QLESSON_DEVICE={name!r} cannot be used here ({str(error).splitlines()[0]}): "
            'set it to "cpu", or unset it.'
        ) from None
    return device


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


# --- what eager runs and the compiler compiles: the formulas between a reading and a store ---


def _quantize(r, scale, zero_point, out, quant_min, quant_max, rounding):
    # The cast is copy_'s; a compiled loop narrows integers faster than floats.
    dtype = torch.int32 if torch.compiler.is_compiling() else scale.dtype
    out.copy_(quantize_affine(r, scale, zero_point, quant_min, quant_max, dtype, rounding))
    return ()


def _dequantize(q, scale, zero_point, out):
    out.copy_(narrowed(dequantize_affine(q, scale, zero_point), out.dtype))
    return ()


def _min_max(r):
    return r.amin(dim=1), r.amax(dim=1)


def _choose_and_quantize(
    ends, r, scale_out, zero_point_out, out, quant_min, quant_max, rounding, mapping, include_zero
):
    r_min, r_max = (x.float() for x in (r.amin(dim=1, keepdim=True), r.amax(dim=1, keepdim=True)))
    scale, zero_point = safe_qparams(r_min, r_max, *ends, mapping, include_zero)
    scale_out.copy_(scale)
    zero_point_out.copy_(zero_point)
    return _quantize(r, scale, zero_point, out, quant_min, quant_max, rounding)


# --- eager or compiled, piece by piece ---


def _run(formula, constants, x, scale, zero_point, granularity, out) -> Tensor:
    """Apply a formula to x, and fill `out`."""
    compiled = _compiles(formula, constants, x, scale, zero_point, out)
    whole = COMPILED_PIECE if compiled else _eager_piece(x)
    for where, home in pieces(x, granularity, whole):
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


def _eager_piece(x) -> int:
    return EAGER_PIECE_CUDA if x.is_cuda else EAGER_PIECE


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
        for where, home in pieces(x, granularity, _eager_piece(x)):
            piece = (x[where], scale[home], zero_point[home], granularity, out[where])
            _eager(formula, constants, *piece)
        return
    if not (x.is_contiguous() and out.is_contiguous()):
        for where, home in pieces(x, granularity, COPIED_PIECE):
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


def pieces(x, granularity, size):
    """Cut x into pieces of at most `size` values: yields (slices of x, slices of the scale).

    The pieces follow each other in memory. Each holds whole blocks, or lies within one; a short
    last group is a piece of its own. Blocks of a granularity of the reader's own stay whole.
    """
    block = granularity.block_shape(x.shape)
    whole = type(granularity) not in (PerTensor, PerAxis, PerGroup)
    steps, count = list(x.shape), x.numel()
    for axis in sorted(range(x.ndim), key=x.stride, reverse=True):
        if count > size:
            others = count // steps[axis]
            steps[axis] = max(block[axis] if whole else 1, size // others)
            count = others * steps[axis]
    scales = len(granularity.scale_shape(x.shape))
    for cut in itertools.product(*map(_cuts, x.shape, steps, block)):
        yield tuple(c[0] for c in cut), tuple(c[1] for c in cut)[:scales]


def _cuts(n, step, block):
    """Cut n values of an axis with a scale for each `block`: (slice of values, slice of scales)."""
    if step < block:
        for start in range(0, n, block):
            end, home = min(start + block, n), slice(start // block, start // block + 1)
            for first in range(start, end, step):
                yield slice(first, min(first + step, end)), home
        return
    step -= step % block
    whole = n - n % block
    for first in range(0, whole, step):
        last = min(first + step, whole)
        yield slice(first, last), slice(first // block, last // block)
    if whole < n:
        yield slice(whole, n), slice(whole // block, whole // block + 1)


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


def _lies_in_memory(x) -> bool:
    """Whether x's values are the numbers at its address: not those of a fake or wrapped tensor, of
    torch.func, or of a view with the sign still to be changed."""
    if x.is_neg() or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    try:
        return x.data_ptr() != 0
    except RuntimeError:  # inside torch.vmap
        return False


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


def _bare(x) -> Tensor:
    """x's memory as a tensor that is no view, with the plainest strides.

    The compiler compiles again for each kind of base that a view may have.
    """
    x = x.contiguous()
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim)]
    return x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, strides)


@cache
def _compiled(formula, constants, kinds, device):
    """The formula with its constants, compiled for all shapes of tensors of these kinds."""
    by_hand = _by_hand if device == "cpu" else _by_triton
    return by_hand(formula, constants, kinds) or _by_torch(formula, constants, device)


def _by_torch(formula, constants, device):
    """The formula as torch.compile's loop."""

    def kernel(*tensors):
        return formula(*tensors, *constants)

    # The compiler keeps at most eight versions beside a code object, so each kernel has its own.
    kernel = types.FunctionType(kernel.__code__.replace(), globals(), closure=kernel.__closure__)
    options = {"compile_threads": 1}
    if device == "cuda":
        options["eager_numerics.division_rounding"] = True  # its division is approximate without
    with _silent():
        run = torch.compile(kernel, fullgraph=True, dynamic=True, options=options)
    return _silent()(run)  # it compiles when it is called


def _by_hand(formula, constants, kinds, without=""):
    """The formula by the loops of kernels.cpp; None where they lack it, or cannot be compiled."""
    if formula not in (_min_max, _quantize, _choose_and_quantize):
        return None
    first = kinds[formula is _choose_and_quantize]
    real, code = (str(dtype).removeprefix("torch.") for dtype, _ in (first, kinds[-1]))
    with _silent():  # what fails here fails torch.compile too, which would name another cause then
        importlib.import_module("torch._dynamo")
    loops = _loops(without)
    min_max_loop = getattr(loops, f"min_max_{real}", None)
    quantize_loop = getattr(loops, f"quantize_{real}_{code}", None)
    if not min_max_loop or not (quantize_loop or formula is _min_max):
        return None

    def min_max(r):
        ends = [r.new_empty(r[:, 0].shape, dtype=torch.float32) for _ in range(2)]
        min_max_loop(*map(_address, [r, *ends]), *_sizes(r))
        return [x.to(r.dtype) for x in ends]

    def quantize(r, scale, zero_point, out):
        low, high, rounding = constants[:3]
        held = r, scale.float(), zero_point.float(), out
        ends = ctypes.c_float(low), ctypes.c_float(high)
        quantize_loop(*map(_address, held), *_sizes(r), *ends, rounding == "inside")
        return ()

    def choose_and_quantize(ends, r, scale, zero_point, out):
        r_min, r_max = (x.float().view(-1, 1) for x in min_max(r))
        found = safe_qparams(r_min, r_max, *ends, *constants[3:])
        scale.copy_(found.scale)
        zero_point.copy_(found.zero_point)
        return quantize(r, scale, zero_point, out)

    return {_min_max: min_max, _quantize: quantize}.get(formula, choose_and_quantize)


def _sizes(r):
    return [ctypes.c_int64(n) for n in (*r.shape, 1)[:3]]


def _address(x):
    return ctypes.c_void_p(x.data_ptr())


def _by_triton(formula, constants, kinds):
    """The formula by the kernels of kernels_triton.py, which take rows; None for the rest.

    In the stored trials torch.compile reached 0.2 to 0.7 of the floor where shapes may change,
    and kernels of this kind 0.86 to 1.01 (notebook 12).
    """
    if kinds[-1][1] != 2 or formula is _min_max:
        return None
    try:
        from qlesson import kernels_triton
    except ImportError:
        return None
    wide = _by_torch(formula, constants, "cuda")

    def kernel(*tensors):
        if formula is _choose_and_quantize:
            done = kernels_triton.choose_and_quantize(*tensors[1:], *constants[:4])
            return () if done else wide(*tensors)
        x, scale, zero_point, out = tensors
        getattr(kernels_triton, formula.__name__[1:])(x, scale.float(), zero_point, out, *constants)
        return ()

    return kernel


@cache
def _loops(without):
    """kernels.cpp, perhaps without some of its words, compiled and kept on disk by torch.

    None where there is no compiler, a processor without vectors, or another torch.
    """
    source = Path(__file__).with_suffix(".cpp").read_text(encoding="utf-8")
    try:
        with _silent():
            from torch._inductor.codecache import CppCodeCache

            return CppCodeCache.load(source.replace(without, ""))
    except Exception:
        return None


@contextmanager
def _silent():
    """Without the warnings of torch's inner parts. One thread at a time: two at once would each put
    back the other's filters, and all warnings be lost from then on."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
