"""What the pictures share: colours and their roles, axes, words, and numbers as text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from matplotlib.typing import ColorType, LineStyleType
from numpy.typing import ArrayLike
from torch import Tensor

from qlesson.affine import dequantize_affine, quantize_affine
from qlesson.teach.show import ASIDE

Values = Tensor | np.ndarray | Sequence[float]
Scalar = Tensor | float
Style = tuple[str, str, LineStyleType]  # colour, marker, line
Point = tuple[float, float, str, str]  # x, y, its name, colour

again: ContextVar[Figure | None] = ContextVar("the figure to draw into", default=None)


@contextmanager
def drawing_into(fig: Figure | None) -> Iterator[None]:
    """Within, the function that made `fig` draws into it anew; its ticks and its layout stay.

    A live figure cannot wait for a new one (`qlesson.teach.widgets`). None makes a new figure.
    """
    token = again.set(fig)
    try:
        yield
    finally:
        again.reset(token)


def darker(color: ColorType, share: float) -> str:
    """The same hue with less light, so that a line or a word of it reads on white."""
    r, g, b = to_rgb(color)
    return to_hex((share * r, share * g, share * b))


def lighter(color: ColorType, share: float) -> str:
    """The same hue mixed with white, so that black words read on it."""
    r, g, b = to_rgb(color)
    return to_hex((1 - share * (1 - r), 1 - share * (1 - g), 1 - share * (1 - b)))


# Okabe and Ito 2008, told apart by those who see fewer colours. matplotlib has them from 3.11 on.
BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
YELLOW, BLUE, VERMILLION, PURPLE = "#f0e442", "#0072b2", "#d55e00", "#cc79a7"

INK = BLACK  # words and axes
GRID = "#6b6b6b"  # the values that can come back; references
REAL = BLUE  # r, a real value
CODE = darker(VERMILLION, 0.9)  # q, a code, and r_hat, the value it comes back as
ERROR = darker(GREEN, 0.8)  # the rounding part of the error
CLIPPED = darker(PURPLE, 0.75)  # values out of range, and the clipping part of the error
TOTAL = BLACK  # both parts together
# Fills only: these do not read as lines on white.
INSIDE = lighter(SKY, 0.35)  # the range that has codes
UNUSED = lighter(YELLOW, 0.65)  # codes or range that nothing uses
BAR = lighter(ORANGE, 0.45)  # the codes as a bar
SIZE = lighter(SKY, 0.6)  # bytes

STYLES: tuple[Style, ...] = (  # curves that are told apart by label
    (REAL, "o", "-"),
    (CODE, "s", "--"),
    (ERROR, "^", "-."),
    (CLIPPED, "D", ":"),
    (TOTAL, "v", (0, (5, 1, 1, 1, 1, 1))),
    (GRID, "P", (0, (8, 2))),
)
MARGIN = 0.08  # inches of white around a drawing, which shows on a dark page
SMALL = 9  # points: words inside a drawing; everything else is 10
WIDE = 2**30  # a code that no value of the course reaches: clipping there clips nothing


class Trip(NamedTuple):
    r: np.ndarray
    q: np.ndarray
    r_hat: np.ndarray
    clipped: np.ndarray  # whether the code before the clip lay outside


def there_and_back(
    values: Values, scale: Scalar, zero_point: Scalar, quant_min: int, quant_max: int
) -> Trip:
    r, scale, zero_point = (tensor(x) for x in (values, scale, zero_point))
    r = r.flatten()
    free = quantize_affine(r, scale, zero_point, quant_min - 1, quant_max + 1, torch.int32)
    q = quantize_affine(r, scale, zero_point, quant_min, quant_max, torch.int32)
    r_hat = dequantize_affine(q, scale, zero_point)
    return Trip(array(r), array(q), array(r_hat), (free != q).numpy())


def grid(scale: Scalar, zero_point: Scalar, quant_min: int, quant_max: int) -> np.ndarray:
    """The values that can come back, one for each code."""
    codes = torch.arange(quant_min, quant_max + 1)
    return array(dequantize_affine(codes, tensor(scale), tensor(zero_point)))


def evenly(low: float, high: float, n: int) -> Tensor:
    """n numbers from low to high, evenly spaced, float32: torch.linspace, rounded once.

    In float32 it multiplies and adds, in one rounding or in two, by the processor.
    """
    return torch.linspace(low, high, n, dtype=torch.float64).float()


def tensor(x: Values | Scalar) -> Tensor:
    """x on the CPU, as a float tensor without a gradient."""
    x = torch.as_tensor(x).detach().cpu()
    return x if x.dtype == torch.float64 else x.float()


def array(x: Values | Scalar) -> np.ndarray:
    if not isinstance(x, Tensor):
        x = torch.as_tensor(x, dtype=torch.float64)
    return x.detach().cpu().double().numpy()


def number(x: Scalar) -> float:
    return float(torch.as_tensor(x).detach().cpu()) if isinstance(x, Tensor) else float(x)


def short(x: Scalar, digits: int = 4) -> str:
    """A number in a few digits, with a real minus and never minus zero."""
    return no_minus_zero(f"{number(x):.{digits}g}")


def no_minus_zero(text: str) -> str:
    if text.startswith("-") and not any(c in "123456789" for c in text):
        text = text[1:]
    return text.replace("-", "−")


def falls(r: np.ndarray, top: float, r_hat: np.ndarray, bottom: float) -> np.ndarray:
    """A segment from each (r, top) to its (r_hat, bottom)."""
    ends = np.stack([r, np.full(len(r), top), r_hat, np.full(len(r), bottom)], axis=1)
    return ends.reshape(-1, 2, 2)


def figure(height: float, rows: int = 1, cols: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure 7 inches wide and its axes: one, or a list."""
    fig = again.get()
    if fig is None:
        margin = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
        fig = Figure(figsize=(7, height), dpi=100, layout=margin)
        fig.subplots(rows, cols, **options)
        for ax in fig.axes:
            tidy(ax)
    else:
        empty(fig)
    return fig, np.array(fig.axes).reshape(rows, cols).squeeze()[()]


def empty(fig: Figure) -> None:
    """Take away what was drawn, and leave axes with ticks and labels for what comes now."""
    for ax in fig.axes:
        for artist in [*ax.lines, *ax.collections, *ax.patches, *ax.images, *ax.texts]:
            artist.remove()
        if legend := ax.get_legend():
            legend.remove()
        ax.containers.clear()
        ax.set_prop_cycle(None)
        ax.relim()
        ax.autoscale(True)
    for legend in list(fig.legends):
        legend.remove()


def axes_at(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at a place given in pixels, for a picture whose pixels must not be resampled."""
    across, up = fig.get_size_inches() * fig.dpi
    ax = fig.add_axes((x / across, y / up, width / across, height / up))
    tidy(ax)
    return ax


def tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[:].set_color(INK)
    ax.tick_params(colors=INK, labelsize=10)


def whole(most: int) -> MaxNLocator:
    """At most this many ticks, at whole numbers."""
    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10])


def title(ax: Axes, words: str) -> None:
    # y: matplotlib need not look for labels above the axes, which takes a fifth of a drawing.
    ax.set_title(words, loc="left", y=1, fontsize=10, color=INK)


def bare(ax: Axes) -> None:
    """No x axis and no frame: the drawing brings its own."""
    ax.xaxis.set_visible(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="y", length=0)


def own_ticks(axis: Axis, at: Iterable[float], words: Iterable[str] | None) -> None:
    axis.set_major_locator(FixedLocator(list(at)))
    if words is not None:
        axis.set_major_formatter(FixedFormatter(list(words)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def segments(ax: Axes, ends: np.ndarray, color: str, label: str | None = None) -> None:
    lines = LineCollection(list(ends), colors=color, linewidths=1.0, label=label)
    if label is None:
        lines.set_gid(ASIDE)
    ax.add_collection(lines)


def curve(ax: Axes, x: ArrayLike, y: ArrayLike, style: Style, label: str) -> None:
    color, marker, line = style
    ax.plot(x, y, color=color, marker=marker, ls=line, lw=1.6, ms=6, label=label)


def named_curves(
    ax: Axes, curves: Mapping[str, tuple[Values, Values, Sequence[object]]]
) -> list[Point]:
    """Curves {label: (x, y, names of the points)}, and the points as `name_points` takes them."""
    points = []
    for (label, (x, y, names)), style in zip(curves.items(), STYLES * 9, strict=False):
        x, y = array(x), array(y)
        curve(ax, x, y, style, label)
        points += [(a, b, str(n), style[0]) for a, b, n in zip(x, y, names, strict=True)]
    return points


def dot(marker: str, color: str, label: str, ms: float = 6.5, **more: Any) -> Line2D:
    return Line2D([], [], ls="", marker=marker, color=color, label=label, ms=ms, **more)


def legend_above(fig: Figure, handles: Sequence[Any]) -> None:
    fig.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=10
    )


def wider(low: float, high: float, share: float) -> tuple[float, float]:
    more = share * ((high - low) or 1.0)
    return low - more, high + more


def spread_words(
    ax: Axes,
    at: Iterable[float],
    words: Iterable[tuple[str, str]],
    start: float,
    y: float,
    limits: tuple[float, float],
    place: Callable[[float], float] = lambda x: x,
) -> None:
    """Words near their places, moved apart where they would touch, each with a leader line.

    words  (word, color) pairs
    place  from the axis on which they are spread to data
    """
    at, words = np.asarray(list(at), dtype=float), list(words)
    low, high = limits
    letter = SMALL * 0.62 / 72 / 6.0 * (high - low)  # about 6 of the 7 inches are axis
    order = np.argsort(at, kind="stable")
    letters = [max(map(len, words[i][0].split("\n"))) for i in order]
    widths = (np.array(letters) + 1.2) * letter
    centres = np.cumsum(widths) - widths / 2
    blocks = []  # [where a run of touching words wants to be, how many]
    for want in at[order] - centres:
        blocks.append([want, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, n), (a, m) = blocks.pop(), blocks.pop()
            blocks.append([(a * m + b * n) / (m + n), m + n])
    shift = np.repeat([b for b, _ in blocks], [n for _, n in blocks])
    spread = np.clip(shift, low, high - widths.sum()) + centres
    for i, x in zip(order, spread, strict=True):
        word, color = words[i]
        ax.plot([place(at[i]), place(x)], [start, y], color=color, lw=0.6, clip_on=False, gid=ASIDE)
        ax.text(
            place(x),
            y,
            word,
            color=color,
            fontsize=SMALL,
            ha="center",
            va="bottom" if y > start else "top",
        )


def name_points(fig: Figure, ax: Axes, points: Iterable[Point]) -> None:
    """A word beside each point, on the side where it covers least of the curves and the words.

    It is level with a mark that stands alone, since others may stand above and below.
    """
    if fig.get_layout_engine():
        fig.draw_without_rendering()  # fixes the layout, so that data have places in pixels
    ax.autoscale_view()
    curves = [np.zeros((0, 2))]
    marked = [line for line in ax.get_lines() if line.get_marker() != "None"]
    paths = [np.column_stack(line.get_data()) for line in marked]
    alone = [tuple(path[0]) for path in paths if len(path) == 1]
    for path in paths:
        xy = ax.transData.transform(path)
        curves += [
            a + (b - a) * np.linspace(0, 1, 30)[:, None]
            for a, b in zip(xy[:-1], xy[1:], strict=True)
        ]
    taken = np.concatenate(curves)
    for x, y, word, color in points:
        at = ax.transData.transform((x, y))
        sides = LEVEL_FIRST if (x, y) in alone else SIDES
        size = np.array([len(word) * 0.62 * SMALL, 1.25 * SMALL]) * fig.dpi / 72
        corners = at + sides * 9 + np.minimum(sides, 0) * size - (sides == 0) * size / 2
        covered = [np.all((taken > c - 1) & (taken < c + size + 1), axis=1).sum() for c in corners]
        best = int(np.argmin(covered))
        side, corner = sides[best], corners[best]
        grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 8)] * 2), axis=-1).reshape(-1, 2)
        taken = np.concatenate([taken, corner + grid * size])
        ax.annotate(
            word,
            (x, y),
            side * 6,
            textcoords="offset points",
            fontsize=SMALL,
            color=color,
            ha=("right", "center", "left")[int(side[0]) + 1],
            va=("top", "center", "bottom")[int(side[1]) + 1],
        )


def grey(ax: Axes, picture: Values) -> None:
    """A picture of numbers from 0, black, to 1, white, without axes."""
    ax.imshow(array(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


PLAIN = FuncFormatter(lambda v, _: f"{v:g}")
SIDES = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)])
LEVEL_FIRST = np.roll(SIDES, 4, axis=0)
PALE = "#f0f0f0"
TINTS = [
    lighter(color, 0.55)
    for color in (SKY, ORANGE, GREEN, YELLOW, PURPLE, BLUE, VERMILLION, "#999999")
]
