"""The pictures of notebook 00: what it is for."""

import numpy as np

from qlesson.teach.figures import drawing as draw


def memory(models, bits, devices):
    """Bytes of the weights against the memory of devices   (notebook 00).

    models   {name: number of weights}
    bits     bits per weight
    devices  {name: GB}, GB = 10^9 bytes
    """
    fig, ax = draw.figure(min(4.0, 1.2 + 0.27 * len(models) * len(bits)))
    places, words, sizes = [], [], []
    for i, (name, weights) in enumerate(models.items()):
        at = -np.arange(len(bits)) - i * (len(bits) + 0.6)
        gigabytes = [draw.number(weights) * draw.number(b) / 8 / 1e9 for b in bits]
        ax.barh(
            at, gigabytes, height=0.76, color=draw.SIZE, edgecolor=draw.REAL, lw=0.8, label=name
        )
        places, sizes = [*places, *at], [*sizes, *gigabytes]
        words += [f"{name}, {draw.short(b)} bits" for b in bits]
    lowest = 10.0 ** np.floor(np.log10(0.9 * min(sizes)))
    ax.set_xscale("log")
    ax.set_xlim(lowest, 2.2 * max(sizes))
    ax.set_ylim(min(places) - 0.6, 0.7)
    for name, size in devices.items():
        ax.axvline(draw.number(size), color=draw.CODE, lw=1.4, ls="--", label=name)
    for y, size in zip(places, sizes, strict=True):
        ax.annotate(
            f"{draw.short(size, 3)} GB",
            (size, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            bbox=dict(facecolor="white", edgecolor="none", pad=1),
        )
    names = [(f"{name}\n{draw.short(size)} GB", draw.CODE) for name, size in devices.items()]
    logs = np.log10([draw.number(size) for size in devices.values()])
    draw.spread_words(ax, logs, names, 0.7, 1.1, np.log10(ax.get_xlim()), place=lambda x: 10.0**x)
    draw.own_ticks(ax.yaxis, places, words)
    ax.xaxis.set_major_formatter(draw.PLAIN)
    ax.set_xlabel("weights (GB = 10⁹ bytes)")
    ax.tick_params(axis="y", length=0)
    return fig


def perplexity_by_bits(curves, floor=None):
    """Perplexity of a language model against bits   (notebooks 00, 06).

    curves  {label: (bits, perplexities)}
    floor   the perplexity in float32, a horizontal line
    """
    fig, ax = draw.figure(3.4)
    every = sorted({draw.number(b) for bits, _ in curves.values() for b in bits})
    for (label, (bits, values)), style in zip(curves.items(), draw.STYLES * 9, strict=False):
        x, values = [every.index(draw.number(b)) for b in bits], draw.array(values)
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
    draw.own_ticks(ax.xaxis, range(len(every)), [draw.short(b) for b in every])
    ax.set_xlabel("bits")
    ax.set_ylabel("perplexity")
    ax.margins(0.13, 0.12)
    ax.legend(frameon=False)
    return fig
