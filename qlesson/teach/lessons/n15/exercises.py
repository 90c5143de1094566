"""The exercises of notebook 15, other people's files."""

import struct

import torch

from qlesson.teach.exercises import exercise, right, wrong


@exercise("15.1", "A block by hand", "write code", difficulty=2, minutes=8)
class BlockByHand:
    """
    Write `my_block(data)`: from the 18 bytes (uint8) of a block of Q4_0 to its 32 values, in
    float32 or wider. First comes $d$, a float16. The low halves of the 16 bytes after it are the
    codes 0 to 15, the high halves the codes 16 to 31. A code $q$, from 0 to 15, means $d (q - 8)$.
    """

    hints = (
        "data[:2].view(torch.float16) reads two bytes as a float16.",
        "data[2:] & 15 is the first half of the codes, data[2:] >> 4 the second: torch.cat.",
        "Make the codes float32 before you subtract; times a float16 they stay float32.",
    )
    why = """Two bytes for d and 16 for the codes: 18 bytes for 32 values, 4.5 bits each. The codes
        are made floats first, because in uint8 3 - 8 is 251."""

    @right
    def my_block(data):
        d = data[:2].view(torch.float16)
        q = torch.cat([data[2:] & 15, data[2:] >> 4])
        return d * (q.float() - 8)

    def spec(data):
        codes = [data[2 + i] % 16 for i in range(16)] + [data[2 + i] // 16 for i in range(16)]
        d = struct.unpack("<e", bytes(data[:2]))[0]
        return [d * (q - 8) + 0.0 for q in codes]  # no -0.0

    def cases(rng):
        yield (_block(1.0, [0x10 + i % 2 for i in range(16)]),)
        yield (_block(1.0, [16 * i + i for i in range(16)]),)
        yield (_block(-0.5, [16 * i + 15 - i for i in range(16)]),)
        yield (_block(0.0, range(16)),)
        for _ in range(20):
            d = rng.choice((-1, 1)) * rng.uniform(0.001, 2)
            yield (_block(d, [rng.randint(0, 255) for _ in range(16)]),)

    @wrong("Your two halves of a byte are neighbours. Here all the low halves come first.")
    def neighbours(data):
        d = data[:2].view(torch.float16).float()
        q = torch.stack([data[2:] & 15, data[2:] >> 4], dim=1).flatten()
        return d * (q.float() - 8)

    @wrong("Your halves of a byte are neighbours, high before low. Here all the low come first.")
    def neighbours_reversed(data):
        d = data[:2].view(torch.float16).float()
        q = torch.stack([data[2:] >> 4, data[2:] & 15], dim=1).flatten()
        return d * (q.float() - 8)

    @wrong("Your second half comes first: the low halves are the codes 0 to 15.")
    def high_first(data):
        d = data[:2].view(torch.float16).float()
        q = torch.cat([data[2:] >> 4, data[2:] & 15])
        return d * (q.float() - 8)

    @wrong("The code 8 means 0.0: subtract 8 from every code.")
    def no_offset(data):
        d = data[:2].view(torch.float16).float()
        return d * torch.cat([data[2:] & 15, data[2:] >> 4]).float()

    @wrong("You subtract 7. Which code means 0.0?")
    def seven(data):
        d = data[:2].view(torch.float16).float()
        return d * (torch.cat([data[2:] & 15, data[2:] >> 4]).float() - 7)

    @wrong("These are the codes alone, from 0 to 15. What does each of them mean?")
    def codes_alone(data):
        return torch.cat([data[2:] & 15, data[2:] >> 4]).float()

    @wrong("8 is subtracted from the code, before d multiplies: d * (q - 8).")
    def subtracted_last(data):
        d = data[:2].view(torch.float16).float()
        return d * torch.cat([data[2:] & 15, data[2:] >> 4]).float() - 8

    @wrong("These are the codes less 8. d is missing, the step that multiplies them.")
    def no_step(data):
        return torch.cat([data[2:] & 15, data[2:] >> 4]).float() - 8

    @wrong("Your high halves are 16 times too large: shift them down, data[2:] >> 4.")
    def not_shifted(data):
        d = data[:2].view(torch.float16).float()
        return d * (torch.cat([data[2:] & 15, data[2:] & 240]).float() - 8)

    @wrong("You read the low halves twice: >> 4 gives the high ones.")
    def low_twice(data):
        d = data[:2].view(torch.float16).float()
        return d * (torch.cat([data[2:] & 15, data[2:] & 15]).float() - 8)

    @wrong("The sign is turned: a code above 8 means a value of d's sign, d * (q - 8).")
    def turned(data):
        d = data[:2].view(torch.float16).float()
        return d * (8 - torch.cat([data[2:] & 15, data[2:] >> 4]).float())

    @wrong("You turned the two bytes of d round. The first is the lower one, as view reads them.")
    def turned_bytes(data):
        d = data[:2].flip(0).view(torch.float16).float()
        return d * (torch.cat([data[2:] & 15, data[2:] >> 4]).float() - 8)

    @wrong("float16 rounds the products. The values are asked for in float32 or wider.")
    def in_float16(data):
        d = data[:2].view(torch.float16)
        return d * (torch.cat([data[2:] & 15, data[2:] >> 4]).half() - 8)

    @wrong("That is two's complement, as in notebook 08. Here 8 is subtracted from every code.")
    def complement(data):
        d = data[:2].view(torch.float16).float()
        q = torch.cat([data[2:] & 15, data[2:] >> 4]).float()
        return d * torch.where(q > 7, q - 16, q)

    @wrong("q is uint8, where 3 - 8 is 251: make it float32 before you subtract.")
    def wrapped(data):
        d = data[:2].view(torch.float16).float()
        q = torch.cat([data[2:] & 15, data[2:] >> 4])
        return d * (q - 8)

    @wrong("Both are too narrow: in uint8 3 - 8 is 251, and float16 rounds the products.")
    def wrapped_in_float16(data):
        return data[:2].view(torch.float16) * (torch.cat([data[2:] & 15, data[2:] >> 4]) - 8)

    @wrong("In int8 a shift copies the sign into the places it leaves: shift while it is uint8.")
    def signed_shift(data):
        d = data[:2].view(torch.float16).float()
        signed = data[2:].view(torch.int8)
        return d * (torch.cat([signed & 15, signed >> 4]).float() - 8)

    @wrong("d is a float16, and you read its two bytes as a whole number.")
    def whole_number(data):
        d = data[:2].view(torch.int16).float()
        q = torch.cat([data[2:] & 15, data[2:] >> 4])
        return d * (q.float() - 8)

    @wrong("d is divided by nothing: the file holds the step itself, not the largest value.")
    def largest(data):
        d = data[:2].view(torch.float16).float() / -8
        q = torch.cat([data[2:] & 15, data[2:] >> 4])
        return d * (q.float() - 8)


def _block(d, codes):
    return torch.tensor(list(struct.pack("<e", d) + bytes(codes)), dtype=torch.uint8)


@exercise("15.2", "What a K-quant costs", "predict a number", difficulty=2, minutes=5)
class PriceOfAKQuant:
    """
    A block of Q3_K holds 256 values: their codes of 3 bits; for each small block of 16 values a
    scale code of 6 bits; and one float16, the scale of the scales. There is no minimum. How many
    bits does a value cost? And how many bytes has a block?
    """

    hints = (
        "Count the bits of a block: codes, scale codes, and one float16.",
        "256 values are 16 small blocks of 16.",
        "256 * 3 + 16 * 6 + 16 bits, for 256 values.",
    )
    why = """768 bits of codes, 16 * 6 = 96 of scale codes and 16 of the float16 are 880 bits, or
        110 bytes: 3.4375 bits for each of 256 values. A float16 scale for each 16 would cost 4
        bits in all."""
    stub = "my_bits, my_bytes = ..., ..."
    right = (3.4375, 110)
    within = [0.0005, 0.1]
    wrong = [
        ((3, ...), "That is the codes alone. Their scales are stored too."),
        ((3.375, ...), "One float16 is missing: it scales all the scale codes of the block."),
        ((3.0625, ...), "The scale codes are missing: 16 of them, of 6 bits."),
        ((4, ...), "A small block has a code of 6 bits for its scale, not a float16."),
        ((4.0625, ...), "A small block's scale is a code of 6 bits, and no float16 of its own."),
        ((3.25, ...), "256 values are 16 small blocks of 16; you have counted 8 of 32."),
        ((3.875, ...), "Those are scales and minima. Q3_K has no minimum."),
        ((3.5, ...), "Those are two float16 numbers, d and m. Q3_K has no minimum, so only one."),
        ((9.0625, ...), "16 values share a scale code: its 6 bits are not paid by each of them."),
        ((880, ...), "Those are the bits of a block. Divide them by its values."),
        ((..., 880), "Those are bits. A byte has eight."),
        ((..., 96), "Those are the codes alone: scale codes and a float16 follow, 14 bytes."),
        ((..., 108), "The float16 of the block is missing, two bytes."),
        ((..., 0.4297), "Those are the bytes of one value. A block has 256."),
    ]  # fmt: skip


@exercise("15.3", "Which order is this?", "choice", difficulty=2, minutes=4)
class WhichOrder:
    """
    Four files hold the codes 0, 1, 2, 3, 4, 5, 6, 7, of 4 bits each, in four bytes. In the order of
    the file, each byte in two hexadecimal digits, the high half first as numbers are written:

    - **A** 10 32 54 76
    - **B** 01 23 45 67
    - **C** 40 51 62 73
    - **D** 20 64 31 75

    One has ggml's order, for a block as short as this, and one AWQ's. Which two? Give both letters.
    """

    hints = (
        "Write down the low half of each byte, which is its second digit, then the high half.",
        "ggml: the first half of the codes lies in the low halves. AWQ: the halves, from the "
        "lowest on, hold 0 2 4 6 1 3 5 7.",
    )
    why = """C has 0 1 2 3 in its low halves and 4 5 6 7 in the high ones: ggml's halves. D has, low
        half before high half, 0 2 4 6 1 3 5 7: AWQ's. A is low first, as in GPTQ's words, and B
        high first, as in bitsandbytes."""
    stub = "my_two = ..."
    right = "CD"
    wrong = [
        ("C", "C is one of them. Which holds 0 2 4 6 before 1 3 5 7?"),
        ("D", "D is one of them. Which has 0 1 2 3 in its low halves?"),
        ("A", "A has neighbours in a byte, the first in the low half: GPTQ's order."),
        ("B", "B has neighbours in a byte, the first in the high half: the order of bitsandbytes."),
        ("AC", "C is ggml's. A is GPTQ's: neighbours share a byte, the first in its low half."),
        ("BC", "C is ggml's. B is that of bitsandbytes: neighbours, the first in the high half."),
        ("AD", "D is AWQ's. A is GPTQ's: neighbours share a byte, the first in its low half."),
        ("BD", "D is AWQ's. B is that of bitsandbytes: neighbours, the first in the high half."),
        ("AB", "In both, neighbours share a byte: A is GPTQ's order, B that of bitsandbytes."),
        ("ABC", "C is ggml's. In A and B neighbours share a byte. Which one is left?"),
        ("ABD", "D is AWQ's. In A and B neighbours share a byte. Which one is left?"),
        ("ACD", "Two of these three. A is GPTQ's: neighbours share a byte."),
        ("BCD", "Two of these three. B is that of bitsandbytes: neighbours share a byte."),
        ("ABCD", "Two of the four. In A and B neighbours share a byte; look for 0 beside 4 or 2."),
    ]  # fmt: skip
