"""The exercises of notebook 05, quantization error."""

import math

import torch
from torch import tensor

import qlesson as ql
from qlesson.teach.exercises import SHAPES, exercise, fault, flat, right, wrong


def mse_2_and_3(values):
    """The mean squared errors of exercise 5.3, with 2 and with 3 bits."""
    r = tensor(values, dtype=torch.float64)
    schemes = ql.Scheme(bits=2), ql.Scheme(bits=3)
    return [ql.mse(r, ql.quantize(r, scheme).dequantize()).item() for scheme in schemes]


def squares_lost(values):
    """Whether squares of these values may leave the floats."""
    return not 1e-12 < max(map(abs, values)) < 1e12


@exercise("5.1", "Two shares", "write code", difficulty=2, minutes=8)
class TwoShares:
    """
    Write `my_shares(r, r_hat, s)`. It returns two numbers, the rounding share and the clipping
    share of the mean squared error, whose sum is the MSE of the tensor. An element that is off by
    more than `s / 2` was clipped, and its whole squared error belongs to the second share.
    """

    hints = (
        "Compute the squared errors and, apart from them, which elements were clipped.",
        "Both shares are averages over all elements: divide by r.numel() in either case.",
        "torch.where(clipped, 0, squared).mean() is the first share.",
    )
    why = """Each element belongs to one share and counts as 0 in the other, so the two means run
        over the same elements and add up to the MSE. An error of exactly s / 2 is rounding."""
    within = 1e-6  # a share may be the difference of two means

    @right
    def my_shares(r, r_hat, s):
        squared = (r - r_hat) ** 2
        clipped = (r - r_hat).abs() > s / 2
        rounding = torch.where(clipped, 0, squared).mean()
        clipping = torch.where(clipped, squared, 0).mean()
        return rounding, clipping

    def spec(r, r_hat, s):
        rounding = clipping = 0.0
        pairs = list(zip(flat(r), flat(r_hat), strict=True))
        for x, y in pairs:
            if abs(x - y) <= s / 2:
                rounding += (x - y) ** 2 / len(pairs)
            else:
                clipping += (x - y) ** 2 / len(pairs)
        return rounding, clipping

    def cases(rng):
        yield tensor([0.25]), tensor([0.0]), 1.0
        yield tensor([3.0]), tensor([0.0]), 1.0
        yield tensor([0.5]), tensor([0.0]), 1.0  # half a step: rounding
        yield tensor([0.75]), tensor([0.0]), 1.0
        yield tensor([0.505, 0.25]), torch.zeros(2), 1.0  # nearly half a step: clipping
        yield tensor([-3.0]), tensor([0.0]), 1.0
        yield tensor([0.25, 3.0]), tensor([0.0, 1.0]), 1.0
        yield tensor([0.0, 3.0]), tensor([0.0, 0.0]), 4.0
        yield tensor([0.0, 0.0]), tensor([0.0, 0.0]), 1.0
        yield tensor([[0.5, -0.5, 3.0], [0.0, 0.0, 0.0]]), torch.zeros(2, 3), 1.0
        for shape in 4 * SHAPES:
            s, n = rng.uniform(0.5, 2), math.prod(shape)
            off = [rng.choice((0.1, 0.3, 0.45, 0.6, 2.0)) * rng.choice((-s, s)) for _ in range(n)]
            r_hat = [s * rng.randint(-4, 4) for _ in range(n)]
            r = tensor([a + b for a, b in zip(r_hat, off, strict=True)])
            yield r.reshape(shape), tensor(r_hat).reshape(shape), s

    @wrong("These are sums. The shares of a mean are means: divide by r.numel().")
    def sums(r, r_hat, s):
        e = (r - r_hat).abs()
        return (e[e <= s / 2] ** 2).sum(), (e[e > s / 2] ** 2).sum()

    @wrong("You average each part over its own elements, so the shares do not add up to the MSE.")
    def own_means(r, r_hat, s):
        e = (r - r_hat).abs()
        parts = e[e <= s / 2], e[e > s / 2]
        return tuple((p**2).mean() if len(p) else 0.0 for p in parts)

    @wrong("Where nothing was clipped, or everything, one of your parts is empty: a mean of "
           "nothing is 0 / 0, NaN. Both are means over all r.numel() elements.")  # fmt: skip
    def mean_of_nothing(r, r_hat, s):
        e = (r - r_hat).abs()
        return (e[e <= s / 2] ** 2).mean(), (e[e > s / 2] ** 2).mean()

    @wrong("len(r) counts the rows of a matrix. Its elements are r.numel().")
    def divided_by_the_rows(r, r_hat, s):
        e = (r - r_hat).abs()
        return (e[e <= s / 2] ** 2).sum() / len(r), (e[e > s / 2] ** 2).sum() / len(r)

    @wrong("The errors are not squared.")
    def not_squared(r, r_hat, s):
        e = (r - r_hat).abs()
        return torch.where(e > s / 2, 0, e).mean(), torch.where(e > s / 2, e, 0).mean()

    @wrong("These are roots of the shares. The MSE has no root.")
    def roots(r, r_hat, s):
        e = (r - r_hat).abs()
        rounding = torch.where(e > s / 2, 0, e**2).mean()
        return rounding.sqrt(), torch.where(e > s / 2, e**2, 0).mean().sqrt()

    @wrong("The package leaves float32 some room, 0.51 steps. Here the bound is s / 2.")
    def the_bound_of_the_package(r, r_hat, s):
        e = (r - r_hat).abs()
        rounding = torch.where(e > 0.51 * s, 0, e**2).mean()
        return rounding, torch.where(e > 0.51 * s, e**2, 0).mean()

    @wrong("Your bound is a whole step. Rounding moves a value by half a step at most.")
    def whole_step(r, r_hat, s):
        e = (r - r_hat).abs()
        return torch.where(e > s, 0, e**2).mean(), torch.where(e > s, e**2, 0).mean()

    @wrong("The two shares are exchanged: rounding comes first.")
    def exchanged(r, r_hat, s):
        e = (r - r_hat).abs()
        return torch.where(e > s / 2, e**2, 0).mean(), torch.where(e > s / 2, 0, e**2).mean()

    @wrong("Errors can be negative. Compare their magnitude with s / 2.")
    def no_abs(r, r_hat, s):
        e = r - r_hat
        return torch.where(e > s / 2, 0, e**2).mean(), torch.where(e > s / 2, e**2, 0).mean()

    @wrong("An error of exactly s / 2 is rounding: clipped is what lies beyond it.")
    def half_a_step_clipped(r, r_hat, s):
        e = (r - r_hat).abs()
        return torch.where(e < s / 2, e**2, 0).mean(), torch.where(e < s / 2, 0, e**2).mean()

    @wrong("You split each error at s / 2. The whole squared error belongs to one share.")
    def error_split(r, r_hat, s):
        e = (r - r_hat).abs()
        beyond = (e - s / 2).clamp(min=0)
        return ((e - beyond) ** 2).mean(), (beyond**2).mean()

    @wrong("The first share is the whole MSE. Leave the clipped elements out of it.")
    def whole_first(r, r_hat, s):
        e = (r - r_hat).abs()
        return (e**2).mean(), torch.where(e > s / 2, e**2, 0).mean()

    @wrong("You compare the squared error with s / 2. Compare the error itself.")
    def squared_first(r, r_hat, s):
        e = (r - r_hat) ** 2
        return torch.where(e > s / 2, 0, e).mean(), torch.where(e > s / 2, e, 0).mean()

    @wrong("These are the shares of elements. Asked for is their part of the squared error.")
    def elements_counted(r, r_hat, s):
        clipped = ((r - r_hat).abs() > s / 2).float().mean()
        return 1 - clipped, clipped

    @wrong("Your two shares add up to 1. They should add up to the MSE.")
    def parts_of_one(r, r_hat, s):
        e = (r - r_hat).abs()
        total = (e**2).sum()
        return (e[e <= s / 2] ** 2).sum() / total, (e[e > s / 2] ** 2).sum() / total


@exercise("5.2", "Decibels in the head", "predict a number", difficulty=1, minutes=3)
class Decibels:
    """
    A layer has an SQNR of 26 dB at 5 bits, and its range stays fixed. About how many decibels does
    it have at 8 bits, and how many times smaller is its mean squared error then?
    """

    hints = (
        "How many decibels is one bit worth, and how many bits are added?",
        "Three bits add about 18 dB.",
        "Each bit divides the squared error by four, and there are three of them.",
    )
    why = """Three bits more are worth about 3 * 6 = 18 dB, and a factor of about 4 * 4 * 4 = 64 in
        squared error: 44 dB and 64 are right. By the exact formula they are 18.3 dB and 68 in
        asymmetric mode, 18.6 dB and 72 in symmetric mode, which has one step less."""
    stub = "my_db, my_factor = ..., ..."
    right = (44.3, 68)
    within = [(0.4, 0.35), (5, 4)]  # from 18 dB, a factor of 63, to 18.55 dB, one of 71.7
    wrong = [
        ((41.6, ...), "Decibels are not in proportion to bits: each bit more adds about 6."),
        ((18, ...), "18 dB is what three bits add. Add them to the 26."),
        ((29, ...), "You gave 1 dB to each bit. A bit is worth about 6 dB."),
        ((35, ...), "You gave 3 dB to each bit, which is a factor of two. A bit is worth 6 dB."),
        ((32, ...), "That is one bit more. From 5 to 8 there are three."),
        ((8, ...), "More bits mean less error, so the ratio rises."),
        ((..., 8), "The step is 8 times smaller. The error is squared, so 8 * 8."),
        ((..., 18), "18 dB is the gain in decibels. As a factor it is 10 ** 1.8."),
        ((..., 12), "Each bit divides by 4 once more: 4 * 4 * 4, not 4 + 4 + 4."),
        ((..., 9), "Each bit divides the squared error by 4, and there are three: 4 * 4 * 4."),
        ((..., 1 / 64), "That is the part which remains. How many times smaller is it?"),
        ((..., 4), "4 is the factor of one bit. Three bits multiply it three times."),
    ]


@exercise("5.3", "Worse with more bits", "construct a counterexample", difficulty=2, minutes=8)
class WorseWithMoreBits:
    """
    Find three or more values, not all equal, whose mean squared error is larger with 3 bits than
    with 2, in asymmetric mode with one scale.
    """

    hints = (
        "Look for values that 2 bits bring back without any error.",
        "With 2 bits there are four codes: four evenly spaced values, one of them 0, can be exact.",
        "With 3 bits the same range has seven steps. Do the inner values still fall on the grid?",
    )
    why = """Four evenly spaced values, such as 0, 1, 2 and 3, are the grid of 2 bits: three steps,
        no error. With 3 bits the range has seven steps, and seven is no multiple of three."""
    stub = "my_values = [..., ..., ...]"
    right = [0, 1, 2, 3]

    def facts(*values):
        if squares_lost(values):
            return f"the largest magnitude is {max(map(abs, values)):.4g}."
        two, three = mse_2_and_3(values)
        return f"the MSE is {two:.4g} with 2 bits and {three:.4g} with 3."

    @fault("Take at least three values.", (0, 3))
    def too_few(*values):
        return len(values) < 3

    @fault("All values are equal, and a constant comes back at any number of bits.", (5, 5, 5))
    def all_equal(*values):
        return len(set(values)) == 1

    @fault(
        "These are too large or too small: what is squared leaves the floats. Stay near 1.",
        (0, 1e-200, 3e-200),
    )
    def extreme(*values):
        return squares_lost(values)

    @fault(
        "Both come back without error: your values are the ends of the range. Add one between.",
        (0, 0, 6),
    )
    def both_exact(*values):
        return max(mse_2_and_3(values)) <= 1e-12 * max(map(abs, values)) ** 2

    @fault(
        "Your values fit the grid of 3 bits, which has seven steps. Fit that of 2 bits.",
        (0, 1, 4, 7),
    )
    def three_bits_exact(*values):
        return mse_2_and_3(values)[1] <= 1e-12 * max(map(abs, values)) ** 2

    @fault(
        "The two errors are equal, and the question asks for a larger one with 3 bits.",
        (0, 1, 100),
    )
    def equal_errors(*values):
        two, three = mse_2_and_3(values)
        return abs(two - three) <= 1e-9 * two

    @fault(
        "The range is widened to hold 0, so the grid of 2 bits has 0. Let it be among your values.",
        (1, 2, 3, 4),
    )
    def without_zero(*values):
        two, three = mse_2_and_3(values)
        return three <= two and (min(values) > 0 or max(values) < 0)

    @fault("Here 3 bits are better, as they mostly are. Look at the grid of 2 bits.", (0, 1, 2))
    def three_bits_better(*values):
        two, three = mse_2_and_3(values)
        return three <= two
