"""A language model on one window of ids, and what its logits say of each id."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.nn.record import copied_buffers

AT_ONCE = 2**20  # logits in float64 at one time; bounds the memory, changes no result


@contextmanager
def in_eval_mode(*models: nn.Module) -> Iterator[None]:
    """All modules in eval mode, and each back in its own at the end."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module in sorted(modes, key=_size, reverse=True):  # before those in it, which it sets
            module.train(modes[module])  # LoRA also takes its matrices out of the weight


def _size(module: nn.Module) -> int:
    return sum(1 for _ in module.modules())


def ids(name: str, x: Any) -> Tensor:
    """Ids in int64, read as they are; which of them there are, only a model's logits say."""
    checks.codes(name, x, *checks.IDS, remedy="a tokenizer gives them")
    checks.known(name, x)
    checks.not_empty(name, x)
    return checks.plain(x).long()


def predictions(name: str, model: nn.Module, window: Tensor, where: str) -> Tensor:
    """Logits [time - 1, vocabulary] of what follows each id of a window [time] but the last.

    The model reads the ids on the device it is on, and has copies of them and of its buffers: what
    a run changes in them is forgotten. name and where are for sentences.
    """
    known = window[None, :-1]
    device = next(chain(model.parameters(), model.buffers()), known).device
    given = known.to(device, copy=True)
    try:
        logits = torch.func.functional_call(model, copied_buffers(model), (given,))
    except IndexError as error:
        raise IndexError(
            f"{name} cannot read {where}, with ids from {window.min()} to {window.max()} at "
            f"{known.shape[1]} places ({str(error).rstrip('.')}): use the ids of its own "
            "tokenizer, and windows no longer than it reads."
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != known.shape:
        raise TypeError(
            f"{name} must give logits [1, time, vocabulary], got {checks.shown(logits)} for ids of "
            f"shape {tuple(known.shape)}: wrap it in a module that does."
        )
    checks.ids(where, window, logits.shape[-1])
    if not checks.all_finite(*torch.aminmax(logits)):
        raise ValueError(f"{name} gives NaN or infinite logits for {where}: look at its weights.")
    return logits[0]


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of each position in nats, [time]."""
    return in_pieces(lambda x, y: nll(log_softmax(x), y), logits, targets)


def in_pieces(f: Callable[..., Tensor], logits: Tensor, *more: Tensor) -> Tensor:
    """f of some positions after the other: a window of logits is never in float64 as a whole."""
    rows = max(1, AT_ONCE // logits.shape[-1])
    pieces = zip(*(x.to(logits.device).split(rows) for x in (logits, *more)), strict=True)
    return torch.cat([f(*piece) for piece in pieces], -1)


def log_softmax(logits: Tensor) -> Tensor:
    """log p in float64."""
    return logits.double().log_softmax(-1)


def nll(log_p: Tensor, targets: Tensor) -> Tensor:
    """-log p(target)."""
    return -log_p.gather(-1, targets[:, None])[:, 0]


def perplexity(loss: float) -> float:
    """exp(loss), infinite beyond float64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum p log(p / q) as sum (p log(p / q) - p + q), which is the same: p and q each sum to 1.

    Here no term is below 0, so that nearly equal p and q leave their divergence and not the
    rounding errors of log p, of either sign. With d = log(q / p) a term is p (exp(d) - 1 - d).
    """
    d, p = log_q - log_p, log_p.exp()
    return torch.where(d < 1, p * (torch.expm1(d) - d), log_q.exp() - p - p * d).sum(-1)
