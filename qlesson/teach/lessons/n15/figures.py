"""The pictures of notebook 15: what a block is made of, and what comes back of one."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qlesson.teach.figures import drawing as draw

FILLS = (draw.SIZE, draw.BAR, draw.UNUSED, draw.lighter(draw.GREEN, 0.45))
HATCHES = (None, "///", "...", "xxx")


def where_zero_comes_back(panels: Mapping[str, draw.Values]) -> Figure:
    """What 0.0 comes back as, in steps, of many blocks   (notebook 15).

    panels  {title: r_hat / d of the value 0.0, one for each block}
    """
    fig, axes = draw.figure(2.6, cols=len(panels))
    for ax, (title, off) in zip(np.ravel(axes), panels.items(), strict=True):
        off = draw.array(off)
        counts, edges = np.histogram(off, (np.arange(28) - 13.5) / 21)  # an edge is at half a step
        farthest = draw.short(abs(off).max(), 6)
        ax.stairs(counts, edges, fill=True, color=draw.SIZE, ec=draw.INK, label=f"to {farthest}")
        ax.axvline(0, color=draw.CODE, lw=1.4, ls="--", label=f"mean {draw.short(off.mean(), 6)}")
        ax.set_xlim(-0.65, 0.65)
        ax.set_ylim(0, 1.1 * counts.max())
        ax.yaxis.set_major_locator(draw.whole(5))
        draw.title(ax, title)
        ax.set_ylabel("blocks")
    fig.supxlabel("what 0.0 comes back as, in steps  (dashed: 0.0)", fontsize=10)
    return fig


def price_by_part(types: Mapping[str, tuple[int, Mapping[str, int]]]) -> Figure:
    """What the bits of a value are spent on   (notebook 15).

    types  {name: (values of a block, {part: bits of a block})}
    """
    fig, ax = draw.figure(0.9 + 0.36 * len(types))
    parts = list(dict.fromkeys(part for _, bits in types.values() for part in bits))
    looks = [dict(color=fill, hatch=hatch) for fill, hatch in zip(FILLS, HATCHES, strict=True)]
    look_of = dict(zip(parts, looks, strict=False))
    places = -np.arange(len(types), dtype=float)
    ends = np.zeros(len(types))
    for part in parts:
        each = np.array([bits.get(part, 0) / n for n, bits in types.values()])
        ax.barh(places, each, 0.66, ends, edgecolor=draw.INK, lw=0.7, label=part, **look_of[part])
        ends += each
    for y, end in zip(places, ends, strict=True):
        ax.text(end + 0.08, y, f"{end:.4g}", va="center", fontsize=draw.SMALL)
    draw.own_ticks(ax.yaxis, places, list(types))
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.12 * ends.max())
    ax.set_xlabel("bits per value")
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    return fig


def there_and_back_in_a_block(r: draw.Values, r_hat: draw.Values, title: str = "") -> Figure:
    """The weights of a block, what comes back, and the errors   (notebook 15, Play)."""
    r, r_hat = draw.array(r), draw.array(r_hat)
    x = np.arange(len(r))
    fig, (top, below) = draw.figure(2.9, rows=2, sharex=True, height_ratios=[1.7, 1])
    top.axhline(0, color=draw.GRID, lw=0.8, label="0")
    top.plot(x, r_hat, "_", color=draw.CODE, ms=11, mew=2, label="r_hat")
    top.plot(x, r, "o", color=draw.REAL, ms=4, label="r")
    most = 1.15 * max(abs(r).max(), abs(r_hat).max())
    top.set_ylim(-most, most)
    below.bar(x, r_hat - r, 0.6, color=draw.ERROR, label="error")
    below.axhline(0, color=draw.GRID, lw=0.8, label="no error")
    most = 1.2 * abs(r_hat - r).max() or 1.0
    below.set_ylim(-most, most)
    top.set_ylabel("value")
    below.set_ylabel("error\nr_hat − r")
    draw.title(top, title)
    below.set_xlabel("place in the block")
    below.set_xlim(-0.7, len(r) - 0.3)
    for ax in (top, below):
        ax.yaxis.set_major_formatter(draw.PLAIN)
        ax.yaxis.set_major_locator(MaxNLocator(4))
    handles = [h for h in top.get_lines() if h.get_label() in ("r", "r_hat")]
    draw.legend_above(fig, handles)
    return fig
