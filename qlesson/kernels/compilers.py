"""A formula as one loop: by hand, where there is one, else torch.compile's."""

import ctypes
import importlib
import math
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlesson.affine import safe_qparams
from qlesson.kernels import loops

Formula = Callable[..., Any]  # one of loops.py, or a reader's own
Constants = tuple[Any, ...]
Kinds = tuple[tuple[torch.dtype, int], ...]  # of each tensor its dtype and number of axes

_filters = threading.RLock()  # of warnings


def _lies_in_memory(x: Tensor) -> bool:
    """Whether x's values are the numbers at its address: not those of a fake or wrapped tensor, of
    torch.func, or of a view with the sign still to be changed."""
    if x.is_neg() or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    try:
        return x.data_ptr() != 0
    except RuntimeError:  # inside torch.vmap
        return False


def _bare(x: Tensor) -> Tensor:
    """x's memory as a tensor that is no view, with the plainest strides.

    The compiler compiles again for each kind of base that a view may have.
    """
    x = x.contiguous()
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim)]
    return x.new_empty(0).set_(x.untyped_storage(), x.storage_offset(), x.shape, strides)


@cache
def _compiled(formula: Formula, constants: Constants, kinds: Kinds, device: str) -> Formula:
    """The formula with its constants, compiled for all shapes of tensors of these kinds."""
    by_hand = _by_hand if device == "cpu" else _by_triton
    return by_hand(formula, constants, kinds) or _by_torch(formula, constants, device)


def _by_torch(formula: Formula, constants: Constants, device: str) -> Formula:
    """The formula as torch.compile's loop."""

    def kernel(*tensors: Any) -> Any:
        return formula(*tensors, *constants)

    # The compiler keeps at most eight versions beside a code object, so each kernel has its own.
    kernel = types.FunctionType(kernel.__code__.replace(), globals(), closure=kernel.__closure__)
    options: dict[str, Any] = {"compile_threads": 1}
    if device == "cuda":
        options["eager_numerics.division_rounding"] = True  # its division is approximate without
    with _silent():
        run = torch.compile(kernel, fullgraph=True, dynamic=True, options=options)
    return _silent()(run)  # it compiles when it is called


def _by_hand(
    formula: Formula, constants: Constants, kinds: Kinds, ahead: int = 2048
) -> Formula | None:
    """The formula by the loops of loops.cpp; None where they lack it, or cannot be compiled.

    ahead  how many bytes before they are needed memory is asked for
    """
    if formula not in (loops.min_max, loops.quantize, loops.choose_and_quantize):
        return None
    first = kinds[formula is loops.choose_and_quantize]
    real, code = (str(dtype).removeprefix("torch.") for dtype, _ in (first, kinds[-1]))
    with _silent():  # what fails here fails torch.compile too, which would name another cause then
        importlib.import_module("torch._dynamo")
    library = _library()
    min_max_loop: Any = getattr(library, f"min_max_{real}", None)
    quantize_loop: Any = getattr(library, f"quantize_{real}_{code}", None)
    if not min_max_loop or not (quantize_loop or formula is loops.min_max):
        return None

    def min_max(r: Tensor) -> list[Tensor]:
        found = [r.new_empty(r[:, 0].shape, dtype=torch.float32) for _ in range(2)]
        min_max_loop(*map(_address, [r, *found]), *_sizes(r))
        return [x.to(r.dtype) for x in found]

    def quantize(r: Tensor, scale: Tensor, zero_point: Tensor, out: Tensor) -> tuple[()]:
        low, high, rounding = constants[:3]
        held = r, scale.float(), zero_point.float(), out
        codes = ctypes.c_float(low), ctypes.c_float(high)
        early = ctypes.c_int64(ahead // r.element_size())
        quantize_loop(*map(_address, held), *_sizes(r), *codes, rounding == "inside", early)
        return ()

    def choose_and_quantize(
        codes: Tensor, r: Tensor, scale: Tensor, zero_point: Tensor, out: Tensor
    ) -> tuple[()]:
        r_min, r_max = (x.float().view(-1, 1) for x in min_max(r))
        chosen = safe_qparams(r_min, r_max, *codes, *constants[3:])
        scale.copy_(chosen.scale)
        zero_point.copy_(chosen.zero_point)
        return quantize(r, scale, zero_point, out)

    made: dict[Formula, Formula] = {loops.min_max: min_max, loops.quantize: quantize}
    return made.get(formula, choose_and_quantize)


def _sizes(r: Tensor) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(n) for n in (*r.shape, 1)[:3]]


def _address(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _by_triton(formula: Formula, constants: Constants, kinds: Kinds) -> Formula | None:
    """The formula by the kernels of loops_triton.py, which take rows; None for the rest.

    In the stored trials torch.compile reached 0.2 to 0.7 of the floor where shapes may change,
    and kernels of this kind 0.86 to 1.01.
    """
    written = (loops.quantize, loops.dequantize, loops.choose_and_quantize)
    if kinds[-1][1] != 2 or formula not in written:
        return None
    try:
        from qlesson.kernels import loops_triton
    except ImportError:
        return None
    wide = _by_torch(formula, constants, "cuda")

    def kernel(*tensors: Any) -> Any:
        if formula is loops.choose_and_quantize:
            done = loops_triton.choose_and_quantize(*tensors[1:], *constants[:4])
            return () if done else wide(*tensors)
        x, scale, zero_point, out = tensors
        getattr(loops_triton, formula.__name__)(x, scale.float(), zero_point, out, *constants)
        return ()

    return kernel


@cache
def _library() -> Any:
    """loops.cpp, compiled and kept on disk by torch.

    None where there is no compiler, a processor without vectors, or another torch.
    """
    source = Path(__file__).with_name("loops.cpp").read_text(encoding="utf-8")
    try:
        with _silent():
            from torch._inductor.codecache import CppCodeCache

            return CppCodeCache.load(source)
    except Exception:
        return None


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warnings of torch's inner parts. One thread at a time: two at once would each put
    back the other's filters, and all warnings be lost from then on."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
