"""The figures of notebook 01 draw what they say: values and codes."""

import numpy as np
import pytest
import torch
from drawn import T, close, line, lines, minus, words

import qlesson as ql
from qlesson.teach import figures

CASES = {
    "number_to_code": [T.flatten(), 3.5, -70, -128, 127],
    "clip_or_wrap": [3.5, -70, -128, 127],
    "guess": [T.flatten(), 3.5, -70, -128, 127],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "guess": [[torch.linspace(-3, 3, 40), 0.1, 3, -8, 7], [T, 4.17, -84, -128, 127]],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_number_to_code():
    ax = draw("number_to_code").axes[0]
    q = ql.quantize_affine(T.flatten(), 3.5, -70, -128, 127)
    close(line(ax, "r")[0], T.flatten())
    close(line(ax, "r_hat")[0], ql.dequantize_affine(q, 3.5, -70))
    for value in ("191.6", "−13.5", "728.6", "−184"):
        assert value in words(ax)
    for code in {*q.tolist(), -128, 127}:
        assert minus(str(code)) in words(ax)
    bent = lines(ax, "clipped")
    assert len(bent) == 1
    close(bent[0].get_xdata(), [728.6, 728.6, 689.5])


def test_number_to_code_shows_the_rounding_from_near_by():
    near = draw("number_to_code").axes[1]
    close(line(near, "moved by rounding"), [[191.6, 192.5], [1, 0]])
    close(line(near, "grid")[0], 192.5 + 3.5 * np.arange(-3, 4))
    (shaded,) = near.patches
    close(shaded.get_bbox().intervalx, [192.5 - 1.75, 192.5 + 1.75])
    assert {"191.6", "−15\n192.5", "−14\n196"} <= set(words(near))
    # One can see it: the line leans by a tenth of the space between two codes, and more.
    left, right = near.get_xlim()
    assert 0.9 / (right - left) > 0.02


@pytest.mark.parametrize(
    "z, low, high, kind", [(-70, -128, 127, torch.int8), (58, 0, 255, torch.uint8)]
)
def test_clip_or_wrap(z, low, high, kind):
    ax = figures.clip_or_wrap(3.5, z, low, high).axes[0]
    x, y = line(ax, "clip, then cast: saturates")
    r = torch.tensor(x, dtype=torch.float32)
    close(y, ql.quantize_affine(r, 3.5, z, low, high, kind))
    assert y.min() == low and y.max() == high
    x, y = line(ax, "cast alone: wraps around")
    x, y = x[~np.isnan(x)], y[~np.isnan(x)]
    close(y, torch.round(torch.tensor(x) / 3.5 + z).to(torch.int32).to(kind))
    assert f"{high + 1} becomes {minus(str(low))}" in words(ax)
    assert f"{minus(str(low - 1))} becomes {high}" in words(ax)


def test_guess():
    top, below = draw("guess").axes
    r_hat = ql.dequantize_affine(ql.quantize_affine(T, 3.5, -70, -128, 127), 3.5, -70)
    close(line(top, "r")[0], T.flatten())
    close(line(top, "r_hat")[0], r_hat.flatten())
    (shaded,) = top.patches
    close(shaded.get_bbox().intervalx, [-203, 689.5])
    assert top.get_title("left").split() == "s = 3.5 z = −70 MSE = 170.9".split()
    order = T.flatten().argsort()
    error = (r_hat - T).flatten()[order]
    x, y = line(below, "clipped")
    close((x, y), ([8], [error[8]]))
    x, y = line(below, "rounded")
    close(y, error[:8])
    assert [t.get_text() for t in below.get_xticklabels()][:2] == ["−184", "−13.5"]
