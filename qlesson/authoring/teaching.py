"""What the pages for teachers hold for each notebook.

teaching.md has a vote for it and what to draw on the board, teaching_minutes.md what to do in each
of its sections.
"""

import re
from typing import NamedTuple


class Answer(NamedTuple):
    """One answer of a vote; `idea` says what a wrong one rests on."""

    letter: str
    text: str
    idea: str
    right: bool


class Vote(NamedTuple):
    question: str
    answers: list[Answer]


VOTES = "A vote for each notebook"


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next; empty where there is none."""
    _, _, text = page.partition(f"\n## {heading}\n")
    return text.partition("\n## ")[0].strip()


def vote(page: str, number: str) -> Vote | None:
    """The vote for the notebook of that number, in the Markdown of teaching.md."""
    votes = section(page, VOTES)
    found = re.search(rf"^\*\*{number}\. (.+)\*\*\n((?:\s*^- .*\n?)+)", votes, flags=re.M)
    if not found:
        return None
    answers = []
    for letter, text in re.findall(r"^- ([A-Z]): (.*)$", found[2], flags=re.M):
        if right := text.startswith("**"):
            answers.append(Answer(letter, text.strip("*"), "", right))
        else:
            words, _, idea = text.removesuffix(")").partition(" (")
            answers.append(Answer(letter, words, idea, right))
    return Vote(found[1], answers)


def drawing(page: str, number: str) -> str:
    """What to draw for the notebook of that number; empty where there is nothing."""
    found = re.search(rf"^- {number}: (.*)$", section(page, "What to draw"), flags=re.M)
    return found[1] if found else ""


def steps(page: str, number: str) -> list[tuple[str, str]]:
    """(section, what to do in it) for the notebook of that number, from teaching_minutes.md."""
    _, _, text = page.partition(f"\n## [{number} ")
    rows = re.findall(r"^\|.*\| *(.+?) *\| *(.+?) *\|$", text.partition("\n## ")[0], flags=re.M)
    return [(name.replace("`", ""), what) for name, what in rows[2:]]
