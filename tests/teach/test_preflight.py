"""The check of the reader's machine: `python -m qlesson.teach.preflight`."""

import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qlesson.teach import preflight

ROOT = Path(__file__).parents[2]


def test_this_machine_is_ready(capsys):
    assert preflight.report() == 0
    lines = capsys.readouterr().out.splitlines()
    with_gpu = torch.cuda.is_available()
    assert len(lines) == 12 + with_gpu and all(line.startswith("OK   ") for line in lines)


def test_the_output_names_no_version_that_changes(capsys):
    preflight.report()
    assert "2.13" not in capsys.readouterr().out  # else the notebook differs between machines


def test_it_asks_for_what_pyproject_asks_for():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, least in (preflight.NEEDS | preflight.LAB).items():
        stated = re.search(rf'^    "{name}>=([\d.]+)",', text, flags=re.M)[1]
        assert stated == ".".join(map(str, least))
    needed = text.split("\ndependencies = [\n")[1].split("]\n")[0]
    assert sorted(re.findall(r'^    "(\w+)>=', needed, flags=re.M)) == sorted(preflight.NEEDS)


# Colab's; without JupyterLab, since Colab shows the notebook.
COLAB = re.findall(
    r"^(\w+)==(.+)$", (ROOT / "tests/colab.txt").read_text(encoding="utf-8"), flags=re.M
)
COLAB = dict(COLAB) | {"torch": "2.11.0+cu128"}
COLAB |= dict.fromkeys(("pillow", "safetensors", "tqdm"), "99.0")  # which change no page


def test_colab_is_ready_and_its_gpu_is_named(monkeypatch, capsys):
    monkeypatch.setattr(preflight, "_version", COLAB.get)
    monkeypatch.setenv("QLESSON_DEVICE", "cpu")  # a GPU of this machine has a line too
    assert preflight.report() == 1 and "FIX  jupyterlab" in capsys.readouterr().out
    monkeypatch.setattr(preflight, "_in_notebook", lambda: True)
    assert preflight.report() == 0
    without = capsys.readouterr().out.splitlines()
    assert "OK   matplotlib 3.10 or later" in without and len(without) == 11
    monkeypatch.setattr(preflight, "_device", lambda: ("cuda:0", ""))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Tesla T4 ({device})")
    assert preflight.report() == 0
    (line,) = set(capsys.readouterr().out.splitlines()) - set(without)
    assert line == "OK   a GPU: Tesla T4 (cuda:0)"
    # The line is nowhere stored: what a test compares is without it.
    rule = runpy.run_path(str(ROOT / "conftest.py"))["A_GPU"]
    assert re.sub(rule, "", f"OK   a\n{line}\nOK   b\n") == "OK   a\nOK   b\n"


@pytest.mark.parametrize("found", [None, "2.10.9", "1.99"])
def test_an_old_or_missing_package_is_named_with_its_remedy(monkeypatch, capsys, found):
    real = preflight._version
    monkeypatch.setattr(preflight, "_version", lambda n: found if n == "torch" else real(n))
    assert preflight.report() == 1
    assert 'FIX  torch 2.11 or later: run: pip install "torch>=2.11"' in capsys.readouterr().out


def test_a_wrong_device_is_named(monkeypatch, capsys):
    monkeypatch.setenv("QLESSON_DEVICE", "abacus")
    assert preflight.report() == 1
    assert "FIX  a device for torch: QLESSON_DEVICE='abacus'" in capsys.readouterr().out


def test_files_that_a_container_has_read_are_free_memory(monkeypatch):
    """2 GB allowed, 1.5 used, of which 1.2 may be given up; the machine has more."""
    files = {
        "/proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n",
        "/sys/fs/cgroup/memory.max": "2000000000\n",
        "/sys/fs/cgroup/memory.current": "1500000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 300000000\ninactive_file 1200000000\nslab 1\n",
    }
    monkeypatch.setattr(
        preflight, "open", lambda path, **how: io.StringIO(files[path]), raising=False
    )
    assert preflight._free_gigabytes() == pytest.approx(1.7)
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert preflight._free_gigabytes() == pytest.approx(8)


def test_little_memory_and_a_locked_folder_are_named(monkeypatch, capsys):
    monkeypatch.setattr(preflight, "_free_gigabytes", lambda: 0.2)
    monkeypatch.setattr(preflight, "_can_write", lambda: False)
    assert preflight.report(details=True) == 2
    text = capsys.readouterr().out
    assert "FIX  1 GB of free memory: close other notebooks" in text and "(0.2 GB)" in text
    assert "FIX  a folder to write to: " in text


def test_a_script_can_read_the_exit_status():
    run = subprocess.run(
        [sys.executable, "-m", "qlesson.teach.preflight"],
        capture_output=True, text=True, cwd=ROOT, env={"QLESSON_DEVICE": "abacus"}, check=False,
    )  # fmt: skip
    assert run.returncode == 1 and "FIX  a device" in run.stdout


@pytest.mark.parametrize("installed", [(), ("torch", "numpy")])
def test_it_runs_on_a_python_that_has_nothing_installed(tmp_path, installed):
    """Without site-packages; of what is `installed`, a folder that cannot be imported is there."""
    for name in installed:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('it is broken')")
    run = subprocess.run(
        [sys.executable, "-S", "-m", "qlesson.teach.preflight"],
        capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    lines = run.stdout.splitlines()
    assert run.returncode == 1 and not run.stderr
    assert len(lines) == 12
    assert all(f"FIX  {name} " in run.stdout for name in preflight.NEEDS | preflight.LAB)
    assert "FIX  a device for torch: " in run.stdout and "OK   Python 3.11" in run.stdout


def test_what_is_missing_is_named_where_it_is_asked_for():
    code = "import qlesson.teach\ntry: qlesson.teach.show\nexcept ImportError as e: print(e.name)"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, env={}
    )
    assert run.stdout.split() in (["numpy"], ["torch"], ["matplotlib"]) and not run.stderr


def test_qlesson_itself_loads_its_names_when_they_are_asked_for():
    code = (
        "import sys, qlesson as ql\n"
        "assert 'torch' not in sys.modules and 'Scheme' in dir(ql)\n"
        "assert ql.Scheme().bits == 8 and 'torch' in sys.modules\n"
        "from qlesson import *\n"
        "assert quantize is ql.quantize is ql.qtensor.quantize and ql.ranges.KL_BINS == 2048\n"
        "try: ql.nothing\n"
        "except AttributeError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "module 'qlesson' has no attribute 'nothing'\n" and not run.stderr
