"""What the live figure of notebook 09 says, computed here in another way."""

import re

import pytest
import torch

import qlesson as ql
from qlesson.models import tinygpt
from qlesson.nn import QuantizedLinear
from qlesson.teach import play
from qlesson.teach.lessons.n09.play import _sqnr


@pytest.fixture(scope="module")
def layers():
    """{name: (layer, its inputs)} of the GPT's first block."""
    gpt, seen = tinygpt.load("cpu"), {}
    for name in ("mlp.up", "mlp.down"):
        layer = gpt.get_submodule(f"blocks.0.{name}")
        layer.register_forward_hook(
            lambda layer, args, _, name=name: seen.update({name: (layer, args[0][0])})
        )
    with torch.no_grad():
        gpt(tinygpt.encode(tinygpt.calibration_text()[:256])[None])
    return seen


def quantized(layer, weights, inputs):
    """The layer of the package, with its bias."""
    scheme = ql.Scheme(weights or 16, "symmetric", ql.PerAxis(0))
    per_token = ql.Scheme(inputs, granularity=ql.PerAxis(0)) if inputs else None
    return QuantizedLinear(ql.quantize(layer.weight, scheme), layer.bias, per_token)


@pytest.mark.parametrize("weights, inputs", [(4, 8), (4, 5), (8, 8), (2, 3)])
@pytest.mark.parametrize("name", ["mlp.up", "mlp.down"])
def test_the_sentences_are_true(layers, name, weights, inputs, capsys):
    play("09", weights=weights, inputs=inputs, layer=name)
    said = capsys.readouterr().out
    layer, x = layers[name]
    with torch.no_grad():
        y = torch.nn.functional.linear(x, layer.weight, layer.bias)
        alone = ql.sqnr(y, quantized(layer, weights, None)(x)).item()
        both = ql.sqnr(y, quantized(layer, weights, inputs)(x)).item()
        x_hat = ql.fake_quantize(x, ql.Scheme(inputs, granularity=ql.PerAxis(0)))
        y_hat = torch.nn.functional.linear(x_hat, layer.weight, layer.bias)
        from_inputs = ql.sqnr(y, y_hat).item()
    found = [float(db) for db in re.findall(r"([\d.]+) dB", said)]
    assert found == pytest.approx([alone, from_inputs, both], abs=0.06)
    noise = [10 ** (-db / 10) for db in (alone, from_inputs)]
    shares = [int(share) for share in re.findall(r"(\d+) %", said)]
    assert shares == pytest.approx([100 * n / sum(noise) for n in noise], abs=1.6)
    assert sum(shares) == 100
    assert said.startswith(f"{name}, inputs after a ")


def test_errors_of_weights_and_inputs_add_up_in_energy(layers):
    """What the text says of `both`: its squared error is the sum of the two."""
    for name, bits in (("mlp.up", 8), ("mlp.down", 8), ("mlp.up", 4)):
        alone, from_inputs, both = (
            _noise(layers, name, *pair) for pair in ((bits, None), (None, bits), (bits, bits))
        )
        assert both == pytest.approx(alone + from_inputs, rel=0.1)


def _noise(layers, name, weights, inputs):
    return 10 ** (-_sqnr(name, weights, inputs) / 10)
