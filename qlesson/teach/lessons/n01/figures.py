"""The pictures of notebook 01: values and codes."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from qlesson.affine import dequantize_affine, quantize_affine
from qlesson.error import mse
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def number_to_code(
    values: draw.Values, scale: draw.Scalar, zero_point: draw.Scalar, quant_min: int, quant_max: int
) -> Figure:
    """Every value goes to a code, and one of them from near by   (notebook 01).

    Below, the first value is seen from so near that the codes beside it stand apart.
    """
    t = draw.there_and_back(values, scale, zero_point, quant_min, quant_max)
    grid = draw.grid(scale, zero_point, quant_min, quant_max)
    low, high = draw.wider(min(t.r.min(), grid[0]), max(t.r.max(), grid[-1]), 0.03)
    fig, (ax, near) = draw.figure(3.9, rows=2, height_ratios=[1.5, 1])
    ax.hlines(1, low, high, color=draw.REAL, lw=1.5, gid=ASIDE)
    ax.hlines(0, grid[0], grid[-1], color=draw.CODE, lw=1.5, label="codes")
    every = 1 if len(grid) <= 70 else 16
    ax.vlines(grid[::every], 0, 0.05, color=draw.CODE, lw=0.8, label="grid")
    draw.segments(ax, draw.falls(t.r, 1, t.r_hat, 0)[~t.clipped], draw.GRID, label="rounded")
    for x, end in zip(t.r[t.clipped], t.r_hat[t.clipped], strict=True):
        ax.plot([x, x, end], [1, 0.35, 0], color=draw.CLIPPED, lw=1.4, ls="--", label="clipped")
    ax.plot(t.r, np.ones_like(t.r), "o", color=draw.REAL, ms=5.5, label="r")
    ax.plot(t.r_hat, np.zeros_like(t.r), "d", color=draw.CODE, ms=6, label="r_hat")
    draw.spread_words(ax, t.r, [(draw.short(v), draw.REAL) for v in t.r], 1, 1.18, (low, high))
    codes, where = np.unique(np.r_[t.q, quant_min, quant_max], return_index=True)
    at = np.r_[t.r_hat, grid[0], grid[-1]][where]
    draw.spread_words(ax, at, [(draw.short(q), draw.CODE) for q in codes], 0, -0.18, (low, high))
    ax.set_xlim(low, high)
    _from_near_by(near, t.r[0], int(t.q[0]), t.r_hat[0], draw.number(scale))
    for each in (ax, near):
        each.set_ylim(-0.42, 1.42)
        draw.own_ticks(each.yaxis, [1, 0], ["r", "code q"])
        draw.bare(each)
    return fig


def _from_near_by(ax: Axes, r: float, q: int, r_hat: float, scale: float) -> None:
    """A value between the codes beside it; shaded is all that goes to its own code."""
    beside = np.arange(-3, 4)
    ax.axvspan(r_hat - scale / 2, r_hat + scale / 2, color=draw.INSIDE, lw=0)
    ax.hlines([1, 0], r_hat - 3.4 * scale, r_hat + 3.4 * scale, [draw.REAL, draw.CODE], gid=ASIDE)
    ax.plot(r_hat + scale * beside, 0 * beside, "|", color=draw.CODE, ms=9, label="grid")
    ax.plot([r, r_hat], [1, 0], color=draw.INK, lw=1.2, label="moved by rounding")
    ax.plot(r, 1, "o", color=draw.REAL, ms=5.5, label="r")
    ax.plot(r_hat, 0, "d", color=draw.CODE, ms=6, label="r_hat")
    ax.text(r, 1.15, draw.short(r), color=draw.REAL, fontsize=draw.SMALL, ha="center")
    for i in beside:
        words = f"{draw.short(int(q + i))}\n{draw.short(r_hat + i * scale)}"
        ax.text(
            r_hat + i * scale,
            -0.15,
            words,
            color=draw.CODE,
            fontsize=draw.SMALL,
            ha="center",
            va="top",
        )
    ax.set_xlim(r_hat - 3.6 * scale, r_hat + 3.6 * scale)


def clip_or_wrap(
    scale: draw.Scalar, zero_point: draw.Scalar, quant_min: int, quant_max: int
) -> Figure:
    """Clip, then cast, saturates; a cast alone wraps around   (notebook 01)."""
    kind = torch.int8 if quant_min < 0 else torch.uint8
    scale, zero_point = draw.tensor(scale), draw.tensor(zero_point)
    codes = torch.arange(quant_min - 90, quant_max + 91)
    r = dequantize_affine(codes, scale, zero_point)
    saturated = quantize_affine(r, scale, zero_point, quant_min, quant_max, kind)
    cast = quantize_affine(r, scale, zero_point, -draw.WIDE, draw.WIDE, torch.int32).to(kind)
    x, y = draw.array(r), draw.array(cast)
    fig, ax = draw.figure(3.2)
    ax.axvspan(
        *draw.grid(scale, zero_point, quant_min, quant_max)[[0, -1]], color=draw.INSIDE, lw=0
    )
    ax.plot(x, draw.array(saturated), color=draw.CODE, lw=3.5, label="clip, then cast: saturates")
    jumps = np.flatnonzero(np.diff(y) < 0) + 1
    ax.plot(
        np.insert(x, jumps, np.nan),
        np.insert(y, jumps, np.nan),
        color=draw.INK,
        lw=1.3,
        ls="--",
        label="cast alone: wraps around",
    )
    for code, side in ((quant_max + 1, -1), (quant_min - 1, 1)):
        at = int((codes == code).nonzero())
        ax.plot(x[at], y[at], "X", color=draw.CLIPPED, ms=8, label="wrapped")
        ax.annotate(
            f"{draw.short(code)} becomes {draw.short(y[at])}",
            (x[at], y[at]),
            (10 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
        )
    ax.set_xlabel("r  (shaded: the range that has codes)")
    ax.set_ylabel("code q")
    ends = sorted({quant_min, 0, quant_max})
    draw.own_ticks(ax.yaxis, ends, [draw.short(q) for q in ends])
    ax.set_xlim(x[0], x[-1])
    draw.legend_above(fig, ax.get_lines()[:2])
    return fig


def guess(
    values: draw.Values, scale: draw.Scalar, zero_point: draw.Scalar, quant_min: int, quant_max: int
) -> Figure:
    """What a guess of scale and zero point does to each value   (notebook 01, Play)."""
    t = draw.there_and_back(values, scale, zero_point, quant_min, quant_max)
    ends = draw.grid(scale, zero_point, quant_min, quant_max)[[0, -1]]
    fig, (top, below) = draw.figure(3.0, rows=2, height_ratios=[1, 1.7])
    top.axvspan(*ends, color=draw.INSIDE, lw=0)
    falls = draw.falls(t.r, 1, t.r_hat, 0)
    draw.segments(top, falls[~t.clipped], draw.GRID)
    draw.segments(top, falls[t.clipped], draw.CLIPPED)
    top.plot(t.r, np.ones_like(t.r), "o", color=draw.REAL, ms=5.5, label="r")
    top.plot(t.r_hat, np.zeros_like(t.r), "d", color=draw.CODE, ms=6, label="r_hat")
    top.set_ylim(-0.5, 1.5)
    draw.own_ticks(top.yaxis, [1, 0], ["r", "r_hat"])
    top.tick_params(axis="y", length=0)
    top.spines["left"].set_visible(False)
    squared = mse(*(torch.from_numpy(x) for x in (t.r, t.r_hat)))
    draw.title(
        top,
        f"s = {draw.short(scale)}    z = {draw.short(zero_point)}    MSE = {draw.short(squared)}",
    )
    _error_stems(below, t)
    kinds = (("o", draw.ERROR, "rounded"), ("X", draw.CLIPPED, "clipped"))
    shaded = Patch(fc=draw.INSIDE, label="the range that has codes")
    draw.legend_above(fig, [shaded, *(draw.dot(*kind) for kind in kinds)])
    return fig


def _error_stems(ax: Axes, trip: draw.Trip) -> None:
    order = np.argsort(trip.r, kind="stable")
    r, error, clipped = trip.r[order], (trip.r_hat - trip.r)[order], trip.clipped[order]
    x = np.arange(len(r))
    ax.axhline(0, color=draw.GRID, lw=0.8, gid=ASIDE)
    for part, color, marker, name in (
        (~clipped, draw.ERROR, "o", "rounded"),
        (clipped, draw.CLIPPED, "X", "clipped"),
    ):
        ax.vlines(x[part], 0, error[part], color=color, lw=2, gid=ASIDE)
        ax.plot(x[part], error[part], marker, color=color, ms=6, label=name)
    if len(r) <= 12:
        for i, e in enumerate(error):
            ax.annotate(
                draw.short(e, 3),
                (i, e),
                (0, 6 if e >= 0 else -6),
                fontsize=draw.SMALL,
                textcoords="offset points",
                ha="center",
                va="bottom" if e >= 0 else "top",
            )
        draw.own_ticks(ax.xaxis, x, [draw.short(v) for v in r])
    ax.margins(y=0.6)
    ax.set_xlabel("r, each value" if len(r) <= 12 else "values, in order of r")
    ax.set_ylabel("error r_hat − r")
