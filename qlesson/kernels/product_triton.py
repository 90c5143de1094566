"""Codes times inputs on a GPU: every packed byte is read once, for up to `FEW` inputs.

    float inputs     y = sum_g s_g sum_{k in g} x (q - z), or with a minimum m_g in the place of
                     -s_g z: float sums
    8-bit inputs     y += float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), g ascending: the bits of
                     every other path

A program takes ROWS rows of codes, some parts at a time. A part is 32 neighbours. As
`qlesson.kernels.packed` lays them, a number of 32 bits holds fields of the codes 4 a to 4 a + 3 of
a part, one in each byte; where a part's numbers begin, and how far they lie apart, is all in which
long and short blocks differ. A tile has the shape [inputs, ROWS, parts], and what belongs to a part
stays in one thread.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from qlesson.kernels import modes
from qlesson.kernels.compilers import is_followed, lies_in_memory
from qlesson.kernels.packed import BLOCK, fields
from qlesson.kernels.product import SCALES, Packed

FEW = 8  # inputs
# Whether there are NVIDIA's instructions for bytes: not in Triton's interpreter.
PTX = torch.version.cuda is not None and not triton.knobs.runtime.interpret


def tile(of_ints: bool, m: int) -> tuple[int, int, int]:
    """Rows and parts of a program for m inputs, and its warps."""
    if of_ints:
        return (64, 8, 4) if m < 4 else (64, 8, 4)
    return (32, 32, 4) if m < 4 else (128, 8, 4)


# In all of these w is (words, scale, offset, low, group, row_words, per_row, parts).
@triton.jit
def _field(w, at, A: tl.constexpr, P: tl.constexpr, SHIFT: tl.constexpr, STEP: tl.constexpr):
    """The fields of P bits of the codes 4 A to 4 A + 3 of each part, each in a byte."""
    held = tl.load(w[0] + at + STEP * (SHIFT + A % P))
    return ((held >> (A // P * P)) & ((2**P - 1) * 0x01010101)) << SHIFT if P < 8 else held


@triton.jit
def _quad(w, at, A: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr):
    """The codes 4 A to 4 A + 3 of each part, as the bytes of one number."""
    u = 0
    for e in tl.static_range(4):
        if BITS & (8 >> e):  # the wider fields hold lower bits
            u |= _field(w, at, A, 8 >> e, BITS // (16 >> e) * (16 >> e), STEP)
    return u


@triton.jit
def _as_float(x):
    return x.to(tl.float32, bitcast=True)


@triton.jit
def _floats(u, PTX: tl.constexpr):
    """The floats 2^23 + u of its four bytes: each in the lowest bits of 2^23."""
    if PTX:
        a, b, c, d = tl.inline_asm_elementwise(
            "prmt.b32 $0, $4, 0x4B000000, 0x7440; prmt.b32 $1, $4, 0x4B000000, 0x7441;"
            "prmt.b32 $2, $4, 0x4B000000, 0x7442; prmt.b32 $3, $4, 0x4B000000, 0x7443;",
            "=r,=r,=r,=r,r", [u], (tl.int32, tl.int32, tl.int32, tl.int32), True, 1
        )  # fmt: skip
    else:
        a, b = (u & 255) | 0x4B000000, ((u >> 8) & 255) | 0x4B000000
        c, d = ((u >> 16) & 255) | 0x4B000000, ((u >> 24) & 255) | 0x4B000000
    return _as_float(a), _as_float(b), _as_float(c), _as_float(d)


@triton.jit
def _dot4(u, x, y, PTX: tl.constexpr):
    """y + sum_i u_i x_i, of the four bytes of each: those of u count from 0, of x from -128."""
    if PTX:
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [u, x, y], tl.int32, True, 1
        )
    for i in tl.static_range(4):
        y += ((u >> (8 * i)) & 255) * ((x << (24 - 8 * i)) >> 24)
    return y


@triton.jit
def _steps(w, row, part, KIND: tl.constexpr):
    """Of each part: its scale, which code stands for 0.0, and its minimum, or 0."""
    _, scale, offset, low, group, _, per_row, _ = w
    home = row * per_row + 32 * part // group
    s = tl.load(scale + home).to(tl.float32)
    zero, minimum = (s * 0).to(tl.int32) + low, s * 0
    if KIND == 1:
        zero += tl.load(offset + home).to(tl.int32)
    if KIND == 2:
        minimum = tl.load(offset + home).to(tl.float32)
    return s, zero, minimum


@triton.jit
def _begin(w, row, part, BITS: tl.constexpr, IN_LONG: tl.constexpr):
    """Where the numbers of each part begin."""
    _, _, _, _, _, row_words, _, _ = w
    return row * row_words + (part // 8 * (8 * BITS) + part % 8 if IN_LONG else part * BITS)


@triton.jit
def _add_floats(
    y, w, x, row, i, part, BITS: tl.constexpr, KIND: tl.constexpr, IN_LONG: tl.constexpr,
    PTX: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """y [M, ROWS, J] and what each part adds to it. 2^23 + u less 2^23 + z is exact. Many inputs
    meet codes times their scale: that is less to keep."""
    _, _, _, _, _, _, _, parts = w
    s, zero, minimum = _steps(w, row, part, KIND)
    zero = zero.to(tl.float32) + 8388608.0
    sums, x_sums = tl.zeros([M, ROWS, J], tl.float32), tl.zeros([M, 1, J], tl.float32)
    at, inputs = _begin(w, row, part, BITS, IN_LONG), x + i * 32 * parts + part
    for a in tl.static_range(8):
        u = _floats(_quad(w, at, a, BITS, 8 if IN_LONG else 1), PTX)
        for k in tl.static_range(4):
            x_k = tl.load(inputs + (4 * a + k) * parts)
            if M > 2:
                y += x_k * ((u[k] - zero) * s)
            else:
                sums += x_k * (u[k] - zero)
            x_sums += x_k
    y = y if M > 2 else y + sums * s
    return y + x_sums * minimum if KIND == 2 else y


@triton.jit
def _int_parts(
    w, x, row, i, z_x, part, BITS: tl.constexpr, KIND: tl.constexpr,
    IN_LONG: tl.constexpr, PTX: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """Of each part sum_k (x - z_x)(q - z) [M, ROWS, J], by its four terms, and the scale."""
    _, _, _, _, _, _, _, parts = w
    s, zero, _ = _steps(w, row, part, KIND)
    sums, x_sums = tl.zeros([M, ROWS, J], tl.int32), tl.zeros([M, 1, J], tl.int32)
    u_sums, ones = tl.zeros([1, ROWS, J], tl.int32), tl.full([1, 1, 1], 0x01010101, tl.int32)
    at, inputs = _begin(w, row, part, BITS, IN_LONG), x + i * 8 * parts + part
    for a in tl.static_range(8):
        u = _quad(w, at, a, BITS, 8 if IN_LONG else 1)
        x_a = tl.load(inputs + a * parts)
        sums = _dot4(u, x_a, sums, PTX)
        u_sums = _dot4(u, ones, u_sums, PTX)
        x_sums = _dot4(ones, x_a, x_sums, PTX)
    return sums - z_x * u_sums - zero * (x_sums - 32 * z_x), s


@triton.jit
def _add_integers(
    y, acc, sums, s, s_x, first, end, COUNT: tl.constexpr, J: tl.constexpr, GROUP: tl.constexpr
):  # fmt: skip
    """y and the running sum acc [M, ROWS] after COUNT parts of J: acc goes into y where a group
    ends, and with the part `end`."""
    part = tl.arange(0, J)[None, None, :]
    adds = sums.to(tl.float32) * (s_x * s)
    for j in tl.static_range(COUNT):
        if GROUP == 32:
            y += tl.sum(tl.where(part == j, adds, 0), 2)
        else:
            acc += tl.sum(tl.where(part == j, sums, 0), 2)
            if ((first + j + 1) * 32 % GROUP == 0) | (first + j == end):
                s_j = tl.sum(tl.where(part == j, s, 0), 2)
                y += acc.to(tl.float32) * (tl.sum(s_x, 2) * s_j)
                acc = acc * 0
    return y, acc


@triton.jit
def _last_field(packed, at, LAST: tl.constexpr, P: tl.constexpr, SHIFT: tl.constexpr):
    k = tl.arange(0, 32)[None, None, :]
    held = tl.load(packed + at + LAST * SHIFT // 8 + k % (LAST * P // 8)).to(tl.int32)
    return ((held >> (k // (LAST * P // 8) * P % 8)) & (2**P - 1)) << SHIFT


@triton.jit
def _last_codes(w, packed, row, LAST: tl.constexpr, BITS: tl.constexpr):
    """The codes of the shorter block at the end of a row [1, ROWS, 32], of which it holds LAST."""
    _, _, _, _, _, row_words, _, parts = w
    at = row * 4 * row_words + 4 * BITS * parts
    u = 0
    for e in tl.static_range(4):
        if BITS & (8 >> e):
            u |= _last_field(packed, at, LAST, 8 >> e, BITS // (16 >> e) * (16 >> e))
    return u


@triton.jit
def _some(first, n, SIZE: tl.constexpr):
    """So many numbers from the first on; those from n on are n - 1."""
    return tl.minimum(first + tl.arange(0, SIZE), n - 1)


@triton.jit
def _store(y, out, n, m, M: tl.constexpr, ROWS: tl.constexpr):
    i, row = tl.arange(0, M)[:, None], tl.program_id(0) * ROWS + tl.arange(0, ROWS)[None, :]
    tl.store(y + i.to(tl.int64) * n + row, out, (row < n) & (i < m))


@triton.jit
def _linear(
    packed, words, scale, offset, x, last, y, n, m,
    M: tl.constexpr, ROWS: tl.constexpr, J: tl.constexpr, PTX: tl.constexpr, WIDTH: tl.constexpr,
    BITS: tl.constexpr, LOW: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
    ROW_WORDS: tl.constexpr, PER_ROW: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """y [m, n] of float x [m, 32, WIDTH // 32] and the rest of each input, last [m, 32]."""
    PARTS: tl.constexpr = WIDTH // 32
    IN_LONG: tl.constexpr = WIDTH // 256 * 8
    w = words, scale, offset, LOW, GROUP, ROW_WORDS, PER_ROW, PARTS
    row = _some(tl.program_id(0) * ROWS, n, ROWS).to(tl.int64)[None, :, None]
    i = _some(0, m, M)[:, None, None]
    out = tl.zeros([M, ROWS], tl.float32)
    if IN_LONG >= J:
        many = tl.zeros([M, ROWS, J], tl.float32)
        for first in range(0, IN_LONG // J * J, J):
            part = first + tl.arange(0, J)[None, None, :]
            many = _add_floats(many, w, x, row, i, part, BITS, KIND, True, PTX, M, ROWS, J)
        out += tl.sum(many, 2)
    if IN_LONG % J:
        some = tl.zeros([M, ROWS, 8], tl.float32)
        for first in range(IN_LONG // J * J, IN_LONG, 8):
            part = first + tl.arange(0, 8)[None, None, :]
            some = _add_floats(some, w, x, row, i, part, BITS, KIND, True, PTX, M, ROWS, 8)
        out += tl.sum(some, 2)
    if IN_LONG < PARTS:
        part = _some(IN_LONG, PARTS, 8)[None, None, :]
        few = tl.zeros([M, ROWS, 8], tl.float32)
        few = _add_floats(few, w, x, row, i, part, BITS, KIND, False, PTX, M, ROWS, 8)
        there = IN_LONG + tl.arange(0, 8)[None, None, :] < PARTS
        out += tl.sum(tl.where(there, few, 0), 2)
    if LAST:
        s, zero, minimum = _steps(w, row, tl.full([1, 1, 1], PARTS, tl.int32), KIND)
        x_k = tl.load(last + i * 32 + tl.arange(0, 32)[None, None, :]).to(tl.float32)
        q = (_last_codes(w, packed, row, LAST, BITS) - zero).to(tl.float32)
        out += tl.sum(x_k * q * s + x_k * minimum, 2)
    _store(y, out, n, m, M, ROWS)


@triton.jit
def _int_linear(
    packed, words, scale, offset, x, last, y, s_x, z_x, n, m,
    M: tl.constexpr, ROWS: tl.constexpr, J: tl.constexpr, PTX: tl.constexpr, WIDTH: tl.constexpr,
    BITS: tl.constexpr, LOW: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
    ROW_WORDS: tl.constexpr, PER_ROW: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """The same of 8-bit x, four to a number, with a scale and a zero point for each input."""
    PARTS: tl.constexpr = WIDTH // 32
    IN_LONG: tl.constexpr = WIDTH // 256 * 8
    END: tl.constexpr = (WIDTH - 1) // 32  # the last part
    w = words, scale, offset, LOW, GROUP, ROW_WORDS, PER_ROW, PARTS
    row = _some(tl.program_id(0) * ROWS, n, ROWS).to(tl.int64)[None, :, None]
    i = _some(0, m, M)[:, None, None]
    s_m, z_m = tl.load(s_x + i), tl.load(z_x + i)
    out, acc = tl.zeros([M, ROWS], tl.float32), tl.zeros([M, ROWS], tl.int32)
    for first in range(0, IN_LONG // J * J, J):
        part = first + tl.arange(0, J)[None, None, :]
        many, s = _int_parts(w, x, row, i, z_m, part, BITS, KIND, True, PTX, M, ROWS, J)
        out, acc = _add_integers(out, acc, many, s, s_m, first, END, J, J, GROUP)
    for first in range(IN_LONG // J * J, IN_LONG, 8):
        part = first + tl.arange(0, 8)[None, None, :]
        sums, s = _int_parts(w, x, row, i, z_m, part, BITS, KIND, True, PTX, M, ROWS, 8)
        out, acc = _add_integers(out, acc, sums, s, s_m, first, END, 8, 8, GROUP)
    if IN_LONG < PARTS:
        part = _some(IN_LONG, PARTS, 8)[None, None, :]
        sums, s = _int_parts(w, x, row, i, z_m, part, BITS, KIND, False, PTX, M, ROWS, 8)
        out, acc = _add_integers(out, acc, sums, s, s_m, IN_LONG, END, PARTS - IN_LONG, 8, GROUP)
    if LAST:
        s, zero, _ = _steps(w, row, tl.full([1, 1, 1], PARTS, tl.int32), KIND)
        k = tl.arange(0, 32)[None, None, :]
        x_k = tl.load(last + i * 32 + k).to(tl.int32) - z_m
        products = x_k * (_last_codes(w, packed, row, LAST, BITS) - zero)
        sums = tl.sum(tl.where(32 * PARTS + k < WIDTH, products, 0), 2, keep_dims=True)
        out, acc = _add_integers(out, acc, sums, s, s_m, PARTS, END, 1, 1, GROUP)
    _store(y, out, n, m, M, ROWS)


# --- what Python calls, as in qlesson.kernels.product ---
def runs(m: int, x: Tensor, w: Packed) -> bool:
    """Whether the kernels take m inputs, x's dtype and such codes, and are asked for.

    They compile for about a second, and without them W_hat is made anew for each input, operation
    by operation: "auto" does not wait.
    """
    if modes._state["mode"] == "eager" or modes._state["broken"] or is_followed():
        return False
    if not 0 < m <= FEW or x.dtype == torch.float64 or w.scale.dtype not in SCALES:
        return False
    if w.scale.shape[1] > 1 and w.group_size % BLOCK:
        return False
    return all(map(lies_in_memory, (x, w.packed, w.scale)))


def linear(x: Tensor, w: Packed) -> Tensor:
    """x W_hat^T, float32 [m, rows], for float x [m, width]."""
    return _launch(_linear, x, w)


def int_linear(codes: Tensor, scale: Tensor, zero_point: Tensor, w: Packed) -> Tensor:
    """y = sum_g float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), float32 [m, rows].

    codes       int8 [m, width]
    scale       float32 [m], of the inputs
    zero_point  int32 [m], of the inputs
    """
    return _launch(_int_linear, codes, w, scale.contiguous(), zero_point.contiguous())


def _launch(kernel: Any, x: Tensor, w: Packed, *of_inputs: Tensor) -> Tensor:
    m, n, width = len(x), len(w.packed), w.width
    y = x.new_empty(m, n, dtype=torch.float32)
    packed, whole = w.packed.contiguous(), width // BLOCK * BLOCK
    if packed.shape[1] % 4 or packed.data_ptr() % 4:  # a row begins inside of a number
        packed = F.pad(packed, (0, -packed.shape[1] % 4)).clone()
    last = F.pad(x[:, whole:], (0, whole + BLOCK - width)) if whole < width else x
    offset = w.scale if w.offset is None else w.offset
    most, step = triton.next_power_of_2(m), 8 // fields(w.bits)[-1][0]
    rows, parts, warps = tile(kernel is _int_linear, most)
    with torch.cuda.device_of(x):
        kernel[triton.cdiv(n, rows),](
            packed, packed.view(torch.int32), w.scale.contiguous(), offset.contiguous(),
            _by_parts(x[:, :whole]), last, y, *of_inputs, n, m,
            M=most, ROWS=rows, J=parts, PTX=PTX, WIDTH=width, BITS=w.bits,
            LOW=2 ** (w.bits - 1) if w.signed else 0,
            KIND=0 if w.offset is None else 1 + w.offset.is_floating_point(), GROUP=w.group_size,
            ROW_WORDS=packed.shape[1] // 4, PER_ROW=0 if len(w.scale) == 1 else w.scale.shape[1],
            LAST=-(-(width % BLOCK) // step) * step,
            enable_fp_fusion=kernel is _linear, num_warps=warps,
        )  # fmt: skip
    return y


def _by_parts(x: Tensor) -> Tensor:
    """x [m, n]: the first of each part, the second of each part, and so on, in float32; of int8 the
    first four, the next four, each as one number. Threads beside each other take parts beside each
    other, so what they read lies together."""
    if x.dtype == torch.int8:
        return x.reshape(len(x), -1, 8, 4).transpose(1, 2).contiguous().view(torch.int32)
    x = x.reshape(len(x), -1, BLOCK).transpose(1, 2)
    return torch.empty(x.shape, dtype=torch.float32, device=x.device).copy_(x)
