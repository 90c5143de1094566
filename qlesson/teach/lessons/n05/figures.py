"""The pictures of notebook 05: errors."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from qlesson.error import error_shares, mse
from qlesson.qtensor import qparams_from_range, quantize
from qlesson.scheme import Scheme
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def error_histogram(r: draw.Values, r_hat: draw.Values, scale: draw.Values | draw.Scalar) -> Figure:
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
        ax.set_ylabel("count")
    fig.suptitle(f"MSE = {draw.short(total)}", fontsize=10, ha="left", x=0.01)
    return fig


def clip_sweep(
    r: draw.Values,
    bits: int,
    limits: Sequence[float],
    chosen: draw.Scalar,
    shares_at: Callable[[float], tuple[float, float]] | None = None,
) -> Figure:
    """Rounding and clipping error against the clip limit   (notebook 05, Play).

    Their sum is drawn from the chosen limit on, so that where it is least is found by moving it.

    shares_at  from a limit to both errors, for who has them already; None computes them
    """
    limits = [draw.number(x) for x in limits]
    if shares_at is None:
        shares_at = partial(_shares_at, draw.tensor(r), Scheme(bits=bits, mapping="symmetric"))
    shares = [shares_at(limit) for limit in limits]
    rounding, clipping = (np.array(x) for x in zip(*shares, strict=True))
    total = rounding + clipping
    here = shares_at(draw.number(chosen))
    beyond = np.array(limits) > draw.number(chosen)
    fig, ax = draw.figure(3.0)
    ax.plot(limits, rounding, color=draw.ERROR, ls="--", lw=1.8, label="rounding")
    some = np.where(clipping > 0, clipping, np.nan)  # 0 has no place among powers of ten
    ax.plot(limits, some, color=draw.CLIPPED, ls=":", lw=2.2, label="clipping")
    ax.plot(
        [draw.number(chosen), *np.array(limits)[beyond]],
        [sum(here), *total[beyond]],
        color=draw.TOTAL,
        lw=2,
        label="both: the MSE",
    )
    ax.axvline(draw.number(chosen), color=draw.CODE, lw=1.2, gid=ASIDE)
    ax.plot(draw.number(chosen), sum(here), "o", color=draw.CODE, ms=8, label="chosen")
    ax.set_yscale("log")
    ax.set_ylim(total[total > 0].min() / 30, total.max() * 2)
    ax.yaxis.set_major_formatter(draw.PLAIN)
    ax.set_xlabel("clip limit: the range is −limit to limit")
    ax.set_ylabel("mean squared error (log)")
    draw.title(
        ax,
        f"{bits} bits, limit {draw.short(chosen)}: MSE {draw.short(sum(here))}, "
        f"rounding {draw.short(here[0])}, clipping {draw.short(here[1])}",
    )
    draw.legend_above(fig, [*ax.get_lines()[:3], ax.get_lines()[4]])
    return fig


def _shares_at(r: Tensor, scheme: Scheme, limit: float) -> tuple[float, float]:
    high = r.new_tensor(limit)
    qparams = qparams_from_range(-high, high, scheme)
    r_hat = quantize(r, scheme, qparams).dequantize()
    shares = error_shares(r, r_hat, qparams.scale)
    return draw.number(shares.rounding), draw.number(shares.clipping)


def error_band(
    scale: draw.Scalar,
    zero_point: draw.Scalar,
    quant_min: int,
    quant_max: int,
    r_min: draw.Scalar,
    r_max: draw.Scalar,
) -> Figure:
    """The error of every value of a range, and half a step on both sides   (notebook 05)."""
    fig, ax = draw.figure(2.4)
    low, high, half = draw.number(r_min), draw.number(r_max), draw.number(scale) / 2
    t = draw.there_and_back(draw.evenly(low, high, 1401), scale, zero_point, quant_min, quant_max)
    error = t.r_hat - t.r
    ax.plot(t.r, np.where(t.clipped, np.nan, error), color=draw.ERROR, lw=1.4, label="rounded")
    if t.clipped.any():
        clipped = np.where(t.clipped, error, np.nan)
        ax.plot(t.r, clipped, color=draw.CLIPPED, lw=2, ls="--", label="clipped")
    for side in (-half, half):
        ax.axhline(side, color=draw.GRID, lw=1.2, ls="-.", label=f"s/2 = {half:.6g}")
    ax.set_xlim(low, high)
    ax.margins(y=0.15)
    ax.set_xlabel("r")
    ax.set_ylabel("error r_hat − r")
    bound = Line2D([], [], color=draw.GRID, ls="-.", label="± s/2")
    draw.legend_above(fig, [*ax.get_lines()[: 1 + t.clipped.any()], bound])
    return fig


def sqnr_by_bits(
    curves: Mapping[str, tuple[draw.Values, draw.Values]], slope: float = 6.02
) -> Figure:
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
