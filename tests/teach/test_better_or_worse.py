"""Sentences of notebooks 06 and 09 that set one thing above another, beside what stands printed."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class Page:
    """What a notebook says in words, and what its cells print."""

    def __init__(self, number):
        (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
        cells = nbformat.read(path, as_version=4).cells
        self.words = " ".join(c.source for c in cells if c.cell_type == "markdown")
        outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
        self.printed = "\n".join(o.text for o in outputs if "text" in o)

    def said(self, pattern):
        """The numbers of the one sentence that has this form."""
        (found,) = re.findall(pattern, self.words)
        return [float(x) for x in ([found] if isinstance(found, str) else found)]

    def line(self, start):
        """The numbers behind the one printed line that begins like this."""
        (line,) = re.findall(rf"^{re.escape(start)}(.*)$", self.printed, flags=re.M)
        return [float(x) for x in re.findall(r"[-+]?\d+\.\d+", line)]

    def compared(self, start):
        """Perplexities, difference and its standard errors, from a line that ends in a verdict."""
        *perplexities, difference, error = self.line(start)
        return *perplexities, difference, difference / error


ZERO, SIX, NINE = Page("00"), Page("06"), Page("09")


def test_block_length_and_structure():
    rows, rows_shuffled = SIX.line("rows               128 values")
    columns, columns_shuffled = SIX.line("columns            512 values")
    pieces, pieces_shuffled = SIX.line("columns in pieces  128 values")
    (all_of_it,) = SIX.said(r"Rows lie ([\d.]+) dB above columns")
    length, *of_length = SIX.said(r"and ([\d.]+) dB remain \(([\d.]+) against ([\d.]+)\)")
    structure, *of_structure = SIX.said(
        r"only ([\d.]+) dB are left in `W` \(([\d.]+) against ([\d.]+)\)"
    )
    assert of_length == [rows_shuffled, columns_shuffled] and of_structure == [rows, pieces]
    assert rows - columns == pytest.approx(all_of_it, abs=0.011)
    assert rows_shuffled - columns_shuffled == pytest.approx(length, abs=0.011)
    assert rows - pieces == pytest.approx(structure, abs=0.011)
    assert rows_shuffled == pytest.approx(pieces_shuffled, abs=0.05)  # "nothing when shuffled"
    assert 1 - structure / all_of_it == pytest.approx(2 / 3, abs=0.05)


def test_the_bet_of_06_and_its_reason():
    (_, bit), (_, groups) = SIX.line("5 bits, a scale per row"), SIX.line("4 bits, groups of 16   ")
    (by,) = SIX.said(r"Answer A, by ([\d.]+) dB")
    assert bit - groups == pytest.approx(by, abs=0.05) and by > 2
    long, short, factor, db = SIX.said(
        r"falls from ([\d.]+) to ([\d.]+), and so does the step: a factor of ([\d.]+), or ([\d.]+)"
    )
    assert [long] == SIX.line("groups of 128: largest magnitude")
    assert [short] == SIX.line("groups of  16: largest magnitude")
    assert long / short == pytest.approx(factor, abs=0.011)
    gained = [SIX.line(line)[0] for line in PURCHASES[2:]]
    assert sum(gained) == pytest.approx(db, abs=0.05)


PURCHASES = (
    "one scale, then one per row",
    "rows, then another bit",
    "rows, then groups of 64",
    "groups of 64, then of 32",
    "groups of 32, then of 16",
)


def test_decibels_per_bit():
    """Seven times a bit, a bit, almost a bit, less, a third."""
    row, bit, of_64, of_32, of_16 = (SIX.line(line)[2] for line in PURCHASES)
    said = SIX.said(
        r"almost as much as a bit \(([\d.]+) against ([\d.]+)\), groups of 32 less \(([\d.]+)"
    )
    assert said == [of_64, bit, of_32] and of_64 < bit
    assert 6 < bit < 7 and row / bit == pytest.approx(7, abs=0.1)
    assert of_64 == pytest.approx(bit, abs=0.5)
    assert of_32 < bit - 2 and of_16 / bit == pytest.approx(1 / 3, abs=0.03)
    teaching = (NOTEBOOKS / "teaching.md").read_text(encoding="utf-8")
    assert f"{row:.0f} for the rows, {bit} for another bit, {of_16} for groups of 16" in teaching


def test_what_the_model_says_in_06():
    assert all(SIX.compared(name)[2] > 2 for name in ("tensor  ", "row  ", "groups of 32  "))
    assert abs(SIX.compared("4 bits: rows, groups of 32 ")[-1]) < 2
    rows, groups, _, z = SIX.compared("3 bits: rows, groups of 32 ")
    assert round(-z) == 16
    assert [groups, rows] == SIX.said(r"perplexity ([\d.]+) where the rows have ([\d.]+)\.")
    assert SIX.said(r"00 had ([\d.]+) with 3 bits") == ZERO.line(" 3 bits:  ")
    assert SIX.compared("4 bits in 16s, 5 bits in rows")[-1] < -2


def test_three_scales_leave_smaller_errors_than_one_on_average():
    for name in ("row   ", "column"):
        mean, error = SIX.line(f"difference to per {name}")
        assert mean / error < -15


def test_what_the_models_of_09_lose():
    ways = ("W8A32  ", "W8A8 dynamic", "W8A8 static", "W4A8  ")
    weights, dynamic, static, four = (NINE.compared(f"{way}") for way in ways)
    assert abs(weights[2]) < 2 and all(2 < z < 3.5 for _, _, z in (dynamic, static))
    (floor,) = NINE.line("float32       perplexity")
    assert 0 < dynamic[0] - floor <= static[0] - floor < 0.025
    assert four[2] > 2 and four[1] / static[1] > 10


def test_real_inputs_against_random_ones_in_09():
    ((weight,), (real,), (random,)) = (
        NINE.line(start) for start in ("SQNR of W:", "SQNR of y:", "random inputs:")
    )
    (more,) = NINE.said(r"On real ones it has ([\d.]+) dB more")
    assert random == pytest.approx(weight, abs=0.15)
    assert real - random == pytest.approx(more, abs=0.051)
