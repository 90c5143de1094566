"""The live figure of notebook 10: the model writes with fewer bits."""

import textwrap
from functools import cache, partial
from typing import NamedTuple

import torch

import qlesson as ql
from qlesson.models import tinygpt
from qlesson.teach import figures
from qlesson.teach.widgets import Choice, Shown, Slider, declare

PROMPT, LENGTH, SEED, TEMPERATURE = "An object is", 120, 0, 0.5
CHARACTERS = 4096  # that perplexity reads, as in the notebook
FLOAT = "float32"
WAYS = {
    "one for all": ql.PerTensor(),
    "one per row": ql.PerAxis(0),
    "groups of 32": ql.PerGroup(32),
}
INPUTS = {FLOAT: None} | {f"{b} bits": b for b in (8, 6, 5, 4, 3, 2)}


@declare(
    "What the model writes in float32 and with fewer bits, and the perplexity of both.",
    bits=Slider("bits of the weights", 2, 8, 1, 4),
    scales=Choice("scales", tuple(WAYS), "one per row"),
    mode=Choice("mode", ("asymmetric", "symmetric"), "asymmetric"),
    inputs=Choice("inputs of layers", tuple(INPUTS), FLOAT),
)
def _the_model_writes(bits: int, scales: str, mode: str, inputs: str) -> Shown:
    scheme = ql.Scheme(bits, mode, WAYS[scales], scale_dtype=torch.float16)
    original, small = _read(None, None), _read(scheme, INPUTS[inputs])
    fewer, float32 = (figures.three_digits(it.perplexity) for it in (small, original))
    sentences = [
        f"Weights {bits} bits, {scales}, {mode}; inputs {inputs}.",
        f"{small.kilobytes} kB in place of {original.kilobytes}; "
        f"perplexity {fewer} in place of {float32}.",
        *textwrap.wrap(f"It writes: {' '.join(small.text.split())}", 79),
    ]
    label = f"{bits} bits, {scales}, {mode}" + (f", inputs {inputs}" if INPUTS[inputs] else "")
    both = {FLOAT: original, label: small}
    texts = {label: it.text for label, it in both.items()}
    perplexities = {label: it.perplexity for label, it in both.items()}
    return sentences, partial(figures.written, texts, perplexities)


class _Reading(NamedTuple):
    kilobytes: int
    perplexity: float  # three digits, which every device shares where the inputs stay float
    text: str


@cache
def _gpt() -> tinygpt.GPT:
    return tinygpt.load()


@cache
def _read(scheme: ql.Scheme | None, input_bits: int | None) -> _Reading:
    """Size, perplexity and text of the model; scheme None is float32."""
    model = _gpt() if scheme is None else tinygpt.quantized(_gpt(), scheme, _per_token(input_bits))
    return _Reading(
        round(tinygpt.model_bytes(_gpt(), scheme or {}) / 1000),
        float(figures.three_digits(tinygpt.perplexity(model, n=CHARACTERS))),
        PROMPT + model.generate(PROMPT, LENGTH, SEED, TEMPERATURE),
    )


def _per_token(bits: int | None) -> ql.Scheme | None:
    return ql.Scheme(bits, granularity=ql.PerAxis(0)) if bits else None
