"""The pictures of notebook 04: the way back."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qlesson.qtensor import choose_qparams, fake_quantize
from qlesson.scheme import Scheme
from qlesson.teach.figures import drawing as draw


def staircase(
    scale: draw.Scalar,
    zero_point: draw.Scalar,
    quant_min: int,
    quant_max: int,
    r_min: draw.Scalar,
    r_max: draw.Scalar,
) -> Figure:
    """r_hat against r, and the error below it   (notebooks 04, 05)."""
    fig, (top, below) = draw.figure(3.9, rows=2, sharex=True, height_ratios=[1.6, 1])
    half = draw.number(scale) / 2
    t = _staircase(
        top, scale, zero_point, quant_min, quant_max, draw.number(r_min), draw.number(r_max)
    )
    error = t.r_hat - t.r
    below.plot(t.r, np.where(t.clipped, np.nan, error), color=draw.ERROR, lw=1.4, label="rounding")
    if t.clipped.any():
        below.plot(
            t.r,
            np.where(t.clipped, error, np.nan),
            color=draw.CLIPPED,
            lw=2,
            ls="--",
            label="clipping",
        )
    for side in (-half, half):
        below.axhline(side, color=draw.GRID, lw=1.2, ls="-.", label=f"s/2 = {half:.6g}")
    below.margins(y=0.15)
    below.set_ylabel("r_hat − r")
    below.set_xlabel("r")
    bound = Line2D([], [], color=draw.GRID, ls="-.", label="± s/2")
    error_line = Line2D([], [], color=draw.ERROR, label="error")
    draw.legend_above(fig, [*top.get_lines(), error_line, bound])
    return fig


def _staircase(
    ax: Axes,
    scale: draw.Scalar,
    zero_point: draw.Scalar,
    quant_min: int,
    quant_max: int,
    r_min: float,
    r_max: float,
) -> draw.Trip:
    r = draw.evenly(r_min, r_max, 1401)
    t = draw.there_and_back(r, scale, zero_point, quant_min, quant_max)
    ax.plot([r_min, r_max], [r_min, r_max], color=draw.GRID, lw=1, ls=":", label="r_hat = r")
    ax.plot(t.r, np.where(t.clipped, np.nan, t.r_hat), color=draw.CODE, lw=1.6, label="rounded")
    if t.clipped.any():
        ax.plot(
            t.r,
            np.where(t.clipped, t.r_hat, np.nan),
            color=draw.CLIPPED,
            lw=2,
            ls="--",
            label="clipped",
        )
    ax.set_xlim(r_min, r_max)
    ax.set_ylabel("r_hat")
    return t


def staircase_and_picture(picture: draw.Values, scheme: Scheme) -> Figure:
    """Which values survive, and what a picture looks like with them   (notebook 04, Play)."""
    picture = draw.tensor(picture)
    scale, zero_point = choose_qparams(picture, scheme)
    back = fake_quantize(picture, scheme)
    fig = Figure(figsize=(7, 3.2), dpi=100)
    left, right = draw.axes_at(fig, 58, 48, 336, 244), draw.axes_at(fig, 434, 36, 256, 256)
    low, high = picture.min().item(), picture.max().item()
    _staircase(left, scale, zero_point, scheme.quant_min, scheme.quant_max, low, high)
    left.set_xlabel("r")
    left.legend(frameon=False, loc="upper left")
    draw.grey(right, back)
    distinct = back.unique().numel()
    draw.title(left, f"{scheme.bits} bits, {scheme.mapping}")
    draw.title(right, f"{distinct} distinct value{'s survive' if distinct != 1 else ' survives'}")
    return fig
