"""The exercises of notebook 07, choosing the range."""

import math

import torch
from torch import tensor

from qlesson.teach.exercises import exercise, right, wrong


@exercise("7.1", "An average that moves", "write code", difficulty=2, minutes=8)
class MovingAverage:
    """
    Write `moving(ends, weight)`. `ends` holds the largest value of each batch, in the order in
    which the batches came. Start with the first; then let every further batch move the average
    towards its own value by the share `weight` of the distance. Return the average at the end.
    """

    hints = (
        "The average is one number that changes in a loop over the other batches.",
        "The distance from the average to the batch is end - average.",
        "average = average + weight * (end - average)",
    )
    why = """Written as (1 - weight) * average + weight * end it is the same number: what was there
        keeps the larger part, and each batch fades by the factor 1 - weight with every later
        one."""

    within = 1e-5  # an average of both signs may end near 0

    @right
    def moving(ends, weight):
        average, *others = ends
        for end in others:
            average = average + weight * (end - average)
        return average

    def spec(ends, weight):
        shares = [weight * (1 - weight) ** k for k in range(len(ends) - 1)]
        shares.append((1 - weight) ** (len(ends) - 1))
        return sum(a * b for a, b in zip(shares, reversed(ends), strict=True))

    def cases(rng):
        yield tensor([4.0]), 0.5
        yield tensor([4.0, 4.0]), 0.25
        yield tensor([0.0, 8.0]), 0.25
        yield tensor([8.0, 0.0]), 0.25
        yield tensor([8.0, 0.0, 4.0]), 0.5
        yield tensor([1.0, 2.0, 3.0, 40.0]), 0.125
        yield tensor([-4.0, -8.0]), 0.25
        for _ in range(20):
            n = rng.randint(1, 6)
            yield tensor([rng.uniform(-5, 9) for _ in range(n)]), rng.choice((0.1, 0.2, 0.7))
        yield tensor([rng.uniform(-5, 9) for _ in range(200)]), 0.01

    @wrong("This is the plain mean: every batch counts the same, and weight plays no part.")
    def plain_mean(ends, weight):
        return ends.mean()

    @wrong("This is the largest of all, min-max: one batch sets it for good.")
    def largest(ends, weight):
        return ends.max()

    @wrong("The shares are exchanged: weight belongs to the new batch, 1 - weight to the average.")
    def exchanged(ends, weight):
        average = ends[0]
        for end in ends[1:]:
            average = weight * average + (1 - weight) * end
        return average

    @wrong("You start at 0, so the average is drawn towards 0. Start with the first batch.")
    def from_zero(ends, weight):
        average = 0.0
        for end in ends:
            average = average + weight * (end - average)
        return average

    @wrong("You add weight * end without taking weight * average away.")
    def grows(ends, weight):
        average = ends[0]
        for end in ends[1:]:
            average = average + weight * end
        return average

    @wrong("The last batch is left out, or the loop ends a step early.")
    def one_short(ends, weight):
        average = ends[0]
        for end in ends[1:-1]:
            average = average + weight * (end - average)
        return average

    @wrong("The batches run backwards here. The last one must count most, not the first.")
    def backwards(ends, weight):
        average = ends[-1]
        for end in ends.flip(0)[1:]:
            average = average + weight * (end - average)
        return average


@exercise("7.2", "What a percentile clips", "predict a number", difficulty=1, minutes=3)
class Clips:
    """
    A tensor has 50,000 different values. Its range goes from the 0.1-th to the 99.9-th percentile,
    and both ends are values of the tensor. How many values at most are clipped, above and below
    together?
    """

    hints = (
        "Which part of the values lies above the 99.9-th percentile?",
        "0.1 % of 50,000 values lie above it at most.",
        "There are two ends.",
    )
    why = """At most 0.1 % lie above the 99.9-th percentile: 50 of 50,000. Another 50 lie below the
        other end. `ranges.percentile` clips 49 at each end of such a tensor, which counts as
        right too. The number depends on how many values there are, not on how far out they lie."""
    stub = "my_clipped = ..."
    right = 100
    within = [(2, 0)]  # "at most"
    wrong = [
        (50, "That is one end. The range has two."),
        (10, "0.1 % is one in a thousand, not one in ten thousand."),
        (5, "0.1 % is one in a thousand, not one in ten thousand, and there are two ends."),
        (1000, "0.1 % is one in a thousand, not one in a hundred."),
        (500, "0.1 % is one in a thousand, not one in a hundred, and there are two ends."),
        (49_900, "Those are the values that stay. The question is how many are clipped."),
        (0, "Only min-max clips nothing."),
    ]


@exercise("7.3", "Bins that get lost", "repair a bug", difficulty=2, minutes=8)
class LostBins:
    """
    This function shares the bins of a histogram out among `levels` levels, neighbours together,
    and returns the count of each level. With 8 bins and 4 levels it is right. With 10 bins and 4
    levels some counts are lost. Why? Repair it so that bin `b` of `n` goes to the level
    `b * levels / n`, rounded down; `counts` has at least as many bins as there are levels.
    """

    hints = (
        "Add up what comes in and what goes out, with 10 bins and 4 levels.",
        "10 // 4 is 2, and 4 levels of 2 bins hold 8 bins. The last two belong nowhere.",
        "Give each bin its level, then add: merged[int(b * levels / n)] += counts[b].",
    )
    why = """The size of a level is rounded down, so the last bins belong to no level. Asking each
        bin for its level instead loses none, and no level gets more than one bin more than
        another. Calibrators in use lose none either, but some put all the bins that are left over
        into the last level."""
    stub = """
        def merge(counts, levels):
            size = len(counts) // levels
            merged = []
            for k in range(levels):
                merged.append(counts[k * size : (k + 1) * size].sum())
            return torch.stack(merged)
    """

    @right
    def merge(counts, levels):
        merged = torch.zeros(levels)
        for b, count in enumerate(counts):
            merged[int(b * levels / len(counts))] += count
        return merged

    def spec(counts, levels):
        if len(counts) < levels:
            raise ValueError("the question has at least as many bins as levels")
        merged = [0.0] * levels
        for b, count in enumerate(counts):
            merged[math.floor(b * levels / len(counts) + 1e-9)] += count
        return merged

    def cases(rng):
        yield tensor([1.0, 2.0]), 2
        yield tensor([1.0, 2.0, 4.0, 8.0]), 2
        yield tensor([1.0, 2.0, 4.0]), 2
        yield tensor([1.0, 2.0, 4.0, 8.0, 16.0]), 2
        yield tensor([1.0, 2.0, 4.0, 8.0, 16.0]), 3
        yield tensor([float(2**k) for k in range(10)]), 4
        yield tensor([3.0]), 1
        for _ in range(20):
            levels = rng.randint(1, 5)
            n = rng.randint(levels, 4 * levels)
            yield tensor([float(rng.randint(0, 50)) for _ in range(n)]), levels
        yield tensor([float(rng.randint(0, 50)) for _ in range(300)]), 128
        yield torch.zeros(5), 2

    @wrong("The counts of the last bins are still lost: the sum of the levels is too small.")
    def as_it_was(counts, levels):
        size = len(counts) // levels
        return torch.stack([counts[k * size : (k + 1) * size].sum() for k in range(levels)])

    @wrong("Nothing is lost, but the last level takes all the bins that are left over.")
    def rest_to_the_last(counts, levels):
        size = len(counts) // levels
        merged = [counts[k * size : (k + 1) * size].sum() for k in range(levels)]
        merged[-1] = merged[-1] + counts[levels * size :].sum()
        return torch.stack(merged)

    @wrong("The size is rounded up here, so the last level gets too few bins, or none.")
    def rounded_up(counts, levels):
        size = -(-len(counts) // levels)
        return torch.stack([counts[k * size : (k + 1) * size].sum() for k in range(levels)])

    @wrong("This gives bin b to level b % levels: neighbours must stay together.")
    def dealt_out(counts, levels):
        merged = torch.zeros(levels)
        for b, count in enumerate(counts):
            merged[b % levels] += count
        return merged

    @wrong("These are means. A level holds the sum of its bins.")
    def means(counts, levels):
        merged, bins = torch.zeros(levels), torch.zeros(levels)
        for b, count in enumerate(counts):
            merged[int(b * levels / len(counts))] += count
            bins[int(b * levels / len(counts))] += 1
        return merged / bins

    @wrong("The level is rounded to the nearest, so the first level gets too few bins.")
    def rounded(counts, levels):
        merged = torch.zeros(levels)
        for b, count in enumerate(counts):
            merged[min(round(b * levels / len(counts)), levels - 1)] += count
        return merged
