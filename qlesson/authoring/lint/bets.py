"""Rules of bets: before its cell has run, nothing in a reader's view gives the answer."""

import re
from collections.abc import Iterator
from itertools import pairwise

from nbformat import NotebookNode

from qlesson.authoring.bets import AFTER_A_BET, is_bet, is_space
from qlesson.authoring.lint.reading import headings, rule, section, where

TOLD = re.compile(r"\b[Aa]nswer (?:is )?\**[A-E]\b")
BEGINNING = re.compile(r"Answer [A-E][.,] ")


def titles(nb: NotebookNode) -> set[int]:
    """The numbers of the cells that hold a heading."""
    return {number for number, _, _ in headings(nb)}


@rule
def predictions(nb: NotebookNode) -> Iterator[str]:
    bets = [(n, level) for n, level, title in headings(nb) if "predict" in title.lower()]
    if not bets:
        yield 'has no heading with "Predict"'
    for number, level in bets:
        if not any(is_bet(c) for c in section(nb, number, level)):
            yield f"{where(nb.cells[number])}: no code cell under it has jupyter.outputs_hidden"


@rule
def answers_stay_folded(nb: NotebookNode) -> Iterator[str]:
    """JupyterLab shows the first line of a folded output beside the fold: it must not tell."""
    for cell in nb.cells:
        if not is_bet(cell) or not cell.outputs:
            continue
        output = cell.outputs[0]
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        first = next((line for line in text.split("\n") if line), "")
        if not re.fullmatch(r"\D*:\s*", first):
            yield (
                f"{where(cell)}: JupyterLab shows the first line of a folded output; print a label "
                f'that ends in ":", not "{first[:40]}"'
            )


@rule
def answers_are_hidden(nb: NotebookNode) -> Iterator[str]:
    """A Markdown cell without a heading follows a bet; soon a heading ends what is hidden."""
    with_title = titles(nb)
    for number, cell in enumerate(nb.cells):
        if not is_bet(cell):
            continue
        after = next((n for n in range(number + 1, len(nb.cells)) if n in with_title), None)
        answer = nb.cells[number + 1] if number + 1 < len(nb.cells) else cell
        if answer.cell_type != "markdown":
            yield f"{where(cell)}: its answer is missing, a Markdown cell directly below it"
        elif after == number + 1:
            yield (
                f"{where(answer)}: an answer with a heading in its cell stays in the open; begin a "
                "new cell with the heading"
            )
        if after is None or after - number - 1 > AFTER_A_BET:
            yield (
                f"{where(cell)}: over {AFTER_A_BET} cells stand between this bet and the next "
                "heading, and the last of them are in the open; put a heading before them"
            )


@rule
def answers_begin_alike(nb: NotebookNode) -> Iterator[str]:
    """With the letter, then the reason: "Answer C. One value ..." or "Answer C, about 1. ..."."""
    for bet, answer in pairwise(nb.cells):
        if is_bet(bet) and answer.cell_type == "markdown" and not BEGINNING.match(answer.source):
            yield f'{where(answer)}: the answer of a bet begins "Answer C." or "Answer C, ..."'


@rule
def nothing_tells_before(nb: NotebookNode) -> Iterator[str]:
    """From the heading to the bet no Markdown names the letter that wins."""
    for number, level, title in headings(nb):
        if "predict" not in title.lower():
            continue
        for cell in section(nb, number, level):
            if is_bet(cell):
                break
            told = TOLD.search(cell.source.partition(title)[2] or cell.source)
            if cell.cell_type == "markdown" and not is_space(cell) and told:
                yield f'{where(cell)} says "{told[0]}" above the cell that is to tell'
