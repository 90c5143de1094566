"""How long a notebook is, in words, cells and minutes."""

import statistics
from collections.abc import Sequence

from nbformat import NotebookNode

from qlesson.authoring.bets import is_space
from qlesson.authoring.lint.reading import bundles, code, exercises, markdown, words


def minutes(nb: NotebookNode) -> int:
    """200 words of Markdown a minute, 20 s a code cell, the exercises as stated; to 5 minutes."""
    text = sum(len(words(c.source)) for c in markdown(nb))
    exact = text / 200 + len(code(nb)) / 3 + sum(m or 0 for _, m in exercises(nb))
    return max(5, 5 * round(exact / 5))


def sizes(nb: NotebookNode) -> dict[str, int | str]:
    """The sizes of which the table shows the medians."""
    gaps, gap = [], 0
    for cell in nb.cells:
        if cell.cell_type == "markdown" and not is_space(cell):
            gap += len(words(cell.source))
        elif cell.get("outputs"):
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
        "first": gaps[0] if gaps else "-",
        "gap": max(gaps, default="-"),
        "kB": round(nb.path.stat().st_size / 1000),
        "minutes": minutes(nb),
    }


def table(notebooks: Sequence[NotebookNode]) -> str:
    rows = [sizes(nb) for nb in notebooks]
    lines = ["notebook".ljust(26) + "".join(k.rjust(9) for k in (rows or [{}])[0])]
    for nb, row in zip(notebooks, rows, strict=True):
        lines.append(nb.path.stem.ljust(26) + "".join(str(v).rjust(9) for v in row.values()))
    return "\n".join(
        lines + ["first: words before the first output; gap: most words between two outputs"]
    )
