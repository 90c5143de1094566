"""Exercises that the book checks in the page: those that ask for a value or a construction.

What exercises.js needs is compiled from the exercise blocks. The rules of a construction are
functions, which `rules.js` of its lesson has in JavaScript; tests/browser/test_book.py compares
their verdicts with those of `qlesson.teach.verdict`, on every wrong answer and on many others.
"""

import json
import re
from typing import Any

from qlesson.teach import lessons
from qlesson.teach.exercises import Exercise


def is_checked_here(exercise: Exercise) -> bool:
    """Whether the page can check it: not code, and no construction without a script."""
    return not exercise.spec and (
        not exercise.facts or exercise.notebook in lessons.files("rules", ".js")
    )


def compiled(exercise: Exercise) -> dict[str, Any]:
    """An exercise as exercises.js reads it; None in a wrong answer is any number."""
    letters = isinstance(exercise.right, str)
    right = exercise.right if letters else _list(exercise.right)
    names = exercise.name.strip("()").split(", ")
    if len(names) != len(right):
        names = [f"number {i + 1}" for i in range(len(right))]
    return {
        "names": names,
        "offered": re.findall(r"^- \*\*([A-Z])\*\*", exercise.text, flags=re.M),
        "id": exercise.id,
        "asks": f"{exercise.stub.split(' = ')[0]} =",
        "right": right,
        "within": [] if letters else [_ends(w) for w in _each(exercise.within, len(right))],
        "wrong": [
            {"answer": _pattern(wrong.answer, letters), "hint": wrong.hint}
            for wrong in exercise.wrong
        ],
        "why": exercise.why,
        "script": f"rules/{exercise.notebook}.js" if exercise.facts else None,
    }


def place(exercise: Exercise) -> str:
    """The HTML from which exercises.js makes a form."""
    data = json.dumps(compiled(exercise), ensure_ascii=False).replace("</", "<\\/")
    return f'<div class="exercise"><script type="application/json">{data}</script></div>'


def _pattern(answer: Any, letters: bool) -> Any:
    return answer if letters else [None if x is ... else x for x in _list(answer)]


def _list(x: Any) -> list[Any]:
    return list(x) if isinstance(x, list | tuple) else [x]


def _each(x: Any, n: int) -> list[Any]:
    return list(x) if isinstance(x, list | tuple) else [x] * n


def _ends(within: Any) -> list[float]:
    """How far below and above the right number still counts."""
    return list(within) if isinstance(within, tuple) else [within, within]
