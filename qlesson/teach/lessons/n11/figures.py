"""The pictures of notebook 11: what better methods than rounding do."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from qlesson.teach.figures import drawing as draw


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
    ax.set_xlabel("mean |input| of the column (log)")
    ax.set_ylabel("weight error, rms (log)")
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    return fig


def channels(rows: Mapping[str, draw.Values]) -> Figure:
    """The largest magnitude of each input channel, a panel for each way   (notebooks 11, 17).

    rows  {title: inputs [samples, in]}
    """
    fig, axes = draw.figure(3.4, rows=len(rows), sharex=True)
    for ax, (name, x) in zip(np.ravel(axes), rows.items(), strict=True):
        largest = np.abs(draw.array(x)).max(axis=0)
        ax.vlines(np.arange(len(largest)), 0, largest, color=draw.REAL, lw=2, label=name)
        ax.set_ylim(0, 1.08 * largest.max())
        ax.yaxis.set_major_locator(draw.whole(3 if len(rows) > 1 else 5))
        ratio = draw.short(largest.max() / np.median(largest), 3)
        draw.title(ax, f"{name}: largest / median = {ratio}")
    np.ravel(axes)[-1].set_xlabel("input channel")
    fig.supylabel("largest |input|", fontsize=10)
    return fig


def contest(
    panels: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]],
) -> Figure:
    """How much worse than the float model each contestant predicts   (notebook 11).

    panels  {title: {range: {method: (difference in nats, its standard error)}}}, the same ranges
            and methods in each; bars reach two errors to each side
    """
    names = [*next(iter(next(iter(panels.values())).values()))]
    fig, axes = draw.figure(1.3 + 0.36 * len(names), cols=len(panels), sharey=True)
    places = -np.arange(len(names), dtype=float)
    for ax, (title, ranges) in zip(np.ravel(axes), panels.items(), strict=True):
        for i, (label, found) in enumerate(ranges.items()):
            color, marker, _ = draw.STYLES[i]
            y = places + 0.15 - 0.3 * i
            means, errors = (draw.array(list(x)) for x in zip(*found.values(), strict=True))
            look = dict(color=color, ecolor=color, fmt=marker, ms=6, capsize=3, lw=1.4)
            ax.errorbar(means, y, xerr=2 * errors, label=label, **look)
        ax.set_xlim(left=0)
        ax.set_ylim(places[-1] - 0.6, 0.6)
        draw.title(ax, title)
        ax.tick_params(axis="y", length=0)
    draw.own_ticks(np.ravel(axes)[0].yaxis, places, names)
    fig.supxlabel("nats per character above the float model, ± 2 standard errors", fontsize=10)
    draw.legend_above(fig, np.ravel(axes)[0].get_legend_handles_labels()[0])
    return fig


def two_weights(
    weights: Sequence[float],
    together: draw.Scalar,
    codes: Mapping[str, Sequence[int]],
    errors: Mapping[str, draw.Scalar],
    moved: draw.Scalar,
) -> Figure:
    """Two weights among the pairs of codes, and what pairs lose in the output (notebook 11, Play).

    weights   the two, as real numbers
    together  the mean product of their two inputs, whose mean squares are 1
    codes     {choice: its pair of codes}
    errors    {choice: its output error}
    moved     where the second weight is before it is rounded, when the first is at its code
    """
    fig, (left, right) = draw.figure(3.0, cols=2, width_ratios=[1.15, 1])
    weights = [draw.number(w) for w in weights]
    grid = np.array([(a, b) for a in range(-1, 3) for b in range(-1, 3)])
    left.plot(*grid.T, ".", color=draw.GRID, ms=5, label="codes")
    most = max(draw.number(e) for e in errors.values())
    for (name, pair), (color, marker, line) in zip(codes.items(), draw.STYLES, strict=False):
        path = _equal_error(weights, draw.number(together), draw.number(errors[name]))
        left.plot(*path, color=color, ls=line, lw=1.2, label=f"as far off as {name}")
        look = dict(color=color, mfc="none", mew=1.8, ms=8 + 4 * len(left.lines) // 2)
        left.plot(*pair, marker, label=name, ls="", **look)
    start = [codes["second moved"][0], weights[1]]
    left.plot([start[0]] * 2, [start[1], draw.number(moved)], color=draw.CODE, lw=2, label="move")
    left.plot(*weights, "x", color=draw.INK, ms=8, mew=2, label="weights")
    left.set_xlim(-1.4, 2.4)
    left.set_ylim(-1.2, 2.2)
    for axis in (left.xaxis, left.yaxis):
        draw.own_ticks(axis, range(-1, 3), None)
    left.set_xlabel("first weight")
    left.set_ylabel("second weight")
    places = -np.arange(len(errors), dtype=float)
    values = [draw.number(e) for e in errors.values()]
    colors = [draw.lighter(color, 0.6) for color, _, _ in draw.STYLES[: len(values)]]
    right.barh(places, values, height=0.6, color=colors)
    for y, value in zip(places, values, strict=True):
        place = dict(textcoords="offset points", va="center", fontsize=draw.SMALL)
        right.annotate(draw.short(value, 3), (value, y), (4, 0), **place)
    draw.own_ticks(right.yaxis, places, list(errors))
    right.set_xlim(0, 1.25 * (most or 1))
    right.set_xlabel("output error")
    return fig


def _equal_error(weights: Sequence[float], together: float, error: float) -> np.ndarray:
    """The ellipse of all pairs with this output error, [2, points]: d H d^T = error."""
    turn = 2 * np.pi * np.arange(121) / 120
    sum_, difference = np.cos(turn) / (1 + together) ** 0.5, np.sin(turn) / (1 - together) ** 0.5
    half = np.sqrt(error / 2)
    return np.stack(
        [weights[0] + half * (sum_ + difference), weights[1] + half * (sum_ - difference)]
    )
