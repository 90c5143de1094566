"""Any checkpoint quantized tensor by tensor, and turned back."""

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qlesson import checks
from qlesson.affine import computing
from qlesson.checks import FLOATS
from qlesson.device import best_device
from qlesson.error import sqnr
from qlesson.files import new
from qlesson.files.checkpoint.format import (
    DTYPES,
    STORED,
    Data,
    Description,
    Entry,
    File,
    _bytes,
    _describe,
    _parts,
    _refuse_repeats,
    _writing,
)
from qlesson.files.checkpoint.shards import _index_of, _read_index, open_all
from qlesson.files.packing import PackedTensor, packed_size
from qlesson.plan import Patterns, make_plan
from qlesson.qtensor import quantize
from qlesson.report import Row, by, columns, naming, no_bar, printable, sum_of_bytes
from qlesson.scheme import Scheme

Written = tuple[dict[str, Data], float | None]  # the bytes of each part, and the SQNR if quantized


class Conversion(NamedTuple):
    """One tensor's way into another file."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    entries: dict[str, Entry]  # what will be stored
    description: Description | None
    run: Callable[[], Written]


def quantize_file(
    source: str | Path,
    target: str | Path,
    scheme: Scheme,
    *,
    skip: Patterns = (),
    device: torch.device | str | None = None,
) -> list[Row]:
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
    files = open_all(source)
    for file in files:
        if file.quantized:
            raise ValueError(f"{file.path} is quantized already: dequantize it first.")
    _refuse_codes_of_others(source, files)
    names = [name for file in files for name in file.entries]
    plan = make_plan(names, scheme, skip, of="the tensors")
    device = best_device() if device is None else checks.device("device", device)
    work = [
        [
            _quantized(file, name, plan[name], device) if name in plan else _carried(file, name)
            for name in file.entries
        ]
        for file in files
    ]
    return _rewrite(files, work, target, _index_of(source), plain=False)


def _refuse_codes_of_others(source: str | Path, files: list[File]) -> None:
    """Their scales look like weights."""
    from qlesson.files.formats import safetensors  # here, since it imports this package

    entries = {name: entry for file in files for name, entry in file.entries.items()}
    for name, stored in safetensors.stored_in(files):
        if stored != entries.get(name):
            raise ValueError(
                f"{source} is quantized already, {printable(name)} as {stored.kind}: quantize the "
                "file of floats that it was made from."
            )


def dequantize_file(
    source: str | Path, target: str | Path, *, device: torch.device | str | None = None
) -> list[Row]:
    """Write what `quantize_file` wrote back as floats, in the dtypes that the source had.

    The values are those of `QTensor.dequantize(dtype)`, bit for bit; the file is a plain one.
    """
    files, target = open_all(source), checks.path("target", target)
    if not any(file.quantized for file in files):
        raise ValueError(f"{source} holds no tensor that qlesson.files.checkpoint has quantized.")
    device = best_device() if device is None else checks.device("device", device)
    work = [
        [
            *(_carried(file, name) for name in file.plain_names()),
            *(_dequantized(file, name, device) for name in file.quantized),
        ]
        for file in files
    ]
    return _rewrite(files, work, target, _index_of(source), plain=True)


def table(rows: list[Row]) -> str:
    """The rows and their sum, to print."""
    lines = [["tensor", "shape", "before", "after", "SQNR in dB"]]
    for row in rows:
        error = "-" if row.sqnr is None else f"{row.sqnr:.2f}"
        sizes = f"{row.bytes_before:,}", f"{row.bytes_after:,}"
        lines.append([printable(row.name), by(row.shape), *sizes, error])
    before, after = sum_of_bytes(rows)
    ratio = f"{before / after:.2f} to 1" if after else ""
    lines.append(["sum", "", f"{before:,}", f"{after:,}", ratio])
    return "\n".join(columns(lines, 14, 13, 13, 10))


def _carried(file: File, name: str) -> Conversion:
    """A tensor that stays as it is."""
    entry = file.entries[name]

    def run() -> Written:
        return {name: file.read(name)}, None

    return Conversion(name, entry.shape, entry.nbytes, {name: entry}, None, run)


def _quantized(file: File, name: str, scheme: Scheme, device: torch.device) -> Conversion:
    """A tensor that becomes codes; where these would be no smaller, it stays as it is."""
    dtype, shape, nbytes = file.entries[name]
    with naming(f"{name} in {file.path}"):
        parts = _stored_parts(file.entries[name], scheme)
    if parts is None:
        return _carried(file, name)
    entries = {f"{name}.{part}": entry for part, entry in parts.items()}
    description = _describe(scheme, shape, "low_first", dtype)

    def run() -> Written:
        r = file.tensor(name, device)
        with naming(f"{name} in {file.path}"):
            x = quantize(r, scheme)
        error = sqnr(r, x.dequantize(r.dtype)).item()
        return {part: _bytes(t) for part, t in _parts(name, PackedTensor.pack(x))}, error

    return Conversion(name, shape, nbytes, entries, description, run)


def _dequantized(file: File, name: str, device: torch.device) -> Conversion:
    """A tensor that becomes floats again."""
    shape = tuple(file.quantized[name]["shape"])
    scale = DTYPES[file.entries[f"{name}.scale"].dtype]
    dtype = file.quantized[name].get("dtype") or STORED[computing(scale)]
    entry = Entry(dtype, shape, math.prod(shape) * DTYPES[dtype].itemsize)
    before = sum(file.entries[part].nbytes for part in file.part_names(name))

    def run() -> Written:
        r_hat = file.packed(name, device).unpack().dequantize(DTYPES[dtype])
        return {name: _bytes(r_hat)}, None

    return Conversion(name, shape, before, {name: entry}, None, run)


def _stored_parts(entry: Entry, scheme: Scheme) -> dict[str, Entry] | None:
    """The stored parts of a tensor to quantize, or None if it is to be carried over."""
    dtype, shape, nbytes = entry
    if DTYPES.get(dtype) not in FLOATS or len(shape) < 2 or nbytes == 0:
        return None
    scales = scheme.granularity.scale_shape(shape)
    count, scale = math.prod(scales), scheme.scale_dtype or computing(DTYPES[dtype])
    codes = packed_size(math.prod(shape), scheme.bits)
    parts = {
        "codes": Entry("U8", (codes,), codes),
        "scale": Entry(STORED[scale], scales, count * scale.itemsize),
    }
    if scheme.mapping == "asymmetric":
        zero_points = packed_size(count, scheme.bits)
        parts["zero_point"] = Entry("U8", (zero_points,), zero_points)
    return parts if sum(part.nbytes for part in parts.values()) < nbytes else None


def _rewrite(
    files: Sequence[File],
    work: Sequence[Sequence[Conversion]],
    target: Path,
    index: Path | None,
    plain: bool,
) -> list[Row]:
    """Write what the conversions of each file give: one file, or shards and their index."""
    from tqdm import tqdm

    _check_target(files, target, index)
    _refuse_repeats([part for conversions in work for one in conversions for part in one.entries])
    total = sum(one.bytes_before for conversions in work for one in conversions)
    rows: list[Row] = []
    weight_map: dict[str, str] = {}
    bar = tqdm(total=total, unit="B", unit_scale=True, disable=no_bar())
    with new.folder(target) if index else nullcontext(target.parent) as folder, bar:
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


def _write(
    path: Path,
    file: File,
    conversions: Sequence[Conversion],
    plain: bool,
    done: Callable[[int], object],
) -> list[Row]:
    """Write one file; `done` is told the bytes of each tensor."""
    rows = []
    entries = [item for one in conversions for item in one.entries.items()]
    quantized = {one.name: one.description for one in conversions if one.description}
    with _writing(path, entries, file.others, None if plain else quantized) as put:
        for one in conversions:
            parts, error = one.run()
            for part, data in parts.items():
                put(part, data)
            after = sum(entry.nbytes for entry in one.entries.values())
            bits = one.description["scheme"]["bits"] if one.description else None
            rows.append(Row(one.name, one.shape, one.bytes_before, after, error, bits))
            done(one.bytes_before)
    return rows


def _write_index(path: Path, content: dict[str, Any]) -> None:
    with open(path, "x", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _check_target(files: Sequence[File], target: Path, index: Path | None) -> None:
    if index:
        if os.path.lexists(target):
            raise ValueError(
                f"{target} exists: the shards go into a folder of their own. Name a new one."
            )
    elif target.is_dir():
        raise ValueError(f"{target} is a folder: name the file to write, {target}/....safetensors.")
    else:
        checks.new_file("target", target)
        folder = files[0].path.parent
        checks.no_source(target, [files[0].path, *folder.glob("*.json"), *folder.glob("*.jinja")])
    checks.in_a_folder("target", target)
