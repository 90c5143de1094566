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
    "smoothing": [
        [0.0, 0.5, 1.0],
        {"inputs": [0.25, 0.02, 0.009], "weights": [0.003, 0.004, 0.06], "both": [0.2, 0.03, 0.07]},
        1,  # a slider gives the alphas alone; between two of them nothing changes
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


def test_smoothing_marks_the_smallest_sum_and_the_chosen_alpha():
    fig = draw("smoothing")
    ax = fig.axes[0]
    alphas, shares, chosen = CASES["smoothing"]
    for name, label in (("inputs", "only the inputs quantized"), ("both", "both quantized")):
        x, y = line(ax, label)
        close(x, alphas)
        close(y, shares[name])
    assert [float(v[0]) for v in line(ax, "smallest: 0.03 % at 0.5")] == [0.5, 0.03]
    assert [float(v[0]) for v in line(ax, "chosen")] == [chosen, 0.07]
