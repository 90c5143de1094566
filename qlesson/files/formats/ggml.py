"""The types of ggml: the bytes of a block, and what they stand for.

A row is made of whole blocks of neighbours, and a block of one scale (float16, d), or more, and its
codes. In a byte lie the codes j, j + n, j + 2n, ... of n bytes, the first in the lowest bits.

Q8_0    d  q: 32 int8                       r_hat = d q
Q4_0    d  q: 32 of 4 bits                  r_hat = d (q - 8)
Q4_1    d  m  q: 32 of 4 bits               r_hat = d q + m

ggml's source: ggml-common.h has the blocks, ggml-quants.c the formulas (`dequantize_row_q4_1`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from qlesson.blocks import Blocks

Decode = Callable[[Tensor], Blocks]


class Type(NamedTuple):
    """One type: its name, the values of a block and its bytes, and what reads it.

    decode  takes uint8 [..., blocks, nbytes]; a dtype is that of plain numbers; None is a type that
            this package does not read
    """

    name: str
    values: int
    nbytes: int
    decode: Decode | torch.dtype | None = None

    def open(self, data: Tensor, shape: tuple[int, ...]) -> Blocks | Tensor:
        """The bytes of one tensor, uint8 in a row, as Blocks, or as the numbers they are."""
        assert self.decode is not None
        if isinstance(self.decode, torch.dtype):
            return data.view(self.decode).view(shape)
        return self.decode(data.view(*shape[:-1], -1, self.nbytes))


def fields(data: Tensor, bits: int) -> Tensor:
    """[..., n] bytes as [..., n * 8 / bits] codes: the lowest bits of all bytes, then the next."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8).unsqueeze(-1)
    return ((data.unsqueeze(-2) >> shifts) & (2**bits - 1)).flatten(-2)


def half(data: Tensor) -> Tensor:
    """[..., 2] bytes as float16 [...]."""
    return data.contiguous().view(torch.float16).squeeze(-1)


def q8_0(b: Tensor) -> Blocks:
    q = b[..., 2:].contiguous().view(torch.int8)
    return _blocks(q, half(b[..., :2]), None, 8, 32)


def q4_0(b: Tensor) -> Blocks:
    q = fields(b[..., 2:], 4).view(torch.int8).sub_(8)
    return _blocks(q, half(b[..., :2]), None, 4, 32)


def q4_1(b: Tensor) -> Blocks:
    q = fields(b[..., 4:], 4)
    return _blocks(q, half(b[..., :2]), half(b[..., 2:4]), 4, 32)


def _blocks(q: Tensor, scale: Tensor, minimum: Tensor | None, bits: int, size: int) -> Blocks:
    """Of codes [..., blocks, values]: any bytes are valid ones."""
    parts = dict(q=q.flatten(-2), scale=scale, minimum=minimum, bits=bits, group_size=size)
    return Blocks._trusted(**parts)


# By their numbers in a file: enum ggml_type of ggml.h.
TYPES = {
    0: Type("F32", 1, 4, torch.float32),
    1: Type("F16", 1, 2, torch.float16),
    2: Type("Q4_0", 32, 18, q4_0),
    3: Type("Q4_1", 32, 20, q4_1),
    6: Type("Q5_0", 32, 22),
    7: Type("Q5_1", 32, 24),
    8: Type("Q8_0", 32, 34, q8_0),
    9: Type("Q8_1", 32, 36),
    10: Type("Q2_K", 256, 84),
    11: Type("Q3_K", 256, 110),
    12: Type("Q4_K", 256, 144),
    13: Type("Q5_K", 256, 176),
    14: Type("Q6_K", 256, 210),
    15: Type("Q8_K", 256, 292),
    16: Type("IQ2_XXS", 256, 66),
    17: Type("IQ2_XS", 256, 74),
    18: Type("IQ3_XXS", 256, 98),
    19: Type("IQ1_S", 256, 50),
    20: Type("IQ4_NL", 32, 18),
    21: Type("IQ3_S", 256, 110),
    22: Type("IQ2_S", 256, 82),
    23: Type("IQ4_XS", 256, 136),
    24: Type("I8", 1, 1, torch.int8),
    25: Type("I16", 1, 2, torch.int16),
    26: Type("I32", 1, 4, torch.int32),
    27: Type("I64", 1, 8, torch.int64),
    28: Type("F64", 1, 8, torch.float64),
    29: Type("IQ1_M", 256, 56),
    30: Type("BF16", 1, 2, torch.bfloat16),
    34: Type("TQ1_0", 256, 54),
    35: Type("TQ2_0", 256, 66),
    39: Type("MXFP4", 32, 17),
    40: Type("NVFP4", 64, 36),
    41: Type("Q1_0", 128, 18),
}
