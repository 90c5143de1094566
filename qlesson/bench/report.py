"""A report: where and when, the rows, and what they say (notebook 13)."""

import datetime
import json
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

import qlesson as ql
from qlesson import checks
from qlesson.bench.cells import (
    FLOOR,
    GRANULARITIES,
    WORKS,
    Job,
    run,
    run_bandwidth,
    run_division,
    run_memory,
    run_pieces,
    run_sizes,
    run_steps,
)
from qlesson.bench.measure import clock, measure
from qlesson.bench.peers import formula
from qlesson.bench.product import READ_ONCE, WIDTH, run_encoding, run_product, run_writing
from qlesson.kernels import modes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def quick(nbytes: int = 2**27) -> str:
    """This machine in some seconds, eagerly: the formula in one piece, in pieces, and the floor."""
    job = Job("given scale", "tensor", "float32", nbytes, ql.best_device().type)
    ours = {"in pieces": job.ours()["eager"]}
    times = measure(formula(job) | ours | {FLOOR: job.floor()}, job.device)
    lines = [f"{machine(job.device)['device']}, {nbytes / 1e6:.0f} MB of float32"]
    return "\n".join(lines + [f"{name:16}{ms:8.2f} ms" for name, (ms, _, _) in times.items()])


def report(
    nbytes: int = 2**27,
    device: str = "cpu",
    sizes: bool = False,
    progress: Callable[[object], object] | None = None,
) -> dict[str, Any]:
    """Everything that is stored: where and when, who is absent and why, and the rows."""
    absent: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.quantize_per_tensor is deprecated
        results = {
            **machine(device),
            "absent": absent,
            "bandwidth": run_bandwidth(nbytes if device == "cpu" else 8 * nbytes, device),
            "rows": run(nbytes, device, progress, absent),
            "product": run_product(max(1, nbytes // (2 * WIDTH)), device, progress, absent),
            "writing": run_writing(device=device),
            "encoding": run_encoding(device),
        }
        if sizes:
            results["sizes"] = run_sizes(device=device)
        if device != "cpu":
            results["division"] = run_division(device=device)
        if sizes and device == "cpu":
            beside = {"pieces": run_pieces, "memory": run_memory, "steps": run_steps}
            results |= {part: rows(nbytes) for part, rows in beside.items()}
    if not results["encoding"]:
        absent["MiniLM"] = "not installed"
    absent |= not_compiled()
    return results


def machine(device: str = "cpu") -> dict[str, Any]:
    """Device, date and versions."""
    peers = ("onnxruntime", "torchao", "bitsandbytes")
    versions = {name: version(name) for name in ("torch", "numpy", *peers)}
    return {
        "device": torch.cuda.get_device_name() if device != "cpu" else processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "clock": clock(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: v for name, v in versions.items() if v},
    }


def processor() -> str:
    """The model of the processor and its cores, nothing else about the machine."""
    threads = torch.get_num_threads()
    cores = "1 core" if threads == 1 else f"{threads} cores"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.processor() or platform.machine()}, {cores}"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{' '.join((names or [platform.machine()])[0].split())}, {cores}"


def version(name: str) -> str | None:
    """Of an installed package, or None."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def stored(name: str) -> dict[str, Any]:
    """A stored report: "cpu", "cpu_avx2" of the same processor without AVX-512, "xeon" of
    another, "h200" of a GPU, "smollm2"."""
    checks.one_of("name", name, sorted(path.stem for path in RESULTS.glob("*.json")))
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def as_json(results: dict[str, Any]) -> str:
    """A report as JSON, a row to a line, times to four digits."""
    timed = ("bandwidth", "rows", "product", "writing", "encoding", "reading", "sizes")
    parts = (*timed, "pieces", "memory", "steps")
    for part in parts:
        for row in results.get(part, []):
            row |= {key: float(f"{row[key]:.4g}") for key in ("ms", "low", "high")}
    return json.dumps(results).replace('[{"', '[\n{"').replace('}, {"', '},\n{"') + "\n"


def ms_of(rows: Iterable[dict[str, Any]], **wanted: Any) -> dict[str, float]:
    """{contestant: median ms} of one cell."""
    return {r["contestant"]: r["ms"] for r in rows if all(r[k] == v for k, v in wanted.items())}


def share(rows: Iterable[dict[str, Any]], limit: str, name: str, **wanted: Any) -> float:
    """How much of the limit's speed a contestant reaches in one cell: the median over the rounds,
    in each of which both meet the same state of memory. The loops' cells and products of one
    token have rounds."""
    cell = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    of = {r["contestant"]: r["rounds"] for r in cell if "rounds" in r}
    for argument, contestant in (("limit", limit), ("name", name)):
        checks.one_of(argument, contestant, tuple(of))
    return median(a / b for a, b in zip(of[limit], of[name], strict=True))


def table(results: dict[str, Any]) -> str:
    """A line per cell: the floor, and every contestant's time as a multiple of it."""
    lines = [f"{results['device']}, {results['date']}, torch {results['versions']['torch']}"]
    lines += absences(results)
    read = results["bandwidth"][0]
    lines.append(f"reading float32: {read['moved'] / read['ms'] / 1e6:.1f} GB/s")
    lines.append(
        "median ms; in brackets, the speed beside one pass of torch's copy: above 1 where a loop "
        "moves fewer bytes, or that copy is slow (float16)"
    )
    cells = dict.fromkeys(
        (r["work"], r["granularity"], r["dtype"], r["nbytes"]) for r in results["rows"]
    )
    for work, granularity, dtype, nbytes in cells:
        cell = {"work": work, "granularity": granularity, "dtype": dtype, "nbytes": nbytes}
        times = ms_of(results["rows"], **cell)
        lines.append(f"\n{work}, per {granularity}, {dtype}, {nbytes / 1e6:.0f} MB")
        for name, ms in sorted(times.items(), key=lambda item: item[1]):
            reached = share(results["rows"], FLOOR, name, **cell)
            lines.append(f"  {name:28}{ms:9.2f}  ({reached:.2f})")
    return "\n".join([*lines, *_products(results), *_sizes(results)])


def not_compiled() -> dict[str, str]:
    """Absent where compiling fails: the package's loops, whose rows are then the eager ones."""
    return {"the loops": "compiling fails: all ran eagerly"} if modes.broken() else {}


def absences(results: dict[str, Any]) -> list[str]:
    """A line for each that is absent, with the reason."""
    return [f"absent: {name} ({why})" for name, why in results["absent"].items()]


def _products(results: dict[str, Any]) -> Iterator[str]:
    rows = results["product"]
    for bits, tokens in dict.fromkeys((r["bits"], r["tokens"]) for r in rows):
        times = ms_of(rows, bits=bits, tokens=tokens)
        shape = "x".join(map(str, rows[0]["shape"]))
        yield f"\n{tokens} tokens times {shape} weights of {bits} bits; in brackets, how much of"
        yield "the speed of reading the codes once is reached, and how many times float32's"
        for name, ms in sorted(times.items(), key=lambda item: item[1]):
            read = times[READ_ONCE] / ms
            if tokens == 1:
                read = share(rows, READ_ONCE, name, bits=bits, tokens=tokens)
            yield f"  {name:28}{ms:9.2f}  ({read:.2f}, {times['float32'] / ms:.2f})"
    for said, part in (
        ("the course's GPT writes, characters a second", "writing"),
        ("MiniLM reads texts of one token, texts a second", "encoding"),
    ):
        rows = results.get(part, [])
        yield from [f"\n{said}"][: len(rows)]
        for row in rows:
            yield f"  {row['contestant']:28}{1000 / row['ms']:9.0f}"


def _sizes(results: dict[str, Any]) -> Iterator[str]:
    rows = results.get("sizes", [])
    yield from ["\ngiven scale per tensor by size: bytes, one pass, eager, compiled in ms"][
        : len(rows)
    ]
    for nbytes in dict.fromkeys(r["nbytes"] for r in rows):
        times = ms_of(rows, nbytes=nbytes)
        yield f"  {nbytes:12,}" + "".join(f"{times[n]:10.3f}" for n in (FLOOR, "eager", "compiled"))


def plot(results: dict[str, Any]) -> "Figure":
    """A matplotlib Figure: bars of each contestant's time for float32, given scale."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8, 5), layout="constrained")
    shown = [g for g in GRANULARITIES if ms_of(results["rows"], work=WORKS[0], granularity=g)]
    axes = fig.subplots(1, len(shown), sharey=False, squeeze=False)[0]
    for ax, granularity in zip(axes, shown, strict=True):
        wanted = {"work": WORKS[0], "granularity": granularity, "dtype": "float32"}
        times = dict(sorted(ms_of(results["rows"], **wanted).items(), key=lambda t: t[1]))
        ax.bar(range(len(times)), times.values())
        ax.set_xticks(range(len(times)), times, rotation=90)
        ax.set_title(f"per {granularity}", fontsize=9)
    axes[0].set_ylabel("ms")
    fig.suptitle(f"quantize with given scale, {results['device']}")
    return fig
