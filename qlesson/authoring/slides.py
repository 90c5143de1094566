"""Slides from the notebooks' own cells: for each notebook one HTML file that fetches nothing.

Here a notebook becomes a row of blocks: headings, paragraphs, lists, code, outputs, pictures. The
script in slides.html shares them out over slides of 1280 x 720 in the browser that shows them. It
measures them there, so nothing overflows, whatever fonts that machine has. Formulas become
MathML, which browsers draw themselves.

The vote of teaching.md stands where teaching_minutes.md has it. What these say to do and to draw
is in the speaker's notes.

Left out: cells tagged `more`, the space above a bet, what an exercise prints, links from page to
page, imports, the code of a picture, and of a docstring all but its first line.
"""

import ast
import html
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from qlesson.authoring import refresh, teaching
from qlesson.authoring.bets import is_space
from qlesson.authoring.reading import alt_of, is_caption, without_running

PAGE = Path(__file__).with_name("slides.html")
FINE = "200"  # dots per inch of pictures that are drawn for a large screen
HEADING = r"<h([1-3])>(.*?)</h\1>"
FORMATTER = HtmlFormatter(nowrap=True, style="xcode")
WHERE = """<p class="where">In JupyterLab: notebook {0}, under Play, <code>play("{0}")</code></p>
"""


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
    """The HTML of Markdown, without what helps to use a page: links, and words about cells."""
    source = without_running(source)
    source = re.sub(r"^## Exercises\n\n(?!#).*$", "", source, flags=re.M)
    source = re.sub(r"^## Play\n\n(.*?\?)", asking, source, flags=re.M | re.S)
    source = source.replace("**Remember.** ", "## Remember\n\n")
    return MarkdownWithMath(renderer=Renderer()).render(source)


def asking(play: re.Match[str]) -> str:
    """The heading of a live figure with the first question below it."""
    question = re.split(r"(?:(?<=\.)|(?<=\.\)))\s+", play[1])[-1]
    return f"## Play: {question}\n\n{play[1]}"


def python(source: str) -> str:
    return highlight(source, PythonLexer(), FORMATTER)


def lines_of(text: str, kind: str) -> str:
    """A block of lines, each an element, so that one too tall for a slide can be divided."""
    lines = "".join(f"<span>{line}\n</span>" for line in text.rstrip("\n").split("\n"))
    return f'<pre class="{kind}">{lines}</pre>\n'


def shown_code(source: str) -> str:
    """Code without imports, without what shows pictures or functions, and double blank lines."""
    lines: list[str | None] = list(source.split("\n"))
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or shows(statement):
            first, last = statement.lineno - 1, statement.end_lineno
            lines[first:last] = [None] * len(lines[first:last])
    left = "\n".join(line for line in lines if line is not None)
    return re.sub(r"\n{3,}", "\n\n", left).strip("\n")


def shows(statement: ast.stmt) -> bool:
    """Whether it calls `show` or `show_source`, whose results speak for themselves."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    name = call.func if isinstance(call, ast.Call) else None
    return isinstance(name, ast.Name) and name.id in ("show", "show_source")


def short(function: str) -> str:
    """The source of a function with the first line of its docstring, without the notebooks."""
    function = re.sub(r" +\(notebooks? [\d, ]+\)\.?", "", function)
    return re.sub(r'"""([^"\n]+)\n.*?"""', r'"""\1 [...]"""', function, flags=re.S)


def outputs(cell: NotebookNode) -> Iterator[str]:
    """The HTML of what a cell prints and draws."""
    alt = ""
    for output in cell.outputs:
        data = output.get("data", {})
        if is_caption(output, alt):
            continue
        if "image/png" in data:
            alt = alt_of(output)
            image = "".join(data["image/png"].split())
            yield f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{image}">\n'
        elif "text/html" in data:
            yield data["text/html"]
        else:
            text = output.get("text") or data.get("text/plain", "")
            has_source = "show_source(" in cell.source
            shown = python(short(text)) if has_source else html.escape(text)
            yield lines_of(shown, "output")


def code(cell: NotebookNode) -> str:
    """The HTML of a code cell; of an exercise the function to write or repair, and no more."""
    shown, text = list(outputs(cell)), shown_code(cell.source)
    source = lines_of(python(text), "code") if text else ""
    if re.search(r"^check\(", text, flags=re.M):
        return source if text.startswith("def ") else ""
    if shown and all(part.startswith("<img") for part in shown):
        source = ""
    result = "".join(shown)
    if live := re.fullmatch(r'play\("(\d\d)"\)', text):
        result += WHERE.format(live[1])
    if cell.metadata.get("jupyter", {}).get("outputs_hidden"):
        return f'{source}<div class="answer">\n{result}</div>\n'
    return source + result


def noted(words: str) -> str:
    """An attribute of a heading: notes for its slides, which the speaker alone sees."""
    return f' data-notes="{html.escape(words)}"'


def vote(asked: teaching.Vote) -> str:
    """A vote as two slides: the question, and the same with the idea behind each answer."""
    plain, told = [], []
    for letter, text, idea, right in asked.answers:
        plain.append(f"- **{letter}** {text}")
        mark = f"**{letter} {text}\N{NO-BREAK SPACE}✓**" if right else f"{letter} {text} *{idea}*"
        told.append(f"- {mark}")
    question = MarkdownWithMath(renderer=Renderer()).render(asked.question)
    title = question.strip().removeprefix("<p>").removesuffix("</p>")
    before = noted("Everybody votes, by hand or with a colour, before anything is explained.")
    after = noted("Talk about the answer that most hands chose.")
    return (
        f"<h2{before}>Vote: {title}</h2>\n{markdown(chr(10).join(plain))}"
        f"<h2{after}>Vote: {title}</h2>\n{markdown(chr(10).join(told))}"
    )


def blocks(nb: NotebookNode, page: str = "", minutes: str = "") -> str:
    """The HTML of a notebook, block after block; teaching.md and teaching_minutes.md as texts."""
    cells = [c for c in nb.cells if "more" not in c.metadata.get("tags", []) and not is_space(c)]
    parts = [markdown(c.source) if c.cell_type == "markdown" else code(c) for c in cells]
    number = nb.cells[0].source[2:4]
    made, steps = "".join(parts), teaching.steps(minutes, number)
    if asked := teaching.vote(page, number):
        places = {section_of(found): found.start() for found in re.finditer(HEADING, made)}
        before = [section for section, what in steps if f"**Vote {number}**" in what]
        sections = [name for name in (*before, *list(places)[1:]) if name in places]
        place = places[sections[0]] if sections else len(made)
        made = made[:place] + vote(asked) + made[place:]
    if drawn := teaching.drawing(page, number):
        steps.append(("the top", f"To draw on the board: {drawn}"))
    return re.sub(HEADING, lambda found: with_notes(found, steps), made)


def section_of(heading: re.Match[str]) -> str:
    """What teaching_minutes.md calls the section that this heading begins."""
    title = html.unescape(re.sub(r"<[^>]+>", "", heading[2]))
    title = re.sub(r"^Exercise .*", "Exercises", re.sub(r"^Play: .*", "Play", title))
    return "the top" if heading[1] == "1" else title


def with_notes(heading: re.Match[str], steps: Iterable[tuple[str, str]]) -> str:
    words = [what for name, what in steps if name == section_of(heading)]
    plain = re.sub(r"[*`$]", "", "\n".join(words))
    return f"<h{heading[1]}{noted(plain) if plain else ''}>{heading[2]}</h{heading[1]}>"


def deck(nb: NotebookNode, page: str = "", minutes: str = "") -> str:
    """The text of the HTML file that shows a notebook as slides; arguments as for `blocks`."""
    title = re.findall(r"\A# (.+)", nb.cells[0].source)[0]
    parts = {
        "TITLE": html.escape(title),
        "COLORS": FORMATTER.get_style_defs("pre"),
        "BLOCKS": blocks(nb, page, minutes),
    }
    frame = PAGE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], frame)


def main(
    folder: Path,
    names: Sequence[str] = (),
    to: Path = Path("build/slides"),
    draw: bool = False,
) -> int:
    """Write the decks of the named notebooks, or of all, into the folder `to`; return 0, or 1 where
    a name is none of a notebook.

    draw  run the notebooks first, so that their pictures are drawn for the size of a slide
    """
    paths = refresh.named(folder, names)
    if draw:
        os.environ["QLESSON_DPI"] = FINE
    to.mkdir(parents=True, exist_ok=True)
    teachers = [folder / name for name in ("teaching.md", "teaching_minutes.md")]
    pages = [path.read_text(encoding="utf-8") for path in teachers]
    for path in paths:
        stored = refresh.run(path) if draw else path.read_text(encoding="utf-8")
        text = deck(nbformat.reads(stored, as_version=4), *pages)
        file = to / f"{path.stem}.html"
        file.write_text(text, encoding="utf-8", newline="\n")
        print(f"{file}: {len(text.encode()) / 1000:.0f} kB")
    return 0 if paths else 1
