"""The exercises of notebook 09, a quantized layer."""

import torch
from torch import tensor

from qlesson.teach.exercises import exercise, right, wrong


def int8_codes(rng, rows, columns):
    return tensor([[rng.randint(-128, 127) for _ in range(columns)] for _ in range(rows)]).to(
        torch.int8
    )


@exercise("9.1", "Four sums of codes", "write code", difficulty=2, minutes=10)
class FourSums:
    """
    Write `my_product(x, z_x, w, z_w)`: the sum over k of `(x - z_x)(w - z_w)` for every row of `x`
    and every row of `w`. Both are int8 matrices with k columns, the zero points are numbers, and
    the result is a matrix (rows of `x`, rows of `w`), exact.
    """

    hints = (
        "int8 ends at 127. Make both matrices int64 before you add or multiply anything.",
        "Either subtract the zero points first, or add up the four terms.",
        "(x.long() - z_x) @ (w.long() - z_w).T is one line that is right.",
    )
    why = """Subtracting first and multiplying out give the same number. The second form is the one
        that hardware uses: its large product is of the int8 codes themselves."""

    @right
    def my_product(x, z_x, w, z_w):
        x, w = x.long(), w.long()
        corner = x.shape[1] * z_x * z_w
        return x @ w.T - z_w * x.sum(1, keepdim=True) - z_x * w.sum(1) + corner

    def spec(x, z_x, w, z_w):
        return [
            [sum((a - z_x) * (b - z_w) for a, b in zip(i, j, strict=True)) for j in w] for i in x
        ]

    def cases(rng):
        yield tensor([[3]]).to(torch.int8), 0, tensor([[2]]).to(torch.int8), 0
        yield tensor([[3]]).to(torch.int8), 1, tensor([[2]]).to(torch.int8), 5
        yield tensor([[3, 4]]).to(torch.int8), 1, tensor([[2, 6]]).to(torch.int8), 5
        yield tensor([[100]]).to(torch.int8), -100, tensor([[2]]).to(torch.int8), 0
        yield tensor([[100]]).to(torch.int8), 0, tensor([[100]]).to(torch.int8), 0
        yield tensor([[1, 2, 3]]).to(torch.int8), 2, tensor([[4, 5, 7]]).to(torch.int8), 3
        for _ in range(20):
            m, k, n = rng.choice([(2, 3, 4), (3, 5, 2), (1, 4, 3), (4, 2, 1)])
            zeros = rng.randint(-128, 127), rng.randint(-128, 127)
            yield int8_codes(rng, m, k), zeros[0], int8_codes(rng, n, k), zeros[1]
        long = torch.full((1, 1101), 127, dtype=torch.int8)
        yield long, -128, long, -128  # its sums are odd and no float32

    @wrong("The differences do not fit into int8: 100 - (-100) wraps around. Make x and w int64.")
    def int8_differences(x, z_x, w, z_w):
        return (x - z_x).to(torch.int8).long() @ (w - z_w).to(torch.int8).long().T

    @wrong("The sums do not fit into int8. Make x and w int64 before the product.")
    def int8_sums(x, z_x, w, z_w):
        return ((x.long() - z_x) @ (w.long() - z_w).T).to(torch.int8)

    @wrong("float32 holds whole numbers up to 2**24 alone, and a long sum is larger. Use int64.")
    def in_float32(x, z_x, w, z_w):
        return (x.float() - z_x) @ (w.float() - z_w).T

    @wrong("The last term is missing: the corner z_x z_w was subtracted twice, so add it n times.")
    def no_corner(x, z_x, w, z_w):
        x, w = x.long(), w.long()
        return x @ w.T - z_w * x.sum(1, keepdim=True) - z_x * w.sum(1)

    @wrong("The corner z_x z_w is there once for each of the k products, not once.")
    def one_corner(x, z_x, w, z_w):
        x, w = x.long(), w.long()
        return x @ w.T - z_w * x.sum(1, keepdim=True) - z_x * w.sum(1) + z_x * z_w

    @wrong("The corner counts the products in a sum: the columns of x, not its rows.")
    def rows_counted(x, z_x, w, z_w):
        x, w = x.long(), w.long()
        corner = len(x) * z_x * z_w
        return x @ w.T - z_w * x.sum(1, keepdim=True) - z_x * w.sum(1) + corner

    @wrong("The zero points are exchanged: z_w goes with the sum of x, z_x with the sum of w.")
    def exchanged(x, z_x, w, z_w):
        x, w = x.long(), w.long()
        corner = x.shape[1] * z_x * z_w
        return x @ w.T - z_x * x.sum(1, keepdim=True) - z_w * w.sum(1) + corner

    @wrong("The two strips are subtracted, and the corner is added.")
    def wrong_signs(x, z_x, w, z_w):
        x, w = x.long(), w.long()
        corner = x.shape[1] * z_x * z_w
        return x @ w.T + z_w * x.sum(1, keepdim=True) + z_x * w.sum(1) + corner

    @wrong("This is the product of the codes alone. The zero points are missing.")
    def codes_alone(x, z_x, w, z_w):
        return x.long() @ w.long().T


@exercise("9.2", "A smaller accumulator", "predict a number", difficulty=2, minutes=6)
class Accumulator:
    """
    A chip adds up in 24 bits with a sign: its sums reach from -8,388,608 to 8,388,607. Inputs and
    weights are quantized in symmetric mode with 8 bits. How many products may a sum have, so that
    it never overflows? And how many with weights of 4 bits, the inputs as before?
    """

    hints = (
        "What is the largest magnitude of one product?",
        "Symmetric codes with 8 bits end at 127, with 4 bits at 7. The zero points are 0.",
        "8,388,607 // (127 * 127), and 8,388,607 // (127 * 7).",
    )
    why = """One product is at most 127 * 127 = 16,129, and 8,388,607 // 16,129 = 520. With 4-bit
        weights it is at most 127 * 7 = 889, and the sum may be 9,436 products long."""
    stub = "my_length_8, my_length_4 = ..., ..."
    right = (520, 9436)
    wrong = [
        ((511, ...), "In symmetric mode the smallest code is -127, not -128."),
        ((516, ...), "Both sides are symmetric: both end at 127."),
        ((512, ...), "In symmetric mode the largest magnitude is 127, not 128."),
        ((1040, ...), "One of the 24 bits is the sign: the largest sum is 8,388,607."),
        ((129, ...), "255 is the reach of asymmetric codes. Symmetric ones end at 127."),
        ((133144, ...), "That is the length for 32 bits. Here the sum has 24."),
        ((66052, ...), "Divide by the largest product, 127 * 127, not by one code."),
        ((..., 8256), "4-bit symmetric codes end at 7, not at 8."),
        ((..., 9362), "The inputs end at 127, not at 128."),
        ((..., 4403), "15 is the reach of asymmetric 4-bit codes. Symmetric ones end at 7."),
        ((..., 171196), "Only the weights have 4 bits. The inputs still reach 127."),
        ((..., 520), "With 4 bits the weights are smaller, so the sum may be longer."),
    ]


@exercise("9.3", "Back to eight bits", "repair a bug", difficulty=3, minutes=8)
class Requantize:
    """
    This function should turn int32 sums into int8 codes: `acc * multiplier / 2**shift`, rounded
    half up, plus `z`, clipped to -128 to 127, with integers only. Three things are wrong with it.
    The multiplier has up to 31 bits, and `>>` divides by a power of two and rounds down.
    (A solution in float64 passes too; a chip without floats could not run it.)
    """

    hints = (
        "How large can acc * multiplier become, and what does an int32 hold?",
        "floor(v + 1/2) rounds half up. Half of 2**shift is 1 << (shift - 1).",
        "And int8 wraps around where a sum is large: clip before the cast.",
    )
    why = """The product of two 31-bit numbers needs 62 bits, so it is formed in int64. Adding half
        of 2**shift before the shift turns rounding down into rounding half up. And, as in notebook
        01, saturate before you cast."""
    stub = """
        def my_requantize(acc, multiplier, shift, z):
            q = (acc * multiplier) >> shift
            return (q + z).to(torch.int8)
        """
    dtype = torch.int8

    @right
    def my_requantize(acc, multiplier, shift, z):
        q = (acc.long() * multiplier + (1 << (shift - 1))) >> shift
        return (q + z).clamp(-128, 127).to(torch.int8)

    def spec(acc, multiplier, shift, z):
        half = 2 ** (shift - 1)
        return [min(max((a * multiplier + half) // 2**shift + z, -128), 127) for a in acc]

    def cases(rng):
        yield tensor([3], dtype=torch.int32), 2, 2, 0
        yield tensor([1], dtype=torch.int32), 1, 1, 0
        yield tensor([-1], dtype=torch.int32), 1, 1, 0
        yield tensor([300], dtype=torch.int32), 1, 1, 0
        yield tensor([-300], dtype=torch.int32), 1, 1, 5
        yield tensor([150], dtype=torch.int32), 2, 1, -100
        yield tensor([-150], dtype=torch.int32), 2, 1, 100
        yield tensor([80_000], dtype=torch.int32), 1, 1, 0  # beyond int16
        yield tensor([2**29], dtype=torch.int32), 2**30, 28, 0  # beyond int32
        yield tensor([70_000], dtype=torch.int32), 70_000, 30, 0
        yield tensor([-70_000], dtype=torch.int32), 70_000, 30, 0
        yield tensor([2**25 - 1], dtype=torch.int32), 2**30, 56, 0  # just below 1/2
        yield tensor(range(-300, 300), dtype=torch.int32), 3, 2, 5
        for _ in range(20):
            shift, n = rng.randint(35, 45), rng.randint(1, 6)
            multiplier = rng.randint(2**30, 2**31 - 1)
            most = 200 * 2**shift // multiplier
            acc = tensor([rng.randint(-most, most) for _ in range(n)]).to(torch.int32)
            yield acc, multiplier, shift, rng.randint(-128, 127)

    @wrong("This still overflows, rounds down and wraps around.")
    def unchanged(acc, multiplier, shift, z):
        q = (acc * torch.tensor(multiplier).to(torch.int32)) >> shift
        return (q + z).to(torch.int8)

    @wrong("The product overflows 32 bits: make acc int64 before it.")
    def overflows(acc, multiplier, shift, z):
        q = (acc * multiplier + (1 << (shift - 1))) >> shift
        return (q + z).clamp(-128, 127).to(torch.int8)

    @wrong("This rounds down. Add half of 2**shift before the shift.")
    def rounds_down(acc, multiplier, shift, z):
        q = (acc.long() * multiplier) >> shift
        return (q + z).clamp(-128, 127).to(torch.int8)

    @wrong("Half of 2**shift is 1 << (shift - 1); you add all of it and round up.")
    def adds_all(acc, multiplier, shift, z):
        q = (acc.long() * multiplier + (1 << shift)) >> shift
        return (q + z).clamp(-128, 127).to(torch.int8)

    @wrong("A large sum wraps around in the cast: clip to -128 and 127 first.")
    def wraps(acc, multiplier, shift, z):
        q = (acc.long() * multiplier + (1 << (shift - 1))) >> shift
        return (q + z).to(torch.int8)

    @wrong("You clip after a cast. int16 wraps around too: clip in int64, and cast last.")
    def cast_before_the_clip(acc, multiplier, shift, z):
        q = (acc.long() * multiplier + (1 << (shift - 1))) >> shift
        return (q + z).short().clamp(-128, 127).to(torch.int8)

    @wrong("You clip after a cast to int32, and the quotient may be larger. Clip in int64.")
    def cast_to_int32_before_the_clip(acc, multiplier, shift, z):
        q = (acc.long() * multiplier + (1 << (shift - 1))) >> shift
        return (q + z).int().clamp(-128, 127).to(torch.int8)

    @wrong("You clip before z is added, so the sum can still leave int8.")
    def clips_too_early(acc, multiplier, shift, z):
        q = (acc.long() * multiplier + (1 << (shift - 1))) >> shift
        return (q.clamp(-128, 127) + z).to(torch.int8)

    @wrong("The zero point z is missing.")
    def no_zero_point(acc, multiplier, shift, z):
        q = (acc.long() * multiplier + (1 << (shift - 1))) >> shift
        return q.clamp(-128, 127).to(torch.int8)

    @wrong("torch.round takes a half to the even neighbour. Here a half goes up.")
    def half_to_even(acc, multiplier, shift, z):
        q = torch.round(acc.double() * multiplier / 2**shift)
        return (q + z).clamp(-128, 127).to(torch.int8)

    @wrong("float32 holds whole numbers up to 2**24 alone, and acc may be larger. `/` makes "
           "float32 of an int64 tensor too: stay in int64 and use >> or //.")  # fmt: skip
    def in_float32(acc, multiplier, shift, z):
        q = torch.floor(acc.float() * multiplier / 2**shift + 0.5)
        return (q + z).clamp(-128, 127).to(torch.int8)
