"""The pictures of notebook 09: what a quantized layer multiplies, and where its floats are."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def four_areas(q_x: draw.Scalar, z_x: draw.Scalar, q_w: draw.Scalar, z_w: draw.Scalar) -> Figure:
    """(q_x - z_x)(q_w - z_w) as areas: a product, two strips, and their corner   (notebook 09).

    Whole numbers, with 0 < z < q in both.
    """
    q_x, z_x, q_w, z_w = map(draw.number, (q_x, z_x, q_w, z_w))
    parts = [  # title, sign, left, bottom, width and height, colour, hatch
        ("q_x q_w", 1, (0, 0, q_x, q_w), draw.INSIDE, ""),
        ("z_w q_x", -1, (0, 0, q_x, z_w), draw.BAR, "////"),
        ("z_x q_w", -1, (0, 0, z_x, q_w), draw.BAR, "\\\\\\\\"),
        ("z_x z_w", 1, (0, 0, z_x, z_w), draw.UNUSED, "xxxx"),
        ("the rest", 1, (z_x, z_w, q_x - z_x, q_w - z_w), draw.INSIDE, ""),
    ]
    fig, axes = draw.figure(1.9, cols=len(parts), sharex=True, sharey=True)
    for ax, (name, sign, (left, bottom, width, height), color, hatch) in zip(
        axes, parts, strict=True
    ):
        ax.add_patch(
            Rectangle((left, bottom), width, height, fc=color, ec=draw.INK, hatch=hatch, lw=1)
        )
        _outline(ax, q_x, q_w, z_x, z_w)
        if ax is axes[0]:
            for x in (z_x, q_x):
                ax.text(x, -0.2, draw.short(x), ha="center", va="top", gid=ASIDE)
            for y in (z_w, q_w):
                ax.text(-0.2, y, draw.short(y), ha="right", va="center", gid=ASIDE)
        mark = "=" if name == parts[-1][0] else ("+" if sign > 0 else "−")
        ax.set_axis_off()
        draw.title(ax, f"{mark} {name}: {draw.short(width * height)}")
    return fig


def _outline(ax: Axes, q_x: float, q_w: float, z_x: float, z_w: float) -> None:
    """The whole rectangle, and thin lines at the zero points."""
    ax.add_patch(Rectangle((0, 0), q_x, q_w, fc="none", ec=draw.GRID, lw=0.8, gid=ASIDE))
    ax.plot([z_x, z_x], [0, q_w], color=draw.GRID, lw=0.8, ls=":", gid=ASIDE)
    ax.plot([0, q_x], [z_w, z_w], color=draw.GRID, lw=0.8, ls=":", gid=ASIDE)
    ax.set_xlim(-0.3, q_x + 0.3)
    ax.set_ylim(-0.3, q_w + 0.3)


KINDS_OF_LAYERS = {  # name: (step, whether it runs on integers)
    "weight-only": [
        ("x", False),
        ("W: codes → floats", False),
        ("product", False),
        ("+ b", False),
        ("y", False),
    ],
    "W8A8": [
        ("x → codes", False),
        ("product, int32", True),
        ("× s_x s_w", False),
        ("+ b", False),
        ("y", False),
    ],
    "integer-only": [
        ("codes of x", True),
        ("product, int32", True),
        ("+ bias, int32", True),
        ("× multiplier, >> shift", True),
        ("codes of y", True),
    ],
}


def pipelines() -> Figure:
    """What each kind of layer computes, step by step, and which steps run on floats (notebook 09).

    The kinds are those of `qlesson.nn.layers`.
    """
    rows = KINDS_OF_LAYERS
    fig, ax = draw.figure(0.35 + 0.72 * len(rows))
    longest = max(map(len, rows.values()))
    for row, (name, steps) in enumerate(rows.items()):
        y = -row
        ax.text(0, y + 0.36, name, ha="left", va="center", color=draw.INK)
        for i, (step, on_integers) in enumerate(steps):
            x = i / longest + 0.5 / longest
            look = dict(boxstyle="square,pad=0.35", fc=draw.BAR, ec=draw.CODE)
            if not on_integers:
                look = dict(boxstyle="round,pad=0.35,rounding_size=0.6", fc="white", ec=draw.REAL)
            ax.text(x, y, step, ha="center", va="center", fontsize=draw.SMALL, bbox=look)
            if i:
                ax.plot([x - 1 / longest, x], [y, y], color=draw.GRID, lw=1, zorder=0, gid=ASIDE)
    ax.set_xlim(0, 1)
    ax.set_ylim(0.45 - len(rows), 0.6)
    ax.set_axis_off()
    square, rounded = draw.dot("s", draw.BAR, "integers"), draw.dot("o", "white", "floats")
    square.set_markeredgecolor(draw.CODE)
    rounded.set_markeredgecolor(draw.REAL)
    draw.legend_above(fig, [square, rounded])
    return fig


def bits_used(rows: Mapping[str, float], limit: float = 31) -> Figure:
    """How many bits the largest sums take, beside what the accumulator has   (notebook 09).

    rows  {name: bits}
    """
    fig, ax = draw.figure(0.9 + 0.34 * len(rows))
    names, bits = list(rows), draw.array(list(rows.values()))
    at = np.arange(len(names))[::-1]
    ax.barh(at, bits, height=0.6, color=draw.BAR, edgecolor=draw.CODE, label="bits")
    for y, value in zip(at, bits, strict=True):
        ax.text(value + 0.3, y, draw.short(value), va="center", fontsize=draw.SMALL)
    ax.axvline(limit, color=draw.INK, ls="--", lw=1.4, label=f"an int32 holds {limit}")
    draw.own_ticks(ax.yaxis, at, names)
    ax.set_xlim(0, limit + 2)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(f"bits beside the sign (dashed: an int32 holds {limit})")
    return fig


def noise_split(
    curves: Mapping[str, tuple[draw.Values, draw.Values]],
    weights: draw.Scalar,
    chosen: tuple[draw.Scalar, draw.Scalar],
    title: str = "",
) -> Figure:
    """SQNR of a layer's output against the bits of its input   (notebook 09, Play).

    curves   {label: (bits, SQNR in dB)}: the inputs alone, and both
    weights  SQNR in dB with the weights alone, the same for any bits of the input
    chosen   (bits, SQNR in dB) of both
    """
    fig, ax = draw.figure(3.0)
    ax.axhline(draw.number(weights), color=draw.ERROR, ls="-.", lw=1.8, label="weights alone")
    for (label, (bits, values)), style in zip(curves.items(), draw.STYLES, strict=False):
        draw.curve(ax, draw.array(bits), draw.array(values), style, label)
    ax.plot(
        *map(draw.number, chosen), "*", ms=15, color=draw.TOTAL, mfc=draw.UNUSED, label="chosen"
    )
    ax.set_ylim(0, 60)
    ax.set_xlabel("bits of the input")
    ax.set_ylabel("SQNR of the output (dB)")
    ax.xaxis.set_major_locator(draw.whole(7))
    draw.title(ax, title)
    draw.legend_above(fig, ax.get_lines())
    return fig
