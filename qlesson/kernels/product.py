"""Codes times inputs at the speed of memory: every packed byte is read once.

What runs is plain C++ without torch's headers, in three files that are compiled when they are
needed, once for each kind of weight (its bits, and what its offset is) and dtype of inputs:

    product_few    up to eight float inputs at a time become whole numbers of 8-bit digits, two in
                   bfloat16, else three, whose products with codes are exact sums
                   (product_digits.h); rows of less than 256 codes, and all on a processor without
                   instructions for digits, become floats in registers, and are multiplied there
    product_many   some rows stand in the cache as W_hat, and a tile of inputs times rows is summed
                   in registers; inputs that fill no tile go as few. Where an instruction multiplies
                   pairs of bfloat16, inputs in it meet codes less their zero, which are exact there
                   (product_tiles.h). Where one multiplies matrices of such pairs (Intel's AMX,
                   product_matrices.h), an input of any type is the sum of up to three
    product_ints   the same two for inputs in 8 bits, whose sums are whole numbers

The layers that call it, and what runs without it, are in `qlesson.nn.product`.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qlesson.granularity import PerAxis, PerTensor
from qlesson.kernels import modes
from qlesson.kernels.compilers import TYPES, is_followed, lies_in_memory
from qlesson.kernels.cpp import NoCompiler, library
from qlesson.kernels.packed import unpack_rows
from qlesson.scheme import Scheme

# "auto" runs eagerly until the layers have read so many bytes of codes. Compiling a file for a kind
# of weight takes 0.8 to 1.5 s. On two cores of an AMD EPYC the kernel then saves 3.1 ns a byte at 4
# bits, 1.6 at 8, for one input: the 1.2 s for few come back after 0.4e9 bytes, or 0.75e9.
PAYS_OFF = 3 * 2**28
# Products of one code and one input for which another thread pays: waking it takes as long as some
# hundred thousand.
THREAD = 2**18

SCALES = FLOATS = (torch.float32, torch.float16, torch.bfloat16)
Kind = tuple[str, torch.dtype]  # "few", "many" or "ints", and what the inputs are
INTS: Kind = ("ints", torch.float32)
FEW = 8  # inputs, as in product_codes.h
FOLDER = "Set TORCHINDUCTOR_CACHE_DIR to a folder of your own with room, from which programs run"
_read = {"bytes": 0}
# The structs of the files: ctypes takes as long for one argument as for all of them in bytes.
_LINEAR, _INT_LINEAR, _ROWS = (Struct(f"{n}q").pack for n in (6, 7, 4))


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


class Prepared:
    """A `Packed` as the kernel takes it: addresses and sizes, found once for many products.

    It is good as long as its tensors are held, and stay where they are.
    """

    def __init__(self, w: Packed) -> None:
        self.of = w
        steps = w.scale.contiguous(), None if w.offset is None else w.offset.contiguous()
        scale, offset = self.steps = steps
        self.packed = w.packed.contiguous()
        self.offset = 0 if offset is None else 1 + offset.is_floating_point()
        low = 2 ** (w.bits - 1) if w.signed else 0
        self.rows, self.width, self.nbytes = len(w.packed), w.width, w.packed.nbytes
        self.outputs = (self.rows,)
        shared = len(scale) == 1 < self.rows
        self.products = self.rows * self.width
        self.alone = (2 * THREAD - 1) // max(1, self.products)  # inputs, for which one thread does
        addresses = [0 if x is None else x.data_ptr() for x in (self.packed, scale, offset)]
        sizes = self.rows, w.width, self.packed.shape[1], scale.shape[1], w.group_size
        form = low, SCALES.index(scale.dtype), shared
        self.aligned = w.group_size % 32 == 0 or scale.shape[1] == 1
        self.numbers = (ctypes.c_int64 * 11)(*addresses, *sizes, *form)
        self.address = ctypes.addressof(self.numbers)
        self.libraries: dict[Kind, Any] = {}

    def threads(self, inputs: int) -> int:
        """How many pay for this product."""
        return min(torch.get_num_threads(), max(1, self.products * inputs // THREAD))

    def compiled(self, kind: Kind) -> Any:
        """What multiplies inputs of this kind, compiled where it is missing; None, after a
        warning, where that fails."""
        if kind not in self.libraries:
            with modes.or_eagerly():  # everything, where there is no compiler
                self.libraries[kind] = _library(kind, self.of.bits, self.offset)
        return self.libraries.get(kind)


def prepared(w: Packed) -> Prepared | None:
    """For the kernel, where it takes such a weight."""
    tensors = (w.packed, w.scale) if w.offset is None else (w.packed, w.scale, w.offset)
    if w.packed.device.type != "cpu" or w.scale.dtype not in SCALES:
        return None
    offsets = None, torch.int8, torch.uint8, w.scale.dtype
    if w.packed.dtype is not torch.uint8 or getattr(w.offset, "dtype", None) not in offsets:
        return None
    return Prepared(w) if all(map(lies_in_memory, tensors)) else None


def runs(x: Tensor, nbytes: int) -> bool:
    """Whether work on x, for which so many bytes of codes are read, is to go through the kernel."""
    mode = modes._state["mode"]
    if mode == "eager" or modes._state["broken"] or x.dtype is torch.float64:
        return False
    if torch.compiler.is_compiling() or is_followed() or not (x.is_cpu and lies_in_memory(x)):
        return False
    if mode == "auto" and _read["bytes"] <= PAYS_OFF:
        _read["bytes"] += nbytes
        return _read["bytes"] > PAYS_OFF
    return True


def at_once(
    x: Tensor, w: Prepared, bias: Tensor | None, scheme: Scheme | None = None
) -> Tensor | None:
    """`linear`, or with a scheme `quantized_linear`, for a plain tensor x of FLOATS on the CPU,
    where torch follows no operation.

    None where the kernel has not run yet, or more has to be asked or made. What Python does for a
    call takes as long as a small product, so here few questions are asked.
    """
    state = modes._state
    if state["mode"] == "eager" or state["broken"]:
        return None
    try:
        if not x.is_contiguous() or x.is_neg():
            return None
        if bias is not None:
            if bias.shape != w.outputs or not bias.is_cpu:
                return None
            if not bias.is_contiguous() or bias.is_neg():
                return None
            if bias.dtype is not torch.float32:
                if bias.dtype is torch.float64:
                    return None
                bias = bias.to(torch.float32)
        if scheme is None:
            return _product(x, w, bias, w.libraries.get)
        ints = w.libraries.get(INTS)
        if ints is None or x.dtype is not torch.float32:
            return None
        return _quantized_product(x, w, bias, scheme, ints)
    except (RuntimeError, ValueError):  # no address in torch.vmap, no strides or no axis elsewhere
        return None


def rows_at_once(ids: Tensor, w: Prepared, dtype: torch.dtype) -> Tensor | None:
    """`rows`, for a plain int64 tensor on the CPU, where torch follows no operation; None also
    where the kernel has not run yet."""
    few, state = w.libraries.get(("few", dtype)), modes._state
    if few is None or state["mode"] == "eager" or state["broken"] or ids.is_neg():
        return None
    try:
        return _rows(ids, w, dtype, few)
    except RuntimeError:
        return None


def linear(x: Tensor, w: Prepared, bias: Tensor | None = None) -> Tensor | None:
    """x W_hat^T + b [..., rows] for x [..., width], in x's dtype where it is one of FLOATS, else
    in float32; None, after a warning, where it cannot be compiled."""
    b = None if bias is None else _floats(bias)
    return _product(x.contiguous() if x.dtype in FLOATS else _floats(x), w, b, w.compiled)


def quantized_linear(x: Tensor, w: Prepared, scheme: Scheme, bias: Tensor | None) -> Tensor | None:
    """The same for x that is quantized before as `ql.quantize` does it, float32; None also where
    that would refuse x.

    scheme  as `quantizes` takes it
    """
    b, ints = None if bias is None else _floats(bias), w.compiled(INTS)
    return None if ints is None else _quantized_product(_floats(x), w, b, scheme, ints)


def _product(
    x: Tensor, w: Prepared, bias: Tensor | None, library: Callable[[Kind], Any]
) -> Tensor | None:
    """None also where a library is not there, or memory is short. Those of many inputs that fill no
    tile are the last, and go as few; where one of few is not finite, or with minima a sum of its
    inputs is not, all go as many."""
    *shape, width = x.shape
    if width != w.width:
        return None
    dtype, m = x.dtype, x.numel() // width
    y = x.new_empty(*shape, w.rows)  # as x, not in torch's default dtype
    b, few = 0 if bias is None else bias.data_ptr(), w.aligned
    if few and m <= FEW:
        code = library(("few", dtype))
        if code is None:
            return None
        threads = 1 if m <= w.alone else w.threads(m)
        done = code.linear(_LINEAR(w.address, x.data_ptr(), m, b, y.data_ptr(), threads))
        if done:
            return y if done > 0 else None
        few = False
    # As few_of in product_reals.h: as few as these need no library of many.
    code = library(("few" if few and m <= 3 * FEW else "many", dtype))
    if code is None:
        return None
    last = code.few_of(w.address, m) if few else 0
    if last:
        code = library(("few", dtype))
        if code is None:
            return None
        x_last = x.data_ptr() + (m - last) * width * x.itemsize
        y_last = y.data_ptr() + (m - last) * w.rows * x.itemsize
        done = code.linear(_LINEAR(w.address, x_last, last, b, y_last, w.threads(last)))
        if done < 0:
            return None
        last *= done
    if last < m:
        code = library(("many", dtype))
        if code is None:
            return None
        call = _LINEAR(w.address, x.data_ptr(), m - last, b, y.data_ptr(), w.threads(m - last))
        if code.linear(call) < 0:
            return None
    return y


def _quantized_product(
    x: Tensor, w: Prepared, bias: Tensor | None, scheme: Scheme, ints: Any
) -> Tensor | None:
    *shape, width = x.shape
    if width != w.width:
        return None
    y, m = x.new_empty(*shape, w.rows), x.numel() // width
    b = 0 if bias is None else bias.data_ptr()
    call = _LINEAR(w.address, x.data_ptr(), m, b, y.data_ptr(), w.threads(m))
    return y if ints.quantized_linear(call, _inputs(scheme)) > 0 else None


def _floats(x: Tensor) -> Tensor:
    """x row by row in float32; asking costs less than a cast that is none."""
    if x.dtype is torch.float32 and x.is_contiguous():
        return x
    return x.to(torch.float32).contiguous()


def int_linear(codes: Tensor, scale: Tensor, zero_point: Tensor, w: Prepared) -> Tensor | None:
    """y = sum_g float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), float32 [m, rows]; None, after a
    warning, where it cannot be compiled.

    codes       int8 [m, width]
    scale       float32 [m], of the inputs
    zero_point  int32 [m], of the inputs
    """
    ints = w.compiled(INTS)
    if ints is None:
        return None
    given = [x.contiguous() for x in (codes, scale, zero_point)]
    m, y = len(codes), given[1].new_empty(len(codes), w.rows)
    addresses = [x.data_ptr() for x in given]
    call = _INT_LINEAR(w.address, *addresses, m, y.data_ptr(), w.threads(m))
    return y if ints.int_linear(call) > 0 else None


@cache
def _inputs(scheme: Scheme) -> bytes:
    """The scheme as the kernel takes it."""
    how = scheme.mapping == "symmetric", scheme.granularity != PerTensor()
    return Struct("4q").pack(scheme.quant_min, scheme.quant_max, *how)


@cache
def quantizes(scheme: Scheme) -> bool:
    """Whether the kernel quantizes inputs in this scheme: signed codes of at most 8 bits, with one
    float32 scale, or one for each row, and a range that holds 0."""
    holds_zero = scheme.mapping == "symmetric" or scheme.include_zero
    plain = scheme.rounding == "inside" and scheme.scale_dtype is None and scheme.signed
    known = scheme.granularity in (PerTensor(), PerAxis(0))
    return plain and holds_zero and known and scheme.bits <= 8


def rows(ids: Tensor, w: Prepared, dtype: torch.dtype) -> Tensor | None:
    """W_hat of the rows with these numbers [...] in int64, one of FLOATS [..., width]: the bits of
    `dequantize`. None where a number is none of a row, or, after a warning, where it cannot be
    compiled."""
    few = w.compiled(("few", dtype))
    return None if few is None else _rows(ids, w, dtype, few)


def _rows(ids: Tensor, w: Prepared, dtype: torch.dtype, few: Any) -> Tensor | None:
    ids = ids.contiguous()
    r_hat = ids.new_empty(*ids.shape, w.width, dtype=dtype)
    call = _ROWS(w.address, ids.data_ptr(), ids.numel(), r_hat.data_ptr())
    return r_hat if few.rows(call) > 0 else None


@cache  # since asking for the file's path takes longer than a small product
def _library(kind: Kind, bits: int, offset: int) -> ctypes.CDLL | None:
    """None, after a warning, where it cannot be compiled, kept or loaded. Raises NoCompiler."""
    part, dtype = kind
    source = Path(__file__).with_name(f"product_{part}.cpp")
    # It is written in vectors: a compiler that looks for more takes twice as long, and finds none.
    macros = {"CODE_BITS": bits, "OFFSET": offset, "REAL": TYPES[dtype]}
    try:
        found = library(source, "-fno-tree-vectorize", **macros)
    except NoCompiler:
        raise
    except (OSError, RuntimeError) as error:
        remedy = FOLDER if isinstance(error, OSError) else "Install another C++ compiler"
        modes.warn(f"product_{part}.cpp cannot be compiled, kept or loaded here", error, remedy)
        return None
    text = ctypes.c_char_p
    if part == "ints":
        found.int_linear.argtypes = [text]
        found.quantized_linear.argtypes = [text, text]
        return found
    found.few_of.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    found.few_of.restype = ctypes.c_int64
    found.linear.argtypes = [text]
    if part == "few":
        found.rows.argtypes = [text]
    return found
