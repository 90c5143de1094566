"""The pictures of notebook 16: what fewer bits cost a real language model."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from qlesson.teach.figures import drawing as draw


def judged(
    losses: Mapping[str, tuple[float, float]], shares: Mapping[str, tuple[float, float, float]]
) -> Figure:
    """Two judgements of each model, from the most bits to the fewest   (notebook 16).

    losses  {model: (difference in nats per token, its standard error)}; bars reach two errors, on
            a scale that is linear up to 0.01 and logarithmic above
    shares  {model: (share of the questions answered, low end of its interval, high end)}
    """
    fig, axes = draw.figure(3.4, cols=2)
    left, right = np.ravel(axes)
    look = dict(color=draw.REAL, ecolor=draw.REAL, fmt="o", ms=6, capsize=3, lw=1.4)
    means, errors = (draw.array(list(x)) for x in zip(*losses.values(), strict=True))
    left.errorbar(np.arange(len(losses)), means, yerr=2 * errors, **look)
    left.axhline(0, color=draw.INK, lw=0.8)
    left.set_yscale("symlog", linthresh=0.01)
    left.set_ylim(-0.005, 30)
    draw.own_ticks(left.yaxis, (0, 0.01, 0.1, 1, 10), ("0", "0.01", "0.1", "1", "10"))
    draw.own_ticks(left.xaxis, np.arange(len(losses)), list(losses))
    draw.title(left, "nats per token above the file (log above 0.01)")
    found, low, high = (draw.array(list(x)) for x in zip(*shares.values(), strict=True))
    right.errorbar(
        np.arange(len(shares)), found, yerr=np.stack([found - low, high - found]), **look
    )
    right.axhline(0.25, color=draw.INK, lw=0.8, ls=":")
    right.text(0, 0.25, "guessing", va="bottom", ha="left", fontsize=draw.SMALL)
    right.set_ylim(0, 1)
    draw.own_ticks(right.xaxis, np.arange(len(shares)), list(shares))
    draw.title(right, "share of right answers")
    fig.supxlabel("bits", fontsize=10)
    return fig


def first_tokens(shares: Mapping[str, float], title: str = "") -> Figure:
    """How likely each of some tokens is to begin the answer   (notebook 16, Play).

    shares  {token: probability}
    """
    fig, ax = draw.figure(0.9 + 0.4 * len(shares))
    at = -np.arange(len(shares), dtype=float)
    ax.barh(at, draw.array(list(shares.values())), 0.6, color=draw.SIZE, edgecolor=draw.INK, lw=0.6)
    draw.title(ax, title)
    ax.set_yticks([])
    for y, (token, share) in zip(at, shares.items(), strict=True):
        ax.text(share + 0.012, y, f"{token}  {draw.number(share):.3f}", va="center")
    draw.own_ticks(ax.xaxis, np.arange(0, 1.1, 0.2), ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    ax.set_xlim(0, 1.3)  # with room for a token beside the longest bar
    ax.spines["bottom"].set_bounds(0, 1)
    ax.set_xlabel("probability to begin the answer", x=0.5 / 1.3)
    return fig
