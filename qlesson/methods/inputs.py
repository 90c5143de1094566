"""What each layer of a model meets, for a method to look at (notebook 11)."""

from typing import Any

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.nn import record
from qlesson.nn.inputs import in_float64, naming_float64


def layer_inputs(model: nn.Module, *args: Any) -> dict[str, Tensor]:
    """{name: inputs [samples, in]} of every nn.Linear, as model(*args) meets them.

    A copy of the model runs in float64 and the inputs are rounded to float32 at the end, so that
    every machine finds the same ones, whatever the order of its sums. `quantize_model(method=,
    inputs=)` records for itself, a few layers at a time.
    """
    checks.model("model", model)
    copied, batches = in_float64(model, [args])
    met: dict[str, list[Tensor]] = {}
    with naming_float64():
        record(copied, batches, lambda name, x: met.setdefault(name, []).append(x.float()))
    if not met:
        raise ValueError("model(*args) met no torch.nn.Linear: there is no layer to quantize.")
    return {name: torch.cat(parts) for name, parts in met.items()}
