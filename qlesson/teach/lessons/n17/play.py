"""The live figure of notebook 17: one token's inputs of a layer, in few bits, rotated or not.

The inputs are stored, since the model is not everybody's: tests/four_bit_inputs.py writes them.
"""

import csv
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.widgets import Choice, Shown, Slider, Switch, declare

FILE = Path(__file__).with_name("token.csv")
LAYERS = {"q, k, v": "attention.qkv", "down": "mlp.down"}


@cache
def _inputs(layer: str, rotated: bool) -> Tensor:
    with open(FILE, newline="", encoding="utf-8") as file:
        column = "rotated" if rotated else "input"
        found = [line[column] for line in csv.DictReader(file) if line["layer"] == LAYERS[layer]]
    return torch.tensor([[float(x) for x in found]], dtype=torch.float64)


@declare(
    "The inputs of a layer for one token, and the levels that they come back as.",
    layer=Choice("layer", tuple(LAYERS), "q, k, v"),
    bits=Slider("bits", 2, 8, 1, 4),
    rotated=Switch("rotated", False),
)
def _token(layer: str, bits: int, rotated: bool) -> Shown:
    x = _inputs(layer, rotated)
    held = ql.quantize(x, ql.Scheme(bits, granularity=ql.PerAxis(0)))
    x_hat = held.dequantize()
    zero = (x_hat == 0).double().mean().item()
    largest = (x.abs().max() / x.square().mean().sqrt()).item()
    sentences = [
        f"{x.numel()} inputs of {layer}, {'rotated' if rotated else 'as they are'}: the largest is "
        f"{largest:.1f} times the rms.",
        f"{bits} bits: {2**bits} levels, {held.scale.item():.3g} apart; {100 * zero:.1f} % of the "
        "inputs become 0.",
        f"Signal to noise: {ql.sqnr(x, x_hat).item():.1f} dB.",
    ]
    title = f"inputs of {layer}: {bits} bits, {'rotated' if rotated else 'not rotated'}"
    return sentences, partial(figures.one_token, x[0], x_hat[0], title)
