"""A bet in a notebook: a question, a space, a cell whose stored output is folded, and its answer.

In JupyterLab custom.css of qlesson/course hides the answer while the output is folded. GitHub folds
nothing, so a space as high as a screen stands between, which JupyterLab shows as its one sentence.
`refresh` puts it in its place.
"""

from collections.abc import Iterable, Iterator

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

SPACE = (
    "*Write your letter down, then run the next cell: the answer follows it. "
    "(Where nothing is folded, as on GitHub, an empty screen comes first.)*\n\n" + "<br>" * 40
)
MARK = "space-"  # with this the id of a space begins
AFTER_A_BET = 8  # cells between a bet and the next heading, at most, which custom.css hides


def is_bet(cell: NotebookNode) -> bool:
    """Whether it is the cell that a reader runs to see who wins."""
    folded = cell.metadata.get("jupyter", {}).get("outputs_hidden", False)
    return cell.cell_type == "code" and folded


def is_space(cell: NotebookNode) -> bool:
    return str(cell.get("id", "")).startswith(MARK)


def spaced(cells: Iterable[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells with a space before each bet, and nowhere else."""
    for cell in cells:
        if is_bet(cell):
            yield new_markdown_cell(SPACE, id=f"{MARK}{cell.id}"[:64])
        if not is_space(cell):
            yield cell
