"""The exercises of notebook 13, fast kernels."""

from qlesson.teach.exercises import exercise, right, wrong


@exercise("13.1", "Bytes of the way back", "predict a number", difficulty=1, minutes=4)
class BytesBack:
    """
    Dequantizing int8 codes to bfloat16, with one scale for the whole tensor, in a single pass. How
    many bytes move for each value, and how many milliseconds do 100 million values take at least,
    where memory moves 25 GB/s?
    """

    hints = (
        "A code is read, and a bfloat16 value is written. How many bytes has each?",
        "One byte is read and two are written, so three move for each value.",
        "100 million values move 300 million bytes; divide by 25 billion bytes per second.",
    )
    why = """One byte in, two bytes out: 3 bytes a value. 0.3 GB at 25 GB/s are 0.012 s, 12 ms. The
        single scale is read once and counts for nothing."""
    stub = "my_bytes, my_ms = ..., ..."
    right = (3, 12)
    wrong = [
        ((5, ...), "You wrote float32 values of 4 bytes. A bfloat16 value has 2 bytes."),
        ((2, ...), "These are the bytes written. The code has to be read too."),
        ((1, ...), "This is the byte read. The value has to be written too."),
        ((7, ...), "The scale is one number for the whole tensor: it is not read for each value."),
        ((24, ...), "Those are bits. A byte has eight."),
        ((..., 0.012), "That is in seconds. A second has 1000 milliseconds."),
        ((..., 12000), "Those are microseconds. A second has 1000 milliseconds."),
        ((..., 4), "You moved one byte for each value. There are three."),
        ((..., 8), "You moved two bytes for each value. The code is read too."),
        ((..., 20), "You moved five bytes for each value. A bfloat16 value has 2, and its code 1."),
        ((..., 96), "You divided bits by bytes: 25 GB/s are billions of bytes."),
    ]


@exercise("13.2", "Find the floor", "write code", difficulty=2, minutes=7)
class Floor:
    """
    Write `my_floor(values, bytes_in, bytes_out, readings, gb_per_s)`: the fewest milliseconds in
    which a kernel can read `values` inputs of `bytes_in` bytes `readings` times and write as many
    outputs of `bytes_out` bytes once. A GB is $10^9$ bytes.
    """

    hints = (
        "First the bytes: how many are read, how many are written?",
        "bytes = values * (readings * bytes_in + bytes_out): the output is written once.",
        "Divide by gb_per_s * 1e9 for seconds, and multiply by 1000 for milliseconds.",
    )
    why = """Every reading of the input costs its bytes again, and the output is written once. A
        scale for the whole tensor needs two readings: one for the range, one for the codes."""

    @right
    def my_floor(values, bytes_in, bytes_out, readings, gb_per_s):
        moved = values * (readings * bytes_in + bytes_out)
        return moved / (gb_per_s * 10**9) * 1000

    def spec(values, bytes_in, bytes_out, readings, gb_per_s):
        moved = values * bytes_out
        for _ in range(readings):
            moved += values * bytes_in
        seconds = moved / gb_per_s / 10**9
        return 1000 * seconds

    def cases(rng):
        yield 1_000_000_000, 4, 1, 1, 1.0
        yield 1_000_000_000, 4, 1, 2, 1.0
        yield 1_000_000_000, 2, 1, 3, 10.0
        yield 1_000_000, 1, 4, 1, 20.0
        for _ in range(20):
            yield (
                rng.randint(10**6, 10**9), rng.choice((1, 2, 4)), rng.choice((1, 2, 4)),
                rng.randint(1, 4), float(rng.randint(5, 3000)),
            )  # fmt: skip

    @wrong("The output is written once, however often the input is read.")
    def output_each_time(values, bytes_in, bytes_out, readings, gb_per_s):
        return values * readings * (bytes_in + bytes_out) / gb_per_s / 1e6

    @wrong("A second reading moves the bytes of the input again: multiply them by `readings`.")
    def one_reading(values, bytes_in, bytes_out, readings, gb_per_s):
        return values * (bytes_in + bytes_out) / gb_per_s / 1e6

    @wrong("The output moves too: bytes_out for each of the `values` outputs.")
    def no_output(values, bytes_in, bytes_out, readings, gb_per_s):
        return values * readings * bytes_in / gb_per_s / 1e6

    @wrong("This is in seconds. Milliseconds are 1000 times as many.")
    def seconds(values, bytes_in, bytes_out, readings, gb_per_s):
        return values * (readings * bytes_in + bytes_out) / (gb_per_s * 1e9)

    @wrong("A GB is 10 ** 9 bytes here, not 2 ** 30.")
    def binary(values, bytes_in, bytes_out, readings, gb_per_s):
        return 1000 * values * (readings * bytes_in + bytes_out) / (gb_per_s * 2**30)

    @wrong("A million is 10 ** 6 here, not 2 ** 20: GB and milliseconds count in thousands.")
    def binary_millions(values, bytes_in, bytes_out, readings, gb_per_s):
        return values * (readings * bytes_in + bytes_out) / gb_per_s / 2**20

    @wrong("This is in microseconds. A millisecond has 1000 of them.")
    def microseconds(values, bytes_in, bytes_out, readings, gb_per_s):
        return values * (readings * bytes_in + bytes_out) / gb_per_s / 1e3

    @wrong("The input is read `readings` times, and the output is written once: not the reverse.")
    def output_read(values, bytes_in, bytes_out, readings, gb_per_s):
        return values * (bytes_in + readings * bytes_out) / gb_per_s / 1e6

    @wrong("Bytes are what moves, and gb_per_s counts bytes: nothing has to become bits.")
    def bits(values, bytes_in, bytes_out, readings, gb_per_s):
        return 8 * values * (readings * bytes_in + bytes_out) / gb_per_s / 1e6

    @wrong("More bandwidth takes less time: divide by it.")
    def multiplied(values, bytes_in, bytes_out, readings, gb_per_s):
        return 1000 * values * (readings * bytes_in + bytes_out) * gb_per_s / 1e9


@exercise("13.3", "Spot the extra pass", "choice", difficulty=2, minutes=4)
class ExtraPass:
    """
    Four calls, each one compiled into as few passes as it allows. `r` is a float32 tensor. Which
    two have to read their input twice? Give both letters.

    - **A** `ql.quantize(r, scheme, qparams, check=False, out=out)`
    - **B** `ql.quantize(r, scheme, qparams)`, which refuses NaN before it writes a code
    - **C** `ql.quantize(r, scheme, check=False, out=out)`, with one scale for the whole tensor
    - **D** `r_hat = x.dequantize()` of codes that are there already
    """

    hints = (
        "Which of them must have seen every value before they write the first code?",
        "B looks for NaN in all of r first. What else must be known of all of r?",
    )
    why = """B reads r once to look for NaN and infinity, and again to write the codes. C reads it
        once for the range. A and D write while they read."""
    stub = "my_two = ..."
    right = "BC"
    wrong = [
        ("B", "B does, and it is not alone: which other one needs all of r before its first code?"),
        ("C", "C does, and it is not alone: which other one sees all of r before its first code?"),
        ("A", "A is given the scale and looks for nothing: it writes while it reads."),
        ("D", "D reads the codes once; the scale is there already."),
        ("AB", "A is given the scale and looks for nothing. Which other one needs the range?"),
        ("BD", "D reads the codes once, and B does read twice. Which other one needs the range?"),
        ("CD", "D reads the codes once. Which other one reads all of r before it writes?"),
        ("AC", "A is given the scale and looks for nothing, C must find one. Who else looks?"),
        ("AD", "Both write while they read: A is given its scale, and D has one beside its codes."),
        ("ABC", "Two of these three. A is given the scale and looks for nothing."),
        ("ABD", "B does read twice. A and D write while they read. Which one is left?"),
        ("ACD", "C does read twice. A and D write while they read. Which one is left?"),
        ("BCD", "Two of these three. D reads the codes once; the scale is there already."),
        ("ABCD", "Not all four: A and D are given their scale, and write while they read."),
    ]
