"""Rules of all notebooks together, of README.md and of the lessons beside them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nbformat import NotebookNode

from qlesson.authoring.lint.github import empty_headers
from qlesson.authoring.lint.reading import markdown
from qlesson.authoring.lint.sizes import minutes
from qlesson.teach import lessons


def readme_map(notebooks: Iterable[NotebookNode], readme: Path) -> Iterator[str]:
    """The map in README.md has a row for each notebook, ending in its minutes."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    for nb in notebooks:
        row = re.search(rf"^\|.*\(notebooks/{nb.path.name}\).*\| *(\d+) *\|$", text, flags=re.M)
        if not row:
            yield f"{nb.path.stem}: README.md has no row that links it and ends in its minutes"
        elif int(row[1]) != minutes(nb):
            yield f"{nb.path.stem}: README.md says {row[1]} minutes, its length says {minutes(nb)}"


def named_by_titles(notebooks: Iterable[NotebookNode], *pages: Path) -> Iterator[str]:
    """A link to a notebook whose words begin with a number says its number, or number and title.

    pages   Markdown files that link notebooks too. The first notebook, the contents, links all.
    """
    notebooks = list(notebooks)
    titles = {
        nb.path.name: nb.cells[0].source.split("\n")[0].removeprefix("# ") for nb in notebooks
    }
    texts = {nb.path.stem: "\n".join(c.source for c in markdown(nb)) for nb in notebooks}
    texts |= {page.name: page.read_text(encoding="utf-8") for page in pages if page.exists()}
    link = r"\[(\d[^\]]*)\]\((?:notebooks/)?([^)#/]+\.ipynb)(?:#[^)]*)?\)"
    for where, text in texts.items():
        for words, target in re.findall(link, text):
            title = titles.get(target, "no notebook of this folder")
            if words not in (title[:2], title):
                yield f"{where}: the link [{words}] leads to {target}, which is {title}"
    for name, title in list(titles.items())[1:]:
        if f"[{title}]({name})" not in texts[notebooks[0].path.stem]:
            yield f"{notebooks[0].path.stem}: its map lacks [{title}]({name})"


def headless_tables(*pages: Path) -> Iterator[str]:
    """Each column of a table in these Markdown files has a name."""
    for page in pages:
        for found in empty_headers(page.read_text(encoding="utf-8") if page.exists() else ""):
            yield f"{page.name}: {found}"


def lessons_without_a_notebook(notebooks: Iterable[NotebookNode]) -> Iterator[str]:
    """A folder of qlesson/teach/lessons belongs to the notebook of its number."""
    numbers = {nb.number for nb in notebooks}
    for kind in ("figures", "play", "exercises"):
        for number in sorted(set(lessons.files(kind)) - numbers):
            yield f"lessons/n{number}/{kind}.py belongs to no notebook"
