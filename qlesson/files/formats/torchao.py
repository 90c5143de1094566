"""torchao's tensors, where each code has a byte: int8 or FP8, not packed or laid out for a kernel.

`flatten_tensor_state_dict` of torchao.prototype.safetensors stores the weight of `x` as
x._weight_qdata, x._weight_scale and, where it has them, x._weight_zero_point; the header's metadata
has the class under "x.weight". Classes other than those below are packed (Int4Tensor, its
default for int4 weights) or laid out for a kernel, and are refused by name.
"""

from typing import Any

import torch

from qlesson.files import written
from qlesson.files.formats.floats import EIGHT_BITS
from qlesson.files.formats.kinds import BookBlocks
from qlesson.files.formats.opened import Value
from qlesson.files.formats.parts import FLOATS, Found, Parts, found, matrix, need, not_read
from qlesson.files.formats.steps import coded_by_shape, rows_of_steps, size_of_groups

INTEGERS = ("Int8Tensor", "IntxUnpackedToInt8Tensor")


def description(text: str | None) -> dict[str, Any] | None:
    """What the header says about a tensor, if it is one of torchao's."""
    try:
        said = written.parsed(text or "")
    except ValueError:
        return None
    right = isinstance(said, dict) and isinstance(said.get("_type"), str)
    right = right and isinstance(said.get("_data"), dict)
    return said if right and said["_type"] != "Tensor" else None


def plain(parts: Parts, said: dict[str, Any]) -> Found:
    """One of the classes in which each code has a byte."""
    kind, data = said["_type"], said["_data"]
    (codes,) = need(parts, "qdata")
    if kind not in (*INTEGERS, "Float8Tensor"):
        return not_read(
            parts, "qdata", f"torchao {kind}", f"is of torchao's class {kind}",
            "it is packed or laid out for a kernel; dequantize it with torchao, and save it again",
        )  # fmt: skip
    codes, scale = need(parts, "qdata", "scale")
    rows, width = matrix(codes)
    block = data.get("block_size")
    block = block if isinstance(block, list) else []

    def integers() -> Value:
        zeros = parts.get("zero_point")
        if zeros and zeros.entry.dtype != "I8":
            raise zeros.not_read(
                "holds zero points that are no codes, which qlesson does not read: dequantize it "
                "with torchao, and save it again"
            )
        z = zeros and zeros.read("I8", scale.shape)
        return coded_by_shape(codes.read("I8"), scale.read(FLOATS), z, _bits(data), scale, block)

    def floats() -> Value:
        q = codes.read(tuple(EIGHT_BITS)).view(torch.uint8)
        steps = rows_of_steps(scale.read(FLOATS), (rows, width), scale, block)
        size = size_of_groups(scale, width, steps.shape[1], block[1:])
        every = torch.arange(256, dtype=torch.uint8, device=q.device)
        book = every.view(EIGHT_BITS[codes.entry.dtype]).float()
        scale_bits = 8 * scale.entry.nbytes / steps.numel()
        return BookBlocks(q, steps.contiguous(), None, 8, size, book, scale_bits)

    read = integers if kind in INTEGERS else floats
    return found(f"torchao {kind}", parts, (rows, width), read)


def _bits(data: dict[str, Any]) -> int:
    """Of the dtype that the codes were made for: int4 has 4."""
    target = data.get("target_dtype")
    name = target.get("_data") if isinstance(target, dict) else None
    bits = {f"int{n}": n for n in range(2, 9)}
    return bits.get(name, 8) if isinstance(name, str) else 8
