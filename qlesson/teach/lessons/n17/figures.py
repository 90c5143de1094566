"""The pictures of notebook 17: inputs that stand out, and what a rotation does to them."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from qlesson.teach.figures import drawing as draw


def by_block(panels: Mapping[str, Mapping[str, draw.Values]]) -> Figure:
    """A number for each kind of layer in each block, a panel for each way   (notebook 17).

    panels  {title: {layer: one value for each block}}, on one logarithmic scale
    """
    fig, axes = draw.figure(3.3, cols=len(panels), sharey=True)
    for ax, (title, found) in zip(np.ravel(axes), panels.items(), strict=True):
        for i, (label, values) in enumerate(found.items()):
            color, marker, line = draw.STYLES[i]
            # Hollow, and smaller than those before, so that none hides another.
            look = dict(color=color, marker=marker, mfc="none", ls=line, ms=6.5 - i, lw=1.2)
            ax.plot(np.arange(len(draw.array(values))), draw.array(values), label=label, **look)
        ax.set_yscale("log")
        draw.own_ticks(ax.yaxis, (3, 5, 10, 20), ("3", "5", "10", "20"))
        draw.title(ax, title)
    fig.supxlabel("block", fontsize=10)
    fig.supylabel("largest / rms (log)", fontsize=10)
    draw.legend_above(fig, np.ravel(axes)[0].get_legend_handles_labels()[0])
    return fig


def input_bits(found: Mapping[str, Mapping[str, tuple[float, float]]], title: str = "") -> Figure:
    """What fewer bits for the inputs cost, by what is done about it   (notebook 17).

    found  {way: {bits: (difference in nats per token, its standard error)}}, all bits in the first
           way; bars reach two errors, on a logarithmic scale
    """
    bits = list(next(iter(found.values())))
    fig, ax = draw.figure(3.2)
    for i, (label, its) in enumerate(found.items()):
        color, marker, line = draw.STYLES[i]
        means, errors = (draw.array(list(x)) for x in zip(*its.values(), strict=True))
        at = np.array([bits.index(b) for b in its]) + 0.06 * (i - 1)
        look = dict(color=color, ecolor=color, marker=marker, ls=line, ms=6, capsize=3, lw=1.4)
        ax.errorbar(at, means, yerr=2 * errors, label=label, **look)
    ax.set_yscale("log")
    draw.own_ticks(ax.yaxis, (0.01, 0.1, 1), ("0.01", "0.1", "1"))
    draw.own_ticks(ax.xaxis, np.arange(len(bits)), bits)
    ax.set_xlabel("bits of the inputs; bars: two standard errors to each side")
    ax.set_ylabel("nats per token\nabove the file (log)")
    draw.title(ax, title)
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    return fig


def one_token(x: draw.Values, x_hat: draw.Values, title: str = "") -> Figure:
    """The inputs of a layer for one token, and what they come back as   (notebook 17, Play).

    x, x_hat  one value for each input channel
    """
    fig, ax = draw.figure(2.4)
    channels = np.arange(len(draw.array(x)))
    ax.plot(channels, draw.array(x), ".", color=draw.REAL, ms=4, label="input")
    look = dict(color=draw.CODE, marker="_", ls="", ms=4, mew=1)
    ax.plot(channels, draw.array(x_hat), label="comes back as", **look)
    ax.set_xlabel("input channel")
    ax.set_ylabel("value")
    draw.title(ax, title)
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    return fig
