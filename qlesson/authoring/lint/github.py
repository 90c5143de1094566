"""Rules of what GitHub shows, where a stored notebook is read first, and of links."""

import re
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from qlesson.authoring.lint.reading import (
    bundles,
    headings,
    markdown,
    read,
    rule,
    where,
    without_code,
)


@rule
def github_shows_it(nb: NotebookNode) -> Iterator[str]:
    html = r"<(?:details|style|script|iframe|svg)\b|<[^>]*\sstyle\s*="
    for cell in nb.cells:
        outputs = [d["text/html"] for d in bundles(cell) if "text/html" in d]
        for text in outputs + [without_code(cell.source)] * (cell.cell_type == "markdown"):
            for tag in re.findall(html, text, flags=re.I):
                yield f"{where(cell)}: GitHub does not show {tag}"
        if cell.cell_type == "markdown":
            for found in (*github_breaks(without_code(cell.source)), *empty_headers(cell.source)):
                yield f"{where(cell)}: {found}"


def github_breaks(text: str) -> Iterator[str]:
    if re.search(r"^\s*> *\[!", text, flags=re.M):
        yield "JupyterLab shows a > [!NOTE] raw"
    for macro in re.findall(r"\\(?:operatorname|mbox|phantom)\b", text):
        yield f"GitHub does not show {macro}"
    text = re.sub(r"\$\$.+?\$\$", "", text.replace(r"\$", ""), flags=re.S)
    if re.search(r"\\begin\{|\\\[|\\\(", text):
        yield "a displayed formula stands between $$ and $$, or GitHub does not show it"
    for line in text.split("\n"):
        formulas = line.split("$")[1::2]
        if line.count("$") % 2:
            yield f"an odd number of $, from a formula over two lines or a bare dollar: {line[:50]}"
        elif any(f != f.strip() or not f for f in formulas):
            yield f"GitHub shows no formula with a space beside its $: {line[:50]}"
        elif line.lstrip().startswith("|") and any("|" in f for f in formulas):
            yield rf"a | in a formula breaks the table, write \lvert x \rvert: {line[:50]}"


def empty_headers(text: str) -> Iterator[str]:
    """Tables with a column that has no name, which a screen reader could not say."""
    for head, _ in re.findall(r"^( *\|.+\|) *\n( *\|[ :|-]+\|) *$", text, flags=re.M):
        if not all(cell.strip() for cell in head.strip().strip("|").split("|")):
            yield f"an empty cell heads a column of a table: {head.strip()[:50]}"


def anchors(path: Path) -> set[str]:
    """The anchors of a notebook, in JupyterLab and on GitHub, or of a Markdown file on GitHub."""
    if path.suffix == ".ipynb":
        return {plain(title).replace(" ", "-") for _, _, title in headings(read(path))}
    titles = re.findall(r"^#{1,6} +(.+?)\s*#*$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", plain(t).lower()).replace(" ", "-") for t in titles}


def plain(title: str) -> str:
    return re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", title)


def broken_links(text: str, path: Path) -> Iterator[str]:
    """Links in Markdown `text` of the file `path` that lead nowhere."""
    for target in re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            yield f"{target} does not exist"
        elif anchor and file.suffix in (".ipynb", ".md") and anchor not in anchors(file):
            yield f"{name or 'this file'} has no heading for #{anchor}"


@rule
def links(nb: NotebookNode) -> Iterator[str]:
    for cell in markdown(nb):
        for found in broken_links(cell.source, nb.path):
            yield f"{where(cell)}: {found}"
        if re.search(r"\]\(<?\.\.", cell.source):
            yield f"{where(cell)} links out of notebooks/, which a reader's copy cannot follow"
