"""The pictures of notebook 05: errors."""

from functools import partial

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import (
    MaxNLocator,
)

from qlesson.error import error_shares, mse
from qlesson.qtensor import (
    qparams_from_range,
    quantize,
)
from qlesson.scheme import Scheme
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def heatmaps(named, fmt="{:.1f}", unit="", shared=True, diverging=False):
    """Matrices as heat maps with their values printed   (notebooks 00, 04, 06).

    named      {title: 2-D tensor}
    fmt, unit  how a value is printed (a code never has decimals), and what it is measured in
    shared     one colour scale for all of them
    diverging  colours on both sides of 0
    """
    arrays = {title: np.atleast_2d(draw.array(a)) for title, a in named.items()}
    across = len(arrays) if len(arrays) <= 4 else -(-len(arrays) // 2)
    down = -(-len(arrays) // across)
    tallest = max(a.shape[0] for a in arrays.values())
    height = float(np.clip(0.4 + down * (0.25 + 0.5 * tallest), 2.2, 4.0))
    fig, axes = draw.figure(height, rows=down, cols=across)
    for ax in np.ravel(axes):
        ax.set_axis_off()
    everything = np.concatenate([a.ravel() for a in arrays.values()])
    cmap = LinearSegmentedColormap.from_list(
        "qlesson",
        [draw.ORANGE, draw.PALE, draw.SKY]
        if diverging
        else [draw.lighter(draw.SKY, 0.12), draw.SKY],
    )
    for ax, (title, a) in zip(np.ravel(axes), arrays.items(), strict=False):
        is_code = not torch.as_tensor(named[title]).is_floating_point()
        among = everything if shared else a
        low, high = among.min(), among.max()
        if diverging:
            low, high = -np.abs(among).max(), np.abs(among).max()
        ax.imshow(a, cmap=cmap, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
        form = "{:.0f}" if is_code else fmt
        words = {at: draw.no_minus_zero(form.format(v)) for at, v in np.ndenumerate(a)}
        room = 6.6 * 72 / across / a.shape[1] - 5  # points from cell to cell, less a gap
        points = min(10, room / 0.64 / max(map(len, words.values())))
        for (i, j), word in words.items():
            ax.text(j, i, word, ha="center", va="center", fontsize=points, color=draw.INK)
        edges_x, edges_y = np.arange(1, a.shape[1]) - 0.5, np.arange(1, a.shape[0]) - 0.5
        ax.vlines(edges_x, -0.5, a.shape[0] - 0.5, color="white", lw=1.5, gid=ASIDE)
        ax.hlines(edges_y, -0.5, a.shape[1] - 0.5, color="white", lw=1.5, gid=ASIDE)
        draw.title(ax, title)
    if unit:
        fig.supxlabel(unit, fontsize=10)
    return fig


def error_histogram(r, r_hat, scale):
    """The errors r_hat - r: rounding within half a step, clipping beyond it   (notebook 05)."""
    r, r_hat, scale = draw.tensor(r), draw.tensor(r_hat), draw.tensor(scale)
    half = draw.number(scale.max()) / 2
    total = draw.number(mse(r, r_hat))
    error = draw.array(r_hat.double() - r.double()).ravel()
    one_by_one = torch.vmap(error_shares)
    shares = one_by_one(r.flatten(), r_hat.flatten(), scale.expand(r.shape).flatten())
    clipped = (shares.clipping > 0).numpy()
    kinds = [
        ("rounding", ~clipped, shares.rounding, dict(facecolor=draw.ERROR)),
        ("clipping", clipped, shares.clipping, dict(facecolor=draw.CLIPPED, hatch="////")),
    ]
    kinds = [kind for kind in kinds if kind[1].any()]
    fig, axes = draw.figure(3.0, cols=len(kinds))
    for ax, (name, part, share, look) in zip(np.ravel(axes), kinds, strict=True):
        most = max(1.3 * half, 1.05 * np.abs(error[part]).max())
        edges = np.linspace(-most, most, 53)
        counts, _ = np.histogram(error[part], edges)
        ax.stairs(
            counts,
            edges,
            fill=True,
            edgecolor="white",
            lw=0,
            label=f"{name} share {draw.number(share.mean()):.6g}",
            **look,
        )
        for side in (-half, half):
            ax.axvline(side, color=draw.INK, lw=1.2, ls="--", label=f"s/2 = {half:.6g}")
        ax.set_xlabel("error r_hat − r  (dashed: ± s/2)")
        ax.yaxis.set_major_locator(draw.whole(5))
        ax.set_ylim(0, 1.1 * counts.max())
        percent = 100 * draw.number(share.mean()) / (total or 1.0)
        noun = "value" if part.sum() == 1 else "values"
        draw.title(ax, f"{name}: {part.sum():,} {noun}, {percent:.3g} % of the MSE")
    np.ravel(axes)[0].set_ylabel("count")
    fig.suptitle(f"MSE = {draw.short(total)}", fontsize=10, ha="left", x=0.01)
    return fig


def clip_sweep(r, bits, limits, chosen, shares_at=None):
    """Rounding and clipping error against the clip limit   (notebook 05, Play).

    shares_at  from a limit to both errors, for who has them already; None computes them
    """
    limits = [draw.number(x) for x in limits]
    if shares_at is None:
        shares_at = partial(_shares_at, draw.tensor(r), Scheme(bits=bits, mapping="symmetric"))
    shares = [shares_at(limit) for limit in limits]
    rounding, clipping = (np.array(x) for x in zip(*shares, strict=True))
    total = rounding + clipping
    here = shares_at(draw.number(chosen))
    best = int(total.argmin())
    fig, ax = draw.figure(3.4)
    ax.plot(limits, rounding, color=draw.ERROR, ls="--", lw=1.8, label="rounding")
    ax.plot(limits, clipping, color=draw.CLIPPED, ls=":", lw=2.2, label="clipping")
    ax.plot(limits, total, color=draw.TOTAL, lw=2, label="both: the MSE")
    ax.axvline(draw.number(chosen), color=draw.CODE, lw=1.2, gid=ASIDE)
    ax.plot(
        limits[best],
        total[best],
        "*",
        color=draw.TOTAL,
        ms=13,
        label=f"smallest: {draw.short(total[best])} at {draw.short(limits[best])}",
    )
    ax.plot(draw.number(chosen), sum(here), "o", color=draw.CODE, ms=8, label="chosen")
    ax.set_yscale("log")
    ax.set_ylim(total[total > 0].min() / 30, total.max() * 2)
    ax.yaxis.set_major_formatter(draw.PLAIN)
    ax.set_xlabel("clip limit: the range is −limit to limit")
    ax.set_ylabel("mean squared error")
    draw.title(
        ax,
        f"{bits} bits, limit {draw.short(chosen)}: rounding {draw.short(here[0])} + "
        f"clipping {draw.short(here[1])} = MSE {draw.short(sum(here))}",
    )
    draw.legend_above(fig, ax.get_lines()[:3] + ax.get_lines()[4:5])
    return fig


def _shares_at(r, scheme, limit):
    limit = r.new_tensor(limit)
    qparams = qparams_from_range(-limit, limit, scheme)
    r_hat = quantize(r, scheme, qparams).dequantize()
    return tuple(map(draw.number, error_shares(r, r_hat, qparams.scale)))


def sqnr_by_bits(curves, slope=6.02):
    """SQNR against bits; the reference rises `slope` dB per bit   (notebook 05).

    curves  {label: (bits, sqnr in dB)}
    """
    fig, ax = draw.figure(3.4)
    for (label, (bits, values)), style in zip(curves.items(), draw.STYLES * 9, strict=False):
        draw.curve(ax, draw.array(bits), draw.array(values), style, label)
    bits, values = map(draw.array, next(iter(curves.values())))
    ax.plot(
        bits,
        values[-1] + slope * (bits - bits[-1]),
        color=draw.GRID,
        ls=(0, (2, 2)),
        lw=1.4,
        zorder=1,
        label=f"{draw.short(slope)} dB per bit",
    )
    for i in range(1, len(bits)):
        steps = bits[i] - bits[i - 1]
        gain = f"{(values[i] - values[i - 1]) / steps:+.1f}".replace("-", "−")
        ax.annotate(
            gain if steps == 1 else f"{gain} a bit",
            ((bits[i] + bits[i - 1]) / 2, (values[i] + values[i - 1]) / 2),
            (-6, 6),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=draw.REAL,
        )
    ax.set_xlabel("bits")
    ax.set_ylabel("SQNR (dB)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(0.05, 0.1)
    ax.legend(frameon=False, loc="lower right")
    return fig
