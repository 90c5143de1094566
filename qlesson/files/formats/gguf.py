"""GGUF, the file of llama.cpp: a header that says everything, and then the tensors.

    "GGUF"  version (uint32)  number of tensors (uint64)  number of keys (uint64)
    for each key:     name  kind (uint32)  value
    for each tensor:  name  axes (uint32)  lengths (uint64 each, the LAST axis of torch first)
                      type (uint32, ggml.py)  offset (uint64, from where the tensors begin)
    filled up to a multiple of general.alignment (32), then the tensors, each at such a multiple

All numbers are little-endian. A text is its length in bytes (uint64) and UTF-8; a list is the kind
of its items (uint32), their number (uint64), and the items. Source: docs/gguf.md in the repository
of ggml.
"""

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from qlesson import checks
from qlesson.files import written
from qlesson.files.formats.ggml import TYPES, Type
from qlesson.files.formats.layout import (
    ALIGNMENT,
    DEEPEST,
    LIST,
    MAGIC,
    MOST_AXES,
    NUMBERS,
    TEXT,
)
from qlesson.files.formats.opened import NotRead, Opened, Stored, Value, damaged
from qlesson.files.formats.quantizers import quantize
from qlesson.files.formats.write import write

VERSIONS = (2, 3)  # version 1 had other lengths; 3 is 2, where big-endian files are named
LONGEST = 2**26  # bytes of a header: four times the largest; a sparse file can be of any size

__all__ = ["GGUF", "quantize", "write"]


class _Tensor(NamedTuple):
    type: Type
    begin: int  # in the file


class GGUF(Opened):
    """An open GGUF file. The header is read, and checked; a tensor when it is asked for."""

    format = "GGUF"

    def __init__(self, path: str | Path) -> None:
        self.path = checks.file("path", path)
        with open(self.path, "rb") as file:
            self._stamp = written.stamp(file)
            self.metadata, self.stored, self._tensors = _Header(file, self.path).read()

    def _read(self, name: str) -> Value:
        (kind, shape, nbytes), (type_, begin) = self.stored[name], self._tensors[name]
        if type_.decode is None:
            raise NotRead(
                f"{checks.shown(name)} in {self.path} is of ggml's type {kind}, which qlesson does "
                "not read: convert the file to another type with llama.cpp."
            )
        data = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
        with open(self.path, "rb") as file:  # each time, since threads would share one's place
            written.refuse_changed(file, self.path, self._stamp)
            file.seek(begin)
            count = file.readinto(data.numpy().data)
        if count != nbytes:
            raise damaged(self.path, f"it ended inside {checks.shown(name)}, after it was opened")
        return type_.open(data, shape)


class _Header:
    """Reads from the front to the back; no length is believed before the file is that long."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.left = self.size = os.fstat(file.fileno()).st_size

    def read(self) -> tuple[dict[str, Any], dict[str, Stored], dict[str, _Tensor]]:
        """(metadata, what is stored, where)."""
        if self.size < 4 or self._take(4, "") != MAGIC:
            raise ValueError(f"{self.path} is no GGUF file: it must begin with the letters GGUF.")
        version = self._number("I", "its version")
        if version not in VERSIONS:
            big = version & 0xFFFF == 0 and version != 0
            what = "big-endian numbers" if big else f"version {version} of GGUF"
            raise ValueError(
                f"{self.path} has {what}: qlesson reads versions 2 and 3, little-endian."
            )
        tensors = self._count("tensors", 24)
        metadata = self._metadata(self._count("keys", 13))
        found = [self._tensor() for _ in range(tensors)]
        return metadata, *self._placed(found, self._alignment(metadata))

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self._text("a key")
            self._refuse_second(key, metadata)
            what = checks.shown(key)
            metadata[key] = self._value(self._number("I", what), what, DEEPEST)
        return metadata

    def _value(self, kind: int, key: str, deepest: int) -> Any:
        if kind == TEXT:
            return self._text(key)
        if kind == LIST:
            return self._list(key, deepest)
        return self._number(self._form(kind, key), key)

    def _list(self, key: str, deepest: int) -> list[Any]:
        if deepest == 0:
            raise self._damaged(f"{key} has lists in lists in lists")
        kind = self._number("I", key)
        if kind in (TEXT, LIST):
            count = self._count(f"items in {key}", 8)
            return [self._value(kind, key, deepest - 1) for _ in range(count)]
        form = self._form(kind, key)
        return self._numbers(form, self._count(f"items in {key}", struct.calcsize(form)), key)

    def _form(self, kind: int, key: str) -> str:
        if kind not in NUMBERS:
            raise self._damaged(f"{key} is of kind {kind}, which GGUF does not have")
        return NUMBERS[kind]

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape in torch's order, type, offset) as the file says."""
        name = self._text("the name of a tensor")
        what = checks.shown(name)
        axes = self._number("I", what)
        if axes > MOST_AXES:
            raise self._damaged(f"{what} has {axes} axes, and ggml has at most {MOST_AXES}")
        shape = tuple(reversed(self._numbers("Q", axes, what)))
        if 0 in shape:
            raise self._damaged(f"{what} has the shape {shape}, without a value")
        return name, shape, self._number("I", what), self._number("Q", what)

    def _placed(
        self, found: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> tuple[dict[str, Stored], dict[str, _Tensor]]:
        start = -(-(self.size - self.left) // alignment) * alignment
        stored: dict[str, Stored] = {}
        tensors: dict[str, _Tensor] = {}
        for name, shape, number, offset in found:
            self._refuse_second(name, stored)
            what = checks.shown(name)
            if offset % alignment:
                raise self._damaged(f"{what} begins at {offset}, no multiple of {alignment}")
            type_ = TYPES.get(number, Type(f"{number}", 1, 0))
            nbytes = self._nbytes(what, shape, type_)
            if start + offset + nbytes > self.size:
                raise self._damaged(
                    f"{what} takes {nbytes:,} bytes from {start + offset:,} on, and the file has "
                    f"{self.size:,}"
                )
            stored[name] = Stored(type_.name, shape, nbytes)
            tensors[name] = _Tensor(type_, start + offset)
        self._refuse_overlaps(stored, tensors)
        return stored, tensors

    def _nbytes(self, name: str, shape: tuple[int, ...], type_: Type) -> int:
        last = shape[-1] if shape else 1
        if last % type_.values:
            raise self._damaged(
                f"the rows of {name} have {last} values, and {type_.name} has blocks of "
                f"{type_.values}"
            )
        return math.prod(shape) // type_.values * type_.nbytes

    def _refuse_overlaps(self, stored: dict[str, Stored], tensors: dict[str, _Tensor]) -> None:
        filled = [name for name in stored if stored[name].nbytes]
        end, before = 0, ""
        for name in sorted(filled, key=lambda name: tensors[name].begin):
            if tensors[name].begin < end:
                raise self._damaged(f"{checks.shown(name)} begins inside {checks.shown(before)}")
            end, before = tensors[name].begin + stored[name].nbytes, name

    def _alignment(self, metadata: dict[str, Any]) -> int:
        given = metadata.get(ALIGNMENT, 32)
        if type(given) is not int or given < 1 or given & (given - 1):
            raise self._damaged(f"{ALIGNMENT} is {checks.shown(given)}, no power of two")
        return given

    # --- bytes ---

    def _count(self, what: str, least: int) -> int:
        """How many of what follow, each of at least so many bytes."""
        count = self._number("Q", f"the number of {what}")
        if count * least > self.left:
            raise self._damaged(f"it says it has {count:,} {what}, and {self.left:,} bytes follow")
        return count

    def _text(self, what: str) -> str:
        length = self._number("Q", what)
        try:
            return self._take(length, what).decode()
        except UnicodeDecodeError:
            raise self._damaged(f"{what} holds bytes that are no UTF-8") from None

    def _number(self, form: str, what: str) -> Any:
        return self._numbers(form, 1, what)[0]

    def _numbers(self, form: str, count: int, what: str) -> list[Any]:
        size = struct.calcsize(f"<{form}")
        data = self._take(count * size, what)
        if form == "?" and data.strip(b"\0\1"):
            raise self._damaged(f"{what} is a truth value, and neither 0 nor 1")
        return list(struct.unpack(f"<{count}{form}", data))

    def _take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self._damaged(
                f"{what} takes {count:,} bytes, and the file ends after {self.left:,}"
            )
        if self.size - self.left + count > LONGEST:
            raise self._damaged(f"with {what} its header has more than {LONGEST:,} bytes")
        data = self.file.read(count)
        if len(data) != count:
            raise self._damaged(f"it ended inside {what}")
        self.left -= count
        return data

    def _refuse_second(self, name: str, among: dict[str, Any]) -> None:
        if name in among:
            raise self._damaged(f"it has {checks.shown(name)} twice")

    def _damaged(self, why: str) -> ValueError:
        return damaged(self.path, why)
