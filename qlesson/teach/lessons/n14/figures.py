"""The pictures of notebook 14: tokens per second below two roofs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from qlesson.teach.figures import drawing as draw

BATCHES = [4**i for i in range(6)]  # 1 to 1024


def tokens_per_second(
    weights: float,
    bits: Mapping[str, float],
    gb_per_s: float,
    gflop_per_s: float,
    points: Mapping[str, Sequence[tuple[float, float]]],
    limits: tuple[float, float],
    title: str = "",
) -> Figure:
    """Tokens per second against tokens at once, below two roofs   (notebook 14).

    bits         {name: bits a weight}: memory reads them once for all tokens at once
    gb_per_s     of memory; gflop_per_s  of arithmetic, two operations for each weight and token
    points       {name: pairs (tokens at once, tokens per second)}
    limits       of tokens per second
    """
    fig, ax = draw.figure(3.0)
    x = np.array([1, BATCHES[-1]])
    for (name, each), (color, _, line) in zip(bits.items(), draw.STYLES, strict=False):
        reads = gb_per_s * 1e9 / (weights * each / 8)
        ax.plot(x, x * reads, color=color, ls=line, lw=1.4, label=f"memory, {name}")
    level = gflop_per_s * 1e9 / (2 * weights)
    ax.axhline(level, color=draw.INK, ls=":", lw=1.4, label="arithmetic")
    for name, (color, marker, _) in zip(bits, draw.STYLES, strict=False):
        at, speed = zip(*points[name], strict=True)
        # Hollow, so that none hides another.
        ax.plot(at, speed, marker, color=color, mfc="none", mew=1.6, ms=8, ls="", label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(0.8, 1.3 * BATCHES[-1])
    ax.set_ylim(*limits)
    draw.own_ticks(ax.xaxis, BATCHES, list(map(str, BATCHES)))
    powers = [10**e for e in range(9) if limits[0] <= 10**e <= limits[1]]
    draw.own_ticks(ax.yaxis, powers, [f"{p:,d}" for p in powers])
    ax.set_xlabel("tokens at once (log)")
    ax.set_ylabel("tokens per second (log)")
    draw.title(ax, title)
    fig.legend(loc="outside right upper", frameon=False, fontsize=10)
    return fig
