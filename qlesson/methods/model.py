"""A method on every linear layer of a model (notebook 11)."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from qlesson import checks
from qlesson.affine import rounded


@torch.no_grad()
def layer_inputs(model: nn.Module, *args) -> dict[str, Tensor]:
    """{name: inputs [samples, in]} of every nn.Linear, as model(*args) meets them.

    A copy of the model runs in float64 and the inputs are rounded to float32 at the end, so that
    every machine finds the same ones, whatever the order of its sums.
    """
    checks.model("model", model)
    model, met = copy.deepcopy(model).double().eval(), {}

    def note(name):
        def hook(layer, args, kwargs):
            x = args[0] if args else kwargs["input"]
            met.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).float())

        return hook

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(note(name), with_kwargs=True)
    model(*tree_map(_doubled, args))
    if not met:
        raise ValueError("model(*args) met no torch.nn.Linear: there is no layer to quantize.")
    return {name: torch.cat(parts) for name, parts in met.items()}


def _doubled(x):
    """A float tensor in float64, as the model then is; ids and all else as they are."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@torch.no_grad()
def with_method(model: nn.Module, inputs: dict[str, Tensor], method, scheme) -> nn.Module:
    """A copy of the model with the weight of each layer in `inputs` replaced by W_hat.

    inputs  {name: [samples, in]}, as `layer_inputs` gives them
    method  a function of (weight, inputs, scheme) that gives a `Result`
    W_hat   the float weight that does to untouched inputs what the quantized layer does, so the
            model predicts what it would predict with the quantized layers
    """
    checks.model("model", model)
    checks.dictionary("inputs", inputs, "{name: [samples, in]}, as layer_inputs gives it")
    checks.scheme("scheme", scheme)
    model = copy.deepcopy(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if unknown := sorted(set(inputs) - set(layers)):
        raise ValueError(f"The model has no torch.nn.Linear named {unknown}: see layer_inputs.")
    for name, its_inputs in inputs.items():
        if parametrize.is_parametrized(layers[name], "weight"):
            raise ValueError(
                f"Layer {name!r} computes its weight by a parametrization, and would compute it "
                "anew: call torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') "
                "first."
            )
        weight = layers[name].weight
        weight.copy_(rounded(method(weight, its_inputs, scheme).float_weight(), weight.dtype))
    return model
