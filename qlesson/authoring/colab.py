"""The notebooks as Google's Colab opens them: one cell more, and no link to a neighbouring file.

Colab opens a notebook alone, on a machine that has torch and matplotlib, so the first cell installs
the course and changes nothing else there. A workflow puts the folder on the branch colab.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

import qlesson
from qlesson.authoring import address
from qlesson.authoring.lint import load
from qlesson.authoring.lint.reading import headings

INSTALL = f"%pip install -q qlesson=={qlesson.__version__}"


def cells_of(nb: NotebookNode) -> dict[str, str]:
    """{anchor of a heading: id of its cell}, by which Colab finds a place in a notebook."""
    return {title.replace(" ", "-"): nb.cells[n].id for n, _, title in headings(nb)}


def linked(text: str, own: str, places: dict[str, dict[str, str]]) -> str:
    """Markdown with each link to a file of the course, or a place in it, as a whole address.

    own     the name of the notebook that the text is from
    places  {name of a notebook: `cells_of` it}
    """

    def whole(match: re.Match[str]) -> str:
        name, _, anchor = match[1].partition("#")
        if name and name not in places:
            return f"]({address.page(f'notebooks/{match[1]}')})"
        place = f"#scrollTo={places[name or own][anchor]}" if anchor else ""
        return f"]({address.colab(name) if name else ''}{place})"

    return re.sub(r"\]\((?![a-z]+:)([^)\s]+)\)", whole, text)


def converted(nb: NotebookNode, places: dict[str, dict[str, str]]) -> NotebookNode:
    """The notebook with the cell that installs, and with whole links."""
    here = re.escape(f" · [Colab]({address.colab(nb.path.name)})")
    for cell in nb.cells:
        cell.metadata["id"] = cell.id  # the name that #scrollTo= goes by
        if cell.cell_type == "markdown":
            cell.source = linked(re.sub(here, "", cell.source), nb.path.name, places)
    nb.cells.insert(0, new_code_cell(INSTALL, id="install"))
    nb.metadata["colab"] = {"toc_visible": True}
    return nb


def all_converted(folder: Path) -> Iterator[tuple[str, str]]:
    """(name of the file, its text) of each notebook in the folder, as Colab gets it."""
    notebooks = load(folder)
    places = {nb.path.name: cells_of(nb) for nb in notebooks}
    for nb in notebooks:
        name = nb.path.name
        made = converted(nb, places)
        for ours in ("path", "number"):
            del made[ours]
        yield name, nbformat.writes(made) + "\n"


def main(folder: Path, to: Path = Path("build/colab")) -> int:
    """Write the notebooks into the folder `to`; return 0."""
    to.mkdir(parents=True, exist_ok=True)
    for name, text in all_converted(folder):
        (to / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{to}: as Colab opens them")
    return 0
