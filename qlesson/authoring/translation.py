"""A notebook in another language: its texts in a file of their own, put in place of the English.

translations/de/03.md holds the texts of one notebook in German, one block for each Markdown cell:

    <!-- cell 13a4f0c2, from 5be1d0f7 -->
    # 03 Symmetrisch
    ...

The first name is the cell's, the second a mark of the English text that was translated, so that a
text whose English has changed since is found. Code and outputs are taken as they are: numbers,
figures and exercises stay those of the course, and tested.
"""

import re
import zlib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from qlesson.authoring.lint import load
from qlesson.authoring.lint.reading import markdown

BLOCK = re.compile(r"^<!-- cell (\S+), from (\w+) -->\n", flags=re.M)


def mark(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def head(cell: NotebookNode) -> str:
    return f"<!-- cell {cell.id}, from {mark(cell.source)} -->"


def block(cell: NotebookNode) -> str:
    return f"{head(cell)}\n{cell.source}\n"


def skeleton(nb: NotebookNode) -> str:
    """The file to translate: every text of the notebook, still in English."""
    return "\n".join(map(block, markdown(nb)))


def blocks(text: str) -> dict[str, tuple[str, str]]:
    """{cell: (mark of the English, the text)} of a file of translations."""
    _, *parts = BLOCK.split(text)
    return {
        cell: (of, words.strip("\n"))
        for cell, of, words in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def translated(nb: NotebookNode, text: str) -> NotebookNode:
    """The notebook with the texts of the file; a cell that has none stays English."""
    made, given = deepcopy(nb), blocks(text)
    for cell in markdown(made):
        cell.source = given.get(cell.id, ("", cell.source))[1]
    return made


def to_do(nb: NotebookNode, text: str) -> Iterator[str]:
    """What is still to be translated, what again, and what stands for a cell that is gone."""
    given = blocks(text)
    for cell in markdown(nb):
        of, words = given.pop(cell.id, ("", cell.source))
        if not of:
            yield f"{cell.id} is new: its block begins with {head(cell)}"
        elif words == cell.source or of == mark(words):
            yield f"{cell.id} is not translated"
        elif of != mark(cell.source):
            yield f"{cell.id} was translated from another text: anew, it begins with {head(cell)}"
    yield from (f"{cell} is no cell of the notebook any more" for cell in given)


def renewed(nb: NotebookNode, text: str) -> str:
    """The file, where nobody has translated a block with the English of now."""
    given = blocks(text)
    for cell in markdown(nb):
        of, words = given.get(cell.id, ("", ""))
        if of and of == mark(words):
            old = f"<!-- cell {cell.id}, from {of} -->\n{words}"
            text = text.replace(old, f"{head(cell)}\n{cell.source}")
    return text


def main(folder: Path, language: str, at: Path = Path("translations")) -> int:
    """Write what is translated into build/LANGUAGE, and a file to translate where there is none."""
    to = Path("build") / language
    (at / language).mkdir(parents=True, exist_ok=True)
    to.mkdir(parents=True, exist_ok=True)
    for nb in load(folder):
        file = at / language / f"{nb.number}.md"
        text = renewed(nb, file.read_text(encoding="utf-8") if file.exists() else skeleton(nb))
        file.write_text(text, encoding="utf-8", newline="\n")
        left = list(to_do(nb, text))
        print("\n".join([f"{file}: {len(left)} of {len(markdown(nb))} to do", *left[:3]]))
        made = translated(nb, text)
        name = made.pop("path").name
        del made["number"]
        (to / name).write_text(nbformat.writes(made) + "\n", encoding="utf-8", newline="\n")
    return 0
