"""A translation keeps the code, and what has changed since is found."""

from copy import deepcopy
from pathlib import Path

import nbformat
import pytest

from qlesson.authoring import translation
from qlesson.authoring.lint.reading import markdown, read

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def nb():
    return read(NOTEBOOKS / "03_symmetric_mode.ipynb")


def test_a_skeleton_changes_nothing_and_is_all_to_do(nb):
    text = translation.skeleton(nb)
    assert translation.translated(nb, text) == nb
    left = list(translation.to_do(nb, text))
    assert left == [f"{c.id} is not translated" for c in markdown(nb)] and len(left) > 10


def test_what_is_translated_stands_in_its_place_and_the_code_stays(nb):
    first, second = markdown(nb)[:2]
    text = translation.skeleton(nb).replace(first.source, "# 03 Symmetrisch\n\nEin Satz.")
    made = translation.translated(nb, text)
    assert made.cells[0].source == "# 03 Symmetrisch\n\nEin Satz."
    assert markdown(made)[1] == second
    assert [c for c in made.cells if c.cell_type == "code"] == [
        c for c in nb.cells if c.cell_type == "code"
    ]
    assert not [line for line in translation.to_do(nb, text) if line.startswith(first.id)]


def test_a_text_whose_english_changed_is_found_and_one_whose_cell_is_gone(nb):
    first, second = markdown(nb)[:2]
    text = translation.skeleton(nb)
    for cell in (first, second):
        text = text.replace(cell.source, f"Deutsch {cell.id}")
    later = deepcopy(nb)
    later.cells[0].source += " More."
    later.cells = [c for c in later.cells if c.id != second.id]
    said = list(translation.to_do(later, text))
    now = translation.head(later.cells[0])
    assert f"{first.id} was translated from another text: anew, it begins with {now}" in said
    (was,) = (line for line in text.splitlines() if line.startswith(f"<!-- cell {first.id}"))
    again = list(translation.to_do(later, text.replace(was, now)))
    assert not [line for line in again if line.startswith(first.id)]
    _, _, third, *_ = markdown(nb)
    block = translation.block(third)
    said_of_new = f"{third.id} is new: its block begins with {translation.head(third)}"
    assert said_of_new in translation.to_do(nb, text.replace(block, ""))
    assert f"{second.id} is no cell of the notebook any more" in said
    assert f"{first.id} is not translated" not in said


def test_english_that_nobody_translated_follows_the_course(nb):
    text, later = translation.skeleton(nb), deepcopy(nb)
    later.cells[0].source += " More."
    first = later.cells[0]
    assert f"{first.id} is not translated" in translation.to_do(later, text)
    assert translation.renewed(later, text) == translation.skeleton(later)
    german = text.replace(nb.cells[0].source, "Deutsch.")
    assert translation.renewed(later, german) == german


def test_the_command_writes_what_is_to_do_once_and_the_notebooks_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    course = tmp_path / "notebooks"
    course.mkdir()
    name = "03_symmetric_mode.ipynb"
    (course / name).write_bytes((NOTEBOOKS / name).read_bytes())
    assert translation.main(course, "de") == 0
    file = tmp_path / "translations" / "de" / "03.md"
    text = file.read_text(encoding="utf-8").replace("# 03 Symmetric mode", "# 03 Symmetrisch")
    file.write_text(text, encoding="utf-8")
    assert translation.main(course, "de") == 0
    made = nbformat.read(tmp_path / "build" / "de" / name, as_version=4)
    nbformat.validate(made)
    assert made.cells[0].source.startswith("# 03 Symmetrisch\n")
    assert file.read_text(encoding="utf-8") == text
