"""Slides from the notebooks' own cells: for each notebook one HTML file that fetches nothing.

Here a notebook becomes a row of blocks: headings, paragraphs, lists, code, outputs, pictures. The
script in slides.html shares them out over slides of 1280 x 720 in the browser that shows them. It
measures them there, so nothing overflows, whatever fonts that machine has. Formulas become
MathML, which browsers draw themselves.

Left out: cells tagged `more`, the space above a bet, what an exercise prints, links from page to
page, the code of a cell that does nothing but import, and the code of a picture.
"""

import ast
import html
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from qlesson.authoring.bets import is_space

PAGE = Path(__file__).with_name("slides.html")
FORMATTER = HtmlFormatter(nowrap=True, style="xcode")


class Renderer(IPythonRenderer):
    """Markdown as the notebook shows it, with MathML, and links from deck to deck."""

    def __init__(self) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)

    def inline_math(self, body: str) -> str:
        return convert(spaced(body))

    def block_math(self, body: str) -> str:
        return f"<p>{convert(spaced(body), display='block')}</p>\n"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if url.startswith("#") or url.endswith(".md"):
            return text
        return super().link(text, re.sub(r"\.ipynb(#.*)?$", ".html", url), title)

    def block_code(self, code: str, info: str | None = None) -> str:
        return lines_of(python(code) if info == "python" else html.escape(code), "code")


def spaced(body: str) -> str:
    """TeX with the space around a logarithm written out, which MathML does not add."""
    return re.sub(r" *(\\log(?:_\{?\w+\}?)?) *", r"\\,\1\\,", body)


def markdown(source: str) -> str:
    """The HTML of Markdown, without the line that links previous, contents and next."""
    source = re.sub(r"^\[(previous|contents)\]\(.*$", "", source, flags=re.M)
    source = source.replace("**Remember.** ", "## Remember\n\n")
    return MarkdownWithMath(renderer=Renderer()).render(source)


def python(source: str) -> str:
    return highlight(source, PythonLexer(), FORMATTER)


def lines_of(text: str, kind: str) -> str:
    """A block of lines, each an element, so that one too tall for a slide can be divided."""
    lines = "".join(f"<span>{line}\n</span>" for line in text.rstrip("\n").split("\n"))
    return f'<pre class="{kind}">{lines}</pre>\n'


def only_imports(source: str) -> bool:
    return all(isinstance(s, ast.Import | ast.ImportFrom) for s in ast.parse(source).body)


def outputs(cell: NotebookNode) -> Iterator[str]:
    """The HTML of what a cell prints and draws."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            image = "".join(data["image/png"].split())
            yield f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{image}">\n'
        elif "text/html" in data:
            yield data["text/html"]
        else:
            text = output.get("text") or data.get("text/plain", "")
            is_code = cell.source.startswith("show_source(")
            yield lines_of(python(text) if is_code else html.escape(text), "output")


def code(cell: NotebookNode) -> str:
    """The HTML of a code cell; of an exercise the stub alone."""
    shown = list(outputs(cell))
    source = lines_of(python(cell.source), "code")
    if re.search(r"^check\(", cell.source, flags=re.M):
        return source
    if only_imports(cell.source) or shown and all(part.startswith("<img") for part in shown):
        source = ""
    result = "".join(shown)
    if cell.metadata.get("jupyter", {}).get("outputs_hidden"):
        return f'{source}<div class="answer">\n{result}</div>\n'
    return source + result


def blocks(nb: NotebookNode) -> str:
    """The HTML of a notebook, block after block."""
    cells = [c for c in nb.cells if "more" not in c.metadata.get("tags", []) and not is_space(c)]
    return "".join(markdown(c.source) if c.cell_type == "markdown" else code(c) for c in cells)


def deck(nb: NotebookNode) -> str:
    """The text of the HTML file that shows a notebook as slides."""
    title = re.findall(r"\A# (.+)", nb.cells[0].source)[0]
    parts = {
        "TITLE": html.escape(title),
        "COLORS": FORMATTER.get_style_defs("pre"),
        "BLOCKS": blocks(nb),
    }
    page = PAGE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], page)


def main(folder: Path, names: Iterable[str] = (), to: Path = Path("build/slides")) -> int:
    """Write the decks of the named notebooks, or of all, into the folder `to`; return 0."""
    to.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        if path.name.startswith(tuple(names) or ""):
            text = deck(nbformat.read(path, as_version=4))
            file = to / f"{path.stem}.html"
            file.write_text(text, encoding="utf-8", newline="\n")
            print(f"{file}: {len(text.encode()) / 1000:.0f} kB")
    return 0
