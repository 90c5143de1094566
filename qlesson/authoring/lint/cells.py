"""Rules of cells: what a code cell may hold, and how its outputs are stored."""

import dis
import re
from collections.abc import Iterator
from itertools import zip_longest
from types import CodeType

import nbformat
from nbformat import NotebookNode

from qlesson.authoring import refresh
from qlesson.authoring.lint.reading import bundles, code, markdown, prose, rule, where
from qlesson.authoring.reading import alt_of, is_caption

MAX_KB = 300
MAX_KB_OF: dict[str, int] = {}  # name: kB, at most 500, where figures earn it
# Cells that nbval does not compare, (name, cell id): reason. The one list of them.
NOT_COMPARED: dict[tuple[str, str], str] = {}


@rule
def counts(nb: NotebookNode) -> Iterator[str]:
    """A cell without a count is one that nbval never compares."""
    stored = [c.execution_count for c in code(nb)]
    if stored != list(range(1, len(stored) + 1)):
        yield f"execution counts are {stored}, not 1, 2, 3 ...: make refresh N={nb.number}"


@rule
def stored_by_refresh(nb: NotebookNode) -> Iterator[str]:
    """No editor has left its own metadata, such as the version of Python."""
    text = nb.path.read_text(encoding="utf-8")
    if text != nbformat.writes(refresh.tidy(nbformat.reads(text, as_version=4))) + "\n":
        yield f"is not as refresh stores it: make refresh N={nb.number}"


@rule
def clean_outputs(nb: NotebookNode) -> Iterator[str]:
    if "widgets" in nb.metadata:
        yield f"stores widget state: make refresh N={nb.number}"
    for cell in code(nb):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{where(cell)} stores an error: {output.ename}"
            if output.get("name") == "stderr":
                yield f"{where(cell)} writes to stderr: {output.text.strip()[:60]}"
        for data in bundles(cell):
            if "image/svg+xml" in data:
                yield f"{where(cell)} stores an SVG, which untrusted notebooks hide"
            if any("widget" in mime for mime in data):
                yield f"{where(cell)} stores a widget view: make refresh N={nb.number}"


@rule
def pictures_have_facts(nb: NotebookNode) -> Iterator[str]:
    """nbval compares no pixels, so each picture brings its facts as text."""
    for cell in code(nb):
        for data in bundles(cell):
            if "image/png" in data and len(data.get("text/plain", "")) < 60:
                yield f"{where(cell)} shows a picture without facts in text/plain: use show()"


@rule
def pictures_speak(nb: NotebookNode) -> Iterator[str]:
    """Below each picture stands its sentence, or the first of its sentences, and nowhere else."""
    told = {one_line(s) for c in markdown(nb) for s in re.split(r"(?<=[.?!:])\s+", prose(c.source))}
    for cell in code(nb):
        for output, below in zip_longest(cell.outputs, cell.outputs[1:]):
            if "image/png" not in output.get("data", {}):
                continue
            if not (below and is_caption(below, alt_of(output))):
                yield f"{where(cell)} shows a picture without its sentence below it: use show()"
            elif one_line(below.data["text/plain"]) in told:
                yield f"{where(cell)}: the sentence below the picture stands in the text too"


def one_line(text: str) -> str:
    return " ".join(text.lower().split())


ADDRESS = re.compile(
    r"0x[0-9a-f]{7,}|\blocalhost\b|127\.0\.0\.1|site-packages|\b[A-Z]:\\+(?:Users|Windows)"
    r"|(?<![\w.~/-])/(?:home|root|work|tmp|Users|opt|var)/\w+"
)


@rule
def no_addresses(nb: NotebookNode) -> Iterator[str]:
    for cell in nb.cells:
        texts = [cell.source]
        texts += [o.text for o in cell.get("outputs", []) if "text" in o]
        texts += [t for d in bundles(cell) for m, t in d.items() if m.startswith("text/")]
        for found in sorted({f for t in texts for f in ADDRESS.findall(t)}):
            yield f"{where(cell)} holds an address or a machine's path: {found}"


@rule
def small_file(nb: NotebookNode) -> Iterator[str]:
    limit = MAX_KB_OF.get(nb.path.stem, MAX_KB)
    size = nb.path.stat().st_size / 1000
    if size > limit:
        yield f"is {size:.0f} kB, over {limit}"


@rule
def no_cell_is_empty(nb: NotebookNode) -> Iterator[str]:
    """JupyterLab shows an empty text as a place to click, and waits for it."""
    for cell in nb.cells:
        if not cell.source.strip():
            yield f"has an empty {cell.cell_type} cell"


@rule
def short_code(nb: NotebookNode) -> Iterator[str]:
    for cell in code(nb):
        lines = cell.source.split("\n")
        if len(lines) > 15:
            yield f"{where(cell)} has {len(lines)} lines, over 15"
        if max(map(len, lines)) > 79:
            yield f"{where(cell)} has a line of {max(map(len, lines))} columns, over 79"


@rule
def cells_can_run_again(nb: NotebookNode) -> Iterator[str]:
    """A reader who shows a figure once more gets the same: its names keep their values below."""
    names = [(cell, *taken_and_bound(compile(cell.source, "", "exec"))) for cell in code(nb)]
    above: set[str] = set()
    for number, (cell, taken, bound) in enumerate(names):
        for later, _, anew in names[number:]:
            for name in sorted(taken & above & anew):
                yield f'{where(later)} binds "{name}" anew, which {where(cell)} takes from above'
        above |= bound


def taken_and_bound(program: CodeType) -> tuple[set[str], set[str]]:
    """The names that a cell reads before it has bound them, and those that it binds.

    A function reads its global names when it is called: at the end, at the latest.
    """
    taken: set[str] = set()
    bound: set[str] = set()
    for step in dis.get_instructions(program):
        if step.opname == "STORE_NAME":
            bound.add(step.argval)
        elif step.opname == "LOAD_NAME" and step.argval not in bound:
            taken.add(step.argval)
    return taken | (set(globals_in(program)) - bound), bound


def globals_in(program: CodeType) -> Iterator[str]:
    """The global names that its functions read."""
    for part in program.co_consts:
        if isinstance(part, CodeType):
            yield from (s.argval for s in dis.get_instructions(part) if s.opname == "LOAD_GLOBAL")
            yield from globals_in(part)


@rule
def compared_by_nbval(nb: NotebookNode) -> Iterator[str]:
    for cell in code(nb):
        marks = [t for t in cell.metadata.get("tags", []) if re.match(r"nbval|raises-exception", t)]
        marks += re.findall(r"^\s*#.*?\b(?:PYTEST_VALIDATE|NBVAL)_\w+", cell.source, flags=re.M)
        if marks and (nb.path.stem, cell.id) not in NOT_COMPARED:
            yield f"{where(cell)} has {marks[0].strip()}, and NOT_COMPARED no reason for it"
