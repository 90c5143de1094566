"""The course's own language model: a GPT of 0.84 million weights that reads and writes characters.

Notebooks 00, 06, and 10 to 12. Text goes in as one integer per character. In each block a character
collects from those before it (`Attention`), then is transformed by itself (`MLP`). Out comes one
number per character of the vocabulary, its logit: softmax(logits) is the probability that it comes
next. The architecture is GPT-2's (Radford et al. 2019); data, training and limits are in card.md.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from qlesson import checks
from qlesson.device import best_device
from qlesson.models.cache import KVCache, NewCache, empty_of, read_before
from qlesson.models.draw import drawn
from qlesson.models.tinygpt.text import FOLDER, VOCABULARY, decode, encode
from qlesson.nn.layers import QuantizedEmbedding, QuantizedLinear
from qlesson.nn.swap import COMPUTE, Model


@dataclass(frozen=True)
class Config:
    """The sizes: context = characters the model can look back on, width = numbers per character."""

    context: int = 256
    layers: int = 4
    width: int = 128
    heads: int = 4
    dropout: float = 0.1


class Attention(nn.Module):
    """softmax(q k^T / sqrt(width / heads)) v per head; a character sees itself and those before."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [batch, heads, time, width / heads]
        if cache is not None:
            k, v = cache.extend(self, k, v)
        past = k.shape[2] - time
        seen = q.new_ones(time, past + time, dtype=torch.bool).tril(past) if past else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=past == 0)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    """down(gelu(up(x))), from width to 4 * width and back."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """x + attention(norm_1(x)), then x + mlp(norm_2(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(config.width), Attention(config)
        self.norm_2, self.mlp = nn.LayerNorm(config.width), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), cache))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """Characters in, logits of the next one out. The token embedding is also the last layer."""

    def __init__(self, config: Config = Config()) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(len(VOCABULARY), config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self._initialize()

    def _initialize(self) -> None:
        """Matrices from N(0, 0.02^2), smaller where a block adds its result to x; biases 0."""
        for name, weights in self.named_parameters():
            adds = name.endswith(("attention.out.weight", "mlp.down.weight"))
            if weights.dim() == 2:
                nn.init.normal_(weights, std=0.02 / math.sqrt(2 * len(self.blocks) if adds else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(weights)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """ids, integers [batch, time] -> logits [batch, time, 94].

        cache, a `KVCache`, keeps the keys and values of the characters read so far; ids are then
        the characters that follow them.
        """
        checks.ids("ids", ids, len(VOCABULARY))
        checks.matrix("ids", ids, "[batch, time]")
        checks.same_device("ids", ids, "the model", self.norm.weight)
        past = read_before(cache, (block.attention for block in self.blocks))
        if not 0 < ids.shape[1] <= self.config.context - past:
            raise ValueError(
                f"ids have shape {tuple(ids.shape)}, behind {past} characters in the cache: the "
                f"model reads 1 to {self.config.context} in all."
            )
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        x = self.dropout(self.token_embedding(ids) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x, cache)
        if isinstance(self.token_embedding, QuantizedEmbedding):
            return self.token_embedding.project(self.norm(x))
        return F.linear(self.norm(x), self.token_embedding.weight)

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        n: int,
        seed: int = 0,
        temperature: float = 0.8,
        new_cache: NewCache | None = KVCache,
    ) -> str:
        """The n characters that the model writes after the prompt.

        The next character is argmax(logits / temperature + noise), noise = -log(-log(u)) with
        u uniform: a draw from softmax(logits / temperature), known as Gumbel's trick. The noise
        depends on the seed alone, so two models part only where their logits differ enough.
        temperature=0 takes the most likely character. A full context goes on with its later half.
        new_cache() makes the empty cache; None reads the whole window again for each character.
        """
        checks.text("prompt", prompt)
        _check_request(n, seed, temperature)
        noise = _gumbel_noise(n, seed) if temperature else [None] * n
        window, cache = encode(prompt)[-self.config.context :], empty_of(new_cache)
        written: list[int] = []
        model = in_float64(self)
        for i in range(n):
            logits = model._next_logits(window, cache)
            written.append(drawn(logits, temperature, noise[i]))
            window = torch.cat([window, window.new_tensor(written[-1:])])
            if len(window) > self.config.context:
                window, cache = window[-(self.config.context // 2) :], empty_of(new_cache)
        return decode(written)

    def _next_logits(self, window: Tensor, cache: KVCache | None) -> Tensor:
        """Logits [94] of the character after window [time], on the CPU; fills the cache."""
        new = window[-1:] if cache is not None and cache.length else window
        device = self.norm.weight.device
        return self(new[None].to(device), cache)[0, -1].cpu()


def load(
    device: torch.device | str | None = None, path: str | Path = FOLDER / "weights.safetensors"
) -> GPT:
    """The trained model in path, ready to use, on `device` (None: `ql.best_device()`)."""
    path = checks.file("path", path)
    device = best_device() if device is None else checks.device("device", device)
    model = GPT().float()
    try:
        with safe_open(path, framework="pt") as file:
            known = (file.metadata() or {}).get("vocabulary") == VOCABULARY
            weights = {name: file.get_tensor(name) for name in file.keys()} if known else {}
        if known:
            model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} does not hold this model ({why}): train it again.") from None
    if not known:
        raise ValueError(f"{path} was trained with another vocabulary: train it again.")
    return model.to(device).eval()


def in_float64(model: Model) -> Model:
    """A copy that computes in float64, for evaluation: every machine then finds the same.

    The order of a sum is the processor's own, so float32 results differ in their last bits. A
    rounding behind them (the codes of an input, the choice of a character) makes more of that, and
    the layers after it more still: in float32 perplexities with 4-bit inputs differ in the third
    digit. In float64 the difference starts nine digits later. The values of the weights stay: a
    weight-only layer becomes a linear one that holds W_hat, for the untouched input.
    """
    checks.model("model", model)
    layers = [m for m in model.modules() if type(m) is QuantizedLinear and m.activations is None]
    plain: dict[int, Any] = {id(m): _dequantized(m) for m in layers if not _is_hooked(m)}
    return copy.deepcopy(model, plain).double().eval()


def _is_hooked(layer: nn.Module) -> bool:
    """Whether it computes more than its class does."""
    own = not vars(layer).keys().isdisjoint(COMPUTE)
    return bool(own or layer._forward_hooks or layer._forward_pre_hooks)


@torch.no_grad()
def _dequantized(layer: QuantizedLinear) -> nn.Linear:
    """The codes' values in float64, made once: an evaluation runs a layer hundreds of times."""
    layer = copy.deepcopy(layer).double()
    shape = {"in_features": layer.in_features, "out_features": layer.out_features}
    new = nn.Linear(**shape, bias=False, device="meta")
    new.weight = nn.Parameter(layer.weight, requires_grad=False)
    new.bias = layer.bias  # type: ignore[assignment]  # nn.Linear has none, too
    return new


def _check_request(n: int, seed: int, temperature: float) -> None:
    checks.whole("n", n, low=1)
    checks.whole("seed", seed, 0, 2**63 - 1)
    wanted = "a number of at least 0"
    checks.number("temperature", temperature, wanted, lambda x: x >= 0)


def _gumbel_noise(n: int, seed: int) -> Tensor:
    """-log(-log(u)), [n, 94] in float64, drawn on the CPU so that every machine has the same."""
    generator = torch.Generator().manual_seed(seed)
    shape = n, len(VOCABULARY)
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
    return -torch.log(-torch.log(u))
