"""Refreshing is exact: the same notebook gives the same bytes, and a failing one keeps its own."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qlesson.authoring import bets, refresh, slides
from qlesson.course import lab

ROOT = Path(__file__).parents[2]


def save(nb, folder, name):
    path = folder / f"{name}.ipynb"
    path.write_text(nbformat.writes(nb) + "\n", encoding="utf-8")
    return path


LIVE = """import time, os
class Live:
    def _repr_mimebundle_(self, **kwargs):
        view = {"version_major": 2, "version_minor": 0, "model_id": os.urandom(4).hex()}
        data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "live"}
        return data, {"image/png": {"alt": "a"}, "other": 1}
Live()"""


def test_refreshing_twice_gives_the_same_bytes(tmp_path, capsys):
    meta = {"tags": ["more"], "collapsed": True, "jupyter": {"outputs_hidden": True, "x": 1}}
    cells = [
        new_markdown_cell("# 01 A title", metadata={"editable": False}),
        new_code_cell("import os\nfrom pathlib import Path", metadata=meta, execution_count=9),
        new_code_cell(LIVE),
        new_code_cell('print(Path("here.txt").exists())\nprint("one")\n6 * 7'),
        new_code_cell("from IPython.display import display\ndisplay(1)"),
    ]
    nb = new_notebook(cells=cells, metadata={"widgets": {"state": {}}})
    ids = [c.id for c in nb.cells]
    (tmp_path / "here.txt").touch()
    path = save(nb, tmp_path, "01_title")

    assert refresh.main(tmp_path, check=True) == 1
    assert "would change" in capsys.readouterr().out
    assert refresh.stored_on(tmp_path) == "not recorded"
    assert refresh.main(tmp_path) == 0
    assert refresh.stored_on(tmp_path) == refresh.machine()
    (tmp_path / refresh.STORED_ON).write_text("another machine\n")
    first = path.read_bytes()
    assert refresh.main(tmp_path, check=True) == 0
    assert "unchanged" in capsys.readouterr().out
    assert refresh.main(tmp_path) == 0
    assert path.read_bytes() == first
    assert refresh.stored_on(tmp_path) == "another machine"  # nothing was stored

    stored = nbformat.read(path, as_version=4)
    space = stored.cells.pop(1)
    assert (space.id, space.source) == (f"space-{ids[1]}", bets.SPACE)
    assert [c.id for c in stored.cells] == ids
    assert stored.metadata == refresh.METADATA
    assert [c.metadata for c in stored.cells] == [
        {},
        {"tags": ["more"], "jupyter": {"outputs_hidden": True}},
        {},
        {},
        {},
    ]
    assert [c.execution_count for c in stored.cells[1:]] == [1, 2, 3, 4]
    assert stored.cells[2].outputs[0].data == {"text/plain": "live"}
    assert stored.cells[3].outputs[0].text == "True\none\n"
    assert stored.cells[3].outputs[1].execution_count == 3


def test_a_failing_cell_stores_nothing(tmp_path, capsys):
    nb = new_notebook(cells=[new_code_cell("1 / 0")])
    path = save(nb, tmp_path, "01_title")
    before = path.read_bytes()
    assert refresh.main(tmp_path) == 1
    assert "not stored" in (said := capsys.readouterr().out) and "ZeroDivisionError" in said
    assert path.read_bytes() == before


def test_names_choose_the_notebooks(tmp_path, capsys):
    for name in ("01_a", "02_b"):
        save(new_notebook(cells=[new_code_cell("1")]), tmp_path, name)
    for name, said in (("02", "written"), ("2", "unchanged")):
        assert refresh.main(tmp_path, [name]) == 0
        assert capsys.readouterr().out == f"02_b.ipynb: {said}\n"


@pytest.mark.parametrize("name", ["99", "05_a_title", "five", ""])
@pytest.mark.parametrize("main", [refresh.main, slides.main])
def test_a_name_that_is_no_number_of_a_notebook_is_told(main, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where decks are written
    monkeypatch.setattr(refresh, "run", None)
    monkeypatch.setattr(slides, "deck", None)
    assert main(ROOT / "notebooks", ["01", name]) == 1
    said = f"{name} is not the number of a notebook, as 05 is, so nothing was done.\n"
    assert capsys.readouterr().out == said


def test_a_space_stands_above_each_bet_and_nowhere_else():
    folded = {"jupyter": {"outputs_hidden": True}}
    nb = new_notebook(cells=[new_code_cell("1", metadata=folded), new_code_cell("2")])
    for _ in range(2):
        assert [bets.is_space(c) for c in refresh.tidy(nb).cells] == [True, False, False]
    nb.cells[1].metadata = {}
    assert [c.source for c in refresh.tidy(nb).cells] == ["1", "2"]


def test_the_style_sheet_hides_as_many_cells_as_the_rule_allows():
    style = (lab.SETTINGS / "custom" / "custom.css").read_text(encoding="utf-8")
    assert style.count("+ .jp-Cell") == bets.AFTER_A_BET
    assert bets.SPACE.count("<br>") > style.count("+ br")
