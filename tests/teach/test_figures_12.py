"""The figures of notebook 12 draw what they say: gradients, losses, pulls, differences."""

import pytest
import torch
from drawn import close, line, words
from looks import assert_looks

import qlesson as ql
from qlesson.evaluate import Comparison
from qlesson.teach import figures


def compared(difference, error):
    return Comparison(1.3, 1.3 + difference, difference, error, difference / error, 0.1, 0.9)


CASES = {
    "straight_through": [ql.Scheme(2), 1.0, -1, -3.0, 4.0],
    "descent": [
        {"now": [0.9, 1.1, 0.7, 0.6], "best so far": [0.9, 0.9, 0.7, 0.6]},
        {"rounded": 0.9, "best of all": 0.5},
    ],
    "pulls": [[0.2, 0.6, 1.0, 1.4], [0.4, 0.1, 0.2, 0.3], 2, 0.5, -0.2],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_straight_through_draws_the_values_and_the_gradient_of_fake_quantize():
    left, right = draw("straight_through").axes
    r, r_hat = line(left, "r_hat")
    q = ql.quantize_affine(torch.as_tensor(r), 1.0, -1, -2, 1)
    close(r_hat, ql.dequantize_affine(q, 1.0, -1))
    _, zero = line(right, "slope of the staircase: 0")
    assert not zero.any()
    r, slope = line(right, "straight through")
    inside = (torch.as_tensor(r).float() - 1).round().clamp(-2, 1) == (
        torch.as_tensor(r) - 1
    ).round()
    close(slope, inside.double())
    assert set(slope) == {0.0, 1.0}


def test_descent_has_a_loss_for_each_step_and_its_levels():
    ax = draw("descent").axes[0]
    curves, levels = CASES["descent"]
    for label, losses in curves.items():
        x, y = line(ax, label)
        close(x, range(4))
        close(y, losses)
    for label, loss in levels.items():
        close(line(ax, label)[1], [loss, loss])
    assert ax.get_ylim()[0] == 0


def test_pulls_go_against_the_gradient_and_the_dashed_line_has_its_slope():
    left, right = draw("pulls").axes
    steps, losses, chosen, inside, clipped = CASES["pulls"]
    x, y = line(left, "mean squared error")
    close(x, steps)
    close(y, losses)
    close(line(left, "chosen"), [[1.0], [0.2]])
    close(line(left, "least error"), [[0.6], [0.1]])
    close(left.get_ylim(), [0.08, 0.22])
    x, y = line(left, "gradient of the step")
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(inside + clipped)
    close([x.mean(), y.mean()], [1.0, 0.2])
    close([bar.get_width() for bar in right.patches], [-0.5, 0.2, -0.3])
    assert right.get_xlim()[0] < -0.5 and right.get_xlim()[1] > 0.5


PANELS = {
    "2 bits": {"rounding": compared(0.8, 0.03), "learned": compared(0.2, 0.01)},
    "3 bits": {"rounding": compared(0.15, 0.01), "learned": compared(0.02, 0.004)},
}


def test_differences_look_right():
    assert_looks(lambda: figures.differences(PANELS))


def test_differences_have_bars_of_two_errors():
    panels, fig = PANELS, figures.differences(PANELS)
    for ax, (title, found) in zip(fig.axes, panels.items(), strict=True):
        assert ax.get_title("left") == title
        (_, _, (bars,)) = ax.containers[0]
        ends = [segment[:, 0] for segment in bars.get_segments()]
        for (low, high), c in zip(ends, found.values(), strict=True):
            close(
                [low, high],
                [c.difference - 2 * c.standard_error, c.difference + 2 * c.standard_error],
            )
        assert words(ax) == [f"{c.difference:.2g}" for c in found.values()]
        assert ax.get_xlim()[0] == 0 and ax.get_xlim()[1] > max(high for _, high in ends)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["rounding", "learned"]
