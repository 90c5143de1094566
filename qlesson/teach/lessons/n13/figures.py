"""The pictures of notebook 13: bytes that move, and the time they take."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from qlesson.teach.figures import drawing as draw


def traffic(rows: Sequence[tuple[str, float, float]], floor: tuple[float, float]) -> Figure:
    """The bytes that every operation reads and writes, one below the other   (notebook 13).

    rows   (operation, bytes read, bytes written) for each value, as they run
    floor  (bytes read, bytes written) by a single pass that does it all
    """
    fig, ax = draw.figure(0.9 + 0.34 * (len(rows) + 1))
    rows = [*rows, ("one pass", *floor)]
    names, read, written = zip(*rows, strict=True)
    at = -np.arange(len(rows))
    ax.barh(at, read, 0.62, color=draw.SIZE, edgecolor=draw.INK, lw=0.6, label="read")
    ax.barh(
        at, written, 0.62, left=read, color=draw.BAR, edgecolor=draw.INK, lw=0.6, label="written",
        hatch="//",
    )  # fmt: skip
    for y, a, b in zip(at, read, written, strict=True):
        ax.text(a + b + 0.12, y, f"{a + b:g}", va="center", fontsize=draw.SMALL)
    draw.own_ticks(ax.yaxis, at, names)
    ax.xaxis.set_major_locator(draw.whole(9))
    ax.set_xlim(0, 1.08 * max(np.add(read, written)))
    ax.set_xlabel("bytes for each value")
    fig.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return fig


def times(
    ms: Mapping[str, float], floor: float, dashed: str = "one pass over the same bytes"
) -> Figure:
    """How long each contestant takes, on a logarithmic axis   (notebook 13).

    ms     {contestant: milliseconds}
    floor  the time of one pass over the same bytes, or of what `dashed` says, drawn as a line
    """
    ms = dict(sorted(ms.items(), key=lambda item: item[1]))
    fig, ax = draw.figure(0.8 + 0.3 * len(ms))
    at = -np.arange(len(ms))
    ax.grid(axis="y", color=draw.PALE)
    ax.set_axisbelow(True)
    # No bars: on this axis a length would say nothing.
    ax.plot(list(ms.values()), at, "o", color=draw.REAL, ms=7, label="contestants")
    for y, t in zip(at, ms.values(), strict=True):
        ax.text(1.1 * t, y, f"{t:.3g}", va="center", fontsize=draw.SMALL)
    ax.axvline(floor, color=draw.GRID, ls="--", lw=1.4, label="floor")
    ax.set_xscale("log")
    ax.set_xlim(floor / 2, 1.6 * max(ms.values()))
    draw.own_ticks(ax.xaxis, *_round_ticks(floor / 2, 1.6 * max(ms.values())))
    draw.own_ticks(ax.yaxis, at, list(ms))
    ax.set_xlabel(f"milliseconds (log); dashed: {dashed}")
    return fig


def pieces(sizes: Sequence[int], ms: Sequence[float], floor: float) -> Figure:
    """The time of the formula on so many values at a time   (notebook 13).

    sizes  values in a piece; ms  the time for the whole tensor; floor  the time of one pass
    """
    fig, ax = draw.figure(2.9)
    draw.curve(ax, sizes, ms, draw.STYLES[0], "formula in pieces")
    ax.axhline(floor, color=draw.GRID, ls="--", lw=1.4, label="one pass")
    ax.set_xscale("log", base=2)
    powers = np.log2(sizes).round().astype(int)
    draw.own_ticks(ax.xaxis, sizes, [f"$2^{{{p}}}$" for p in powers])
    ax.set_ylim(0, 1.1 * max(ms))
    ax.set_xlabel("values in a piece (log)")
    ax.set_ylabel("milliseconds")
    fig.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return fig


def roofline(
    points: Mapping[str, tuple[float, float]],
    gb_per_s: float,
    arithmetic: float | None = None,
    title: str = "",
) -> Figure:
    """Values per second against bytes per value, under the roof of memory   (notebook 13).

    points      {name: (bytes moved for each value, values per second)}
    gb_per_s    the bandwidth of memory: the roof is gb_per_s / bytes
    arithmetic  billion values per second that the arithmetic allows: a level roof beside it,
                on axes that stay the same whatever the numbers
    """
    fig, ax = draw.figure(2.8)
    x = np.geomspace(2, 80, 50)
    ax.plot(x, gb_per_s / x, color=draw.GRID, lw=1.6, ls="--", label="roof: bandwidth / bytes")
    if arithmetic:
        ax.axhline(arithmetic, color=draw.INK, lw=1.2, ls=":", label="roof: arithmetic")
    for style, (name, (moved, speed)) in zip(draw.STYLES, points.items(), strict=False):
        ax.plot([moved], [speed / 1e9], style[1], color=style[0], ms=8, ls="", label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(2, 80)
    if arithmetic:
        ax.set_ylim(0.05, 2000)
    draw.own_ticks(ax.xaxis, [2, 5, 10, 20, 40, 80], list(map(str, [2, 5, 10, 20, 40, 80])))
    draw.own_ticks(ax.yaxis, *_round_ticks(*ax.get_ylim()))
    ax.set_xlabel("bytes moved for each value (log)")
    ax.set_ylabel("billion values per second (log)")
    draw.title(ax, title)
    fig.legend(loc="outside right upper", frameon=False, fontsize=10)
    return fig


def _round_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """1, 3, 10, 30 ... between two numbers, or 1, 10, 100 ... if that is many, and their words."""
    steps = (1, 3) if high < 1000 * low else (1,)
    at = [m * 10.0**e for e in range(-4, 5) for m in steps if low <= m * 10.0**e <= high]
    return at, [f"{t:g}" for t in at]
