"""Codes times inputs at the speed of memory: every packed byte is read once.

What runs is in product.cpp, plain C++ without torch's headers, compiled once. For up to `FEW`
inputs a row of codes becomes numbers in registers, and is multiplied there. For more, some rows
become W_hat in the cache, and torch multiplies them; with 8-bit inputs they stay codes, and a tile
of inputs times rows is summed in registers. The layers that call it, and what runs without it, are
in `qlesson.nn.product`.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qlesson.kernels import modes
from qlesson.kernels.compilers import _lies_in_memory
from qlesson.kernels.cpp import library
from qlesson.kernels.packed import BLOCK, unpack_rows

FEW = 8  # inputs
TILE = 2**20  # values of W_hat at a time
# "auto" runs eagerly until the layers have read so many bytes of codes. Compiling takes about 2 s.
# On two cores of an AMD EPYC the kernel then saves 3.6 to 4.0 ns a byte at 4 bits, 1.7 at 8, for
# one input: the 2 s come back after 5e8 bytes, or 1.2e9.
PAYS_OFF = 2**29

SCALES = (torch.float32, torch.float16, torch.bfloat16)
_read = {"bytes": 0}


class Packed(NamedTuple):
    """A matrix of codes [rows, width] as a layer holds it.

    packed      uint8 [rows, bytes], as `pack_rows` gives them
    scale       float [rows, groups], or [1, groups] for all rows
    offset      in the scale's shape: zero points, which are integers, or minima, which are floats;
                None where the code 0 (of signed codes too) stands for 0.0
    group_size  neighbours that share a scale; `width` for one scale in a row
    """

    packed: Tensor
    scale: Tensor
    offset: Tensor | None
    bits: int
    signed: bool
    width: int
    group_size: int

    def rows(self, rows: slice) -> "Packed":
        """Some rows of it, as views."""
        if len(self.scale) == 1 < len(self.packed):
            return self._replace(packed=self.packed[rows])
        offset = None if self.offset is None else self.offset[rows]
        return self._replace(packed=self.packed[rows], scale=self.scale[rows], offset=offset)

    def codes(self) -> Tensor:
        """The codes themselves, int8 or uint8 [rows, width]."""
        return unpack_rows(self.packed, self.bits, self.width, self.signed)


def runs(x: Tensor, w: Packed) -> bool:
    """Whether this product goes through the kernel, which is then compiled."""
    mode = modes._state["mode"]
    if mode == "eager" or modes._state["broken"] or w.packed.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.dtype == torch.float64:
        return False
    if w.scale.dtype not in SCALES or not all(map(_lies_in_memory, (x, w.packed, w.scale))):
        return False
    if mode == "auto":
        _read["bytes"] += w.packed.nbytes
        if _read["bytes"] <= PAYS_OFF:
            return False
    with modes._or_eagerly():
        _library()
        return True
    return False


def linear(x: Tensor, w: Packed) -> Tensor:
    """x W_hat^T, float32 [m, rows], for float x [m, width]."""
    m, n = len(x), len(w.packed)
    y = torch.empty(m, n)
    if m > FEW:
        x, step = x.float(), max(1, TILE // w.width)
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            torch.mm(x, values(w, rows).t(), out=y[:, rows])
        return y
    x = _filled(x, torch.float32)
    _call("linear", w, x, ctypes.c_int64(m), ctypes.c_int64(x.shape[1]), y)
    return y


def int_linear(codes: Tensor, scale: Tensor, zero_point: Tensor, w: Packed) -> Tensor:
    """y = sum_g float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), float32 [m, rows].

    codes       int8 [m, width]
    scale       float32 [m], of the inputs
    zero_point  int32 [m], of the inputs
    """
    y = torch.empty(len(codes), len(w.packed))
    x = _filled(codes, torch.int8)
    sizes = ctypes.c_int64(len(x)), ctypes.c_int64(x.shape[1])
    _call("int_linear", w, x, scale.contiguous(), zero_point.contiguous(), *sizes, y)
    return y


def values(w: Packed, rows: slice) -> Tensor:
    """W_hat of some rows, float32."""
    r_hat = torch.empty(rows.stop - rows.start, w.width)
    _call("values", w, ctypes.c_int64(rows.start), ctypes.c_int64(rows.stop), r_hat)
    return r_hat


def _filled(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [m, width] filled up with zeros to whole blocks."""
    return F.pad(x, (0, -x.shape[1] % BLOCK)).to(dtype).contiguous()


def _call(name: str, w: Packed, *rest: Any) -> None:
    offset = None if w.offset is None else w.offset.contiguous()
    scale, packed = w.scale.contiguous(), w.packed.contiguous()
    kind = 0 if offset is None else 1 + offset.is_floating_point()
    n, groups = len(packed), scale.shape[1]
    low = 2 ** (w.bits - 1) if w.signed else 0
    shared = len(scale) == 1 < n
    form = SCALES.index(scale.dtype), kind, shared
    sizes = (n, w.width, packed.shape[1], groups, w.group_size, w.bits, low, *form)
    given = [_argument(x) for x in (packed, scale, offset)]
    threads = ctypes.c_int64(torch.get_num_threads())
    getattr(_library(), name)(*given, (ctypes.c_int64 * 10)(*sizes), *map(_argument, rest), threads)


def _argument(x: Any) -> Any:
    if isinstance(x, Tensor):
        return ctypes.c_void_p(x.data_ptr())
    return ctypes.c_void_p() if x is None else x


@cache  # since asking for the file's path takes longer than a small product
def _library() -> ctypes.CDLL:
    return library(Path(__file__).with_name("product.cpp"))
