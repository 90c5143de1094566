"""Any checkpoint quantized tensor by tensor, and turned back."""

import json
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

from qlesson import checks
from qlesson.checks import FLOATS
from qlesson.device import best_device
from qlesson.error import sqnr
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
from qlesson.plan import make_plan
from qlesson.qtensor import quantize
from qlesson.report import Row, by, columns, naming, sum_of_bytes
from qlesson.scheme import Scheme


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
    target = checks.path("target", target)
    files = _open_all(source)
    for file in files:
        if file.quantized:
            raise ValueError(f"{file.path} is quantized already: dequantize it first.")
    plan = make_plan([name for file in files for name in file.entries], scheme, skip)
    device = best_device() if device is None else checks.device("device", device)

    def conversion(file, name):
        with naming(f"{name} in {file.path}"):
            parts = name in plan and _stored_parts(file.entries[name], scheme)
        if not parts:
            return _carried(file, name)
        entries = {f"{name}.{part}": entry for part, entry in parts.items()}
        run = partial(_packed_bytes, file, name, scheme, device)
        dtype, shape, nbytes = file.entries[name]
        about = _describe(scheme, shape, "low_first", dtype)
        return Conversion(name, shape, nbytes, entries, about, run)

    work = [[conversion(file, name) for name in file.entries] for file in files]
    return _rewrite(files, work, target, _index_of(source), plain=False)


def dequantize_file(source, target, *, device=None) -> list[Row]:
    """Write what `quantize_file` wrote back as floats, in the dtypes that the source had.

    The values are those of `QTensor.dequantize(dtype)`, bit for bit; the file is a plain one.
    """
    files, target = _open_all(source), checks.path("target", target)
    if not any(file.quantized for file in files):
        raise ValueError(f"{source} holds no tensor that qlesson.files.checkpoint has quantized.")
    device = best_device() if device is None else checks.device("device", device)

    def conversions(file):
        for name in file.plain_names():
            yield _carried(file, name)
        for name, about in (file.quantized or {}).items():
            shape = tuple(about["shape"])
            dtype = about["dtype"] or file.entries[f"{name}.scale"].dtype
            entry = Entry(dtype, shape, math.prod(shape) * DTYPES[dtype].itemsize)
            run = partial(_float_bytes, file, name, DTYPES[dtype], device)
            before = sum(file.entries[part].nbytes for part in file.part_names(name))
            yield Conversion(name, shape, before, {name: entry}, None, run)

    work = [list(conversions(file)) for file in files]
    return _rewrite(files, work, target, _index_of(source), plain=True)


def table(rows: list[Row]) -> str:
    """The rows and their sum, to print."""
    lines = [["tensor", "shape", "before", "after", "SQNR in dB"]]
    for row in rows:
        error = "-" if row.sqnr is None else f"{row.sqnr:.2f}"
        sizes = f"{row.bytes_before:,}", f"{row.bytes_after:,}"
        lines.append([row.name, by(row.shape), *sizes, error])
    before, after = sum_of_bytes(rows)
    ratio = f"{before / after:.2f} to 1" if after else ""
    lines.append(["sum", "", f"{before:,}", f"{after:,}", ratio])
    return "\n".join(columns(lines, 14, 13, 13, 10))


class Conversion(NamedTuple):
    """One tensor's way. `run` gives its parts as bytes, and the SQNR if it was quantized."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    entries: dict[str, Entry]  # what will be stored
    about: dict | None  # the scheme, as the header has it
    run: Callable


def _stored_parts(entry, scheme):
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

    return Conversion(name, shape, nbytes, {name: file.entries[name]}, None, run)


def _packed_bytes(file, name, scheme, device):
    r = file.tensor(name, device)
    with naming(f"{name} in {file.path}"):
        x = quantize(r, scheme)
    error = sqnr(r, x.dequantize(r.dtype)).item()
    return {part: _bytes(t) for part, t in _parts(name, PackedTensor.pack(x))}, error


def _float_bytes(file, name, dtype, device):
    return {name: _bytes(file.packed(name, device).unpack().dequantize(dtype))}, None


def _rewrite(files, work, target, index, plain) -> list[Row]:
    """Write what the conversions of each file give: one file, or shards and their index."""
    from tqdm import tqdm

    _check_target(files, target, index)
    total = sum(one.bytes_before for conversions in work for one in conversions)
    rows, weight_map = [], {}
    # disable=None: no bar where there is no terminal to draw it in
    bar = tqdm(total=total, unit="B", unit_scale=True, disable=None)
    with _new_folder(target) if index else nullcontext(target.parent) as folder, bar:
        for file, conversions in zip(files, work, strict=True):
            path = folder / (file.path.name if index else target.name)
            rows += _write(path, file, conversions, plain, bar.update)
            weight_map |= {part: path.name for one in conversions for part in one.entries}
        if index:
            size = sum(row.bytes_after for row in rows)
            content = _read_index(index)
            content["metadata"] = (content.get("metadata") or {}) | {"total_size": size}
            content["weight_map"] = dict(sorted(weight_map.items()))
            _write_index(folder / index.name, content)
    return rows


def _write(path, file, conversions, plain, done):
    """Write one file; `done` is told the bytes of each tensor."""
    rows = []
    entries = [item for one in conversions for item in one.entries.items()]
    about = None if plain else {one.name: one.about for one in conversions if one.about}
    with _writing(path, entries, file.others, about) as put:
        for one in conversions:
            parts, error = one.run()
            for part, data in parts.items():
                put(part, data)
            after = sum(entry.nbytes for entry in one.entries.values())
            bits = one.about and one.about["scheme"]["bits"]
            rows.append(Row(one.name, one.shape, one.bytes_before, after, error, bits))
            done(one.bytes_before)
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
