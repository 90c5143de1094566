"""What surrounds the package: the commands, the environments, the links."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hatchling.build import get_requires_for_build_editable

import qlesson
from qlesson.authoring import refresh
from qlesson.authoring.lint import github

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
OWNER = "OWNER"  # in a word that the command to publish does not change
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = [
    "lab",
    "models",
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
    "colab",
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
        *(f'"{r}"' for r in (*backend, *get_requires_for_build_editable())),
        "'.[lab,slides]'",
    ]
    assert "index" not in run("make", "-n", "-B", "wheelhouse").stdout

    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    said = run("make", "-n", "-B", "env", f"WHEELS={tmp_path}").stdout
    installs = re.findall(r" pip .* install .*", said)
    assert len(installs) == 2
    assert all(f"--no-index --find-links '{tmp_path}'" in line for line in installs)
    assert "--no-index" not in run("make", "-n", "-B", "env").stdout


def torch_pin():
    return f"'{re.search('^torch==.*', (ROOT / 'constraints.txt').read_text(), flags=re.M)[0]}'"


def test_a_folder_without_wheels_gets_one_clear_sentence(tmp_path):
    made = run("make", "env", f"WHEELS={tmp_path}")
    assert made.returncode and not made.stdout
    assert f"{tmp_path} has no torch: `make wheelhouse` fills" in made.stderr
    assert made.stderr.count("\n") == 1


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


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    models = re.search(r"^MODELS = (.+)$", (ROOT / "Makefile").read_text(), flags=re.M)[1].split()
    alone = [*models, "compressed-tensors"]
    asked = [r for name in ("lab", "slides", "book", "test", "models") for r in extras[name]]
    return project["dependencies"] + asked + alone


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    for name, requirement in {name_of(r): r for r in asked}.items():  # the later of two counts
        assert conda[there.get(name, name)].partition(">=")[2] == requirement.partition(">=")[2]


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


# --- words ---

# Folders of the machine that a file was written on. test_lint.py has some as bad examples, and lint
# looks for them in the notebooks.
FOLDERS = [f"/{name}/" for name in ("root", "home", "work", "Users")]


def test_no_file_names_the_machine_it_was_made_on():
    for path in tracked():
        if path.suffix in (".ipynb", ".safetensors", ".png", ".gif") or path.name == "test_lint.py":
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
    conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert re.findall(r"^#   (.+)$", conda, flags=re.M) == [
        "conda env create -f environment.yml",
        "conda activate " + re.findall(r"^name: (.*)$", conda, flags=re.M)[0],
        "pip install --no-deps -e .",
        "qlesson lab",
    ]


@pytest.mark.skipif(not shutil.which("perl"), reason="needs perl")
@pytest.mark.skipif(f"{OWNER}/NAME" not in README, reason="the address is in its place already")
def test_the_command_that_puts_the_address_in_leaves_no_placeholder(tmp_path):
    """And the workflow that publishes asks for it as it did before."""
    command = re.findall(rf"^git grep -lz {OWNER} .*", CONTRIBUTING, flags=re.M)[0]
    asked = placeholders(ROOT)
    for path in tracked():
        held = path.suffix not in (".safetensors", ".png", ".gif") and path.read_bytes()
        if held and OWNER.encode() in held:
            copied = tmp_path / path.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
    for words in ("git init -q", "git add ."):
        assert run("bash", "-c", words, cwd=tmp_path).returncode == 0
    assert run("bash", "-c", asked, cwd=tmp_path).returncode == 1
    made = run("bash", "-c", command, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert placeholders(tmp_path) == asked
    assert run("bash", "-c", asked, cwd=tmp_path).returncode == 0
    # The address in all its forms.
    assert run("git", "diff", "--stat", "--", "CONTRIBUTING.md", cwd=tmp_path).stdout
    text = "".join(p.read_text(encoding="utf-8") for p in tmp_path.glob("notebooks/*"))
    for part in ("course/quantization", "course%2Fquantization", "cd quantization"):
        assert part in text


def workflows():
    for path in (ROOT / ".github/workflows").iterdir():
        yield path, yaml.safe_load(path.read_text(encoding="utf-8"))


def placeholders(root):
    """What the workflow that publishes runs to see that none is left."""
    said = yaml.safe_load((root / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    steps = (step.get("run", "") for step in said["jobs"]["build"]["steps"])
    return next(words for words in steps if "git grep" in words)


def test_the_workflow_runs_on_every_system_with_the_lowest_and_the_newest_versions():
    jobs = dict(((p.name, w["jobs"]) for p, w in workflows()))["test.yml"]
    matrix = jobs["systems"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.11", "3.14"]
    # The course's GPT was trained on the texts of this one: what is compared with them, is here.
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11.7", "3.14"]
    assert matrix["versions"] == ["lowest-direct", "highest"]
    assert any("tests/colab.txt" in step.get("run", "") for step in jobs["colab"]["steps"])


def test_workflows_and_containers_call_what_is_there():
    small = re.findall(r"^  make lab TORCH_INDEX=(\S+)", README, flags=re.M)[0]
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    words = [container["postCreateCommand"]]
    assert words == [f"make env TORCH_INDEX={small}"]
    assert all((ROOT / p).exists() for p in container["customizations"]["codespaces"]["openFiles"])
    for path, flow in workflows():
        steps = [step for job in flow["jobs"].values() for step in job["steps"]]
        words += [step.get("run", "") for step in steps]
        hosts = re.findall(r"https://download\S+", path.read_text(encoding="utf-8"))
        assert set(hosts) <= {small}
    made = {target for line in words for target in re.findall(r"^make ([a-z-]+)", line, flags=re.M)}
    assert {"env", "colab"} <= made <= set(TARGETS)


def test_a_tag_publishes_what_was_checked_and_started():
    jobs = dict((p.name, w["jobs"]) for p, w in workflows())["release.yml"]
    assert [jobs[name]["needs"] for name in ("start", "pypi", "colab")] == [
        "build",
        "start",
        "pypi",
    ]
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}  # trusted: no password is stored
    said = " ".join(step.get("run", "") for step in jobs["build"]["steps"])
    assert placeholders(ROOT) in said
    assert "twine check --strict" in said and "__version__" in said


def test_every_file_ends_its_lines_alike():
    kinds = (ROOT / ".gitattributes").read_text(encoding="utf-8")
    assert "* text=auto eol=lf\n" in kinds
    binary = set(re.findall(r"^\*(\.\w+) binary$", kinds, flags=re.M))
    for path in tracked():
        assert (b"\0" in path.read_bytes()) == (path.suffix in binary), path
        assert path.suffix in binary or b"\r" not in path.read_bytes(), path


def test_the_notebooks_say_on_which_machine_they_were_stored():
    assert re.search(r", torch 2\.\d+", refresh.stored_on(ROOT / "notebooks"))


def test_ci_calls_the_command_of_the_readme():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert '\nmake test "$@"\n' in script.read_text()
    assert '\nmake models "$@"\nexport QLESSON_REQUIRE_MODELS=1\n' in script.read_text()
    assert "tests/machines.py noise -- notebooks/" in script.read_text()
    assert ".ci/run" in (ROOT / ".github/workflows/test.yml").read_text()
