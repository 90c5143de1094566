"""A number in a docstring, as in "(notebook NN)", is a promise: that notebook has the name.

A notebook has a name where its code uses it, where its text sets it as code, or where a module of
its lesson uses it. A module keeps the promise by its own name or that of something public in it.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nbformat import NotebookNode

import qlesson
from qlesson.authoring.lint.reading import code, markdown
from qlesson.teach import lessons

PACKAGE = Path(qlesson.__file__).parent


def promised(doc: str) -> Iterator[str]:
    """The numbers in "notebook NN", in "notebooks NN, NN and NN", and in "notebooks NN-NN"."""
    pattern = r"\bnotebooks?\s+(\d\d(?:(?:,|,? and|-| to)\s*\d\d)*)\b"
    for numbers in re.findall(pattern, doc):
        ends = re.fullmatch(r"(\d\d)(?:-| to )(\d\d)", numbers)
        if ends:
            yield from (f"{n:02d}" for n in range(int(ends[1]), int(ends[2]) + 1))
        else:
            yield from re.findall(r"\d\d", numbers)


def names_in(source: str) -> Iterator[str]:
    """Every name that code uses or imports, also as an attribute; not the ones it defines."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case ast.alias(name=name) | ast.ImportFrom(module=str(name)):
                yield from name.split(".")


def names_of(nb: NotebookNode) -> set[str]:
    """The names that a notebook has."""
    sources = [cell.source for cell in code(nb)]
    sources += [
        path.read_text(encoding="utf-8")
        for place in lessons.__path__
        for path in Path(place).glob(f"n{nb.number}/*.py")
    ]
    spans = [span for c in markdown(nb) for _, span in re.findall(r"(`+)(.+?)\1", c.source, re.S)]
    return {n for s in sources for n in names_in(s)} | set(re.findall(r"\w+", " ".join(spans)))


def documented(file: Path) -> Iterator[tuple[str, set[str], str]]:
    """Of a module and of all that it defines: name, names that keep its promises, docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    own = file.parent.name if file.stem in ("__init__", "__main__") else file.stem
    names = {getattr(n, "name", "_") for n in tree.body}
    public = {name for name in names if not name.startswith("_")}
    yield own, public | {own}, ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, {node.name}, ast.get_docstring(node) or ""


def broken_promises(notebooks: Iterable[NotebookNode], package: Path = PACKAGE) -> Iterator[str]:
    """The docstrings in a folder whose notebook does not have the name."""
    has = {nb.number: names_of(nb) for nb in notebooks}
    for file in sorted(package.rglob("*.py")):
        for name, any_of, doc in documented(file):
            for number in promised(doc):
                if not any_of & has.get(number, set()):
                    where = f"{file.relative_to(package)}: {name}"
                    yield f"{where} names notebook {number}, which has no such name"


def untagged_figures() -> Iterator[str]:
    """The pictures of a lesson that do not name its notebook first."""
    for number, file in lessons.files("figures").items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            if next(promised(ast.get_docstring(node) or ""), None) != number:
                where = f"lessons/n{number}/figures.py: {node.name}"
                yield f"{where} does not say (notebook {number}) first"
