"""The pictures of notebook 00: bits, memory, and a grey picture."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE

FIELDS = {"s": ("sign", draw.ORANGE), "e": ("exponent", draw.YELLOW), "d": ("digits", draw.SKY)}


def bit_rows(rows: Mapping[str, tuple[str, str, str]]) -> Figure:
    """The bits of a number in several formats, and what each of them says   (notebook 00).

    rows  {format: (its bits, a letter of "sed" for each, what they mean)}
          s  sign
          e  exponent, the power of two
          d  digits
    """
    fig, ax = draw.figure(0.4 + 0.5 * (len(rows) + 0.4))
    longest = max(len(bits) for bits, _, _ in rows.values())
    for y, (bits, kinds, meaning) in enumerate(rows.values()):
        for x, (bit, kind) in enumerate(zip(bits, kinds, strict=True)):
            color = draw.lighter(FIELDS[kind][1], 0.6)
            box = Rectangle((x, -y - 0.35), 1, 0.7, fc=color, ec=draw.GRID, lw=0.6, gid=ASIDE)
            ax.add_patch(box)
            words = ax.text(x + 0.5, -y, bit, ha="center", va="center", fontsize=draw.SMALL)
            words.set_gid(ASIDE)
        fields = [f"{FIELDS[k][0]} {''.join(same)}" for k, same in _runs(bits, kinds)]
        ax.plot([0, len(bits)], [-y, -y], color=draw.INK, lw=0, label=", ".join(fields))
        ax.text(longest + 0.6, -y, meaning, va="center")
    ax.set_xlim(-0.2, longest + 4.5)
    ax.set_ylim(0.5 - len(rows), 0.9)
    draw.own_ticks(ax.yaxis, [-y for y in range(len(rows))], list(rows))
    draw.bare(ax)
    start = 0
    for kind, same in _runs(*next(iter(rows.values()))[:2]):
        ax.text(start + len(same) / 2, 0.5, FIELDS[kind][0], ha="center", va="bottom")
        start += len(same)
    return fig


def _runs(bits: str, kinds: str) -> Iterator[tuple[str, list[str]]]:
    """(kind, its bits) of each field."""
    for kind, pairs in groupby(zip(kinds, bits, strict=True), key=lambda pair: pair[0]):
        yield kind, [bit for _, bit in pairs]


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
    ax.set_xlim(0, 1.15 * max(sizes))
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
    marks = [draw.number(size) for size in devices.values()]
    draw.spread_words(ax, marks, names, 0.7, 1.1, ax.get_xlim())
    draw.own_ticks(ax.yaxis, places, words)
    ax.set_xlabel("weights (GB = 10⁹ bytes)")
    ax.tick_params(axis="y", length=0)
    return fig


def pictures(named: Mapping[str, draw.Values]) -> Figure:
    """Grey pictures side by side, 0 black and 1 white   (notebook 00, Play).

    named  {label: 2-D tensor in [0, 1]}
    """
    pictures = [draw.array(p) for p in named.values()]
    high, wide = np.max([p.shape for p in pictures], axis=0)
    room = min((700 - 10) // len(pictures) - 10, 260 * wide // high)
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
