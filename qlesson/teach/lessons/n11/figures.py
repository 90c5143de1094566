"""The pictures of notebook 11: what better methods than rounding do."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def side_by_side(
    panels: Mapping[str, Mapping[str, Iterable[float]]], methods: Sequence[str]
) -> Figure:
    """One panel of bars for each measure, the same methods below each other   (notebook 11).

    panels   {title: {series: one value for each method}}, one or two series in a panel
    methods  the names, from top to bottom
    """
    fig, axes = draw.figure(0.9 + 0.36 * len(methods), cols=len(panels), sharey=True)
    alone = dict(facecolor=draw.lighter(draw.GREEN, 0.35), edgecolor=draw.ERROR)
    pair = [
        dict(facecolor=draw.SIZE, edgecolor=draw.REAL),
        dict(facecolor=draw.BAR, edgecolor=draw.INK, hatch="///"),
    ]
    at = -np.arange(len(methods), dtype=float)
    named = {}
    for ax, (title, series) in zip(np.ravel(axes), panels.items(), strict=True):
        high = 0.8 / len(series)
        most = max(draw.array(list(values)).max() for values in series.values())
        looks = pair if len(series) > 1 else [alone]
        for i, ((label, values), look) in enumerate(zip(series.items(), looks, strict=True)):
            values, y = draw.array(list(values)), at + 0.4 - high * (i + 0.5)
            bars = ax.barh(y, values, height=high, lw=0.8, label=label, **look)
            if len(series) > 1:
                named[label] = bars
            for x, each in zip(values, y, strict=True):
                ax.annotate(
                    draw.short(x, 3),
                    (x, each),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=draw.SMALL,
                )
        ax.set_xlim(0, 1.28 * most)
        ax.xaxis.set_visible(False)
        ax.spines["bottom"].set_visible(False)
        draw.title(ax, title)
        ax.tick_params(axis="y", length=0)
    draw.own_ticks(np.ravel(axes)[0].yaxis, at, methods)
    if named:
        draw.legend_above(fig, list(named.values()))
    return fig


def column_errors(sizes: draw.Values, errors: Mapping[str, draw.Values]) -> Figure:
    """How far off each column of a weight is, by the size of the inputs it meets   (notebook 11).

    sizes   mean |x_j| of each input channel
    errors  {method: root of the mean squared error of each column}
    """
    fig, ax = draw.figure(3.4)
    for (label, values), (color, marker, _) in zip(errors.items(), draw.STYLES, strict=False):
        look = dict(facecolors="none", edgecolors=color, marker=marker, s=26, linewidths=1.2)
        ax.scatter(draw.array(sizes), draw.array(values), label=label, **look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(draw.PLAIN)
    ax.yaxis.set_major_formatter(draw.PLAIN)
    ax.set_xlabel("mean |input| of the column")
    ax.set_ylabel("weight error (rms)")
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    return fig


def channels(rows: Mapping[str, draw.Values]) -> Figure:
    """The largest magnitude of each input channel, a panel for each way   (notebook 11).

    rows  {title: inputs [samples, in]}
    """
    fig, axes = draw.figure(3.4, rows=len(rows), sharex=True)
    for ax, (name, x) in zip(np.ravel(axes), rows.items(), strict=True):
        largest = np.abs(draw.array(x)).max(axis=0)
        ax.vlines(np.arange(len(largest)), 0, largest, color=draw.REAL, lw=2, label=name)
        ax.set_ylim(0, 1.08 * largest.max())
        ax.yaxis.set_major_locator(draw.whole(3))
        ratio = draw.short(largest.max() / np.median(largest), 3)
        draw.title(ax, f"{name}: largest / median = {ratio}")
    np.ravel(axes)[-1].set_xlabel("input channel")
    fig.supylabel("largest |input|", fontsize=10)
    return fig


def smoothing(
    alphas: draw.Values, shares: Mapping[str, draw.Values], chosen: draw.Scalar
) -> Figure:
    """Output error against how much of the outliers moves into the weights  (notebook 11, Play).

    alphas  the exponents
    shares  {"inputs": ..., "weights": ..., "both": ...}: output errors in %, one for each alpha
    chosen  the alpha set by the slider
    """
    fig, ax = draw.figure(3.4)
    looks = {"inputs": (draw.REAL, "--"), "weights": (draw.CLIPPED, ":"), "both": (draw.TOTAL, "-")}
    alphas = draw.array(alphas)
    for name, (color, line) in looks.items():
        words = "both quantized" if name == "both" else f"only the {name} quantized"
        ax.plot(alphas, draw.array(shares[name]), color=color, ls=line, lw=2, label=words)
    both = draw.array(shares["both"])
    best, here = both.argmin(), np.abs(alphas - draw.number(chosen)).argmin()
    words = f"smallest: {draw.short(both[best], 3)} % at {draw.short(alphas[best])}"
    ax.plot(alphas[best], both[best], "*", color=draw.TOTAL, ms=13, label=words)
    ax.axvline(alphas[here], color=draw.CODE, lw=1.2, gid=ASIDE)
    ax.plot(alphas[here], both[here], "o", color=draw.CODE, ms=8, label="chosen")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(draw.PLAIN)
    ax.set_ylim(0.0008, 0.6)
    ax.set_xlabel("alpha: 0 leaves the outliers in the inputs, 1 moves all into the weights")
    ax.set_ylabel("output error (%, log)")
    ax.legend(frameon=False, loc="upper right", fontsize=draw.SMALL)
    return fig
