"""The sheets to print: what stands on them, and what must not."""

import re
from pathlib import Path

import pytest

from qlesson.authoring import handouts
from qlesson.authoring.__main__ import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "notebooks" / "teaching.md").read_text(encoding="utf-8")
PAGE = handouts.page(TEXT)
SHEETS = dict(re.findall(r"<section.*?<h1>(.*?)</h1>(.*?)</section>", PAGE, flags=re.S))


def words(made):
    return re.sub(r"<[^>]+>", "", made)


def test_every_sheet_is_there_and_has_something_on_it():
    assert list(SHEETS) == [
        "Pencil sheet",
        "Pencil sheet: answers",
        "Letters and formulas",
        "Exit ticket",
        "Votes",
        "Votes, with their answers",
    ]
    assert min(len(words(made)) for made in SHEETS.values()) > 100
    assert "{{" not in PAGE


def test_no_answer_stands_where_it_is_asked_for():
    assert "half a step 1" in SHEETS["Pencil sheet: answers"]
    assert not re.search(r"half a step 1|0\.8|-0\.75", SHEETS["Pencil sheet"])
    assert "clipped to 7" in TEXT and "clipped to 7" not in PAGE
    assert "<strong>" in SHEETS["Votes, with their answers"]
    asked = re.findall(r"<strong>(.*?)</strong>", SHEETS["Votes"])
    assert all(re.match(r"\d\d\. ", text) for text in asked)


@pytest.mark.parametrize("number", [path.name[:2] for path in sorted(
    (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))])  # fmt: skip
def test_a_vote_keeps_its_answers_and_loses_their_reasons(number):
    vote, key = (
        re.search(rf"<div><p><strong>{number}\. .*?</div>", SHEETS[name], flags=re.S)[0]
        for name in ("Votes", "Votes, with their answers")
    )
    short, full = (re.findall(r"<li>[A-D]: (.*?)</li>", x, flags=re.S) for x in (vote, key))
    assert len(short) == len(full) == 4
    for text, answered in zip(short, full, strict=True):
        right = f"<strong>{text}</strong>"
        assert answered == right or re.fullmatch(rf"{re.escape(text)} \(.*\)", answered)


def test_brackets_inside_an_answer_and_its_reason_are_told_apart():
    votes = "**1. f(x) ...**\n\n- A: s * (q - z). (It is f(x) of x.)\n- B: **(q - z).**"
    assert handouts.unanswered(votes).endswith("- A: s * (q - z).\n- B: (q - z).")


def test_nothing_is_left_of_markdown_and_tex():
    plain = words(PAGE.partition("<body>")[2])
    assert not re.search(r"\*\*|__|\$|\\", plain)
    assert SHEETS["Letters and formulas"].count("<math") > 15
    assert SHEETS["Pencil sheet"].count('class="blank"') > 10


def test_nothing_is_fetched():
    assert not re.search(r"https?://(?!www\.w3\.org/)|src=|<link|<script|url\(|@import", PAGE)


def test_the_command_writes_the_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    assert main(["handouts"]) == 0
    assert (tmp_path / "build" / "handouts.html").read_text(encoding="utf-8") == PAGE
    assert "build/handouts.html" in capsys.readouterr().out
