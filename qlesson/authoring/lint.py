"""The rules of the notebooks. Each takes one notebook and yields what is wrong with it.

`problems(folder)` applies them all, and the two that need every notebook at once. The tests and
`make lint` both call it. GitHub's limits are here because a stored notebook is read there first.
"""

import re
import statistics
from pathlib import Path

import nbformat

from qlesson.authoring import refresh

MAX_KB = 300
MAX_KB_OF = {}  # name: kB, at most 500, where figures earn it
# Cells that nbval does not compare, (name, cell id): reason. The one list of them.
NOT_COMPARED = {}
# Sentences that may stand in two notebooks, normalised as `sentences` does: reason.
MAY_REPEAT = {}

RULES = []


def rule(check):
    RULES.append(check)
    return check


# --- reading a notebook ---------------------------------------------------------------------------


def read(path):
    nb = nbformat.read(path, as_version=4)
    nb.path = Path(path)
    nb.number = nb.path.name[:2]
    return nb


def code(nb):
    return [c for c in nb.cells if c.cell_type == "code"]


def markdown(nb):
    return [c for c in nb.cells if c.cell_type == "markdown"]


def bundles(cell):
    return [o.data for o in cell.get("outputs", []) if "data" in o]


def where(cell):
    line = cell.source.strip().split("\n")[0]
    return f'cell "{line[:50]}"'


def without_code(text):
    """Markdown without its code, fenced or inline."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "code", text)


def prose(text):
    """Markdown as it is read aloud: no markup, no link targets; a formula is one word."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S).replace("`", "")
    text = re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$", "formula", text, flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"<[^>\n]+>|[*_#]|^\s*>", "", text, flags=re.M)


def words(text):
    return re.findall(r"\w+(?:['’.,-]\w+)*", prose(text))


def headings(nb):
    """(cell number, level, text) of every heading."""
    for number, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.M | re.S)
            for marks, title in re.findall(r"^(#{1,6}) +(.+?)\s*#*$", text, flags=re.M):
                yield number, len(marks), title


def section(nb, start, level):
    """The cells from number `start` up to the next heading of that level or a higher one."""
    ends = [n for n, depth, _ in headings(nb) if n > start and depth <= level]
    return nb.cells[start : min(ends, default=len(nb.cells))]


# --- outputs as stored ----------------------------------------------------------------------------


@rule
def counts(nb):
    """A cell without a count is one that nbval never compares."""
    found = [c.execution_count for c in code(nb)]
    if found != list(range(1, len(found) + 1)):
        yield f"execution counts are {found}, not 1, 2, 3 ...: make refresh N={nb.number}"


@rule
def stored_by_refresh(nb):
    """No editor has left its own metadata, such as the version of Python."""
    text = nb.path.read_text(encoding="utf-8")
    if text != nbformat.writes(refresh.tidy(nbformat.reads(text, as_version=4))) + "\n":
        yield f"is not as refresh stores it: make refresh N={nb.number}"


@rule
def clean_outputs(nb):
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
def pictures_have_facts(nb):
    """nbval compares no pixels, so each picture brings its facts as text."""
    for cell in code(nb):
        for data in bundles(cell):
            if "image/png" in data and len(data.get("text/plain", "")) < 60:
                yield f"{where(cell)} shows a picture without facts in text/plain: use show()"


ADDRESS = re.compile(
    r"0x[0-9a-f]{7,}|\blocalhost\b|127\.0\.0\.1|site-packages|\b[A-Z]:\\+(?:Users|Windows)"
    r"|(?<![\w.~/-])/(?:home|root|work|tmp|Users|opt|var)/\w+"
)


@rule
def no_addresses(nb):
    for cell in nb.cells:
        texts = [cell.source]
        texts += [o.text for o in cell.get("outputs", []) if "text" in o]
        texts += [t for d in bundles(cell) for m, t in d.items() if m.startswith("text/")]
        for found in sorted({f for t in texts for f in ADDRESS.findall(t)}):
            yield f"{where(cell)} holds an address or a machine's path: {found}"


@rule
def small_file(nb):
    limit = MAX_KB_OF.get(nb.path.stem, MAX_KB)
    size = nb.path.stat().st_size / 1000
    if size > limit:
        yield f"is {size:.0f} kB, over {limit}"


@rule
def short_code(nb):
    for cell in code(nb):
        lines = cell.source.split("\n")
        if not cell.source.strip():
            yield "has an empty code cell"
        if len(lines) > 15:
            yield f"{where(cell)} has {len(lines)} lines, over 15"
        if max(map(len, lines)) > 79:
            yield f"{where(cell)} has a line of {max(map(len, lines))} columns, over 79"


@rule
def compared_by_nbval(nb):
    for cell in code(nb):
        marks = [t for t in cell.metadata.get("tags", []) if re.match(r"nbval|raises-exception", t)]
        marks += re.findall(r"^\s*#.*?\b(?:PYTEST_VALIDATE|NBVAL)_\w+", cell.source, flags=re.M)
        if marks and (nb.path.stem, cell.id) not in NOT_COMPARED:
            yield f"{where(cell)} has {marks[0].strip()}, and NOT_COMPARED no reason for it"


# --- what GitHub shows ----------------------------------------------------------------------------


@rule
def github_shows_it(nb):
    html = r"<(?:details|style|script|iframe|svg)\b|<[^>]*\sstyle\s*="
    for cell in nb.cells:
        outputs = [d["text/html"] for d in bundles(cell) if "text/html" in d]
        for text in outputs + [without_code(cell.source)] * (cell.cell_type == "markdown"):
            for found in re.findall(html, text, flags=re.I):
                yield f"{where(cell)}: GitHub does not show {found}"
        if cell.cell_type == "markdown":
            for found in github_breaks(without_code(cell.source)):
                yield f"{where(cell)}: {found}"


def github_breaks(text):
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


def anchors(path):
    """The anchors of a notebook, in JupyterLab and on GitHub, or of a Markdown file on GitHub."""
    if path.suffix == ".ipynb":
        return {plain(title).replace(" ", "-") for _, _, title in headings(read(path))}
    found = re.findall(r"^#{1,6} +(.+?)\s*#*$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", plain(t).lower()).replace(" ", "-") for t in found}


def plain(title):
    return re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", title)


def broken_links(text, path):
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
def links(nb):
    for cell in markdown(nb):
        for found in broken_links(cell.source, nb.path):
            yield f"{where(cell)}: {found}"
        if re.search(r"\]\(<?\.\.", cell.source):
            yield f"{where(cell)} links out of notebooks/, which a reader's copy cannot follow"


# --- how a notebook is made -----------------------------------------------------------------------


@rule
def top(nb):
    if not nb.cells or nb.cells[0].cell_type != "markdown":
        yield "does not begin with a Markdown cell"
        return
    text = nb.cells[0].source
    if not re.match(rf"# {nb.number} \S", text):
        yield f'begins with "{text[:30]}", not with "# {nb.number} Title"'
    if sum(level == 1 for _, level, _ in headings(nb)) > 1:
        yield "has more than one heading of the first level"
    _, able, after = text.partition("**You will be able to**")
    if len(re.findall(r"^[-*] ", after.split("**Needs")[0], flags=re.M)) != 3:
        yield "**You will be able to** is not followed by three points, in the first cell"
    if "**Needs:**" not in text:
        yield "says no **Needs:** in the first cell"
    names = sorted(p.name for p in nb.path.parent.glob("[0-9][0-9]_*.ipynb"))
    here = names.index(nb.path.name)
    wanted = {"previous": names[here - 1] if here else None, "next": (names + [None])[here + 1]}
    wanted["contents"] = "00_start_here.ipynb" if nb.number != "00" else None
    for label, target in wanted.items():
        if target and f"[{label}]({target})" not in text:
            yield f"the first cell lacks [{label}]({target})"


@rule
def stated_minutes(nb):
    stated = re.search(r"[Aa]bout (\d+) minutes", nb.cells[0].source if nb.cells else "")
    if not stated:
        yield 'the first cell does not say "About N minutes"'
    elif int(stated[1]) != minutes(nb):
        yield f"says about {stated[1]} minutes, and its length says {minutes(nb)}"


@rule
def predictions(nb):
    """The answer is folded in JupyterLab until it is run."""
    bets = [(n, level) for n, level, title in headings(nb) if "predict" in title.lower()]
    if not bets:
        yield 'has no heading with "Predict"'
    for number, level in bets:
        answers = [c for c in section(nb, number, level) if c.cell_type == "code"]
        if not any(c.metadata.get("jupyter", {}).get("outputs_hidden") for c in answers):
            yield f"{where(nb.cells[number])}: no code cell under it has jupyter.outputs_hidden"


@rule
def answers_stay_folded(nb):
    """JupyterLab shows the first line of a folded output beside the fold: it must not tell."""
    for cell in code(nb):
        if not cell.metadata.get("jupyter", {}).get("outputs_hidden") or not cell.outputs:
            continue
        output = cell.outputs[0]
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        first = next((line for line in text.split("\n") if line), "")
        if not re.fullmatch(r"\D*:\s*", first):
            yield (
                f"{where(cell)}: JupyterLab shows the first line of a folded output; print a label "
                f'that ends in ":", not "{first[:40]}"'
            )


@rule
def parts(nb):
    titles = {title: number for number, level, title in headings(nb) if level == 2}
    if not any("image/png" in d for c in code(nb) for d in bundles(c)):
        yield "has no picture"
    if nb.number != "00":
        for title in ("Exercises", "References") + ("Play",) * (nb.number <= "06"):
            if title not in titles:
                yield f'has no heading "## {title}"'
        text = "\n".join(c.source for c in markdown(nb))
        for mark in ("**Remember.**", "**Next.**"):
            if mark not in text:
                yield f"does not end with {mark}"


@rule
def more_is_tagged(nb):
    inside = []
    for number, level, title in headings(nb):
        if level == 2 and title.startswith("More"):
            inside += [c.id for c in section(nb, number, 2)]
    for cell in nb.cells:
        tagged = "more" in cell.metadata.get("tags", [])
        if tagged != (cell.id in inside):
            yield f'{where(cell)}: the tag "more" and the section "## More" disagree'


def exercises(nb):
    """(number, minutes or None) of each exercise."""
    for number, _, title in headings(nb):
        if title.startswith("Exercise "):
            text = nb.cells[number].source.partition(title)[2]
            stated = re.search(r"· *(\d+) minutes?\b", text)
            yield title.split()[1], int(stated[1]) if stated else None


@rule
def exercises_are_numbered(nb):
    found = list(exercises(nb))
    wanted = [f"{int(nb.number)}.{i + 1}" for i in range(len(found))]
    if [name for name, _ in found] != wanted:
        yield f"exercises are numbered {[name for name, _ in found]}, not {wanted}"
    if nb.number != "00" and not found:
        yield 'has no "### Exercise N.1 Title"'
    for name, stated in found:
        if stated is None:
            yield f'exercise {name} has no line "difficulty · N minutes"'


# --- sizes ----------------------------------------------------------------------------------------


def minutes(nb):
    """200 words of Markdown a minute, 20 s a code cell, the exercises as stated; to 5 minutes."""
    text = sum(len(words(c.source)) for c in markdown(nb))
    exact = text / 200 + len(code(nb)) / 3 + sum(m or 0 for _, m in exercises(nb))
    return max(5, 5 * round(exact / 5))


def sizes(nb):
    """The sizes that course.md's medians are compared with."""
    gaps, gap = [], 0
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            gap += len(words(cell.source))
        elif cell.outputs:
            gaps.append(gap)
            gap = 0
    lines = [len(c.source.split("\n")) for c in code(nb)] or [0]
    return {
        "words": sum(len(words(c.source)) for c in markdown(nb)),
        "cells": len(nb.cells),
        "code": len(code(nb)),
        "lines": f"{statistics.median(lines):g}",
        "longest": max(lines),
        "figures": sum("image/png" in d for c in code(nb) for d in bundles(c)),
        "first": (gaps or ["-"])[0],
        "gap": max(gaps, default="-"),
        "kB": round(nb.path.stat().st_size / 1000),
        "minutes": minutes(nb),
    }


def table(notebooks):
    rows = [sizes(nb) for nb in notebooks]
    lines = ["notebook".ljust(26) + "".join(k.rjust(9) for k in (rows or [{}])[0])]
    for nb, row in zip(notebooks, rows, strict=True):
        lines.append(nb.path.stem.ljust(26) + "".join(str(v).rjust(9) for v in row.values()))
    return "\n".join(
        lines + ["first: words before the first output; gap: most words between two outputs"]
    )


# --- all notebooks at once ------------------------------------------------------------------------


def sentences(nb):
    """Sentences of eight words or more, in small letters; no links line, no references."""
    sources = {n for n, _, title in headings(nb) if title == "References"}
    for number, cell in enumerate(nb.cells):
        if cell.cell_type != "markdown":
            continue
        text = cell.source.partition("## References")[0] if number in sources else cell.source
        text = "\n".join(line for line in text.split("\n") if "[contents](" not in line)
        # A heading, a point, a table cell and a paragraph each end a sentence.
        for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#>|]|\d+\.) ?)|\|", text):
            for sentence in re.split(r"(?<=[.!?])[*_]*\s+", block):
                found = re.findall(r"\w+(?:['’.]\w+)*", prose(sentence).lower())
                if len(found) >= 8:
                    yield " ".join(found)


def repeated_sentences(notebooks):
    first = {}
    for nb in notebooks:
        for sentence in sorted(set(sentences(nb))):
            other = first.setdefault(sentence, nb.path.stem)
            if other != nb.path.stem and sentence not in MAY_REPEAT:
                yield f'{nb.path.stem}: "{sentence}" stands in {other} too'


def readme_map(notebooks, readme):
    """The map in README.md has a row for each notebook, ending in its minutes."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    for nb in notebooks:
        row = re.search(rf"^\|.*\(notebooks/{nb.path.name}\).*\| *(\d+) *\|$", text, flags=re.M)
        if not row:
            yield f"{nb.path.stem}: README.md has no row that links it and ends in its minutes"
        elif int(row[1]) != minutes(nb):
            yield f"{nb.path.stem}: README.md says {row[1]} minutes, its length says {minutes(nb)}"


def readme_picture(notebooks, readme):
    """README.md shows the first picture of notebook 00, as `refresh` copied it."""
    picture = readme.parent / "readme.png"
    for nb in notebooks:
        if nb.number == "00" and (
            not picture.exists() or picture.read_bytes() != refresh.first_picture(nb)
        ):
            yield "readme.png is not the first picture of notebook 00: make refresh N=00"


def load(folder):
    return [read(p) for p in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))]


def notebook_problems(nb):
    return [f"{nb.path.stem}: {found}" for check in RULES for found in check(nb)]


def problems(folder, readme):
    """Everything that is wrong with the notebooks in `folder`, one line each."""
    notebooks = load(folder)
    found = [p for nb in notebooks for p in notebook_problems(nb)]
    return found + [
        *repeated_sentences(notebooks),
        *readme_map(notebooks, readme),
        *readme_picture(notebooks, readme),
    ]


def main(folder, readme):
    print(table(load(folder)))
    found = problems(folder, readme)
    print("\n".join(found or ["The notebooks keep the rules."]))
    return int(bool(found))
