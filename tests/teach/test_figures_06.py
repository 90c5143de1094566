"""The figures of notebook 06 draw what they say: who shares a scale."""

import numpy as np
import pytest
from drawn import GRANULARITIES, NORMAL, close, line, words

import qlesson as ql
from qlesson.teach import figures

NAMES = ["tensor", "row", "32"]
CASES = {
    "shared_scales": [(3, 4), GRANULARITIES],
    "error_by_price": [
        {
            "4 bits": ([4.01, 4.25, 5.5], [11.3, 15.2, 17.9], ["tensor", "row", "8"]),
            "5 bits": ([5.01], [17.1], ["tensor"]),
        },
    ],
    "above_the_rows": [
        {
            "one scale per row": ([2.02, 3.02, 4.02], [0.0, 0.0, 0.0], [2, 3, 4]),
            "groups of 32": ([2.5, 3.5], [-1.5, 0.3], [2, 3]),
        },
    ],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "shared_scales": [
        [(3, 3), {k: GRANULARITIES[k] for k in ("tensor", "row", "column")}],
        [(2, 7), {"threes": ql.PerGroup(3), "down": ql.PerGroup(2, 0)}],
    ],
    "error_by_price": [
        [
            {
                f"{b} bits": ([b, b + 0.25, b + 1], [6 * b - 15, 6 * b - 10, 6 * b - 7], NAMES)
                for b in (3, 4, 5)
            }
        ],
    ],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_shared_scales():
    r = NORMAL[:12].view(3, 4)
    fig = draw("shared_scales")
    for ax, (title, granularity) in zip(fig.axes, GRANULARITIES.items(), strict=True):
        qparams = ql.choose_qparams(r, ql.Scheme(granularity=granularity))
        shape = tuple(qparams.scale.shape)
        assert ax.get_title("left") == title and f"scale {shape}" in words(ax)
        n = qparams.scale.numel()
        numbers = [int(w) for w in words(ax) if w.isdigit()]
        assert numbers[:n] == list(range(n)), "the scales, in order"
        # A cell has the number of the scale that changes when the cell becomes the largest.
        for cell, number in enumerate(numbers[n : n + 12]):
            larger = r.clone().flatten()
            larger[cell] = 100
            scale = ql.choose_qparams(larger.view(3, 4), ql.Scheme(granularity=granularity)).scale
            changed = (scale != qparams.scale).flatten().nonzero().flatten().tolist()
            assert changed == [number]
        small, large = (np.asarray(image.get_array()) for image in ax.images)
        close(small.flatten(), np.arange(n) % 8)
        close(large.flatten(), np.array(numbers[n : n + 12]) % 8)


@pytest.mark.parametrize("name", ["error_by_price", "above_the_rows"])
def test_curves_by_price(name):
    (curves,) = CASES[name]
    ax = draw(name).axes[0]
    for label, (x, y, _) in curves.items():
        close(line(ax, label), [x, y])
    places = {(t.get_text(), tuple(t.xy)) for t in ax.texts}
    assert places == {(str(n), (x, y)) for c in curves.values() for x, y, n in zip(*c, strict=True)}


def test_error_by_price_keeps_its_words_off_the_curves():
    falling = {
        "down": ([3, 4, 5, 6], [30, 22, 13, 5], ["one", "two", "three", "four"]),
        "up": ([3, 4, 5, 6], [4, 12, 21, 29], ["five", "six", "seven", "eight"]),
    }
    fig = figures.error_by_price(falling)
    fig.draw_without_rendering()
    (ax,) = fig.axes
    for text in ax.texts:
        box = text.get_window_extent()
        for label in falling:
            x, y = line(ax, label)
            t = np.linspace(3, 6, 200)
            at = ax.transData.transform(np.column_stack([t, np.interp(t, x, y)]))
            assert not any(box.contains(*p) for p in at), text.get_text()


def test_error_by_price_writes_level_with_a_mark_that_stands_alone():
    stacked = {"a": ([4.5], [20.7], ["64"]), "b": ([4.5], [20.4], ["16"])}
    curve = {"c": ([4.1, 4.5], [18.4, 20.1], ["128", "32"])}
    fig = figures.error_by_price(stacked | curve)
    fig.draw_without_rendering()
    (ax,) = fig.axes
    for text in (t for t in ax.texts if t.get_text() in ("64", "16")):
        box, (x, y) = text.get_window_extent(), ax.transData.transform(text.xy)
        assert box.y0 < y < box.y1 and not box.x0 < x < box.x1
