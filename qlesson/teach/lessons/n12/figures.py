"""The pictures of notebook 12: training through a staircase."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from qlesson.affine import QParams
from qlesson.evaluate import Comparison
from qlesson.qtensor import fake_quantize
from qlesson.scheme import Scheme
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE


@torch.enable_grad()
def straight_through(
    scheme: Scheme,
    scale: draw.Scalar,
    zero_point: draw.Scalar,
    r_min: draw.Scalar,
    r_max: draw.Scalar,
) -> Figure:
    """Rounding as training sees it: the values of a staircase, the slope of a line  (notebook 12).

    What is drawn is fake_quantize and the gradient that torch finds for it.
    """
    r = draw.evenly(draw.number(r_min), draw.number(r_max), 801).requires_grad_()
    qparams = QParams(draw.tensor(scale), torch.tensor(round(draw.number(zero_point))))
    r_hat = fake_quantize(r, scheme, qparams)
    (slope,) = torch.autograd.grad(r_hat.sum(), r)
    fig, (left, right) = draw.figure(2.9, cols=2)
    x = draw.array(r)
    left.plot(x, x, color=draw.GRID, lw=1, ls="--", label="r")
    left.plot(x, draw.array(r_hat), color=draw.CODE, lw=1.6, label="r_hat")
    left.set_xlabel("r")
    left.legend(frameon=False, loc="upper left")
    draw.title(left, "what goes forward: the staircase")
    right.plot(x, np.zeros_like(x), color=draw.CODE, lw=1.6, label="slope of the staircase: 0")
    right.plot(x, draw.array(slope), color=draw.REAL, lw=2, ls="--", label="straight through")
    right.set_ylim(-0.15, 1.65)
    right.set_yticks([0, 1])
    right.set_xlabel("r")
    right.legend(frameon=False, loc="upper left")
    draw.title(right, "what comes back: the slope")
    return fig


def descent(curves: Mapping[str, draw.Values], levels: Mapping[str, draw.Scalar]) -> Figure:
    """A loss at every step of training, beside losses that no training changes   (notebook 12).

    curves  {label: the loss at each step}
    levels  {label: a loss}, horizontal lines
    """
    fig, ax = draw.figure(3.4)
    for (label, losses), (color, _, line) in zip(curves.items(), draw.STYLES, strict=False):
        losses = draw.array(losses)
        ax.plot(np.arange(len(losses)), losses, color=color, ls=line, lw=2, label=label)
    for (label, loss), (color, _, line) in zip(levels.items(), draw.STYLES[3:], strict=False):
        ax.axhline(draw.number(loss), color=color, ls=line, lw=1.4, label=label)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(draw.whole(8))
    ax.set_xlabel("step")
    ax.set_ylabel("mean loss")
    draw.legend_above(fig, ax.get_legend_handles_labels()[0])
    return fig


def pulls(
    steps: draw.Values,
    losses: draw.Values,
    chosen: int,
    inside: draw.Scalar,
    clipped: draw.Scalar,
    title: str = "",
) -> Figure:
    """Mean squared error by the step, and who pulls the chosen one where   (notebook 12, Play).

    The error is drawn near its least, or up to the chosen step, where it is to be compared.

    steps, losses    the curve
    chosen           the number of the chosen step in them
    inside, clipped  the gradient of that step, from values in the range and from clipped ones
    """
    fig, (left, right) = draw.figure(3.0, cols=2)
    steps, losses = draw.array(steps), draw.array(losses)
    here, height = steps[chosen], losses[chosen]
    slope = draw.number(inside) + draw.number(clipped)
    left.plot(steps, losses, color=draw.TOTAL, lw=1.8, label="mean squared error")
    reach = np.array([-0.15, 0.15])
    ends = here + reach, height + reach * slope
    left.plot(*ends, color=draw.CODE, lw=2.4, ls="--", label="gradient of the step")
    best = int(losses.argmin())
    left.plot(steps[best], losses[best], "*", color=draw.REAL, ms=13, label="least error")
    left.plot(here, height, "o", color=draw.CODE, ms=8, label="chosen")
    left.set_xlabel("step s")
    left.set_xlim(0, 1.03 * steps[-1])
    left.set_ylim(0.8 * losses[best], max(2 * losses[best], 1.1 * height))
    draw.title(left, title)
    draw.legend_above(fig, left.get_legend_handles_labels()[0])
    # Descent goes against the gradient.
    sizes = [-draw.number(inside), -draw.number(clipped), -slope]
    colors = [draw.ERROR, draw.CLIPPED, draw.TOTAL]
    right.barh([0, -1, -2], sizes, height=0.6, color=[draw.lighter(c, 0.6) for c in colors])
    right.axvline(0, color=draw.INK, lw=1, gid=ASIDE)
    draw.own_ticks(right.yaxis, [0, -1, -2], ["inside", "clipped", "both"])
    most = 1.3 * max(map(abs, sizes))
    right.set_xlim(-most, most)
    right.set_xlabel("pull on s: left smaller, right larger")
    return fig


def differences(panels: Mapping[str, Mapping[str, Comparison]]) -> Figure:
    """How much worse than the float model each predicts, with two errors   (notebooks 12, 15).

    panels  {title: {name: what `compare` found}}, the same names in each
    """
    fig, axes = draw.figure(
        1.1 + 0.36 * max(map(len, panels.values())), cols=len(panels), sharey=True
    )
    for ax, (title, found) in zip(np.ravel(axes), panels.items(), strict=True):
        places = -np.arange(len(found), dtype=float)
        means = [round(c.difference, 5) for c in found.values()]  # then processors differ
        errors = [round(2 * c.standard_error, 5) for c in found.values()]
        bars = dict(color=draw.REAL, ecolor=draw.INK, fmt="o", ms=6, capsize=4, lw=1.4)
        ax.errorbar(means, places, xerr=errors, label="difference", **bars)
        for mean, error, y in zip(means, errors, places, strict=True):
            ax.annotate(
                draw.short(mean, 2),
                (mean + error, y),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=draw.SMALL,
            )
        ax.set_xlim(0, 1.25 * max(m + e for m, e in zip(means, errors, strict=True)))
        ax.set_ylim(places[-1] - 0.6, 0.6)
        draw.title(ax, title)
        ax.tick_params(axis="y", length=0)
    draw.own_ticks(np.ravel(axes)[0].yaxis, places, list(found))
    fig.supxlabel("nats per character above the float model, ± 2 standard errors", fontsize=10)
    return fig
