"""The pictures of notebook 14: the roofs are where two divisions put them."""

import pytest
from looks import assert_looks

from qlesson.teach import figures

BITS = {"float32": 32, "4-bit codes": 4.5}
POINTS = {"float32": [(1, 50.0), (64, 900.0)], "4-bit codes": [(8, 2e3)]}
DRAWN = {
    "tokens_per_second": lambda: figures.tokens_per_second(1e6, BITS, 4, 2, POINTS, (0.5, 5e4)),
    "one": lambda: figures.tokens_per_second(
        8e9, {"bfloat16": 16}, 3000, 5e5, {"bfloat16": [(1, 187.5)]}, (0.3, 1e5)
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_looks(name):
    assert_looks(DRAWN[name])


def test_memory_rises_with_the_tokens_and_arithmetic_is_level():
    a, b, level, *dots = DRAWN["tokens_per_second"]().axes[0].lines
    assert list(a.get_ydata()) == [1e3, 1024e3]  # 4 GB/s over 4 MB
    assert list(b.get_ydata()) == pytest.approx([64e3 / 9, 1024 * 64e3 / 9])
    assert list(level.get_ydata()) == [1e3, 1e3]  # 2 GFLOP/s over 2 million operations
    assert [list(zip(*line.get_data(), strict=True)) for line in dots] == list(POINTS.values())


def test_no_point_hides_another():
    dots = DRAWN["tokens_per_second"]().axes[0].lines[3:]
    assert [d.get_markerfacecolor() for d in dots] == ["none", "none"]


def test_its_axes_stay_whatever_is_drawn():
    small = figures.tokens_per_second(1, {"a": 8}, 1, 1, {"a": [(1, 1.0)]}, (0.3, 1e5)).axes[0]
    assert small.get_ylim() == DRAWN["one"]().axes[0].get_ylim()
    assert small.get_xlim() == DRAWN["one"]().axes[0].get_xlim()
