"""The pictures of notebook 00: memory, matrices, and a grey picture."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def memory(
    models: Mapping[str, draw.Scalar],
    bits: Sequence[draw.Scalar],
    devices: Mapping[str, draw.Scalar],
) -> Figure:
    """Bytes of the weights against the memory of devices   (notebook 00).

    models   {name: number of weights}
    bits     bits per weight
    devices  {name: GB}, GB = 10^9 bytes
    """
    fig, ax = draw.figure(min(4.0, 1.2 + 0.27 * len(models) * len(bits)))
    places: list[float] = []
    sizes: list[float] = []
    words = []
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


def heatmaps(
    named: Mapping[str, draw.Values],
    fmt: str = "{:.1f}",
    unit: str = "",
    shared: bool = True,
    diverging: bool = False,
) -> Figure:
    """Matrices as heat maps with their values printed   (notebooks 00, 04, 06, 09).

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


def pictures(named: Mapping[str, draw.Values]) -> Figure:
    """Grey pictures side by side, 0 black and 1 white   (notebook 00, Play).

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
        draw.grey(ax, picture)
        ax.set_xlabel(label, fontsize=10)
    return fig


def grey_picture(size: int = 64) -> Tensor:
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
