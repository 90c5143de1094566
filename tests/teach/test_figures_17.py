"""The pictures of notebook 17: what they draw is what was measured."""

import pytest

from qlesson.teach import figures

PANELS = {
    "as they are": {"qkv": [12.0, 15.0, 20.0], "down": [8.0, 9.0, 25.0]},
    "rotated": {"qkv": [3.1, 3.2, 3.4], "down": [3.3, 3.5, 3.4]},
}
FOUND = {
    "none": {"8": (0.02, 0.004), "6": (0.2, 0.01), "4": (3.5, 0.07)},
    "folded": {"8": (0.01, 0.003), "6": (0.08, 0.009), "4": (1.5, 0.05)},
    "groups": {"4": (0.2, 0.01)},
}
X, X_HAT = [0.1, -3.0, 0.4, 0.0], [0.0, -3.0, 0.5, 0.0]
CASES = {"by_block": [PANELS], "input_bits": [FOUND], "one_token": [X, X_HAT]}


def test_each_panel_has_a_line_for_each_kind_of_layer():
    axes = figures.by_block(PANELS).axes
    assert [ax.get_title(loc="left") or ax.get_title() for ax in axes] == list(PANELS)
    for ax, found in zip(axes, PANELS.values(), strict=True):
        assert ax.get_yscale() == "log"
        assert {line.get_label(): list(line.get_ydata()) for line in ax.lines} == found
        assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1, 2]] * 2


def test_bars_reach_two_errors():
    (ax,) = figures.input_bits(FOUND).axes
    bars = [c for c in ax.collections if hasattr(c, "get_segments")]
    for its, drawn in zip(FOUND.values(), bars, strict=True):
        ends = [(low, high) for (_, low), (_, high) in drawn.get_segments()]
        wanted = [(m - 2 * e, m + 2 * e) for m, e in its.values()]
        assert ends == [pytest.approx(pair) for pair in wanted]
        places = [round(x) for (x, _), _ in drawn.get_segments()]
        assert places == [["8", "6", "4"].index(bits) for bits in its]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "6", "4"]
    assert ax.get_yscale() == "log"


def test_a_token_is_drawn_as_it_is_and_as_it_comes_back():
    (ax,) = figures.one_token(X, X_HAT).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [X, X_HAT]
