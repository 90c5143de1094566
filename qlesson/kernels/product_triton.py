"""Codes times inputs on a GPU: every packed byte is read once for up to `FEW` inputs.
(Rows whose bytes are no multiple of 4 are copied first.)

    float inputs     y = sum_g s_g sum_{k in g} x (q - z), or with a minimum m_g in the place of
                     -s_g z: float sums
    8-bit inputs     y += float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), g ascending: the bits of
                     every other path

A program takes ROWS rows of codes, some words of them at a time. A word is 32 bits of the widest
field (P bits) of some codes; as `qlesson.kernels.packed` lays them, its four bytes belong to the
codes 4 a to 4 a + 3 of a part, 32 neighbours, for a = A, A + P, A + 2 P, ..., from its lowest bits
on. Narrower fields of the same codes are in words of their own. The inputs are brought into this
order first, so that threads beside each other, which have words beside each other, read inputs
beside each other. A tile has the shape [inputs, ROWS, words].
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from qlesson.kernels import modes
from qlesson.kernels.compilers import is_followed, lies_in_memory
from qlesson.kernels.packed import BLOCK, LONG, fields
from qlesson.kernels.product import SCALES, Packed

FEW = 8  # inputs at a time
ONES = tl.constexpr(0x01010101)  # a byte each
MOST = 128  # inputs: for more, W_hat is made, some rows at a time; 8-bit ones in groups have none
# Whether there are NVIDIA's instructions for bytes: not in Triton's interpreter.
PTX = torch.version.cuda is not None and not triton.knobs.runtime.interpret


def tile(kernel: Any, m: int, p: int, each: int) -> tuple[int, int, int]:
    """For m inputs: rows of a program, long blocks that it takes at a time, and its warps.

    Found on an H200 for words of p = 4 bits, groups of 32 (each = 1), and 1 and 8 inputs.
    """
    if kernel is _int_linear:
        if each > 1:
            return 64, 1, 4
        return (16, 2, 2) if m < 4 else (32, 1, 4)
    blocks = 8 // p  # 64 words; for many inputs 32, where a block has no more
    return (64, blocks, 4 * m) if m < 4 else (64, max(1, blocks // 2), 16)


# In all of these w is (words, scale, offset, low, row_words, per_row, parts).
@triton.jit
def _places(word, first, parts, P: tl.constexpr, BITS: tl.constexpr, BLOCKS: tl.constexpr):
    """Of so many words, beginning with the block `first`: their part, A, and where in the row the
    first word of a field lies."""
    if BLOCKS:
        block = first + word // (8 * P)
        return 8 * block + word % 8, word // 8 % P, block * 8 * BITS + word % 8
    block = tl.minimum(first + word // P, parts - 1)
    return block, word % P, block * BITS


@triton.jit
def _field(
    words, at, a, A: tl.constexpr, P: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """The fields of P bits of the codes 4 (a + A) to 4 (a + A) + 3, each in a byte."""
    SHIFT: tl.constexpr = BITS // (2 * P) * (2 * P)
    held = tl.load(words + at + STEP * (SHIFT + a % P))
    return ((held >> ((a + A) // P * P)) & ((2**P - 1) * ONES)) << SHIFT if P < 8 else held


@triton.jit
def _quad(words, at, a, A: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr):
    """The codes 4 (a + A) to 4 (a + A) + 3, as the bytes of one number."""
    u = 0
    for e in tl.static_range(4):
        if BITS & (8 >> e):  # the wider fields hold lower bits
            u |= _field(words, at, a, A, 8 >> e, BITS, STEP)
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
def _steps(w, row, part, KIND: tl.constexpr, EACH: tl.constexpr):
    """Of each part: its scale, which code stands for 0.0, and its minimum, or 0."""
    _, scale, offset, low, _, per_row, _ = w
    home = row * per_row + (part if EACH == 1 else part // EACH)
    s = tl.load(scale + home).to(tl.float32)
    zero, minimum = (home * 0).to(tl.int32) + low, (home * 0).to(tl.float32)
    if KIND == 1:
        zero += tl.load(offset + home).to(tl.int32)
    if KIND == 2:
        minimum = tl.load(offset + home).to(tl.float32)
    return s, zero, minimum


# BLOCKS long blocks from the block `first` on, or with 0 the short ones, at most eight.
@triton.jit
def _add_floats(
    y, w, x, row, i, first, M: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr,
    BITS: tl.constexpr, P: tl.constexpr, KIND: tl.constexpr, EACH: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """y [M, ROWS, W] and what each of W words adds to it. 2^23 + u less 2^23 + z is exact. Many
    inputs meet codes times their scale: that is less to keep."""
    words, _, _, _, row_words, _, parts = w
    W: tl.constexpr = 8 * P * (BLOCKS if BLOCKS else 1)
    word = tl.arange(0, W)[None, None, :]
    part, a, at = _places(word, first, parts, P, BITS, BLOCKS)
    s, zero, minimum = _steps(w, row, part, KIND, EACH)
    zero = zero.to(tl.float32) + 8388608.0
    sums, x_sums = tl.zeros([M, ROWS, W], tl.float32), tl.zeros([M, 1, W], tl.float32)
    inputs = x + i * 32 * parts + (first * 8 * P + word if BLOCKS else part * P + a)
    for t in tl.static_range(8 // P):
        u = _quad(words, row * row_words + at, a, t * P, BITS, 8 if BLOCKS else 1)
        codes = _floats(u, PTX)
        for k in tl.static_range(4):
            x_k = tl.load(inputs + (4 * t + k) * (parts * P))
            if M > 2:
                y += x_k * ((codes[k] - zero) * s)
            else:
                sums += x_k * (codes[k] - zero)
            x_sums += x_k
    y = y if M > 2 else y + sums * s
    return y + x_sums * minimum if KIND == 2 else y


@triton.jit
def _int_parts(
    w, x, row, i, z_x, first, M: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr,
    BITS: tl.constexpr, KIND: tl.constexpr, EACH: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Of J parts sum_k (x - z_x)(q - z) [M, ROWS, J], by its four terms, and the scale. What
    belongs to a part stays in one thread, as if words were of fields of one bit."""
    words, _, _, _, row_words, _, parts = w
    J: tl.constexpr = 8 * (BLOCKS if BLOCKS else 1)
    part, _, at = _places(tl.arange(0, J)[None, None, :], first, parts, 1, BITS, BLOCKS)
    s, zero, _ = _steps(w, row, part, KIND, EACH)
    sums, x_sums = tl.zeros([M, ROWS, J], tl.int32), tl.zeros([M, 1, J], tl.int32)
    u_sums, ones = tl.zeros([1, ROWS, J], tl.int32), tl.full([1, 1, 1], ONES, tl.int32)
    inputs = x + i * 8 * parts + part
    for a in tl.static_range(8):
        u = _quad(words, row * row_words + at, a, 0, BITS, 8 if BLOCKS else 1)
        x_a = tl.load(inputs + a * parts)
        sums = _dot4(u, x_a, sums, PTX)
        u_sums = _dot4(u, ones, u_sums, PTX)
        x_sums = _dot4(ones, x_a, x_sums, PTX)
    return sums - z_x * u_sums - zero * (x_sums - 32 * z_x), s


@triton.jit
def _add_integers(
    y, acc, sums, s, s_x, first, end, COUNT: tl.constexpr, J: tl.constexpr, EACH: tl.constexpr
):  # fmt: skip
    """y and the running sum acc [M, ROWS] after COUNT parts of J: acc goes into y where a group
    ends, and with the part `end`."""
    part = tl.arange(0, J)[None, None, :]
    adds = sums.to(tl.float32) * (s_x * s)
    for j in tl.static_range(COUNT):
        if EACH == 1:
            y += tl.sum(tl.where(part == j, adds, 0), 2)
        else:
            acc += tl.sum(tl.where(part == j, sums, 0), 2)
            ends = ((first + j + 1) % EACH == 0) | (first + j == end)
            s_j = tl.sum(s_x, 2) * tl.sum(tl.where(part == j, s, 0), 2)
            y += tl.where(ends, acc.to(tl.float32) * s_j, 0)
            acc = tl.where(ends, 0, acc)
    return y, acc


@triton.jit
def _last_field(packed, at, LAST: tl.constexpr, P: tl.constexpr, SHIFT: tl.constexpr):
    k = tl.arange(0, 32)[None, None, :]
    held = tl.load(packed + at + LAST * SHIFT // 8 + k % (LAST * P // 8)).to(tl.int32)
    return ((held >> (k // (LAST * P // 8) * P % 8)) & (2**P - 1)) << SHIFT


@triton.jit
def _last_codes(w, packed, row, LAST: tl.constexpr, BITS: tl.constexpr):
    """The codes of the shorter block at the end of a row [1, ROWS, 32], of which it holds LAST."""
    _, _, _, _, row_words, _, parts = w
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
    M: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, PTX: tl.constexpr,
    WIDTH: tl.constexpr, BITS: tl.constexpr, P: tl.constexpr, LOW: tl.constexpr,
    KIND: tl.constexpr, EACH: tl.constexpr, ROW_WORDS: tl.constexpr, PER_ROW: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """y [m, n] of float x in the words' order, and the rest of each input, last [m, 32]."""
    PARTS: tl.constexpr = WIDTH // 32
    LONG: tl.constexpr = WIDTH // 256
    w = words, scale, offset, LOW, ROW_WORDS, PER_ROW, PARTS
    row = _some(tl.program_id(0) * ROWS, n, ROWS).to(tl.int64)[None, :, None]
    i = _some(0, m, M)[:, None, None]
    out = tl.zeros([M, ROWS], tl.float32)
    if LONG:
        y_w = tl.zeros([M, ROWS, 8 * P * BLOCKS], tl.float32)
        for first in range(0, LONG, BLOCKS):
            y_w = _add_floats(y_w, w, x, row, i, first, M, ROWS, BLOCKS, BITS, P, KIND, EACH, PTX)
        out += tl.sum(y_w, 2)
    if 8 * LONG < PARTS:
        few = tl.zeros([M, ROWS, 8 * P], tl.float32)
        few = _add_floats(few, w, x, row, i, 8 * LONG, M, ROWS, 0, BITS, P, KIND, EACH, PTX)
        there = 8 * LONG + tl.arange(0, 8 * P)[None, None, :] // P < PARTS
        out += tl.sum(tl.where(there, few, 0), 2)
    if LAST:
        s, zero, minimum = _steps(w, row, tl.full([1, 1, 1], PARTS, tl.int32), KIND, EACH)
        k = tl.arange(0, 32)[None, None, :]
        x_k = tl.load(last + i * 32 + k).to(tl.float32)
        q = (_last_codes(w, packed, row, LAST, BITS) - zero).to(tl.float32)
        rest = x_k * q * s + x_k * minimum if KIND == 2 else x_k * q * s
        out += tl.sum(tl.where(32 * PARTS + k < WIDTH, rest, 0), 2)
    _store(y, out, n, m, M, ROWS)


@triton.jit
def _int_linear(
    packed, words, scale, offset, x, last, y, s_x, z_x, n, m,
    M: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, PTX: tl.constexpr,
    WIDTH: tl.constexpr, BITS: tl.constexpr, LOW: tl.constexpr,
    KIND: tl.constexpr, EACH: tl.constexpr, ROW_WORDS: tl.constexpr, PER_ROW: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """The same of 8-bit x, four to a number, with a scale and a zero point for each input."""
    PARTS: tl.constexpr = WIDTH // 32
    LONG: tl.constexpr = WIDTH // 256
    END: tl.constexpr = (WIDTH - 1) // 32  # the last part
    w = words, scale, offset, LOW, ROW_WORDS, PER_ROW, PARTS
    row = _some(tl.program_id(0) * ROWS, n, ROWS).to(tl.int64)[None, :, None]
    i = _some(0, m, M)[:, None, None]
    s_m, z_m = tl.load(s_x + i), tl.load(z_x + i)
    out, acc = tl.zeros([M, ROWS], tl.float32), tl.zeros([M, ROWS], tl.int32)
    for first in range(0, LONG, BLOCKS):
        sums, s = _int_parts(w, x, row, i, z_m, first, M, ROWS, BLOCKS, BITS, KIND, EACH, PTX)
        out, acc = _add_integers(
            out, acc, sums, s, s_m, 8 * first, END, 8 * BLOCKS, 8 * BLOCKS, EACH
        )
    if 8 * LONG < PARTS:
        few, s = _int_parts(w, x, row, i, z_m, 8 * LONG, M, ROWS, 0, BITS, KIND, EACH, PTX)
        out, acc = _add_integers(out, acc, few, s, s_m, 8 * LONG, END, PARTS - 8 * LONG, 8, EACH)
    if LAST:
        s, zero, _ = _steps(w, row, tl.full([1, 1, 1], PARTS, tl.int32), KIND, EACH)
        k = tl.arange(0, 32)[None, None, :]
        x_k = tl.load(last + i * 32 + k).to(tl.int32) - z_m
        products = x_k * (_last_codes(w, packed, row, LAST, BITS) - zero)
        rest = tl.sum(tl.where(32 * PARTS + k < WIDTH, products, 0), 2, keep_dims=True)
        out, acc = _add_integers(out, acc, rest, s, s_m, PARTS, END, 1, 1, EACH)
    _store(y, out, n, m, M, ROWS)


# --- what Python calls, as in qlesson.kernels.product ---
def runs(m: int, x: Tensor, w: Packed) -> bool:
    """Whether the kernels take m inputs, x's dtype and such codes, and are asked for. For 8-bit
    inputs x is their scale.

    They compile for a second or two, for each width and for 1, 2, up to 4 and up to 8 inputs.
    Without them W_hat is made anew for each call, operation by operation: so "auto" takes them
    from the first call on.
    """
    if modes._state["mode"] == "eager" or modes._state["broken"] or is_followed():
        return False
    if not m or x.dtype == torch.float64 or w.scale.dtype not in SCALES:
        return False
    if w.scale.shape[1] > 1 and w.group_size % BLOCK:
        return False
    return all(map(lies_in_memory, (x, w.packed, w.scale)))


def linear(x: Tensor, w: Packed) -> Tensor:
    """x W_hat^T, float32 [m, rows], for float x [m, width]."""
    return _by_few(_linear, w, x)


def int_linear(codes: Tensor, scale: Tensor, zero_point: Tensor, w: Packed) -> Tensor:
    """y = sum_g float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), float32 [m, rows].

    codes       int8 [m, width]
    scale       float32 [m], of the inputs
    zero_point  int32 [m], of the inputs
    """
    return _by_few(_int_linear, w, codes, scale.contiguous(), zero_point.contiguous())


def _by_few(kernel: Any, w: Packed, *inputs: Tensor) -> Tensor:
    few = zip(*(x.split(FEW) for x in inputs), strict=True)
    parts = [_launch(kernel, x, w, *steps) for x, *steps in few]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _launch(kernel: Any, x: Tensor, w: Packed, *of_inputs: Tensor) -> Tensor:
    m, n, width = len(x), len(w.packed), w.width
    y = x.new_empty(m, n, dtype=torch.float32)
    packed, parts = w.packed.contiguous(), width // BLOCK
    if packed.shape[1] % 4:  # a row begins inside of a word
        packed = F.pad(packed, (0, -packed.shape[1] % 4))
    elif packed.data_ptr() % 4 or packed.storage_offset() % 4:
        packed = packed.clone()
    last = F.pad(x[:, BLOCK * parts :], (0, BLOCK * (parts + 1) - width)) if width % BLOCK else x
    offset, per_row = w.scale if w.offset is None else w.offset, w.scale.shape[1]
    most, sizes = triton.next_power_of_2(m), [p for p, _ in fields(w.bits)]
    each = w.group_size // BLOCK if per_row > 1 else parts + 1
    rows, blocks, warps = tile(kernel, most, sizes[0], each)
    blocks = math.gcd(blocks, width // LONG) or 1
    how = {"P": sizes[0]} if kernel is _linear else {}
    step = 8 // sizes[-1]
    with torch.cuda.device_of(x):
        kernel[triton.cdiv(n, rows),](
            packed, packed.reshape(-1).view(torch.int32), w.scale.contiguous(), offset.contiguous(),
            _in_words(x[:, : BLOCK * parts], how.get("P", 1)), last, y, *of_inputs, n, m,
            M=most, ROWS=rows, BLOCKS=blocks, PTX=PTX, WIDTH=width, BITS=w.bits, **how,
            LOW=2 ** (w.bits - 1) if w.signed else 0,
            KIND=0 if w.offset is None else 1 + w.offset.is_floating_point(),
            EACH=each, ROW_WORDS=packed.shape[1] // 4, PER_ROW=0 if len(w.scale) == 1 else per_row,
            LAST=-(-(width % BLOCK) // step) * step,
            enable_fp_fusion=kernel is _linear, num_warps=warps,
        )  # fmt: skip
    return y


def _in_words(x: Tensor, p: int) -> Tensor:
    """x [m, n] as [m, 8 / p, 4, words] in float32: what the four bytes of each word of fields of p
    bits meet, from its lowest bits on; of int8 the four are one number."""
    m, n = x.shape
    of_ints, turns = x.dtype == torch.int8, 8 // p
    words, in_long, whole = n // BLOCK * p, n // LONG * 8 * p, n // LONG * LONG
    y = x.new_empty(m, turns, words, 4)
    if not of_ints:
        y = x.new_empty(m, turns, 4, words, dtype=torch.float32)
    held = y if of_ints else y.transpose(2, 3)
    if in_long:
        blocks = x[:, :whole].reshape(m, -1, 8, turns, p, 4)
        held[:, :, :in_long].unflatten(2, (-1, p, 8)).copy_(blocks.permute(0, 3, 1, 4, 2, 5))
    if in_long < words:
        blocks = x[:, whole:].reshape(m, -1, turns, p, 4)
        held[:, :, in_long:].unflatten(2, (-1, p)).copy_(blocks.permute(0, 2, 1, 3, 4))
    return y.view(torch.int32) if of_ints else y
