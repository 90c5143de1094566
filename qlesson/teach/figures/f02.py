"""The pictures of notebook 02: ranges."""

import warnings

import numpy as np
import torch
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from qlesson.affine import quantize_affine
from qlesson.qtensor import (
    ZeroPointClipped,
    qparams_from_range,
)
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def range_map(r_min, r_max, scale, zero_point, quant_min, quant_max, unclipped_zero_point=None):
    """The real range above, the codes below: r_min, 0 and r_max go to their codes   (02, 03).

    unclipped_zero_point  where the formula puts z before it is clipped, drawn if it differs
    """
    fig, ax = draw.figure(2.6)
    _range_map(ax, r_min, r_max, scale, zero_point, quant_min, quant_max, unclipped_zero_point)
    return fig


def _range_map(
    ax, r_min, r_max, scale, zero_point, quant_min, quant_max, unclipped=None, values=()
):
    """Draws the map with codes as x, and returns the limits of x."""
    r_min, r_max, scale, z = map(draw.number, (r_min, r_max, scale, zero_point))
    free = z if unclipped is None else draw.number(unclipped)
    width = quant_max - quant_min
    view = quant_min - 1.2 * width, quant_max + 1.2 * width  # what is further off waits here

    def at(r):
        """Where r stands: r_min above quant_min, r_max above quant_max, the rest in proportion."""
        return np.clip(quant_min + (r - r_min) / ((r_max - r_min) or 1.0) * width, *view)

    shown = float(np.clip(free, *view))
    values = at(np.asarray(values, dtype=float))
    everything = [quant_min, quant_max, shown, at(0.0), *values]
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
    hollow = {} if r_min <= 0 <= r_max else {"mfc": "white"}
    ax.plot(at(0.0), 1, "o", color=draw.REAL, ms=7, label="0", **hollow)
    ax.plot(z, 0, "d", color=draw.CODE, ms=8, label="z")
    limits = draw.wider(low, high, 0.04)
    words = {r: (draw.short(r), draw.REAL) for r in (r_min, 0.0, r_max)}
    draw.spread_words(ax, [at(r) for r in words], words.values(), 1.08, 1.28, limits)
    words = {q: (draw.short(q), draw.CODE) for q in (quant_min, quant_max)}
    words[z] = (f"z = {draw.short(z)}", draw.CODE)
    if free != z:
        ax.plot(shown, 0, "d", color=draw.CLIPPED, ms=8, mfc="white", label="z before the clip")
        ax.annotate(
            "",
            (z, 0),
            (shown, 0),
            arrowprops=dict(arrowstyle="->", color=draw.CLIPPED, lw=1.4, shrinkA=7, shrinkB=7),
        )
        words[shown] = (draw.short(free, 6), draw.CLIPPED)
    draw.spread_words(ax, list(words), words.values(), -0.08, -0.28, limits)
    ax.set_xlim(*limits)
    ax.set_ylim(-0.55, 1.55)
    draw.own_ticks(ax.yaxis, [1, 0], ["r", "code q"])
    draw.bare(ax)
    return limits


def pile_up(values, r_min, r_max, scheme):
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
    fig, (top, below) = draw.figure(4.0, rows=2, height_ratios=[1.2, 1])
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
    ticks = MaxNLocator(6, integer=True).tick_values(lo, hi)
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


def code_counts(rows, quant_min, quant_max):
    """How often each code is used; codes never used are shaded   (notebook 03).

    rows  {label: q}, a panel for each
    """
    fig, axes = draw.figure(
        min(4.0, 0.9 + 1.1 * len(rows)), rows=len(rows), sharex=True, sharey=True
    )
    codes = np.arange(quant_min, quant_max + 1)
    edges = np.r_[codes - 0.5, quant_max + 0.5]
    found = {label: _count_codes(q, quant_min, quant_max) for label, q in rows.items()}
    for ax, (label, counts) in zip(np.ravel(axes), found.items(), strict=True):
        baseline = _count_axis(ax, np.concatenate(list(found.values())))
        unused = counts == 0
        ax.stairs(
            unused.astype(float),
            edges,
            fill=True,
            color=draw.UNUSED,
            lw=0,
            zorder=0,
            transform=ax.get_xaxis_transform(),
            label="never used",
        )
        ax.stairs(counts, edges, fill=True, color=draw.CODE, lw=0, label="count", baseline=baseline)
        draw.title(ax, f"{label}: {100 * unused.mean():.3g} % of the {len(codes)} codes never used")
    ax.set_xlabel("code q  (shaded: never used)")
    ax.set_xlim(quant_min - 1, quant_max + 1)
    return fig


def _count_codes(q, quant_min, quant_max):
    q = torch.as_tensor(q).detach().cpu().to(torch.int64).flatten()
    return draw.array(torch.bincount(q - quant_min, minlength=quant_max - quant_min + 1))


def _count_axis(ax, counts):
    """Counts that differ much get a log scale, on which a single one still shows.

    Returns where the bars begin.
    """
    ax.set_ylabel("count")
    if counts.max() <= 100:
        ax.set_yscale("linear")
        ax.set_ylim(0, 1.1 * counts.max())
        ax.yaxis.set_major_locator(draw.whole(3))
        return 0
    ax.set_yscale("log")
    ax.set_ylim(0.5, 2 * counts.max())
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    ax.yaxis.set_major_formatter(draw.PLAIN)
    ax.yaxis.set_minor_locator(NullLocator())
    return 0.5


def two_ranges(rows):
    """The range each mapping covers, and the part of it that holds no value   (notebook 03).

    rows  {label: (values, r_min, r_max)}
    """
    fig, axes = draw.figure(
        min(4.0, 0.9 + 1.15 * len(rows)), rows=len(rows), sharex=True, sharey=True
    )
    drawn = [
        (label, draw.array(values).ravel(), draw.number(a), draw.number(b))
        for label, (values, a, b) in rows.items()
    ]
    low = min(min(v.min(), a) for _, v, a, _ in drawn)
    high = max(max(v.max(), b) for _, v, _, b in drawn)
    bars = []
    for _, v, _, _ in drawn:
        bins = max(1, round(100 * np.ptp(v) / ((high - low) or 1.0)))
        bars.append(np.histogram(v, np.linspace(v.min(), v.max(), bins + 1)))
    for ax, (label, v, a, b), (n, edges) in zip(np.ravel(axes), drawn, bars, strict=True):
        baseline = _count_axis(ax, np.concatenate([n for n, _ in bars]))
        ax.axvspan(a, b, color=draw.INSIDE, lw=0)
        empty = [(a, min(b, v.min())), (max(a, v.max()), b)]
        empty = [(start, stop) for start, stop in empty if stop > start]
        for start, stop in empty:
            ax.axvspan(start, stop, facecolor=draw.UNUSED, edgecolor=draw.GRID, hatch="//", lw=0)
        ax.stairs(n, edges, fill=True, color=draw.REAL, lw=0, label="values", baseline=baseline)
        share = 100 * sum(stop - start for start, stop in empty) / ((b - a) or 1.0)
        draw.title(
            ax, f"{label}: {draw.short(a)} to {draw.short(b)}, {share:.1f} % of it holds no value"
        )
    ax.set_xlabel("r  (shaded: the range; hatched: no value there)")
    ax.set_xlim(*draw.wider(low, high, 0.02))
    return fig
