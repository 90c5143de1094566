"""The pictures of notebook 10: a language model with fewer bits."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from qlesson.teach.figures import drawing as draw

LETTERS, LINES = 80, 2  # of a typewriter font: in a line, and lines of a text


def alone_and_paired(means: Mapping[str, tuple[float, float]]) -> Figure:
    """Two losses, and their paired difference, each with two standard errors   (notebook 10).

    means  {label: (mean, standard error)} of two models and, the last, of their difference
    """
    fig, (left, right) = draw.figure(1.9, cols=2)
    *alone, paired = means.items()
    for i, (label, (mean, error)) in enumerate(alone):
        _bar(left, -i, mean, error, draw.STYLES[i], label)
    _bar(right, 0, *paired[1], draw.STYLES[len(alone)], paired[0])
    right.axvline(0, color=draw.GRID, lw=1.2, ls="--")
    draw.own_ticks(left.yaxis, [-i for i in range(len(alone))], [label for label, _ in alone])
    draw.own_ticks(right.yaxis, [0], [paired[0]])
    left.set_xlabel("loss of each model, nats")
    right.set_xlabel("difference, window by window, nats")
    for ax, rows in ((left, len(alone)), (right, 1)):
        ax.set_ylim(0.6 - rows, 0.6)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.15)
    return fig


def _bar(ax: Axes, y: float, mean: float, error: float, style: draw.Style, label: str) -> None:
    """A mean, and two standard errors to either side."""
    color, marker, _ = style
    ends = [mean - 2 * error, mean + 2 * error]
    ax.plot(ends, [y, y], "|-", color=color, lw=2, ms=11, label=f"{label}, two standard errors")
    ax.plot([mean], [y], marker, color=color, ms=7, label=label)


def damage_by_matrix(damage: Mapping[str, draw.Scalar], sqnr: Mapping[str, draw.Scalar]) -> Figure:
    """What each matrix costs the model when it alone is quantized   (notebook 10).

    damage  {name: nats}, drawn from the largest to the smallest
    sqnr    {name: dB of that matrix}, written beside its bar
    """
    names = sorted(damage, key=lambda name: damage[name], reverse=True)
    values, places = [draw.number(damage[name]) for name in names], -np.arange(len(names))
    fig, ax = draw.figure(min(4.0, 0.9 + 0.2 * len(names)))
    ax.barh(places, values, height=0.72, color=draw.SIZE, edgecolor=draw.REAL, lw=0.8)
    for y, name, value in zip(places, names, values, strict=True):
        ax.annotate(
            f"{draw.number(sqnr[name]):z.1f} dB",
            (value, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=draw.SMALL,
        )
    draw.own_ticks(ax.yaxis, places, names)
    ax.tick_params(axis="y", length=0, labelsize=draw.SMALL)
    ax.set_ylim(places[-1] - 0.6, 0.6)
    ax.set_xlim(0, 1.12 * max(values))
    ax.set_xlabel("divergence from the float model, nats  (beside it: SQNR of the matrix)")
    return fig


def size_and_perplexity(
    curves: Mapping[str, tuple[draw.Values, draw.Values, Sequence[object]]],
    floor: draw.Scalar | None = None,
) -> Figure:
    """Perplexity against the bytes of a model; the lower, the better at its size   (notebook 10).

    curves  {label: (kilobytes, perplexities, names of the points)}
    floor   the perplexity in float32, a horizontal line
    """
    fig, ax = draw.figure(3.9)
    points = draw.named_curves(ax, curves)
    if floor is not None:
        words = f"float32: {draw.short(floor)}"
        ax.axhline(draw.number(floor), color=draw.GRID, lw=1.2, ls="--", label=words)
    ax.set_yscale("log")
    draw.own_ticks(ax.yaxis, *_plain_ticks(ax.get_ylim()))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("size of the model (kB)")
    ax.set_ylabel("perplexity (log)")
    ax.margins(0.06, 0.1)
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    draw.name_points(fig, ax, points)
    return fig


def _plain_ticks(limits: tuple[float, float]) -> tuple[list[float], list[str]]:
    low, high = limits
    halves = [1 + i / 2 for i in range(18)]
    steps = halves if high < 2 * low else (1, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)
    at = [a * 10**k for k in range(-1, 5) for a in steps]
    at = [x for x in at if low <= x <= high]
    return at, [f"{x:g}" for x in at]


def written(texts: Mapping[str, str], perplexities: Mapping[str, draw.Scalar]) -> Figure:
    """What models write after the same words, and how unsure they are   (notebook 10, Play).

    texts         {label: text}
    perplexities  {label: perplexity}, with the same labels
    """
    fig, (top, below) = draw.figure(2.84, rows=2, height_ratios=[2.6, 1])
    for i, (label, text) in enumerate(texts.items()):
        color, marker, _ = draw.STYLES[i]
        lines = textwrap.wrap(" ".join(text.split()), LETTERS)[:LINES]
        top.text(0, -4 * i, label, color=color, va="top", weight="bold")
        words = "\n".join(lines)
        top.text(0, -4 * i - 1.1, words, family="monospace", fontsize=draw.SMALL, va="top")
        at = draw.number(perplexities[label])
        # Hollow, so that none hides another.
        look = dict(color=color, mfc="none", mew=1.8, ms=8, clip_on=False)
        below.plot([at], [0], marker, label=label, **look)
        names = dict(textcoords="offset points", ha="center", color=color)
        below.annotate(three_digits(at), (at, 0), (0, 9 if i else -18), **names)
    top.set_xlim(0, 1)
    top.set_ylim(-4 * len(texts), 0)
    top.set_axis_off()
    _blind_to_sure(below)
    below.set_ylim(-1.6, 0.9)  # room for a number below its point
    return fig


def _blind_to_sure(ax: Axes) -> None:
    """A perplexity axis up to what a model has that is wrong more often than by chance."""
    ax.set_xscale("log")
    ax.set_xlim(3, 3000)
    ax.set_ylim(-1, 1)
    ticks = [3, 4, 6, 10, 20, 40, 94, 300, 1000, 3000]
    draw.own_ticks(ax.xaxis, ticks, [f"{x}" if x != 94 else "94\nblind guess" for x in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_visible(False)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("perplexity (log)")


def three_digits(p: draw.Scalar) -> str:
    """A perplexity as it is written: 3.82, 22.6 or 134   (notebook 10, Play)."""
    p = draw.number(p)
    return f"{p:.{max(0, 2 - int(np.log10(max(p, 1))))}f}"


def perplexity_by_bits(
    curves: Mapping[str, tuple[draw.Values, draw.Values]], floor: draw.Scalar | None = None
) -> Figure:
    """Perplexity of a language model against bits   (notebook 10).

    curves  {label: (bits, perplexities)}
    floor   the perplexity in float32, a horizontal line
    """
    fig, ax = draw.figure(3.4)
    every = sorted({draw.number(b) for bits, _ in curves.values() for b in bits})
    for (label, (bits, values)), style in zip(curves.items(), draw.STYLES, strict=False):
        x, values = draw.array(bits), draw.array(values)
        draw.curve(ax, x, values, style, label)
        side = -1 if x[-1] < x[0] else 1
        ax.annotate(
            draw.short(values[-1]),
            (x[-1], values[-1]),
            (9 * side, 0),
            va="center",
            ha="right" if side < 0 else "left",
            textcoords="offset points",
            color=style[0],
        )
    if floor is not None:
        ax.axhline(
            draw.number(floor),
            color=draw.GRID,
            lw=1.2,
            ls="--",
            label=f"float32: {draw.short(floor)}",
        )
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(draw.PLAIN)
    draw.own_ticks(ax.xaxis, every, [draw.short(b) for b in every])
    ax.set_xlabel("bits")
    ax.set_ylabel("perplexity (log)")
    ax.margins(0.13, 0.12)
    ax.legend(frameon=False)
    return fig
