"""The file: safetensors, with schemes and checksums in the header's metadata.

A safetensors file is 8 bytes with the length of a header, the header in JSON, and the bytes of the
tensors (https://github.com/huggingface/safetensors, "Format"). A quantized tensor `w` is stored as
`w.codes`, packed, `w.scale`, and in asymmetric mode `w.zero_point`, packed; its
scheme is in the header's metadata under "qlesson". There are also checksums of every tensor and of
the header, so that a file with one changed byte is refused.

A file is written under a temporary name beside its own and renamed when it is whole.
"""

import json
import math
import os
import secrets
import shutil
import warnings
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qlesson import checks
from qlesson.files.packing import PackedTensor, in_a_row
from qlesson.granularity import PerAxis, PerGroup, PerTensor
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
            raise FileNotFoundError(f"{self.path} does not exist, or is no file: name one.")
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
    source = checks.path("source", source)
    if not source.is_dir():
        return source
    indices, single = sorted(source.glob("*" + INDEX)), sorted(source.glob("*.safetensors"))
    named = indices or single
    if len(named) != 1:
        raise ValueError(
            f"{source} is a folder with {len(indices)} files *{INDEX} and {len(single)} files "
            "*.safetensors: name the one to read."
        )
    return named[0]


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
