"""The pictures of notebook 04: the way back."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from qlesson.qtensor import choose_qparams, fake_quantize
from qlesson.scheme import Scheme
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


def heatmaps(
    named: Mapping[str, draw.Values],
    fmt: str = "{:.1f}",
    unit: str = "",
    shared: bool = True,
    diverging: bool = False,
) -> Figure:
    """Matrices as heat maps with their values printed   (notebooks 04, 06, 09).

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


def staircase_and_picture(picture: draw.Values, scheme: Scheme) -> Figure:
    """Which values survive, and what a picture looks like with them   (notebook 04, Play)."""
    picture = draw.tensor(picture)
    scale, zero_point = choose_qparams(picture, scheme)
    back = fake_quantize(picture, scheme)
    fig = Figure(figsize=(7, 3), dpi=100)
    left, right = draw.axes_at(fig, 58, 48, 336, 222), draw.axes_at(fig, 434, 36, 256, 256)
    low, high = picture.min().item(), picture.max().item()
    r = draw.evenly(low, high, 1401)
    t = draw.there_and_back(r, scale, zero_point, scheme.quant_min, scheme.quant_max)
    left.plot([low, high], [low, high], color=draw.GRID, lw=1, ls=":", label="r_hat = r")
    left.plot(t.r, t.r_hat, color=draw.CODE, lw=1.6, label="r_hat")
    left.set_xlim(low, high)
    left.set_xlabel("r")
    left.set_ylabel("r_hat")
    left.legend(frameon=False, loc="upper left")
    draw.grey(right, back)
    distinct = back.unique().numel()
    draw.title(left, f"{scheme.bits} bits, {scheme.mapping}")
    right.set_xlabel(f"{distinct} distinct value{'s survive' if distinct != 1 else ' survives'}")
    return fig
