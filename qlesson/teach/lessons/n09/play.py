"""The live figure of notebook 09: how many bits the inputs of a layer need."""

from functools import cache
from typing import Any

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import qlesson as ql
from qlesson.methods import layer_inputs
from qlesson.models import tinygpt
from qlesson.teach import figures
from qlesson.teach.widgets import Choice, Shown, Slider, declare

_BITS = range(2, 9)
_LAYERS = {"mlp.up": "after a norm", "mlp.down": "after a GELU"}


@cache
def _inputs_weight_bias(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs of a layer of the GPT's first block on 256 characters, its weight and its bias."""
    gpt, name = tinygpt.load("cpu"), f"blocks.0.{name}"
    ids = tinygpt.encode(tinygpt.calibration_text()[:256])[None]
    layer: Any = gpt.get_submodule(name)
    return layer_inputs(gpt, ids)[name], layer.weight.detach(), layer.bias.detach()


@cache
def _sqnr(name: str, weight_bits: int | None = None, input_bits: int | None = None) -> float:
    """SQNR of x W^T + b in dB, to 0.1, computed in float64."""
    x, w, b = _inputs_weight_bias(name)
    x_hat, w_hat = x, w
    if input_bits:
        x_hat = ql.fake_quantize(x, ql.Scheme(input_bits, granularity=ql.PerAxis(0)))
    if weight_bits:
        w_hat = ql.fake_quantize(w, ql.Scheme(weight_bits, "symmetric", ql.PerAxis(0)))
    x, x_hat, w, w_hat, b = (v.double() for v in (x, x_hat, w, w_hat, b))
    y, y_hat = F.linear(x, w, b), F.linear(x_hat, w_hat, b)
    return round(ql.sqnr(y, y_hat).item(), 1)


@declare(
    "SQNR of a layer's output: weights quantized alone, inputs alone, and both.",
    weights=Slider("bits of the weights", 2, 8, 1, 4),
    inputs=Slider("bits of the inputs", 2, 8, 1, 8),
    layer=Choice("layer", tuple(_LAYERS), "mlp.up"),
)
def _how_many_bits(weights: int, inputs: int, layer: str) -> Shown:
    alone, from_inputs = _sqnr(layer, weights), _sqnr(layer, None, inputs)
    both = _sqnr(layer, weights, inputs)
    noise = [10 ** (-db / 10) for db in (alone, from_inputs)]
    share = round(100 * noise[1] / sum(noise))
    sentences = [
        f"{layer}, inputs {_LAYERS[layer]}: weights with {weights} bits, inputs with {inputs}.",
        f"Weights alone {alone:.1f} dB, inputs alone {from_inputs:.1f} dB, both {both:.1f} dB.",
        f"Of the error, {100 - share} % comes from the weights, {share} % from the inputs.",
    ]

    def draw() -> Figure:
        curves = {
            "inputs alone": (list(_BITS), [_sqnr(layer, None, b) for b in _BITS]),
            "both": (list(_BITS), [_sqnr(layer, weights, b) for b in _BITS]),
        }
        title = f"{layer}: weights with {weights} bits, inputs with {inputs}"
        return figures.noise_split(curves, alone, (inputs, both), title)

    return sentences, draw
