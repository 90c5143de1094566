"""Llama's architecture as a plain torch module   (notebook 16).

Text goes in as one id per token. In each block a token collects from those before it (`Attention`),
then is transformed by itself (`MLP`). Out comes a number per token of the vocabulary, its logit:
softmax(logits) is the probability that it comes next. Touvron et al. 2023, arXiv:2302.13971, with
the heads of Llama 2 (arXiv:2307.09288): several heads of q share one of k and v.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import computing
from qlesson.models.cache import KVCache, NewCache, empty_of, read_before
from qlesson.models.draw import drawn


@dataclass(frozen=True)
class Config:
    """The sizes: width = numbers per token, hidden = numbers inside an MLP, kv_heads = heads of k
    and v, context = tokens that the model can look back on, base and eps = constants of `turns` and
    of the norms, ends = ids of the tokens that end an answer, slower = divisors of the speeds of
    `turns`, one for each pair, or none, head_width = numbers of a head, width / heads if 0."""

    vocabulary: int
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    context: int
    base: float = 10_000.0
    eps: float = 1e-5
    ends: tuple[int, ...] = ()
    slower: tuple[float, ...] = ()
    head_width: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_width", self.head_width or self.width // self.heads)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(head_width)) v per head; a token sees itself and those before."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        all_heads = config.heads + 2 * config.kv_heads
        self.qkv = nn.Linear(config.width, all_heads * config.head_width, bias=False)
        self.out = nn.Linear(config.heads * config.head_width, config.width, bias=False)

    def forward(
        self, x: Tensor, turns: Tensor, seen: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        moving, still = self.heads + self.kv_heads, self.kv_heads
        qkv = self.qkv(x).unflatten(-1, (moving + still, -1)).transpose(1, 2)
        qk, v = qkv.split((moving, still), 1)  # each [batch, heads, time, head_width]
        q, k = turned(qk, turns).split((self.heads, self.kv_heads), 1)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), from width to hidden and back (Shazeer 2020)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """x + attention(norm_1(x)), then x + mlp(norm_2(x)); a norm divides by the root mean square."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.RMSNorm(config.width, config.eps), Attention(config)
        self.norm_2, self.mlp = nn.RMSNorm(config.width, config.eps), MLP(config)

    def forward(
        self, x: Tensor, turns: Tensor, seen: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        x = x + self.attention(self.norm_1(x), turns, seen, cache)
        return x + self.mlp(self.norm_2(x))


class Llama(nn.Module):
    """Tokens in, logits of the next one out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        # nn.Embedding(...) draws the same, and on the device meta loads torch's compiler for it.
        vectors = torch.randn(config.vocabulary, config.width)
        self.embedding = nn.Embedding.from_pretrained(vectors, freeze=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.eps)
        self.head: nn.Module = nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """ids, integers [batch, time] -> logits [batch, time, vocabulary].

        cache, a `KVCache`, keeps the keys and values of the tokens read so far; ids are then the
        tokens that follow them.
        """
        return self.head(self._read(ids, cache))

    def _read(self, ids: Tensor, cache: KVCache | None) -> Tensor:
        """What the head is given: [batch, time, width]."""
        checks.ids("ids", ids, self.config.vocabulary)
        checks.matrix("ids", ids, "[batch, time]")
        checks.same_device("ids", ids, "the model", self.norm.weight)
        past = read_before(cache, (block.attention for block in self.blocks))
        time = ids.shape[1]
        if not 0 < time <= self.config.context - past:
            raise ValueError(
                f"ids have shape {tuple(ids.shape)}, behind {past} tokens in the cache: the model "
                f"reads 1 to {self.config.context} in all."
            )
        x = self.embedding(ids)
        how = self.config.head_width, self.config.base, self.config.slower
        angles = turns(past, time, *how)
        angles = angles.to(x.device, _complex(x.dtype))
        seen = x.new_ones(time, past + time, dtype=torch.bool).tril(past) if time > 1 else None
        for block in self.blocks:
            x = block(x, angles, seen, cache)
        return self.norm(x)

    def generate(
        self,
        ids: Sequence[int] | Tensor,
        n: int,
        temperature: float = 0,
        seed: int = 0,
        new_cache: NewCache | None = KVCache,
    ) -> Iterator[int]:
        """The ids that the model writes after these, one by one: n, or fewer where it ends.

        temperature  0 takes the likeliest token. Else argmax(logits / temperature + noise), with
                     noise = -log(-log(u)) for u uniform, from the seed: a draw from
                     softmax(logits / temperature), known as Gumbel's trick
        new_cache    makes the empty cache; None reads all tokens again for each new one

        The logits are those of the model's own dtype: a copy in float64 (`model.double()`) writes
        the same on every machine.
        """
        prompt = self._prompt(ids)
        checks.whole("n", n, 1, self.config.context - prompt.shape[1] + 1)  # the last is not read
        checks.whole("seed", seed, 0, 2**63 - 1)
        checks.number("temperature", temperature, "a number of at least 0", lambda x: x >= 0)
        cache = empty_of(new_cache)
        return self._written(prompt, n, temperature, seed, cache)

    def _written(
        self, new: Tensor, n: int, temperature: float, seed: int, cache: KVCache | None
    ) -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(n):
            with torch.inference_mode():
                logits = self.head(self._read(new, cache)[:, -1])[0]
            noise = None
            if temperature:
                logits = logits.double().cpu()
                u = torch.rand(logits.shape, generator=generator, dtype=logits.dtype, device="cpu")
                noise = -torch.log(-torch.log(u))
            written = drawn(logits, temperature, noise)
            if written in self.config.ends:
                return
            yield written
            last = new.new_tensor([[written]])
            new = torch.cat([new, last], 1) if cache is None else last

    def _prompt(self, ids: Sequence[int] | Tensor) -> Tensor:
        """ids, as a tokenizer gives them, as a batch of one."""
        if not isinstance(ids, Tensor) and hasattr(ids, "__iter__"):
            listed = [checks.whole("ids", i, 0, self.config.vocabulary - 1) for i in ids]
            ids = torch.tensor(listed, dtype=torch.int64, device="cpu")
        checks.ids("ids", ids, self.config.vocabulary)
        checks.known("ids", ids)
        assert isinstance(ids, Tensor)
        if ids.ndim != 1 or not len(ids):
            raise ValueError(
                f"ids must be a list of at least one id, got {checks.shown(ids)}: use "
                "tokenizer.encode(text)."
            )
        if len(ids) > self.config.context:
            raise ValueError(
                f"ids are {len(ids)} tokens, and the model reads at most {self.config.context}: "
                "leave some out."
            )
        return checks.plain(ids)[None].to(self.norm.weight.device, torch.int64)


def turns(past: int, time: int, width: int, base: float, slower: Sequence[float] = ()) -> Tensor:
    """exp(i p base^(-2 j / width)), complex [time, width / 2], for the pairs j = 0, 1, ... of the
    tokens at p = past, past + 1, ...: rotary positions (Su et al. 2021, arXiv:2104.09864). A model
    that was stretched to a longer context turns pair j by 1 / slower[j] of that."""
    speeds = base ** (-torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    if slower:
        speeds = speeds / speeds.new_tensor(slower)
    places = torch.arange(past, past + time, dtype=torch.float64, device="cpu")
    angles = places[:, None] * speeds
    return torch.polar(torch.ones_like(angles), angles)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """x [..., time, width], its pairs (x[2j], x[2j + 1]) taken as complex numbers, times turns."""
    pairs = torch.view_as_complex(x.to(computing(x.dtype)).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64
