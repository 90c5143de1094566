"""Codes in int32 words: GPTQ, AWQ, and compressed-tensors' pack-quantized.

A word is four bytes, the lowest first. Dense words are the order "low_first" of
`qlesson.files.packing`, in which a code may lie across two words. Padded words hold 32 // bits
whole codes, and the rest of their bits is unused. Planes are for 32 codes at a time: words with the
low bits of all, and then words with their higher bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from qlesson.files.packing import in_a_row, unpack

PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}  # bits of each; of others all in one


def dense_words(count: int, bits: int) -> int:
    """Words of a row of so many codes."""
    return -(-count * bits // 32)


def padded_words(count: int, bits: int) -> int:
    """The same, where no code lies across two words."""
    return -(-count // (32 // bits))


def unpack_dense(words: Tensor, bits: int, count: int) -> Tensor:
    """int32 [rows, words] as uint8 [rows, count]."""
    words = F.pad(words, (0, -words.shape[1] % bits))  # whole codes in each row
    shape = len(words), words.shape[1] * 32 // bits
    return unpack(in_a_row(words).view(torch.uint8), bits, shape, signed=False)[:, :count]


def unpack_padded(words: Tensor, bits: int, count: int) -> Tensor:
    """The same, of words that hold whole codes."""
    shifts = torch.arange(32 // bits, dtype=torch.int32, device=words.device) * bits
    codes = (words.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return codes.to(torch.uint8).flatten(1)[:, :count]


def unpack_planes(words: Tensor, bits: int, count: int) -> Tensor:
    """The same, of blocks of `bits` words for 32 codes."""
    rest, below = words.unflatten(1, (-1, bits)), 0
    codes = words.new_zeros(len(words), count, dtype=torch.uint8)
    for width in PLANES.get(bits, (bits,)):
        plane, rest = rest.split((width, rest.shape[-1] - width), -1)
        codes = codes | unpack_padded(plane.flatten(1), width, count) << below
        below += width
    return codes
