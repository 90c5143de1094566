"""The kernels beside their peers and the limit of memory: `python -m qlesson.bench` (notebook 12).

    python -m qlesson.bench                      the table, in under three minutes on a CPU
    python -m qlesson.bench --json out.json      the same, stored, with device, date and versions
    python -m qlesson.bench --plot out.png       and a picture of it
    python -m qlesson.bench --sizes              from 4 KB to 1 GB: where the crossover is
    python -m qlesson.bench --mb 16              another size

Each contestant runs in blocks of its own, in turn with the others, with a pause before each block:
threads of ONNX Runtime keep spinning after a call and would double the time of whoever is next.
"""

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import qlesson as ql
from qlesson import kernels
from qlesson.kernels import compilers
from qlesson.nn.integer import int_matmul

RESULTS = Path(__file__).parent / "bench_results"
GRANULARITIES = {
    "tensor": ql.PerTensor(),
    "row": ql.PerAxis(0),
    "column": ql.PerAxis(1),
    "group 32": ql.PerGroup(32),
    "group 128": ql.PerGroup(128),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WORKS = ("given scale", "choose", "dequantize")
FLOOR = "one pass"  # the limit: out.copy_(x), which reads and writes the same bytes
ROUNDS, PAUSE, BLOCK_SECONDS, SLOW_MS = 3, 0.06, 0.1, 50
SIZES = [2**n for n in range(12, 31, 3)]


# --- time ---


def measure(contestants: dict[str, Callable], device="cpu", rounds=ROUNDS) -> dict[str, tuple]:
    """(median, lower and upper quartile) in ms of each contestant, in blocks taken in turn."""
    times = {name: [] for name in contestants}
    for call in contestants.values():
        call()  # compiles, allocates
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(PAUSE)
            times[name] += _block(call, device)
    return {name: _spread(ms) for name, ms in times.items()}


def _block(call, device) -> list[float]:
    """Times of one contestant in ms: the first call warms up, and counts only where it is long."""
    first = _timed(call, device)
    ms, end = [first] if first > SLOW_MS else [], time.perf_counter() + BLOCK_SECONDS
    while len(ms) < 2 or (time.perf_counter() < end and len(ms) < 100):
        ms.append(_timed(call, device))
    return ms


def _timed(call, device) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def _spread(ms) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(ms, n=4)
    return middle, low, high


# --- who takes part ---


class Job:
    """One cell of the table: a tensor, its codes, and where the result goes."""

    def __init__(self, work, granularity, dtype, nbytes, device="cpu"):
        self.work, self.granularity, self.dtype = work, granularity, dtype
        values = max(1, nbytes // DTYPES[dtype].itemsize)
        columns = min(4096, values)
        generator = torch.Generator().manual_seed(0)
        r = torch.randn(values // columns, columns, generator=generator)
        self.r = r.to(device, DTYPES[dtype])
        self.scheme = ql.Scheme(granularity=GRANULARITIES[granularity])
        self.qparams = ql.choose_qparams(self.r, self.scheme)
        self.codes = torch.empty_like(self.r, dtype=torch.int8)
        self.x = ql.quantize(self.r, self.scheme, self.qparams, out=self.codes)
        self.r_hat = torch.empty_like(self.r)
        self.device = device

    @property
    def bytes_moved(self) -> int:
        """The fewest bytes: input (twice where the range must be known first), output, scales."""
        passes = 2 if self.work == "choose" and self.granularity in ("tensor", "column") else 1
        return passes * self.r.nbytes + self.x.nbytes

    def block_size(self):
        """torchao's name for the values that share a scale."""
        return self.scheme.granularity.block_shape(self.r.shape)

    def contestants(self, few=False) -> dict[str, Callable]:
        """Those that can do this job here; `few`: only the package and the floor."""
        found = {FLOOR: self.floor()} | self.ours()
        peers = (formula, compiler, numpy_, torch_, onnxruntime_, torchao_, bitsandbytes_)
        for peer in () if few else peers:
            try:
                found |= peer(self)
            except ImportError:
                pass
        return found

    def floor(self):
        if self.work == "dequantize":
            return lambda: self.r_hat.copy_(self.codes)
        return lambda: self.codes.copy_(self.r)

    def ours(self):
        def call(mode):
            qparams = self.qparams if self.work == "given scale" else None
            with ql.use_kernels(mode):
                if self.work == "dequantize":
                    return self.x.dequantize(self.r.dtype, out=self.r_hat)
                return ql.quantize(self.r, self.scheme, qparams, check=False, out=self.codes)

        return {"eager": lambda: call("eager"), "compiled": lambda: call("compiled")}


def formula(job):
    """The formula of affine.py on the whole tensor: one operation, one pass over memory each."""
    g, (scale, zero_point) = job.scheme.granularity, map(job.scheme.granularity.align, job.qparams)
    if job.work == "given scale":
        r, held = g.split(job.r), torch.empty_like(g.split(job.r), dtype=torch.float32)

        def reused():
            """The same five operations, without an intermediate in fresh memory."""
            torch.div(r, scale, out=held).add_(zero_point).round_().clamp_(-128, 127)
            return g.split(job.codes).copy_(held)

        whole = partial(ql.quantize_affine, r, scale, zero_point, -128, 127)
        return {"formula, whole": whole, "formula, memory reused": reused}
    if job.work == "dequantize":
        q = g.split(job.codes)
        return {"formula, whole": lambda: ql.dequantize_affine(q, scale, zero_point)}
    return {}


def compiler(job):
    """The formula as torch.compile's loop, where the package has one written by hand."""
    if job.work != "given scale":
        return {}
    rows = kernels.rows(job.r, *job.qparams, job.scheme.granularity, job.codes)
    kernel = compilers._by_torch(kernels._quantize, (-128, 127, "inside"), job.device)
    return {"torch.compile": lambda: kernel(*rows)}


def numpy_(job):
    import numpy as np

    if job.dtype != "float32" or job.device != "cpu" or job.work == "choose":
        return {}
    split, align = job.scheme.granularity.split, job.scheme.granularity.align
    scale, zero_point = (align(p).numpy() for p in job.qparams)
    if job.work == "dequantize":
        q, z = split(job.codes).numpy(), zero_point.astype(np.float32)
        return {"numpy": lambda: scale * (q.astype(np.float32) - z)}
    r = split(job.r).numpy()
    return {"numpy": lambda: np.clip(np.rint(r / scale + zero_point), -128, 127).astype(np.int8)}


def torch_(job):
    """torch.quantize_per_tensor and per_channel, which are deprecated."""
    if job.dtype != "float32" or job.work == "choose" or job.granularity.startswith("group"):
        return {}
    scale, zero_point = (p.flatten().cpu() for p in job.qparams)
    if job.granularity == "tensor":
        args = (scale.item(), zero_point.item(), torch.qint8)
        name, quantize = "torch.quantize_per_tensor", torch.quantize_per_tensor
    else:
        axis = job.scheme.granularity.axis
        args = (scale.double(), zero_point.long(), axis, torch.qint8)
        name, quantize = "torch.quantize_per_channel", torch.quantize_per_channel
    if job.work == "given scale":
        return {name: lambda: quantize(job.r, *args)}
    q = quantize(job.r, *args)
    return {name: lambda: q.dequantize()}


def onnxruntime_(job):
    """QuantizeLinear and DequantizeLinear, writing into the same memory as the others."""
    import numpy as np
    import onnxruntime

    if job.dtype != "float32" or job.device != "cpu" or job.work == "choose":
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(_onnx_model(job), options)
    binding = session.io_binding()
    given, filled = (job.r, job.codes) if job.work == "given scale" else (job.codes, job.r_hat)
    for bind, name, x in ((binding.bind_input, "x", given), (binding.bind_output, "y", filled)):
        kind = np.float32 if x.dtype == torch.float32 else np.int8
        bind(name, "cpu", 0, kind, tuple(x.shape), x.data_ptr())
    return {"onnxruntime": lambda: session.run_with_iobinding(binding)}


def _onnx_model(job) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"given scale": ("QuantizeLinear", TensorProto.FLOAT, TensorProto.INT8)}
    kinds["dequantize"] = ("DequantizeLinear", TensorProto.INT8, TensorProto.FLOAT)
    operator, source, target = kinds[job.work]
    attributes = {}
    if job.granularity in ("row", "column"):
        attributes = {"axis": job.scheme.granularity.axis}
    elif job.granularity != "tensor":
        attributes = {"axis": 1, "block_size": job.scheme.granularity.group_size}
    scale, zero_point = job.qparams
    if job.granularity in ("row", "column"):
        scale, zero_point = scale.flatten(), zero_point.flatten()
    held = [numpy_helper.from_array(x.numpy(), n) for n, x in (("s", scale), ("z", zero_point))]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "s", "z"], ["y"], **attributes)],
        "bench",
        [helper.make_tensor_value_info("x", source, job.r.shape)],
        [helper.make_tensor_value_info("y", target, job.r.shape)],
        held,
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def torchao_(job):
    """torchao's primitives, eager, and compiled where that is quick to prepare."""
    from torchao.quantization import quant_primitives as ao

    block, codes = job.block_size(), (torch.int8, -128, 127)
    scale, zero_point = job.qparams

    def quantize(r, scale, zero_point):
        return ao.quantize_affine(r, block, scale, zero_point, *codes)

    def choose(r):
        kind = (ao.MappingType.ASYMMETRIC, block, *codes)
        found = ao.choose_qparams_affine(r, *kind, scale_dtype=torch.float32)
        return quantize(r, *found)

    def dequantize(q, scale, zero_point):
        return ao.dequantize_affine(q, block, scale, zero_point, *codes, output_dtype=job.r.dtype)

    function, args = {
        "given scale": (quantize, (job.r, scale, zero_point)),
        "choose": (choose, (job.r,)),
        "dequantize": (dequantize, (job.codes, scale, zero_point)),
    }[job.work]
    found = {"torchao eager": lambda: function(*args)}
    if job.device != "cpu" or job.granularity in ("tensor", "group 128"):
        compiled = torch.compile(function)
        found["torchao compiled"] = lambda: compiled(*args)
    return found


def bitsandbytes_(job):
    """bitsandbytes quantizes rows symmetrically to int8, on CUDA."""
    import bitsandbytes

    if job.device == "cpu" or job.work != "choose" or job.granularity != "row":
        return {}
    r = job.r.half()
    return {"bitsandbytes": lambda: bitsandbytes.functional.int8_vectorwise_quant(r)}


# --- runs ---


def cells(device="cpu"):
    """(work, granularity, dtype, few) of every cell of the table."""
    for work in WORKS:
        for granularity in GRANULARITIES:
            yield work, granularity, "float32", False
    for dtype in ("bfloat16", "float16"):
        for work, granularity in (
            *(("given scale", g) for g in ("tensor", "row", "group 128")),
            ("choose", "group 128"),
            ("dequantize", "group 128"),
        ):
            yield work, granularity, dtype, device == "cpu"


def run_cell(work, granularity, dtype, few, nbytes, device="cpu") -> list[dict]:
    """The rows of one cell: a contestant each."""
    job = Job(work, granularity, dtype, nbytes, device)
    found = measure(job.contestants(few), device)
    keys = {"work": work, "granularity": granularity, "dtype": dtype, "nbytes": job.r.nbytes}
    return [
        keys | {"contestant": name, "ms": ms, "low": low, "high": high, "moved": job.bytes_moved}
        for name, (ms, low, high) in found.items()
    ]


def run(nbytes=2**27, device="cpu", progress=None) -> list[dict]:
    """Every cell of the table."""
    rows = []
    for cell in cells(device):
        rows += run_cell(*cell, nbytes, device)
        if progress:
            progress(cell)
    return rows


def run_sizes(sizes=SIZES, device="cpu") -> list[dict]:
    """Given scale per tensor, float32, from a few KB to 1 GB: the package and the floor."""
    rows = []
    for nbytes in sizes:
        rows += run_cell("given scale", "tensor", "float32", True, nbytes, device)
    return rows


def run_copy(nbytes=2**27, device="cpu") -> list[dict]:
    """The device copy: float32 to float32, what every share of bandwidth is measured by."""
    x = torch.zeros(nbytes // 4, device=device)
    y = torch.empty_like(x)
    ((ms, low, high),) = measure({"copy": lambda: y.copy_(x)}, device).values()
    return [{"contestant": "copy", "ms": ms, "low": low, "high": high, "moved": 2 * nbytes}]


def run_pieces(nbytes=2**27, powers=(14, 15, 16, 17, 18, 19, 20, 22, 25)) -> list[dict]:
    """The formula on 2^power values at a time, and on the whole tensor: where the cache ends."""
    job = Job("given scale", "tensor", "float32", nbytes)
    r, codes, whole = job.r.view(-1), job.codes.view(-1), job.r.numel()

    def by(size):
        for a, b in zip(r.split(size), codes.split(size), strict=True):
            b.copy_(ql.quantize_affine(a, *job.qparams, -128, 127))

    sizes = [n for n in (2**power for power in powers) if n <= whole]
    found = measure({n: partial(by, n) for n in sizes})
    return [{"values": n, "ms": ms, "low": a, "high": b} for n, (ms, a, b) in found.items()]


def run_memory(nbytes=2**27) -> list[dict]:
    """The formula with and without fresh memory, and how many pages the system had to find."""
    import resource

    def fresh(call):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    job = Job("given scale", "tensor", "float32", nbytes)
    contestants = formula(job) | {"eager": job.ours()["eager"]}
    found = measure(contestants)
    return [
        {"contestant": k, "ms": a, "low": b, "high": c, "fresh_pages": fresh(contestants[k])}
        for k, (a, b, c) in found.items()
    ]


def run_steps(nbytes=2**27) -> list[dict]:
    """Given scale per tensor: what the loop by hand has, one step after the other."""
    job = Job("given scale", "tensor", "float32", nbytes)
    rows = kernels.rows(job.r, *job.qparams, job.scheme.granularity, job.codes)
    kind = kernels._quantize, (-128, 127, "inside"), [(t.dtype, t.ndim) for t in rows]
    contestants = compiler(job) | {
        "clip by hand": partial(compilers._by_hand(*kind, "__builtin_prefetch(r + ahead);"), *rows),
        "and memory asked for early": partial(compilers._by_hand(*kind), *rows),
        FLOOR: job.floor(),
    }
    found = measure(contestants)
    return [{"contestant": k, "ms": a, "low": b, "high": c} for k, (a, b, c) in found.items()]


def run_product(shape=(512, 2048, 2048), device="cpu") -> list[dict]:
    """y = x w^T with 8-bit weights and activations, against float32 and bfloat16 (notebook 09)."""
    n, inner, out = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, inner, generator=generator).to(device)
    w = torch.randn(out, inner, generator=generator).to(device)
    scheme = ql.Scheme(8, "symmetric", ql.PerAxis(0))
    qw = ql.quantize(w, scheme)
    qwt, x8, w16 = qw.q.t(), ql.quantize(x, scheme).q, w.bfloat16()

    def w8a8():
        with ql.use_kernels("compiled"):
            qx = ql.quantize(x, scheme)
        return (int_matmul(qx.q, qw.q) * qx.scale).mul_(qw.scale.view(1, -1))

    contestants = {
        "float32": lambda: x @ w.t(),
        "bfloat16": lambda: x.bfloat16() @ w16.t(),
        "W8A8": w8a8,
        "torch._int_mm alone": lambda: torch._int_mm(x8, qwt),
    }
    found = measure(contestants, device)
    return [
        {"contestant": name, "shape": list(shape), "ms": ms, "low": low, "high": high}
        for name, (ms, low, high) in found.items()
    ]


def quick(nbytes=2**24) -> str:
    """This machine in some seconds, eagerly: the formula in one piece, in pieces, and the floor."""
    job = Job("given scale", "tensor", "float32", nbytes, ql.best_device().type)
    ours = {"in pieces": job.ours()["eager"]}
    found = measure(formula(job) | ours | {FLOOR: job.floor()}, job.device)
    lines = [f"{machine(job.device)['device']}, {nbytes / 1e6:.0f} MB of float32"]
    return "\n".join(lines + [f"{name:16}{ms:8.2f} ms" for name, (ms, _, _) in found.items()])


class Traffic(TorchDispatchMode):
    """Counts, for every operator that runs, the bytes of the tensors it reads and writes."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        if not func.is_view and made.numel() > 1:
            read = sum(x.nbytes for x in args if isinstance(x, torch.Tensor))
            self.rows.append((name, read, made.nbytes))
        return made


def traffic(call) -> list[tuple[str, int, int]]:
    """(operator, bytes read, bytes written) of every operation that `call` runs eagerly."""
    with Traffic() as counted:
        call()
    return counted.rows


def report(nbytes=2**27, device="cpu", sizes=False, progress=None) -> dict:
    """Everything that is stored: where and when, and the rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.quantize_per_tensor is deprecated
        found = {
            **machine(device),
            "copy": run_copy(nbytes, device),
            "rows": run(nbytes, device, progress),
            "product": run_product(device=device),
        }
        if sizes:
            found["sizes"] = run_sizes(device=device)
        if sizes and device == "cpu":
            found |= {"pieces": run_pieces(), "memory": run_memory(), "steps": run_steps()}
    return found


def machine(device="cpu") -> dict:
    """Device, date and versions, and which peers are absent."""
    peers = ("onnxruntime", "torchao", "bitsandbytes")
    versions = {name: _version(name) for name in ("torch", "numpy", *peers)}
    return {
        "device": torch.cuda.get_device_name() if device != "cpu" else processor(),
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: v for name, v in versions.items() if v},
        "absent": [name for name, v in versions.items() if not v],
    }


def processor() -> str:
    """The model of the processor and its cores, nothing else about the machine."""
    cores = f"{torch.get_num_threads()} cores"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.processor() or platform.machine()}, {cores}"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{' '.join((names or [platform.machine()])[0].split())}, {cores}"


def _version(name):
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


# --- what a report says ---


def stored(name: str) -> dict:
    """A stored report: "cpu", or "h100_trial"."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def as_json(found: dict) -> str:
    """A report as JSON, a row to a line, times to four digits."""
    for part in ("copy", "rows", "product", "sizes", "pieces", "memory", "steps"):
        for row in found.get(part, []):
            row |= {key: float(f"{row[key]:.4g}") for key in ("ms", "low", "high")}
    return json.dumps(found).replace('[{"', '[\n{"').replace('}, {"', '},\n{"') + "\n"


def ms_of(rows, **wanted) -> dict[str, float]:
    """{contestant: median ms} of one cell."""
    return {r["contestant"]: r["ms"] for r in rows if all(r[k] == v for k, v in wanted.items())}


def table(found: dict) -> str:
    """A line per cell: the floor, and every contestant's time as a multiple of it."""
    lines = [f"{found['device']}, {found['date']}, torch {found['versions']['torch']}"]
    lines += [f"absent: {', '.join(found['absent'])}"] if found["absent"] else []
    copy = found["copy"][0]
    lines.append(f"copy of float32: {copy['moved'] / copy['ms'] / 1e6:.1f} GB/s")
    lines.append("median ms; in brackets, how much of the one-pass floor's speed is reached")
    cells = dict.fromkeys(
        (r["work"], r["granularity"], r["dtype"], r["nbytes"]) for r in found["rows"]
    )
    for work, granularity, dtype, nbytes in cells:
        times = ms_of(found["rows"], work=work, granularity=granularity, dtype=dtype, nbytes=nbytes)
        lines.append(f"\n{work}, per {granularity}, {dtype}, {nbytes / 1e6:.0f} MB")
        for name, ms in sorted(times.items(), key=lambda item: item[1]):
            lines.append(f"  {name:28}{ms:9.2f}  ({times[FLOOR] / ms:.2f})")
    return "\n".join([*lines, *_products(found), *_sizes(found)])


def _products(found):
    times = {r["contestant"]: r["ms"] for r in found["product"]}
    shape = "x".join(map(str, found["product"][0]["shape"]))
    yield f"\nmatrix product {shape}"
    for name, ms in times.items():
        yield f"  {name:28}{ms:9.2f}  ({times['float32'] / ms:.1f} times float32)"


def _sizes(found):
    rows = found.get("sizes", [])
    yield from ["\ngiven scale per tensor by size: bytes, one pass, eager, compiled in ms"][
        : len(rows)
    ]
    for nbytes in dict.fromkeys(r["nbytes"] for r in rows):
        times = ms_of(rows, nbytes=nbytes)
        yield f"  {nbytes:12,}" + "".join(f"{times[n]:10.3f}" for n in (FLOOR, "eager", "compiled"))


def plot(found: dict):
    """A matplotlib Figure: bars of each contestant's time for float32, given scale."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8, 5), layout="constrained")
    shown = [g for g in GRANULARITIES if ms_of(found["rows"], work=WORKS[0], granularity=g)]
    axes = fig.subplots(1, len(shown), sharey=False, squeeze=False)[0]
    for ax, granularity in zip(axes, shown, strict=True):
        wanted = {"work": WORKS[0], "granularity": granularity, "dtype": "float32"}
        times = dict(sorted(ms_of(found["rows"], **wanted).items(), key=lambda t: t[1]))
        ax.bar(range(len(times)), times.values())
        ax.set_xticks(range(len(times)), times, rotation=90)
        ax.set_title(f"per {granularity}", fontsize=9)
    axes[0].set_ylabel("ms")
    fig.suptitle(f"quantize with given scale, {found['device']}")
    return fig


def main(argv=None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="qlesson.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="store the report")
    parser.add_argument("--plot", metavar="FILE", help="store a picture of it")
    parser.add_argument("--sizes", action="store_true", help="4 KB to 1 GB as well")
    parser.add_argument("--mb", type=int, default=128, help="MB of input, as 2^20 bytes")
    args = parser.parse_args(argv)
    device = ql.best_device().type
    found = report(args.mb * 2**20, device, args.sizes, lambda cell: print(".", end="", flush=True))
    print("\n" + table(found))
    if args.json:
        Path(args.json).write_text(as_json(found), encoding="utf-8")
    if args.plot:
        plot(found).savefig(args.plot, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
