"""The rules of the notebooks, one short function each. `make lint` and the tests apply them.

cells.py, github.py, shape.py   rules of one notebook: its cells, what GitHub shows, its parts
bets.py                         and how its bets keep their answers
whole.py, tags.py               rules of all of them: README.md, docstrings
repeats.py                      advice, which fails nothing: sentences that repeat
reading.py, sizes.py            what the rules read of a notebook, and how long it is
"""

from pathlib import Path

from nbformat import NotebookNode

from qlesson.authoring.lint import bets, cells, github, repeats, shape, tags, whole  # noqa: F401  rules
from qlesson.authoring.lint.reading import RULES, load, read
from qlesson.authoring.lint.sizes import table

__all__ = ["RULES", "load", "main", "notebook_problems", "problems", "read"]


def notebook_problems(nb: NotebookNode) -> list[str]:
    return [f"{nb.path.stem}: {found}" for check in RULES for found in check(nb)]


def problems(folder: Path, readme: Path) -> list[str]:
    """Everything that is wrong with the notebooks in `folder`, one line each."""
    notebooks = load(folder)
    found = [p for nb in notebooks for p in notebook_problems(nb)]
    return found + [
        *whole.readme_map(notebooks, readme),
        *whole.named_by_titles(notebooks, readme, *sorted(folder.glob("*.md"))),
        *whole.headless_tables(readme, *sorted(folder.glob("*.md"))),
        *whole.lessons_without_a_notebook(notebooks),
        *tags.broken_promises(notebooks),
        *tags.untagged_figures(),
    ]


def main(folder: Path, readme: Path) -> int:
    notebooks = load(folder)
    print(table(notebooks))
    for line in (*shape.other_counts(notebooks), *repeats.repeated_sentences(notebooks)):
        print(f"advice: {line}")
    found = problems(folder, readme)
    print("\n".join(found or ["The notebooks keep the rules."]))
    return int(bool(found))
