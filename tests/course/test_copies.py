"""The reader's own copies: they follow the course, and what is written in them stays."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qlesson.course import copies


def run(*arguments, cwd):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)


def notebook(*sources, **more):
    cells = [{"cell_type": "code", "source": [s], "outputs": [], **more} for s in sources]
    return json.dumps({"cells": cells})


@pytest.fixture
def course(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "01_a.ipynb").write_text(notebook("a"))
    (folder / "02_b.ipynb").write_text(notebook("b"))
    (folder / "teaching.md").write_text("text")
    (folder / "ruff.toml").write_text("")
    return folder


def test_copies_are_made_once_and_answers_stay(course, tmp_path):
    mine = tmp_path / "my_notebooks"
    assert copies.copy(course, mine) == [f"3 files copied to {mine}, where your answers stay"]
    assert sorted(p.name for p in mine.glob("[!.]*")) == ["01_a.ipynb", "02_b.ipynb", "teaching.md"]
    (mine / "01_a.ipynb").write_text(notebook("my answer"))
    (mine / "mine.ipynb").write_text("{}")
    assert copies.copy(course, mine) == []
    assert (mine / "01_a.ipynb").read_text() == notebook("my answer")

    # The course changes both: the one with an answer is kept and told of, the other follows.
    (course / "01_a.ipynb").write_text(notebook("new a"))
    (course / "02_b.ipynb").write_text(notebook("new b"))
    (course / "03_c.ipynb").write_text(notebook("c"))
    said = copies.copy(course, mine)
    assert len(said) == 2 and "01_a.ipynb: the course has a newer version, yours is kept" in said[1]
    asked = re.search(r"qlesson lab (.*) puts yours aside", said[1])[1]
    assert asked.replace('"', "") == f"{mine} --fresh 01"
    assert "(qlesson lab --fresh 01, or make fresh N=01, puts" in copies.kept(
        "01_a.ipynb", Path("my_notebooks")
    )
    assert (mine / "01_a.ipynb").read_text() == notebook("my answer")
    assert (mine / "02_b.ipynb").read_text() == notebook("new b")
    assert (mine / "03_c.ipynb").exists()
    assert (mine / "mine.ipynb").read_text() == "{}"


def test_a_run_alone_is_no_answer(course, tmp_path):
    """JupyterLab saves outputs and unfolds what was run: each start folds the bets again."""
    mine = tmp_path / "my_notebooks"
    folded = {"jupyter": {"outputs_hidden": True}}
    (course / "01_a.ipynb").write_text(notebook("a", metadata=folded))
    copies.copy(course, mine)
    for name, source in (("01_a", "a"), ("02_b", "my answer")):
        (mine / f"{name}.ipynb").write_text(notebook(source, execution_count=3))
    assert copies.copy(course, mine) == []
    assert (mine / "01_a.ipynb").read_text() == notebook("a", metadata=folded)
    assert (mine / "02_b.ipynb").read_text() == notebook("my answer", execution_count=3)
    (course / "01_a.ipynb").write_text(notebook("new a"))
    assert copies.copy(course, mine) == []
    assert (mine / "01_a.ipynb").read_text() == notebook("new a")


@pytest.mark.parametrize("empty", ["", "\n "])
def test_a_cell_that_jupyterlab_adds_is_no_answer(empty, course, tmp_path):
    """Shift+Enter on the last cell adds an empty one."""
    mine = tmp_path / "my_notebooks"
    copies.copy(course, mine)
    (mine / "01_a.ipynb").write_text(notebook("a", empty, execution_count=3))
    (course / "01_a.ipynb").write_text(notebook("new a"))
    assert copies.copy(course, mine) == []
    assert (mine / "01_a.ipynb").read_text() == notebook("new a")


def test_a_copy_made_by_hand_is_followed_where_it_is_the_courses(course, tmp_path):
    """As is one whose folder .as_copied was lost."""
    mine = tmp_path / "my_notebooks"
    copies.copy(course, mine)
    shutil.rmtree(mine / ".as_copied")
    (mine / "02_b.ipynb").write_text(notebook("my answer"))
    (said,) = copies.copy(course, mine)
    assert said.startswith("02_b.ipynb: the course has a newer version, yours is kept")
    (course / "01_a.ipynb").write_text(notebook("new a"))
    assert copies.copy(course, mine) == [said]
    assert (mine / "01_a.ipynb").read_text() == notebook("new a")
    assert (mine / "02_b.ipynb").read_text() == notebook("my answer")


def test_what_has_no_number_is_not_restored_by_number(course, tmp_path):
    mine = tmp_path / "my_notebooks"
    copies.copy(course, mine)
    (mine / "teaching.md").write_text("my text")
    (course / "teaching.md").write_text("new text")
    assert copies.copy(course, mine) == [
        "teaching.md: the course has a newer version, yours is kept "
        "(give yours another name, and the newer one is copied)"
    ]
    (mine / "teaching.md").rename(mine / "mine.md")
    copies.copy(course, mine)
    assert (mine / "teaching.md").read_text() == "new text"


def test_fresh_says_what_it_restored(course, tmp_path):
    mine = tmp_path / "my_notebooks"
    copies.copy(course, mine)
    for name, source in (("01_a", "a"), ("02_b", "my answer")):
        (mine / f"{name}.ipynb").write_text(notebook(source, execution_count=3))
    (course / "03_c.ipynb").write_text(notebook("c"))
    copies.copy(course, mine)
    (mine / "01_a.ipynb").write_text(notebook("a", execution_count=3))
    for number in ("3", "03"):
        said = copies.copy(course, mine, fresh=True, names=[number])
        assert said == ["nothing to restore in 03"]
    worked, run = copies.copy(course, mine, fresh=True)
    assert worked.startswith("02_b.ipynb is restored, your work is in ")
    assert run == "01_a.ipynb is restored, nothing was written in it"
    assert (mine / "01_a.ipynb").read_text() == notebook("a")


def test_fresh_restores_and_loses_nothing(course, tmp_path):
    mine = tmp_path / "my_notebooks"
    copies.copy(course, mine)
    for name in ("01_a", "02_b"):
        (mine / f"{name}.ipynb").write_text(notebook("my answer"))
    assert len(copies.copy(course, mine, fresh=True, names=["02"])) == 1
    assert (mine / "01_a.ipynb").read_text() == notebook("my answer")
    assert (mine / "02_b.ipynb").read_text() == notebook("b")
    (kept,) = mine.glob("old_*/02_b.ipynb")
    assert kept.read_text() == notebook("my answer")
    kept.parent.rename(mine / "old_earlier")
    assert "01_a.ipynb is restored" in copies.copy(course, mine, fresh=True)[0]
    assert "nothing to restore" in copies.copy(course, mine, fresh=True)[0]


def test_a_number_is_that_of_one_notebook(course, tmp_path):
    mine = tmp_path / "my_notebooks"
    for name in ("10_j", "11_k"):
        (course / f"{name}.ipynb").write_text(notebook(name))
    copies.copy(course, mine)
    for copied in mine.glob("*.ipynb"):
        copied.write_text(notebook("my answer"))
    (said,) = copies.copy(course, mine, fresh=True, names=["1"])
    assert said.startswith("01_a.ipynb is restored")


@pytest.mark.parametrize("name", ["99", "zz", "other", "005", "-1", "te"])
def test_what_is_no_number_of_a_notebook_is_refused(name, course, tmp_path, capsys):
    mine = tmp_path / "my_notebooks"
    assert copies.bring(course, mine, True, [name]) == 1
    assert capsys.readouterr().out.startswith(f"{name} is not the number of a notebook, as 05 is")
    assert not mine.exists()


@pytest.mark.parametrize("fits", range(5))
def test_where_there_is_no_room_the_folder_stays_as_it_was(fits, course, tmp_path, monkeypatch):
    """Half a file would be taken for the reader's work from then on."""
    mine, copied, whole = tmp_path / "my_notebooks", [], shutil.copyfile

    def full(source, target):
        copied.append(target)
        if len(copied) > fits:
            Path(target).write_text("hal")
            raise OSError(28, "No space left on device")
        whole(source, target)

    copies.copy(course, mine)
    (mine / "01_a.ipynb").write_text(notebook("my answer"))
    (course / "02_b.ipynb").write_text(notebook("new b"))
    (course / "03_c.ipynb").write_text(notebook("c"))
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    monkeypatch.setattr(copies.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        copies.copy(course, mine, fresh=True)
    assert {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()} == before
    monkeypatch.undo()
    copies.copy(course, mine, fresh=True)
    assert (mine / "03_c.ipynb").read_text() == notebook("c")


@pytest.mark.parametrize("fits", range(4))
def test_a_file_that_another_program_holds_loses_no_work(fits, course, tmp_path, monkeypatch):
    """And what was copied half is copied whole the next time, by itself."""
    mine, done, replace = tmp_path / "my_notebooks", [], Path.replace
    copies.copy(course, mine)
    (mine / "01_a.ipynb").write_text(notebook("my answer"))
    for name in ("01_a", "02_b"):
        (course / f"{name}.ipynb").write_text(notebook(f"new {name}"))

    def held(self, target):
        done.append(target)
        if len(done) > fits:
            raise PermissionError(13, "another program holds it", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    with pytest.raises(PermissionError):
        copies.copy(course, mine, fresh=True)
    monkeypatch.undo()
    everywhere = [p.read_text() for p in mine.rglob("01_a.ipynb")]
    assert notebook("my answer") in everywhere
    copies.copy(course, mine)
    assert (mine / "02_b.ipynb").read_text() == notebook("new 02_b")
    copies.copy(course, mine, fresh=True)
    assert (mine / "01_a.ipynb").read_text() == notebook("new 01_a")
    assert notebook("my answer") in [p.read_text() for p in mine.rglob("01_a.ipynb")]


def test_copies_that_cannot_be_made_are_told_of_in_a_sentence(course, tmp_path):
    (tmp_path / "my_notebooks").write_text("a file in the place of the folder")
    made = run("-I", copies.__file__, cwd=tmp_path)
    assert made.returncode == 1 and made.stderr == ""
    assert made.stdout.startswith("The notebooks could not all be copied to my_notebooks, where")
    assert (tmp_path / "my_notebooks").read_text() == "a file in the place of the folder"


def test_copies_need_nothing_installed(course, tmp_path):
    made = run("-I", "-S", copies.__file__, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "my_notebooks" / "01_a.ipynb").exists()
