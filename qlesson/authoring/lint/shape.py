"""Rules of how a notebook is made: its top, its parts, its exercises, its end."""

import re
from collections.abc import Iterable, Iterator

from nbformat import NotebookNode

from qlesson.authoring import address
from qlesson.authoring.lint.reading import (
    bundles,
    code,
    exercises,
    headings,
    markdown,
    rule,
    section,
    where,
)
from qlesson.authoring.lint.sizes import minutes


@rule
def top(nb: NotebookNode) -> Iterator[str]:
    if not nb.cells or nb.cells[0].cell_type != "markdown":
        yield "does not begin with a Markdown cell"
        return
    text = nb.cells[0].source
    if not re.match(rf"# {nb.number} \S", text):
        yield f'begins with "{text[:30]}", not with "# {nb.number} Title"'
    if sum(level == 1 for _, level, _ in headings(nb)) > 1:
        yield "has more than one heading of the first level"
    if not points(nb):
        yield "**You will be able to** is not followed by points, in the first cell"
    if "**Needs:**" not in text:
        yield "says no **Needs:** in the first cell"
    names = sorted(p.name for p in nb.path.parent.glob("[0-9][0-9]_*.ipynb"))
    here = names.index(nb.path.name)
    wanted = {"previous": names[here - 1] if here else None, "next": (names + [None])[here + 1]}
    wanted["contents"] = "00_start_here.ipynb" if nb.number != "00" else None
    for label, target in wanted.items():
        if target and f"[{label}]({target})" not in text:
            yield f"the first cell lacks [{label}]({target})"
    if not text.endswith(f" · {elsewhere(nb)}"):
        yield f"the first cell does not end with · {elsewhere(nb)}"


def elsewhere(nb: NotebookNode) -> str:
    """The links of the first cell that leave the course."""
    title = nb.cells[0].source.split("\n")[0].removeprefix("# ")
    return f"[Colab]({address.colab(nb.path.name)}) · [report a mistake]({address.mistake(title)})"


def points(nb: NotebookNode) -> int:
    """How many things the top says that a reader will be able to do."""
    after = nb.cells[0].source.partition("**You will be able to**")[2]
    return len(re.findall(r"^[-*] ", after.split("**Needs")[0], flags=re.M))


def other_counts(notebooks: Iterable[NotebookNode]) -> Iterator[str]:
    """Advice: three points are what a reader keeps in mind."""
    for nb in notebooks:
        if nb.cells and points(nb) != 3:
            yield f"{nb.path.stem}: {points(nb)} points under **You will be able to**, not three"


@rule
def stated_minutes(nb: NotebookNode) -> Iterator[str]:
    stated = re.search(r"[Aa]bout (\d+) minutes", nb.cells[0].source if nb.cells else "")
    if not stated:
        yield 'the first cell does not say "About N minutes"'
    elif int(stated[1]) != minutes(nb):
        yield f"says about {stated[1]} minutes, and its length says {minutes(nb)}"


@rule
def parts(nb: NotebookNode) -> Iterator[str]:
    titles = {title: number for number, level, title in headings(nb) if level == 2}
    if not any("image/png" in d for c in code(nb) for d in bundles(c)):
        yield "has no picture"
    for title in ("Play",) + ("Exercises", "References") * (nb.number != "00"):
        if title not in titles:
            yield f'has no heading "## {title}"'
    if nb.number != "00":
        text = "\n".join(c.source for c in markdown(nb))
        for mark in ("**Remember.**", "**Next.**"):
            if mark not in text:
                yield f"does not end with {mark}"


@rule
def more_is_tagged(nb: NotebookNode) -> Iterator[str]:
    inside = []
    for number, level, title in headings(nb):
        if level == 2 and title.startswith("More"):
            inside += [c.id for c in section(nb, number, 2)]
    for cell in nb.cells:
        tagged = "more" in cell.metadata.get("tags", [])
        if tagged != (cell.id in inside):
            yield f'{where(cell)}: the tag "more" and the section "## More" disagree'


@rule
def exercises_are_numbered(nb: NotebookNode) -> Iterator[str]:
    numbered = list(exercises(nb))
    wanted = [f"{int(nb.number)}.{i + 1}" for i in range(len(numbered))]
    if [name for name, _ in numbered] != wanted:
        yield f"exercises are numbered {[name for name, _ in numbered]}, not {wanted}"
    if nb.number != "00" and not numbered:
        yield 'has no "### Exercise N.1 Title"'
    for name, stated in numbered:
        if stated is None:
            yield f'exercise {name} has no line "difficulty · N minutes"'
