"""The exercises of notebook 04, dequantization."""

import torch
from torch import tensor

from qlesson.teach.exercises import SHAPES, each, exercise, right, wrong


@exercise("4.1", "The grid", "write code", difficulty=1, minutes=5)
class Grid:
    """
    Write `grid_of(scale, zero_point, quant_min, quant_max)` that returns all real values that can
    come back, in rising order, as a tensor or a list. For scale 0.5, zero point 1 and codes from
    -2 to 1 they are -1.5, -1.0, -0.5 and 0.0.
    """

    hints = (
        "First make all the codes, then dequantize them.",
        "torch.arange stops before its second argument, and quant_max is a code too.",
        "codes = torch.arange(quant_min, quant_max + 1), then scale * (codes - zero_point).",
    )
    why = """Each code comes back as one value, so the grid is the list of codes, dequantized.
        arange makes int64 codes, whose subtraction cannot wrap around."""

    @right
    def grid_of(scale, zero_point, quant_min, quant_max):
        codes = torch.arange(quant_min, quant_max + 1)
        return scale * (codes - zero_point)

    def spec(scale, zero_point, quant_min, quant_max):
        values, code = [], quant_min
        while code <= quant_max:
            values.append(scale * (code - zero_point))
            code += 1
        return values

    def cases(rng):
        yield 1.0, 0, -2, 1
        yield 0.5, 1, -2, 1
        yield 1.0, 2, 0, 3
        yield 1.0, -30, 96, 99  # int8 ends at 127
        yield 912.6 / 255, -77, -128, 127
        for _ in range(20):
            low, high = rng.choice([(-8, 7), (-4, 3), (0, 15), (-7, 7), (-128, 127)])
            yield rng.uniform(0.1, 5), rng.randint(low, high), low, high

    @wrong("The last value is missing: arange and range stop before their end.")
    def last_missing(scale, zero_point, quant_min, quant_max):
        return scale * (torch.arange(quant_min, quant_max) - zero_point)

    @wrong("Subtract before you multiply: scale * (q - z), with the parentheses.")
    def no_parentheses(scale, zero_point, quant_min, quant_max):
        return scale * torch.arange(quant_min, quant_max + 1) - zero_point

    @wrong("The zero point is subtracted on the way back; you add it.")
    def zero_point_added(scale, zero_point, quant_min, quant_max):
        return scale * (torch.arange(quant_min, quant_max + 1) + zero_point)

    @wrong("You count from 0. The codes begin at quant_min.")
    def counted_from_zero(scale, zero_point, quant_min, quant_max):
        return scale * (torch.arange(quant_max - quant_min + 1) - zero_point)

    @wrong("The zero point is missing, so 0.0 comes back from the code 0 instead of z.")
    def no_zero_point(scale, zero_point, quant_min, quant_max):
        return scale * torch.arange(quant_min, quant_max + 1)

    @wrong("Your codes are int8, and their difference wraps around. Subtract in a wider type.")
    def subtracted_in_int8(scale, zero_point, quant_min, quant_max):
        codes = torch.arange(quant_min, quant_max + 1).to(torch.int8)
        return scale * (codes - torch.tensor(zero_point).to(torch.int8))

    @wrong("Rising order begins at quant_min.")
    def falling(scale, zero_point, quant_min, quant_max):
        return [scale * (q - zero_point) for q in range(quant_max, quant_min - 1, -1)]

    @wrong("From quant_min to quant_max there is one code more than there are steps: add 1.")
    def steps_for_codes(scale, zero_point, quant_min, quant_max):
        ends = (scale * (q - zero_point) for q in (quant_min, quant_max))
        return torch.linspace(*ends, quant_max - quant_min)

    @wrong("These are the codes. What comes back is scale * (q - z).")
    def codes(scale, zero_point, quant_min, quant_max):
        return torch.arange(quant_min, quant_max + 1)

    @wrong("q / s + z is the way out. The way back is scale * (q - z).")
    def way_out(scale, zero_point, quant_min, quant_max):
        return torch.arange(quant_min, quant_max + 1) / scale + zero_point


@exercise("4.2", "Repair the subtraction", "repair a bug", difficulty=1, minutes=4)
class Subtraction:
    """
    Here `q` and `z` are int8 tensors, as a `QTensor` holds them. Repair the function so that
    `dequantize(x.q, x.scale, x.zero_point)` equals `x.dequantize()` for any codes.
    """

    hints = (
        "Which type has the difference q - z, and which values can that type hold?",
        "The difference of two int8 codes can reach 255. Leave int8 before you subtract.",
        "q.float() - z is a float subtraction.",
    )
    why = """Both operands are int8, so the difference is int8 and wraps around. With one operand
        in float, torch subtracts in float. Converting afterwards is too late."""
    stub = """
        def dequantize(q, s, z):
            return s * (q - z)
        """
    exact = True  # "equals", says the text

    @right
    def dequantize(q, s, z):
        return s * (q.float() - z)

    def spec(q, s, z):
        return each(lambda code: s * (code - z), q)

    def cases(rng):
        def codes(*values):
            return tensor(values, dtype=torch.int8)

        yield codes(3), tensor(2.0), tensor(1, dtype=torch.int8)
        yield codes(127), tensor(1.0), tensor(-77, dtype=torch.int8)
        yield codes(-128), tensor(1.0), tensor(100, dtype=torch.int8)
        yield codes(5), tensor(1.0), tensor(-128, dtype=torch.int8)
        yield codes(-23, -81, 127), tensor(3.5), tensor(-77, dtype=torch.int8)
        yield codes(101), tensor(0.1), tensor(100, dtype=torch.int8)
        yield codes(*range(-128, 128)), tensor(0.7), tensor(-77, dtype=torch.int8)
        for rows, columns in 8 * SHAPES[1:]:
            q = codes(*([rng.randint(-128, 127) for _ in range(columns)] for _ in range(rows)))
            yield q, tensor(rng.uniform(0.1, 5)), tensor(rng.randint(-128, 127), dtype=torch.int8)

    @wrong("The difference is int8 and has wrapped around: convert q before you subtract. (A "
           "single z of whole numbers, without an axis, does not change q's type.)")  # fmt: skip
    def converted_too_late(q, s, z):
        return s * (q - z).float()

    @wrong("Multiplying first leaves z without the scale. Keep the parentheses.")
    def no_parentheses(q, s, z):
        return s * q.float() - z

    @wrong("The zero point is added here. On the way back it is subtracted.")
    def zero_point_added(q, s, z):
        return s * (q.float() + z)

    @wrong("A clip hides the wrap, but differences above 127 are real values too.")
    def difference_clipped(q, s, z):
        return s * (q.float() - z).clamp(-128, 127)

    @wrong("Multiplied out, both products are rounded, and the last bit differs. Subtract first.")
    def multiplied_out(q, s, z):
        return s * q - s * z

    @wrong("Half precision keeps too few digits of the product. Use float.")
    def half_precision(q, s, z):
        return s * (q.half() - z)

    @wrong("bfloat16 keeps too few digits of the difference and of the product. Use float.")
    def bfloat16(q, s, z):
        return s * (q.bfloat16() - z)

    @wrong("uint8 wraps around as well, at 256. Use float, or int16 and wider.")
    def unsigned(q, s, z):
        return s * (q - z).to(torch.int16).remainder(256)


@exercise("4.3", "Which of them come back?", "choice", difficulty=2, minutes=3)
class WhichComeBack:
    """
    The scale is 0.25, the zero point -8, and the codes run from -8 to 7. Which of these values
    come back unchanged? Give all their letters, as in `"AE"`. No code is needed.

    - **A** -0.25
    - **B** 0
    - **C** 1.1
    - **D** 3.75
    - **E** 4
    """

    hints = (
        "Which value does the smallest code stand for, and which the largest?",
        "The grid begins at 0.25 * (-8 + 8) and ends at 0.25 * (7 + 8).",
        "What comes back is a multiple of 0.25 between the two ends.",
    )
    why = """The grid begins at 0, ends at 3.75, and has the multiples of 0.25 between. -0.25 and 4
        lie one step outside, and 1.1 lies between two grid points."""
    stub = "my_letters = ..."
    right = "BD"
    wrong = [
        ("BDE", "Sixteen codes have fifteen steps: the last grid point is 3.75, not 4."),
        ("BCD", "1.1 lies inside the range but between two grid points, 1.0 and 1.25."),
        ("BCDE", "Lying in the range is not enough, and 4 lies outside."),
        ("ABD", "-0.25 would need the code -9, one below the smallest."),
        ("ABDE", "A multiple of 0.25 comes back only where there is a code for it."),
        ("B", "One is missing: the code 7 lies 15 steps above the zero point."),
        ("D", "One is missing: the zero point is -8, and -8 is a code, too."),
    ]
