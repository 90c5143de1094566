"""The pictures of notebook 16: what they draw is what was measured."""

import pytest

from qlesson.teach import figures

LOSSES = {"8": (0.001, 0.001), "4": (0.1, 0.02), "2": (6.0, 0.2)}
SHARES = {"8": (0.63, 0.51, 0.74), "4": (0.6, 0.47, 0.71), "2": (0.25, 0.16, 0.37)}
CASES = {
    "judged": [LOSSES, SHARES],
    "first_tokens": [{"'The'": 0.15, "'L'": 0.14, "'La'": 0.1}],
}


def test_bars_reach_two_errors_and_the_ends_of_the_interval():
    left, right = figures.judged(LOSSES, SHARES).axes
    for ax, wanted in (
        (left, [(m - 2 * e, m + 2 * e) for m, e in LOSSES.values()]),
        (right, [ends for _, *ends in SHARES.values()]),
    ):
        (bars,) = (c for c in ax.collections if hasattr(c, "get_segments"))
        drawn = [(low, high) for (_, low), (_, high) in bars.get_segments()]
        for got, ends in zip(drawn, wanted, strict=True):
            assert got == pytest.approx(tuple(ends))
        assert [t.get_text() for t in ax.get_xticklabels()] == list(LOSSES)


def test_the_axis_of_a_probability_ends_at_one_and_each_bar_has_its_number():
    (ax,) = figures.first_tokens({"'The'": 0.152, "'L'": 0.1}).axes
    assert ax.spines["bottom"].get_bounds() == (0, 1)
    assert [t.get_text() for t in ax.texts] == ["'The'  0.152", "'L'  0.100"]
