"""The pictures of notebook 07: ranges, and how they are chosen."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def histogram_and_ranges(
    values: draw.Values,
    ranges: Mapping[str, tuple[draw.Scalar, draw.Scalar]],
    words: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """How often each value occurs, and below it the range of each method   (notebook 07).

    ranges  {method: (r_min, r_max)}
    words   {method: what is written at its range}; None writes the ends
    """
    r = draw.array(values).ravel()
    ends = {name: tuple(map(draw.number, pair)) for name, pair in ranges.items()}
    fig, (top, below) = draw.figure(
        1.65 + 0.45 * len(ends), rows=2, sharex=True, height_ratios=[1.0, 0.42 * len(ends)]
    )
    low, high = draw.wider(r.min(), r.max(), 0.03)
    counts, edges = np.histogram(r, 81, (low, high))
    top.stairs(counts, edges, fill=True, color=draw.SIZE, label="values")
    top.set_yscale("log")
    top.set_ylim(0.6, 3 * counts.max())
    top.set_ylabel("count (log)")
    draw.title(top, title)
    for y, (name, (r_min, r_max)) in enumerate(ends.items()):
        color = draw.STYLES[y % len(draw.STYLES)][0]
        below.plot([r_min, r_max], [-y, -y], color=color, lw=2.5, marker="|", ms=9, label=name)
        said = f"{draw.short(r_min, 3)} to {draw.short(r_max, 3)}" if words is None else words[name]
        below.text((low + high) / 2, 0.2 - y, said, ha="center", va="bottom", fontsize=draw.SMALL)
    below.set_ylim(0.5 - len(ends), 0.9)
    below.set_xlim(low, high)
    draw.own_ticks(below.yaxis, [-y for y in range(len(ends))], list(ends))
    below.tick_params(axis="y", length=0)
    below.spines["left"].set_visible(False)
    below.set_xlabel("r")
    return fig


def losses_by_limit(
    panels: Mapping[str, Mapping[str, tuple[draw.Values, draw.Values]]],
    quantity: str = "clip limit: values beyond ±limit are clipped",
) -> Figure:
    """What a search minimizes, against the limit; a star at each minimum   (notebook 07).

    panels  {what is minimized: {label: (limits, losses)}}
    """
    fig, axes = draw.figure(3.2, cols=len(panels))
    for ax, (loss, curves) in zip(np.ravel(axes), panels.items(), strict=True):
        for (label, (limits, losses)), style in zip(curves.items(), draw.STYLES, strict=False):
            x, y = draw.array(limits), draw.array(losses)
            color, _, line = style
            ax.plot(x, y, color=color, ls=line, lw=1.8, label=label)
            best = int(y.argmin())
            ax.plot(x[best], y[best], "*", color=color, ms=13, label=f"least of {label}")
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(draw.PLAIN)
        ax.set_xlabel(quantity if len(panels) == 1 else "clip limit")
        draw.title(ax, f"{loss} (log)")
        if len(curves) > 1:
            ax.legend(handles=ax.get_lines()[::2], frameon=False, fontsize=draw.SMALL)
        ax.margins(y=0.12)
    return fig


def running_ranges(largest: draw.Values, ranges: Mapping[str, draw.Values]) -> Figure:
    """The upper end of each observer after every window, over the windows' own   (notebook 07).

    largest  the largest value of each window
    ranges   {observer: the upper ends of its range, one after each window}
    """
    fig, ax = draw.figure(3.2)
    windows = np.arange(1, len(largest) + 1)
    ax.vlines(windows, 0, draw.array(largest), color=draw.GRID, lw=1, gid=ASIDE)
    ax.plot(windows, draw.array(largest), "o", color=draw.GRID, ms=4, label="largest of the window")
    for (label, ends), (color, _, line) in zip(ranges.items(), draw.STYLES, strict=False):
        ax.plot(windows, draw.array(ends), color=color, ls=line, lw=2, label=label)
    ax.set_ylim(0, None)
    ax.set_xlim(0.5, len(windows) + 0.5)
    ax.xaxis.set_major_locator(draw.whole(9))
    ax.set_xlabel("windows observed")
    ax.set_ylabel("upper end of the range")
    fig.legend(handles=ax.get_lines(), loc="outside upper left", ncols=3, frameon=False)
    return fig
