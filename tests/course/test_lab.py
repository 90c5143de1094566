"""`qlesson lab` makes the copies, sets JupyterLab and opens it; what is missing gets a sentence."""

import os
import sys
import types
from pathlib import Path

import jupyterlab.labapp
import pytest

from qlesson.course import copies, lab, notebooks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What JupyterLab would be given: the folder, its options, where it looks for settings."""
    seen = []

    def jupyterlab_main(arguments):
        seen.append((Path.cwd(), arguments, os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)))

    monkeypatch.setattr(jupyterlab.labapp, "main", jupyterlab_main)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")  # and back to what it was
    monkeypatch.chdir(tmp_path)
    return seen


def test_the_course_is_copied_and_opened(started, tmp_path, capsys):
    assert lab.main(["--no-browser", "--port=9000"]) == 0
    ((folder, options, (settings,)),) = started
    assert folder == tmp_path / "my_notebooks" and (folder / lab.FIRST).exists()
    assert options[-2:] == ["--no-browser", "--port=9000"]
    assert f"--LabApp.default_url=/lab/tree/{lab.FIRST}" in options
    assert Path(settings) == lab.SETTINGS
    assert "files copied to my_notebooks, where your answers stay" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--ServerApp.ip=0.0.0.0", "--LabApp.default_url=/lab"])
def test_an_option_of_ones_own_is_given_once(option, started):
    """JupyterLab refuses one that has two values."""
    assert lab.main([option]) == 0
    ((_, options, _),) = started
    assert [x for x in options if x.partition("=")[0] == option.partition("=")[0]] == [option]
    assert "--log-level=WARN" in options


def test_a_folder_may_have_any_name_and_settings_of_ones_own_stay(started, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    name = "Übungen für 日本, zweiter Tag"
    assert lab.main([name]) == 0
    ((folder, _, settings),) = started
    assert folder == tmp_path / name and settings == [str(lab.SETTINGS), "mine"]


def test_fresh_restores_one_or_all(started, tmp_path, monkeypatch, capsys):
    lab.main(["mine"])
    for number, name in enumerate(("01_linear_formula", "03_symmetric_mode")):
        (tmp_path / "mine" / f"{name}.ipynb").write_text('{"cells": []}', encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        lab.main(["mine", "--fresh", *([] if number else ["1"])])
        assert f"{name}.ipynb is restored" in capsys.readouterr().out


def test_a_folder_in_the_place_of_a_number_gets_a_sentence(started, tmp_path, capsys):
    assert lab.main(["--fresh", "other"]) == 1 and not started
    assert "qlesson lab FOLDER --fresh 05" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, said",
    [
        (["--port", "9000"], "Write --port=9000, or name the folder first"),
        (["--fresh", "05", "06"], "--fresh takes one number, so nothing was restored"),
    ],
)
def test_the_value_of_an_option_is_no_folder(words, said, started, capsys):
    assert lab.main(words) == 1 and not started
    assert said in capsys.readouterr().out
    assert not Path(words[-1]).exists()


def test_a_folder_may_follow_an_option(started, tmp_path, monkeypatch):
    """One that takes no value, or has it; and where the folder is there, any."""
    for words in (["--no-browser", "mine"], ["--port=9000", "mine"], ["--port", "mine"]):
        monkeypatch.chdir(tmp_path)
        assert lab.main(words) == 0 and started[-1][0] == tmp_path / "mine"


def test_a_missing_jupyterlab_is_named_with_its_remedy(started, monkeypatch, capsys):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    assert lab.main([]) == 1 and not started
    said = capsys.readouterr().out
    assert 'JupyterLab is not installed: pip install "qlesson[lab]"' in said
    assert not Path("my_notebooks").exists()


def test_a_folder_that_cannot_be_written_gets_a_sentence(started, monkeypatch, capsys):
    def locked(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(copies.Path, "mkdir", locked)
    assert lab.main(["locked"]) == 1 and not started
    said = capsys.readouterr().out
    assert said.startswith(
        "The notebooks could not all be copied to locked, where your work is kept:"
    )
    assert "Permission denied" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "system, display, user, flags",
    [
        ("linux", ":0", 1000, []),
        ("linux", "", 1000, ["--no-browser"]),
        ("linux", "", 0, ["--allow-root", "--no-browser"]),
        ("darwin", "", 501, []),
        ("win32", "", None, []),
    ],
)
def test_jupyterlab_is_told_of_the_machine(system, display, user, flags, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if user is None:
        monkeypatch.delattr(os, "geteuid", raising=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    assert lab.machine() == flags


def test_in_a_checkout_the_notebooks_are_those_that_authors_write():
    assert notebooks() == ROOT / "notebooks"


# --- the server ---


def server_config():
    file = lab.SETTINGS / "jupyter_server_config.py"
    names = ("ContentsManager", "LabApp", "ServerApp")
    config = types.SimpleNamespace(**{name: types.SimpleNamespace() for name in names})
    exec(file.read_text(encoding="utf-8"), {"c": config, "__file__": str(file)})
    return config


def test_the_server_finds_what_hides_the_answers():
    config = server_config()
    assert config.LabApp.custom_css is True
    (folder,) = config.ServerApp.tornado_settings["static_custom_path"]
    style = (Path(folder) / "custom.css").read_text(encoding="utf-8")
    assert ".jp-OutputPlaceholder" in style


def saved(model):
    """The model as Jupyter's server would write it, with the course's settings."""
    server_config().ContentsManager.pre_save_hook(
        model=model, path="x.ipynb", contents_manager=None
    )
    return model


def test_a_live_figure_is_saved_as_its_picture():
    view = "application/vnd.jupyter.widget-view+json"
    figure = {"data": {view: {}, "image/png": "x", "text/plain": "y"}}
    slider = {"data": {view: {}, "text/plain": "IntSlider()"}}
    others = [{"text": "z"}, {"data": {"image/png": "x"}}]
    cells = [{"source": "1", "outputs": [figure, slider, *others]}, {"source": "words"}]
    made = saved({"type": "notebook", "content": {"cells": cells}})["content"]["cells"]
    expected = [{"data": {"image/png": "x", "text/plain": "y"}}, slider, *others]
    assert made == [{"source": "1", "outputs": expected}, {"source": "words"}]


def test_what_is_no_notebook_is_saved_as_it_is():
    for content in ("text", None, {}):
        assert saved({"type": "file", "content": content})["content"] == content
    assert saved({"type": "notebook"}) == {"type": "notebook"}


def test_binder_has_the_settings_too():
    post_build = (ROOT / "binder/postBuild").read_text(encoding="utf-8")
    assert 'cp -r qlesson/course/settings/. "$NB_PYTHON_PREFIX/etc/jupyter/"' in post_build
    assert (lab.SETTINGS / "labconfig" / "page_config.json").exists()


def test_a_home_that_cannot_be_written_gets_a_sentence(started, monkeypatch, capsys):
    def fails(arguments):
        raise PermissionError(13, "Permission denied", "/me/.local")

    monkeypatch.setattr(jupyterlab.labapp, "main", fails)
    assert lab.main([]) == 1
    said = capsys.readouterr().out
    assert "/me/.local cannot be written (Permission denied): set HOME" in said


def test_an_address_that_this_machine_has_not_is_told_as_it_is(started, monkeypatch, capsys):
    def fails(arguments):
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(jupyterlab.labapp, "main", fails)
    assert lab.main(["--ip=10.9.9.9"]) == 1
    said = capsys.readouterr().out
    assert "JupyterLab could not start: [Errno 99] Cannot assign" in said and "HOME" not in said
