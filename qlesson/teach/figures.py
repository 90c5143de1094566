"""The pictures of the course: plain functions from data to a matplotlib Figure.

Tensors on any device, or lists, go in; nothing is shown (`qlesson.teach.show` does that) and no
global state is touched. Every code and every value that comes back is computed by qlesson.

Colours have roles, and each role also has a marker, a line style or a hatch of its own.
"""

import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import color_sequences
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from qlesson.affine import dequantize_affine, quantize_affine
from qlesson.error import error_shares, mse
from qlesson.qtensor import (
    ZeroPointClipped,
    choose_qparams,
    fake_quantize,
    qparams_from_range,
    quantize,
)
from qlesson.scheme import Scheme
from qlesson.teach.show import ASIDE

_again = ContextVar("the figure to draw into", default=None)


@contextmanager
def drawing_into(fig):
    """Within, the function that made `fig` draws into it anew; its ticks and its layout stay.

    A live figure cannot wait for a new one (`qlesson.teach.widgets`). None makes a new figure.
    """
    token = _again.set(fig)
    try:
        yield
    finally:
        _again.reset(token)


def _darker(color, share):
    """The same hue with less light, so that a line or a word of it reads on white."""
    return to_hex([share * c for c in to_rgb(color)])


def _lighter(color, share):
    """The same hue mixed with white, so that black words read on it."""
    return to_hex([1 - share * (1 - c) for c in to_rgb(color)])


_BLACK, _ORANGE, _SKY, _GREEN, _YELLOW, _BLUE, _VERMILLION, _PURPLE = color_sequences["okabe_ito"]

INK = to_hex(_BLACK)  # words and axes
GRID = "#6b6b6b"  # the values that can come back; references
REAL = to_hex(_BLUE)  # r, a real value
CODE = _darker(_VERMILLION, 0.9)  # q, a code, and r_hat, the value it comes back as
ERROR = _darker(_GREEN, 0.8)  # the rounding part of the error
CLIPPED = _darker(_PURPLE, 0.75)  # values out of range, and the clipping part of the error
TOTAL = to_hex(_BLACK)  # both parts together
# Fills only: these do not read as lines on white.
INSIDE = _lighter(_SKY, 0.35)  # the range that has codes
UNUSED = _lighter(_YELLOW, 0.65)  # codes or range that nothing uses
BAR = _lighter(_ORANGE, 0.45)  # the codes as a bar
SIZE = _lighter(_SKY, 0.6)  # bytes

_STYLES = (  # curves that are told apart by label: colour, marker, line
    (REAL, "o", "-"),
    (CODE, "s", "--"),
    (ERROR, "^", "-."),
    (CLIPPED, "D", ":"),
    (TOTAL, "v", (0, (5, 1, 1, 1, 1, 1))),
    (GRID, "P", (0, (8, 2))),
)
_SMALL = 9  # points: words inside a drawing; everything else is 10
_WIDE = 2**30  # a code that no value of the course reaches: clipping there clips nothing


# ---------------------------------------------------------------- values and codes (01, 02)


def number_lines(rows, r_min=None, r_max=None):
    """Which values can come back, and where each r lands   (notebooks 01, 02, 04, 05).

    rows  {label: (values, scale, zero_point, quant_min, quant_max)}, a number line for each
    r_min, r_max  the part of the real axis in view; None shows everything
    """
    trips = {label: _there_and_back(*row) for label, row in rows.items()}
    grids = {label: _grid(*row[1:]) for label, row in rows.items()}
    everything = np.concatenate([*grids.values(), *(np.r_[t.r, t.r_hat] for t in trips.values())])
    low = everything.min() if r_min is None else _number(r_min)
    high = everything.max() if r_max is None else _number(r_max)
    fig, ax = _figure(min(4.0, 1.7 + 0.75 * len(rows)))
    ax.hlines(-np.arange(len(rows)), low, high, color=GRID, lw=0.8, label="axes")
    for y, label in enumerate(rows):
        t, grid = trips[label], grids[label]
        grid = grid[(grid >= low) & (grid <= high)]
        width = 1.2 if len(grid) <= 70 else 0.5
        ax.vlines(grid, -y - 0.13, -y + 0.13, color=GRID, lw=width, label=f"grid, {label}")
        seen = (t.r >= low) & (t.r <= high)
        r, r_hat, clipped = t.r[seen], t.r_hat[seen], t.clipped[seen]
        for part, color in ((~clipped, CODE), (clipped, CLIPPED)):
            _segments(ax, _falls(r[part], 0.42 - y, r_hat[part], -y), color)
        ax.plot(r, np.full(len(r), 0.42 - y), "o", color=REAL, ms=5.5, label=f"r, {label}")
        ax.plot(r_hat, np.full(len(r), -float(y)), "d", color=CODE, ms=6, label=f"r_hat, {label}")
    ax.set_xlim(*_wider(low, high, 0.02))
    ax.set_ylim(0.4 - len(rows), 0.75)
    _own_ticks(ax.yaxis, [-y for y in range(len(rows))], list(rows))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("r")
    handles = [
        _dot("o", REAL, "r"),
        _dot("d", CODE, "r_hat, where it comes back"),
        _dot("|", GRID, "can come back", ms=10),
    ]
    if any(t.clipped.any() for t in trips.values()):
        handles.append(Line2D([], [], color=CLIPPED, label="clipped"))
    _legend_above(fig, handles)
    return fig


def number_to_code(values, scale, zero_point, quant_min, quant_max):
    """Every value falls to its code; what is out of range bends to the end code   (notebook 01)."""
    t = _there_and_back(values, scale, zero_point, quant_min, quant_max)
    grid = _grid(scale, zero_point, quant_min, quant_max)
    low, high = _wider(min(t.r.min(), grid[0]), max(t.r.max(), grid[-1]), 0.03)
    fig, ax = _figure(2.8)
    ax.hlines(1, low, high, color=REAL, lw=1.5, gid=ASIDE)
    ax.hlines(0, grid[0], grid[-1], color=CODE, lw=1.5, label="codes")
    every = 1 if len(grid) <= 70 else 16
    ax.vlines(grid[::every], 0, 0.05, color=CODE, lw=0.8, label="grid")
    _segments(ax, _falls(t.r, 1, t.r_hat, 0)[~t.clipped], GRID, label="rounded")
    for x, end in zip(t.r[t.clipped], t.r_hat[t.clipped], strict=True):
        ax.plot([x, x, end], [1, 0.35, 0], color=CLIPPED, lw=1.4, ls="--", label="clipped")
    ax.plot(t.r, np.ones_like(t.r), "o", color=REAL, ms=5.5, label="r")
    ax.plot(t.r_hat, np.zeros_like(t.r), "d", color=CODE, ms=6, label="r_hat")
    _spread_words(ax, t.r, [(_short(v), REAL) for v in t.r], 1, 1.18, (low, high))
    codes, where = np.unique(np.r_[t.q, quant_min, quant_max], return_index=True)
    at = np.r_[t.r_hat, grid[0], grid[-1]][where]
    _spread_words(ax, at, [(_short(q), CODE) for q in codes], 0, -0.18, (low, high))
    ax.set_xlim(low, high)
    ax.set_ylim(-0.42, 1.42)
    _own_ticks(ax.yaxis, [1, 0], ["r", "code q"])
    _bare(ax)
    return fig


def round_half_even():
    """round(x): a tie goes to the even neighbour   (notebook 01)."""
    fig, ax = _figure(3.4)
    ties = torch.arange(-2.5, 3.0)
    rounded = torch.round(ties)
    for n in range(-3, 4):
        ax.hlines(n, max(n - 0.5, -3), min(n + 0.5, 3), color=CODE, lw=2, label="round(x)")
    x, y = _array(ties), _array(rounded)
    other = 2 * x - y
    ax.plot(x, other, "o", color=CODE, mfc="white", ms=7, label="not here")
    ax.plot(x, y, "o", color=CODE, ms=7, label="tie")
    for a, b in zip(x, y, strict=True):
        lower = b < a
        ax.annotate(
            f"{_short(a)} → {_short(b)}",
            (a, b),
            (10 if lower else -10, 0),
            textcoords="offset points",
            ha="left" if lower else "right",
            va="center",
        )
    ax.set_xlim(-4.2, 4.2)
    ax.set_ylim(-3.4, 3.4)
    ax.set_xticks(range(-3, 4))
    ax.set_yticks(range(-3, 4))
    ax.set_xlabel("x")
    ax.set_ylabel("round(x)")
    ax.legend(
        handles=[
            _dot("o", CODE, "where the tie goes"),
            _dot("o", CODE, "where it does not", mfc="white"),
        ],
        frameon=False,
        loc="upper left",
    )
    return fig


def clip_or_wrap(scale, zero_point, quant_min, quant_max):
    """Clip, then cast, saturates; a cast alone wraps around   (notebook 01)."""
    kind = torch.int8 if quant_min < 0 else torch.uint8
    scale, zero_point = _tensor(scale), _tensor(zero_point)
    codes = torch.arange(quant_min - 90, quant_max + 91)
    r = dequantize_affine(codes, scale, zero_point)
    saturated = quantize_affine(r, scale, zero_point, quant_min, quant_max, kind)
    cast = quantize_affine(r, scale, zero_point, -_WIDE, _WIDE, torch.int32).to(kind)
    x, y = _array(r), _array(cast)
    fig, ax = _figure(3.2)
    ax.axvspan(*_grid(scale, zero_point, quant_min, quant_max)[[0, -1]], color=INSIDE, lw=0)
    ax.plot(x, _array(saturated), color=CODE, lw=3.5, label="clip, then cast: saturates")
    jumps = np.flatnonzero(np.diff(y) < 0) + 1
    ax.plot(
        np.insert(x, jumps, np.nan),
        np.insert(y, jumps, np.nan),
        color=INK,
        lw=1.3,
        ls="--",
        label="cast alone: wraps around",
    )
    for code, side in ((quant_max + 1, -1), (quant_min - 1, 1)):
        at = int((codes == code).nonzero())
        ax.plot(x[at], y[at], "X", color=CLIPPED, ms=8, label="wrapped")
        ax.annotate(
            f"{_short(code)} becomes {_short(y[at])}",
            (x[at], y[at]),
            (10 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
        )
    ax.set_xlabel("r  (shaded: the range that has codes)")
    ax.set_ylabel("code q")
    ends = sorted({quant_min, 0, quant_max})
    _own_ticks(ax.yaxis, ends, [_short(q) for q in ends])
    ax.set_xlim(x[0], x[-1])
    _legend_above(fig, ax.get_lines()[:2])
    return fig


def guess(values, scale, zero_point, quant_min, quant_max):
    """What a guess of scale and zero point does to each value   (notebook 01, Play)."""
    t = _there_and_back(values, scale, zero_point, quant_min, quant_max)
    ends = _grid(scale, zero_point, quant_min, quant_max)[[0, -1]]
    fig, (top, below) = _figure(3.8, rows=2, height_ratios=[1, 1.5])
    top.axvspan(*ends, color=INSIDE, lw=0)
    falls = _falls(t.r, 1, t.r_hat, 0)
    _segments(top, falls[~t.clipped], GRID)
    _segments(top, falls[t.clipped], CLIPPED)
    top.plot(t.r, np.ones_like(t.r), "o", color=REAL, ms=5.5, label="r")
    top.plot(t.r_hat, np.zeros_like(t.r), "d", color=CODE, ms=6, label="r_hat")
    top.set_ylim(-0.5, 1.5)
    _own_ticks(top.yaxis, [1, 0], ["r", "r_hat"])
    top.tick_params(axis="y", length=0)
    top.spines["left"].set_visible(False)
    top.set_xlabel("r  (shaded: the range that has codes)")
    squared = mse(*(torch.from_numpy(x) for x in (t.r, t.r_hat)))
    _title(top, f"s = {_short(scale)}    z = {_short(zero_point)}    MSE = {_short(squared)}")
    _error_stems(below, t)
    return fig


def _error_stems(ax, trip):
    order = np.argsort(trip.r, kind="stable")
    r, error, clipped = trip.r[order], (trip.r_hat - trip.r)[order], trip.clipped[order]
    x = np.arange(len(r))
    ax.axhline(0, color=GRID, lw=0.8, gid=ASIDE)
    for part, color, marker, name in (
        (~clipped, ERROR, "o", "rounded"),
        (clipped, CLIPPED, "X", "clipped"),
    ):
        ax.vlines(x[part], 0, error[part], color=color, lw=2, gid=ASIDE)
        ax.plot(x[part], error[part], marker, color=color, ms=6, label=name)
    if len(r) <= 12:
        for i, e in enumerate(error):
            ax.annotate(
                _short(e, 3),
                (i, e),
                (0, 6 if e >= 0 else -6),
                fontsize=_SMALL,
                textcoords="offset points",
                ha="center",
                va="bottom" if e >= 0 else "top",
            )
        _own_ticks(ax.xaxis, x, [_short(v) for v in r])
    ax.margins(y=0.22)
    ax.set_xlabel("r, each value" if len(r) <= 12 else "values, in order of r")
    ax.set_ylabel("error r_hat − r")
    if clipped.any():
        # The lowest values err upwards and the highest downwards, so this corner stays free.
        ax.legend(frameon=False, ncols=2, loc="lower left")


# ---------------------------------------------------------------- ranges (02, 03)


def range_map(r_min, r_max, scale, zero_point, quant_min, quant_max, unclipped_zero_point=None):
    """The real range above, the codes below: r_min, 0 and r_max go to their codes   (02, 03).

    unclipped_zero_point  where the formula puts z before it is clipped, drawn if it differs
    """
    fig, ax = _figure(2.6)
    _range_map(ax, r_min, r_max, scale, zero_point, quant_min, quant_max, unclipped_zero_point)
    return fig


def _range_map(
    ax, r_min, r_max, scale, zero_point, quant_min, quant_max, unclipped=None, values=()
):
    """Draws the map with codes as x, and returns the limits of x."""
    r_min, r_max, scale, z = map(_number, (r_min, r_max, scale, zero_point))
    free = z if unclipped is None else _number(unclipped)
    width = quant_max - quant_min
    view = quant_min - 1.2 * width, quant_max + 1.2 * width  # what is further off waits here

    def at(r):
        """Where r stands: r_min above quant_min, r_max above quant_max, the rest in proportion."""
        return np.clip(quant_min + (r - r_min) / ((r_max - r_min) or 1.0) * width, *view)

    shown = float(np.clip(free, *view))
    values = at(np.asarray(values, dtype=float))
    everything = [quant_min, quant_max, shown, at(0.0), *values]
    low, high = min(everything), max(everything)
    ax.hlines(1, low, high, color=GRID, lw=1, ls=":", gid=ASIDE)
    ax.barh(
        [1],
        [width],
        left=[quant_min],
        height=0.16,
        color=INSIDE,
        edgecolor=REAL,
        label="real range",
    )
    ax.barh([0], [width], left=[quant_min], height=0.16, color=BAR, edgecolor=CODE, label="codes")
    if len(values):
        ax.vlines(values, 0.96, 1.04, color=REAL, lw=0.6, label="values")
    for name, r in (("r_min", r_min), ("r_max", r_max)):
        code = _number(quantize_affine(r, scale, z, quant_min, quant_max, torch.int32))
        ax.plot([at(r), code], [0.92, 0.08], color=GRID, lw=1.2, label=f"{name} = {r:.6g}")
    ax.plot([at(0.0), z], [0.92, 0.08], color=CODE, lw=1.8, label=f"0 to z, s = {scale:.6g}")
    hollow = {} if r_min <= 0 <= r_max else {"mfc": "white"}
    ax.plot(at(0.0), 1, "o", color=REAL, ms=7, label="0", **hollow)
    ax.plot(z, 0, "d", color=CODE, ms=8, label="z")
    limits = _wider(low, high, 0.04)
    words = {r: (_short(r), REAL) for r in (r_min, 0.0, r_max)}
    _spread_words(ax, [at(r) for r in words], words.values(), 1.08, 1.28, limits)
    words = {q: (_short(q), CODE) for q in (quant_min, quant_max)}
    words[z] = (f"z = {_short(z)}", CODE)
    if free != z:
        ax.plot(shown, 0, "d", color=CLIPPED, ms=8, mfc="white", label="z before the clip")
        ax.annotate(
            "",
            (z, 0),
            (shown, 0),
            arrowprops=dict(arrowstyle="->", color=CLIPPED, lw=1.4, shrinkA=7, shrinkB=7),
        )
        words[shown] = (_short(free, 6), CLIPPED)
    _spread_words(ax, list(words), words.values(), -0.08, -0.28, limits)
    ax.set_xlim(*limits)
    ax.set_ylim(-0.55, 1.55)
    _own_ticks(ax.yaxis, [1, 0], ["r", "code q"])
    _bare(ax)
    return limits


def pile_up(values, r_min, r_max, scheme):
    """Which codes the values get when the range is [r_min, r_max]   (notebook 02, Play)."""
    low, high, r = (_tensor(x) for x in (r_min, r_max, values))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ZeroPointClipped)
        scale, zero_point = qparams_from_range(low, high, scheme)
    lo, hi = scheme.quant_min, scheme.quant_max
    free = zero_point
    if any(issubclass(w.category, ZeroPointClipped) for w in caught):
        # The formula's zero point: the code of 0 when r_min has the code quant_min.
        free = quantize_affine(-low, scale, lo, -_WIDE, _WIDE, torch.int32)
    fig, (top, below) = _figure(4.0, rows=2, height_ratios=[1.2, 1])
    if scheme.mapping == "symmetric":
        high = torch.maximum(-low, high)
        low = -high
    elif scheme.include_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    limits = _range_map(top, low, high, scale, zero_point, lo, hi, free, _array(r).ravel())
    q = quantize_affine(r, scale, zero_point, lo, hi, torch.int32).flatten()
    counts = _array(torch.bincount(q - lo, minlength=hi - lo + 1))
    below.bar(np.arange(lo, hi + 1), counts, width=1.0, color=CODE, lw=0.8, label="values")
    most = int(counts.argmax())
    below.annotate(
        f"{int(counts[most]):,} on code {_short(lo + most)}",
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
    _own_ticks(below.xaxis, ticks, [_short(t) for t in ticks])
    below.spines["bottom"].set_bounds(lo - 0.5, hi + 0.5)
    below.set_xlabel("code q")
    below.set_ylabel("count")
    below.yaxis.set_major_locator(_whole(4))
    distinct = len(q.unique())
    verb = "comes" if distinct == 1 else "come"
    _title(top, f"{r.unique().numel():,} distinct values go in, {distinct:,} {verb} back")
    return fig


def code_counts(rows, quant_min, quant_max):
    """How often each code is used; codes never used are shaded   (notebook 03).

    rows  {label: q}, a panel for each
    """
    fig, axes = _figure(min(4.0, 0.9 + 1.1 * len(rows)), rows=len(rows), sharex=True, sharey=True)
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
            color=UNUSED,
            lw=0,
            zorder=0,
            transform=ax.get_xaxis_transform(),
            label="never used",
        )
        ax.stairs(counts, edges, fill=True, color=CODE, lw=0, label="count", baseline=baseline)
        _title(ax, f"{label}: {100 * unused.mean():.3g} % of the {len(codes)} codes never used")
    ax.set_xlabel("code q  (shaded: never used)")
    ax.set_xlim(quant_min - 1, quant_max + 1)
    return fig


def _count_codes(q, quant_min, quant_max):
    q = torch.as_tensor(q).detach().cpu().to(torch.int64).flatten()
    return _array(torch.bincount(q - quant_min, minlength=quant_max - quant_min + 1))


def _count_axis(ax, counts):
    """Counts that differ much get a log scale, on which a single one still shows.

    Returns where the bars begin.
    """
    ax.set_ylabel("count")
    if counts.max() <= 100:
        ax.set_yscale("linear")
        ax.set_ylim(0, 1.1 * counts.max())
        ax.yaxis.set_major_locator(_whole(3))
        return 0
    ax.set_yscale("log")
    ax.set_ylim(0.5, 2 * counts.max())
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    ax.yaxis.set_major_formatter(_PLAIN)
    ax.yaxis.set_minor_locator(NullLocator())
    return 0.5


def two_ranges(rows):
    """The range each mapping covers, and the part of it that holds no value   (notebook 03).

    rows  {label: (values, r_min, r_max)}
    """
    fig, axes = _figure(min(4.0, 0.9 + 1.15 * len(rows)), rows=len(rows), sharex=True, sharey=True)
    drawn = [
        (label, _array(values).ravel(), _number(a), _number(b))
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
        ax.axvspan(a, b, color=INSIDE, lw=0)
        empty = [(a, min(b, v.min())), (max(a, v.max()), b)]
        empty = [(start, stop) for start, stop in empty if stop > start]
        for start, stop in empty:
            ax.axvspan(start, stop, facecolor=UNUSED, edgecolor=GRID, hatch="//", lw=0)
        ax.stairs(n, edges, fill=True, color=REAL, lw=0, label="values", baseline=baseline)
        share = 100 * sum(stop - start for start, stop in empty) / ((b - a) or 1.0)
        _title(ax, f"{label}: {_short(a)} to {_short(b)}, {share:.1f} % of it holds no value")
    ax.set_xlabel("r  (shaded: the range; hatched: no value there)")
    ax.set_xlim(*_wider(low, high, 0.02))
    return fig


# ---------------------------------------------------------------- the way back (04, 05)


def staircase(scale, zero_point, quant_min, quant_max, r_min, r_max):
    """r_hat against r, and the error below it   (notebooks 04, 05)."""
    fig, (top, below) = _figure(3.9, rows=2, sharex=True, height_ratios=[1.6, 1])
    half = _number(scale) / 2
    t = _staircase(top, scale, zero_point, quant_min, quant_max, _number(r_min), _number(r_max))
    error = t.r_hat - t.r
    below.plot(t.r, np.where(t.clipped, np.nan, error), color=ERROR, lw=1.4, label="rounding")
    if t.clipped.any():
        below.plot(
            t.r, np.where(t.clipped, error, np.nan), color=CLIPPED, lw=2, ls="--", label="clipping"
        )
    for side in (-half, half):
        below.axhline(side, color=GRID, lw=1.2, ls="-.", label=f"s/2 = {half:.6g}")
    below.margins(y=0.15)
    below.set_ylabel("r_hat − r")
    below.set_xlabel("r")
    bound = Line2D([], [], color=GRID, ls="-.", label="± s/2")
    error_line = Line2D([], [], color=ERROR, label="error")
    _legend_above(fig, [*top.get_lines(), error_line, bound])
    return fig


def _staircase(ax, scale, zero_point, quant_min, quant_max, r_min, r_max):
    r = torch.linspace(r_min, r_max, 1401)
    t = _there_and_back(r, scale, zero_point, quant_min, quant_max)
    ax.plot([r_min, r_max], [r_min, r_max], color=GRID, lw=1, ls=":", label="r_hat = r")
    ax.plot(t.r, np.where(t.clipped, np.nan, t.r_hat), color=CODE, lw=1.6, label="rounded")
    if t.clipped.any():
        ax.plot(
            t.r, np.where(t.clipped, t.r_hat, np.nan), color=CLIPPED, lw=2, ls="--", label="clipped"
        )
    ax.set_xlim(r_min, r_max)
    ax.set_ylabel("r_hat")
    return t


def staircase_and_picture(picture, scheme):
    """Which values survive, and what a picture looks like with them   (notebook 04, Play)."""
    picture = _tensor(picture)
    scale, zero_point = choose_qparams(picture, scheme)
    back = fake_quantize(picture, scheme)
    fig = Figure(figsize=(7, 3.2), dpi=100)
    left, right = _axes_at(fig, 58, 48, 336, 244), _axes_at(fig, 434, 36, 256, 256)
    low, high = picture.min().item(), picture.max().item()
    _staircase(left, scale, zero_point, scheme.quant_min, scheme.quant_max, low, high)
    left.set_xlabel("r")
    left.legend(frameon=False, loc="upper left")
    _grey(right, back)
    distinct = back.unique().numel()
    _title(left, f"{scheme.bits} bits, {scheme.mapping}")
    _title(right, f"{distinct} distinct value{'s survive' if distinct != 1 else ' survives'}")
    return fig


def pictures(named):
    """Grey pictures side by side, 0 black and 1 white   (notebooks 00, 04).

    named  {label: 2-D tensor in [0, 1]}
    """
    pictures = [_array(p) for p in named.values()]
    high, wide = np.max([p.shape for p in pictures], axis=0)
    room = min((700 - 10) // len(pictures) - 10, 360 * wide // high)
    width = room // wide * wide if room >= wide else room  # whole screen pixels for each of ours
    height = width * high // wide
    gap = (700 - width * len(pictures)) // (len(pictures) + 1)
    fig = Figure(figsize=(7, (height + 40) / 100), dpi=100)
    for i, (label, picture) in enumerate(zip(named, pictures, strict=True)):
        ax = _axes_at(fig, gap + i * (width + gap), 30, width, height)
        _grey(ax, picture)
        ax.set_xlabel(label, fontsize=10)
    return fig


def _grey(ax, picture):
    ax.imshow(_array(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def grey_picture(size=64):
    """A shaded ball and its shadow on a soft gradient, in [0, 1], float32   (notebooks 00, 04).

    Made of sums, products, quotients and square roots in float64, so every machine makes the
    same pixels.
    """
    fine = 3 * size
    at = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine * 2 - 1
    y, x = at[:, None], at[None, :]
    ground = 0.80 - 0.22 * y - 0.10 * x - 0.12 * (x * x + y * y)
    shadow = ((x - 0.28) / 0.62).square() + ((y - 0.52) / 0.22).square()
    ground = ground * (1 - 0.75 / (1 + shadow * shadow))
    radius = 0.58
    dx, dy = (x + 0.08) / radius, (y + 0.12) / radius
    height = (1 - dx * dx - dy * dy).clamp(min=0).sqrt()
    light = (-0.48 * dx - 0.60 * dy + 0.64 * height).clamp(min=0)
    ball = 0.10 + 0.72 * light
    glow = (2 * light * height - 0.64).clamp(min=0)  # the mirrored light towards the eye
    ball = ball + 0.30 * glow**8
    picture = torch.where(dx * dx + dy * dy < 1, ball, ground).clamp(0, 1)
    picture = picture.reshape(size, 3, size, 3).mean(dim=(1, 3))
    darkest, brightest = picture.min(), picture.max()
    return ((picture - darkest) / (brightest - darkest)).float()


# ---------------------------------------------------------------- errors (05)


def heatmaps(named, fmt="{:.1f}", unit="", shared=True, diverging=False):
    """Matrices as heat maps with their values printed   (notebooks 00, 04, 06).

    named      {title: 2-D tensor}
    fmt, unit  how a value is printed (a code never has decimals), and what it is measured in
    shared     one colour scale for all of them
    diverging  colours on both sides of 0
    """
    arrays = {title: np.atleast_2d(_array(a)) for title, a in named.items()}
    across = len(arrays) if len(arrays) <= 4 else -(-len(arrays) // 2)
    down = -(-len(arrays) // across)
    tallest = max(a.shape[0] for a in arrays.values())
    height = float(np.clip(0.4 + down * (0.25 + 0.5 * tallest), 2.2, 4.0))
    fig, axes = _figure(height, rows=down, cols=across)
    for ax in np.ravel(axes):
        ax.set_axis_off()
    everything = np.concatenate([a.ravel() for a in arrays.values()])
    cmap = LinearSegmentedColormap.from_list(
        "qlesson", [_ORANGE, _PALE, _SKY] if diverging else [_lighter(_SKY, 0.12), _SKY]
    )
    for ax, (title, a) in zip(np.ravel(axes), arrays.items(), strict=False):
        is_code = not torch.as_tensor(named[title]).is_floating_point()
        among = everything if shared else a
        low, high = among.min(), among.max()
        if diverging:
            low, high = -np.abs(among).max(), np.abs(among).max()
        ax.imshow(a, cmap=cmap, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
        form = "{:.0f}" if is_code else fmt
        words = {at: _no_minus_zero(form.format(v)) for at, v in np.ndenumerate(a)}
        room = 6.6 * 72 / across / a.shape[1] - 5  # points from cell to cell, less a gap
        points = min(10, room / 0.64 / max(map(len, words.values())))
        for (i, j), word in words.items():
            ax.text(j, i, word, ha="center", va="center", fontsize=points, color=INK)
        edges_x, edges_y = np.arange(1, a.shape[1]) - 0.5, np.arange(1, a.shape[0]) - 0.5
        ax.vlines(edges_x, -0.5, a.shape[0] - 0.5, color="white", lw=1.5, gid=ASIDE)
        ax.hlines(edges_y, -0.5, a.shape[1] - 0.5, color="white", lw=1.5, gid=ASIDE)
        _title(ax, title)
    if unit:
        fig.supxlabel(unit, fontsize=10)
    return fig


def error_histogram(r, r_hat, scale):
    """The errors r_hat - r: rounding within half a step, clipping beyond it   (notebook 05)."""
    r, r_hat, scale = _tensor(r), _tensor(r_hat), _tensor(scale)
    half = _number(scale.max()) / 2
    total = _number(mse(r, r_hat))
    error = _array(r_hat.double() - r.double()).ravel()
    one_by_one = torch.vmap(error_shares)
    shares = one_by_one(r.flatten(), r_hat.flatten(), scale.expand(r.shape).flatten())
    clipped = (shares.clipping > 0).numpy()
    kinds = [
        ("rounding", ~clipped, shares.rounding, dict(facecolor=ERROR)),
        ("clipping", clipped, shares.clipping, dict(facecolor=CLIPPED, hatch="////")),
    ]
    kinds = [kind for kind in kinds if kind[1].any()]
    fig, axes = _figure(3.0, cols=len(kinds))
    for ax, (name, part, share, look) in zip(np.ravel(axes), kinds, strict=True):
        most = max(1.3 * half, 1.05 * np.abs(error[part]).max())
        edges = np.linspace(-most, most, 53)
        counts, _ = np.histogram(error[part], edges)
        ax.stairs(
            counts,
            edges,
            fill=True,
            edgecolor="white",
            lw=0,
            label=f"{name} share {_number(share.mean()):.6g}",
            **look,
        )
        for side in (-half, half):
            ax.axvline(side, color=INK, lw=1.2, ls="--", label=f"s/2 = {half:.6g}")
        ax.set_xlabel("error r_hat − r  (dashed: ± s/2)")
        ax.yaxis.set_major_locator(_whole(5))
        ax.set_ylim(0, 1.1 * counts.max())
        percent = 100 * _number(share.mean()) / (total or 1.0)
        noun = "value" if part.sum() == 1 else "values"
        _title(ax, f"{name}: {part.sum():,} {noun}, {percent:.3g} % of the MSE")
    np.ravel(axes)[0].set_ylabel("count")
    fig.suptitle(f"MSE = {_short(total)}", fontsize=10, ha="left", x=0.01)
    return fig


def clip_sweep(r, bits, limits, chosen, shares_at=None):
    """Rounding and clipping error against the clip limit   (notebook 05, Play).

    shares_at  from a limit to both errors, for who has them already; None computes them
    """
    limits = [_number(x) for x in limits]
    if shares_at is None:
        shares_at = partial(_shares_at, _tensor(r), Scheme(bits=bits, mapping="symmetric"))
    shares = [shares_at(limit) for limit in limits]
    rounding, clipping = (np.array(x) for x in zip(*shares, strict=True))
    total = rounding + clipping
    here = shares_at(_number(chosen))
    best = int(total.argmin())
    fig, ax = _figure(3.4)
    ax.plot(limits, rounding, color=ERROR, ls="--", lw=1.8, label="rounding")
    ax.plot(limits, clipping, color=CLIPPED, ls=":", lw=2.2, label="clipping")
    ax.plot(limits, total, color=TOTAL, lw=2, label="both: the MSE")
    ax.axvline(_number(chosen), color=CODE, lw=1.2, gid=ASIDE)
    ax.plot(
        limits[best],
        total[best],
        "*",
        color=TOTAL,
        ms=13,
        label=f"smallest: {_short(total[best])} at {_short(limits[best])}",
    )
    ax.plot(_number(chosen), sum(here), "o", color=CODE, ms=8, label="chosen")
    ax.set_yscale("log")
    ax.set_ylim(total[total > 0].min() / 30, total.max() * 2)
    ax.yaxis.set_major_formatter(_PLAIN)
    ax.set_xlabel("clip limit: the range is −limit to limit")
    ax.set_ylabel("mean squared error")
    _title(
        ax,
        f"{bits} bits, limit {_short(chosen)}: rounding {_short(here[0])} + "
        f"clipping {_short(here[1])} = MSE {_short(sum(here))}",
    )
    _legend_above(fig, ax.get_lines()[:3] + ax.get_lines()[4:5])
    return fig


def _shares_at(r, scheme, limit):
    limit = r.new_tensor(limit)
    qparams = qparams_from_range(-limit, limit, scheme)
    r_hat = quantize(r, scheme, qparams).dequantize()
    return tuple(map(_number, error_shares(r, r_hat, qparams.scale)))


def sqnr_by_bits(curves, slope=6.02):
    """SQNR against bits; the reference rises `slope` dB per bit   (notebook 05).

    curves  {label: (bits, sqnr in dB)}
    """
    fig, ax = _figure(3.4)
    for (label, (bits, values)), style in zip(curves.items(), _STYLES * 9, strict=False):
        _curve(ax, _array(bits), _array(values), style, label)
    bits, values = map(_array, next(iter(curves.values())))
    ax.plot(
        bits,
        values[-1] + slope * (bits - bits[-1]),
        color=GRID,
        ls=(0, (2, 2)),
        lw=1.4,
        zorder=1,
        label=f"{_short(slope)} dB per bit",
    )
    for i in range(1, len(bits)):
        steps = bits[i] - bits[i - 1]
        gain = f"{(values[i] - values[i - 1]) / steps:+.1f}".replace("-", "−")
        ax.annotate(
            gain if steps == 1 else f"{gain} a bit",
            ((bits[i] + bits[i - 1]) / 2, (values[i] + values[i - 1]) / 2),
            (-6, 6),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=REAL,
        )
    ax.set_xlabel("bits")
    ax.set_ylabel("SQNR (dB)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(0.05, 0.1)
    ax.legend(frameon=False, loc="lower right")
    return fig


# ---------------------------------------------------------------- who shares a scale (06)


def shared_scales(shape, granularities):
    """Which cells of a matrix share a scale, and the scale tensor's own shape   (notebook 06).

    granularities  {title: granularity}
    """
    rows, cols = shape
    plans = {title: _scale_numbers(g, shape) for title, g in granularities.items()}
    highest = max(scales.shape[0] for scales, _, _ in plans.values())
    words = 1.1  # inches for the lines of words and the gaps
    cell = min(7 / (len(plans) * (cols + 0.5)), (4.0 - words) / (highest + rows))
    height = max(2.2, cell * (highest + rows) + words)
    fig, axes = _figure(height, cols=len(plans), sharex=True, sharey=True)
    line = 0.22 / cell  # a line of words, in cells
    gap = line + 0.8
    for ax, (title, (scales, cells, name)) in zip(np.ravel(axes), plans.items(), strict=True):
        top = gap + highest
        for numbers, y in ((scales, top), (cells, 0)):
            n, m = numbers.shape
            ax.imshow(
                numbers % len(_TINTS),
                cmap=ListedColormap(_TINTS),
                vmin=-0.5,
                vmax=len(_TINTS) - 0.5,
                extent=(0, m, y - n, y),
                gid=ASIDE,
            )
            ax.vlines(np.arange(1, m), y - n, y, color="white", lw=1.5, gid=ASIDE)
            ax.hlines(y - np.arange(1, n), 0, m, color="white", lw=1.5, gid=ASIDE)
            for (i, j), k in np.ndenumerate(numbers):
                ax.text(j + 0.5, y - i - 0.5, str(k), ha="center", va="center", fontsize=_SMALL)
        ax.text(0, top + 0.15, f"scale {name}", ha="left", va="bottom")
        ax.text(0, 0.15, f"r {tuple(shape)}", ha="left", va="bottom")
        ax.set_xlim(0, cols)
        ax.set_ylim(-rows, gap + highest + line)
        ax.set_aspect("equal", anchor="NW")
        ax.set_axis_off()
        _title(ax, title)
    return fig


def _scale_numbers(granularity, shape):
    """The scales numbered, in their own shape; the number of each cell; the shape in words."""
    scale_shape = granularity.scale_shape(shape)
    numbers = torch.arange(int(np.prod(scale_shape))).reshape(scale_shape)
    blocks = granularity.split(torch.zeros(shape))
    cells = granularity.join(granularity.align(numbers).expand(blocks.shape), shape)
    return np.atleast_2d(numbers.numpy()), cells.numpy(), str(tuple(scale_shape))


def error_by_price(curves, equal_price=None):
    """SQNR against what a value costs   (notebook 06).

    curves       {label: (bits per value, SQNR in dB, names of the points)}
    equal_price  bits per value at which to compare, a vertical line
    """
    fig, ax = _figure(3.8)
    points = []
    for (label, (price, values, names)), style in zip(curves.items(), _STYLES * 9, strict=False):
        price, values = _array(price), _array(values)
        _curve(ax, price, values, style, label)
        points += [(x, y, str(n), style[0]) for x, y, n in zip(price, values, names, strict=True)]
    if equal_price is not None:
        ax.axvline(
            _number(equal_price),
            color=GRID,
            lw=1.4,
            ls=(0, (2, 2)),
            label=f"{_short(equal_price)} bits per value",
        )
    ax.set_xlabel("bits per value")
    ax.set_ylabel("SQNR (dB)")
    ax.margins(0.08, 0.12)
    _legend_above(fig, ax.get_legend_handles_labels()[0])
    _name_points(fig, ax, points)
    return fig


def _name_points(fig, ax, points):
    """A word beside each point, on the side where it covers least of the curves and the words."""
    if fig.get_layout_engine():
        fig.draw_without_rendering()  # fixes the layout, so that data have places in pixels
    ax.autoscale_view()
    taken = [np.zeros((0, 2))]
    for line in (line for line in ax.get_lines() if line.get_marker() != "None"):
        xy = ax.transData.transform(np.column_stack(line.get_data()))
        taken += [
            a + (b - a) * np.linspace(0, 1, 30)[:, None]
            for a, b in zip(xy[:-1], xy[1:], strict=True)
        ]
    taken = np.concatenate(taken)
    for x, y, word, color in points:
        at = ax.transData.transform((x, y))
        size = np.array([len(word) * 0.62 * _SMALL, 1.25 * _SMALL]) * fig.dpi / 72
        best = None
        for side in _SIDES:
            corner = at + side * 9 + np.minimum(side, 0) * size - (side == 0) * size / 2
            inside = np.all((taken > corner - 1) & (taken < corner + size + 1), axis=1).sum()
            if best is None or inside < best[0]:
                best = (inside, side, corner)
        _, side, corner = best
        grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 8)] * 2), axis=-1).reshape(-1, 2)
        taken = np.concatenate([taken, corner + grid * size])
        ax.annotate(
            word,
            (x, y),
            side * 6,
            textcoords="offset points",
            fontsize=_SMALL,
            color=color,
            ha=("right", "center", "left")[int(side[0]) + 1],
            va=("top", "center", "bottom")[int(side[1]) + 1],
        )


# ---------------------------------------------------------------- what it is for (00)


def memory(models, bits, devices):
    """Bytes of the weights against the memory of devices   (notebook 00).

    models   {name: number of weights}
    bits     bits per weight
    devices  {name: GB}, GB = 10^9 bytes
    """
    fig, ax = _figure(min(4.0, 1.2 + 0.27 * len(models) * len(bits)))
    places, words, sizes = [], [], []
    for i, (name, weights) in enumerate(models.items()):
        at = -np.arange(len(bits)) - i * (len(bits) + 0.6)
        gigabytes = [_number(weights) * _number(b) / 8 / 1e9 for b in bits]
        ax.barh(at, gigabytes, height=0.76, color=SIZE, edgecolor=REAL, lw=0.8, label=name)
        places, sizes = [*places, *at], [*sizes, *gigabytes]
        words += [f"{name}, {_short(b)} bits" for b in bits]
    lowest = 10.0 ** np.floor(np.log10(0.9 * min(sizes)))
    ax.set_xscale("log")
    ax.set_xlim(lowest, 2.2 * max(sizes))
    ax.set_ylim(min(places) - 0.6, 0.7)
    for name, size in devices.items():
        ax.axvline(_number(size), color=CODE, lw=1.4, ls="--", label=name)
    for y, size in zip(places, sizes, strict=True):
        ax.annotate(
            f"{_short(size, 3)} GB",
            (size, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            bbox=dict(facecolor="white", edgecolor="none", pad=1),
        )
    names = [(f"{name}\n{_short(size)} GB", CODE) for name, size in devices.items()]
    logs = np.log10([_number(size) for size in devices.values()])
    _spread_words(ax, logs, names, 0.7, 1.1, np.log10(ax.get_xlim()), place=lambda x: 10.0**x)
    _own_ticks(ax.yaxis, places, words)
    ax.xaxis.set_major_formatter(_PLAIN)
    ax.set_xlabel("weights (GB = 10⁹ bytes)")
    ax.tick_params(axis="y", length=0)
    return fig


def perplexity_by_bits(curves, floor=None):
    """Perplexity of a language model against bits   (notebooks 00, 06).

    curves  {label: (bits, perplexities)}
    floor   the perplexity in float32, a horizontal line
    """
    fig, ax = _figure(3.4)
    every = sorted({_number(b) for bits, _ in curves.values() for b in bits})
    for (label, (bits, values)), style in zip(curves.items(), _STYLES * 9, strict=False):
        x, values = [every.index(_number(b)) for b in bits], _array(values)
        _curve(ax, x, values, style, label)
        side = -1 if x[-1] < x[0] else 1
        ax.annotate(
            _short(values[-1]),
            (x[-1], values[-1]),
            (9 * side, 0),
            va="center",
            ha="right" if side < 0 else "left",
            textcoords="offset points",
            color=style[0],
        )
    if floor is not None:
        ax.axhline(_number(floor), color=GRID, lw=1.2, ls="--", label=f"float32: {_short(floor)}")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(_PLAIN)
    _own_ticks(ax.xaxis, range(len(every)), [_short(b) for b in every])
    ax.set_xlabel("bits")
    ax.set_ylabel("perplexity")
    ax.margins(0.13, 0.12)
    ax.legend(frameon=False)
    return fig


# ---------------------------------------------------------------- shared


class _Trip(NamedTuple):
    r: np.ndarray
    q: np.ndarray
    r_hat: np.ndarray
    clipped: np.ndarray  # whether the code before the clip lay outside


def _there_and_back(values, scale, zero_point, quant_min, quant_max) -> _Trip:
    r, scale, zero_point = (_tensor(x) for x in (values, scale, zero_point))
    r = r.flatten()
    free = quantize_affine(r, scale, zero_point, quant_min - 1, quant_max + 1, torch.int32)
    q = quantize_affine(r, scale, zero_point, quant_min, quant_max, torch.int32)
    r_hat = dequantize_affine(q, scale, zero_point)
    return _Trip(*map(_array, (r, q, r_hat)), (free != q).numpy())


def _grid(scale, zero_point, quant_min, quant_max):
    """The values that can come back, one for each code."""
    codes = torch.arange(quant_min, quant_max + 1)
    return _array(dequantize_affine(codes, _tensor(scale), _tensor(zero_point)))


def _tensor(x) -> torch.Tensor:
    """x on the CPU, as a float tensor without a gradient."""
    x = torch.as_tensor(x).detach().cpu()
    return x if x.dtype == torch.float64 else x.float()


def _array(x) -> np.ndarray:
    if not isinstance(x, torch.Tensor):
        x = torch.as_tensor(x, dtype=torch.float64)
    return x.detach().cpu().double().numpy()


def _number(x) -> float:
    return float(torch.as_tensor(x).detach().cpu()) if isinstance(x, torch.Tensor) else float(x)


def _short(x, digits=4) -> str:
    """A number in a few digits, with a real minus and never minus zero."""
    return _no_minus_zero(f"{_number(x):.{digits}g}")


def _no_minus_zero(text) -> str:
    if text.startswith("-") and not any(c in "123456789" for c in text):
        text = text[1:]
    return text.replace("-", "−")


def _falls(r, top, r_hat, bottom):
    """A segment from each (r, top) to its (r_hat, bottom)."""
    ends = np.stack([r, np.full(len(r), top), r_hat, np.full(len(r), bottom)], axis=1)
    return ends.reshape(-1, 2, 2)


def _figure(height, rows=1, cols=1, **options):
    """A figure 7 inches wide and its axes: one, or a list."""
    fig = _again.get()
    if fig is None:
        fig = Figure(figsize=(7, height), dpi=100, layout="constrained")
        fig.as_made = fig.subplots(rows, cols, **options)
        for ax in fig.axes:
            _tidy(ax)
    else:
        _empty(fig)
    return fig, fig.as_made


def _empty(fig):
    """Take away what was drawn, and leave axes with ticks and labels for what comes now."""
    for ax in fig.axes:
        legend = [ax.get_legend()] if ax.get_legend() else []
        drawn = (ax.lines, ax.collections, ax.patches, ax.images, ax.texts, legend)
        for artist in [a for kind in drawn for a in kind]:
            artist.remove()
        ax.containers.clear()
        ax.set_prop_cycle(None)
        ax.relim()
        ax.autoscale(True)
    for legend in list(fig.legends):
        legend.remove()


def _axes_at(fig, x, y, width, height):
    """Axes at a place given in pixels, for a picture whose pixels must not be resampled."""
    across, up = fig.get_size_inches() * fig.dpi
    ax = fig.add_axes((x / across, y / up, width / across, height / up))
    _tidy(ax)
    return ax


def _tidy(ax):
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[:].set_color(INK)
    ax.tick_params(colors=INK, labelsize=10)


def _whole(most):
    """At most this many ticks, at whole numbers."""
    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10])


def _title(ax, words):
    # y: matplotlib need not look for labels above the axes, which takes a fifth of a drawing.
    ax.set_title(words, loc="left", y=1, fontsize=10, color=INK)


def _bare(ax):
    """No x axis and no frame: the drawing brings its own."""
    ax.xaxis.set_visible(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _own_ticks(axis, at, words):
    axis.set_major_locator(FixedLocator(list(at)))
    if words is not None:
        axis.set_major_formatter(FixedFormatter(list(words)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _segments(ax, ends, color, label=None):
    lines = LineCollection(ends, colors=color, linewidths=1.0, label=label)
    if label is None:
        lines.set_gid(ASIDE)
    ax.add_collection(lines)


def _curve(ax, x, y, style, label):
    color, marker, line = style
    ax.plot(x, y, color=color, marker=marker, ls=line, lw=1.6, ms=6, label=label)


def _dot(marker, color, label, ms=6.5, **more):
    return Line2D([], [], ls="", marker=marker, color=color, label=label, ms=ms, **more)


def _legend_above(fig, handles):
    fig.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=10
    )


def _wider(low, high, share):
    more = share * ((high - low) or 1.0)
    return low - more, high + more


def _spread_words(ax, at, words, start, y, limits, place=lambda x: x):
    """Words near their places, moved apart where they would touch, each with a leader line.

    words  (word, color) pairs
    place  from the axis on which they are spread to data
    """
    at, words = np.asarray(list(at), dtype=float), list(words)
    low, high = limits
    letter = _SMALL * 0.62 / 72 / 6.0 * (high - low)  # about 6 of the 7 inches are axis
    order = np.argsort(at, kind="stable")
    letters = [max(map(len, words[i][0].split("\n"))) for i in order]
    widths = (np.array(letters) + 1.2) * letter
    centres = np.cumsum(widths) - widths / 2
    blocks = []  # [where a run of touching words wants to be, how many]
    for want in at[order] - centres:
        blocks.append([want, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, n), (a, m) = blocks.pop(), blocks.pop()
            blocks.append([(a * m + b * n) / (m + n), m + n])
    shift = np.repeat([b for b, _ in blocks], [n for _, n in blocks])
    spread = np.clip(shift, low, high - widths.sum()) + centres
    for i, x in zip(order, spread, strict=True):
        word, color = words[i]
        ax.plot([place(at[i]), place(x)], [start, y], color=color, lw=0.6, clip_on=False, gid=ASIDE)
        ax.text(
            place(x),
            y,
            word,
            color=color,
            fontsize=_SMALL,
            ha="center",
            va="bottom" if y > start else "top",
        )


_PLAIN = FuncFormatter(lambda v, _: f"{v:g}")
_SIDES = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)])
_PALE = "#f0f0f0"
_TINTS = [
    _lighter(color, 0.55)
    for color in (_SKY, _ORANGE, _GREEN, _YELLOW, _PURPLE, _BLUE, _VERMILLION, "#999999")
]
