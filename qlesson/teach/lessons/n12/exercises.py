"""The exercises of notebook 12, training through rounding."""

import torch
from torch import tensor

from qlesson.teach.exercises import each, exercise, off_ties, right, wrong


@exercise("12.1", "The way back", "write code", difficulty=2, minutes=7)
class WayBack:
    """
    On the way forward, `r_hat = s * q` with `q = round(r / s)`, clipped to `quant_min` and
    `quant_max` (symmetric, so there is no zero point). Write `my_gradient(grad, r, s, quant_min,
    quant_max)`: the straight-through gradient by `r`, where `grad` is the gradient by `r_hat`, a
    tensor of r's shape.
    """

    hints = (
        "What is passed on where r_hat should follow r? And where r is clipped?",
        "The code before clipping says which it is: round(r / s), compared with both ends.",
        "Multiply grad by 1 where quant_min <= round(r / s) <= quant_max, and by 0 elsewhere.",
    )
    why = """The slope is taken as 1 where the code before clipping lies in the range. Beyond it
        r_hat stays at the last value however r moves, so nothing is passed on. A value less than
        half a step beyond the last code is rounded to it, not clipped (LSQ counts it as
        clipped)."""

    @right
    def my_gradient(grad, r, s, quant_min, quant_max):
        q = torch.round(r / s)
        return torch.where((q >= quant_min) & (q <= quant_max), grad, 0)

    def spec(grad, r, s, quant_min, quant_max):
        inside = each(lambda x: quant_min <= round(x / s) <= quant_max, r)
        return times(grad, inside)

    def cases(rng):
        yield tensor([3.0]), tensor([0.3]), 1.0, -2, 1
        yield tensor([3.0]), tensor([5.0]), 1.0, -2, 1
        yield tensor([3.0]), tensor([-5.0]), 1.0, -2, 1
        yield tensor([3.0]), tensor([1.4]), 1.0, -2, 1
        yield tensor([3.0]), tensor([-2.4]), 1.0, -2, 1
        yield tensor([3.0]), tensor([1.6]), 1.0, -2, 1
        yield tensor([3.0]), tensor([-2.6]), 1.0, -2, 1
        yield tensor([-3.0]), tensor([0.7]), 0.5, -2, 1
        yield tensor([-3.0]), tensor([0.7]), 0.125, -2, 1
        for _ in range(20):
            shape = rng.choice([(4,), (2, 3), (3, 2)])
            low, high = rng.choice([(-2, 1), (-4, 3), (-8, 7)])
            s = rng.choice([0.25, 0.5, 2.0])
            r = off_ties(rng, shape, s, 0, 2 * low, 2 * high)
            yield off_ties(rng, shape, 0.7, 0, -3, 3), r, s, low, high

    @wrong("Clipped values pass nothing on: r_hat stays where it is, however r moves.")
    def no_mask(grad, r, s, quant_min, quant_max):
        return grad.clone()

    @wrong(
        "A value less than half a step beyond the last code is rounded to it, not clipped: "
        "compare round(r / s) with the ends."
    )
    def mask_of_values(grad, r, s, quant_min, quant_max):
        return grad * ((r >= s * quant_min) & (r <= s * quant_max))

    @wrong("That is the slope of the staircase. Straight through, the slope inside is 1.")
    def staircase(grad, r, s, quant_min, quant_max):
        return torch.zeros_like(grad)

    @wrong("The code is round(r / s): divide by s before you compare with the ends.")
    def not_divided(grad, r, s, quant_min, quant_max):
        q = torch.round(r)
        return grad * ((q >= quant_min) & (q <= quant_max))

    @wrong("Values are clipped at the lower end too.")
    def upper_end_only(grad, r, s, quant_min, quant_max):
        return grad * (torch.round(r / s) <= quant_max)

    @wrong("Those are the slopes. By the chain rule they multiply grad.")
    def slope_alone(grad, r, s, quant_min, quant_max):
        q = torch.round(r / s)
        return ((q >= quant_min) & (q <= quant_max)).to(grad.dtype)

    @wrong("It is the other way round: clipped values get 0, the others grad.")
    def other_way(grad, r, s, quant_min, quant_max):
        q = torch.round(r / s)
        return grad * ((q < quant_min) | (q > quant_max))

    @wrong("r_hat = s * q, but q = round(r / s): the two factors s cancel, and the slope is 1.")
    def times_s(grad, r, s, quant_min, quant_max):
        q = torch.round(r / s)
        return s * grad * ((q >= quant_min) & (q <= quant_max))


def times(grad, inside):
    """grad where inside, else 0, of two nested lists."""
    if isinstance(grad, list):
        return [times(g, i) for g, i in zip(grad, inside, strict=True)]
    return grad if inside else 0.0


@exercise("12.2", "Three slopes", "predict a number", difficulty=2, minutes=5)
class ThreeSlopes:
    """
    A step s = 0.5 is learned, with the codes -2, -1, 0, 1 and zero point 0. What is the slope of
    `r_hat` by s, as LSQ estimates it, for r = 0.4, for r = -0.3 and for r = -3?
    """

    hints = (
        "First the code of each value, and whether it was clipped.",
        "Inside, the slope is q - r / s. The code of 0.4 is 1, and 0.4 / 0.5 is 0.8.",
        "-3 / 0.5 = -6 is clipped to the code -2: there r_hat = -2 s, whatever r is.",
    )
    why = """0.4 / 0.5 = 0.8 becomes 1: 1 - 0.8 = 0.2. -0.3 / 0.5 = -0.6 becomes -1:
        -1 + 0.6 = -0.4. -3 is clipped to the code -2, and -2 s has the slope -2."""
    stub = "first, second, third = ..., ..., ..."
    right = (0.2, -0.4, -2)
    within = (0.005, 0.005, 0.005)
    wrong = [
        (
            (1, 1, 0),
            "Those are the slopes by r. By s it is q - r / s, and q alone where r is clipped.",
        ),
        ((-0.2, ..., ...), "The sign: the slope is q - r / s, the code minus the value in steps."),
        ((..., 0.4, ...), "The sign: the slope is q - r / s, and -1 - (-0.6) is negative."),
        ((1, ..., ...), "That is q, the slope while the code stays. LSQ subtracts r / s from it."),
        ((..., -1, ...), "That is the code q, and its slope while it stays. Subtract r / s, -0.6."),
        ((0.1, ..., ...), "That is r_hat - r, in units of r. In steps of 0.5 it is twice as much."),
        ((..., -0.2, ...), "-0.5 - (-0.3) is r_hat - r, in units of r. The slope counts in steps."),
        ((..., ..., 4), "-3 is clipped. There r_hat = -2 s, and r is not in it."),
        ((..., ..., 0), "0 is the slope by r. By s, the last value -2 s moves with every s."),
        ((..., ..., -1), "r_hat is -1 there: s times the code. The slope is the code."),
        ((..., ..., 2), "The sign: a larger s moves -2 s down."),
        ((..., ..., -6), "-6 is the code before clipping. After it the code is -2."),
    ]


@exercise("12.3", "Four reports", "choice", difficulty=1, minutes=4)
class FourReports:
    """
    Four reports on a 2-bit model that was trained through its rounding. Differences are paired,
    with one standard error. Which two support what they say? Give both letters.

    - **A** "We stopped the training where held-out perplexity was lowest. That held-out perplexity
      is 4.5."
    - **B** "On the held-out text it differs from GPTQ by -0.020 ± 0.015 nats: better."
    - **C** "On the held-out text it differs from GPTQ by -0.200 ± 0.015 nats: better on text like
      this."
    - **D** "We chose the rate on one half of the calibration text and trained on the other. The
      held-out perplexity, measured once, is 4.6."
    """

    hints = (
        "How many standard errors are the differences of B and C?",
        "What did each of A and D choose by the text on which it is judged?",
    )
    why = """C is thirteen standard errors, and says for which text. D has chosen nothing by the
        held-out text. A chose the best of many measurements on it, so its number is too good; B is
        1.3 standard errors, which cannot be told apart from nothing."""
    stub = "my_two = ..."
    right = "CD"
    wrong = [
        ("C", "C does, and it is not alone. What did the others choose, and by which text?"),
        ("D", "D does, and it is not alone: which difference is more than two errors?"),
        ("A", "A chose its stop by the text that judges it: of many numbers, the luckiest."),
        ("B", "0.020 is 1.3 times 0.015: luck alone does that often."),
        ("AC", "C does. A chose its stop by the text that judges it."),
        ("BD", "D does. The difference of B is 1.3 errors."),
        ("BC", "C does. The difference of B is 1.3 errors."),
        ("AD", "D does. A chose its stop by the text that judges it."),
        ("AB", "Both have a fault: A chose by the text that judges it, and B is 1.3 errors."),
        ("ABC", "C does. A chose by the text that judges it, and B is 1.3 errors. Which is left?"),
        ("ABD", "D does. A chose by the text that judges it, and B is 1.3 errors. Which is left?"),
        ("ACD", "Two of these three. A chose its stop by the text that judges it."),
        ("BCD", "Two of these three. The difference of B is 1.3 errors."),
        ("ABCD", "Not all four: A chose by the text that judges it, and B is 1.3 errors."),
    ]
