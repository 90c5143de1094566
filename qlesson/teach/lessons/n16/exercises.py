"""The exercises of notebook 16, a real language model."""

import math

import torch

from qlesson.teach.exercises import exercise, right, wrong


@exercise("16.1", "What the embedding costs", "predict a number", difficulty=1, minutes=4)
class CostOfEmbedding:
    """
    A file holds 100 million weights in Q4_1, at 5 bits each, and an embedding of 40 million in
    Q8_0, at 8.5 bits each. How many bits does a weight cost on average? And how many MB, millions
    of bytes, would the file save if its embedding were in Q4_1, too?
    """

    hints = (
        "First the bits of each part, in millions: weights times bits.",
        "100 * 5 + 40 * 8.5 million bits, for 140 million weights.",
        "In Q4_1 each of 40 million costs 3.5 bits less. Eight bits are a byte.",
    )
    why = """(100 * 5 + 40 * 8.5) / 140 = 840 / 140 = 6 bits. 40 million times 3.5 bits less are 140
        million bits, 17.5 MB, a sixth of the file. In a small model the embedding is much of
        the file, so its type counts."""
    stub = "my_bits, my_mb = ..., ..."
    right = (6, 17.5)
    within = [0.001, 0.02]
    wrong = [
        (
            (6.75, ...),
            "That is the mean of two prices. But 100 weights cost 5 bits, and 40 cost 8.5.",
        ),
        ((5, ...), "That is the price in Q4_1 alone. The embedding costs more, and counts."),
        ((8.5, ...), "That is the price of the embedding alone. Most weights are in Q4_1."),
        ((840, ...), "Those are all bits, in millions. Divide them by the number of weights."),
        ((105, ...), "That is the size of the file in MB. How many bits is it for each weight?"),
        ((0.75, ...), "Those are bytes. A byte has eight bits."),
        ((..., 140), "Those are millions of bits. A byte has eight."),
        ((..., 20), "Those are the codes alone: beside them Q4_1 pays a bit, Q8_0 half a bit."),
        ((..., 42.5), "That is all of the embedding. In Q4_1 it still takes 25 MB."),
        ((..., 25), "That is what the embedding takes in Q4_1. How much less is that than now?"),
        ((..., 16.69), "That is in units of 2 ** 20 bytes. Here a MB is a million bytes."),
        ((..., 17.5e6), "Those are bytes. A MB is a million of them."),
        ((..., 105), "That is the size of the file as it is. How much would it lose?"),
        ((..., 87.5), "That is the size of the file then. How much less is that than now?"),
        ((..., -17.5), "What is saved is asked for: how much smaller the file becomes."),
    ]


@exercise("16.2", "What the table allows to say", "choice", difficulty=2, minutes=4)
class WhatToSay:
    """
    A file holds 4-bit codes. Its weights are quantized again with 8 bits, and the loss rises by
    0.0007 ± 0.0009 nats per token. Which of these sentences does the measurement support?

    - **A** "8 bits lose nothing: quantize your own model with 8 bits."
    - **B** "On this text, 8 bits on top of the file's 4 cannot be told apart from the file."
    - **C** "8 bits are better than 4 bits."
    - **D** "The model in 8 bits is as good as the original in 16 bits."
    - **E** "8 bits are worse: the loss rose by 0.0007."
    """

    hints = (
        "With what was the model in 8 bits compared: with the original, or with the file?",
        "0.0007 is less than one standard error. What may be said of such a difference?",
    )
    why = """The reference is the file: what its first rounding, to 4 bits, has cost is part of both
        losses, and their difference does not show it. Of the original nothing was measured."""
    stub = "my_sentence = ..."
    right = "B"
    wrong = [
        ("A", "One model and one text were measured, not yours; and unseen is not nothing."),
        ("C", "The weights of the 8-bit model are those of the 4-bit file, rounded once more."),
        ("D", "The original in 16 bits was not measured: the file was."),
        ("E", "0.0007 is less than its standard error: on another text it may well fall."),
        ("AB", "One sentence only. A goes on to another model, yours."),
        ("BC", "One sentence only. C compares 8 bits with 4, and both models hold those 4."),
        ("BD", "One sentence only. For D the original would have to be measured, too."),
        ("BE", "One sentence only. E calls worse what is less than its standard error."),
    ]


@exercise("16.3", "How likely a choice is", "write code", difficulty=2, minutes=8)
class HowLikely:
    """
    Write `my_score(logits, ids, start)`: the score of a choice, the mean of $\\log p$ over its
    tokens. `ids` are the tokens of a prompt and, from `ids[start]` on, those of the choice. The
    model has read them all: row $t$ of `logits` [time, vocabulary] is what it said of the token
    after `ids[t]`.
    """

    hints = (
        "Which row of the logits is about ids[start]? And who asked for the last row?",
        "logits.log_softmax(-1) makes each row the log p of all tokens.",
        "logits[start - 1 : -1].log_softmax(-1) has one row for each token of the choice.",
    )
    why = """A row is about the token that follows, so those of the choice begin one before it, and
        the last one is about a token that nobody wrote. The mean keeps a long choice from losing
        by its length alone."""
    within = 1e-6  # near 0 a log p keeps few digits in float32

    @right
    def my_score(logits, ids, start):
        log_p = logits[start - 1 : -1].log_softmax(-1)
        choice = ids[start:]
        return log_p[range(len(choice)), choice].mean()

    def spec(logits, ids, start):
        found = []
        for t in range(start, len(ids)):
            row = logits[t - 1]
            found.append(row[ids[t]] - math.log(sum(math.exp(x) for x in row)))
        return sum(found) / len(found)

    def cases(rng):
        yield torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]), torch.tensor([0, 2]), 1
        for _ in range(20):
            time, vocabulary = rng.randint(3, 7), rng.randint(3, 6)
            logits = [[rng.uniform(-4, 4) for _ in range(vocabulary)] for _ in range(time)]
            ids = torch.tensor([rng.randrange(vocabulary) for _ in range(time)])
            yield torch.tensor(logits), ids, rng.randint(1, time - 1)

    def valid(logits, ids, start):
        return len(logits) == len(ids) and int(ids.max()) < logits.shape[1]

    @wrong("Row t is about the token after ids[t]; yours looks up ids[t] itself.")
    def one_late(logits, ids, start):
        log_p = logits[start:].log_softmax(-1)
        return log_p[range(len(ids) - start), ids[start:]].mean()

    @wrong("That is the sum: the more tokens a choice has, the lower it would be.")
    def summed(logits, ids, start):
        log_p = logits[start - 1 : -1].log_softmax(-1)
        return log_p[range(len(ids) - start), ids[start:]].sum()

    @wrong("That is a loss, the mean of -log p. The score is higher, the likelier a choice is.")
    def loss(logits, ids, start):
        return torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[start:])

    @wrong("You look up every token of the choice in every row. Each row is about one of them.")
    def every_pair(logits, ids, start):
        return logits[start - 1 : -1].log_softmax(-1)[:, ids[start:]].mean()

    @wrong("You divide by the number of all tokens, with the prompt's. Only the choice counts.")
    def over_all(logits, ids, start):
        log_p = logits[start - 1 : -1].log_softmax(-1)
        return log_p[range(len(ids) - start), ids[start:]].sum() / len(ids)

    @wrong("The first token of the choice is missing. Which row is about ids[start]?")
    def first_missing(logits, ids, start):
        log_p = logits[start:-1].log_softmax(-1)
        return log_p[range(len(ids) - start - 1), ids[start + 1 :]].mean()

    @wrong("That is a probability, e to the power of the score. The score is the mean of log p.")
    def as_probability(logits, ids, start):
        log_p = logits[start - 1 : -1].log_softmax(-1)
        return log_p[range(len(ids) - start), ids[start:]].mean().exp()

    @wrong("The prompt's tokens are in your mean. All choices share them: only the choice counts.")
    def all_tokens(logits, ids, start):
        log_p = logits[:-1].log_softmax(-1)
        return log_p[range(len(ids) - 1), ids[1:]].mean()

    @wrong("That is a mean of p. The score is a mean of log p.")
    def mean_of_p(logits, ids, start):
        p = logits[start - 1 : -1].softmax(-1)
        return p[range(len(ids) - start), ids[start:]].mean()

    @wrong("Take the logarithm of each p, and then the mean.")
    def log_of_mean(logits, ids, start):
        p = logits[start - 1 : -1].softmax(-1)
        return p[range(len(ids) - start), ids[start:]].mean().log()

    @wrong("Logits are no logarithms of probabilities until log_softmax makes them so.")
    def raw(logits, ids, start):
        return logits[range(start - 1, len(ids) - 1), ids[start:]].mean()

    @wrong("Softmax goes over the vocabulary, the last axis, not over time.")
    def over_time(logits, ids, start):
        log_p = logits[start - 1 : -1].log_softmax(0)
        return log_p[range(len(ids) - start), ids[start:]].mean()

    @wrong("That is the first token of the choice alone.")
    def first_alone(logits, ids, start):
        return logits[start - 1].log_softmax(-1)[ids[start]]
