"""Slides from the notebooks' own cells: for each notebook one HTML file that fetches nothing.

Here a notebook becomes a row of blocks: headings, paragraphs, lists, code, outputs, pictures. The
script in slides.html shares them out over slides of 1280 x 720 in the browser that shows them. It
measures them there, so nothing overflows, whatever fonts that machine has. Formulas become
MathML, which browsers draw themselves.

Left out: cells tagged `more`, what an exercise prints, links from page to page, the code of a cell
that does nothing but import, and the code of a picture.
"""

import ast
import html
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

PAGE = Path(__file__).with_name("slides.html")
FORMATTER = HtmlFormatter(nowrap=True, style="xcode")


class Renderer(IPythonRenderer):
    """Markdown as the notebook shows it, with MathML, and links from deck to deck."""

    def __init__(self):
        super().__init__(escape=False, exclude_anchor_links=True)

    def inline_math(self, body):
        return convert(spaced(body))

    def block_math(self, body):
        return f"<p>{convert(spaced(body), display='block')}</p>\n"

    def link(self, text, url, title=None):
        if url.startswith("#") or url.endswith(".md"):
            return text
        return super().link(text, re.sub(r"\.ipynb(#.*)?$", ".html", url), title)

    def block_code(self, code, info=None):
        return lines_of(python(code) if info == "python" else html.escape(code), "code")


def spaced(body):
    """TeX with the space around a logarithm written out, which MathML does not add."""
    return re.sub(r" *(\\log(?:_\{?\w+\}?)?) *", r"\\,\1\\,", body)


def markdown(source):
    """The HTML of Markdown, without the line that links previous, contents and next."""
    source = re.sub(r"^\[(previous|contents)\]\(.*$", "", source, flags=re.M)
    source = source.replace("**Remember.** ", "## Remember\n\n")
    return MarkdownWithMath(renderer=Renderer()).render(source)


def python(source):
    return highlight(source, PythonLexer(), FORMATTER)


def lines_of(text, kind):
    """A block of lines, each an element, so that one too tall for a slide can be divided."""
    lines = "".join(f"<span>{line}\n</span>" for line in text.rstrip("\n").split("\n"))
    return f'<pre class="{kind}">{lines}</pre>\n'


def only_imports(source):
    return all(isinstance(s, ast.Import | ast.ImportFrom) for s in ast.parse(source).body)


def outputs(cell):
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


def code(cell):
    """The HTML of a code cell; of an exercise the stub alone."""
    found = list(outputs(cell))
    source = lines_of(python(cell.source), "code")
    if re.search(r"^check\(", cell.source, flags=re.M):
        return source
    if only_imports(cell.source) or found and all(part.startswith("<img") for part in found):
        source = ""
    found = "".join(found)
    if cell.metadata.get("jupyter", {}).get("outputs_hidden"):
        return f'{source}<div class="answer">\n{found}</div>\n'
    return source + found


def blocks(nb):
    """The HTML of a notebook, block after block."""
    cells = [c for c in nb.cells if "more" not in c.metadata.get("tags", [])]
    return "".join(markdown(c.source) if c.cell_type == "markdown" else code(c) for c in cells)


def deck(nb):
    """The text of the HTML file that shows a notebook as slides."""
    title = re.match(r"# (.+)", nb.cells[0].source)[1]
    parts = {
        "TITLE": html.escape(title),
        "COLORS": FORMATTER.get_style_defs("pre"),
        "BLOCKS": blocks(nb),
    }
    page = PAGE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], page)


def main(folder, names=(), to=Path("build/slides")):
    """Write the decks of the named notebooks, or of all, into the folder `to`; return 0."""
    to.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        if path.name.startswith(tuple(names) or ""):
            text = deck(nbformat.read(path, as_version=4))
            file = to / f"{path.stem}.html"
            file.write_text(text, encoding="utf-8", newline="\n")
            print(f"{file}: {len(text.encode()) / 1000:.0f} kB")
    return 0
