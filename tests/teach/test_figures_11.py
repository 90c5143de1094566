"""The figures of notebook 11 draw what they say: methods beside each other."""

import numpy as np
import pytest
import torch
from drawn import close, line, words

from qlesson.teach import figures

_G = torch.Generator().manual_seed(0)
INPUTS = torch.randn(40, 32, generator=_G)
SIZES = torch.rand(6, generator=_G) + 0.5
CASES = {
    "side_by_side": [
        {
            "weights (%)": {"all": [4.0, 3.0, 16.03]},
            "outputs (%)": {"known": [4.3, 1.76, 0.79], "new": [4.4, 1.8, 1.13]},
        },
        ["rounding", "AWQ", "GPTQ"],
    ],
    "column_errors": [SIZES, {"rounding": SIZES / 50, "AWQ": SIZES / 40}],
    "channels": [{"as they are": INPUTS, "rotated": INPUTS.flip(1) / 2}],
    "contest": [
        {
            bits: {
                "min-max": {"rounding": (1.36 * size, 0.3), "GPTQ": (0.84 * size, 0.2)},
                "searched": {"rounding": (1.07 * size, 0.2), "GPTQ": (0.49 * size, 0.12)},
            }
            for bits, size in (("4 bits", 0.5), ("2 bits", 1.0))
        }
    ],
    "two_weights": [
        [0.4, 0.3],
        0.9,
        {"rounded": [0, 0], "second moved": [0, 1], "best": [1, 0]},
        {"rounded": 0.466, "second moved": 0.146, "best": 0.126},
        0.66,
    ],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_side_by_side_has_a_bar_for_each_value_and_its_number():
    fig = draw("side_by_side")
    panels, methods = CASES["side_by_side"]
    for ax, (title, series) in zip(fig.axes, panels.items(), strict=True):
        assert ax.get_title("left") == title
        for bars, (label, values) in zip(ax.containers, series.items(), strict=True):
            assert bars.get_label() == label
            close([p.get_width() for p in bars.patches], values)
            middles = [p.get_y() + p.get_height() / 2 for p in bars.patches]
            assert [round(-y) for y in middles] == [0, 1, 2]
            assert ax.get_xlim()[0] == 0 and ax.get_xlim()[1] > max(values)
    assert words(fig.axes[1]) == ["4.3", "1.76", "0.79", "4.4", "1.8", "1.13"]
    names = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert names == methods
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["known", "new"]
    assert not figures.side_by_side({"one": {"a": [1.0]}}, ["x"]).legends


def test_column_errors_are_dots_on_two_logarithms():
    ax = draw("column_errors").axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    for dots, (name, values) in zip(ax.collections, CASES["column_errors"][1].items(), strict=True):
        assert dots.get_label() == name
        close(dots.get_offsets()[:, 0], SIZES)
        close(dots.get_offsets()[:, 1], values)


def test_channels_are_the_largest_magnitudes():
    fig = draw("channels")
    for ax, (name, x) in zip(fig.axes, CASES["channels"][0].items(), strict=True):
        tops = [path.vertices[1] for path in ax.collections[0].get_paths()]
        largest = x.abs().amax(0)
        close([y for _, y in tops], largest)
        assert [round(x) for x, _ in tops] == list(range(32))
        ratio = float(ax.get_title("left").removeprefix(f"{name}: largest / median = "))
        wanted = largest.max() / np.median(largest.numpy())
        assert ratio == pytest.approx(wanted.item(), rel=0.005)


def test_contest_has_a_mark_with_two_errors_for_each_contestant():
    fig = draw("contest")
    panels = CASES["contest"][0]
    for ax, (title, ranges) in zip(fig.axes, panels.items(), strict=True):
        assert ax.get_title("left") == title and ax.get_xlim()[0] == 0
        heights = []
        for bars, (label, found) in zip(ax.containers, ranges.items(), strict=True):
            assert bars.get_label() == label
            marks, _, (errors,) = bars
            x, y = marks.get_data()
            close(x, [mean for mean, _ in found.values()])
            ends = [[path[0, 0], path[1, 0]] for path in errors.get_segments()]
            close(ends, [[mean - 2 * e, mean + 2 * e] for mean, e in found.values()])
            assert [round(-v) for v in y] == [0, 1]  # near its name
            heights.append(y[0])
        assert heights[0] > heights[1]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["rounding", "GPTQ"]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["min-max", "searched"]


def test_two_weights_among_their_codes():
    fig = draw("two_weights")
    left, right = fig.axes
    (w1, w2), together, codes, errors, moved = CASES["two_weights"]
    for name, pair in codes.items():
        close(np.ravel(line(left, name)), pair)
        a, b = (x - w for x, w in zip(line(left, f"as far off as {name}"), (w1, w2), strict=True))
        close(a * a + 2 * together * a * b + b * b, [errors[name]] * 121)
        # The pair itself lies on its ellipse.
        d, e = pair[0] - w1, pair[1] - w2
        assert d * d + 2 * together * d * e + e * e == pytest.approx(errors[name])
    close(np.ravel(line(left, "weights")), [w1, w2])
    close(np.ravel(line(left, "move")), [0, 0, w2, moved])
    close([bar.get_width() for bar in right.patches], list(errors.values()))
    assert words(right) == ["0.466", "0.146", "0.126"]
    assert [t.get_text() for t in right.get_yticklabels()] == list(errors)
