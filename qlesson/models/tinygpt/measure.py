"""How well the course's language model expects a text: its perplexity."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlesson import checks
from qlesson.evaluate import running
from qlesson.models.cache import BLOCK, NewCache, empty_of
from qlesson.models.tinygpt.model import GPT, in_float64
from qlesson.models.tinygpt.text import MEASURED, VOCABULARY, encode, heldout_text

WINDOWS_AT_ONCE = 16  # bounds the memory that perplexity takes; changes no result in float


@torch.no_grad()
def perplexity(
    model: GPT, text: str | None = None, n: int = MEASURED, new_cache: NewCache | None = None
) -> float:
    """exp(mean of -log p(character | those before it)), p from 1/94 (a blind guess) to 1.

    Perplexity 3 means: as unsure as one who guesses among 3 characters. Measured on the first n
    characters of text (None: the held-out text) in windows of 256, a rest left out; within its
    window a character is predicted from the 1 to 256 before it.

    With new_cache, a window is read in pieces of 32 characters through the cache new_cache()
    makes: what it quantizes is what later pieces see, as when the model writes.

    A float64 copy of the model computes it, as `in_float64` says; beyond float64 it is infinite.
    """
    model = in_float64(model)
    inputs, targets = windows(model, heldout_text() if text is None else text, n)
    pairs = zip(inputs.split(WINDOWS_AT_ONCE), targets.split(WINDOWS_AT_ONCE), strict=True)
    reader = Cached(model, new_cache) if new_cache is not None else model
    total = sum(_loss(reader, x, y) for x, y in pairs)
    return running.perplexity(total / targets.numel())


def windows(model: GPT, text: str, n: int) -> tuple[Tensor, Tensor]:
    """The first n characters of text, and those that follow each: two of [n / 256, 256]."""
    checks.of_type("model", model, GPT, "use tinygpt.load()")
    context, device = model.config.context, model.token_embedding.weight.device
    ids = encode(text).to(device)
    checks.whole("n", n, low=context)
    n = min(n, len(ids) - 1) // context * context
    if n < context:
        raise ValueError(f"text must have at least {context + 1} characters, got {len(text)}.")
    return ids[:n].view(-1, context), ids[1 : n + 1].view(-1, context)


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Sum of -log p(target) over windows [batch, time], in nats."""
    logits = model(inputs).flatten(0, 1)
    return F.cross_entropy(logits, targets.flatten(), reduction="sum").item()


class Cached(nn.Module):
    """The model as it predicts when it reads through a cache (notebook 10).

    ids [batch, time] are read in pieces of 32 through the cache that new_cache() makes, a new one
    for each call: what it quantizes is what later pieces see, as when the model writes.

    Gives logits [batch, time, 94]: `evaluate.compare` takes it as a model.
    """

    def __init__(self, model: GPT, new_cache: NewCache) -> None:
        super().__init__()
        checks.of_type("model", model, GPT, "use tinygpt.load()")
        checks.function("new_cache", new_cache, "no argument, such as KVCache")
        self.model, self.new_cache = model, new_cache

    def forward(self, ids: Tensor) -> Tensor:
        checks.ids("ids", ids, len(VOCABULARY))
        checks.matrix("ids", ids, "[batch, time]")
        cache = empty_of(self.new_cache)
        return torch.cat([self.model(piece, cache) for piece in ids.split(BLOCK, dim=1)], dim=1)
