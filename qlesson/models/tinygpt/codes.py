"""The course's language model in the codes that training found (notebook 12, trained.md)."""

from pathlib import Path

import torch

from qlesson import checks
from qlesson.files import checkpoint
from qlesson.models.tinygpt.model import GPT, load
from qlesson.models.tinygpt.text import FOLDER
from qlesson.nn.state import Saved, load_state

BITS, STEPS_OF = (2, 3), ("min-max", "learned")


def load_trained(
    bits: int, steps_of: str = "learned", device: torch.device | str | None = None
) -> GPT:
    """The model whose 16 linear layers were trained through their rounding (notebook 12).

    bits      2 or 3: of the codes of these layers, which are `QuantizedLinear`, a step per row
    steps_of  where the steps came from in training: "learned", or "min-max" for the range that each
              row had
    device    None: `ql.best_device()`

    All else (embeddings, biases, norms) is the float model's. trained.md says how they were made.
    """
    checks.whole("bits", bits, *BITS)
    checks.one_of("steps_of", steps_of, STEPS_OF)
    return _with_codes(load(device), checkpoint.load(_file(bits, steps_of)))


def _file(bits: int, steps_of: str, folder: Path = FOLDER) -> Path:
    return folder / f"trained_{bits}_bits_{steps_of.replace('-', '_')}.safetensors"


def _with_codes(model: GPT, codes: Saved) -> GPT:
    """A copy whose layers named in {name.weight: codes} are `QuantizedLinear`."""
    return load_state(model, dict(model.named_parameters()) | dict(codes))
