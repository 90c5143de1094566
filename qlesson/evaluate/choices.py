"""Questions with several choices: how many a model answers, and how sure that is."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.evaluate.running import ids, in_eval_mode, losses, predictions
from qlesson.report import naming

NORMAL_95 = 1.959963984540054  # 95 % of a normal distribution lies within so many deviations
Ids = Tensor | Sequence[int]


class Accuracy(NamedTuple):
    """How many questions a model answers, and which.

    accuracy   share of the questions
    low, high  its 95 % interval (`wilson_interval`)
    right      float64 [questions]: 1 for a right answer, else 0. Two models are compared question
               by question: `mean_and_error(other.right - own.right)`, of `paired`.
    """

    accuracy: float
    low: float
    high: float
    right: Tensor


@torch.no_grad()
def choice_accuracy(
    model: nn.Module, questions: Iterable[tuple[Ids, Sequence[Ids], int]]
) -> Accuracy:
    """The share of questions for which the model finds the right choice the likeliest.

    questions  (prompt, choices, right) each: the ids of a text, those of two or more ways to go on,
               and the index of the right one. Ids are a tensor [time] or a list.

    The score of a choice is the mean of log p over its tokens, each after the prompt and the tokens
    before it, so that longer choices are not the less likely for it (Brown et al. 2020, section
    2.4). Of equal scores the first wins. In lm-evaluation-harness, acc takes the sum, and acc_norm
    the sum divided by the characters of the choice.
    """
    checks.running_model("model", model)
    right = []
    with in_eval_mode(model):
        for i, question in enumerate(questions):
            where = f"questions[{i}]"
            with naming(where):
                prompt, choices, answer = _question(question)
            scores = [_score(model, prompt, choice, where) for choice in choices]
            right.append(float(scores.index(max(scores)) == answer))
    if not right:
        raise ValueError("questions are empty: ask at least one.")
    low, high = wilson_interval(int(sum(right)), len(right))
    each = torch.tensor(right, dtype=torch.float64, device="cpu")
    return Accuracy(sum(right) / len(right), low, high, each)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, from `right` of `total` (Wilson 1927).

    It holds the shares p from which right / total is at most 1.96 of their own standard errors
    sqrt(p (1 - p) / total) away. So it stays within 0 and 1, and has a width even where all are
    right.
    """
    total = checks.whole("total", total, low=1)
    right = checks.whole("right", right, 0, total)
    return _lower_end(right, total), 1 - _lower_end(total - right, total)


def _lower_end(right: int, total: int) -> float:
    """The smaller root of (share - p)^2 = z^2 p (1 - p) / total, without a difference in it."""
    share, z = right / total, NORMAL_95
    middle = share + z**2 / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return share**2 / (middle + reach)


def _score(model: nn.Module, prompt: Tensor, choice: Tensor, where: str) -> float:
    """The mean of log p over the tokens of a choice."""
    logits = predictions("model", model, torch.cat([prompt, choice]), where)
    return -losses(logits[-len(choice) :], choice).mean().item()


def _question(given: Any) -> tuple[Tensor, list[Tensor], int]:
    """A question, with its ids as tensors."""
    if not isinstance(given, Sequence) or len(given) != 3:
        raise TypeError(f"it must be (prompt, choices, right), got {checks.shown(given)}.")
    prompt, choices, right = given
    if not isinstance(choices, Sequence) or len(choices) < 2:
        raise ValueError(f"choices must be a list of two or more, got {checks.shown(choices)}.")
    right = checks.whole("right", right, 0, len(choices) - 1)
    return _row("prompt", prompt), [_row(f"choices[{i}]", x) for i, x in enumerate(choices)], right


def _row(name: str, x: Any) -> Tensor:
    """Ids [time], from a tensor or a list, on the CPU: the parts of a question may lie apart."""
    if not isinstance(x, Tensor) and hasattr(x, "__iter__"):
        listed = [checks.whole(name, i, low=0) for i in x]
        x = torch.tensor(listed, dtype=torch.int64, device="cpu")
    x = ids(name, x).cpu()
    if x.ndim != 1:
        raise ValueError(f"{name} must be ids [time], got the shape {tuple(x.shape)}: flatten it.")
    return x
