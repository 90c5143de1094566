"""A notebook as the book shows it: the same cells, made ready for a page where nothing runs.

What a cell becomes follows from what it is: a bet gets a tag, by which its answer is folded; below
a live figure stands what live.js needs to make it live, and below an exercise what exercises.js
needs to check it, or links to where its code can be run, and its hints and its solution, folded.
Everything else stays as it is stored.
"""

import re
from copy import deepcopy

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from qlesson.authoring import address
from qlesson.authoring.bets import is_bet, is_space
from qlesson.authoring.book import answers, plays
from qlesson.authoring.reading import alt_of, is_caption, without_running
from qlesson.teach.exercises import Exercise, exercises

BET = "bet"  # the tag of a code cell whose output, and what follows it, is the answer


def page(nb: NotebookNode, name: str) -> NotebookNode:
    """The notebook that Sphinx reads in place of `nb`, whose file has this name."""
    made = deepcopy(nb)
    cells = [cell for cell in made.cells if not is_space(cell)]
    where = f"[Colab]({address.colab(name)}) or [Binder]({address.binder(name)})"
    made.cells = [part for cell in cells for part in _cells(cell, where)]
    return made


def _cells(cell: NotebookNode, where: str) -> list[NotebookNode]:
    if cell.cell_type == "markdown":
        cell.source = _text(cell.source)
        return [cell]
    _give_the_picture_its_sentence(cell)
    if is_bet(cell):
        cell.metadata.setdefault("tags", []).append(BET)
    if live := re.fullmatch(r'play\("(\d\d)"\)', cell.source):
        place = plays.place(live[1])
        return [cell, new_markdown_cell(_raw(place))] if place else [cell]
    if asked := re.search(r'^check\("([\d.]+)"', cell.source, flags=re.M):
        cell.outputs = []  # "not attempted yet"
        exercise = exercises()[asked[1]]
        form = answers.place(exercise) if answers.is_checked_here(exercise) else ""
        above = _raw(form) if form else f"Write it in {where}."
        return [cell, new_markdown_cell(f"{above}\n\n{_helps(exercise)}")]
    return [cell]


def _text(source: str) -> str:
    source = without_running(source).replace("Bet, run, then read on.", "")
    if source.startswith("## Play"):
        source = re.sub(r"\bRun the cell, (\w)", lambda first: first[1].upper(), source)
    return re.sub(r"^## Exercises\n\n(?!#).*$", "## Exercises", source, flags=re.M)


def _give_the_picture_its_sentence(cell: NotebookNode) -> None:
    """The picture gets its sentence as alt text, and the output that repeats it goes."""
    sentence = next(filter(None, map(alt_of, cell.outputs)), "")
    if sentence:
        cell.metadata["mystnb"] = {"image": {"alt": sentence}}
        cell.outputs = [output for output in cell.outputs if not is_caption(output, sentence)]


def _helps(exercise: Exercise) -> str:
    """The hints and the solution of an exercise, each folded."""
    hints = [_fold(f"Hint {n}", text) for n, text in enumerate(exercise.hints, start=1)]
    answer = f"```python\n{exercise.answered}\n```\n\n{exercise.why}"
    return "\n\n".join([*hints, _fold("Solution", answer)])


def _fold(title: str, body: str) -> str:
    return f"````{{fold}} {title}\n{body}\n````"


def _raw(html: str) -> str:
    return f"```{{raw}} html\n{html}\n```"
