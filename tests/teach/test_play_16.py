"""What the live figure of notebook 16 says: the stored answers, each under its own bits."""

import csv

import pytest

from qlesson.teach import play
from qlesson.teach.lessons.n16.play import FILE

with open(FILE, newline="", encoding="utf-8") as file:
    LINES = list(csv.DictReader(file))


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['bits']} {line['prompt'][:12]}")
def test_it_says_what_was_stored(line, capsys):
    play("16", bits=line["bits"], prompt=line["prompt"])
    question, *lines, begins = capsys.readouterr().out.splitlines()
    assert question == line["prompt"]
    for i in range(3):
        assert f" {line[f'token_{i}']!r} {line[f'p_{i}']}" in begins
    label, _, said = " ".join(lines).partition(": ")
    assert label == ("The file's own codes" if line["bits"] == "file" else f"{line['bits']} bits")
    told = " ".join(line["answer"].split()) or "(it ends at once)"
    start, told = said.removesuffix(" ...").replace(" ", ""), told.replace(" ", "")
    assert told.startswith(start) and len(start) > min(len(told) - 1, 200)


def test_the_bars_are_its_probabilities():
    figure = play("16")
    line = LINES[0]
    bars = figure.figure.axes[0].patches
    assert [b.get_width() for b in bars] == [float(line[f"p_{i}"]) for i in range(3)]


def test_what_16_says_of_2_plus_3():
    """Lost at 6 bits, back at 5, lost at 4, and for good from 3 on."""
    (prompt,) = {line["prompt"] for line in LINES if "2 plus 3" in line["prompt"]}
    answers = {line["bits"]: line["answer"] for line in LINES if line["prompt"] == prompt}
    told = {bits: "= 5" in answer for bits, answer in answers.items()}
    assert told == {
        "file": True, "8": True, "6": False, "5": True, "4": False, "3": False, "2": False,
    }  # fmt: skip
