"""The file: safetensors, with schemes and checksums in the header's metadata.

A safetensors file is 8 bytes with the length of a header, the header in JSON, and the bytes of the
tensors (https://github.com/huggingface/safetensors, "Format"). A quantized tensor `w` is stored as
`w.codes`, packed, `w.scale`, and in asymmetric mode `w.zero_point`, packed; Blocks have `w.minimum`
in its place, if any. The scheme, or the bits and the size of the blocks, is in the header's
metadata under "qlesson". There are also checksums of every tensor and of the header, so that a file
with one changed byte is refused.

The version of a file is the first that can hold what is in it: 2 for Blocks and for schemes with a
scale_dtype, else 1.

A file is written under a temporary name beside its own and renamed when it is whole.
"""

import json
import math
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qlesson import checks
from qlesson.checks import FLOATS
from qlesson.files import new, written
from qlesson.files.packing import Packed, PackedBlocks, PackedTensor, in_a_row
from qlesson.granularity import PerAxis, PerGroup, PerTensor, Shape
from qlesson.scheme import Scheme

VERSION = 2  # the newest; a file has the first that can hold it
KEY = "qlesson"  # in the header's metadata
CRC_AT = rb"\"header_crc32\": \""  # the header's own checksum comes behind it
NO_CRC = "0" * 8
MOST_AXES, LARGEST = 64, 2**60  # axes of a tensor, and the product of its lengths
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
OF_FLOATS = [NAMES[dtype] for dtype in FLOATS]
GRANULARITIES = {kind.__name__: kind for kind in (PerTensor, PerAxis, PerGroup)}

Description = dict[str, Any]  # of a quantized tensor, as the header has it
Data = bytearray | memoryview


class Entry(NamedTuple):
    """A stored tensor: its dtype as safetensors names it, its shape, its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class File:
    """A safetensors file to read from. Only the tensor that is asked for comes into memory.

    It is read, not mapped: mapped pages would count as memory of this process.

    entries    {stored name: Entry}
    is_ours    whether this module wrote the file
    quantized  {name: its description}
    others     the rest of the metadata
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._let_safetensors_check()
        with open(path, "rb") as file:
            self._stamp = written.stamp(file)
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length)
        header = self._header(text)
        self.others: dict[str, str] = header.pop("__metadata__", None) or {}
        self.is_ours = KEY in self.others
        self.entries: dict[str, Entry] = {}
        self._begins: dict[str, int] = {}
        for name, noted in header.items():
            begin, end = noted["data_offsets"]
            self.entries[name] = Entry(noted["dtype"], tuple(noted["shape"]), end - begin)
            self._refuse_shape(name)
            self._begins[name] = 8 + length + begin
        self.quantized, self._crc32 = self._noted(text)
        for name in self.quantized:
            self._refuse_other_parts(name)

    def _let_safetensors_check(self) -> None:
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

    def _header(self, text: bytes) -> dict[str, Any]:
        """safetensors takes the last of two tensors with one name."""
        try:
            return written.parsed(text)
        except ValueError as error:
            raise self._damaged(f"its header has {error}") from None

    def _refuse_shape(self, name: str) -> None:
        """A length of 0 beside one that no tensor can have: together they take no bytes."""
        shape = self.entries[name].shape
        if len(shape) > MOST_AXES or math.prod(n or 1 for n in shape) > LARGEST:
            raise self._damaged(f"{checks.shown(name)} has the shape {checks.shown(shape)}")

    def _noted(self, text: bytes) -> tuple[dict[str, Description], dict[str, str]]:
        """What this module wrote into the header: the quantized tensors, and the checksums."""
        if not self.is_ours:
            return {}, {}
        try:
            info = written.parsed(self.others.pop(KEY))
            version, crc = info["version"], info["header_crc32"]
            noted = dict(info["quantized"]), dict(info["crc32"])
            right = crc == _crc_of_header(text)
        except (ValueError, KeyError, TypeError):
            raise self._damaged("its qlesson metadata cannot be read") from None
        if not right:
            raise self._damaged("its header is not the one that was written")
        if version not in range(1, VERSION + 1):
            raise ValueError(
                f"{self.path} has version {version!r} of the format, and this qlesson reads "
                f"versions 1 to {VERSION}: install the qlesson that wrote it."
            )
        return noted

    def _refuse_other_parts(self, name: str) -> None:
        """A description that nobody wrote here, or of parts that are not there."""
        description = self.quantized[name]
        try:
            right = all(part in self.entries for part in self.part_names(name))
            right = right and isinstance(description["shape"], list) and "order" in description
            right = right and all(type(n) is int and n >= 0 for n in description["shape"])
            right = right and description.get("dtype") in (None, *OF_FLOATS)
            if "blocks" in description:
                right = right and {"bits", "group_size", "signed"} <= set(description["blocks"])
            else:
                _scheme_of(description)
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            raise self._damaged(f"its metadata say of {checks.shown(name)} what it is not")

    def _damaged(self, why: str) -> ValueError:
        return ValueError(f"{self.path} is damaged: {why}.")

    def read(self, name: str) -> bytearray:
        """The bytes of one stored tensor, checked against their checksum."""
        data = bytearray(self.entries[name].nbytes)
        with open(self.path, "rb") as file:
            written.refuse_changed(file, self.path, self._stamp)
            file.seek(self._begins[name])
            count = file.readinto(data)
        if count != len(data) or self._crc32.get(name, _crc(data)) != _crc(data):
            raise self._damaged(f"the bytes of {name} are not those that were written")
        return data

    def tensor(self, name: str, device: torch.device | None = None) -> Tensor:
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

    def part_names(self, name: str) -> list[str]:
        """The stored parts of a quantized tensor."""
        description = self.quantized[name]
        parts = ["codes", "scale"]
        if "blocks" in description:
            parts += ["minimum"] if description["blocks"]["minimum"] else []
        elif description["scheme"]["mapping"] == "asymmetric":
            parts += ["zero_point"]
        return [f"{name}.{part}" for part in parts]

    def plain_names(self) -> list[str]:
        """The tensors that are no part of a quantized one."""
        parts = {part for name in self.quantized for part in self.part_names(name)}
        return [name for name in self.entries if name not in parts]

    def packed(self, name: str, device: torch.device | None) -> Packed:
        """One quantized tensor."""
        description = self.quantized[name]
        data, scale, *third = (self.tensor(part, device) for part in self.part_names(name))
        held = data, description["shape"], scale, third[0] if third else None
        if "blocks" in description:
            noted = description["blocks"]
            how = noted["bits"], noted["group_size"], noted["signed"], description["order"]
            return PackedBlocks(*held, *how)
        return PackedTensor(*held, _scheme_of(description), description["order"])


@contextmanager
def _writing(
    path: Path,
    entries: Sequence[tuple[str, Entry]],
    others: dict[str, str],
    quantized: dict[str, Description] | None,
) -> Iterator[Callable[[str, Data], None]]:
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
    with new.file(path) as temporary, open(temporary, "xb") as file:

        def put(name: str, data: Data) -> None:
            file.seek(begins[name])
            file.write(data)
            crc32[name] = _crc(data)

        yield put
        file.seek(0)
        file.write(_header(layout, others, quantized, crc32))
        file.flush()
        os.fsync(file.fileno())


def _refuse_repeats(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{twice[0]} would be stored twice, since a quantized tensor w is stored as w.codes, "
            "w.scale and w.zero_point or w.minimum: rename one of the two, or skip w."
        )


def _header(
    layout: Sequence[tuple[str, Entry]],
    others: dict[str, str],
    quantized: dict[str, Description] | None,
    crc32: dict[str, str],
) -> bytes:
    """The length and the JSON; as long with other checksums."""
    header: dict[str, Any] = {}
    if others or quantized is not None:
        header["__metadata__"] = dict(others)
    if quantized is not None:
        info = {"header_crc32": NO_CRC, "version": _version_of(quantized)}
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


def _version_of(quantized: dict[str, Description]) -> int:
    """An older qlesson meets a sentence, where it could not read what is here."""
    newer = ("blocks" in x or "scale_dtype" in x["scheme"] for x in quantized.values())
    return 2 if any(newer) else 1


def _with_crc(text: bytes, crc: str) -> bytes:
    at = text.index(CRC_AT) + len(CRC_AT)
    return text[:at] + crc.encode() + text[at + len(crc) :]


def _crc_of_header(text: bytes) -> str:
    """The checksum of the header with zeros in the place of this checksum."""
    return _crc(_with_crc(text, NO_CRC))


def _crc(data: Data | bytes) -> str:
    return f"{zlib.crc32(data):08x}"


def _width(entry: Entry) -> int:
    """Bytes of one element; 0 for the 4- and 6-bit floats of safetensors."""
    return entry.nbytes // max(1, math.prod(entry.shape))


def _bytes(x: Tensor) -> memoryview:
    """The bytes of a tensor, as numpy sees them."""
    x = x.detach().resolve_conj().resolve_neg().cpu()
    return in_a_row(x).view(torch.uint8).numpy().data


def _parts(name: str, x: Packed) -> list[tuple[str, Tensor]]:
    """The packed tensors under their stored names."""
    parts = {"codes": x.data, "scale": x.scale}
    third = "zero_point" if isinstance(x, PackedTensor) else "minimum"
    found = parts | {third: getattr(x, third)}
    return [(f"{name}.{part}", t) for part, t in found.items() if t is not None]


def _describe_packed(x: Packed) -> Description:
    """What the header says about codes that are packed already."""
    if isinstance(x, PackedTensor):
        return _describe(x.scheme, x.shape, x.order)
    blocks = {"bits": x.bits, "group_size": x.group_size, "signed": x.signed}
    blocks["minimum"] = x.minimum is not None
    return {"shape": list(x.shape), "dtype": None, "order": x.order, "blocks": blocks}


def _describe(scheme: Scheme, shape: Shape, order: str, dtype: str | None = None) -> Description:
    """What the header says about a quantized tensor; dtype is that of the source, if known."""
    if type(scheme) is not Scheme or type(scheme.granularity) not in GRANULARITIES.values():
        raise ValueError(
            f"The scheme is {scheme}, and a file can name only a ql.Scheme with ql.PerTensor(), "
            "ql.PerAxis(axis) or ql.PerGroup(group_size), not a subclass of them."
        )
    fields = asdict(scheme)
    fields["granularity"] = {"kind": type(scheme.granularity).__name__} | fields["granularity"]
    scale_dtype = fields.pop("scale_dtype")
    if scale_dtype is not None:
        fields["scale_dtype"] = STORED[scale_dtype]
    return {"shape": list(shape), "dtype": dtype, "order": order, "scheme": fields}


def _scheme_of(description: Description) -> Scheme:
    fields = dict(description["scheme"])
    granularity = dict(fields.pop("granularity"))
    kind = GRANULARITIES[granularity.pop("kind")]
    if "scale_dtype" in fields:
        fields["scale_dtype"] = DTYPES[fields["scale_dtype"]]
    return Scheme(granularity=kind(**granularity), **fields)
