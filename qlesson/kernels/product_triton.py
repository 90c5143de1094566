"""Codes times inputs on a GPU: every packed byte is read once, for up to `FEW` inputs.

    float inputs     y = sum_g s_g sum_{k in g} x (q - z), or with a minimum m_g in the place of
                     -s_g z: float sums
    8-bit inputs     y += float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), g ascending: the bits of
                     every other path

A program takes ROWS rows of codes, block by block as `qlesson.kernels.packed` lays them. A block is
a tile [ROWS, A, J, W]: in the order that is packed, code 32 a + 4 j + w is one of the 32 neighbours
that are part j. A long block of 256 codes has (A, J, W) = (8, 8, 4), one of 32 has (1, 1, 32). The
inputs are brought into the same order first, and filled up with zeros.

Tests compare it in Triton's interpreter. Its speed has not been measured on a GPU.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from qlesson.kernels import modes
from qlesson.kernels.compilers import is_followed, lies_in_memory
from qlesson.kernels.packed import BLOCK, fields, filled, ordered
from qlesson.kernels.product import SCALES, Packed

FEW = 8  # inputs
ROWS = 16  # times inputs, to a program: its tile then fits into registers


@triton.jit
def _field(packed, i, size, BITS: tl.constexpr, P: tl.constexpr):
    """The field of P bits of the codes i, where it belongs; the wider fields hold lower bits."""
    shift, n = BITS // (2 * P) * (2 * P), size * P // 8
    held = tl.load(packed + size * shift // 8 + i % n).to(tl.int32)
    return ((held >> (i // n * P % 8)) & (2**P - 1)) << shift


@triton.jit
def _codes(packed, i, size, BITS: tl.constexpr):
    """The codes i, from 0 on, of the block of so many codes at `packed`."""
    u = 0
    for e in tl.static_range(4):
        if BITS & (8 >> e):
            u |= _field(packed, i, size, BITS, 8 >> e)
    return u


@triton.jit
def _sums(x, q):
    """sum_k x q of each part [M, ROWS, J], of x [M, A, J, W] and q [ROWS, A, J, W]."""
    return tl.sum(tl.sum(x[:, None] * q[None], 4), 2)


@triton.jit
def _block(
    w, x, row, first, size,
    M: tl.constexpr, BITS: tl.constexpr, LOW: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
    A: tl.constexpr, J: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """One block: for each of its parts the sum of x (q - z) [M, ROWS, J], that of x [M, J], and
    the place of its scale and offset [ROWS, J]."""
    packed, row_bytes, _, offset, per_row, x_row = w
    part = tl.arange(0, J)
    i = (
        32 * tl.arange(0, A)[:, None, None]
        + 4 * part[None, :, None]
        + tl.arange(0, W)[None, None, :]
    )[None]
    at = row * row_bytes + first * BITS // 8
    q = _codes(packed + at[:, None, None, None], i, size, BITS) - LOW
    home = row[:, None] * per_row + ((first + 32 * part) // GROUP)[None, :]
    if KIND == 1:
        q -= tl.load(offset + home).to(tl.int32)[:, None, :, None]
    m = tl.arange(0, M)[:, None, None, None]
    inputs = tl.load(x + m * x_row + first + i)
    return _sums(inputs, q), tl.sum(tl.sum(inputs, 3), 1), home


@triton.jit
def _add_floats(y, sums, x_sums, scale, minimum, MINIMA: tl.constexpr):
    """y [M, ROWS] and what one block adds: its sums times the scales of its parts."""
    y += tl.sum(sums * tl.load(scale).to(tl.float32)[None], 2)
    if MINIMA:
        y += tl.sum(x_sums[:, None] * tl.load(minimum).to(tl.float32)[None], 2)
    return y


@triton.jit
def _add_integers(
    y, acc, sums, s_x, w, row, first, width, J: tl.constexpr, GROUP: tl.constexpr
):  # fmt: skip
    """y and the running sum acc [M, ROWS] after one block: acc goes into y where a group ends."""
    _, _, scale, _, per_row, _ = w
    for j in tl.static_range(J):
        acc += tl.sum(tl.where(tl.arange(0, J) == j, sums, 0), 2)
        end = first + 32 * (j + 1)
        if (end % GROUP == 0) | (end >= width):
            s_w = tl.load(scale + row * per_row + (end - 32) // GROUP).to(tl.float32)
            y += acc.to(tl.float32) * (s_x[:, None] * s_w[None, :])
            acc = acc * 0
    return y, acc


@triton.jit
def _rows(n, ROWS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return tl.minimum(row, n - 1), row < n


@triton.jit
def _linear(
    packed, scale, offset, x, y, n, m, width, row_bytes, per_row, x_row, LAST: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr,
    BITS: tl.constexpr, LOW: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """y [m, n] of float x [M, x_row]; LAST codes to the last, shorter block."""
    w = packed, row_bytes, scale, offset, per_row, x_row
    row, there = _rows(n, ROWS)
    out = tl.zeros([M, ROWS], tl.float32)
    for b in range(width // 256):
        sums, x_sums, home = _block(w, x, row, 256 * b, 256, M, BITS, LOW, KIND, GROUP, 8, 8, 4)
        out = _add_floats(out, sums, x_sums, scale + home, offset + home, KIND == 2)
    for b in range(width // 256 * 8, width // 32):
        sums, x_sums, home = _block(w, x, row, 32 * b, 32, M, BITS, LOW, KIND, GROUP, 1, 1, 32)
        out = _add_floats(out, sums, x_sums, scale + home, offset + home, KIND == 2)
    if LAST:
        first = width // 32 * 32
        sums, x_sums, home = _block(w, x, row, first, LAST, M, BITS, LOW, KIND, GROUP, 1, 1, 32)
        out = _add_floats(out, sums, x_sums, scale + home, offset + home, KIND == 2)
    i = tl.arange(0, M)[:, None]
    tl.store(y + i * n + row[None, :], out, there[None, :] & (i < m))


@triton.jit
def _int_linear(
    packed, scale, offset, x, y, s_x, n, m, width, row_bytes, per_row, x_row, LAST: tl.constexpr,
    M: tl.constexpr, ROWS: tl.constexpr,
    BITS: tl.constexpr, LOW: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The same of integer x and a scale for each of them."""
    w = packed, row_bytes, scale, offset, per_row, x_row
    row, there = _rows(n, ROWS)
    i = tl.arange(0, M)
    s = tl.load(s_x + i, i < m, 0)
    out, acc = tl.zeros([M, ROWS], tl.float32), tl.zeros([M, ROWS], tl.int32)
    for b in range(width // 256):
        sums, _, _ = _block(w, x, row, 256 * b, 256, M, BITS, LOW, KIND, GROUP, 8, 8, 4)
        out, acc = _add_integers(out, acc, sums, s, w, row, 256 * b, width, 8, GROUP)
    for b in range(width // 256 * 8, width // 32):
        sums, _, _ = _block(w, x, row, 32 * b, 32, M, BITS, LOW, KIND, GROUP, 1, 1, 32)
        out, acc = _add_integers(out, acc, sums, s, w, row, 32 * b, width, 1, GROUP)
    if LAST:
        first = width // 32 * 32
        sums, _, _ = _block(w, x, row, first, LAST, M, BITS, LOW, KIND, GROUP, 1, 1, 32)
        out, acc = _add_integers(out, acc, sums, s, w, row, first, width, 1, GROUP)
    i = i[:, None]
    tl.store(y + i * n + row[None, :], out, there[None, :] & (i < m))


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
    return _launch(_linear, x.float(), w)


def int_linear(codes: Tensor, scale: Tensor, zero_point: Tensor, w: Packed) -> Tensor:
    """y = sum_g float(sum_{k in g} (x - z_x)(q - z)) (s_x s_g), float32 [m, rows].

    codes       int8 [m, width]
    scale       float32 [m], of the inputs
    zero_point  int32 [m], of the inputs
    """
    return _launch(_int_linear, codes - zero_point[:, None], w, scale.contiguous())


def _launch(kernel: Any, x: Tensor, w: Packed, *s_x: Tensor) -> Tensor:
    (m, width), (n, row_bytes) = x.shape, w.packed.shape
    y = x.new_empty(m, n, dtype=torch.float32)
    most = triton.next_power_of_2(m)
    x = F.pad(ordered(x), (0, filled(width) - width, 0, most - m)).contiguous()
    step = 8 // fields(w.bits)[-1][0]
    rows = max(4, ROWS // most)
    offset = w.scale if w.offset is None else w.offset
    kind = 0 if w.offset is None else 1 + w.offset.is_floating_point()
    per_row = 0 if len(w.scale) == 1 else w.scale.shape[1]
    with torch.cuda.device_of(x):
        kernel[triton.cdiv(n, rows),](
            w.packed.contiguous(), w.scale.contiguous(), offset.contiguous(), x, y, *s_x,
            n, m, width, row_bytes, per_row, x.shape[1],
            LAST=-(-(width % BLOCK) // step) * step, M=most, ROWS=rows, BITS=w.bits,
            LOW=2 ** (w.bits - 1) if w.signed else 0, KIND=kind, GROUP=w.group_size,
            enable_fp_fusion=kernel is _linear,
        )  # fmt: skip
    return y
