"""Two models on the same windows: the difference of their losses, and how sure it is."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.evaluate.running import (
    ids,
    in_eval_mode,
    in_pieces,
    kl,
    log_softmax,
    losses,
    nll,
    perplexity,
    predictions,
)
from qlesson.report import columns

TOLD_APART = 2  # standard errors
ROUNDING = 1e-6  # nats per token; what float32 rounds changes a model's loss by less


class Comparison(NamedTuple):
    """What `compare` finds, the means over all predicted tokens.

    loss, other_loss  -log p(token | those before it in its window), in nats per token
    difference        other_loss - loss: above 0, `other` predicts worse
    standard_error    of the difference, over windows (`mean_and_error`)
    z                 difference / standard_error; 0 where both are 0, infinite where only the
                      standard error is
    kl                KL(p, p_other) = sum p log(p / p_other), in nats per token
    agreement         share of the tokens at which both models expect the same one most
    """

    loss: float
    other_loss: float
    difference: float
    standard_error: float
    z: float
    kl: float
    agreement: float

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite beyond float64."""
        return perplexity(self.loss)

    @property
    def other_perplexity(self) -> float:
        """exp(other_loss), infinite beyond float64."""
        return perplexity(self.other_loss)

    @property
    def verdict(self) -> str:
        """What `other` is beside `model`, where the difference is at least two standard errors,
        and at least 1e-6 nats: below lies what float32 rounds, on each machine otherwise."""
        if abs(self.z) < TOLD_APART or abs(self.difference) < ROUNDING:
            return "cannot be told apart"
        return "worse" if self.difference > 0 else "better"


@overload
def compare(model: nn.Module, other: nn.Module, batches: Iterable[Tensor]) -> Comparison: ...
@overload
def compare(
    model: nn.Module, other: Mapping[str, nn.Module], batches: Iterable[Tensor]
) -> dict[str, Comparison]: ...
@torch.no_grad()
def compare(
    model: nn.Module, other: nn.Module | Mapping[str, nn.Module], batches: Iterable[Tensor]
) -> Comparison | dict[str, Comparison]:
    """How much worse than `model` another predicts a text, and how sure that is (notebook 10).

    other    a model, or {name: model}: then {name: Comparison}, for which `model` runs once
    batches  ids [windows, time] each, with time >= 2: the windows of a batch have one length,
             batches may differ. Of a window of n ids the models read the first n - 1, and predict
             the last n - 1. `ids.unfold(0, n, n - 1)` cuts a text into such windows.

    The models run in eval mode, one window at a time; afterwards they are as they were. In memory
    are the logits of one window, from `model` and from one other.

    The standard error takes windows as drawn one by one. Neighbours in a text resemble each other,
    so the true one is larger; over a handful of windows it is itself uncertain; and of 20
    differences that are nothing, about one exceeds two standard errors by luck.

    Raises ValueError for fewer than two windows, and for logits that are not finite.
    """
    checks.running_model("model", model)
    others = _others(other)
    rows: dict[str, list[list[float]]] = {name: [] for name in others}
    with in_eval_mode(model, *others.values()):
        for where, window in _windows(batches):
            logits = predictions("model", model, window, where)
            for name, m in others.items():
                theirs = predictions(name, m, window, where)
                rows[name].append(_means(logits, name, theirs, window[1:]))
                del theirs  # before the next model runs
    found = [_comparison(its) for its in rows.values()]
    return dict(zip(other, found, strict=True)) if isinstance(other, Mapping) else found[0]


@torch.no_grad()
def window_losses(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """The mean loss of each window in nats per token, float64 [windows] (notebook 10).

    `compare` subtracts those of two models.

    Where windows have one length, `mean_and_error` of it is the model's loss with its own standard
    error, and `mean_and_error` of the difference between two models the paired one.
    """
    checks.running_model("model", model)
    with in_eval_mode(model):
        means = [
            losses(predictions("model", model, window, where), window[1:]).mean().item()
            for where, window in _windows(batches)
        ]
    return torch.tensor(means, dtype=torch.float64, device="cpu")


def mean_and_error(values: Tensor, tokens: Tensor | None = None) -> tuple[float, float]:
    """The mean of `values` [windows], each weighted by its `tokens`, and its standard error.

    mean             = sum(tokens * values) / sum(tokens)
    standard_error^2 = W / (W - 1) * sum((tokens * (values - mean))^2) / sum(tokens)^2

    for W windows (notebook 10). With tokens=None all count the same, and the standard error is the
    standard deviation divided by sqrt(W). With tokens the mean is a ratio of two sums that both
    depend on the windows drawn, and this is the variance of its linear part (Cochran 1977, Sampling
    Techniques, chapter 6).
    """
    checks.known("values", values)
    checks.known("tokens", tokens)
    values = _row("values", values)
    tokens = torch.ones_like(values) if tokens is None else _row("tokens", tokens)
    if len(values) < 2:
        raise ValueError(f"values hold {len(values)} window: a standard error needs at least 2.")
    checks.same_shape("values", values, "tokens", tokens, "each window has one of each")
    checks.same_device("values", values, "tokens", tokens)
    if not (tokens > 0).all():
        raise ValueError("tokens must be positive: leave out the windows that have none.")
    mean = (tokens * values).sum() / tokens.sum()
    squares = (tokens * (values - mean)).square().sum() * len(values) / (len(values) - 1)
    return mean.item(), (squares.sqrt() / tokens.sum()).item()


def table(comparisons: Mapping[str, Comparison]) -> str:
    """A line for the model, and one for each that `compare` has compared with it (notebook 10)."""
    checks.dictionary("comparisons", comparisons, "{name: Comparison}, as compare gives it")
    for name, c in comparisons.items():
        checks.of_type(f"comparisons[{name!r}]", c, Comparison, "compare gives them")
    models = {c.loss for c in comparisons.values()}
    if len(models) != 1:
        raise ValueError(
            f"comparisons are with {len(models)} models or texts, by their losses, and a table has "
            "one: let one call of compare make them."
        )
    lines = [["", "loss", "difference", "z", "KL", "same top 1"]]
    lines.append(["the model", f"{models.pop():.4f}"])
    for name, c in comparisons.items():
        difference = f"{c.difference:+.5f} ± {c.standard_error:.5f}"
        cells = f"{c.other_loss:.4f}", difference, f"{c.z:.1f}", f"{c.kl:.5f}"
        lines.append([name, *cells, f"{100 * c.agreement:.1f} %", c.verdict])
    return "\n".join(columns(lines, 7, 18, 6, 8, 10, 0))


def _means(logits: Tensor, name: str, theirs: Tensor, targets: Tensor) -> list[float]:
    """Tokens of a window, and its mean loss, other loss, KL and agreement."""
    if theirs.shape != logits.shape:
        raise ValueError(
            f"model gives {logits.shape[1]} logits for a token and {name} {theirs.shape[1]}: both "
            "need one vocabulary."
        )
    scores = in_pieces(_scores, logits, theirs, targets)
    # One by one: so the model's own loss is the same to its last bit, whatever stands beside it.
    return [len(targets), *(x.mean().item() for x in scores)]


def _scores(logits: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
    """loss, other loss, KL and agreement of each position, [4, time]."""
    log_p, log_q = log_softmax(logits), log_softmax(theirs)
    same = logits.argmax(-1) == theirs.argmax(-1)
    return torch.stack([nll(log_p, targets), nll(log_q, targets), kl(log_p, log_q), same.double()])


def _comparison(rows: list[list[float]]) -> Comparison:
    """Of a row for each window, as `_means` makes them."""
    if len(rows) < 2:
        raise ValueError(f"batches hold {len(rows)} windows: a standard error needs at least 2.")
    tokens, *means = torch.tensor(rows, dtype=torch.float64, device="cpu").T
    loss, other_loss, divergence, agreement = (mean_and_error(x, tokens)[0] for x in means)
    difference, error = mean_and_error(means[1] - means[0], tokens)
    z = _z(difference, error)
    return Comparison(loss, other_loss, difference, error, z, divergence, agreement)


def _z(difference: float, error: float) -> float:
    if error:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def _others(other: Any) -> dict[str, nn.Module]:
    """{what a sentence calls it: model}."""
    named = {"other": other}
    if isinstance(other, Mapping):
        named = {f"other[{name!r}]": model for name, model in other.items()}
        if not named:
            raise ValueError("other is empty: name at least one model.")
        if not all(isinstance(name, str) for name in other):
            raise TypeError(f"other has the names {list(other)}: names must be text.")
    for name, model in named.items():
        checks.running_model(name, model)
    return named


def _windows(batches: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(the name of its batch, ids [time]) of each window."""
    if isinstance(batches, Tensor) or not hasattr(batches, "__iter__"):
        got = checks.shown(batches)
        raise TypeError(f"batches must be a list of ids [windows, time], got {got}: pass [ids].")
    for i, batch in enumerate(batches):
        name = f"batches[{i}]"
        batch = ids(name, batch)
        checks.matrix(name, batch, "[windows, time]")
        if batch.shape[1] < 2:
            raise ValueError(f"{name} has windows of one id: a prediction needs at least 2.")
        yield from ((name, window) for window in batch)


def _row(name: str, x: Any) -> Tensor:
    """Finite numbers [windows], in float64."""
    x = checks.numbers(name, x)
    checks.finite(name, x)
    if x.ndim != 1:
        raise ValueError(f"{name} must be [windows], got the shape {tuple(x.shape)}: flatten it.")
    return x.double()
