"""What is timed: the cells of the table, and what a run measures beside them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import qlesson as ql
from qlesson import checks, kernels
from qlesson.bench.measure import ROUNDS, Call, as_row, measure, measure_rounds
from qlesson.bench.peers import (
    bitsandbytes_,
    compiler,
    formula,
    joined,
    numpy_,
    onnxruntime_,
    torch_,
    torchao_,
)
from qlesson.kernels import compilers

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
SIZES = [2**n for n in range(12, 31, 3)]
PIECES = [2**n for n in (*range(14, 21), 22, 25)]  # values
Cell = tuple[str, str, str, bool]  # work, granularity, dtype, few


class Job:
    """One cell of the table: a tensor, its codes, and where the result goes."""

    def __init__(
        self, work: str, granularity: str, dtype: str, nbytes: int, device: str = "cpu"
    ) -> None:
        checks.one_of("work", work, WORKS)
        checks.one_of("granularity", granularity, tuple(GRANULARITIES))
        checks.one_of("dtype", dtype, tuple(DTYPES))
        checks.whole("nbytes", nbytes, low=1)
        device = checks.device("device", device).type
        self.work, self.granularity, self.dtype = work, granularity, dtype
        values = max(1, nbytes // DTYPES[dtype].itemsize)
        columns = min(4096, values)
        generator = torch.Generator().manual_seed(0)
        size = values // columns, columns
        r = torch.randn(size, generator=generator, dtype=torch.float32)
        self.r = r.to(device, DTYPES[dtype])
        self.scheme = ql.Scheme(granularity=GRANULARITIES[granularity])
        self.qparams = ql.choose_qparams(self.r, self.scheme)
        self.codes = torch.empty_like(self.r, dtype=torch.int8)
        self.x = ql.quantize(self.r, self.scheme, self.qparams, out=self.codes)
        self.r_hat = torch.empty_like(self.r)
        self.device = device
        self.absent: dict[str, str] = {}  # {peer: why it is not among the contestants}

    @property
    def bytes_moved(self) -> int:
        """The fewest bytes: input (twice where the range must be known first), output, scales."""
        passes = 2 if self.work == "choose" and self.granularity in ("tensor", "column") else 1
        return passes * self.r.nbytes + self.x.nbytes

    def block_size(self) -> tuple[int, ...]:
        """torchao's name for the values that share a scale."""
        return self.scheme.granularity.block_shape(self.r.shape)

    def contestants(self, few: bool = False) -> dict[str, Call]:
        """Those that can do this job here; `few`: only the package and the floor.

        "compiled" runs in the mode that holds: call it inside `ql.use_kernels("compiled")`.
        """
        calls = {FLOOR: self.floor()} | self.ours()
        peers = (formula, compiler, numpy_, torch_, onnxruntime_, torchao_, bitsandbytes_)
        return calls | joined(() if few else peers, self, self.absent)

    def floor(self) -> Call:
        if self.work == "dequantize":
            return lambda: self.r_hat.copy_(self.codes)
        return lambda: self.codes.copy_(self.r)

    def ours(self) -> dict[str, Call]:
        """Compiled in the mode that holds, since no time is to go into entering it."""

        def call() -> Tensor | ql.QTensor:
            if self.work == "dequantize":
                return self.x.dequantize(self.r.dtype, out=self.r_hat)
            qparams = self.qparams if self.work == "given scale" else None
            return ql.quantize(self.r, self.scheme, qparams, check=False, out=self.codes)

        def eagerly() -> Tensor | ql.QTensor:
            with ql.use_kernels("eager"):
                return call()

        return {"compiled": call, "eager": eagerly}  # the first right behind the floor


def cells(device: str = "cpu") -> Iterator[Cell]:
    """Every cell of the table."""
    for work in WORKS:
        for granularity in GRANULARITIES:
            yield work, granularity, "float32", False
    for dtype in ("bfloat16", "float16"):
        for work, granularity in (
            *(("given scale", g) for g in ("tensor", "row", "group 128")),
            ("choose", "group 128"),
            ("dequantize", "group 128"),
        ):
            yield work, granularity, dtype, True


def run_cell(
    work: str,
    granularity: str,
    dtype: str,
    few: bool,
    nbytes: int,
    device: str = "cpu",
    absent: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The rows of one cell: a contestant each. `absent` is told who is missing, and why."""
    job = Job(work, granularity, dtype, nbytes, device)
    job.absent = {} if absent is None else absent
    shown = granularity == "tensor" and work != "choose" and not few  # by name, in notebook 13
    with ql.use_kernels("compiled"):
        times = measure_rounds(job.contestants(few), device, 4 * ROUNDS if shown else ROUNDS)
    keys = {"work": work, "granularity": granularity, "dtype": dtype, "nbytes": job.r.nbytes}
    return [
        keys | {"contestant": name, "moved": job.bytes_moved} | as_row(rounds)
        for name, rounds in times.items()
    ]


def run(
    nbytes: int = 2**27,
    device: str = "cpu",
    progress: Callable[[Cell], object] | None = None,
    absent: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Every cell of the table."""
    rows = []
    for cell in cells(device):
        rows += run_cell(*cell, nbytes, device, absent)
        if progress:
            progress(cell)
    return rows


def run_sizes(device: str = "cpu") -> list[dict[str, Any]]:
    """Given scale per tensor, float32, from a few KB to 1 GB: the package and the floor."""
    rows = []
    for nbytes in SIZES:
        rows += run_cell("given scale", "tensor", "float32", True, nbytes, device)
    return rows


def run_bandwidth(nbytes: int = 2**27, device: str = "cpu") -> list[dict[str, Any]]:
    """What memory gives: a sum of float32 reads each byte once, and writes nothing."""
    x = torch.ones(nbytes // 4, device=device, dtype=torch.float32)  # zeros may take no memory
    rounds = 4 * ROUNDS  # it stands for memory as it is all the while
    ((ms, low, high),) = measure({"read": x.sum}, device, rounds).values()
    return [{"contestant": "read", "ms": ms, "low": low, "high": high, "moved": nbytes}]


def run_division(values: int = 2**24, device: str = "cuda") -> dict[str, int]:
    """How many quotients r / 255 are others where 255 is a Python number, not a tensor beside r: a
    GPU then multiplies by 1 / 255."""
    r = torch.randn(values, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    r = r.to(device)
    wanted = r / torch.tensor(255.0, device=device)
    return {"values": values, "differ": int((r / 255 != wanted).sum())}


def run_pieces(nbytes: int = 2**27) -> list[dict[str, Any]]:
    """The formula on some values at a time, and on the whole tensor: where the cache ends."""
    job = Job("given scale", "tensor", "float32", nbytes)
    r, codes, whole = job.r.view(-1), job.codes.view(-1), job.r.numel()

    def by(size: int) -> None:
        for a, b in zip(r.split(size), codes.split(size), strict=True):
            b.copy_(ql.quantize_affine(a, *job.qparams, -128, 127))

    sizes = [n for n in PIECES if n <= whole]
    times = measure({n: partial(by, n) for n in sizes})
    return [{"values": n, "ms": ms, "low": a, "high": b} for n, (ms, a, b) in times.items()]


def run_memory(nbytes: int = 2**27) -> list[dict[str, Any]]:
    """The formula with and without fresh memory, and how many pages the system had to find."""
    import resource

    def fresh(call: Call) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    job = Job("given scale", "tensor", "float32", nbytes)
    contestants = formula(job) | {"eager": job.ours()["eager"]}
    times = measure(contestants)
    return [
        {"contestant": k, "ms": a, "low": b, "high": c, "fresh_pages": fresh(contestants[k])}
        for k, (a, b, c) in times.items()
    ]


def run_steps(nbytes: int = 2**27) -> list[dict[str, Any]]:
    """Given scale per tensor: what the loop by hand has, one step after the other."""
    job = Job("given scale", "tensor", "float32", nbytes)
    rows = kernels.rows(job.r, *job.qparams, job.scheme.granularity, job.codes)
    kind = kernels.quantize, (-128, 127, "inside"), tuple((t.dtype, t.ndim) for t in rows)
    steps = {
        "by hand": compilers.by_hand(*kind, ahead=0, far=2**62),
        "and memory asked for early": compilers.by_hand(*kind, far=2**62),
        "and written past the caches": compilers.by_hand(*kind),
    }
    by_hand = {name: partial(loop, *rows) for name, loop in steps.items() if loop}
    times = measure(compiler(job) | by_hand | {FLOOR: job.floor()})
    return [{"contestant": k, "ms": a, "low": b, "high": c} for k, (a, b, c) in times.items()]
