"""The exercises of notebook 11, better than rounding."""

import torch
from torch import tensor

from qlesson.teach.exercises import exercise, fault, right, wrong

WEIGHTS, INPUTS = (0.4, 0.6), (1, -1)


def weight_and_output_error(codes):
    """Exercise 11.1: sum of squared weight errors, and the squared output error."""
    off = [w - c for w, c in zip(WEIGHTS, codes, strict=True)]
    y = sum(d * x for d, x in zip(off, INPUTS, strict=True))
    return sum(d * d for d in off), y * y  # inf where y ** 2 would raise


def both_errors(a1, a2, b1, b2):
    return *weight_and_output_error((a1, a2)), *weight_and_output_error((b1, b2))


@exercise("11.1", "The better weights lose", "construct a counterexample", difficulty=2, minutes=6)
class BetterWeightsLose:
    """
    A layer has two weights, 0.4 and 0.6, and meets one input, (1, -1), so its output is
    0.4 - 0.6 = -0.2. Its codes are whole numbers, with scale 1. Give two ways to round the pair,
    A = (a1, a2) and B = (b1, b2): A has the smaller weight error (the sum of both squared errors),
    B the smaller output error.
    """

    hints = (
        "Rounding to nearest always has the smallest weight error: let that be A.",
        "The second input is negative. Two errors of which signs cancel in the output?",
        "Round both weights down, or both up: the errors have one sign and cancel, but for 0.2.",
    )
    why = """A = (0, 1) is nearest: its errors are 0.4 and -0.4, and the output, with the second
        input negative, adds them to 0.8. B = (0, 0) errs by 0.4 and 0.6, which is more, but in the
        output 0.6 is subtracted from 0.4."""
    stub = "a1, a2, b1, b2 = ..., ..., ..., ..."
    right = [0, 1, 0, 0]

    def facts(a1, a2, b1, b2):
        wa, ya, wb, yb = both_errors(a1, a2, b1, b2)
        return (
            f"A has weight error {wa:.2f} and output error {ya:.2f}, "
            f"B has weight error {wb:.2f} and output error {yb:.2f}."
        )

    @fault("All four must be whole numbers: the codes of this layer.", (0.4, 1, 0, 0))
    def not_whole(*numbers):
        return any(x != round(x) for x in numbers)

    @fault(
        "0.4 and 0.6 are rounded to 0 or to 1, down or up. Farther away is no rounding.",
        (0, 1, 2, 2),
    )
    def no_rounding(*numbers):
        return any(x not in (0, 1) for x in numbers)

    @fault("A and B are the same pair. One of the two weights must be rounded otherwise.", [0] * 4)
    def equal(a1, a2, b1, b2):
        return (a1, a2) == (b1, b2)

    @fault("A and B are exchanged: A is the pair with the smaller weight error.", (0, 0, 0, 1))
    def exchanged(*numbers):
        wa, ya, wb, yb = both_errors(*numbers)
        return wb < wa - 1e-9 and ya < yb - 1e-9

    @fault(
        "The weight error of A is not the smaller one. What does rounding to nearest give?",
        (0, 0, 1, 1),
    )
    def weights_not_better(*numbers):
        wa, _, wb, _ = both_errors(*numbers)
        return wa > wb - 1e-9

    @fault(
        "The output error of B is not the smaller one. Its two errors should cancel: the second "
        "input is negative, so they need the same sign.",
        (0, 1, 1, 0),
    )
    def output_not_better(*numbers):
        _, ya, _, yb = both_errors(*numbers)
        return yb > ya - 1e-9


@exercise("11.2", "Which one is better?", "choice", difficulty=2, minutes=5)
class WhichIsBetter:
    """
    Five reports on new methods, each at 3 bits and on the same model. Differences are paired, in
    nats over 64 windows of held-out text, with one standard error; minus means better than
    rounding. Which one report shows that the method itself is better than rounding? Give its
    letter. No code is needed.

    - **A** "The range of each row is searched, then our method chooses the codes. Beside min-max
    rounding: -0.120 ± 0.009."
    - **B** "A scale for each group of 32. Beside rounding with a scale for each row of 512:
    -0.090 ± 0.008. Both ranges are searched."
    - **C** "Of 20 settings of our method we report the one with the lowest loss on these windows.
    Same ranges, same groups: -0.016 ± 0.007."
    - **D** "Of 20 settings we took the one with the lowest loss on the calibration text. Same
    ranges, same groups: -0.021 ± 0.007."
    - **E** "Same ranges, same groups. On new inputs the output error of every layer is a third
    lower."
    """

    hints = (
        "For each report: what else differs between the method and its rival?",
        "What was chosen by the text on which it is judged? And what was not measured at all?",
        "Rounding with the same bits, groups and ranges, settings chosen elsewhere, two errors.",
    )
    why = """D: the rival has the same ranges and groups, nothing was chosen by the text that
        judges, and the difference is three standard errors. A gives a searched range to its own
        method alone, B smaller groups, whose scales cost bits. C reports the luckiest of 20 on the
        windows that judge: among 20 settings that change nothing, one is beyond two errors on the
        good side in one case of three. E has not asked the model."""
    stub = "my_letter = ..."
    right = "D"
    wrong = [
        ("A", "Its rival has min-max ranges. What would a searched range alone have brought?"),
        ("B", "A scale for each 32 values is 16 times as many scales: rounding gains by that too."),
        (
            "C",
            "The lowest of 20 on these windows is the luckiest of 20. 0.016 is about two errors.",
        ),
        ("E", "Output error of layers is not the loss of the model: nobody has measured that."),
        ("AD", "One report only. A gives the searched range to its own method alone."),
        (
            "BD",
            "One report only. In B the method has smaller groups, so more bits, than its rival.",
        ),
        ("CD", "One report only. C chose its setting by the windows that judge it."),
        ("DE", "One report only. E measured layers, and not the model."),
    ]


@exercise("11.3", "Errors that do not cancel", "repair a bug", difficulty=3, minutes=8)
class AfterColumn:
    """
    One step of GPTQ. Column `j` of the row `w` has been rounded to `w_hat`. The function should
    put `w_hat` in its place, leave the earlier columns as they are, and move the later ones so
    that they make up for the error; `u` is the matrix U. It has two faults, and with it the output
    error grows. Repair both.
    """

    hints = (
        "Compare it with the formula for e and for the move of the later columns, above.",
        "e is the error divided by a number from the diagonal of U.",
        "e = (w[j] - w_hat) / u[j, j], and the later columns move by -e * u[j, j + 1 :].",
    )
    why = """The move is -e * U[j, j+1:] with e = (w_j - w_hat_j) / U[j, j]. Where two inputs go
        together and no third is there, U's entry beyond the diagonal is negative, so the minus
        turns an error into an opposite one."""
    stub = """
        def after_column(w, w_hat, j, u):
            e = w[j] - w_hat
            row = w.clone()
            row[j] = w_hat
            row[j + 1 :] += e * u[j, j + 1 :]
            return row
        """

    @right
    def after_column(w, w_hat, j, u):
        e = (w[j] - w_hat) / u[j, j]
        row = w.clone()
        row[j] = w_hat
        row[j + 1 :] -= e * u[j, j + 1 :]
        return row

    def spec(w, w_hat, j, u):
        e = (w[j] - w_hat) / u[j][j]
        return [
            float(x) if k < j else float(w_hat) if k == j else x - e * u[j][k]
            for k, x in enumerate(w)
        ]

    def cases(rng):
        yield tensor([0.5, 0.5]), 0.0, 0, tensor([[2.0, -1.0], [0.0, 1.0]])
        yield tensor([0.5, 0.5]), 0.0, 1, tensor([[2.0, -1.0], [0.0, 4.0]])
        yield tensor([0.5, 0.5]), 1.0, 0, tensor([[2.0, -1.0], [0.0, 1.0]])
        u = [[2.0, -1.0, 0.5, 1.0], [0.0, 4.0, -2.0, 1.0], [0.0, 0.0, 1.0, -1.0]]
        u = tensor([*u, [0.0, 0.0, 0.0, 0.5]])  # no two numbers of a row or of the diagonal alike
        yield tensor([1.0, 0.5, 0.25, 0.75]), 0.0, 1, u
        for _ in range(20):
            n = rng.randint(2, 4)
            w = tensor([rng.randint(-20, 20) / 8 for _ in range(n)])
            u = tensor([[rng.choice((-3, -2, -1, 2, 3)) / 2 for _ in range(n)] for _ in range(n)])
            u = u.triu(1) + torch.diag(tensor([rng.choice((0.5, 2.0, 4.0)) for _ in range(n)]))
            j = rng.randrange(n)
            yield w, float(round(w[j].item())) + rng.choice((0.0, 0.25)), j, u
        u = torch.eye(40) + torch.ones(40, 40).triu(1) / 4
        yield torch.zeros(40), 1.0, 5, 2 * u

    def valid(w, w_hat, j, u):
        return u.shape == (len(w), len(w))

    @wrong("The two faults are still there: a sign, and a division.")
    def unchanged(w, w_hat, j, u):
        row = w.clone()
        row[j] = w_hat
        row[j + 1 :] += (w[j] - w_hat) * u[j, j + 1 :]
        return row

    @wrong("The sign is right now. e is the error divided by u[j, j].")
    def sign_only(w, w_hat, j, u):
        row = w.clone()
        row[j] = w_hat
        row[j + 1 :] -= (w[j] - w_hat) * u[j, j + 1 :]
        return row

    @wrong("The division is right now. The move has a minus: it must go against the error.")
    def division_only(w, w_hat, j, u):
        row = w.clone()
        row[j] = w_hat
        row[j + 1 :] += (w[j] - w_hat) / u[j, j] * u[j, j + 1 :]
        return row

    @wrong("You multiply by u[j, j]. The error is divided by it.")
    def multiplied(w, w_hat, j, u):
        row = w.clone()
        row[j] = w_hat
        row[j + 1 :] -= (w[j] - w_hat) * u[j, j] * u[j, j + 1 :]
        return row

    @wrong("The later columns are right, but column j keeps its old value. It should be w_hat.")
    def not_stored(w, w_hat, j, u):
        row = w.clone()
        row[j + 1 :] -= (w[j] - w_hat) / u[j, j] * u[j, j + 1 :]
        return row

    @wrong(
        "Your later columns do not move. Is e computed before w_hat is in its place, and does row "
        "j of u (not a column, which is 0 below the diagonal) hold the moves?"
    )
    def not_moved(w, w_hat, j, u):
        row = w.clone()
        row[j] = w_hat
        return row
