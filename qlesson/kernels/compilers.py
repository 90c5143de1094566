"""A formula as one loop: by hand, where there is one, else torch.compile's."""

import ctypes
import importlib
import math
import threading
import types
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from qlesson.affine import safe_qparams
from qlesson.kernels.loops import _choose_and_quantize, _min_max, _quantize

_filters = threading.RLock()  # of warnings


def _lies_in_memory(x) -> bool:
    """Whether x's values are the numbers at its address: not those of a fake or wrapped tensor, of
    torch.func, or of a view with the sign still to be changed."""
    if x.is_neg() or type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    try:
        return x.data_ptr() != 0
    except RuntimeError:  # inside torch.vmap
        return False


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
    """The formula by the loops of loops.cpp; None where they lack it, or cannot be compiled."""
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
    """The formula by the kernels of loops_triton.py, which take rows; None for the rest.

    In the stored trials torch.compile reached 0.2 to 0.7 of the floor where shapes may change,
    and kernels of this kind 0.86 to 1.01.
    """
    if kinds[-1][1] != 2 or formula is _min_max:
        return None
    try:
        from qlesson.kernels import loops_triton
    except ImportError:
        return None
    wide = _by_torch(formula, constants, "cuda")

    def kernel(*tensors):
        if formula is _choose_and_quantize:
            done = loops_triton.choose_and_quantize(*tensors[1:], *constants[:4])
            return () if done else wide(*tensors)
        x, scale, zero_point, out = tensors
        getattr(loops_triton, formula.__name__[1:])(x, scale.float(), zero_point, out, *constants)
        return ()

    return kernel


@cache
def _loops(without):
    """loops.cpp, perhaps without some of its words, compiled and kept on disk by torch.

    None where there is no compiler, a processor without vectors, or another torch.
    """
    source = Path(__file__).with_name("loops.cpp").read_text(encoding="utf-8")
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
