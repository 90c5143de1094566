"""However the tests are started they run alike, and a cell that differs says what to do."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from qlesson.authoring import refresh

ROOT = Path(__file__).parents[1]
NEAR, FAR = "notebooks/01_near.ipynb", "notebooks/09_far.ipynb"

# What a cell prints today, more lines than pytest shows of a string; what an author stored.
CELL = "print('\\n'.join(f'line {n} of an output' for n in range(30)))"
LINES = [f"line {n} of an output" for n in range(30)]
STALE = [*LINES[:20], "line 20 of another output", *LINES[21:]]


@pytest.fixture(scope="module")
def conftest():
    return runpy.run_path(str(ROOT / "conftest.py"))


@pytest.mark.parametrize(
    "cores, gigabytes, number",
    [(1, 16, 1), (2, 16, 2), (4, 16, 4), (4, 5.5, 2), (16, 64, 8), (16, 1.9, 1)],
)
def test_the_workers_follow_the_cores_and_the_memory(conftest, cores, gigabytes, number):
    assert conftest["workers"](cores, gigabytes) == number


def test_the_files_that_start_first_are_there(conftest):
    assert all((ROOT / path).exists() for path in [*conftest["SECONDS"], *conftest["LAB"]])


def test_files_that_share_a_server_are_one_unit(conftest):
    units = {conftest["unit"](f"{path}::test[a::b]") for path in conftest["LAB"]}
    assert len(units) == 1 and units <= conftest["SECONDS"].keys()
    assert conftest["unit"]("tests/test_a.py::test[b::c]") == "tests/test_a.py"


class Item:
    """As much of a test as its place in the run depends on."""

    def __init__(self, path, slow=False):
        self.nodeid, self.slow, self.marked = f"{path}::test", slow, False

    def add_marker(self, name):
        self.marked = name == "slow"


def test_the_longest_start_first_and_the_slow_are_marked(conftest):
    first = [Item(path, slow=True) for path in sorted(conftest["LAB"])]
    long = [
        Item("tests/kernels/test_bits.py"),
        Item("notebooks/11_better_than_rounding.ipynb", True),
    ]
    rest = [Item("notebooks/01_linear_formula.ipynb"), Item("tests/test_affine.py")]
    items = [*rest, *long, *first]
    conftest["pytest_collection_modifyitems"](items)
    assert items == [*first, *long, *rest]
    assert [item.marked for item in items] == [item.slow for item in items]


# --- a small course, tested as this one is ---

TORCH = "def test_threads():\n    import torch\n\n    assert torch.get_num_threads() == 1\n"


def store(path, *cells):
    """A notebook of cells, each its id, its source and what it is stored to print."""
    nb = new_notebook()
    for id, source, text in cells:
        outputs = [new_output("stream", text=text)]
        nb.cells.append(new_code_cell(source, outputs=outputs, execution_count=1, id=id))
    nbformat.write(nb, path)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The settings of this course, a test, a good notebook, and one that differs and fails."""
    folder = tmp_path_factory.mktemp("course")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("notebooks", "tests"):
        (folder / name).mkdir()
    (folder / "tests/test_threads.py").write_text(TORCH)
    store(folder / NEAR, ("one", "import os\nprint(os.environ['OMP_NUM_THREADS'])", "1\n"))
    stale = "one", CELL, "\n".join(STALE) + "\n"
    store(folder / FAR, stale, ("two", "print('first')\n1 / 0", "first\n"))
    (folder / "notebooks" / refresh.STORED_ON).write_text("some words\nAnother CPU, torch 1.2\n")
    return folder


def started(folder, *words, **env):
    """What pytest prints there, started as a person does, and not as a worker of this run."""
    clean = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS" and "PYTEST" not in k}
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
    )
    return made.stdout + made.stderr


@pytest.fixture(scope="module")
def whole(course):
    return started(course, "--color=yes")


@pytest.mark.slow
def test_every_way_to_start_sets_the_threads(course, whole):
    assert re.search(r"2 failed.*, .*2 passed", whole)
    assert "1 passed" in started(course, NEAR)


@pytest.mark.slow
def test_what_the_caller_sets_stays(course):
    said = started(course, NEAR, "-n0", OMP_NUM_THREADS="2")
    assert "    -1\n    +2" in said


@pytest.mark.slow
def test_a_cell_that_differs_says_all(whole):
    for words in (
        f"{FAR}, Cell 0 (one): Cell outputs differ",
        "What is stored:\n" + indented(STALE),
        "What came:\n" + indented(LINES),
        "    -line 20 of another output\n    +line 20 of an output\n\n",
        "Stored on:\n    Another CPU, torch 1.2",
        f"Run on:\n    {refresh.machine()}",
        "make refresh N=09, and read the diff",
        'open an issue, "a number differs on my machine"',
    ):
        assert words in whole, whole
    assert "truncated" not in whole


def indented(lines):
    return textwrap.indent("\n".join(lines), "    ")


@pytest.mark.slow
def test_a_cell_that_fails_says_where(whole):
    assert f"{FAR}, Cell 1 (two): Cell execution caused an exception" in whole
    assert "ZeroDivisionError: division by zero" in whole
