"""The numbers of notebooks/teaching.md: its schedules, its pencil sheet and its exit ticket."""

import re
from pathlib import Path

import pytest
import torch

import qlesson as ql

TEXT = (Path(__file__).parent.parent / "notebooks" / "teaching.md").read_text(encoding="utf-8")


def rows(heading):
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.split("\n") if line.startswith("|")][2:]
    return section, [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_three_hours_are_three_hours():
    section, table = rows("Three hours")
    assert sum(int(row[1]) for row in table) == 180
    assert "Sum: 180 minutes" in section


def test_the_day_adds_up_and_is_two_fifths_exercises():
    section, table = rows("A full day")
    minutes, exercises = (sum(int(row[i]) for row in table) for i in (1, 2))
    assert f"Teaching time: {minutes} minutes. Exercises: {exercises} minutes." in section
    assert exercises >= 0.4 * minutes
    assert max(int(row[1]) for row in table) <= 50


@pytest.mark.parametrize("number", range(7))
def test_a_vote_has_four_answers_one_of_them_right(number):
    votes = TEXT.split("## A vote for each notebook")[1].split("\n## ")[0]
    vote = votes.split(f"**0{number}. ")[1].split("\n**0")[0]
    answers = re.findall(r"^- ([A-D]): (.*)$", vote, flags=re.M)
    assert [letter for letter, _ in answers] == list("ABCD")
    assert sum(text.startswith("**") for _, text in answers) == 1
    assert all(text.startswith("**") or text.endswith(")") for _, text in answers)


def test_learners_per_server():
    _, table = rows("One server for the room")
    for memory, learners in table:
        assert int(learners) == int((int(memory.removesuffix(" GB")) - 1) / 0.45)


def numbers(text):
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_the_pencil_sheet():
    section, _ = rows("Pencil sheet: five numbers, 2 bits")
    r = torch.tensor(numbers(section.split("Values:")[1].split("\n")[0]))
    x = ql.quantize(r, ql.Scheme(bits=2))
    r_hat = x.dequantize()
    found = numbers(section.split("Answers:")[1])
    width = float(r.max() - r.min())
    z = float(-2 - r.min() / x.scale)
    largest = float(ql.max_abs_error(r, r_hat))
    expected = [width, 3, float(x.scale), z, float(x.zero_point), *x.q.tolist(), *r_hat.tolist()]
    assert found == pytest.approx([*expected, largest, float(x.scale) / 2])


def test_the_exit_ticket():
    q = ql.quantize_affine(1.0, 0.1, 5, -8, 7)
    assert q.item() == 7 and ql.dequantize_affine(q, 0.1, 5).item() == pytest.approx(0.2)


def test_the_cast_of_vote_01():
    assert torch.tensor([300]).to(torch.int8).item() == 44
    assert ql.quantize_affine(300.0, 1, 0, -128, 127).item() == 127
