"""The pictures of notebook 13: what they draw is what was counted and stored."""

import pytest
from looks import assert_looks

from qlesson import bench
from qlesson.teach import figures

MOVED = [("div", 4, 4), ("add", 4, 4), ("to_copy", 4, 1)]
CPU = bench.stored("cpu")
MS = bench.ms_of(CPU["rows"], work="given scale", granularity="tensor", dtype="float32")
FLOOR = MS.pop(bench.FLOOR)  # a line, as in the notebook
SIZES = [p["values"] for p in CPU["pieces"]]
DRAWN = {
    "traffic": lambda: figures.traffic(MOVED, (4, 1)),
    "times": lambda: figures.times(MS, FLOOR),
    "pieces": lambda: figures.pieces(SIZES, [p["ms"] for p in CPU["pieces"]], 7.0),
    "roofline": lambda: figures.roofline({"a": (37, 2e8), "b": (5, 3e9)}, 25.0),
    "two roofs": lambda: figures.roofline({"a": (37, 2e8), "b": (3, 1e12)}, 3000.0, 1000),
}


@pytest.mark.parametrize("name", DRAWN)
def test_looks(name):
    assert_looks(DRAWN[name])


def test_traffic_adds_read_and_written():
    ax = DRAWN["traffic"]().axes[0]
    assert [t.get_text() for t in ax.texts] == ["8", "8", "5", "5"]
    assert [p.get_width() for p in ax.patches] == [4, 4, 4, 4, 4, 4, 1, 1]


def test_times_are_sorted_and_the_floor_is_a_line():
    ax = DRAWN["times"]().axes[0]
    dots, floor = ax.lines
    assert list(dots.get_xdata()) == sorted(MS.values()) and not ax.patches
    assert list(floor.get_xdata()) == [FLOOR, FLOOR]


def test_pieces_are_drawn_where_they_are():
    line = DRAWN["pieces"]().axes[0].lines[0]
    assert list(line.get_xdata()) == SIZES
    assert list(line.get_ydata()) == [p["ms"] for p in CPU["pieces"]]


def test_the_roof_is_bandwidth_over_bytes():
    lines = DRAWN["roofline"]().axes[0].lines
    x, y = lines[0].get_data()
    assert (abs(x * y - 25.0) < 1e-9).all()
    assert [(a.get_xdata()[0], a.get_ydata()[0]) for a in lines[1:]] == [(37, 0.2), (5, 3.0)]


def test_the_roof_of_arithmetic_is_level_and_its_axes_stay():
    ax = DRAWN["two roofs"]().axes[0]
    assert list(ax.lines[1].get_ydata()) == [1000, 1000]
    assert ax.get_ylim() == figures.roofline({}, 5, 1).axes[0].get_ylim()
