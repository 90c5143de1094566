"""The live figure of notebook 16: what the model answers with fewer bits.

The answers are stored, since a model takes seconds for one: tests/judged.py writes them.
"""

import csv
import textwrap
from functools import cache, partial
from pathlib import Path

from qlesson.teach import figures
from qlesson.teach.widgets import Choice, Shown, declare

FILE = Path(__file__).with_name("answers.csv")


@cache
def _answers() -> dict[tuple[str, str], dict[str, str]]:
    """{(bits, prompt): line}."""
    with open(FILE, newline="", encoding="utf-8") as file:
        return {(line["bits"], line["prompt"]): line for line in csv.DictReader(file)}


_BITS = tuple(dict.fromkeys(bits for bits, _ in _answers()))
_PROMPTS = tuple(dict.fromkeys(prompt for _, prompt in _answers()))


@declare(
    "The three tokens that are likeliest to begin the answer, with their probabilities.",
    bits=Choice("bits", _BITS, _BITS[0]),
    prompt=Choice("question", _PROMPTS, _PROMPTS[0]),
)
def _answered(bits: str, prompt: str) -> Shown:
    line = _answers()[bits, prompt]
    shares = {f"{line[f'token_{i}']!r}": float(line[f"p_{i}"]) for i in range(3)}
    model = "The file's own codes" if bits == "file" else f"{bits} bits"
    answer = " ".join(line["answer"].split()) or "(it ends at once)"
    told = textwrap.wrap(f"{model}: {answer}", 79, max_lines=4, placeholder=" ...")
    first = ", ".join(f"{token} {share:.3f}" for token, share in shares.items())
    sentences = [prompt, *told, f"Likeliest to begin the answer: {first}."]
    return sentences, partial(figures.first_tokens, shares, f"{model}: {prompt}")
