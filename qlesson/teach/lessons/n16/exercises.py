"""The exercises of notebook 16, a real language model."""

import math

import torch

from qlesson.teach.exercises import exercise, right, wrong


@exercise("16.1", "What a value costs in the file", "predict a number", difficulty=1, minutes=4)
class CostInFile:
    """
    A block of Q4_1 holds 32 codes of 4 bits, a scale and a minimum, both in float16. A block of
    Q8_0 holds 32 codes of 8 bits and a scale in float16. How many bits does a value cost in each?
    """

    hints = (
        "How many bits has a block in all, and how many values?",
        "Q4_1: 32 * 4 bits of codes and 2 * 16 bits beside them, for 32 values.",
        "Q8_0: 32 * 8 bits of codes and 16 bits beside them, for 32 values.",
    )
    why = """(32 * 4 + 16 + 16) / 32 = 5 bits, and (32 * 8 + 16) / 32 = 8.5. The name of a type
        counts the bits of a code; a file pays for scales and minima too."""
    stub = "my_q4_1, my_q8_0 = ..., ..."
    right = (5, 8.5)
    wrong = [
        ((4, ...), "Those are the codes alone. Scale and minimum are in the block, too."),
        ((4.5, ...), "Scale and minimum are two numbers of 16 bits: 32 bits for 32 values."),
        ((6, ...), "In float16 scale and minimum have 16 bits each, not 32."),
        ((..., 8), "Those are the codes alone. A block has a scale, too."),
        ((..., 9), "One number of 16 bits stands beside the 32 codes: half a bit for each."),
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
    why = """The reference is the file, and it is already rounded to 4 bits: a finer grid beside a
        coarse one has little left to lose. Of the original in 16 bits nothing was measured."""
    stub = "my_sentence = ..."
    right = "B"
    wrong = [
        ("A", "The values of this file lie on a 4-bit grid already; yours in 16 bits do not."),
        ("C", "The weights of the 8-bit model are those of the 4-bit file, rounded once more."),
        ("D", "The original in 16 bits was not measured: the file was."),
        ("E", "0.0007 is less than its standard error: on another text it may well fall."),
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

    @wrong("Row t is about the token after ids[t]; yours looks up ids[t] itself.")
    def one_late(logits, ids, start):
        log_p = logits[start:].log_softmax(-1)
        return log_p[range(len(ids) - start), ids[start:]].mean()

    @wrong("That is the sum: the more tokens a choice has, the lower it would be.")
    def summed(logits, ids, start):
        log_p = logits[start - 1 : -1].log_softmax(-1)
        return log_p[range(len(ids) - start), ids[start:]].sum()

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
