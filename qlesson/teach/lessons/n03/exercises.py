"""The exercises of notebook 03, symmetric mode."""

import torch
from torch import tensor

import qlesson as ql
from qlesson.teach.exercises import SHAPES, each, exercise, flat, right, symmetric_values, wrong


@exercise("3.1", "Symmetric codes", "write code", difficulty=1, minutes=5)
class SymmetricCodes:
    """
    Write `my_symmetric(r, bits)` that returns the symmetric codes of `r` as `torch.int8`, for 2
    to 8 bits. Where all values are 0, so are the codes, with a scale above 0. (Where the cast makes
    0 of NaN, 0 / 0 passes too.) Apply it to `T` and to `-T`: the results must differ in sign alone.
    """

    hints = (
        "Two lines: the scale, then the rounded quotient. There is no zero point to add.",
        "The largest code is 2 ** (bits - 1) - 1, which is 127 for 8 bits.",
        "s = r.abs().max() / quant_max. No value can leave the codes, so no clip is needed. A "
        "scale of 0 needs one more line.",
    )
    why = """The scale sends the largest magnitude to the largest code, so nothing lies outside and
        nothing has to be clipped. The magnitude counts: -T has its largest value below 0. Where
        all values are 0, any scale above 0 will do, and the quotient has a value; 0 / 0 is NaN,
        of which the cast may make 0, and need not."""
    dtype = torch.int8

    @right
    def my_symmetric(r, bits):
        s = r.abs().max() / (2 ** (bits - 1) - 1)
        s = torch.where(s > 0, s, 1)
        return torch.round(r / s).to(torch.int8)

    def spec(r, bits):
        scale = max(map(abs, flat(r))) / (2 ** (bits - 1) - 1) or 1.0
        return each(lambda x: round(x / scale), r)

    def cases(rng):
        for r in ([1.0, 3.0], [-3.0, 1.0], [3.0, 0.5, 1.75], [3.0, 1.5, 2.5], [-3.0, -1.0]):
            yield tensor(r), 3
        for r in ([1.0, 0.25], [-1.0, 0.75]):
            yield tensor(r), 2
        yield tensor([0.0]), 3
        yield torch.zeros(2, 3), 8
        yield tensor([[0.0, 0.0, 0.0], [0.6, -0.25, 0.2]]), 3
        yield tensor([[-7.0, -7.0]]), 4
        for r in ([-0.75, 0.25, 0.5], [0.0, -0.35, -0.15], [0.35, 0.15, 0.0], [0.37, 0.37]):
            yield tensor(r), 2  # not all zeros, though a sum, an end or the width is 0
        for r in ([6e-7, 3.1e-7], [3e-30, 1.25e-30]):  # the scale is small, and not 0
            yield tensor(r), 3
        for shape in 4 * SHAPES:
            bits, s = rng.randint(2, 8), rng.uniform(0.1, 5)
            yield symmetric_values(rng, shape, s, 2 ** (bits - 1) - 1), bits

    @wrong("You take the maximum. -T has the maximum 184 and the largest magnitude 728.6.")
    def no_abs(r, bits):
        quant_max = 2 ** (bits - 1) - 1
        s = r.max() / quant_max
        return torch.round(r / s).clamp(-quant_max, quant_max).to(torch.int8)

    @wrong("quant_max is one less: 2 ** (bits - 1) - 1, since 128 is no int8 code.")
    def off_by_one(r, bits):
        s = r.abs().max() / 2 ** (bits - 1)
        return torch.round(r / s).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)

    @wrong("You divide by 127.5, half the number of steps. Divide by quant_max, 127 at 8 bits.")
    def half_the_steps(r, bits):
        s = r.abs().max() / ((2**bits - 1) / 2)
        return torch.round(r / s).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)

    @wrong("Your scale comes from r_max - r_min, as in asymmetric mode. Take the magnitude.")
    def width_of_the_range(r, bits):
        quant_max = 2 ** (bits - 1) - 1
        s = (r.max() - r.min()) / (2 * quant_max)
        return torch.round(r / s).clamp(-quant_max, quant_max).to(torch.int8)

    @wrong("The fraction is dropped, by a cast or by trunc. Round first.")
    def truncated(r, bits):
        s = r.abs().max() / (2 ** (bits - 1) - 1)
        return (r / s).to(torch.int8)

    @wrong("All zeros make the scale 0, and 0 / 0 has no value. Any scale above 0 will do there.")
    def zeros_divided(r, bits):
        s = r.abs().max().item() / (2 ** (bits - 1) - 1)
        codes = [round(x / s) for x in r.flatten().tolist()]
        return tensor(codes, dtype=torch.int8).reshape(r.shape)

    @wrong("You make one scale for each row. Here the whole tensor shares one.")
    def scale_per_row(r, bits):
        s = r.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
        return torch.round(r / s).to(torch.int8)

    @wrong("The codes have lost their sign. abs belongs in the scale alone.")
    def sign_lost(r, bits):
        s = r.abs().max() / (2 ** (bits - 1) - 1)
        return torch.round(r.abs() / s).to(torch.int8)

    @wrong("Ties go the wrong way: 2.5 becomes 3. torch.round sends a tie to the even code.")
    def half_up(r, bits):
        s = r.abs().max() / (2 ** (bits - 1) - 1)
        return torch.floor(r / s + 0.5).to(torch.int8)

    @wrong("abs comes too late. Take the magnitudes first, then their maximum.")
    def abs_of_the_maximum(r, bits):
        s = r.max().abs() / (2 ** (bits - 1) - 1)
        return torch.round(r / s).to(torch.int8)

    @wrong("127 is the largest code of 8 bits. With other bits it is 2 ** (bits - 1) - 1.")
    def eight_bits_always(r, bits):
        return torch.round(r / (r.abs().max() / 127)).to(torch.int8)

    @wrong("2**bits - 1 counts the steps from end to end. The largest code is 2 ** (bits - 1) - 1.")
    def all_the_steps(r, bits):
        return torch.round(r / (r.abs().max() / (2**bits - 1))).to(torch.int8)

    @wrong("What you add to the scale moves every code. Replace a scale of 0, and no other.")
    def scale_moved(r, bits):
        s = r.abs().max() / (2 ** (bits - 1) - 1) + 1e-3
        return torch.round(r / s).to(torch.int8)

    @wrong("A floor under the scale moves small tensors. Replace a scale of 0, and no other.")
    def scale_floored(r, bits):
        s = r.abs().max() / (2 ** (bits - 1) - 1)
        return torch.round(r / s.clamp(min=1e-3)).to(torch.int8)

    @wrong("These are asymmetric codes. Symmetric ones have the zero point 0.")
    def asymmetric(r, bits):
        return ql.quantize(r, ql.Scheme(bits)).q


@exercise("3.2", "Codes that nobody uses", "predict a number", difficulty=1, minutes=3)
class UnusedCodes:
    """
    A sigmoid gives values between 0 and 1. You store them with 4-bit symmetric codes, whose scale
    is `1 / quant_max`. How many different values can come back? Count 0.0 as well.
    """

    hints = (
        "Which codes does 4-bit symmetric mode have, from the smallest to the largest?",
        "The codes run from -7 to 7. Which of them stand for values that a sigmoid gives?",
        "0 gets the code 0 and 1 gets the code 7. Count both ends.",
    )
    why = """The codes run from -7 to 7, and values from 0 to 1 use those from 0 to 7: eight. That
        is what 3 bits hold, so one bit of four is wasted."""
    stub = "my_count = ..."
    right = 8
    wrong = [
        (16, "Sixteen codes fit into 4 bits, but negative codes stand for negative values."),
        (15, "Symmetric mode has 15 codes, and the negative ones are never used here."),
        (7, "You counted 1 to 7. The code 0 stands for 0.0."),
        (9, "You counted up to 8. The largest 4-bit signed code is 7."),
        (14, "You counted the steps from -7 to 7. Which codes do values from 0 to 1 get?"),
        (3, "3 bits are enough for them. How many values is that?"),
        (128, "That is half of 8 bits. Here there are 4."),
    ]


@exercise("3.3", "A test that was too kind", "repair a bug", difficulty=2, minutes=6)
class FourthSum:
    """
    This function should return `((qw - zw) * (qx - zx)).sum()`, computed from sums of codes, as
    in this notebook. It passed its test, in which the weights had `zw = 0`. Repair it. The
    codes arrive as int64, so nothing overflows. (Keep to the sums: the check sees only
    values.)
    """

    hints = (
        "Compare it with the four terms of the formula. How many does it have?",
        "The missing term is constant: it does not depend on the codes at all.",
        "zw * zx occurs once for each of the n products, and n is len(qw).",
    )
    why = """Multiplied out, each of the n products leaves one zw * zx. The term vanishes when
        either zero point is 0, which is why the test with zw = 0 did not see it."""
    stub = """
        def integer_dot(qw, qx, zw, zx):
            return (qw * qx).sum() - zx * qw.sum() - zw * qx.sum()
        """

    @right
    def integer_dot(qw, qx, zw, zx):
        constant = len(qw) * zw * zx
        return (qw * qx).sum() - zx * qw.sum() - zw * qx.sum() + constant

    def spec(qw, qx, zw, zx):
        return sum((w - zw) * (x - zx) for w, x in zip(qw, qx, strict=True))

    def cases(rng):
        yield tensor([1]), tensor([1]), 1, 1
        yield tensor([3]), tensor([2]), 1, 2
        yield tensor([2, 5]), tensor([3, -4]), 0, 2
        yield tensor([2, 5]), tensor([3, -4]), 2, 0
        yield tensor([2, 5]), tensor([3, -4]), 1, 2
        for _ in range(20):
            n = rng.randint(1, 8)
            qw, qx = (tensor([rng.randint(-128, 127) for _ in range(n)]) for _ in "wx")
            yield qw, qx, rng.randint(-128, 127), rng.randint(-128, 127)
        yield tensor([127] * 300), tensor([-128] * 300), -128, 127
        long = tensor([127] * 1101)
        yield long, long, -128, -128  # its sums are odd and no float32
        yield tensor([0, 0]), tensor([0, 0]), 3, 4

    @wrong("This is still the old function in another form. Try zw = 1 and zx = 1.")
    def unchanged(qw, qx, zw, zx):
        return (qw * (qx - zx)).sum() - zw * qx.sum()

    @wrong("You add zw * zx once. It occurs in each of the n products.")
    def added_once(qw, qx, zw, zx):
        return (qw * qx).sum() - zx * qw.sum() - zw * qx.sum() + zw * zx

    @wrong("The sign of the last term is turned: minus times minus gives plus.")
    def subtracted(qw, qx, zw, zx):
        return (qw * qx).sum() - zx * qw.sum() - zw * qx.sum() - len(qw) * zw * zx

    @wrong("The zero points are exchanged: zx goes with the sum of qw, zw with that of qx.")
    def sums_exchanged(qw, qx, zw, zx):
        return (qw * qx).sum() - zw * qw.sum() - zx * qx.sum() + len(qw) * zw * zx

    @wrong("Only the first and last term are left. The sums of qw and of qx count too.")
    def middle_terms_lost(qw, qx, zw, zx):
        return (qw * qx).sum() + len(qw) * zw * zx

    @wrong("The constant term is the product of the two zero points, not their sum.")
    def zero_points_added(qw, qx, zw, zx):
        return (qw * qx).sum() - zx * qw.sum() - zw * qx.sum() + len(qw) * (zw + zx)

    @wrong("Both middle terms are subtracted: each has one minus.")
    def middle_terms_added(qw, qx, zw, zx):
        return (qw * qx).sum() + zx * qw.sum() + zw * qx.sum() + len(qw) * zw * zx

    @wrong("n is how many products there are, len(qw), and not the sum of qw.")
    def sum_for_n(qw, qx, zw, zx):
        return (qw * qx).sum() - zx * qw.sum() - zw * qx.sum() + qw.sum() * zw * zx

    @wrong("float32 holds whole numbers up to 2**24 alone, and a long sum is larger. Use int64.")
    def in_float32(qw, qx, zw, zx):
        return ((qw - zw).float() * (qx - zx).float()).sum()

    @wrong("int8 cannot hold these differences and products: they wrap around. Stay in int64.")
    def back_to_int8(qw, qx, zw, zx):
        return ((qw.to(torch.int8) - zw) * (qx.to(torch.int8) - zx)).sum()
