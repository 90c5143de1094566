"""The pictures of notebook 03: ranges of two mappings, and codes that nothing uses."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from qlesson.teach.figures import drawing as draw


def code_counts(rows: Mapping[str, draw.Values], quant_min: int, quant_max: int) -> Figure:
    """How often each code is used; codes never used are shaded   (notebook 03).

    rows  {label: q}, a panel for each
    """
    fig, axes = draw.figure(
        min(4.0, 0.9 + 1.1 * len(rows)), rows=len(rows), sharex=True, sharey=True
    )
    codes = np.arange(quant_min, quant_max + 1)
    edges = np.r_[codes - 0.5, quant_max + 0.5]
    used = {label: _count_codes(q, quant_min, quant_max) for label, q in rows.items()}
    for ax, (label, counts) in zip(np.ravel(axes), used.items(), strict=True):
        baseline = _count_axis(ax, np.concatenate(list(used.values())))
        unused = counts == 0
        ax.stairs(
            unused.astype(float),
            edges,
            fill=True,
            color=draw.UNUSED,
            lw=0,
            zorder=0,
            transform=ax.get_xaxis_transform(),
            label="never used",
        )
        ax.stairs(counts, edges, fill=True, color=draw.CODE, lw=0, label="count", baseline=baseline)
        draw.title(ax, f"{label}: {100 * unused.mean():.3g} % of the {len(codes)} codes never used")
    ax.set_xlabel("code q  (shaded: never used)")
    ax.set_xlim(quant_min - 1, quant_max + 1)
    return fig


def _count_codes(q: draw.Values, quant_min: int, quant_max: int) -> np.ndarray:
    q = torch.as_tensor(q).detach().cpu().to(torch.int64).flatten()
    return draw.array(torch.bincount(q - quant_min, minlength=quant_max - quant_min + 1))


def two_ranges(rows: Mapping[str, tuple[draw.Values, draw.Scalar, draw.Scalar]]) -> Figure:
    """The range each mapping covers, and what of it lies beyond all values   (notebook 03).

    rows  {label: (values, r_min, r_max)}
    """
    fig, axes = draw.figure(
        min(4.0, 0.9 + 1.05 * len(rows)), rows=len(rows), sharex=True, sharey=True
    )
    drawn = [
        (label, draw.array(values).ravel(), draw.number(a), draw.number(b))
        for label, (values, a, b) in rows.items()
    ]
    low = min(min(v.min(), a) for _, v, a, _ in drawn)
    high = max(max(v.max(), b) for _, v, _, b in drawn)
    bars = []
    for _, v, _, _ in drawn:
        bins = max(1, round(100 * np.ptp(v) / ((high - low) or 1.0)))
        bars.append(np.histogram(v, np.linspace(v.min(), v.max(), bins + 1)))
    for ax, (label, v, a, b), (n, edges) in zip(np.ravel(axes), drawn, bars, strict=True):
        baseline = _count_axis(ax, np.concatenate([n for n, _ in bars]))
        ax.axvspan(a, b, color=draw.INSIDE, lw=0)
        empty = [(a, min(b, v.min())), (max(a, v.max()), b)]
        empty = [(start, stop) for start, stop in empty if stop > start]
        for start, stop in empty:
            ax.axvspan(start, stop, facecolor=draw.UNUSED, edgecolor=draw.GRID, hatch="//", lw=0)
        ax.stairs(n, edges, fill=True, color=draw.REAL, lw=0, label="values", baseline=baseline)
        share = 100 * sum(stop - start for start, stop in empty) / ((b - a) or 1.0)
        ends = f"{draw.short(a)} to {draw.short(b)}"
        draw.title(ax, f"{label}: {ends}, {share:.1f} % of it lies beyond all values")
    ax.set_xlabel("r  (shaded: the range; hatched: beyond all values)")
    ax.set_xlim(*draw.wider(low, high, 0.02))
    return fig


def _count_axis(ax: Axes, counts: np.ndarray) -> float:
    """Counts that differ much get a log scale, on which a single one still shows.

    Returns where the bars begin.
    """
    if counts.max() <= 100:
        ax.set_ylabel("count")
        ax.set_yscale("linear")
        ax.set_ylim(0, 1.1 * counts.max())
        ax.yaxis.set_major_locator(draw.whole(3))
        return 0
    ax.set_ylabel("count (log)")
    ax.set_yscale("log")
    ax.set_ylim(0.5, 2 * counts.max())
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    ax.yaxis.set_major_formatter(draw.PLAIN)
    ax.yaxis.set_minor_locator(NullLocator())
    return 0.5
