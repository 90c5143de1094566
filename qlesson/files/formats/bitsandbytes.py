"""bitsandbytes: 4 bits, NF4 and FP4, as QLoRA's models are stored, and the 8 of LLM.int8.

    r_hat = absmax[block] * quant_map[q]        of 4 bits
    r_hat = (SCB[row] / 127) * q                of 8: weight int8, SCB float32 [rows], and
                                                weight_format, 0 where rows follow each other

weight                     uint8 [values / 2, 1], two codes in a byte, the first in the HIGH half;
                           in training such bytes are stored as bfloat16 or float32, too
weight.absmax              float32 for each block of 64 values of the flattened tensor, or uint8
weight.quant_map           float32 [16], the book
weight.quant_state.bitsandbytes__nf4, or __fp4: JSON in bytes, shape, blocksize, nested_...

Where absmax is uint8 it is quantized once more: nested_quant_map[absmax] * nested_absmax[block of
256] + nested_offset.

Source: QuantState in bitsandbytes/functional.py; int8_vectorwise_dequant in bitsandbytes/_ops.py,
which multiplies by 1 / 127 last: its r_hat of 8 bits may differ by two in the last place.
"""

import math
from typing import Any

import torch
from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.files import written
from qlesson.files.formats.kinds import BookBlocks
from qlesson.files.formats.parts import FLOATS, Config, Found, Part, Parts, found, matrix, need
from qlesson.files.formats.steps import coded, whole_number
from qlesson.files.packing import packed_size, unpack
from qlesson.granularity import PerAxis
from qlesson.qtensor import QTensor

STATE = "weight.quant_state.bitsandbytes__"
MOST = 2**16  # bytes of the state


def four_bits(parts: Parts, config: Config) -> Found | None:
    """NF4 or FP4, by the state that is stored."""
    kinds = [kind for kind in ("nf4", "fp4") if STATE + kind in parts]
    if not kinds:
        return None
    weight, absmax, book = need(parts, "weight", "weight.absmax", "weight.quant_map")
    state = _state(parts[STATE + kinds[0]])
    shape, size = state["shape"], state["blocksize"]
    count = math.prod(shape)
    if weight.entry.nbytes != packed_size(count, 4):
        raise weight.wrong(f"has {weight.entry.nbytes} bytes for {count} codes of 4 bits")

    def read() -> BookBlocks:
        data = weight.read(("U8", "I8", *FLOATS)).flatten().view(torch.uint8)
        q = unpack(data, 4, shape, signed=False, order="high_first")
        steps = _steps(parts, absmax, state, -(-count // size))
        # A block may begin inside a row: parts of it that lie in whole rows share its scale.
        part = math.gcd(shape[-1], size)
        scale = steps.repeat_interleave(size // part)[: count // part]
        scale_bits = 8 * absmax.entry.nbytes / len(scale)
        scale = scale.view(*shape[:-1], -1)
        return BookBlocks(q, scale, None, 4, part, book.read("F32", (16,)), scale_bits)

    return found(f"bitsandbytes {kinds[0].upper()}", parts, shape, read)


def eight_bits(parts: Parts, config: Config) -> Found | None:
    """LLM.int8: a scale for each row."""
    if "weight" not in parts or parts["weight"].entry.dtype != "I8":
        return None
    weight, most = need(parts, "weight", "SCB")
    rows, width = matrix(weight)

    def read() -> QTensor | Blocks:
        order = parts.get("weight_format")
        if order is not None and order.read(("U8", "I8")).any():
            told = "says that the codes lie as a GPU took them, which qlesson does not read"
            raise order.not_read(told)
        scale = most.read("F32", (rows,)) / 127
        return coded(weight.read("I8"), scale.unsqueeze(1), None, 8, PerAxis(0), most)

    return found("bitsandbytes INT8", parts, (rows, width), read)


def _state(part: Part) -> dict[str, Any]:
    """The JSON, with a shape and a blocksize that can be meant."""
    if part.entry.nbytes > MOST:
        raise part.wrong(f"takes {part.entry.nbytes} bytes")
    try:
        state = written.parsed(bytes(part.read("U8").tolist()))
        shape = tuple(whole_number(n, 1, 2**40) for n in state["shape"])
        size = whole_number(state["blocksize"], 1, 2**16)
    except (ValueError, KeyError, TypeError):
        shape, size = (), None
    if not shape or None in shape or size is None:
        raise part.wrong("is no JSON that names a shape and a blocksize")
    return state | {"shape": shape, "blocksize": size}


def _steps(parts: Parts, absmax: Part, state: dict[str, Any], blocks: int) -> Tensor:
    """The scale of each block, float32."""
    if absmax.entry.dtype != "U8":
        return absmax.read("F32", (blocks,))
    nested, book = need(parts, "weight.nested_absmax", "weight.nested_quant_map")
    size = whole_number(state.get("nested_blocksize"), 1, 2**16)
    offset = state.get("nested_offset")
    if size is None or not isinstance(offset, float | int) or isinstance(offset, bool):
        raise absmax.wrong("is quantized, and its state names no nested_blocksize and offset")
    if not abs(offset) <= torch.finfo(torch.float32).max:
        raise absmax.wrong(f"is quantized, and its offset is {checks.shown(offset)}")
    values = book.read("F32", (256,))[absmax.read("U8", (blocks,)).int()]
    of_many = nested.read("F32", (-(-blocks // size),)).repeat_interleave(size)[:blocks]
    return values * of_many + torch.tensor(offset, dtype=torch.float32, device=values.device)
