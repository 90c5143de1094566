"""What runs on a GPU: the formula between one reading of r and one store of q.

    q = clip(round(r / s + z), low, high)

Rows [m, n] in memory with a scale and a zero point each. A program takes a tile of ROWS x COLS
values and reads it once. Where a range reaches further than a program, the ends of each tile are
found first, then those of the ends. Triton's own division, minimum and maximum are not those of
torch: `div_rn` rounds correctly, and NaN is asked for by name (notebook 13).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.core import PropagateNan

TILE = 4096  # values to a program
READ = 8192  # the same of one that only reads
WIDEST = 16384  # values of a row that are read once and kept

ALL = tl.constexpr(PropagateNan.ALL)
SHIFT = tl.constexpr(1.5 * 2**23)  # float32 has no fractions from 2^23 on: adding this rounds
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def _clip(x, low, high):
    return tl.minimum(tl.maximum(x, low, ALL), high, ALL)


@triton.jit
def _round_within(x, low, high):
    """round(clip(x, low, high)): for whole low and high the same as clip(round(x), low, high)."""
    return (_clip(x, low, high) + SHIFT) - SHIFT


@triton.jit
def _code(r, scale, zero_point, low, high, INSIDE: tl.constexpr):
    x = tl.div_rn(r, scale)
    if INSIDE:
        return _round_within(x + zero_point, low, high)
    return _clip(_round_within(x, low - high, high - low) + zero_point, low, high)


@triton.jit
def _tile(m, n, ROWS: tl.constexpr, COLS: tl.constexpr):
    across = (n - 1) // COLS + 1  # tl.cdiv would leave int32 first
    down = tl.program_id(0).to(tl.int64) // across
    i = down * ROWS + tl.arange(0, ROWS)[:, None]
    j = (tl.program_id(0) % across) * COLS + tl.arange(0, COLS)[None, :]
    return i, i * n + j, (i < m) & (j < n)


@triton.jit
def _held(scale, zero_point, i, at, there, m, n, each, COLUMNS: tl.constexpr):
    """Scale and zero point of each row of a tile, or of each column in its block of rows."""
    home = at + (i // each - i) * n if COLUMNS else i
    there = there if COLUMNS else i < m
    return tl.load(scale + home, there, 1), tl.load(zero_point + home, there, 0).to(tl.float32)


@triton.jit
def _quantize(
    r, scale, zero_point, q, m, n, each, low, high,
    COLUMNS: tl.constexpr, INSIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    i, at, there = _tile(m, n, ROWS, COLS)
    s, z = _held(scale, zero_point, i, at, there, m, n, each, COLUMNS)
    x = _code(tl.load(r + at, there, 0).to(tl.float32), s, z, low, high, INSIDE)
    tl.store(q + at, x.to(tl.int32).to(q.dtype.element_ty), there)


@triton.jit
def _dequantize(
    q, scale, zero_point, r_hat, m, n, each, largest,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    i, at, there = _tile(m, n, ROWS, COLS)
    s, z = _held(scale, zero_point, i, at, there, m, n, each, COLUMNS)
    x = s * (tl.load(q + at, there, 0).to(tl.float32) - z)
    tl.store(r_hat + at, _clip(x, -largest, largest).to(r_hat.dtype.element_ty), there)


@triton.jit
def _steps(r_min, r_max, low, high, KEPT: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Scale and zero point of ranges; a scale is NaN where an end is."""
    if SYMMETRIC:
        s = tl.div_rn(tl.maximum(-r_min, r_max, ALL), high)
        s = s.to(KEPT).to(tl.float32)
        z = s * 0
    else:
        r_min, r_max = tl.minimum(r_min, 0, ALL), tl.maximum(r_max, 0, ALL)
        s = tl.div_rn(r_max - r_min, high - low)
        s = s.to(KEPT).to(tl.float32)
        z = _round_within(low - tl.div_rn(r_min, s), low, high)
    z = tl.where(s < TINY, 0, z)
    return tl.where(s < TINY, 1, s), z


@triton.jit
def _choose_and_quantize(
    r, scale, zero_point, q, m, n, each, low, high,
    COLUMNS: tl.constexpr, SYMMETRIC: tl.constexpr, INSIDE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    i, at, there = _tile(m, n, ROWS, COLS)
    x = tl.load(r + at, there, 0).to(tl.float32)  # the range holds 0
    r_min, r_max = tl.min(x, 1)[:, None], tl.max(x, 1)[:, None]  # on a GPU without its NaN
    bad = tl.max((x != x).to(tl.int32), 1)[:, None]
    s, z = _steps(r_min, r_max, low, high, scale.dtype.element_ty, SYMMETRIC)
    s = tl.where(bad > 0, float("nan"), s)
    x = _code(x, s, z, low, high, INSIDE)
    tl.store(q + at, x.to(tl.int32).to(q.dtype.element_ty), there)
    tl.store(scale + i, s.to(scale.dtype.element_ty), i < m)
    tl.store(zero_point + i, z.to(tl.int32).to(zero_point.dtype.element_ty), i < m)


@triton.jit
def _ends(
    r, lows, highs, m, n, c, parts, across,
    M: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Of r [m, n, c] the ends of each N values along n: [m, parts, c]. A tile is M x N x C."""
    tile = tl.program_id(0).to(tl.int64)
    part = tile // across % parts
    i = tile // across // parts * M + tl.arange(0, M)[:, None, None]
    j = part * N + tl.arange(0, N)[None, :, None]
    k = tile % across * C + tl.arange(0, C)[None, None, :]
    there = (i < m) & (j < n) & (k < c)
    x = tl.load(r + (i * n + j) * c + k, there, 0).to(tl.float32)
    bad = tl.max((x != x).to(tl.int32), 1, keep_dims=True) > 0
    real = there & (x == x)
    low = tl.min(tl.where(real, x, float("inf")), 1, keep_dims=True)
    high = tl.max(tl.where(real, x, -float("inf")), 1, keep_dims=True)
    at, there = (i * parts + part) * c + k, (i < m) & (k < c)
    tl.store(lows + at, tl.where(bad, float("nan"), low).to(lows.dtype.element_ty), there)
    tl.store(highs + at, tl.where(bad, float("nan"), high).to(highs.dtype.element_ty), there)


@triton.jit
def _choose(
    lows, highs, scale, zero_point, n, low, high, SYMMETRIC: tl.constexpr, COLS: tl.constexpr
):
    j = tl.program_id(0) * COLS + tl.arange(0, COLS)
    r_min = tl.load(lows + j, j < n, 0).to(tl.float32)
    r_max = tl.load(highs + j, j < n, 0).to(tl.float32)
    s, z = _steps(r_min, r_max, low, high, scale.dtype.element_ty, SYMMETRIC)
    tl.store(scale + j, s.to(scale.dtype.element_ty), j < n)
    tl.store(zero_point + j, z.to(tl.int32).to(zero_point.dtype.element_ty), j < n)


# --- what Python calls: contiguous [m, n], a scale and a zero point for each row; or [m, n, c],
# one of each for each column of each [n, c] ---


def quantize(
    r: Tensor, scale: Tensor, zero_point: Tensor, q: Tensor, low: int, high: int, rounding: str
) -> None:
    """Fill q with the codes of r."""
    _launch(
        _quantize, r, scale, zero_point, q, (float(low), float(high)), INSIDE=rounding == "inside"
    )


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, r_hat: Tensor) -> None:
    """Fill r_hat with the values of the codes q; what does not fit becomes its largest number."""
    largest = torch.finfo(r_hat.dtype).max if r_hat.dtype != torch.float32 else float("inf")
    _launch(_dequantize, q, scale, zero_point, r_hat, (largest,))


def min_max(r: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of each row of [m, n], or of each column of [m, n, c]; a NaN makes both NaN."""
    m, n, c = (*r.shape, 1)[:3]
    cols = min(128, triton.next_power_of_2(c))
    along = min(READ // cols, triton.next_power_of_2(n))
    rows = READ // cols // along
    parts, across = triton.cdiv(n, along), triton.cdiv(c, cols)
    lows, highs = (r.new_empty((m, parts, *r.shape[2:])) for _ in range(2))
    with torch.cuda.device_of(r):
        _ends[triton.cdiv(m, rows) * parts * across,](
            r, lows, highs, m, n, c, parts, across, M=rows, N=along, C=cols, num_warps=8
        )  # fmt: skip
    return (lows[:, 0], highs[:, 0]) if parts == 1 else (lows.amin(1), highs.amax(1))


def choose(r: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, mapping: str) -> None:
    """Fill scale and zero point with those of each row or column."""
    r_min, r_max = min_max(r)
    n, ends = scale.numel(), (float(low), float(high))
    with torch.cuda.device_of(r):
        _choose[triton.cdiv(n, 1024),](
            r_min, r_max, scale, zero_point, n, *ends, SYMMETRIC=mapping == "symmetric", COLS=1024
        )  # fmt: skip


def choose_and_quantize(
    r: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    q: Tensor,
    low: int,
    high: int,
    rounding: str,
    mapping: str,
) -> None:
    """Fill scale, zero_point and q; columns, and rows too wide to keep, are read twice."""
    if r.ndim == 3 or r.shape[1] > WIDEST:
        choose(r, scale, zero_point, low, high, mapping)
        quantize(r, scale.float(), zero_point, q, low, high, rounding)
        return
    how = {"SYMMETRIC": mapping == "symmetric", "INSIDE": rounding == "inside"}
    ends = (float(low), float(high))
    _launch(_choose_and_quantize, r, scale, zero_point, q, ends, widest=WIDEST, **how)


def _launch(
    kernel: Any,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    out: Tensor,
    numbers: tuple[float, ...],
    widest: int = 1024,
    **how: bool,
) -> None:
    m, n = x.numel() // x.shape[-1], x.shape[-1]
    columns, each = x.ndim == 3, x.shape[-2]
    widest = 128 if columns else max(widest, TILE // triton.next_power_of_2(m))
    cols = min(triton.next_power_of_2(n), widest)
    rows = max(1, TILE // cols)
    tiles = triton.cdiv(m, rows) * triton.cdiv(n, cols)
    warps = max(4, rows * cols // 1024)
    with torch.cuda.device_of(x):
        kernel[tiles,](
            x, scale, zero_point, out, m, n, each, *numbers, **how,
            COLUMNS=columns, ROWS=rows, COLS=cols, num_warps=warps,
        )  # fmt: skip
