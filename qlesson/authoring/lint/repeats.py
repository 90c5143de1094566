"""Advice: a sentence of eight words that stands in two notebooks may be said once.

A definition or an instruction that a reader of one of them needs stays in both.
"""

import re
from collections.abc import Iterable, Iterator

from nbformat import NotebookNode

from qlesson.authoring.bets import is_space
from qlesson.authoring.lint.reading import headings, prose

LONG = 8  # words


def sentences(nb: NotebookNode) -> Iterator[str]:
    """Sentences of `LONG` words or more, in small letters; no links line, no references."""
    sources = {n for n, _, title in headings(nb) if title == "References"}
    for number, cell in enumerate(nb.cells):
        if cell.cell_type != "markdown" or is_space(cell):
            continue
        text = cell.source.partition("## References")[0] if number in sources else cell.source
        text = "\n".join(line for line in text.split("\n") if "[contents](" not in line)
        # A heading, a point, a table cell and a paragraph each end a sentence.
        for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#>|]|\d+\.) ?)|\|", text):
            for sentence in re.split(r"(?<=[.!?])[*_]*\s+", block):
                spoken = re.findall(r"\w+(?:['’.]\w+)*", prose(sentence).lower())
                if len(spoken) >= LONG:
                    yield " ".join(spoken)


def repeated_sentences(notebooks: Iterable[NotebookNode]) -> Iterator[str]:
    first: dict[str, str] = {}
    for nb in notebooks:
        for sentence in sorted(set(sentences(nb))):
            other = first.setdefault(sentence, nb.path.stem)
            if other != nb.path.stem:
                yield f'{nb.path.stem}: "{sentence}" stands in {other} too'
