"""The pictures of notebook 02: ranges, and where their codes lie."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qlesson.affine import quantize_affine
from qlesson.qtensor import ZeroPointClipped, qparams_from_range
from qlesson.scheme import Scheme
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def range_map(
    r_min: draw.Scalar,
    r_max: draw.Scalar,
    scale: draw.Scalar,
    zero_point: draw.Scalar,
    quant_min: int,
    quant_max: int,
    unclipped_zero_point: draw.Scalar | None = None,
) -> Figure:
    """The real range above, and below it the codes of r_min, 0 and r_max   (notebooks 02, 03).

    unclipped_zero_point  where the formula puts z before it is clipped, drawn if it differs
    """
    fig, ax = draw.figure(2.6)
    _range_map(ax, r_min, r_max, scale, zero_point, quant_min, quant_max, unclipped_zero_point)
    return fig


def _range_map(
    ax: Axes,
    r_min: draw.Scalar,
    r_max: draw.Scalar,
    scale: draw.Scalar,
    zero_point: draw.Scalar,
    quant_min: int,
    quant_max: int,
    unclipped: draw.Scalar | None = None,
    values: draw.Values = (),
) -> tuple[float, float]:
    """Draws the map with codes as x, and returns the limits of x."""
    r_min, r_max, scale, z = map(draw.number, (r_min, r_max, scale, zero_point))
    free = z if unclipped is None else draw.number(unclipped)
    width = quant_max - quant_min

    def at(r: float | np.ndarray) -> Any:
        """Where r stands: r_min above quant_min, r_max above quant_max, the rest in proportion."""
        return quant_min + (r - r_min) / ((r_max - r_min) or 1.0) * width

    values = at(np.asarray(values, dtype=float))
    everything = [quant_min, quant_max, free, at(0.0), *values]
    low, high = min(everything), max(everything)
    ax.hlines(1, low, high, color=draw.GRID, lw=1, ls=":", gid=ASIDE)
    ax.barh(
        [1],
        [width],
        left=[quant_min],
        height=0.16,
        color=draw.INSIDE,
        edgecolor=draw.REAL,
        label="real range",
    )
    ax.barh(
        [0],
        [width],
        left=[quant_min],
        height=0.16,
        color=draw.BAR,
        edgecolor=draw.CODE,
        label="codes",
    )
    if len(values):
        ax.vlines(values, 0.96, 1.04, color=draw.REAL, lw=0.6, label="values")
    for name, r in (("r_min", r_min), ("r_max", r_max)):
        code = draw.number(quantize_affine(r, scale, z, quant_min, quant_max, torch.int32))
        ax.plot([at(r), code], [0.92, 0.08], color=draw.GRID, lw=1.2, label=f"{name} = {r:.6g}")
    ax.plot([at(0.0), z], [0.92, 0.08], color=draw.CODE, lw=1.8, label=f"0 to z, s = {scale:.6g}")
    inside = draw.REAL if r_min <= 0 <= r_max else "white"
    ax.plot(at(0.0), 1, "o", color=draw.REAL, ms=7, mfc=inside, label="0")
    ax.plot(z, 0, "d", color=draw.CODE, ms=8, label="z")
    limits = draw.wider(low, high, 0.04)
    words = {r: (draw.short(r), draw.REAL) for r in (r_min, 0.0, r_max)}
    draw.spread_words(ax, [at(r) for r in words], words.values(), 1.08, 1.28, limits)
    words = {q: (draw.short(q), draw.CODE) for q in (quant_min, quant_max)}
    words[z] = (f"z = {draw.short(z)}", draw.CODE)
    if free != z:
        ax.plot(free, 0, "d", color=draw.CLIPPED, ms=8, mfc="white", label="z before the clip")
        ax.annotate(
            "",
            (z, 0),
            (free, 0),
            arrowprops=dict(arrowstyle="->", color=draw.CLIPPED, lw=1.4, shrinkA=7, shrinkB=7),
        )
        words[free] = (draw.short(free, 6), draw.CLIPPED)
    draw.spread_words(ax, list(words), words.values(), -0.08, -0.28, limits)
    ax.set_xlim(*limits)
    ax.set_ylim(-0.55, 1.55)
    draw.own_ticks(ax.yaxis, [1, 0], ["r", "code q"])
    draw.bare(ax)
    return limits


def pile_up(values: draw.Values, r_min: draw.Scalar, r_max: draw.Scalar, scheme: Scheme) -> Figure:
    """Which codes the values get when the range is [r_min, r_max]   (notebook 02, Play)."""
    low, high, r = (draw.tensor(x) for x in (r_min, r_max, values))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ZeroPointClipped)
        scale, zero_point = qparams_from_range(low, high, scheme)
    lo, hi = scheme.quant_min, scheme.quant_max
    free = zero_point
    if any(issubclass(w.category, ZeroPointClipped) for w in caught):
        # The formula's zero point: the code of 0 when r_min has the code quant_min.
        free = quantize_affine(-low, scale, lo, -draw.WIDE, draw.WIDE, torch.int32)
    fig, (top, below) = draw.figure(3.0, rows=2, height_ratios=[1.4, 1])
    if scheme.mapping == "symmetric":
        high = torch.maximum(-low, high)
        low = -high
    elif scheme.include_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    limits = _range_map(top, low, high, scale, zero_point, lo, hi, free, draw.array(r).ravel())
    q = quantize_affine(r, scale, zero_point, lo, hi, torch.int32).flatten()
    counts = draw.array(torch.bincount(q - lo, minlength=hi - lo + 1))
    below.bar(np.arange(lo, hi + 1), counts, width=1.0, color=draw.CODE, lw=0.8, label="values")
    most = int(counts.argmax())
    below.annotate(
        f"{int(counts[most]):,} on code {draw.short(lo + most)}",
        (lo + most, counts[most]),
        (0, 3),
        textcoords="offset points",
        va="bottom",
        ha="right" if 2 * most > len(counts) else "left",
    )
    below.set_xlim(*limits)
    below.set_ylim(0, 1.25 * counts.max())
    ticks = MaxNLocator(3, integer=True).tick_values(lo, hi)
    ticks = [t for t in ticks if lo <= t <= hi]
    draw.own_ticks(below.xaxis, ticks, [draw.short(t) for t in ticks])
    below.spines["bottom"].set_bounds(lo - 0.5, hi + 0.5)
    below.set_xlabel("code q")
    below.set_ylabel("count")
    below.yaxis.set_major_locator(draw.whole(4))
    distinct = len(q.unique())
    verb = "comes" if distinct == 1 else "come"
    draw.title(top, f"{r.unique().numel():,} distinct values go in, {distinct:,} {verb} back")
    return fig


def number_lines(
    rows: Mapping[str, tuple[draw.Values, draw.Scalar, draw.Scalar, int, int]],
    r_min: draw.Scalar | None = None,
    r_max: draw.Scalar | None = None,
) -> Figure:
    """Which values can come back, and where each r lands   (notebooks 02, 03, 04, 05).

    rows  {label: (values, scale, zero_point, quant_min, quant_max)}, a number line for each
    r_min, r_max  the part of the real axis in view; None shows everything
    """
    trips = {label: draw.there_and_back(*row) for label, row in rows.items()}
    grids = {label: draw.grid(*row[1:]) for label, row in rows.items()}
    everything = np.concatenate([*grids.values(), *(np.r_[t.r, t.r_hat] for t in trips.values())])
    low = everything.min() if r_min is None else draw.number(r_min)
    high = everything.max() if r_max is None else draw.number(r_max)
    fig, ax = draw.figure(min(4.0, 1.7 + 0.75 * len(rows)))
    ax.hlines(-np.arange(len(rows)), low, high, color=draw.GRID, lw=0.8, label="axes")
    for y, label in enumerate(rows):
        t, grid = trips[label], grids[label]
        grid = grid[(grid >= low) & (grid <= high)]
        width = 1.2 if len(grid) <= 70 else 0.5
        ax.vlines(grid, -y - 0.13, -y + 0.13, color=draw.GRID, lw=width, label=f"grid, {label}")
        seen = (t.r >= low) & (t.r <= high)
        r, r_hat, clipped = t.r[seen], t.r_hat[seen], t.clipped[seen]
        for part, color in ((~clipped, draw.CODE), (clipped, draw.CLIPPED)):
            draw.segments(ax, draw.falls(r[part], 0.42 - y, r_hat[part], -y), color)
        ax.plot(r, np.full(len(r), 0.42 - y), "o", color=draw.REAL, ms=5.5, label=f"r, {label}")
        ax.plot(
            r_hat, np.full(len(r), -float(y)), "d", color=draw.CODE, ms=6, label=f"r_hat, {label}"
        )
    ax.set_xlim(*draw.wider(low, high, 0.02))
    ax.set_ylim(0.4 - len(rows), 0.75)
    draw.own_ticks(ax.yaxis, [-y for y in range(len(rows))], list(rows))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("r")
    handles = [
        draw.dot("o", draw.REAL, "r"),
        draw.dot("d", draw.CODE, "r_hat, where it comes back"),
        draw.dot("|", draw.GRID, "can come back", ms=10),
    ]
    if any(t.clipped.any() for t in trips.values()):
        handles.append(Line2D([], [], color=draw.CLIPPED, label="clipped"))
    draw.legend_above(fig, handles)
    return fig
