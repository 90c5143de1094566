"""A GGUF file, written: the layout is in `gguf.py`."""

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.files import new
from qlesson.files.formats import layout
from qlesson.files.formats.ggml import TYPES
from qlesson.files.formats.quantizers import encode, type_of

WIDEST = 2**20  # the largest alignment: a file has as many zeros behind each tensor
LONGEST = 63  # bytes of a name: GGML_MAX_NAME, with the zero behind it
KINDS = {form: kind for kind, form in layout.NUMBERS.items()}
FORMS: dict[type, str] = {
    np.uint8: "B", np.int8: "b", np.uint16: "H", np.int16: "h", np.uint32: "I", np.int32: "i",
    np.float32: "f", np.bool_: "?", np.uint64: "Q", np.int64: "q", np.float64: "d",
}  # fmt: skip
WHOLE = {"I": (0, 2**32), "i": (-(2**31), 2**31), "Q": (0, 2**64), "q": (-(2**63), 2**63)}


class Planned(NamedTuple):
    """A tensor to write: its type, its shape, and what makes it, when it is its turn."""

    type: int
    shape: tuple[int, ...]
    make: Callable[[], Blocks | Tensor]

    @property
    def nbytes(self) -> int:
        type_, count = TYPES[self.type], 1
        for n in self.shape:
            count *= n
        return count // type_.values * type_.nbytes


def write(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write a GGUF file, one tensor in memory at a time.

    path      the file; it appears under its name when it is whole
    tensors   {name: tensor} in torch's order of axes: float and integer tensors, and Blocks as
              `quantize` makes them, or as these types open; also what `formats.open` gives
    metadata  {key: value}: text, numbers, truth values, and lists of one of these. A whole number
              is stored in uint32 or int32, or in 64 bits where it needs them, in a list in int32;
              any other in float32. A number of numpy says its own kind: np.uint64(7)

    Raises TypeError and ValueError for what a file cannot hold.
    """
    path = checks.new_file("path", path)
    checks.dictionary("tensors", tensors, "{name: tensor}")
    checks.dictionary("metadata", metadata, "{key: value}")
    planned = {name: _planned(tensors, name) for name in tensors}
    write_planned(path, planned, metadata)


def _planned(tensors: Mapping[str, Any], name: Any) -> Planned:
    x = tensors[name]
    number = type_of(name, x)
    return Planned(number, tuple(x.shape), lambda: tensors[name])


def write_planned(path: Path, planned: Mapping[str, Planned], metadata: Mapping[str, Any]) -> None:
    """The same, of tensors that are made when it is their turn."""
    alignment = _alignment(metadata)
    if layout.ALIGNMENT in metadata:  # a plain number is written in uint32, which is its kind
        metadata = {**metadata, layout.ALIGNMENT: alignment}
    keys = [_text("a key", key) + _value(key, x) for key, x in metadata.items()]
    infos, offset = [], 0
    for name, x in planned.items():
        infos.append(_info(name, x, offset))
        offset += -(-x.nbytes // alignment) * alignment
    header = layout.MAGIC + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys + infos)
    with new.file(path) as temporary, open(temporary, "xb") as file:
        file.write(header + bytes(-len(header) % alignment))
        for x in planned.values():
            file.write(encode(x.make()).numpy().data)
            file.write(bytes(-x.nbytes % alignment))
        file.flush()
        os.fsync(file.fileno())


def _alignment(metadata: Mapping[str, Any]) -> int:
    given = metadata.get(layout.ALIGNMENT, 32)
    whole = type(given) is int or isinstance(given, np.integer)
    if not whole or not 1 <= given <= WIDEST or given & (given - 1):
        raise ValueError(
            f"metadata[{layout.ALIGNMENT!r}] must be a power of two up to {WIDEST:,}, got "
            f"{checks.shown(given)}."
        )
    return int(given)


def _info(name: Any, x: Planned, offset: int) -> bytes:
    text = _text("a name in tensors", name)
    if len(text) - 8 > LONGEST:
        raise ValueError(f"tensors[{checks.shown(name)}]: a name has at most {LONGEST} bytes.")
    if len(x.shape) > layout.MOST_AXES or 0 in x.shape:
        raise ValueError(
            f"tensors[{name!r}] has shape {x.shape}: GGUF holds up to {layout.MOST_AXES} axes, "
            "and none that is empty."
        )
    axes = struct.pack(f"<I{len(x.shape)}Q", len(x.shape), *reversed(x.shape))
    return text + axes + struct.pack("<IQ", x.type, offset)


def _text(what: str, x: Any) -> bytes:
    if not isinstance(x, str):
        raise TypeError(f"{what} must be text, got {checks.shown(x)}.")
    try:
        data = x.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be UTF-8, without halves of surrogate pairs.") from None
    return struct.pack("<Q", len(data)) + data


def _value(key: str, x: Any) -> bytes:
    """The kind and the value."""
    what = f"metadata[{checks.shown(key)}]"
    kind = _kind(what, [x], False)
    return struct.pack("<I", kind) + _data(what, kind, x)


def _data(what: str, kind: int, x: Any, deepest: int = layout.DEEPEST) -> bytes:
    if kind == layout.TEXT:
        return _text(what, x)
    if kind != layout.LIST:
        return struct.pack("<" + layout.NUMBERS[kind], x)
    if deepest == 0:
        raise ValueError(
            f"{what} holds lists in lists in lists: at most {layout.DEEPEST} are read again."
        )
    inner = _kind(what, x, True)
    head = struct.pack("<IQ", inner, len(x))
    if inner in (layout.TEXT, layout.LIST):
        return head + b"".join(_data(what, inner, item, deepest - 1) for item in x)
    return head + struct.pack(f"<{len(x)}{layout.NUMBERS[inner]}", *x)


def _kind(what: str, items: Any, in_list: bool) -> int:
    """One kind for all."""
    types = {type(x) for x in items}
    if types == {str}:
        return layout.TEXT
    if types in ({list}, {tuple}):
        return layout.LIST
    if types == {bool}:
        return KINDS["?"]
    if len(types) == 1 and types <= FORMS.keys():
        return KINDS[FORMS[types.pop()]]
    if types <= {int}:
        for form in "iIqQ" if in_list else "IiqQ":
            low, end = WHOLE[form]
            if all(low <= x < end for x in items):
                return KINDS[form]
    if float in types and types <= {int, float} and all(map(_fits_float32, items)):
        return KINDS["f"]
    raise TypeError(
        f"{what} must be text, a number of at most 64 bits, a truth value, or a list of one of "
        f"these, got {checks.shown(items if in_list else items[0])}."
    )


def _fits_float32(x: float) -> bool:
    try:
        return bool(struct.pack("<f", x))
    except OverflowError:
        return False
