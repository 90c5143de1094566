"""Quantized tensors in a safetensors file; any checkpoint, tensor by tensor (notebook 08).

    checkpoint.save("model.safetensors", {"weight": ql.quantize(w), "bias": b})
    checkpoint.load("model.safetensors")

    qlesson quantize in.safetensors out.safetensors --bits 4 --group-size 64
    qlesson quantize out.safetensors back.safetensors --dequantize

What such a file holds is in `format.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.files.checkpoint.convert import dequantize_file, quantize_file, table
from qlesson.files.checkpoint.format import (
    STORED,
    Description,
    Entry,
    _bytes,
    _describe_packed,
    _parts,
    _writing,
)
from qlesson.files.checkpoint.shards import open_all
from qlesson.files.packing import Packed, PackedBlocks, PackedTensor, packed
from qlesson.qtensor import QTensor
from qlesson.report import Row, naming

Saved = QTensor | Blocks | Packed | Tensor

__all__ = ["Row", "dequantize_file", "load", "quantize_file", "save", "table"]


def save(path: str | Path, tensors: Mapping[str, Saved]) -> None:
    """Write the tensors to one safetensors file, quantized ones packed and with their scheme.

    Blocks are packed too, with scale and minimum as they are; a subclass of Blocks is refused.

    Tensors that share memory are written once for each name. Raises TypeError for anything else in
    the dictionary, and ValueError for a name or a scheme that a file cannot hold, and for two names
    that would be stored under one.
    """
    path = checks.new_file("path", path)
    checks.dictionary("tensors", tensors, "{name: QTensor, Blocks or tensor}")
    stored: list[tuple[str, Tensor]] = []
    quantized: dict[str, Description] = {}
    for name, x in tensors.items():
        _check_name(name)
        if isinstance(x, QTensor | Blocks):
            with naming(name):
                x = packed(x)
        if isinstance(x, PackedTensor | PackedBlocks):
            quantized[name] = _describe_packed(x)
            stored += _parts(name, x)
        else:
            stored.append((name, x))
    for name, part in stored:
        _check_storable(name, part)
    entries = [(n, Entry(STORED[x.dtype], _stored_shape(x), x.nbytes)) for n, x in stored]
    with _writing(path, entries, {"format": "pt"}, quantized) as put:
        for name, part in stored:
            put(name, _bytes(part))


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"tensors has the name {name!r}: names must be text.")
    if name == "__metadata__" or any("\ud800" <= c <= "\udfff" for c in name):
        raise ValueError(
            f"{name!r} is no name that a safetensors file can hold: it keeps __metadata__ for "
            "itself, and text is UTF-8, without halves of surrogate pairs. Rename the tensor."
        )


def _check_storable(name: str, x: Any) -> None:
    """One check for plain tensors and for the parts of quantized ones."""
    kind = type(x).__name__
    if isinstance(x, Tensor):
        if x.is_nested or x.layout != torch.strided:
            kind = f"nested {kind}" if x.is_nested else str(x.layout)
        elif x.is_meta or x.dtype not in STORED:
            kind = f"{x.dtype} on {x.device}"
        else:
            return
    raise TypeError(
        f"{name} is a {kind}: a file holds QTensors and Blocks, packed or not, and strided tensors "
        "of the dtypes of safetensors, with values."
    )


def _stored_shape(x: Tensor) -> tuple[int, ...]:
    """As a file counts: torch has two 4-bit floats in one element."""
    shape = tuple(x.shape)
    return (*shape[:-1], 2 * shape[-1]) if STORED[x.dtype] == "F4" else shape


def load(
    path: str | Path, *, packed: bool = False, device: torch.device | str | None = None
) -> dict[str, Saved]:
    """What `save` or `quantize_file` wrote: {name: QTensor, Blocks or Tensor}.

    path    the file, the index of a sharded checkpoint, or the folder that holds one of these
    packed  give PackedTensors and PackedBlocks in place of QTensors and Blocks
    device  where the tensors go; None is the CPU

    A tensor of a dtype that torch lacks comes as its bytes, in uint8, with a warning. Raises
    ValueError for a file that is damaged or that this module did not write.
    """
    device = None if device is None else checks.device("device", device)
    tensors: dict[str, Saved] = {}
    for file in open_all(path):
        if not file.is_ours:
            raise ValueError(
                f"{file.path} was not written by qlesson.files.checkpoint: read it with "
                "qlesson.files.formats.open, or quantize it with qlesson quantize."
            )
        for name in file.plain_names():
            tensors[name] = file.tensor(name, device)
        for name in file.quantized:
            x = file.packed(name, device)
            tensors[name] = x if packed else x.unpack()
    return tensors
