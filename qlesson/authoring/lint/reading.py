"""A notebook as the rules read it: its cells, headings, words; and the rules that read one.

`rule` puts a check among `RULES`: it takes a notebook and yields what is wrong with it.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from qlesson.authoring.bets import is_space

Rule = Callable[[NotebookNode], Iterator[str]]
RULES: list[Rule] = []


def rule(check: Rule) -> Rule:
    RULES.append(check)
    return check


def read(path: Path) -> NotebookNode:
    nb = nbformat.read(path, as_version=4)
    nb.path = Path(path)
    nb.number = nb.path.name[:2]
    return nb


def code(nb: NotebookNode) -> list[NotebookNode]:
    return [c for c in nb.cells if c.cell_type == "code"]


def markdown(nb: NotebookNode) -> list[NotebookNode]:
    """Its Markdown cells, without the spaces above bets."""
    return [c for c in nb.cells if c.cell_type == "markdown" and not is_space(c)]


def bundles(cell: NotebookNode) -> list[dict[str, Any]]:
    return [o.data for o in cell.get("outputs", []) if "data" in o]


def where(cell: NotebookNode) -> str:
    line = cell.source.strip().split("\n")[0]
    return f'cell "{line[:50]}"'


def without_code(text: str) -> str:
    """Markdown without its code, fenced or inline."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "code", text)


def prose(text: str) -> str:
    """Markdown as it is read aloud: no markup, no link targets; a formula is one word."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S).replace("`", "")
    text = re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$", "formula", text, flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"<[^>\n]+>|[*_#]|^\s*>", "", text, flags=re.M)


def words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’.,-]\w+)*", prose(text))


def headings(nb: NotebookNode) -> Iterator[tuple[int, int, str]]:
    """(cell number, level, text) of every heading."""
    for number, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.M | re.S)
            for marks, title in re.findall(r"^(#{1,6}) +(.+?)\s*#*$", text, flags=re.M):
                yield number, len(marks), title


def section(nb: NotebookNode, start: int, level: int) -> list[NotebookNode]:
    """The cells from number `start` up to the next heading of that level or a higher one."""
    ends = [n for n, depth, _ in headings(nb) if n > start and depth <= level]
    return nb.cells[start : min(ends, default=len(nb.cells))]


def exercises(nb: NotebookNode) -> Iterator[tuple[str, int | None]]:
    """(number, minutes or None) of each exercise."""
    for number, _, title in headings(nb):
        if title.startswith("Exercise "):
            text = nb.cells[number].source.partition(title)[2]
            stated = re.search(r"· *(\d+) minutes?\b", text)
            yield title.split()[1], int(stated[1]) if stated else None


def load(folder: Path) -> list[NotebookNode]:
    return [read(p) for p in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))]
