"""The figures of notebook 02 draw what they say: ranges and their codes."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from drawn import FOUR, NORMAL, T, close, line, lines, minus, words

import qlesson as ql
from qlesson.qtensor import qparams_from_range
from qlesson.teach import figures

SCHEME16 = ql.choose_qparams(T, ql.Scheme(16))
CASES = {
    "number_lines": [
        {"half": (FOUR, 0.5, -1, -8, 7), "quarter": (FOUR, 0.25, -2, -8, 7)},
        -5.0,
        6.0,
    ],
    "range_map": [2.0, 3.0, 1 / 255, -128, -128, 127, -638],
    "pile_up": [torch.linspace(2, 6, 50), 1.5, 5.5, ql.Scheme(5, include_zero=False)],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "number_lines": [
        [
            {
                "8 bits": (T, *ql.choose_qparams(T), -128, 127),
                "16": (T, *SCHEME16, -32768, 32767),
                "far": (T, 0.1, 0, -8, 7),
                "3 bits": (T, *ql.choose_qparams(T, ql.Scheme(3)), -4, 3),
            }
        ],
    ],
    "range_map": [
        [-184, 728.6, 3.5788, -77, -128, 127],
        [-728.6, 728.6, 5.737, 0, -127, 127],
        [2.99, 3.0, 0.01 / 255, -128, -128, 127, -76373],
        [-40, -30, 10 / 255, 127, -128, 127, 892],
    ],
    "pile_up": [
        [NORMAL, -1.0, 4.0, ql.Scheme(8)],
        [NORMAL - 6, -7.0, -3.0, ql.Scheme(4, include_zero=False)],
        [NORMAL, -1.0, 4.0, ql.Scheme(4, "symmetric")],
        [torch.zeros(5), 0.0, 0.0, ql.Scheme(4)],
    ],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_number_lines():
    ax = draw("number_lines").axes[0]
    q = ql.quantize_affine(FOUR, 0.5, -1, -8, 7)
    x, y = line(ax, "r, half")
    close(x, FOUR)
    close(line(ax, "r_hat, half")[0], ql.dequantize_affine(q, 0.5, -1))
    assert (y > line(ax, "r_hat, half")[1]).all()
    for label, scale, z in (("half", 0.5, -1), ("quarter", 0.25, -2)):
        (grid,) = [c for c in ax.collections if c.get_label() == f"grid, {label}"]
        at = [s[0][0] for s in grid.get_segments()]
        codes = torch.arange(-8, 8)
        wanted = [v for v in ql.dequantize_affine(codes, scale, z).tolist() if -5 <= v <= 6]
        close(at, wanted)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["half", "quarter"]
    falls = [c.get_segments() for c in ax.collections if c.get_gid() == "aside"]
    falls = np.concatenate([f for f in falls if len(f)])
    assert len(falls) == 8
    close(sorted(s[0][0] for s in falls[:4]), sorted(FOUR))


def test_number_lines_shows_everything_by_default_and_a_part_on_request():
    row = {"T": (T, 3.5, -70, -128, 127)}
    ax = figures.number_lines(row).axes[0]
    low, high = ax.get_xlim()
    assert low < 3.5 * (-128 + 70) and high > 728.6
    ax = figures.number_lines(row, 0, 300).axes[0]
    assert sorted(line(ax, "r, T")[0]) == pytest.approx([0, 92.14, 191.6, 245.5, 295.5])
    assert -10 < ax.get_xlim()[0] <= 0 and 300 <= ax.get_xlim()[1] < 310


def test_range_map():
    ax = figures.range_map(-184, 728.6, 3.5788, -77, -128, 127).axes[0]
    assert {"−184", "0", "728.6", "−128", "z = −77", "127"} == set(words(ax))
    (zero,) = [x for x in ax.lines if x.get_label().startswith("0 to z")]
    close(zero.get_xdata(), [-128 + 184 / 912.6 * 255, -77])
    for name, code in (("r_min", -128), ("r_max", 127)):
        (edge,) = [x for x in ax.lines if x.get_label().startswith(name)]
        close(edge.get_xdata(), [code, code])
    assert not lines(ax, "z before the clip")


def test_range_map_draws_a_clipped_zero_point_beyond_the_wall():
    ax = draw("range_map").axes[0]
    close(line(ax, "z before the clip")[0], [-638])
    close(line(ax, "0")[0], [-128 - 2 * 255])
    close(line(ax, "r_min = 2")[0], [-128, 127])  # what the clipped zero point makes of 2 and of 3
    close(line(ax, "r_max = 3")[0], [127, 127])
    close(line(ax, "z")[0], [-128])
    assert lines(ax, "z before the clip")[0].get_markerfacecolor() == "white"
    assert lines(ax, "0")[0].get_markerfacecolor() == "white"
    assert "−638" in words(ax) and "z = −128" in words(ax)
    (arrow,) = [t for t in ax.texts if getattr(t, "arrow_patch", None)]
    assert arrow.xy[0] == -128


@pytest.mark.parametrize(
    "scheme", [ql.Scheme(5, include_zero=False), ql.Scheme(5), ql.Scheme(4, "symmetric")]
)
@pytest.mark.filterwarnings("error")
def test_pile_up(scheme):
    values = torch.linspace(-1, 6, 50)
    top, below = figures.pile_up(values, 1.5, 5.5, scheme).axes
    with pytest.warns(ql.ZeroPointClipped) if not scheme.include_zero else nullcontext():
        qparams = qparams_from_range(torch.tensor(1.5), torch.tensor(5.5), scheme)
    q = ql.quantize(values, scheme, qparams).q
    (bars,) = below.containers
    heights = {round(b.get_x() + 0.5): b.get_height() for b in bars}
    assert sum(heights.values()) == len(values)
    assert list(heights) == list(range(scheme.quant_min, scheme.quant_max + 1))
    for code, height in heights.items():
        assert height == (q == code).sum()
    distinct = len(q.unique())
    assert top.get_title("left") == f"50 distinct values go in, {distinct} come back"
    beyond = lines(top, "z before the clip")
    assert len(beyond) == (not scheme.include_zero)
    start = 1.5 if not scheme.include_zero else 0 if scheme.mapping == "asymmetric" else -5.5
    assert minus(f"{start:g}") in words(top)
    if beyond:
        close(beyond[0].get_xdata(), [round(-16 - 1.5 / (4 / 31))])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("r_min, r_max", [(-2.0, 8.0), (3.0, 4.0), (-4.0, -3.0)])
def test_what_lies_far_from_the_range_stands_where_it_belongs(r_min, r_max):
    values = torch.linspace(-6, 6, 50)
    ax = figures.pile_up(values, r_min, r_max, ql.Scheme(5, include_zero=False)).axes[0]
    (strokes,) = [c for c in ax.collections if c.get_label() == "values"]
    places = np.array([s[0][0] for s in strokes.get_segments()])
    close(places, -16 + (values.double().numpy() - r_min) / (r_max - r_min) * 31)
    everything = [*places, *line(ax, "0")[0], *line(ax, "z")[0]]
    close(line(ax, "0")[0], [-16 - r_min / (r_max - r_min) * 31])
    low, high = ax.get_xlim()
    assert low < min(everything) and max(everything) < high
