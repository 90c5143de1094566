"""A model's weights rounded once more   (notebook 16), and its inputs with them   (notebook 17)."""

import copy
from typing import Any

import torch

from qlesson import checks
from qlesson.models.llama.model import Llama
from qlesson.nn import QuantizedEmbedding, QuantizedLinear
from qlesson.nn.swap import names_of, naming_layer
from qlesson.nn.weight import QuantizedWeight
from qlesson.plan import make_plan, refuse_two_schemes
from qlesson.qtensor import FindRange, quantize_by
from qlesson.scheme import Scheme

HEAD = "head"  # its inputs stay float, here as in most quantized models


@torch.no_grad()
def requantized(
    model: Llama,
    scheme: Scheme | dict[str, Scheme],
    find_range: FindRange | None = None,
    activations: Scheme | None = None,
) -> Llama:
    """A copy of a model that holds codes, in which every W_hat is rounded to its nearest codes in
    another scheme.

    So the error of the file's own codes stays in, and the new one comes on top. One matrix at a
    time is in float; weights that layers share stay shared. What the file holds in float, as
    GPTQ's the embedding and the head, stays float: `quantize_model` rounds that.

    scheme       a Scheme for all, or {pattern: Scheme}, as `quantize_model` takes it: what no
                 pattern fits keeps its codes, so patterns fit all layers that share some, or none
    find_range   as in `ql.choose_qparams`
    activations  None: weight-only, whatever the model's layers were. A Scheme: the linear layers
                 quantize their inputs too, all but the head

    Raises ValueError for a model in float: `quantize_model` quantizes it.
    """
    checks.of_type("model", model, Llama, "use llama.load(path)")
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLinear | QuantizedEmbedding)
    }
    if not layers:
        raise ValueError("model holds no codes, but floats: use quantize_model(model, scheme).")
    plan = make_plan(layers, scheme, modules=names_of(model))
    refuse_two_schemes(plan, {name: id(layer.codes) for name, layer in layers.items()})
    new: dict[int, Any] = {}
    for name, layer in layers.items():
        codes = layer.codes
        if name in plan and id(codes) not in new:
            nearest = quantize_by(find_range, codes.values(torch.float32), plan[name])
            new[id(codes)] = QuantizedWeight(nearest, codes.like.dtype)
        if name in plan and isinstance(layer, QuantizedEmbedding):
            with naming_layer(name):  # it refuses codes that it could not read
                new[id(layer)] = QuantizedEmbedding(new[id(codes)], layer.padding_idx)
        inputs = None if name == HEAD else activations
        if isinstance(layer, QuantizedLinear) and (inputs or layer.activations):
            with naming_layer(name):
                held = new.setdefault(id(codes), copy.deepcopy(codes))
                bias = copy.deepcopy(layer.bias)
                new[id(layer)] = QuantizedLinear(held, bias, inputs, None, layer.factor)
    return copy.deepcopy(model, new)
