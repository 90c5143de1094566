"""The exercises of notebook 17, four-bit inputs."""

import torch
from torch import tensor

from qlesson.teach.exercises import exercise, right, wrong


def hadamard(n):
    """Rows of 1 and -1 over sqrt(n), orthogonal, with signs: M differs from its transpose."""
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


@exercise("17.1", "Behind a norm", "write code", difficulty=2, minutes=8)
class BehindNorm:
    """
    A layer takes the output of a norm: $y = (u \\cdot g) \\, W^T$, where $u$ is divided by its root
    mean square already and $g$ is the norm's gain. After the rotation of the stream it meets
    $u M$. Write `my_reader(w, gain, m)`: the matrix, [out, in] as `w` is, that makes of $u M$ the
    same $y$. `gain` is [in], and `m` an orthogonal matrix [in, in].
    """

    hints = (
        "Which matrix V makes of u, without gain, what W makes of u times the gain?",
        "V is W with each column times its gain, W diag(g). Then x V^T = (x M)(V M)^T.",
        "return w @ torch.diag(gain) @ m",
    )
    why = """(u * g) W^T = u (W diag(g))^T, so V = W diag(g); and u V^T = (u M)(V M)^T, since M M^T
        = I. The gain comes first: it belongs to the channels as they are, and after the rotation
        there is no such channel left."""

    @right
    def my_reader(w, gain, m):
        return w @ torch.diag(gain) @ m

    within = 1e-4

    def spec(w, gain, m):
        n = len(gain)
        return [[sum(row[j] * gain[j] * m[j][k] for j in range(n)) for k in range(n)] for row in w]

    def cases(rng):
        yield tensor([[1.0, 2.0]]), tensor([2.0, 3.0]), tensor([[0.6, 0.8], [-0.8, 0.6]])
        yield (
            tensor([[1.0, 2.0], [0.0, 1.0]]),
            tensor([2.0, 3.0]),
            tensor([[0.0, 1.0], [-1.0, 0.0]]),
        )
        for _ in range(10):
            n, rows = rng.choice((2, 4, 8)), rng.randint(1, 5)
            signs = tensor([rng.choice((-1.0, 1.0)) for _ in range(n)])
            m = signs[:, None] * hadamard(n) / n**0.5
            w = tensor([[rng.randint(-8, 8) / 4 for _ in range(n)] for _ in range(rows)])
            yield w, tensor([rng.randint(1, 12) / 4 for _ in range(n)]), m

    def valid(w, gain, m):
        return torch.allclose(m @ m.T, torch.eye(len(m)), atol=1e-6)

    @wrong("The rotation is missing: this matrix makes y of u, and what it meets is u M.")
    def not_rotated(w, gain, m):
        return w * gain

    @wrong("M^T from the left is for a matrix that adds to the stream. This one reads it.")
    def as_it_writes(w, gain, m):
        return m.T @ (w * gain)

    @wrong("Your gain multiplies the rows of w, its outputs. The gain is one for each input.")
    def gain_of_rows(w, gain, m):
        return (w * gain[:, None]) @ m

    @wrong("The gain is missing: after the rotation no norm multiplies by it.")
    def no_gain(w, gain, m):
        return w @ m

    @wrong("Gain and rotation are in the wrong order: the gain belongs to the channels before it.")
    def gain_last(w, gain, m):
        return (w @ m) * gain

    @wrong("You divide by the gain. The norm multiplied by it, and now the matrix has to.")
    def divided(w, gain, m):
        return (w / gain) @ m

    @wrong("That is M transposed. With V M, the input's M meets M^T, and only so they cancel.")
    def transposed(w, gain, m):
        return (w * gain) @ m.T

    @wrong("The gain is not rotated with the weights: multiply each column of w by its gain first.")
    def gain_rotated(w, gain, m):
        return (w @ m) * (gain @ m)


@exercise("17.2", "One that stands out", "predict a number", difficulty=1, minutes=4)
class OneStandsOut:
    """
    A token has 64 inputs: one is 32, the others are 0. It is rotated by a Hadamard matrix of 64,
    with entries $\\pm 1/8$. How large is the largest input then? Half of the new inputs are
    positive: how far apart are 16 levels that reach from the lowest to the highest?
    """

    hints = (
        "Each new input is a sum of all old ones times 1/8 or -1/8. What is left of the sum?",
        "Every new input is 32/8 or -32/8. 16 levels have 15 steps between them.",
        "The range is 8 wide, from -4 to 4.",
    )
    why = """Each new input is 32/8 = 4 or -4: the length, 32, is shared by 64 inputs, 32/sqrt(64).
        From -4 to 4 there are 15 steps of 8/15 = 0.533. Before, the steps were 32/15 = 2.13."""
    stub = "my_largest, my_step = ..., ..."
    right = (4, 8 / 15)
    within = (0.01, 0.005)
    wrong = [
        ((32, ...), "A rotation keeps the length of the whole; it is shared by all inputs then."),
        ((256, ...), "You multiplied by 8. What is the entry of the matrix that 32 meets?"),
        ((8, ...), "So far apart are the lowest and the highest. The largest is one of the two."),
        ((-4, ...), "Half of the new inputs are positive: the largest is one of those."),
        ((0.5, ...), "32/64 would be a mean. The entries are 1/8, so that the length stays 32."),
        ((..., 0.5), "16 levels have 15 steps between them, not 16."),
        ((..., 4 / 15), "That is from 0 to the largest. The range begins at the lowest, below 0."),
        ((..., 0.25), "The range begins below 0, and 16 levels have one step less than levels."),
        ((..., 2), "That range is the one before the rotation, and 16 levels have 15 steps."),
        ((..., 32 / 15), "That is the step before the rotation, when the range was 0 to 32."),
    ]


@exercise("17.3", "Where it is free", "choice", difficulty=2, minutes=5)
class WhereFree:
    """
    Of these five places, where in a model can a rotation *not* be folded into the weights, so that
    it has to be computed as the model runs?

    - **A** between the embedding and the first norm
    - **B** between `up`, times `silu(gate)`, and `down`
    - **C** between an RMSNorm, its gain folded, and `qkv`
    - **D** between the values $v$ of an attention head, mixed by the attention, and `out`
    - **E** between the last norm, its gain folded, and the head that gives the logits
    """

    hints = (
        "A rotation is folded into the matrix before it and the matrix behind it. What may stand "
        "between the two?",
        "An attention head adds up values, each times a number: what does that do to v H?",
        "What stands between the matrix `up` and the place where `down` takes its input?",
    )
    why = """B: the product with silu(gate) works on each channel by itself, so it does not commute
        with a rotation, and behind it only `down` is left. In A, C and E the stream is
        rotated, and a norm without a gain lets the rotation through; in D the attention adds
        values of tokens with one weight for all channels, so it lets H through."""
    stub = "my_place = ..."
    right = "B"
    wrong = [
        ("A", "The embedding is a matrix: E Q writes the rotated stream."),
        ("C", "An RMSNorm without a gain divides by a length, which a rotation keeps."),
        ("D", "The attention adds v of several tokens, each times one number: H passes through."),
        ("E", "The head is a matrix behind a norm without a gain: it takes Q in."),
        ("AB", "One place is asked for. E Q, the rotated embedding, writes the rotated stream."),
        ("BC", "One place is asked for. A norm without a gain lets the rotation through."),
        ("BD", "One place is asked for. The attention mixes whole v, and H passes through."),
        ("BE", "One place is asked for. Behind a norm without a gain, the head takes Q in."),
    ]
