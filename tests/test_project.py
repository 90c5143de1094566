"""What surrounds the package: the commands, the environments, the links, the readers' copies."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import types
import zipfile
from pathlib import Path

import pytest

import qlesson
from qlesson.authoring import refresh
from qlesson.authoring.lint import github
from qlesson.teach import copies

ROOT = Path(__file__).parents[1]
TARGETS = [
    "lab",
    "test",
    "test-fast",
    "test-machines",
    "env",
    "fresh",
    "bench",
    "wheelhouse",
    "refresh",
    "lint",
    "slides",
    "handouts",
    "book",
    "clean",
]


def run(*command, cwd=ROOT, **env):
    # Inside `make test`, what make was called with would reach the make that is tested.
    ours = "MAKEFLAGS MAKELEVEL MFLAGS PYTHON TORCH TORCH_INDEX CONSTRAINTS WHEELS N".split()
    clean = {k: v for k, v in os.environ.items() if k not in ours}
    return subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True)


def tracked():
    """The files that are, or would be, committed."""
    listed = run("git", "ls-files", "-co", "--exclude-standard")
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [p for p in map(ROOT.joinpath, listed.stdout.splitlines()) if p.is_file()]


# --- make ---


def test_make_alone_lists_the_targets():
    said = run("make").stdout
    assert re.findall(r"make ([\w-]+)\t\S", said) == TARGETS


def fake_python(folder, version, lacks=""):
    """A python3 that fails at any -c with the word `lacks`, as if it were older or had no venv."""
    script = folder / "python3"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{lacks}*) exit 1;; --version) echo Python {version}; exit;;'
        f' esac\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    "version, lacks, sentence",
    [
        (
            "3.8.18",
            "version_info",
            "needs Python 3.11, 3.12, 3.13 or 3.14, and .* is Python 3.8.18",
        ),
        ("3.12.1", "ensurepip", "has no venv module: install it .*apt install python3-venv"),
    ],
)
def test_a_wrong_python_gets_one_clear_sentence(tmp_path, version, lacks, sentence):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    made = run("make", "env", f"PYTHON={fake_python(tmp_path, version, lacks)}", cwd=tmp_path)
    assert made.returncode
    assert re.search(sentence, made.stdout)
    assert made.stdout.count("\n") == 1 and "Traceback" not in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_another_python_is_found_when_python3_is_too_old(tmp_path):
    fake_python(tmp_path, "3.8.18", "version_info")
    good = tmp_path / "python3.12"
    good.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    good.chmod(0o755)
    would = run("make", "-n", "-B", "env", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert re.search(r"^python3\.1[1-4] -m venv", would.stdout, flags=re.M)


def test_the_torch_build_can_be_chosen():
    pinned = run("make", "-n", "-B", "env").stdout
    assert re.search(r"'torch==[\d.]+'$", pinned, flags=re.M) and "index" not in pinned
    chosen = run(
        "make", "-n", "-B", "env", "TORCH_INDEX=https://example.org/cpu", "TORCH=torch<3"
    ).stdout
    assert chosen.count("--index-url https://example.org/cpu 'torch<3'") == 1
    assert "extra-index" not in chosen
    newest = run("make", "-n", "-B", "env", "CONSTRAINTS=").stdout
    assert "'torch'" in newest and "constraints.txt" not in newest


def test_a_wheelhouse_is_filled_and_installed_from(tmp_path):
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    made = run("make", "-n", "-B", "wheelhouse", "TORCH_INDEX=https://example.org/cpu").stdout
    torch, rest = re.findall(r" pip .*wheel .*-w build/wheelhouse (.*)", made)
    assert torch.split() == [*"--index-url https://example.org/cpu --no-deps".split(), torch_pin()]
    # That torch, whatever else an index offers; what builds qlesson; qlesson with all it needs.
    assert rest.split() == [
        "build/wheelhouse/torch-*.whl",
        *(f"'{r}'" for r in backend),
        "'.[slides]'",
    ]
    assert "index" not in run("make", "-n", "-B", "wheelhouse").stdout

    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    said = run("make", "-n", "-B", "env", f"WHEELS={tmp_path}").stdout
    installs = re.findall(r" pip .* install .*", said)
    assert len(installs) == 2
    assert all(f"--no-index --find-links {tmp_path}" in line for line in installs)
    assert "--no-index" not in run("make", "-n", "-B", "env").stdout


def torch_pin():
    return f"'{re.search('^torch==.*', (ROOT / 'constraints.txt').read_text(), flags=re.M)[0]}'"


def test_a_folder_without_wheels_gets_one_clear_sentence(tmp_path):
    made = run("make", "env", f"WHEELS={tmp_path}")
    assert made.returncode and not made.stdout
    assert f"{tmp_path} has no torch: `make wheelhouse` fills" in made.stderr
    assert made.stderr.count("\n") == 1


# --- the reader's copies ---


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


def test_fresh_says_what_it_restored(course, tmp_path):
    mine = tmp_path / "my_notebooks"
    copies.copy(course, mine)
    for name, source in (("01_a", "a"), ("02_b", "my answer")):
        (mine / f"{name}.ipynb").write_text(notebook(source, execution_count=3))
    assert copies.copy(course, mine, fresh=True, names=["03"]) == [
        "nothing to restore: your copies are as the course has them"
    ]
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


def test_copies_that_cannot_be_made_are_told_of_in_a_sentence(course, tmp_path):
    (tmp_path / "my_notebooks").write_text("a file in the place of the folder")
    made = run(sys.executable, "-I", ROOT / "qlesson" / "teach" / "copies.py", cwd=tmp_path)
    assert made.returncode == 1 and made.stderr == ""
    assert made.stdout.startswith("The notebooks could not be copied to my_notebooks, which is as")
    assert (tmp_path / "my_notebooks").read_text() == "a file in the place of the folder"


def test_copies_need_nothing_installed(course, tmp_path):
    script = ROOT / "qlesson" / "teach" / "copies.py"
    made = run(sys.executable, "-I", "-S", script, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "my_notebooks" / "01_a.ipynb").exists()


# --- the package ---


def test_importing_qlesson_is_cheap():
    """Nothing is loaded until a name is asked for; then torch is, and nothing for notebooks."""
    code = "import sys, qlesson{}; print(*{{m.split('.')[0] for m in sys.modules}})"
    assert "torch" not in run(sys.executable, "-c", code.format("")).stdout.split()
    every = code.format("\nfrom qlesson import *\nquantize")
    loaded = set(run(sys.executable, "-c", every).stdout.split())
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "ipywidgets", "IPython", "onnx", "onnxruntime", "torchao"}


def test_the_version_stands_in_one_place():
    assert f"\nversion: {qlesson.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_wheel_carries_the_data(tmp_path):
    """Everything under qlesson/ that git tracks is installed."""
    code = "import sys; from flit_core import buildapi; print(buildapi.build_wheel(sys.argv[1]))"
    built = run(sys.executable, "-c", code, tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        p.relative_to(ROOT).as_posix() for p in tracked() if p.is_relative_to(ROOT / "qlesson")
    }
    assert wanted <= inside
    assert not [name for name in inside if name.startswith(("tests", "notebooks"))]


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return project["dependencies"] + extras["slides"] + extras["book"] + extras["test"]


def name_of(requirement):
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0].lower().replace("-", "_")


def test_every_dependency_is_pinned_once():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)  # no +cpu, no index
    pinned = [name_of(line) for line in lines]
    assert len(set(pinned)) == len(pinned)
    assert {name_of(r) for r in requirements()} <= set(pinned)


# --- conda and Binder ---


def test_binder_has_the_environment_of_conda():
    assert (ROOT / "binder/environment.yml").read_text() == (ROOT / "environment.yml").read_text()


def test_conda_asks_for_what_pip_asks_for():
    text = (ROOT / "environment.yml").read_text()
    conda = {name_of(r): r for r in re.findall(r"^  - (\S+)$", text, flags=re.M)}
    there = {"torch": "pytorch_cpu", "matplotlib": "matplotlib_base"}
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in core:
        name = there.get(name_of(requirement), name_of(requirement))
        assert conda[name].partition(">=")[2] == requirement.partition(">=")[2]


def test_binder_builds_from_them():
    """repo2docker prints the Dockerfile that Binder would build."""
    made = run(
        *(sys.executable, "-m", "repo2docker", "--no-build", "--debug"),
        *("--Repo2Docker.default_buildpack=None", "."),
    )
    said = made.stdout + made.stderr
    assert made.returncode == 0, said
    assert 'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"' in said
    assert "py-3.12" in said or "2e12" in said  # the pin python=3.12 was understood
    assert "RUN ./binder/postBuild" in said
    post_build = ROOT / "binder/postBuild"
    assert post_build.stat().st_mode & stat.S_IXUSR
    assert "pip install --no-deps -e ." in post_build.read_text()


# --- the server ---


def server_config():
    names = ("ContentsManager", "LabApp", "ServerApp")
    config = types.SimpleNamespace(**{name: types.SimpleNamespace() for name in names})
    exec((ROOT / "qlesson" / "teach" / "server_config.py").read_text(), {"c": config})
    return config


def test_the_server_finds_what_hides_the_answers():
    config = server_config()
    assert config.LabApp.custom_css is True
    (folder,) = config.ServerApp.tornado_settings["static_custom_path"]
    assert ".jp-OutputPlaceholder" in (Path(folder) / "custom.css").read_text()


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


def test_the_settings_reach_the_server_of_make_lab_and_of_binder():
    end = "etc/jupyter/jupyter_server_config.py"
    would = run("make", "-n", "-B", "lab").stdout
    assert f"cp qlesson/teach/server_config.py .venv/{end}" in would
    post_build = (ROOT / "binder/postBuild").read_text()
    assert f'cp qlesson/teach/server_config.py "$NB_PYTHON_PREFIX/{end}"' in post_build


# --- words ---

# Folders of the machine that a file was written on. test_lint.py has some as bad examples, and lint
# looks for them in the notebooks.
FOLDERS = [f"/{name}/" for name in ("root", "home", "work", "Users")]


def test_no_file_names_the_machine_it_was_made_on():
    for path in tracked():
        if path.suffix in (".ipynb", ".safetensors", ".png") or path.name == "test_lint.py":
            continue
        text = path.read_text(encoding="utf-8").replace("/home/jovyan", "HOME of Jupyter's images")
        assert [f for f in FOLDERS if f in text] == [], path
        hosts = re.findall(r"(?:index-url|INDEX[:=]|find-links)[ =]*https?://([^/\s\"']+)", text)
        assert set(hosts) <= {"download.pytorch.org", "example.org"}, path


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    path = ROOT / name
    assert list(github.broken_links(path.read_text(encoding="utf-8"), path)) == []


def test_the_readme_names_commands_that_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        blocks = re.findall(r"^make ([a-z-]+)", text, flags=re.M)
        named = {*blocks, *re.findall(r"`make ([a-z-]+)", text)}
        assert {"test"} < named <= set(TARGETS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    conda = re.search(r"conda env create.*?```", readme, flags=re.S)[0]
    header = "\n".join(
        re.findall(r"^#   (.+)$", (ROOT / "environment.yml").read_text(), flags=re.M)
    )
    assert header in conda


def test_the_notebooks_say_on_which_machine_they_were_stored():
    assert re.search(r", torch 2\.\d+", refresh.stored_on(ROOT / "notebooks"))


def test_ci_calls_the_command_of_the_readme():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert '\nmake test "$@"\n' in script.read_text()
    assert "tests/machines.py --model noise" in script.read_text()
    assert ".ci/run" in (ROOT / ".github/workflows/test.yml").read_text()
