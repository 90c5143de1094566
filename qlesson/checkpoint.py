"""Quantized tensors in a safetensors file, and any checkpoint quantized tensor by tensor.

    checkpoint.save("model.safetensors", {"weight": ql.quantize(w), "bias": b})
    checkpoint.load("model.safetensors")

    python -m qlesson.checkpoint in.safetensors out.safetensors --bits 4 --group-size 64
    python -m qlesson.checkpoint out.safetensors back.safetensors --dequantize

A safetensors file is 8 bytes with the length of a header, the header in JSON, and the bytes of the
tensors (https://github.com/huggingface/safetensors, "Format"). A quantized tensor `w` is stored as
`w.codes`, packed (notebook 08), `w.scale`, and in asymmetric mode `w.zero_point`, packed; its
scheme is in the header's metadata under "qlesson". There are also checksums of every tensor and of
the header, so that a file with one changed byte is refused.

A file is written under a temporary name beside its own and renamed when it is whole.
"""

import argparse
import json
import math
import os
import secrets
import shutil
import signal
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qlesson import checks
from qlesson.checks import FLOATS
from qlesson.error import powers
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.kernels import best_device
from qlesson.packing import PackedTensor, in_a_row, packed_size
from qlesson.qtensor import QTensor, quantize
from qlesson.scheme import Scheme

VERSION = 1
KEY = "qlesson"  # in the header's metadata
INDEX = ".safetensors.index.json"  # the end of the name of a sharded checkpoint's index
CRC_AT = rb"\"header_crc32\": \""  # the header's own checksum comes behind it
NO_CRC = "0" * 8
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
STORED = NAMES | {torch.float4_e2m1fn_x2: "F4"}  # which torch can hold, and not even copy
DTYPES = {name: dtype for dtype, name in STORED.items()}
GRANULARITIES = {kind.__name__: kind for kind in (PerTensor, PerAxis, PerGroup)}


# --- a dictionary of tensors ----------------------------------------------------------------------


def save(path, tensors: dict[str, QTensor | PackedTensor | Tensor]):
    """Write the tensors to one safetensors file, quantized ones packed and with their scheme.

    Tensors that share memory are written once for each name. Raises TypeError for anything else in
    the dictionary, and ValueError for a name or a scheme that a file cannot hold, and for two names
    that would be stored under one.
    """
    stored, quantized = [], {}
    for name, x in tensors.items():
        _check_name(name)
        if isinstance(x, QTensor):
            x = PackedTensor.pack(x)
        if isinstance(x, PackedTensor):
            quantized[name] = _describe(x.scheme, x.shape, x.order)
        stored += _parts(name, x) if isinstance(x, PackedTensor) else [(name, x)]
    for name, x in stored:
        _check_storable(name, x)
    entries = [(n, Entry(STORED[x.dtype], _stored_shape(x), x.nbytes)) for n, x in stored]
    with _writing(Path(path), entries, {"format": "pt"}, quantized) as put:
        for name, x in stored:
            put(name, _bytes(x))


def _check_name(name):
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name of a tensor: the keys must be strings.")
    if name == "__metadata__" or any("\ud800" <= c <= "\udfff" for c in name):
        raise ValueError(
            f"{name!r} is no name that a safetensors file can hold: it keeps __metadata__ for "
            "itself, and text is UTF-8, without halves of surrogate pairs. Rename the tensor."
        )


def _check_storable(name, x):
    """One check for plain tensors and for the parts of quantized ones."""
    kind = type(x).__name__
    if isinstance(x, Tensor):
        if x.is_nested or x.layout != torch.strided:
            kind = f"nested {kind}" if x.is_nested else x.layout
        elif x.is_meta or x.dtype not in STORED:
            kind = f"{x.dtype} on {x.device}"
        else:
            return
    raise TypeError(
        f"{name} is a {kind}: a file holds QTensors, PackedTensors and strided tensors of the "
        "dtypes of safetensors, with values."
    )


def _stored_shape(x) -> tuple[int, ...]:
    """As a file counts: torch has two 4-bit floats in one element."""
    shape = tuple(x.shape)
    return (*shape[:-1], 2 * shape[-1]) if STORED[x.dtype] == "F4" else shape


def load(path, *, packed: bool = False, device=None) -> dict[str, QTensor | PackedTensor | Tensor]:
    """What `save` or `quantize_file` wrote: {name: QTensor or Tensor}.

    path    the file, the index of a sharded checkpoint, or the folder that holds one of these
    packed  give PackedTensors in place of QTensors
    device  where the tensors go; None is the CPU

    A tensor of a dtype that torch lacks comes as its bytes, in uint8, with a warning. Raises
    ValueError for a file that is damaged or that this module did not write.
    """
    tensors = {}
    for file in _open_all(path):
        if file.quantized is None:
            raise ValueError(
                f"{file.path} was not written by qlesson.checkpoint: read it with "
                "safetensors.torch.load_file, or quantize it with python -m qlesson.checkpoint."
            )
        for name in file.plain_names():
            tensors[name] = file.tensor(name, device)
        for name in file.quantized:
            x = file.packed(name, device)
            tensors[name] = x if packed else x.unpack()
    return tensors


# --- a whole checkpoint, tensor by tensor ---------------------------------------------------------


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
    files, skip = _open_all(source), (skip,) if isinstance(skip, str) else tuple(skip)
    for file in files:
        if file.quantized:
            raise ValueError(f"{file.path} is quantized already: dequantize it first.")
    if not isinstance(scheme, Scheme):
        raise TypeError(f"scheme must be a ql.Scheme, got {scheme!r}.")
    names = {name for file in files for name in file.entries}
    for pattern in skip:
        if not any(checks.fits(pattern, name, names) for name in names):
            raise ValueError(f"skip={pattern!r} matches none of the {len(names)} tensors.")
    device = best_device() if device is None else device

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
    return _rewrite(files, jobs, Path(target), _index_of(source), plain=False)


def dequantize_file(source, target, *, device=None) -> list[Row]:
    """Write what `quantize_file` wrote back as floats, in the dtypes that the source had.

    The values are those of `QTensor.dequantize(dtype)`, bit for bit; the file is a plain one.
    """
    files = _open_all(source)
    if not any(file.quantized for file in files):
        raise ValueError(f"{source} holds no tensor that qlesson.checkpoint has quantized.")
    device = best_device() if device is None else device

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
    return _rewrite(files, jobs, Path(target), _index_of(source), plain=True)


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
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder {target.parent} does not exist: make it first.")


# --- the file format ------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A stored tensor: its dtype as safetensors names it, its shape, its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class _File:
    """A safetensors file to read from. Only the tensor that is asked for comes into memory.

    It is read, not mapped: mapped pages would count as memory of this process.

    entries    {stored name: Entry}
    quantized  {name: its scheme and shape}, or None if this module did not write the file
    others     the rest of the metadata
    """

    def __init__(self, path):
        self.path = path
        self._let_safetensors_check()
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length)
        header = json.loads(text)
        self.others = header.pop("__metadata__", {})
        self.quantized, self._crc32 = self._noted(text)
        self.entries, self._begins = {}, {}
        for name, about in header.items():
            begin, end = about["data_offsets"]
            self.entries[name] = Entry(about["dtype"], tuple(about["shape"]), end - begin)
            self._begins[name] = 8 + length + begin

    def _let_safetensors_check(self):
        """It knows every way in which a header can be wrong, and reads none of the tensors."""
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist, or is no file.")
        try:
            with safe_open(self.path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.path} is no safetensors file, or a damaged one: {error}."
            ) from None

    def _noted(self, text):
        """What this module wrote into the header: the quantized tensors, and the checksums."""
        if KEY not in self.others:
            return None, {}
        try:
            info = json.loads(self.others.pop(KEY))
            version, crc = info["version"], info["header_crc32"]
            noted = info["quantized"], info["crc32"]
            right = crc == _crc_of_header(text)
        except (ValueError, KeyError, TypeError):
            raise self._damaged("its qlesson metadata cannot be read") from None
        if not right:
            raise self._damaged("its header is not the one that was written")
        if version != VERSION:
            raise ValueError(
                f"{self.path} has version {version!r} of the format, and this qlesson reads "
                f"version {VERSION}: install the qlesson that wrote it."
            )
        return noted

    def _damaged(self, why):
        return ValueError(f"{self.path} is damaged: {why}.")

    def read(self, name) -> bytearray:
        """The bytes of one stored tensor, checked against their checksum."""
        data = bytearray(self.entries[name].nbytes)
        with open(self.path, "rb") as file:
            file.seek(self._begins[name])
            count = file.readinto(data)
        if count != len(data) or self._crc32.get(name, _crc(data)) != _crc(data):
            raise self._damaged(f"the bytes of {name} are not those that were written")
        return data

    def tensor(self, name, device=None) -> Tensor:
        """One stored tensor."""
        dtype, shape, nbytes = self.entries[name]
        if dtype == "F4" and shape and shape[-1] % 2 == 0:
            shape = (*shape[:-1], shape[-1] // 2)  # torch has two in one element
        elif dtype == "F4" or dtype not in DTYPES:
            warnings.warn(
                f"{name} in {self.path} has dtype {dtype} and shape {shape}, which torch has no "
                "dtype for: it comes as its bytes, in uint8.",
                stacklevel=checks.levels_to_caller(),
            )
            dtype, shape = "U8", (nbytes,)
        if nbytes == 0:
            return torch.empty(shape, dtype=DTYPES[dtype], device=device)
        data = torch.frombuffer(self.read(name), dtype=torch.uint8).to(device)
        return data.view(DTYPES[dtype]).view(shape)

    def part_names(self, name):
        """The stored parts of a quantized tensor."""
        asymmetric = self.quantized[name]["scheme"]["mapping"] == "asymmetric"
        parts = ("codes", "scale", "zero_point") if asymmetric else ("codes", "scale")
        return [f"{name}.{part}" for part in parts]

    def plain_names(self):
        """The tensors that are no part of a quantized one."""
        parts = {part for name in self.quantized or () for part in self.part_names(name)}
        return [name for name in self.entries if name not in parts]

    def packed(self, name, device) -> PackedTensor:
        """One quantized tensor."""
        about = self.quantized[name]
        data, scale, *zero_point = (self.tensor(p, device) for p in self.part_names(name))
        scheme, zero_point = _scheme_of(about), zero_point[0] if zero_point else None
        return PackedTensor(data, about["shape"], scale, zero_point, scheme, about["order"])


def _index_of(source) -> Path | None:
    """The index of a sharded checkpoint, or None for a single file."""
    source = _named(source)
    return source if source.name.endswith(INDEX) else None


def _named(source) -> Path:
    """The file or the index that the source names; of a folder, the one that it holds."""
    source = Path(source)
    if not source.is_dir():
        return source
    indices, single = sorted(source.glob("*" + INDEX)), sorted(source.glob("*.safetensors"))
    found = indices or single
    if len(found) != 1:
        raise ValueError(
            f"{source} is a folder with {len(indices)} files *{INDEX} and {len(single)} files "
            "*.safetensors: name the one to read."
        )
    return found[0]


def _open_all(source) -> list[_File]:
    """The file, or all shards that the index names, if together they hold what it says."""
    index = _index_of(source)
    if index is None:
        return [_File(_named(source))]
    weight_map = _read_index(index)["weight_map"]
    shards = sorted(set(weight_map.values()))
    elsewhere = [name for name in shards if Path(name).name != name]
    if elsewhere:
        raise ValueError(f"{index} names {elsewhere[0]!r}: the shards lie beside their index.")
    files = [_File(index.parent / name) for name in shards]
    held = [(name, file.path.name) for file in files for name in file.entries]
    wrong = sorted(set(held) ^ set(weight_map.items()))
    if wrong:
        name, shard = wrong[0]
        raise ValueError(f"{index} and its shards differ: {name} in {shard} is only in one.")
    return files


def _read_index(index) -> dict:
    """What the index holds: its weight_map, {stored name: shard}, and often metadata."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        shards = content["weight_map"].values()
        right = shards and all(isinstance(name, str) for name in shards)
        right = right and isinstance(content.get("metadata") or {}, dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        right = False
    if not right:
        raise ValueError(
            f"{index} is no index of a sharded checkpoint: it needs a weight_map of names to "
            "shards, and its metadata, if any, is a JSON object."
        )
    return content


def _temporary(path) -> Path:
    """A name beside this one, no longer than the 255 bytes that a file system takes."""
    end = f".{secrets.token_hex(4)}.part"
    kept = os.fsencode(path.name)[: 255 - len(end) - 1].decode(errors="ignore")
    return path.with_name(f".{kept}{end}")


@contextmanager
def _writing(path, entries, others, quantized):
    """Give a function that takes the bytes of each entry, in any order.

    The file appears under its name when all are written; before that, and after an error, it does
    not. quantized=None writes a plain file, without notes and checksums.
    """
    _refuse_repeats([name for name, _ in entries])
    # As safetensors has it: the widest dtype first, so that each tensor starts at its alignment.
    layout = sorted(entries, key=lambda item: (-_width(item[1]), item[0]))
    crc32 = dict.fromkeys(sorted(name for name, _ in entries), NO_CRC)
    begins, begin = {}, len(_header(layout, others, quantized, crc32))
    for name, entry in layout:
        begins[name] = begin
        begin += entry.nbytes
    part = _temporary(path)
    try:
        with open(part, "xb") as file:

            def put(name, data):
                file.seek(begins[name])
                file.write(data)
                crc32[name] = _crc(data)

            yield put
            file.seek(0)
            file.write(_header(layout, others, quantized, crc32))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _refuse_repeats(names):
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{twice[0]} would be stored twice, since a quantized tensor w is stored as w.codes, "
            "w.scale and w.zero_point: rename one of the two, or skip w."
        )


@contextmanager
def _new_folder(target):
    """A folder that gets its name when all in it is written, and is gone after an error."""
    part = _temporary(target)
    try:
        part.mkdir()
        yield part
        os.rename(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _header(layout, others, quantized, crc32) -> bytes:
    """The length and the JSON; as long with other checksums."""
    header = {"__metadata__": dict(others)} if others or quantized is not None else {}
    if quantized is not None:
        info = {"header_crc32": NO_CRC, "version": VERSION}
        info |= {"quantized": quantized, "crc32": crc32}
        header["__metadata__"][KEY] = json.dumps(info)
    begin = 0
    for name, (dtype, shape, nbytes) in layout:
        end = begin + nbytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if quantized is not None:
        text = _with_crc(text, _crc_of_header(text))
    return len(text).to_bytes(8, "little") + text


def _with_crc(text, crc) -> bytes:
    at = text.index(CRC_AT) + len(CRC_AT)
    return text[:at] + crc.encode() + text[at + len(crc) :]


def _crc_of_header(text) -> str:
    """The checksum of the header with zeros in the place of this checksum."""
    return _crc(_with_crc(text, NO_CRC))


def _crc(data) -> str:
    return f"{zlib.crc32(data):08x}"


def _width(entry) -> int:
    """Bytes of one element; 0 for the 4- and 6-bit floats of safetensors."""
    return entry.nbytes // max(1, math.prod(entry.shape))


def _bytes(x):
    """The bytes of a tensor, as numpy sees them."""
    x = x.detach().resolve_conj().resolve_neg().cpu()
    return in_a_row(x).view(torch.uint8).numpy()


def _parts(name, x: PackedTensor):
    """The tensors of a PackedTensor under their stored names."""
    parts = [(f"{name}.codes", x.data), (f"{name}.scale", x.scale)]
    return parts if x.zero_point is None else [*parts, (f"{name}.zero_point", x.zero_point)]


def _describe(scheme, shape, order, dtype=None) -> dict:
    """What the header says about a quantized tensor; dtype is that of the source, if known."""
    if type(scheme) is not Scheme or type(scheme.granularity) not in GRANULARITIES.values():
        raise ValueError(
            f"The scheme is {scheme}, and a file can name only a ql.Scheme with ql.PerTensor(), "
            "ql.PerAxis(axis) or ql.PerGroup(group_size), not a subclass of them."
        )
    fields = asdict(scheme)
    fields["granularity"] = {"kind": type(scheme.granularity).__name__} | fields["granularity"]
    return {"shape": list(shape), "dtype": dtype, "order": order, "scheme": fields}


def _scheme_of(about) -> Scheme:
    fields = dict(about["scheme"])
    granularity = dict(fields.pop("granularity"))
    kind = GRANULARITIES[granularity.pop("kind")]
    return Scheme(granularity=kind(**granularity), **fields)


# --- the command ----------------------------------------------------------------------------------


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m qlesson.checkpoint",
        description="Quantize a safetensors checkpoint tensor by tensor, or turn it back.",
        epilog="A sharded source is named by its *.safetensors.index.json or its folder; the "
        "target is then a new folder.",
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--bits", type=int, default=8, help="2 to 8, or 16 (default: 8)")
    mappings = ("asymmetric", "symmetric")
    parser.add_argument("--mapping", choices=mappings, default="asymmetric")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--group-size", type=int, metavar="N", help="one scale for N neighbours")
    who.add_argument("--per-row", action="store_true", help="one scale for a row (the default)")
    who.add_argument("--per-tensor", action="store_true", help="one scale for a tensor")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN",
        help='leave tensors of these names as they are, such as "*.embed.*"; may be repeated',
    )  # fmt: skip
    parser.add_argument("--dequantize", action="store_true", help="back to floats")
    return parser.parse_args(argv)


def _run(a) -> list[Row]:
    if a.dequantize:
        return dequantize_file(a.source, a.target)
    granularity = PerTensor() if a.per_tensor else PerAxis(0)
    if a.group_size is not None:
        granularity = PerGroup(a.group_size)
    scheme = Scheme(a.bits, a.mapping, granularity)
    return quantize_file(a.source, a.target, scheme, skip=a.skip)


def main(argv=None) -> int:
    """Run the command; 0, 1 after an error, 130 after an interrupt."""
    arguments = _arguments(argv)
    try:
        print(table(_run(arguments)))
        return 0
    except KeyboardInterrupt:
        print(f"Interrupted: {arguments.target} was not written.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up, then go
    sys.exit(main())
