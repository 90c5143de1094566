"""The exercises of notebook 07, choosing the range."""

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
        yield tensor([8.0, 0.0, 8.0]), 0.5  # the value of the first batch comes again
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


@exercise("7.3", "Whose range is it?", "choice", difficulty=2, minutes=5)
class WhoseRange:
    """
    A file of a model says that the inputs of one layer have 8 bits, symmetric, and the scale
    0.0375. You have the author's four calibration batches. The largest magnitudes in them are 4,
    10, 6 and 5, in this order. Which of these rules can the author have used? Give all their
    letters, as in `"AE"`. No code is needed.

    - **A** min-max over the four batches
    - **B** a moving average that starts with the first batch, of weight 0.1
    - **C** min-max of the last batch
    - **D** a percentile of all values
    - **E** a search for the least squared error
    - **F** a dynamic range
    """

    hints = (
        "With 8 bits, symmetric, the last code is 127. Which value does it stand for?",
        "0.0375 * 127 = 4.76. Which rules can end there, and which end elsewhere?",
        "The average starts at 4, then moves a tenth of the way to 10, to 6 and to 5.",
    )
    why = """The range ends at 0.0375 * 127 = 4.76. Min-max ends at 10, and that of the last batch
        at 5, a scale of 0.0394. The moving average goes 4, 4.6, 4.74, 4.766: that fits. A
        percentile or a search may stop anywhere inside the largest value, so they cannot be
        excluded. A dynamic range is found at each input, and no file has it. A scale can refute a
        rule; it cannot prove one: authors should say which."""
    stub = "my_letters = ..."
    right = "BDE"
    wrong = [
        ("B", "It fits. But a rule that clips may stop at any value inside the largest one."),
        ("BD", "One more rule clips as well, and may stop at any value inside the largest one."),
        ("BE", "One more rule clips as well: at which value it ends depends on all the others."),
        ("DE", "Work the average out: it starts at 4 and moves a tenth of the way each time."),
        ("D", "A percentile may end there. So may one more rule that clips. And the average?"),
        ("E", "A search may end there. So may one more rule that clips. And the average?"),
        ("A", "Min-max ends at 10, which would be a scale of 10 / 127 = 0.0787."),
        ("C", "The last batch ends at 5, which would be a scale of 5 / 127 = 0.0394."),
        ("F", "A dynamic range is found at each input, while the model runs: no file has it."),
        ("ABDE", "A is one too many: it ends at the 10 of the second batch, not at 4.76."),
        ("BCDE", "C is one too many: it ends at 5, and 0.0375 * 127 is 4.76."),
        ("BDEF", "F is one too many: what is found while the model runs is in no file."),
    ]
