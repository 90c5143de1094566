"""A published language model beside llama.cpp, on the same file.

python -m qlesson.bench.llama               the table, in a minute; needs `make models`
python -m qlesson.bench.llama --json FILE   the same, stored

llama.cpp, where xllamacpp is installed, has as many threads as torch, and rounds the inputs of a
product to 8 bits; ours are float32. Its wheel is compiled for AVX2, which the report says. It runs
in a process of its own: in one process its threads and torch's are more than there are cores, and
OpenMP puts them to sleep between two products.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import qlesson as ql
from qlesson import checks
from qlesson.bench.measure import Call, measure
from qlesson.bench.report import absences, as_json, machine, not_compiled, version
from qlesson.models import llama

WRITTEN, READ = 64, 256  # tokens of an answer, and of a prompt
ROUNDS = 4
KEPT = {"qlesson": "codes", "float32": "float"}
LLAMA_CPP = """
import json, sys, xllamacpp
how = xllamacpp.CommonParams()
how.model.path, how.n_ctx, how.n_parallel = sys.argv[1], int(sys.argv[2]), 1
how.cpuparams.n_threads = how.cpuparams_batch.n_threads = int(sys.argv[3])
how.verbosity, how.cache_ram_mib = 0, 0
server = xllamacpp.Server(how)
for line in sys.stdin:
    ids, n = json.loads(line)
    asked = {"prompt": ids, "max_tokens": n, "temperature": 0, "ignore_eos": True}
    said = server.handle_completions(asked | {"cache_prompt": False})
    print("written", said["usage"]["completion_tokens"], flush=True)
"""
FRESH = """
import pathlib, re, sys, time
from qlesson.models import llama
begin = time.perf_counter()
model, tokenizer = llama.load(sys.argv[1], sys.argv[2])
loaded = time.perf_counter()
ids = tokenizer.chat("What is the capital of France?")
next(model.generate(ids, 1))
first = time.perf_counter()
list(model.generate(ids, 20))
status = pathlib.Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
print(loaded - begin, first - loaded, 1024 * peak / 1e6)
"""


def run_llama(path: Path, progress: Call = lambda: None) -> list[dict[str, Any]]:
    """A row for each contestant and each work: ms for a token, and the bytes of weights held."""
    models = {name: llama.load(path, keep)[0] for name, keep in KEPT.items()}
    for model in models.values():
        model.config = dataclasses.replace(model.config, ends=())  # all write as many
    held = {name: _nbytes(model) for name, model in models.items()}
    peer = _llama_cpp(path)
    rows = []
    for work, prompt, written in (("writing", 1, WRITTEN), ("reading", READ, 1)):
        ids = list(range(prompt))
        calls = {name: _ours(model, ids, written) for name, model in models.items()}
        if peer is not None:
            calls["llama.cpp"] = partial(peer, ids, written)
        tokens = max(prompt, written)
        for name, ms in measure(calls, rounds=ROUNDS).items():
            times = dict(zip(("ms", "low", "high"), (t / tokens for t in ms), strict=True))
            nbytes = held["float32" if name == "float32" else "qlesson"]
            rows.append({"contestant": name, "work": work, "nbytes": nbytes, **times})
        progress()
    return rows


def _ours(model: llama.Llama, ids: list[int], n: int) -> Call:
    def run() -> None:
        with ql.use_kernels("compiled"):
            list(model.generate(ids, n))

    return run


def _nbytes(model: torch.nn.Module) -> int:
    """Of the weights, each once: one token reads them all, and of the tied embedding a row more."""
    held = {x.data_ptr(): x.nbytes for x in (*model.buffers(), *model.parameters())}
    return sum(held.values())


def _llama_cpp(path: Path) -> Any:
    """A function that makes llama.cpp read ids and write n tokens; None where it is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    sizes = map(str, (2 * READ, torch.get_num_threads()))
    started = [sys.executable, "-c", LLAMA_CPP, str(path), *sizes]
    peer = subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(ids: list[int], n: int) -> None:
        print(json.dumps([ids, n]), file=peer.stdin, flush=True)
        said = (line for line in peer.stdout or () if line.startswith("written"))
        answer = next(said, "nothing")
        if answer.split() != ["written", str(n)]:
            raise RuntimeError(f"llama.cpp has {answer.strip()}, in the place of {n} tokens.")

    return call


def built_for() -> str | None:
    """The instructions that llama.cpp was compiled for: a wheel does without the newest."""
    asked = "import xllamacpp; print(xllamacpp.get_system_info())"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    names = re.findall(r"(\w+) = 1", said.stdout.rpartition("CPU")[2])
    return " ".join(names) or None


def run_fresh(path: Path) -> list[dict[str, Any]]:
    """Seconds to load, and then to the first token, compiling included, and MB at the most: each in
    a process of its own, which finds no compiled loop of an earlier one. On Linux alone."""
    rows = []
    for name, keep in KEPT.items():
        with tempfile.TemporaryDirectory() as empty:
            asked = [sys.executable, "-c", FRESH, str(path), keep]
            its = os.environ | {
                "TORCHINDUCTOR_CACHE_DIR": empty,
                "OMP_NUM_THREADS": str(torch.get_num_threads()),
            }
            said = subprocess.run(asked, env=its, capture_output=True, text=True, check=True)
        figures = (float(f"{float(x):.3g}") for x in said.stdout.split())
        keys = ("load_s", "first_token_s", "peak_mb")
        rows.append({"contestant": name, **dict(zip(keys, figures, strict=True))})
    return rows


def absent(rows: list[dict[str, Any]]) -> dict[str, str]:
    """{who is missing: why}."""
    found = not_compiled()
    if "llama.cpp" not in {row["contestant"] for row in rows}:
        found["llama.cpp"] = "xllamacpp is not installed"
    if sys.platform != "linux":
        found["loading"] = "its memory is read from Linux's /proc"
    return found


def table(results: dict[str, Any]) -> str:
    """A line for each contestant: tokens a second, and how many times llama.cpp's and float32's."""
    lines = [f"{results['device']}, {results['date']}, torch {results['versions']['torch']}"]
    lines += absences(results)
    for work in ("writing", "reading"):
        rows = {r["contestant"]: r for r in results[work]}
        lines.append(f"\n{work}: tokens a second; times llama.cpp's, times float32's")
        for name, row in rows.items():
            line = f"  {name:20}{1000 / row['ms']:8.1f}"
            for other in ("llama.cpp", "float32"):
                line += f"{rows[other]['ms'] / row['ms']:8.2f}" if other in rows else "       -"
            lines.append(line)
    for row in results["fresh"]:
        lines.append("\n" + "  ".join(f"{key} {x}" for key, x in row.items()))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="qlesson.bench.llama", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", metavar="FILE", help="store the report")
    args = parser.parse_args(argv)
    try:
        path = llama.smollm2()
        if args.json is not None:
            checks.new_file("--json", args.json)
        llama.load(path)  # a file that holds no model is refused here
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    rows = run_llama(path, lambda: print(".", end="", flush=True))
    results = machine()
    results["versions"] |= {"xllamacpp": version("xllamacpp")}
    results["absent"] = absent(rows)
    results["llama.cpp"] = built_for()
    results |= {work: [r for r in rows if r["work"] == work] for work in ("writing", "reading")}
    results["fresh"] = run_fresh(path) if sys.platform == "linux" else []
    print("\n" + table(results))
    if args.json:
        Path(args.json).write_text(as_json(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
