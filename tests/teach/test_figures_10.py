"""The pictures of notebook 10: what they draw is what they are given."""

import numpy as np
import pytest
from drawn import close, words
from looks import assert_looks

from qlesson.teach import figures
from qlesson.teach.figures import drawing
from qlesson.teach.lessons.n10.figures import LETTERS
from qlesson.teach.show import facts

HARM = {"embedding": 0.029, "blocks.0.mlp.up": 0.005, "blocks.3.mlp.up": 0.027, "out": 0.001}
DB = {"embedding": 13.6, "blocks.0.mlp.up": 13.04, "blocks.3.mlp.up": 10.5, "out": 9.0}
CURVES = {
    "plans": ([461, 565, 773], [5.27, 3.9, 3.74], ["", "", ""]),
    "row": ([479, 579], [5.04, 3.92], [3, 4]),
}
TEXTS = {
    "float32": "An object is an instance of the class pattern of the class object which contained "
    "property to an integer of the module be a sequence",
    "2 bits": "An object iselly" + " thor" + "=" * 100,
}
PERPLEXITIES = {"float32": 3.82, "2 bits": 134.0}
CASES = {
    "perplexity_by_bits": [
        {"tensor": ([8, 4, 3, 2], [4.5, 7.2, 60.1, 903.0]), "row": ([8, 2], [4.4, 201.0])},
        4.4,
    ],
}
EXTRA = {
    "perplexity_by_bits": [[{"the GPT": ([32, 8, 4, 3, 2], [4.4, 4.41, 5.2, 21.0, 700.0])}]],
}
MEANS = {"float": (1.319, 0.0473), "4 bits": (1.3656, 0.048), "difference": (0.0465, 0.0039)}
DRAWN = {
    "means": lambda: figures.alone_and_paired(MEANS),
    "harm": lambda: figures.damage_by_matrix(HARM, DB),
    "seventeen": lambda: figures.damage_by_matrix(
        {f"blocks.{i}.attention.qkv": 0.001 * i for i in range(1, 18)},
        {f"blocks.{i}.attention.qkv": 10 for i in range(1, 18)},
    ),
    "sizes": lambda: figures.size_and_perplexity(CURVES, 3.74),
    "sizes alone": lambda: figures.size_and_perplexity(CURVES),
    "written": lambda: figures.written(TEXTS, PERPLEXITIES),
    "the same": lambda: figures.written(
        dict.fromkeys(TEXTS, TEXTS["float32"]), dict.fromkeys(TEXTS, 3.82)
    ),
    "hopeless": lambda: figures.written(TEXTS, {"float32": 3.82, "2 bits": 1989.0}),
}


def line(ax, label):
    (found,) = [x for x in ax.lines if x.get_label() == label]
    return np.asarray(found.get_data(), dtype=float)


def test_the_bars_are_sorted_and_named():
    (ax,) = DRAWN["harm"]().axes
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "embedding",
        "blocks.3.mlp.up",
        "blocks.0.mlp.up",
        "out",
    ]
    widths = {round(p.get_y() + p.get_height() / 2): p.get_width() for p in ax.patches}
    assert widths == pytest.approx({0: 0.029, -1: 0.027, -2: 0.005, -3: 0.001})
    beside = {t.xy[1]: (t.get_text(), t.xy[0]) for t in ax.texts}
    assert beside == {
        0: ("13.6 dB", 0.029),
        -1: ("10.5 dB", 0.027),
        -2: ("13.0 dB", 0.005),
        -3: ("9.0 dB", 0.001),
    }


def test_the_means_have_bars_of_two_errors():
    left, right = DRAWN["means"]().axes
    close(line(left, "float"), [[1.319], [0]])
    close(line(left, "4 bits, two standard errors"), [[1.2696, 1.4616], [-1, -1]])
    close(line(right, "difference, two standard errors"), [[0.0387, 0.0543], [0, 0]])
    assert 0 in right.get_lines()[-1].get_xdata() and right.get_xlim()[0] < 0


def test_size_and_perplexity():
    (ax,) = DRAWN["sizes"]().axes
    for label, (x, y, _) in CURVES.items():
        np.testing.assert_allclose(line(ax, label), [x, y])
    assert set(line(ax, "float32: 3.74")[1]) == {3.74}
    assert {(t.get_text(), *t.xy) for t in ax.texts if t.get_text()} == {
        ("3", 479, 5.04),
        ("4", 579, 3.92),
    }
    assert ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["4", "4.5", "5"]


def test_written_shows_both_texts_whole():
    top, below = DRAWN["written"]().axes
    said = [t.get_text() for t in top.texts]
    assert said[0] == "float32" and " ".join(said[1].split("\n")) == TEXTS["float32"]
    assert said[2] == "2 bits" and said[3].replace("\n", "") == TEXTS["2 bits"].replace(
        " ====", "===="
    )
    assert all(len(row) <= LETTERS for text in said for row in text.split("\n"))
    for label, p in PERPLEXITIES.items():
        np.testing.assert_allclose(line(below, label), [[p], [0]])
    assert {t.get_text() for t in below.texts} == {"3.82", "134"}
    assert {mark.get_markerfacecolor() for mark in below.lines} == {"none"}


@pytest.mark.parametrize(
    ("p", "words"),
    [(3.8241, "3.82"), (4, "4.00"), (22.59, "22.6"), (133.9, "134"), (1989.03, "1989")],
)
def test_three_digits(p, words):
    assert figures.three_digits(p) == words


def test_a_changed_datum_changes_the_facts():
    changed = [
        figures.alone_and_paired(MEANS | {"difference": (0.0465, 0.004)}),
        figures.damage_by_matrix(HARM | {"embedding": 0.0291}, DB),
        figures.damage_by_matrix(HARM, DB | {"embedding": 13.7}),
        figures.size_and_perplexity(CURVES | {"row": ([479, 580], [5.04, 3.92], [3, 4])}, 3.74),
        figures.size_and_perplexity(CURVES, 3.75),
        figures.written(TEXTS | {"2 bits": "An object isellY"}, PERPLEXITIES),
        figures.written(TEXTS, PERPLEXITIES | {"2 bits": 135.0}),
    ]
    names = ("means", "harm", "harm", "sizes", "sizes", "written", "written")
    for fig, name in zip(changed, names, strict=True):
        assert facts(fig) != facts(DRAWN[name]())


def test_drawing_into_a_figure_leaves_nothing_of_the_one_before():
    fig = DRAWN["hopeless"]()
    with drawing.drawing_into(fig):
        again = DRAWN["written"]()
    assert again is fig and facts(fig) == facts(DRAWN["written"]())


@pytest.mark.parametrize("name", DRAWN)
def test_looks(name):
    assert_looks(DRAWN[name])


def test_perplexity_by_bits():
    ax = figures.perplexity_by_bits(*CASES["perplexity_by_bits"]).axes[0]
    close(line(ax, "tensor"), [[8, 4, 3, 2], [4.5, 7.2, 60.1, 903]])
    close(line(ax, "row"), [[8, 2], [4.4, 201]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "3", "4", "8"]
    assert words(ax) == ["903", "201"] and ax.get_yscale() == "log"
    close({*line(ax, "float32: 4.4")[1]}.pop(), 4.4)
