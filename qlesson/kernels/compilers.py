"""A formula as one loop: by hand, where there is one, else torch.compile's."""

import ctypes
import math
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _is_tracing, _len_torch_dispatch_stack
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad

from qlesson.kernels import cpp, loops

Formula = Callable[..., Any]  # one of loops.py, or a reader's own
Constants = tuple[Any, ...]
How = tuple[int, int]  # bytes: asked for ahead, and far
Kinds = tuple[tuple[torch.dtype, int], ...]  # of each tensor its dtype and number of axes

_filters = threading.RLock()  # of warnings


def is_followed() -> bool:
    """Whether torch looks at each operation, and would miss what a loop does: in a trace, for a
    derivative forward, in torch.func, in a mode that dispatches, such as make_fx."""
    return (
        _is_tracing()
        or forward_ad._current_level >= 0
        or maybe_current_level() is not None
        or _len_torch_dispatch_stack() > 0
    )


def lies_in_memory(x: Tensor) -> bool:
    """Whether x's values are the numbers at its address: not those of a fake or wrapped tensor, of
    torch.func, or of a view with the sign still to be changed."""
    if x.is_neg() or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    try:
        return x.data_ptr() != 0
    except RuntimeError:  # inside torch.vmap
        return False


def _bare(x: Tensor) -> Tensor:
    """The memory of x, which is contiguous, as a tensor that is no view, with the plainest strides.

    The compiler compiles again for each kind of base that a view may have.
    """
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim)]
    return x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, strides)


@cache
def _compiled(formula: Formula, constants: Constants, kinds: Kinds, device: str) -> Formula:
    """The formula with its constants, compiled for all shapes of tensors of these kinds."""
    own = by_hand if device == "cpu" else _by_triton
    return own(formula, constants, kinds) or by_torch(formula, constants, device)


def by_torch(formula: Formula, constants: Constants, device: str) -> Formula:
    """The formula as torch.compile's loop."""

    def kernel(*tensors: Any) -> Any:
        return formula(*tensors, *constants)

    # The compiler keeps at most eight versions beside a code object, so each kernel has its own.
    kernel = types.FunctionType(kernel.__code__.replace(), globals(), closure=kernel.__closure__)
    options: dict[str, Any] = {"compile_threads": 1}
    if device == "cuda":
        options["eager_numerics.division_rounding"] = True  # its division is approximate without
    with suppress(cpp.NoCompiler):
        if name := cpp.of_many_words():
            options["cpp.cxx"] = (None, name)
    with _silent():
        run = torch.compile(kernel, fullgraph=True, dynamic=True, options=options)
    run = _silent()(run)  # it compiles when it is called
    return lambda *tensors: run(*map(_bare, tensors))


# What loops.cpp calls a dtype, in the order of its Type.
TYPES = {
    torch.float32: "float",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.int16: "int16_t",
}
_NUMBERS = {dtype: number for number, dtype in enumerate(TYPES)}
# How ctypes passes numbers: an address, sizes and how to go through them, types, the ends of codes.
_AT, _SIZE, _TYPE, _END = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_HELD, _PLACES = [_AT] * 4, [_SIZE] * 6


def by_hand(
    formula: Formula, constants: Constants, kinds: Kinds, ahead: int = 2**13, far: int = 2**25
) -> Formula | None:
    """The formula by the loops of loops.cpp; None where they lack it, or cannot be compiled.

    ahead  how many bytes before they are needed memory is asked for
    far    from so many bytes on, read and written, a result is written past the caches
    """
    dtypes = [dtype for dtype, _ in kinds]
    made: dict[Formula, tuple[Callable[..., Formula], torch.dtype, torch.dtype]] = {
        loops.min_max: (_min_max, dtypes[0], torch.int8),
        loops.quantize: (_quantize, dtypes[0], dtypes[-1]),
        loops.dequantize: (_dequantize, dtypes[-1], dtypes[0]),
        loops.choose_and_quantize: (_choose_and_quantize, dtypes[1 % len(dtypes)], dtypes[-1]),
    }
    if formula not in made:
        return None
    make, real, code = made[formula]
    if real not in TYPES or code not in TYPES:
        return None
    source = Path(__file__).with_name("loops.cpp")
    try:
        named = {"REAL": TYPES[real], "CODE": TYPES[code]}
        library = cpp.library(source, **named, INSIDE=int("outside" not in constants))
    except (OSError, RuntimeError):
        return None  # torch.compile may know better, or says what is missing
    return make(library, (ahead, far), *constants)


def _quantize(library: ctypes.CDLL, how: How, low: int, high: int, rounding: str) -> Formula:
    run = library.quantize
    run.argtypes = [*_HELD, *_PLACES, _TYPE, _TYPE, _END, _END]

    def quantize(r: Tensor, scale: Tensor, zero_point: Tensor, out: Tensor) -> tuple[()]:
        s, z = _typed(scale), _typed(zero_point)
        held = r.data_ptr(), s.data_ptr(), z.data_ptr(), out.data_ptr()
        run(*held, *_places(r, how), _NUMBERS[s.dtype], _NUMBERS[z.dtype], low, high)
        return ()

    return quantize


def _dequantize(library: ctypes.CDLL, how: How) -> Formula:
    run = library.dequantize
    run.argtypes = [*_HELD, *_PLACES, _TYPE, _TYPE]

    def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, out: Tensor) -> tuple[()]:
        s, z = _typed(scale), _typed(zero_point)
        held = q.data_ptr(), s.data_ptr(), z.data_ptr(), out.data_ptr()
        run(*held, *_places(q, how), _NUMBERS[s.dtype], _NUMBERS[z.dtype])
        return ()

    return dequantize


def _min_max(library: ctypes.CDLL, how: How) -> Formula:
    run = library.min_max
    run.argtypes = [_AT, _AT, _AT, *_PLACES]

    def min_max(r: Tensor) -> list[Tensor]:
        found = [r.new_empty(r[:, 0].shape, dtype=torch.float32) for _ in range(2)]
        run(*[x.data_ptr() for x in (r, *found)], *_places(r, how))
        return [x.to(r.dtype) for x in found]

    return min_max


def _choose_and_quantize(
    library: ctypes.CDLL,
    how: How,
    low: int,
    high: int,
    rounding: str,
    mapping: str,
    include_zero: bool,
    scale_dtype: torch.dtype | None,
) -> Formula:
    """include_zero, or symmetric: the range holds 0. The scale's dtype is that of its tensor.

    The loop gives the largest scale: to read all of them again takes a while.
    """
    run, symmetric = library.choose_and_quantize, mapping == "symmetric"
    run.argtypes = [*_HELD, *_PLACES, _TYPE, _END, _END, ctypes.c_bool]
    run.restype = ctypes.c_float

    def choose_and_quantize(
        codes: Tensor, r: Tensor, scale: Tensor, zero_point: Tensor, out: Tensor
    ) -> float:
        held = r.data_ptr(), scale.data_ptr(), zero_point.data_ptr(), out.data_ptr()
        return run(*held, *_places(r, how), _NUMBERS[scale.dtype], low, high, symmetric)

    return choose_and_quantize


def _places(x: Tensor, how: How) -> tuple[int, ...]:
    """[m, n, c], and how to go through it: the compiler's OpenMP may be another than torch's."""
    return (*(*x.shape, 1)[:3], *how, torch.get_num_threads())


def _typed(x: Tensor) -> Tensor:
    return x if x.dtype in TYPES else x.float()


def _by_triton(formula: Formula, constants: Constants, kinds: Kinds) -> Formula | None:
    """The formula by the kernels of loops_triton.py; None for the rest.

    On an H200 they take half the time of torch.compile's for all shapes (bench/results/h200.json).
    """
    written = loops.quantize, loops.dequantize, loops.min_max, loops.choose
    if formula not in (*written, loops.choose_and_quantize):
        return None
    try:
        from qlesson.kernels import loops_triton
    except ImportError:
        return None
    run = getattr(loops_triton, formula.__name__)

    def kernel(*tensors: Any) -> Any:
        if formula is loops.min_max:
            return run(*tensors)
        if formula in (loops.choose, loops.choose_and_quantize):
            # The kernels know codes as numbers, and every range here holds 0.
            run(*tensors[1:], *constants[:-2])
            return ()
        x, scale, zero_point, out = tensors
        run(x, scale.float(), zero_point, out, *constants)
        return ()

    return kernel


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warnings of torch's inner parts. One thread at a time: two at once would each put
    back the other's filters, and all warnings be lost from then on."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
