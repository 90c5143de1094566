"""The exercises of notebook 14, writing fast."""

import math

from qlesson.teach.exercises import exercise, right, wrong


@exercise("14.1", "Tokens a second", "predict a number", difficulty=1, minutes=4)
class TokensASecond:
    """
    A model has 8 billion weights, stored as 4-bit codes with a float16 scale for each group of 32.
    It writes one token at a time on a machine whose memory moves 90 GB/s. How many GB does a token
    cost, and how many tokens a second does memory allow?
    """

    hints = (
        "How many bits does a weight take, with its share of a scale?",
        "4 + 16 / 32 = 4.5 bits. Times 8 billion weights, divided by 8 bits a byte: the bytes.",
        "Every token reads them all once: divide the bytes of a second by those of a token.",
    )
    why = """4.5 bits a weight: 8e9 * 4.5 / 8 = 4.5e9 bytes. 90 GB/s read them 20 times a second.
        Neither the multiplications nor the processor's speed come into it."""
    stub = "my_gb, my_tokens = ..., ..."
    right = (4.5, 20)
    within = [0.01, 0.05]
    wrong = [
        ((4, ...), "That counts the codes alone. 32 of them share a scale of 16 bits."),
        ((36, ...), "That is in billions of bits. A byte has 8."),
        ((8, ...), "That is a byte for each weight. A code has 4 bits, and 0.5 for its scale."),
        ((16, ...), "That is the float16 model. Its codes have 4 bits, and 0.5 for the scale."),
        ((32, ...), "That is the float32 model. Its codes have 4 bits, and 0.5 for the scale."),
        ((5, ...), "That is a scale of 32 bits for 32 codes. A float16 has 16."),
        ((4.5e9, ...), "Those are bytes. A GB is a billion of them."),
        ((4.19, ...), "That is in units of 2 ** 30 bytes. Here a GB is a billion bytes."),
        ((..., 0.05), "That is the time of one token, in seconds. How many fit into a second?"),
        ((..., 50), "That is the time of one token, in milliseconds. How many fit into a second?"),
        ((..., 22.5), "That is without the scales: they are read for every token, too."),
        ((..., 2.5), "You divided GB by bits: a token costs 4.5 GB, and a second reads 90."),
        ((..., 160), "You divided bits by GB: a token costs 4.5 GB, and a second reads 90."),
        ((..., 405), "You multiplied. How many times do 4.5 GB fit into the 90 of a second?"),
    ]


@exercise("14.2", "Where arithmetic takes over", "write code", difficulty=2, minutes=7)
class Turn:
    """
    Write `my_turn(bits, gb_per_s, gflop_per_s)`: how many tokens at once take memory and
    arithmetic the same time. A weight has `bits` bits, its scale included, and is read once for
    all tokens; each token multiplies it and adds the product, which are two operations. A GB is
    $10^9$ bytes, and a GFLOP $10^9$ operations.
    """

    hints = (
        "For one weight: how long does memory take, and how long the arithmetic of n tokens?",
        "Memory takes bits / 8 / gb_per_s, arithmetic 2 * n / gflop_per_s, both in nanoseconds.",
        "Set them equal and solve for n.",
    )
    why = """bits / 8 / gb_per_s = 2 n / gflop_per_s, so n = bits * gflop_per_s / (16 gb_per_s).
        Half the bits: half as many tokens until arithmetic is the limit."""

    @right
    def my_turn(bits, gb_per_s, gflop_per_s):
        return bits * gflop_per_s / (16 * gb_per_s)

    def spec(bits, gb_per_s, gflop_per_s):
        memory = bits / 8 / (gb_per_s * 1e9)
        one_token = 2 / (gflop_per_s * 1e9)
        return memory / one_token

    def cases(rng):
        yield 32, 10.0, 10.0
        yield 8, 1.0, 16.0
        yield 4.5, 100.0, 2000.0
        yield 4.5, 3000.0, 1000.0
        yield 16, 3000.0, 500000.0
        for _ in range(20):
            yield (
                rng.choice((32, 16, 8.5, 4.5, 2.5)),
                float(rng.randint(5, 3000)),
                float(rng.randint(50, 500000)),
            )

    @wrong("`bits` are bits, and memory's GB are bytes of 8.")
    def bits_for_bytes(bits, gb_per_s, gflop_per_s):
        return bits * gflop_per_s / (2 * gb_per_s)

    @wrong("A token multiplies and adds: two operations for each weight.")
    def one_operation(bits, gb_per_s, gflop_per_s):
        return bits * gflop_per_s / (8 * gb_per_s)

    @wrong("Upside down: more arithmetic moves the turn to more tokens, more bandwidth to fewer.")
    def upside_down(bits, gb_per_s, gflop_per_s):
        return 16 * gb_per_s / (bits * gflop_per_s)

    @wrong(
        "The two rates have changed places: memory's time is bits / 8 / gb_per_s, one token's "
        "arithmetic 2 / gflop_per_s, and the second divides the first."
    )
    def rates_exchanged(bits, gb_per_s, gflop_per_s):
        return gb_per_s * bits / 8 / (2 * gflop_per_s)

    @wrong("Two operations per weight make a token slower: they divide, as the bandwidth does.")
    def operations_multiply(bits, gb_per_s, gflop_per_s):
        return bits / 8 * 2 * gflop_per_s / gb_per_s

    @wrong("The two times may be equal between whole numbers: leave the result as it is.")
    def whole_up(bits, gb_per_s, gflop_per_s):
        return math.ceil(bits * gflop_per_s / (16 * gb_per_s))

    @wrong("Nothing is rounded down: at a whole number of tokens one of the two waits a little.")
    def whole_down(bits, gb_per_s, gflop_per_s):
        return math.floor(bits * gflop_per_s / (16 * gb_per_s))

    @wrong("No count of tokens is asked for, but where two times are equal: do not round.")
    def whole_nearest(bits, gb_per_s, gflop_per_s):
        return round(bits * gflop_per_s / (16 * gb_per_s))

    @wrong("Below 1 arithmetic is the limit at one token already: leave the number as it is.")
    def one_at_least(bits, gb_per_s, gflop_per_s):
        return max(1, bits * gflop_per_s / (16 * gb_per_s))

    @wrong("Here a GB is 10 ** 9 bytes, as a GFLOP is 10 ** 9 operations: yours is 2 ** 30.")
    def binary_gb(bits, gb_per_s, gflop_per_s):
        return bits * gflop_per_s / (16 * gb_per_s) * 1e9 / 2**30

    @wrong("These are operations for each byte. How many tokens make so many, at `bits` a weight?")
    def intensity(bits, gb_per_s, gflop_per_s):
        return gflop_per_s / gb_per_s

    @wrong("Fewer bits are read sooner, so arithmetic takes over earlier: the bits multiply.")
    def bits_divide(bits, gb_per_s, gflop_per_s):
        return gflop_per_s / (2 * gb_per_s) / (bits / 8)


@exercise("14.3", "The pass too many", "choice", difficulty=2, minutes=4)
class PassTooMany:
    """
    Four layers multiply one token by the same 4-bit weights. Which two write something as large as
    the codes, or larger, for every token? Give both letters.

    - **A** reads packed codes row by row, makes each a number in a register, and multiplies it
    - **B** unpacks the codes to int8, all of them, and multiplies those by an 8-bit input
    - **C** made float32 weights of the codes once, when it was built, and multiplies those
    - **D** calls `F.linear(x, w.dequantize())`
    """

    hints = (
        "What does each of them write into memory while it makes one token, beside its outputs?",
        "Reading is not writing: C reads 4 bytes a weight, and writes nothing but outputs.",
    )
    why = """B writes the codes as int8, twice as large as packed, and reads them again. D writes a
        float32 weight, eight times as large, and reads it again. A writes outputs only. So does
        C, which reads float32's bytes: its codes save nothing while it runs."""
    stub = "my_two = ..."
    right = "BD"
    wrong = [
        ("B", "B does, and it is not alone: which other one writes a weight for every token?"),
        ("D", "D does, and it is not alone: which other one writes every code once more?"),
        ("A", "A keeps a code in a register: nothing but the outputs is written."),
        ("C", "C wrote its weights once, long before this token. Now it only reads them."),
        ("AB", "A keeps a code in a register. Which other one writes what it made of the codes?"),
        ("AD", "A keeps a code in a register. Which other one writes what it unpacked?"),
        ("AC", "A keeps a code in a register, and C wrote long ago: neither writes for a token."),
        ("BC", "C reads many bytes, and writes none for a token. Which other one writes a weight?"),
        ("ABD", "Two of these three. A keeps a code in a register: only outputs are written."),
        ("ABC", "B does. A keeps a code in a register, and C wrote long ago. Which one is left?"),
        ("ACD", "D does. A keeps a code in a register, and C wrote long ago. Which one is left?"),
        ("BCD", "Two of these three. C wrote its weights once, long before this token."),
        ("ABCD", "Not all four: A keeps its codes in registers, and C wrote before this token."),
        ("CD", "C reads many bytes, and writes none for a token. Which other one unpacks?"),
    ]
