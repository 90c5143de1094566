"""What is published: the files that are built, installed where there is nothing else, started."""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import time
import urllib.request
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import qlesson
from qlesson.authoring import address

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSIDE = "qlesson/course/notebooks/"  # where an installed package has the notebooks


def run(*command, cwd=ROOT, **more):
    done = subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source, to):
    """The wheel and the source archive of the folder `source`, as pip and `build` make them."""
    for kind in ("wheel", "sdist"):
        code = f"import sys; from hatchling import build; build.build_{kind}(sys.argv[1])"
        run(sys.executable, "-c", code, to, cwd=source)
    (wheel,), (archive,) = to.glob("*.whl"), to.glob("*.tar.gz")
    return wheel, archive


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def description(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith("/METADATA"))
        return message_from_string(wheel.read(name).decode("utf-8"))


@pytest.fixture(scope="module")
def tracked():
    """The files that are, or would be, committed, as paths from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def names_in(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


def test_the_wheel_carries_the_package_and_the_notebooks(built, tracked):
    package = {name for name in tracked if name.startswith("qlesson/")}
    course = {name for name in tracked if name.startswith("notebooks/")}
    assert len(course) > 14
    assert names_in(built[0]) == package | {INSIDE + n.removeprefix("notebooks/") for n in course}


def test_the_archive_carries_everything_and_builds_the_same_wheel(built, tracked, tmp_path):
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    files = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert files == tracked | {"PKG-INFO"}
    (tmp_path / "again").mkdir()
    assert names_in(build(source, tmp_path / "again")[0]) == names_in(built[0])


def test_the_index_takes_them(built):
    said = run(sys.executable, "-m", "twine", "check", "--strict", *built)
    assert said.count("PASSED") == 2 and "WARNING" not in said.upper()


def test_the_page_of_the_package_has_whole_links_and_a_picture_that_is_there(description):
    text = description.get_payload()
    links = re.findall(r"\]\(([^)\s]+)", text)
    assert len(links) > 10 and all(re.match("https://|#", link) for link in links)
    raw = (
        address.REPOSITORY.replace("https://github.com", "https://raw.githubusercontent.com")
        + "/main/"
    )
    pictures = [link for link in links if link.startswith(raw)]
    assert pictures
    for link in pictures + [x for x in links if x.startswith(address.page(""))]:
        path = link.removeprefix(raw).removeprefix(address.page("")).partition("#")[0]
        assert (ROOT / path).exists(), link


def test_the_page_of_the_package_says_where_it_is_from(description):
    urls = dict(line.split(", ", 1) for line in description.get_all("Project-URL"))
    assert urls["Repository"] == address.REPOSITORY and urls["Issues"].startswith(
        address.REPOSITORY
    )
    assert description["Version"] == qlesson.__version__
    versions = [c for c in description.get_all("Classifier") if re.search(r":: 3\.\d+$", c)]
    assert len(versions) > 3 and all(v.rpartition(" ")[2] in README for v in versions)


# --- installed ---


@pytest.fixture(scope="module")
def empty(built, tmp_path_factory):
    """A Python of its own with what README.md installs, and nothing else; its packages' folder."""
    folder = tmp_path_factory.mktemp("an empty Umgebung für 日本")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    (words,) = re.findall(r"`pip (install [^`]+)`", README)
    from_here = ["--no-deps", "--no-index", "--find-links", built[0].parent]
    run(*pip, *shlex.split(words), "-q", *from_here)
    (installed,) = folder.rglob("qlesson/__init__.py")
    return python, installed.parents[1]


def alone(**more):
    """An environment in which nothing says where this checkout is, on a console of Windows."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPYTER"))}
    return ours | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"} | more


def test_the_command_runs_where_nothing_is_installed(empty, tmp_path):
    python, _ = empty
    command = python.with_name("qlesson" + python.suffix)
    assert (
        run(command, "--version", cwd=tmp_path, env=alone()).strip()
        == f"qlesson {qlesson.__version__}"
    )
    checked = subprocess.run(
        [command, "preflight"], cwd=tmp_path, env=alone(), capture_output=True, text=True
    )
    assert checked.returncode == 1 and "FIX  jupyterlab" in checked.stdout and not checked.stderr
    opened = subprocess.run(
        [command, "lab"], cwd=tmp_path, env=alone(), capture_output=True, text=True
    )
    assert opened.returncode == 1 and 'pip install "qlesson[lab]"' in opened.stdout


def test_the_course_starts(empty, tmp_path):
    """`qlesson lab` serves a notebook, hides the answers of bets, and asks about no news."""
    python, packages = empty
    ours = Path(sys.prefix)
    (packages / "others.pth").write_text(
        "\n".join(p for p in sys.path if p.endswith("-packages")), encoding="utf-8"
    )
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    env = alone(
        JUPYTERLAB_DIR=str(ours / "share" / "jupyter" / "lab"),
        JUPYTER_PATH=str(ours / "share" / "jupyter"),
        **{name: str(tmp_path / name) for name in places},
    )
    folder = tmp_path / "Übungen für 日本"
    log = tmp_path / "log"
    with log.open("wb") as out:
        words = README.partition("`, then `qlesson ")[2].partition("`")[0].split()
        command = [python.with_name("qlesson" + python.suffix), *words, folder, "--no-browser"]
        options = ["--IdentityProvider.token=", "--ServerApp.port=0", "--ServerApp.allow_root=True"]
        server = subprocess.Popen(
            [*command, *options], cwd=tmp_path, env=env, stdout=out, stderr=out
        )
    try:
        base = address_of(server, tmp_path / "JUPYTER_RUNTIME_DIR", log)
        page = asked(f"{base}lab/tree/00_start_here.ipynb")
        assert "JupyterLab" in page and "apputils-extension:announcements" in page
        notebook = json.loads(asked(f"{base}api/contents/00_start_here.ipynb"))
        assert notebook["content"]["cells"][0]["source"].startswith("# 00 ")
        assert ".jp-OutputPlaceholder" in asked(f"{base}custom/custom.css")
    finally:
        server.terminate()
        server.wait(300)
    assert (folder / "contest.csv").exists() and b"files copied to " in log.read_bytes()


def address_of(server, runtime, log, seconds=300):
    """Where the server listens, which it writes down once it does."""
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        for file in runtime.glob("jpserver-*.json"):
            try:
                found = json.loads(file.read_text(encoding="utf-8"))["url"]
                asked(f"{found}api")
                return found
            except (OSError, ValueError):
                pass
        time.sleep(0.1)
    pytest.fail("JupyterLab did not start:\n" + log.read_text(encoding="utf-8", errors="replace"))


def asked(url):
    with urllib.request.urlopen(url) as page:
        return page.read().decode("utf-8")
