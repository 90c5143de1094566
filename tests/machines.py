"""The notebooks as other machines run them: each setting is one strict run, the result a table.

    python tests/machines.py                    every setting, every notebook
    python tests/machines.py oldest noise       these settings
    python tests/machines.py --model            the notebooks that pass through a model alone
    python tests/machines.py -- tests           another selection, in place of notebooks
    python tests/machines.py --python PATH      with the torch of another environment

A processor without some vector instructions is played by telling torch, oneDNN and MKL not to use
them. `noise` changes the last bits of all that no standard fixes (another_machine.py), which is
more than any real machine does. Ends with status 1 if a setting differs from what is stored; what
pytest said of it is then in build/machines.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait leave the core to another worker
SETTINGS = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "mkl-avx2": {"MKL_CBWR": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "mkl-sse42": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "threads-1": {"OMP_NUM_THREADS": "1"},
    "threads-2": {"OMP_NUM_THREADS": "2", **PASSIVE},
    "threads-4": {"OMP_NUM_THREADS": "4", **PASSIVE},
    "oldest": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "2",
        **PASSIVE,
    },
    "noise": {"QLESSON_NOISE": "1"},
    "noise-2": {"QLESSON_NOISE": "2"},
}
# What a kernel of Jupyter runs before its first cell, in the folder that IPYTHONDIR names.
STARTUP = f"import runpy; runpy.run_path({str(ROOT / 'tests' / 'another_machine.py')!r})\n"


def with_model():
    """The notebooks that run a model."""
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [str(p) for p in notebooks if "tinygpt" in p.read_text(encoding="utf-8")]


def run(python, setting, targets, ipython):
    """(seconds, pytest's closing line, the cells that differ)."""
    environment = os.environ | SETTINGS[setting] | {"IPYTHONDIR": ipython}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [python, "-m", "pytest", "-q", "-rf", "-p", "another_machine", *targets]
    start = time.monotonic()
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    lines = result.stdout.splitlines()
    failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]
    if result.returncode:
        failed = failed or [*lines[-5:], *result.stderr.splitlines()[-5:]]
        home = ROOT / "build" / "machines"
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{setting}.txt").write_text(result.stdout + result.stderr, encoding="utf-8")
    return time.monotonic() - start, lines[-1] if lines else "", failed


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="setting", help=", ".join(SETTINGS))
    parser.add_argument("--model", action="store_true", help="only notebooks that run a model")
    parser.add_argument("--python", default=sys.executable, help="of another environment")
    arguments = sys.argv[1:] if arguments is None else arguments
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, targets = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    unknown = set(options.settings) - set(SETTINGS)
    if unknown:
        parser.error(f"no setting is named {', '.join(unknown)}: choose from {', '.join(SETTINGS)}")
    targets = targets or (with_model() if options.model else ["notebooks"])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        startup = Path(folder, "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "another_machine.py").write_text(STARTUP, encoding="utf-8")
        for setting in options.settings or SETTINGS:
            seconds, closing, failed = run(options.python, setting, targets, folder)
            print(f"{setting:15s} {seconds:6.0f} s  {closing.strip('= ')}", flush=True)
            for line in failed:
                print(f"                  {line}", flush=True)
            bad |= bool(failed)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
