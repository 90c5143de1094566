"""The figures of notebook 03 draw what they say: ranges of two mappings, and counts."""

import numpy as np
import pytest
from drawn import NORMAL, T, close, steps

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.show import facts

RELU = NORMAL.clamp(min=0)
CASES = {
    "code_counts": [{"asymmetric": ql.quantize(RELU).q, "T": ql.quantize(T).q}, -128, 127],
    "two_ranges": [{"asymmetric": (RELU, 0.0, 5.0), "symmetric": (RELU, -5.0, 5.0)}],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "code_counts": [[{"5 bits": ql.quantize(NORMAL, ql.Scheme(5, signed=False)).q}, 0, 31]],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_code_counts():
    rows = CASES["code_counts"][0]
    fig = draw("code_counts")
    for ax, (label, q) in zip(fig.axes, rows.items(), strict=True):
        counts, edges, _ = steps(ax, "count")
        unused, _, _ = steps(ax, "never used")
        assert counts.sum() == q.numel() and len(edges) == 257 and edges[0] == -128.5
        for code in q.unique().tolist():
            assert counts[code + 128] == (q == code).sum()
        close(unused, counts == 0)
        share = 100 * (256 - len(q.unique())) / 256
        assert ax.get_title("left") == f"{label}: {share:.3g} % of the 256 codes never used"


def test_two_ranges():
    fig = draw("two_ranges")
    empty = ((0, 5 - RELU.max()), (-5, 10 - RELU.max()))
    for ax, (low, share) in zip(fig.axes, empty, strict=True):
        counts, edges, _ = steps(ax, "values")
        assert counts.sum() == len(RELU)
        close(edges[[0, -1]], [0, RELU.max()])
        boxes = [p.get_bbox().intervalx for p in ax.patches if p.get_label() == ""]
        close(boxes[0], [low, 5])
        hatched = sum(np.ptp(b) for b in boxes[1:])
        assert hatched == pytest.approx(float(share))
        words = f"{100 * share / (5 - low):.1f} % of it lies beyond all values"
        assert words in ax.get_title("left")


def test_one_code_more_changes_the_text():
    q = ql.quantize(T).q
    other = q.clone()
    other[0, 0] += 1
    assert facts(figures.code_counts({"T": q}, -128, 127)) != facts(
        figures.code_counts({"T": other}, -128, 127)
    )
