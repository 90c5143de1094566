"""The exercises of notebook 02, scale and zero point."""

import math

import torch
from torch import tensor

from qlesson.teach.exercises import SHAPES, exercise, flat, right, wrong


@exercise("2.1", "Both equations in code", "write code", difficulty=1, minutes=6)
class BothEquations:
    """
    Write `my_qparams(r, quant_min, quant_max)`. It returns two numbers, the scale and the zero
    point of a tensor, the second rounded and clipped. Take the range as it is, without widening.
    Try `T`, `-T` and `torch.tensor([2, 2.5, 3])`.
    """

    hints = (
        "The range runs from r.min() to r.max(). Equation by equation: first s, then z.",
        "Between quant_min and quant_max lie quant_max - quant_min steps.",
        "z = quant_min - r_min / s, then torch.round, then torch.clamp to the codes.",
    )
    why = """Subtracting the two end-point equations leaves s; the first of them then gives z. z is
        rounded because it is a code, and clipped because the codes end."""

    @right
    def my_qparams(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        z = torch.round(quant_min - r.min() / s)
        return s, torch.clamp(z, quant_min, quant_max)

    def spec(r, quant_min, quant_max):
        values = flat(r)
        scale = (max(values) - min(values)) / (quant_max - quant_min)
        zero_point = round(quant_min - min(values) / scale)
        return scale, max(quant_min, min(quant_max, zero_point))

    def cases(rng):
        yield tensor([0.0, 3.0]), -2, 1
        yield tensor([-1.0, 2.0]), -2, 1
        yield tensor([-0.5, 2.5]), -2, 1  # the zero point is a tie
        yield tensor([-1.5, 1.5]), -2, 1  # a tie whose even neighbour lies above it
        yield tensor([-1.5, 0.5]), -1, 1  # a tie, and codes that begin at an odd one
        yield tensor([-1.625, 1.375]), -2, 1  # it lies above the half
        yield tensor([1.0, 4.0]), -2, 1
        yield tensor([-4.0, -1.0]), -2, 1
        yield tensor([2.0, 2.5, 3.0]), -128, 127
        yield tensor([-3.0, -2.5, -2.0]), -128, 127
        yield tensor([-200.0, 55.0]), 0, 255  # the zero point is no int8
        yield tensor([-3000.0, -2999.0]), -128, 127  # before the clip it is no int16
        yield tensor([-1e10, -1e10 + 1024]), -128, 127  # and here no int32
        yield tensor([[0.0, 0.0], [-1.0, 2.0], [0.5, 1.0]]), -2, 1
        yield tensor([[0.0, 0.25, -1.0, 2.0]]), -2, 1
        for shape in 4 * SHAPES:
            ends = low, high = rng.choice([(-128, 127), (0, 255), (-8, 7), (-2, 1)])
            s, z = rng.uniform(0.1, 5), rng.randint(low - 40, high + 40) + rng.uniform(-0.4, 0.4)
            codes = [high, low, *(rng.uniform(low, high) for _ in range(math.prod(shape) - 2))]
            rng.shuffle(codes)
            yield tensor([s * (q - z) for q in codes]).reshape(shape), *ends

    @wrong("You count codes. Between 256 codes lie 255 steps: drop the + 1.")
    def codes_counted(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min + 1)
        return s, torch.round(quant_min - r.min() / s).clamp(quant_min, quant_max)

    @wrong("A range without 0 puts your zero point outside the codes. Clip it.")
    def not_clipped(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        return s, torch.round(quant_min - r.min() / s)

    @wrong("You clip after a cast. A zero point far outside the codes wraps around in it.")
    def cast_before_the_clip(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        z = torch.round(quant_min - r.min() / s).int().short()
        return s, z.clamp(quant_min, quant_max)

    @wrong("You clip what int32 has made of a zero point beyond its end. Clip before the cast.")
    def cast_to_int32_before_the_clip(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        z = torch.round(quant_min - r.min() / s).long().int()
        return s, z.clamp(quant_min, quant_max)

    @wrong("The zero point is a code, so it must be a whole number: round it.")
    def not_rounded(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        return s, (quant_min - r.min() / s).clamp(quant_min, quant_max)

    @wrong("The fraction is cut off (by int, trunc or a cast). Round to the nearest whole number.")
    def truncated(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        return s, max(quant_min, min(quant_max, int(quant_min - r.min() / s)))

    @wrong("These are scales of rows. The range is that of the whole tensor.")
    def of_each_row(r, quant_min, quant_max):
        low, high = r.amin(-1), r.amax(-1)
        s = (high - low) / (quant_max - quant_min)
        return s, torch.round(quant_min - low / s).clamp(quant_min, quant_max)

    @wrong("You round before you add quant_min. Round the sum: a tie shows the difference.")
    def rounded_before_the_sum(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        return s, (quant_min - torch.round(r.min() / s)).clamp(quant_min, quant_max)

    @wrong("The sign of r_min / s is turned: solve equation (1) for z once more.")
    def sign_turned(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        return s, torch.round(quant_min + r.min() / s).clamp(quant_min, quant_max)

    @wrong("You widen the range to hold 0, as the repair does. Here it stays as it is.")
    def widened(r, quant_min, quant_max):
        low, high = r.min().clamp(max=0), r.max().clamp(min=0)
        s = (high - low) / (quant_max - quant_min)
        return s, torch.round(quant_min - low / s).clamp(quant_min, quant_max)

    @wrong("quant_min is missing in the zero point: the codes begin there.")
    def from_zero(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        return s, torch.round(-r.min() / s).clamp(quant_min, quant_max)

    @wrong("Your scale is that of a range as wide on both sides of 0. Take r.max() - r.min().")
    def both_sides(r, quant_min, quant_max):
        s = 2 * r.abs().max() / (quant_max - quant_min)
        return s, torch.round(quant_min - r.min() / s).clamp(quant_min, quant_max)

    @wrong("int8 ends at 127, and with codes from 0 to 255 the zero point may be larger.")
    def in_int8(r, quant_min, quant_max):
        s = (r.max() - r.min()) / (quant_max - quant_min)
        z = torch.round(quant_min - r.min() / s).clamp(quant_min, quant_max)
        return s, z.to(torch.int8)

    @wrong("255 steps and the ends -128 and 127 are those of int8. Use the arguments.")
    def eight_bits_always(r, quant_min, quant_max):
        s = (r.max() - r.min()) / 255
        return s, torch.round(quant_min - r.min() / s).clamp(-128, 127)


@exercise("2.2", "Four bits by hand", "predict a number", difficulty=2, minutes=5)
class FourBits:
    """
    A tensor reaches from -6 to 24, and its codes from -8 to 7. Find the scale and the zero point
    without the computer. Which code does 4.4 get?
    """

    hints = (
        "How many steps lie between -8 and 7? Count the gaps, not the codes.",
        "s = 30 / 15 = 2. The zero point is -8 - (-6) / 2.",
        "4.4 / 2 = 2.2. Add the zero point, -5, and round.",
    )
    why = """Sixteen codes have fifteen steps between them: s = 30 / 15 = 2 and
        z = -8 - (-6) / 2 = -5. Then 4.4 / 2 - 5 = -2.8 rounds to -3."""
    stub = "my_scale, my_zero_point, my_code = ..., ..., ..."
    right = (2, -5, -3)
    wrong = [
        ((1.875, ..., ...), "Your scale shares 30 out over 16 codes. There are 15 steps."),
        ((1.6, ..., ...), "Your range begins at 0. It begins at -6, so it is 30 wide."),
        ((0.5, ..., ...), "That is steps for one unit. The scale is 30 / 15: units for one step."),
        ((2, 5, ...), "The sign is turned: -8 + 3 is -5."),
        ((2, 3, ...), "quant_min is missing: -(-6) / 2 = 3 steps above -8."),
        ((2, -8, ...), "-8 is the code of -6. Which code does 0.0 get, three steps above it?"),
        ((2, -5, -2.8), "A code is a whole number: round -2.8."),
        ((2, -11, ...), "-6 / 2 is negative, and it is subtracted: -8 + 3."),
        ((2, -5, -2), "-2.8 lies nearer to -3. You dropped the fraction."),
        ((2, -5, 2), "The zero point is missing in the code: 2.2 - 5, then round."),
        ((2, -5, 4), "You multiplied 4.4 by the scale. Divide by it."),
    ]


@exercise("2.3", "A bug report", "repair a bug", difficulty=2, minutes=6)
class BugReport:
    """
    This function is right for every range that holds 0, and for some others. Find a range on
    which it goes wrong, and repair it.
    """

    hints = (
        "Which ranges put the zero point above the last code? Try values below 0 only.",
        "From -40 to -30 the formula asks for 892. Which code lies nearest to it?",
        "A zero point above quant_max becomes quant_max, one below quant_min quant_min.",
    )
    why = """To clip is to move to the nearest end, and there are two ends. The old line sends
        every zero point outside to the lower one, which is right for positive ranges alone."""
    stub = """
        def zero_point_of(r_min, s, quant_min, quant_max):
            z = round(quant_min - r_min / s)
            if z < quant_min or z > quant_max:
                z = quant_min
            return z
        """

    @right
    def zero_point_of(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        return max(quant_min, min(quant_max, z))

    def spec(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        nearest_first = sorted(range(quant_min, quant_max + 1), key=lambda code: abs(code - z))
        return nearest_first[0]

    def cases(rng):
        for r_min in (0.0, -0.25, -1.0, 1.0, -9.0, 9.0, -1.75, -2.5):
            yield r_min, 1.0, -2, 1
        yield -184.0, 912.6 / 255, -128, 127
        yield -40.0, 10 / 255, -128, 127
        yield -1.5, 1.0, -127, 127  # a tie, and codes that begin at an odd one
        for _ in range(20):
            low, high = rng.choice([(-128, 127), (0, 255), (-8, 7)])
            s, z = rng.uniform(0.1, 5), rng.randint(low - 200, high + 200)
            yield s * (low - z + rng.uniform(-0.4, 0.4)), s, low, high

    @wrong("This still does what it did. Give it a range of negative values only.")
    def unchanged(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        return z if quant_min <= z <= quant_max else quant_min

    @wrong("Now every zero point outside goes to the upper end. Each has its own nearest end.")
    def always_the_upper_end(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        return z if quant_min <= z <= quant_max else quant_max

    @wrong("The two ends are exchanged: what lies above belongs to the upper one.")
    def ends_exchanged(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        return quant_max if z < quant_min else quant_min if z > quant_max else z

    @wrong("The upper end is clipped now; the lower one is open. Keep both.")
    def upper_end_alone(r_min, s, quant_min, quant_max):
        return min(quant_max, round(quant_min - r_min / s))

    @wrong("Without the if, the zero point leaves the codes. It must be clipped to them.")
    def not_clipped(r_min, s, quant_min, quant_max):
        return round(quant_min - r_min / s)

    @wrong("The ends are right now, but the fraction is cut off (by int or trunc). Keep round.")
    def truncated(r_min, s, quant_min, quant_max):
        return max(quant_min, min(quant_max, int(quant_min - r_min / s)))

    @wrong("Your ends are right, and the zero point is no whole number any more. Keep round.")
    def not_rounded(r_min, s, quant_min, quant_max):
        return max(quant_min, min(quant_max, quant_min - r_min / s))

    @wrong("You round before you add quant_min. Round the sum, as the old line does.")
    def rounded_before_the_sum(r_min, s, quant_min, quant_max):
        return max(quant_min, min(quant_max, quant_min - round(r_min / s)))

    @wrong("This is the same end for every range: exchange max and min.")
    def always_one_end(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        return max(quant_max, min(quant_min, z))

    @wrong("A wrap brings z back from the other end. Clip it to the nearer one.")
    def wrapped(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        return (z - quant_min) % (quant_max - quant_min + 1) + quant_min

    @wrong("The last code is quant_max itself.")
    def one_below_the_end(r_min, s, quant_min, quant_max):
        z = round(quant_min - r_min / s)
        return max(quant_min, min(quant_max - 1, z))
