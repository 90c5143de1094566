"""Any checkpoint quantized tensor by tensor, and turned back (notebook 08)."""

import json
import math
import os
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from qlesson import checks
from qlesson.checks import FLOATS
from qlesson.device import best_device
from qlesson.error import powers
from qlesson.files.checkpoint.format import (
    DTYPES,
    Entry,
    _bytes,
    _describe,
    _index_of,
    _new_folder,
    _open_all,
    _parts,
    _read_index,
    _writing,
)
from qlesson.files.packing import PackedTensor, packed_size
from qlesson.qtensor import quantize
from qlesson.scheme import Scheme


class Row(NamedTuple):
    """What became of one tensor; sqnr, in dB, is None where nothing was rounded."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    sqnr: float | None


def quantize_file(source, target, scheme: Scheme, *, skip=(), device=None) -> list[Row]:
    """Quantize a checkpoint tensor by tensor; the memory needed follows its largest tensor.

    source  a safetensors file, the index of a sharded checkpoint, or the folder that holds one of
            these
    target  the file to write; for a sharded source a folder, which must not exist yet
    skip    a pattern such as "*.embed.*", or several: tensors of these names stay as they are. One
            that is a tensor's name ("h[0].weight") means that tensor alone
    device  where to compute; None is `ql.best_device()`. It changes no bit.

    Quantized are tensors of float64, float32, float16 or bfloat16 with two axes or more that become
    smaller by it. All others (biases, integers, float8) are carried over byte for byte.
    """
    checks.scheme("scheme", scheme)
    target, skip = checks.path("target", target), checks.patterns("skip", skip)
    files = _open_all(source)
    for file in files:
        if file.quantized:
            raise ValueError(f"{file.path} is quantized already: dequantize it first.")
    names = {name for file in files for name in file.entries}
    for pattern in skip:
        if not any(checks.fits(pattern, name, names) for name in names):
            count = len(names)
            raise ValueError(f"skip={pattern!r} matches none of the {count} tensors: name one.")
    device = best_device() if device is None else checks.device("device", device)

    def job(file, name):
        skipped = any(checks.fits(pattern, name, names) for pattern in skip)
        with _naming(file, name):
            planned = None if skipped else _plan(file.entries[name], scheme)
        if planned is None:
            return _carried(file, name)
        entries = {f"{name}.{part}": entry for part, entry in planned.items()}
        run = partial(_quantized, file, name, scheme, device)
        dtype, shape, nbytes = file.entries[name]
        about = _describe(scheme, shape, "low_first", dtype)
        return Job(name, shape, nbytes, entries, about, run)

    jobs = [[job(file, name) for name in file.entries] for file in files]
    return _rewrite(files, jobs, target, _index_of(source), plain=False)


def dequantize_file(source, target, *, device=None) -> list[Row]:
    """Write what `quantize_file` wrote back as floats, in the dtypes that the source had.

    The values are those of `QTensor.dequantize(dtype)`, bit for bit; the file is a plain one.
    """
    files, target = _open_all(source), checks.path("target", target)
    if not any(file.quantized for file in files):
        raise ValueError(f"{source} holds no tensor that qlesson.files.checkpoint has quantized.")
    device = best_device() if device is None else checks.device("device", device)

    def jobs_of(file):
        for name in file.plain_names():
            yield _carried(file, name)
        for name, about in (file.quantized or {}).items():
            shape = tuple(about["shape"])
            dtype = about["dtype"] or file.entries[f"{name}.scale"].dtype
            entry = Entry(dtype, shape, math.prod(shape) * DTYPES[dtype].itemsize)
            run = partial(_dequantized, file, name, DTYPES[dtype], device)
            before = sum(file.entries[part].nbytes for part in file.part_names(name))
            yield Job(name, shape, before, {name: entry}, None, run)

    jobs = [list(jobs_of(file)) for file in files]
    return _rewrite(files, jobs, target, _index_of(source), plain=True)


def table(rows: list[Row]) -> str:
    """The rows and their sum, to print."""
    width = max([len(row.name) for row in rows] + [6])
    lines = [f"{'tensor':{width}}  {'shape':>14}  {'before':>13}  {'after':>13}  SQNR in dB"]
    for row in rows:
        shape = "x".join(map(str, row.shape)) or "scalar"
        error = "-" if row.sqnr is None else f"{row.sqnr:.2f}"
        before, after = f"{row.bytes_before:,}", f"{row.bytes_after:,}"
        lines.append(f"{row.name:{width}}  {shape:>14}  {before:>13}  {after:>13}  {error:>10}")
    before, after = sum(r.bytes_before for r in rows), sum(r.bytes_after for r in rows)
    ratio = f"{before / after:.2f} to 1" if after else ""
    return "\n".join(
        [*lines, f"{'sum':{width}}  {'':>14}  {before:>13,}  {after:>13,}  {ratio:>10}"]
    )


class Job(NamedTuple):
    """One tensor's way. `run` gives its parts as bytes, and the SQNR if it was quantized."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    entries: dict[str, "Entry"]  # what will be stored
    about: dict | None  # the scheme, as the header has it
    run: Callable


def _plan(entry, scheme):
    """The stored parts of a tensor to quantize, or None if it is to be carried over."""
    dtype, shape, nbytes = entry
    if DTYPES.get(dtype) not in FLOATS or len(shape) < 2 or nbytes == 0:
        return None
    scales = scheme.granularity.scale_shape(shape)
    count, wide = math.prod(scales), dtype == "F64"
    codes = packed_size(math.prod(shape), scheme.bits)
    parts = {
        "codes": Entry("U8", (codes,), codes),
        "scale": Entry("F64" if wide else "F32", scales, count * (8 if wide else 4)),
    }
    if scheme.mapping == "asymmetric":
        zero_points = packed_size(count, scheme.bits)
        parts["zero_point"] = Entry("U8", (zero_points,), zero_points)
    return parts if sum(part.nbytes for part in parts.values()) < nbytes else None


def _carried(file, name):
    _, shape, nbytes = file.entries[name]

    def run():
        return {name: file.read(name)}, None

    return Job(name, shape, nbytes, {name: file.entries[name]}, None, run)


def _quantized(file, name, scheme, device):
    r = file.tensor(name, device)
    with _naming(file, name):
        x = quantize(r, scheme)
    sqnr = _sqnr(r, x.dequantize(r.dtype))
    return {part: _bytes(t) for part, t in _parts(name, PackedTensor.pack(x))}, sqnr


@contextmanager
def _naming(file, name):
    """A ValueError inside says which tensor it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} in {file.path}: {error}") from None


def _dequantized(file, name, dtype, device):
    return {name: _bytes(file.packed(name, device).unpack().dequantize(dtype))}, None


def _sqnr(r, r_hat, at_once=2**20):
    """`ql.sqnr` in pieces: float64 copies of a large tensor would take more memory than it."""
    pairs = zip(r.reshape(-1).split(at_once), r_hat.view(-1).split(at_once), strict=True)
    sums = [(powers(a.double()), powers(a.double() - b.double())) for a, b in pairs]
    signal, noise = map(_decibels, zip(*sums, strict=True))
    return math.inf if noise == -math.inf else signal - noise


def _decibels(sums) -> float:
    """10 log10 of the sum of all s * 4^e."""
    sums = [(s.item(), int(e)) for s, e in sums]
    top = max(e for _, e in sums)
    total = sum(math.ldexp(s, max(2 * (e - top), -2000)) for s, e in sums)
    return 10 * math.log10(total) + 20 * math.log10(2) * top if total else -math.inf


def _rewrite(files, jobs, target, index, plain) -> list[Row]:
    """Do the jobs of each file and write what they give: one file, or shards and their index."""
    from tqdm import tqdm

    _check_target(files, target, index)
    total = sum(job.bytes_before for work in jobs for job in work)
    rows, weight_map = [], {}
    # disable=None: no bar where there is no terminal to draw it in
    bar = tqdm(total=total, unit="B", unit_scale=True, disable=None)
    with _new_folder(target) if index else nullcontext(target.parent) as folder, bar:
        for file, work in zip(files, jobs, strict=True):
            path = folder / (file.path.name if index else target.name)
            rows += _write(path, file, work, plain, bar.update)
            weight_map |= {part: path.name for job in work for part in job.entries}
        if index:
            size = sum(row.bytes_after for row in rows)
            content = _read_index(index)
            content["metadata"] = (content.get("metadata") or {}) | {"total_size": size}
            content["weight_map"] = dict(sorted(weight_map.items()))
            _write_index(folder / index.name, content)
    return rows


def _write(path, file, work, plain, done):
    """Write one file from its jobs; `done` is told the bytes of each tensor."""
    rows = []
    entries = [item for job in work for item in job.entries.items()]
    about = None if plain else {job.name: job.about for job in work if job.about}
    with _writing(path, entries, file.others, about) as put:
        for job in work:
            parts, sqnr = job.run()
            for part, data in parts.items():
                put(part, data)
            after = sum(entry.nbytes for entry in job.entries.values())
            rows.append(Row(job.name, job.shape, job.bytes_before, after, sqnr))
            done(job.bytes_before)
    return rows


def _write_index(path, content):
    with open(path, "x", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _check_target(files, target, index):
    if index:
        if target.exists():
            raise ValueError(
                f"{target} exists: the shards go into a folder of their own. Name a new one."
            )
    elif target.is_dir():
        raise ValueError(f"{target} is a folder: name the file to write, {target}/....safetensors.")
    elif target.exists() and target.samefile(files[0].path):
        raise ValueError(f"{target} is the source: write to another file.")
    checks.in_a_folder("target", target)
