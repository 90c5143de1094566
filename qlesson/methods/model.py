"""A method on every linear layer of a model (notebook 11)."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qlesson import checks
from qlesson.methods.result import Result
from qlesson.nn import record
from qlesson.nn.model import Model, with_weights
from qlesson.scheme import Scheme


def layer_inputs(model: nn.Module, *args: Any) -> dict[str, Tensor]:
    """{name: inputs [samples, in]} of every nn.Linear, as model(*args) meets them.

    A copy of the model runs in float64 and the inputs are rounded to float32 at the end, so that
    every machine finds the same ones, whatever the order of its sums.
    """
    checks.model("model", model)
    model = copy.deepcopy(model).double().eval()
    met: dict[str, list[Tensor]] = {}
    record(
        model,
        [tree_map(_doubled, args)],
        lambda name, x: met.setdefault(name, []).append(x.float()),
    )
    if not met:
        raise ValueError("model(*args) met no torch.nn.Linear: there is no layer to quantize.")
    return {name: torch.cat(parts) for name, parts in met.items()}


def _doubled(x: Any) -> Any:
    """A float tensor in float64, as the model then is; ids and all else as they are."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@torch.no_grad()
def with_method(
    model: Model,
    inputs: dict[str, Tensor],
    method: Callable[[Tensor, Tensor, Scheme], Result],
    scheme: Scheme,
) -> Model:
    """A copy of the model with the weight of each layer in `inputs` replaced by W_hat.

    inputs  {name: [samples, in]}, as `layer_inputs` gives them
    method  a function of (weight, inputs, scheme) that gives a `Result`
    W_hat   the float weight that does to untouched inputs what the quantized layer does, so the
            model predicts what it would predict with the quantized layers
    """
    checks.model("model", model)
    checks.dictionary("inputs", inputs, "{name: [samples, in]}, as layer_inputs gives it")
    checks.scheme("scheme", scheme)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if unknown := sorted(set(inputs) - layers):
        raise ValueError(f"The model has no torch.nn.Linear named {unknown}: see layer_inputs.")

    def w_hat(name: str, weight: Tensor) -> Tensor:
        return method(weight, inputs[name], scheme).float_weight()

    return with_weights(model, inputs, w_hat)
