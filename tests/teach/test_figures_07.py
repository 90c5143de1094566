"""The figures of notebook 07 draw what they say: ranges, and how they are chosen."""

import numpy as np
import torch
from drawn import NORMAL

from qlesson.ranges import min_max, percentile
from qlesson.teach import figures
from qlesson.teach.figures import drawing
from qlesson.teach.show import facts

FAR = torch.cat([NORMAL, torch.tensor([20.0, -20.0])])
LIMITS = torch.arange(2, 11) / 2
RANGES = {
    "min-max": min_max(FAR),
    "percentile 99.9": percentile(FAR, percent=99),
    "entropy": (-4.0, 3.5),
    "MSE search": (torch.tensor(-7.0), torch.tensor(7.0)),
}
CASES = {
    "histogram_and_ranges": [FAR, RANGES],
    "losses_by_limit": [
        {
            "mean squared error": {
                f"{b} bits": (LIMITS, (LIMITS - b / 2) ** 2 + b) for b in (8, 4, 3)
            }
        }
    ],
    "running_ranges": [
        [1.0, 3.0, 2.0, 4.0],
        {
            "min-max": [1.0, 3.0, 3.0, 4.0],
            "moving average": [1.0, 1.2, 1.3, 1.6],
            "percentile 99.9": [0.9, 1.0, 1.1, 1.2],
            "MSE search": [0.8, 0.8, 0.9, 0.9],
        },
    ],
}
EXTRA = {
    "histogram_and_ranges": [
        [NORMAL.relu(), {"all": (0.0, 3.6), "half": (0.0, 1.8)}],
        [FAR, RANGES, dict.fromkeys(RANGES, "−20.00 to 20.00: 28.28 dB")],
    ],
    "losses_by_limit": [
        [
            {
                "error": {"a": (LIMITS, LIMITS.flip(0))},
                "KL divergence": {"a": (LIMITS.tolist(), (LIMITS**2).tolist())},
            }
        ],
    ],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def line(ax, label):
    (found,) = [x for x in ax.lines if x.get_label() == label]
    return found


def test_histogram_and_ranges():
    top, below = draw("histogram_and_ranges").axes
    (steps,) = top.patches
    counts, edges, _ = steps.get_data()
    assert counts.sum() == len(FAR) and counts[0] == counts[-1] == 0
    inside = (FAR.numpy() >= edges[40]) & (FAR.numpy() < edges[41])
    assert counts[40] == inside.sum()
    for y, (name, ends) in enumerate(RANGES.items()):
        x, height = line(below, name).get_data()
        assert list(x) == [float(end) for end in ends] and list(height) == [-y, -y]
    texts = [t.get_text() for t in below.texts]
    assert texts[0] == "−20 to 20" and texts[2] == "−4 to 3.5"
    assert [t.get_text() for t in below.get_yticklabels()] == list(RANGES)
    words = draw("histogram_and_ranges", EXTRA["histogram_and_ranges"][1]).axes[1].texts
    assert {t.get_text() for t in words} == {"−20.00 to 20.00: 28.28 dB"}


def test_losses_by_limit_puts_a_star_at_each_minimum():
    (ax,) = draw("losses_by_limit").axes
    for bits in (8, 4, 3):
        x, y = line(ax, f"{bits} bits").get_data()
        np.testing.assert_allclose(x, LIMITS)
        np.testing.assert_allclose(y, (LIMITS - bits / 2) ** 2 + bits)
        (star_x,), (star_y,) = line(ax, f"least of {bits} bits").get_data()
        assert (star_x, star_y) == (bits / 2, bits)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["8 bits", "4 bits", "3 bits"]
    left, right = draw("losses_by_limit", EXTRA["losses_by_limit"][0]).axes
    assert line(left, "least of a").get_xdata() == 5 and line(right, "least of a").get_xdata() == 1
    assert right.get_title(loc="left") == "KL divergence (log)" and right.get_legend() is None


def test_running_ranges():
    largest, ranges = CASES["running_ranges"]
    (ax,) = draw("running_ranges").axes
    for label, ends in {"largest of the window": largest, **ranges}.items():
        x, y = line(ax, label).get_data()
        assert list(x) == [1, 2, 3, 4] and list(y) == ends
    assert ax.get_xlabel() == "windows observed"
    (legend,) = ax.figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["largest of the window", *ranges]


def test_drawing_into_a_figure_leaves_nothing_of_the_one_before():
    old, new = EXTRA["histogram_and_ranges"][1], CASES["histogram_and_ranges"]
    fig = draw("histogram_and_ranges", old)
    with drawing.drawing_into(fig):
        assert draw("histogram_and_ranges", new) is fig
    assert facts(fig) == facts(draw("histogram_and_ranges", new))
