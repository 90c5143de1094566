"""What the live figure of notebook 17 says: a token's inputs, measured by hand."""

import csv
import math
import re

import pytest

from qlesson.teach import play
from qlesson.teach.lessons.n17.play import FILE, LAYERS

with open(FILE, newline="", encoding="utf-8") as file:
    LINES = list(csv.DictReader(file))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_its_sentences_are_true(layer, rotated, bits, capsys):
    column = "rotated" if rotated else "input"
    x = [float(line[column]) for line in LINES if line["layer"] == LAYERS[layer]]
    scale = (max(*x, 0) - min(*x, 0)) / (2**bits - 1)
    zero = round(-min(*x, 0) / scale)
    x_hat = [scale * (min(max(round(v / scale + zero), 0), 2**bits - 1) - zero) for v in x]
    play("17", layer=layer, bits=bits, rotated=rotated)
    first, second, third = capsys.readouterr().out.splitlines()
    numbers = [*map(float, re.findall(r"\d+\.?\d*", first + second + third))]
    power = sum(v * v for v in x)
    lost = sum((v - w) ** 2 for v, w in zip(x, x_hat, strict=True))
    wanted = [
        len(x), max(map(abs, x)) / math.sqrt(power / len(x)), bits, 2**bits, scale,
        round(100 * x_hat.count(0) / len(x), 1), 0, 10 * math.log10(power / lost),
    ]  # fmt: skip
    assert numbers == pytest.approx(wanted, rel=5e-3, abs=0.06)
    assert ("100.0 %" in second) == (x_hat.count(0) == len(x))
    assert ("rotated" in first) == rotated and layer in first


def test_a_rotation_keeps_the_length_of_what_stands_before_the_gain():
    down = [line for line in LINES if line["layer"] == "mlp.down"]
    lengths = [sum(float(line[c]) ** 2 for line in down) for c in ("input", "rotated")]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)
    assert len(down) == 1536 and len(LINES) == 1536 + 576


def test_what_17_says_of_its_bits(capsys):
    """Six bits for q, k and v, five for down, to do what four do rotated."""

    def decibels(**how):
        play("17", **how)
        return float(capsys.readouterr().out.split()[-2])

    for layer, bits in (("q, k, v", 6), ("down", 5)):
        wanted = decibels(layer=layer, bits=4, rotated=True)
        assert decibels(layer=layer, bits=bits - 1) < wanted < decibels(layer=layer, bits=bits)
