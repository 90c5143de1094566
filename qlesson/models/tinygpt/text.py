"""The texts of the course's language model, and its characters as integers."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from qlesson import checks

FOLDER = Path(__file__).parent
VOCABULARY = "\n" + "".join(chr(i) for i in range(32, 127) if chr(i) not in "$`")
NUMBER = {character: i for i, character in enumerate(VOCABULARY)}
MEASURED = 16_384  # held-out characters that `perplexity` predicts


def encode(text: str) -> Tensor:
    """Text -> one integer per character, [len(text)]."""
    checks.text("text", text)
    unknown = sorted(set(text) - set(VOCABULARY))
    if unknown:
        raise ValueError(
            f"The model does not know {', '.join(map(repr, unknown))}: it knows line breaks and "
            "printable ASCII without '$' and '`'. Remove or replace the others."
        )
    return torch.tensor([NUMBER[character] for character in text], device="cpu")


def decode(ids: Tensor | Iterable[int]) -> str:
    """Integers -> text."""
    if isinstance(ids, Tensor) or not hasattr(ids, "__iter__"):
        checks.ids("ids", ids, len(VOCABULARY))
        checks.known("ids", ids)
    if isinstance(ids, Tensor):
        ids = ids.flatten()
    return "".join(VOCABULARY[checks.whole("ids", i, 0, len(VOCABULARY) - 1)] for i in ids)


def heldout_text() -> str:
    """33,646 characters that the model never saw in training, from its documentation (card.md)."""
    return (FOLDER / "heldout.txt").read_text(encoding="utf-8")


def calibration_text() -> str:
    """The held-out characters that `perplexity` does not use: calibrate on these, measure there."""
    return heldout_text()[MEASURED + 1 :]
