"""The exercises of notebook 08, fewer bits than a byte."""

import torch
from torch import tensor

from qlesson.teach.exercises import exercise, right, wrong


def _codes(rng, n):
    return [rng.randint(-8, 7) for _ in range(n)]


@exercise("8.1", "Out of the bytes", "write code", difficulty=2, minutes=8)
class Unpack:
    """
    Write `my_unpack(data)`: from a row of bytes (uint8) to signed 4-bit codes (int8), two from each
    byte, the lower half first. The nibbles 0 to 7 mean 0 to 7, and 8 to 15 mean -8 to -1.
    """

    hints = (
        "data & 15 is the lower half of every byte, data >> 4 the upper.",
        "torch.stack([low, high], dim=1).flatten() puts them in turn.",
        "Cast to int8 first, then subtract 16 where the nibble is larger than 7.",
    )
    why = """A nibble from 8 to 15 has its highest bit set, and in two's complement that bit counts
        -8 in place of 8: 16 less. The package writes the same as (nibble xor 8) - 8."""
    dtype = torch.int8

    @right
    def my_unpack(data):
        nibbles = torch.stack([data & 15, data >> 4], dim=1).flatten().to(torch.int8)
        return torch.where(nibbles > 7, nibbles - 16, nibbles)

    def spec(data):
        codes = []
        for byte in data:
            for nibble in (byte % 16, byte // 16):
                codes.append(nibble - 16 if nibble >= 8 else nibble)
        return codes

    def cases(rng):
        yield (tensor([0x21], dtype=torch.uint8),)
        yield (tensor([0x43, 0x65], dtype=torch.uint8),)
        yield (tensor([0x87], dtype=torch.uint8),)
        yield (tensor([0xF8], dtype=torch.uint8),)
        for _ in range(20):
            n = rng.randint(2, 6)
            yield (tensor([rng.randint(0, 255) for _ in range(n)], dtype=torch.uint8),)
        yield (tensor(range(256), dtype=torch.uint8),)

    @wrong("The nibbles 8 to 15 are negative codes, 16 less: the sign is lost.")
    def no_sign(data):
        return torch.stack([data & 15, data >> 4], dim=1).flatten().to(torch.int8)

    @wrong("uint8 has no numbers below 0: 8 - 16 becomes 248. Cast to int8 before you subtract.")
    def unsigned(data):
        nibbles = torch.stack([data & 15, data >> 4], dim=1).flatten()
        return torch.where(nibbles > 7, nibbles - 16, nibbles)

    @wrong("The upper half comes first in your codes. Here the lower half comes first.")
    def high_first(data):
        nibbles = torch.stack([data >> 4, data & 15], dim=1).flatten().to(torch.int8)
        return torch.where(nibbles > 7, nibbles - 16, nibbles)

    @wrong("All lower halves come first in your codes. The two codes of a byte are neighbours.")
    def all_low_then_all_high(data):
        nibbles = torch.cat([data & 15, data >> 4]).to(torch.int8)
        return torch.where(nibbles > 7, nibbles - 16, nibbles)

    @wrong("The nibble 8 is the code -8: it is negative already.")
    def eight_is_positive(data):
        nibbles = torch.stack([data & 15, data >> 4], dim=1).flatten().to(torch.int8)
        return torch.where(nibbles > 8, nibbles - 16, nibbles)

    @wrong("You subtract 8 from all. That undoes an offset of 8, not two's complement.")
    def offset(data):
        return torch.stack([data & 15, data >> 4], dim=1).flatten().to(torch.int8) - 8

    @wrong("The highest bit is lost, so 8 becomes 0: keep all four bits (the mask is 15), and take "
           "16 from the nibbles 8 to 15, not 8.")  # fmt: skip
    def mask_of_seven(data):
        return torch.stack([data & 7, data >> 4 & 7], dim=1).flatten().to(torch.int8)


@exercise("8.2", "What a file costs", "predict a number", difficulty=2, minutes=5)
class WhatAFileCosts:
    """
    A layer has 4096 x 4096 weights. In a file you find three tensors for it: the codes, int32
    [512, 4096]; the scales, float16 [32, 4096]; and the zero points, int32 [32, 512]. How many
    bits does one weight cost, with all that is stored? And how many gigabytes would 70 billion
    weights take at that price? (1 GB is a billion bytes.)
    """

    hints = (
        "Count the bits of each tensor: its numbers, times 32 or times 16.",
        "The codes take 512 * 4096 * 32 bits, and there are 4096 * 4096 weights: 4 bits each.",
        "Scales add 32 * 4096 * 16 bits and zero points 32 * 512 * 32 bits, for all weights.",
    )
    why = """The codes take 4 bits for each weight, eight of them in an int32. The scales, one for
        128 weights, add 16 / 128 = 0.125, and the zero points, packed as well, 4 / 128 = 0.03125:
        4.15625 bits. 70 billion of these are 36.4 GB. GPTQ's files look like this. Shapes and
        dtypes say the price, whatever the name of the file says."""
    stub = "my_bits, my_gb = ..., ..."
    right = (4.15625, 36.37)
    within = [0.001, 0.05]
    wrong = [
        ((4, ...), "That is the codes alone. Scales and zero points are stored too."),
        ((4.125, ...), "The zero points are missing: 32 * 512 numbers of 32 bits."),
        ((4.03125, ...), "The scales are missing: 32 * 4096 numbers of 16 bits."),
        ((4.28125, ...), "The scales are float16, of 16 bits, not 32."),
        ((4.375, ...), "An int32 holds eight zero points: 32 * 512 numbers of 32 bits are stored."),
        ((4.1875, ...), "The zero points are packed like the codes: 4 bits each, not 8."),
        ((32, ...), "The codes have 512 rows and the weights 4096: an int32 holds eight codes."),
        ((0.51953125, ...), "Those are bytes. A byte has eight bits."),
        ((4.15625, 35), "That is the codes alone. Take your bits per weight."),
        ((4.15625, 290.94), "Those are gigabits. Eight bits are a byte."),
        ((4.15625, 33.87), "Those are GiB, of 2**30 bytes. Here 1 GB is a billion bytes."),
    ]


@exercise("8.3", "Negative neighbours", "repair a bug", difficulty=2, minutes=6)
class NegativeNeighbours:
    """
    This function packs signed 4-bit codes (int8), two to a byte, the first in the lower half. With
    codes from 0 to 7 it works. With negative ones some bytes are wrong. Which, and why? Repair it;
    the number of codes is even.
    """

    hints = (
        "Print pack_pairs(torch.tensor([-1, 0], dtype=torch.int8)). Which byte should it be?",
        "As a byte, -1 is 255: all eight bits are set, and four of them belong to the neighbour.",
        "A mask keeps the lowest four bits of each code: & 15.",
    )
    why = """An int8 code below 0 has ones in its upper half. Without the mask they fall into the
        place of the next code. The code in the upper half needs none: its upper bits are shifted
        out of the byte."""
    stub = """
        def pack_pairs(q):
            q = q.view(torch.uint8)
            return q[0::2] | (q[1::2] << 4)
    """
    dtype = torch.uint8

    @right
    def pack_pairs(q):
        q = q.view(torch.uint8) & 15
        return q[0::2] | (q[1::2] << 4)

    def spec(q):
        return [a % 16 + 16 * (b % 16) for a, b in zip(q[::2], q[1::2], strict=True)]

    def cases(rng):
        yield (tensor([1, 2], dtype=torch.int8),)
        yield (tensor([-1, 0], dtype=torch.int8),)
        yield (tensor([0, -1], dtype=torch.int8),)
        yield (tensor([-8, 7], dtype=torch.int8),)
        yield (tensor([3, -8, -2, 5], dtype=torch.int8),)
        for _ in range(20):
            yield (tensor(_codes(rng, 2 * rng.randint(1, 4)), dtype=torch.int8),)
        yield (tensor(_codes(rng, 200), dtype=torch.int8),)

    @wrong("The first code still spills over: mask it with & 15. The second code needs no mask.")
    def the_other_one(q):
        q = q.view(torch.uint8)
        return q[0::2] | ((q[1::2] & 15) << 4)

    @wrong("The first code still spills over, and + carries on from there: mask it with & 15.")
    def added(q):
        q = q.view(torch.uint8)
        return q[0::2] + (q[1::2] << 4)

    @wrong("The first code still spills over, and ^ turns its neighbour's bits: mask it with & 15.")
    def turned(q):
        q = q.view(torch.uint8)
        return q[0::2] ^ (q[1::2] << 4)

    @wrong("The bits are right, but they are read as int8. Bytes are uint8: .view(torch.uint8).")
    def signed_bytes(q):
        q = q & 15
        return q[0::2] | (q[1::2] << 4)

    @wrong("The first code belongs in the lower half; your halves are exchanged.")
    def exchanged(q):
        q = q.view(torch.uint8) & 15
        return (q[0::2] << 4) | q[1::2]

    @wrong("A mask of 7 keeps three bits: the sign of each code is lost.")
    def mask_of_seven(q):
        q = q.view(torch.uint8) & 7
        return q[0::2] | (q[1::2] << 4)

    @wrong("An offset of 8 makes the codes positive, but other bytes: 0 must stay 0.")
    def offset(q):
        q = (q + 8).view(torch.uint8)
        return q[0::2] | (q[1::2] << 4)

    @wrong("Magnitudes lose the sign: -1 must become 15, not 1.")
    def magnitudes(q):
        q = q.abs().view(torch.uint8)
        return (q[0::2] & 15) | (q[1::2] << 4)
