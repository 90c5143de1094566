"""The types of ggml: the bytes of a block, and what they stand for.

A row is made of whole blocks of neighbours. A block holds its parts one after the other: d and m
are float16, the rest are codes of so many bits.

    values  parts, in the order of the file              r_hat
Q8_0    32  d, q 8                                       d q
Q4_0    32  d, q 4                                       d (q - 8)
Q4_1    32  d, m, q 4                                    d q + m
Q5_0    32  d, top bits of q, q 4                        d (q - 16)
Q5_1    32  d, m, top bits of q, q 4                     d q + m
Q2_K   256  (s 4, t 4) of 16 blocks of 16, q 2, d, m     (d s) q - m t
Q3_K   256  top bits of q, q 2, s 6, d                   (d (s - 32)) (q - 4)
Q4_K   256  d, m, (s 6, t 6) of 8 blocks of 32, q 4      (d s) q - m t
Q5_K   256  d, m, (s 6, t 6), top bits of q, q 4         (d s) q - m t
Q6_K   256  q 4, top 2 bits of q, s 8, d                 (d s) (q - 32)
IQ4_NL  32  d, q 4                                       d book[q]
IQ4_XS 256  d, s 6 of 8 blocks of 32, q 4                (d (s - 32)) book[q]
MXFP4   32  e 8, q 4                                     2^(e - 128) book[q]

In n bytes lie the codes j, j + n, j + 2n, ... of byte j, the first in its lowest bits; n is 16 in
blocks of 32, else 32, or 64 in Q6_K.

ggml's source: ggml-common.h has the blocks, ggml-quants.c the formulas (`dequantize_row_q4_1`).
IQ4's book is `kvalues_iq4nl` there.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from qlesson.blocks import Blocks
from qlesson.files.codebooks import e2m1
from qlesson.files.formats.kinds import BookBlocks, SuperBlocks

Decode = Callable[[Tensor], Blocks]
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


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
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=data.device).unsqueeze(-1)
    return ((data.unsqueeze(-2) >> shifts) & (2**bits - 1)).flatten(-2)


def cut(b: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    """The parts of a block, by their numbers of bytes."""
    return b.split(sizes, -1)


def signed(codes: Tensor, bits: int) -> Tensor:
    """Codes from 0 on as int8 around 0: minus 2^(bits - 1)."""
    return codes.view(torch.int8) - 2 ** (bits - 1)


def half(data: Tensor) -> Tensor:
    """[..., 2] bytes as float16 [...]."""
    return data.contiguous().view(torch.float16).squeeze(-1)


# --- one scale for a block ---


def q8_0(b: Tensor) -> Blocks:
    d, q = cut(b, 2, 32)
    return _blocks(q.contiguous().view(torch.int8), half(d), None, 8)


def q4_0(b: Tensor) -> Blocks:
    d, q = cut(b, 2, 16)
    return _blocks(signed(fields(q, 4), 4), half(d), None, 4)


def q4_1(b: Tensor) -> Blocks:
    d, m, q = cut(b, 2, 2, 16)
    return _blocks(fields(q, 4), half(d), half(m), 4)


def q5_0(b: Tensor) -> Blocks:
    d, top, q = cut(b, 2, 4, 16)
    return _blocks(signed(_with_fifth(q, top), 5), half(d), None, 5)


def q5_1(b: Tensor) -> Blocks:
    d, m, top, q = cut(b, 2, 2, 4, 16)
    return _blocks(_with_fifth(q, top), half(d), half(m), 5)


def iq4_nl(b: Tensor) -> Blocks:
    d, q = cut(b, 2, 16)
    return _by_book(fields(q, 4), half(d), torch.tensor(IQ4, device=b.device), 16)


def iq4_xs(b: Tensor) -> Blocks:
    """Scales of 6 bits: the top two of all in two bytes, then the low halves of each."""
    d, top, low, q = cut(b, 2, 2, 4, 128)
    pairs = low.unsqueeze(-1) >> torch.tensor([0, 4], dtype=torch.uint8, device=b.device) & 15
    tops = top.unsqueeze(-1) >> torch.arange(0, 8, 2, dtype=torch.uint8, device=b.device) & 3
    s = signed(pairs.flatten(-2) | tops.flatten(-2) << 4, 6)
    scale = (half(d).float().unsqueeze(-1) * s).flatten(-2)
    return _by_book(_in(16, q, 4), scale, torch.tensor(IQ4, device=b.device), 8)


def mxfp4(b: Tensor) -> Blocks:
    """ggml doubles the book, so that it is whole numbers, without -0, and halves the scale."""
    e, q = cut(b, 1, 16)
    e = e.squeeze(-1).int()
    scale = torch.where(e < 2, 0x00200000 << e, (e - 1) << 23).view(torch.float32)
    return _by_book(fields(q, 4), scale, 2 * torch.cat([e2m1(), 0 - e2m1()]), 8)


def _by_book(q: Tensor, scale: Tensor, book: Tensor, scale_bits: int) -> Blocks:
    """Of codes [..., blocks, values], with a scale for each 32 neighbours."""
    parts = dict(q=q.flatten(-2), scale=scale, minimum=None, bits=4, group_size=32)
    book = book.to(q.device, torch.float32)
    return BookBlocks._trusted(**parts, book=book, scale_bits=scale_bits)


def _with_fifth(q: Tensor, top: Tensor) -> Tensor:
    """Codes of 5 bits: bit j of the four bytes `top` is the highest of code j."""
    bits = (top.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=top.device)) & 1
    return fields(q, 4) | bits.flatten(-2) << 4


def _blocks(q: Tensor, scale: Tensor, minimum: Tensor | None, bits: int) -> Blocks:
    """Of codes [..., blocks, 32]: any bytes are valid ones."""
    parts = dict(q=q.flatten(-2), scale=scale, minimum=minimum, bits=bits, group_size=32)
    return Blocks._trusted(**parts)


# --- scales of scales ---


def q2_k(b: Tensor) -> Blocks:
    st, q, d, m = cut(b, 16, 64, 2, 2)
    s, t = st & 15, st >> 4
    return _super(_in(32, q, 2), half(d), s, 2, 4, half(m), t)


def q3_k(b: Tensor) -> Blocks:
    top, q, s, d = cut(b, 32, 64, 12, 2)
    low, high = cut(s, 8, 4)
    s = signed(fields(low, 4) | fields(high, 2) << 4, 6)
    q = signed(_in(32, q, 2) | fields(top, 1) << 2, 3)
    return _super(q, half(d), s, 3, 6)


def q4_k(b: Tensor) -> Blocks:
    d, m, st, q = cut(b, 2, 2, 12, 128)
    s, t = _six_bits(st)
    return _super(_in(32, q, 4), half(d), s, 4, 6, half(m), t)


def q5_k(b: Tensor) -> Blocks:
    d, m, st, top, q = cut(b, 2, 2, 12, 32, 128)
    s, t = _six_bits(st)
    return _super(_in(32, q, 4) | fields(top, 1) << 4, half(d), s, 5, 6, half(m), t)


def q6_k(b: Tensor) -> Blocks:
    q, top, s, d = cut(b, 128, 64, 16, 2)
    q = signed(_in(64, q, 4) | _in(32, top, 2) << 4, 6)
    return _super(q, half(d), s.contiguous().view(torch.int8), 6, 8)


def _in(n: int, data: Tensor, bits: int) -> Tensor:
    """The codes of n bytes, of the next n, and so on."""
    return fields(data.unflatten(-1, (-1, n)), bits).flatten(-2)


def _six_bits(data: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of 6 bits in 12 bytes: `get_scale_min_k4` of ggml.

    Four bytes hold the scales 0 to 3, and in their top two bits those of the scales 4 to 7; four
    hold the minima likewise; the last four hold the low halves of the scales and minima 4 to 7.
    """
    s, t, low = cut(data, 4, 4, 4)
    s_last = (low & 15) | (s >> 6 << 4)
    t_last = (low >> 4) | (t >> 6 << 4)
    return torch.cat([s & 63, s_last], -1), torch.cat([t & 63, t_last], -1)


def _super(
    q: Tensor,
    d: Tensor,
    s: Tensor,
    bits: int,
    code_bits: int,
    m: Tensor | None = None,
    t: Tensor | None = None,
) -> Blocks:
    """Of codes [..., blocks, 256] and [..., blocks, small blocks]; ggml subtracts its minimum."""
    return SuperBlocks._trusted(
        q=q.flatten(-2), scale=d, minimum=None if m is None else -m, bits=bits, group_size=256,
        scale_codes=s.flatten(-2), minimum_codes=None if t is None else t.flatten(-2),
        code_bits=code_bits,
    )  # fmt: skip


# By their numbers in a file: enum ggml_type of ggml.h.
TYPES = {
    0: Type("F32", 1, 4, torch.float32),
    1: Type("F16", 1, 2, torch.float16),
    2: Type("Q4_0", 32, 18, q4_0),
    3: Type("Q4_1", 32, 20, q4_1),
    6: Type("Q5_0", 32, 22, q5_0),
    7: Type("Q5_1", 32, 24, q5_1),
    8: Type("Q8_0", 32, 34, q8_0),
    9: Type("Q8_1", 32, 36),
    10: Type("Q2_K", 256, 84, q2_k),
    11: Type("Q3_K", 256, 110, q3_k),
    12: Type("Q4_K", 256, 144, q4_k),
    13: Type("Q5_K", 256, 176, q5_k),
    14: Type("Q6_K", 256, 210, q6_k),
    15: Type("Q8_K", 256, 292),
    16: Type("IQ2_XXS", 256, 66),
    17: Type("IQ2_XS", 256, 74),
    18: Type("IQ3_XXS", 256, 98),
    19: Type("IQ1_S", 256, 50),
    20: Type("IQ4_NL", 32, 18, iq4_nl),
    21: Type("IQ3_S", 256, 110),
    22: Type("IQ2_S", 256, 82),
    23: Type("IQ4_XS", 256, 136, iq4_xs),
    24: Type("I8", 1, 1, torch.int8),
    25: Type("I16", 1, 2, torch.int16),
    26: Type("I32", 1, 4, torch.int32),
    27: Type("I64", 1, 8, torch.int64),
    28: Type("F64", 1, 8, torch.float64),
    29: Type("IQ1_M", 256, 56),
    30: Type("BF16", 1, 2, torch.bfloat16),
    34: Type("TQ1_0", 256, 54),
    35: Type("TQ2_0", 256, 66),
    39: Type("MXFP4", 32, 17, mxfp4),
    40: Type("NVFP4", 64, 36),
    41: Type("Q1_0", 128, 18),
}
