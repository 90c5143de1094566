"""The pictures of notebook 06: who shares a scale."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from qlesson.granularity import Granularity
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE

Priced = tuple[draw.Values, draw.Values, Sequence[object]]  # bits per value, dB, names of points


def shared_scales(shape: tuple[int, int], granularities: Mapping[str, Granularity]) -> Figure:
    """Which cells of a matrix share a scale, and the scale tensor's own shape   (notebook 06).

    granularities  {title: granularity}
    """
    rows, cols = shape
    plans = {title: _scale_numbers(g, shape) for title, g in granularities.items()}
    highest = max(scales.shape[0] for scales, _, _ in plans.values())
    words = 1.1  # inches for the lines of words and the gaps
    cell = min(7 / (len(plans) * (cols + 0.5)), (4.0 - words) / (highest + rows))
    height = max(2.2, cell * (highest + rows) + words)
    fig, axes = draw.figure(height, cols=len(plans), sharex=True, sharey=True)
    line = 0.22 / cell  # a line of words, in cells
    gap = line + 0.8
    for ax, (title, (scales, cells, name)) in zip(np.ravel(axes), plans.items(), strict=True):
        top = gap + highest
        for numbers, y in ((scales, top), (cells, 0)):
            n, m = numbers.shape
            ax.imshow(
                numbers % len(draw.TINTS),
                cmap=ListedColormap(draw.TINTS),
                vmin=-0.5,
                vmax=len(draw.TINTS) - 0.5,
                extent=(0, m, y - n, y),
                gid=ASIDE,
            )
            ax.vlines(np.arange(1, m), y - n, y, color="white", lw=1.5, gid=ASIDE)
            ax.hlines(y - np.arange(1, n), 0, m, color="white", lw=1.5, gid=ASIDE)
            for (i, j), k in np.ndenumerate(numbers):
                ax.text(j + 0.5, y - i - 0.5, str(k), ha="center", va="center", fontsize=draw.SMALL)
        ax.text(0, top + 0.15, f"scale {name}", ha="left", va="bottom")
        ax.text(0, 0.15, f"r {tuple(shape)}", ha="left", va="bottom")
        ax.set_xlim(0, cols)
        ax.set_ylim(-rows, gap + highest + line)
        ax.set_aspect("equal", anchor="NW")
        ax.set_axis_off()
        draw.title(ax, title)
    return fig


def _scale_numbers(
    granularity: Granularity, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, str]:
    """The scales numbered, in their own shape; the number of each cell; the shape in words."""
    scale_shape = granularity.scale_shape(shape)
    numbers = torch.arange(int(np.prod(scale_shape))).reshape(scale_shape)
    blocks = granularity.split(torch.zeros(shape))
    cells = granularity.join(granularity.align(numbers).expand(blocks.shape), shape)
    return np.atleast_2d(numbers.numpy()), cells.numpy(), str(tuple(scale_shape))


def error_by_price(curves: Mapping[str, Priced]) -> Figure:
    """SQNR against what a value costs   (notebook 06).

    curves  {label: (bits per value, SQNR in dB, names of the points)}
    """
    return _by_price(curves, "SQNR (dB)", 3.8)


def above_the_rows(curves: Mapping[str, Priced], title: str = "") -> Figure:
    """How far groups lie above the line through the rows, at equal price   (notebook 06, Play).

    curves  {label: (bits per value, dB above that line, names of the points)}
    """
    return _by_price(curves, "dB above the rows", 2.9, title)


def _by_price(curves: Mapping[str, Priced], words: str, height: float, title: str = "") -> Figure:
    fig, ax = draw.figure(height)
    points = draw.named_curves(ax, curves)
    ax.set_xlabel("bits per value")
    ax.set_ylabel(words)
    draw.title(ax, title)
    ax.margins(0.08, 0.12 * 3.8 / height)  # in inches the same, for the names
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    draw.name_points(fig, ax, points)
    return fig
