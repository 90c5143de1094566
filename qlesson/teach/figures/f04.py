"""The pictures of notebook 04: the way back."""

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qlesson.qtensor import (
    choose_qparams,
    fake_quantize,
)
from qlesson.teach.figures import drawing as draw


def staircase(scale, zero_point, quant_min, quant_max, r_min, r_max):
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


def _staircase(ax, scale, zero_point, quant_min, quant_max, r_min, r_max):
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


def staircase_and_picture(picture, scheme):
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
    _grey(right, back)
    distinct = back.unique().numel()
    draw.title(left, f"{scheme.bits} bits, {scheme.mapping}")
    draw.title(right, f"{distinct} distinct value{'s survive' if distinct != 1 else ' survives'}")
    return fig


def pictures(named):
    """Grey pictures side by side, 0 black and 1 white   (notebooks 00, 04).

    named  {label: 2-D tensor in [0, 1]}
    """
    pictures = [draw.array(p) for p in named.values()]
    high, wide = np.max([p.shape for p in pictures], axis=0)
    room = min((700 - 10) // len(pictures) - 10, 360 * wide // high)
    width = room // wide * wide if room >= wide else room  # whole screen pixels for each of ours
    height = width * high // wide
    gap = (700 - width * len(pictures)) // (len(pictures) + 1)
    fig = Figure(figsize=(7, (height + 40) / 100), dpi=100)
    for i, (label, picture) in enumerate(zip(named, pictures, strict=True)):
        ax = draw.axes_at(fig, gap + i * (width + gap), 30, width, height)
        _grey(ax, picture)
        ax.set_xlabel(label, fontsize=10)
    return fig


def _grey(ax, picture):
    ax.imshow(draw.array(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def grey_picture(size=64):
    """A shaded ball and its shadow on a soft gradient, in [0, 1], float32   (notebooks 00, 04).

    Made of sums, products, quotients and square roots, one after the other: these have one right
    answer each, so every machine makes the same pixels.
    """
    fine = 3 * size
    at = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine * 2 - 1
    y, x = at[:, None], at[None, :]
    ground = 0.80 - 0.22 * y - 0.10 * x - 0.12 * (x * x + y * y)
    shadow = ((x - 0.28) / 0.62).square() + ((y - 0.52) / 0.22).square()
    ground = ground * (1 - 0.75 / (1 + shadow * shadow))
    radius = 0.58
    dx, dy = (x + 0.08) / radius, (y + 0.12) / radius
    height = (1 - dx * dx - dy * dy).clamp(min=0).sqrt()
    light = (-0.48 * dx - 0.60 * dy + 0.64 * height).clamp(min=0)
    ball = 0.10 + 0.72 * light
    glow = (2 * light * height - 0.64).clamp(min=0)  # the mirrored light towards the eye
    glow = glow * glow
    glow = glow * glow
    ball = ball + 0.30 * (glow * glow)
    picture = torch.where(dx * dx + dy * dy < 1, ball, ground).clamp(0, 1)
    nine = [picture[i::3, j::3] for i in range(3) for j in range(3)]
    picture = sum(nine[1:], nine[0]) / 9
    darkest, brightest = picture.min(), picture.max()
    return ((picture - darkest) / (brightest - darkest)).float()
