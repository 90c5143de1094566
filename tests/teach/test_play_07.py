"""What the live figure of notebook 07 says is true."""

import re

import pytest
import torch

import qlesson as ql
from qlesson.qtensor import qparams_from_range
from qlesson.ranges import min_max, mse_search, percentile
from qlesson.teach import play
from qlesson.teach.widgets import declarations

RULES = ["min-max", "percentile 99.9", "MSE search"]


def said(capsys, **settings):
    play("07", **settings)
    return capsys.readouterr().out


def decibels(text):
    return dict(re.findall(r"^(.+): .*, (-?\d+\.\d\d) dB", text, flags=re.M))


@pytest.mark.parametrize("bits, distance", [(2, 4), (4, 20), (8, 40)])
def test_it_says_the_range_and_the_sqnr_of_every_rule(capsys, bits, distance):
    text = said(capsys, bits=bits, distance=distance)
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    r[:5], r[5:10] = float(distance), -float(distance)
    scheme = ql.Scheme(bits, "symmetric")
    found = min_max(r), percentile(r, percent=99.9)
    widest = None
    for name, (low, high) in zip(RULES, (*found, mse_search(r, scheme)), strict=True):
        x = ql.quantize(r, scheme, qparams_from_range(low, high, scheme))
        db = ql.sqnr(r, x.dequantize()).item()
        assert f"{name}: {low:.2f} to {high:.2f}, {db:.2f} dB" in text
        if name == "min-max":
            widest = db
        else:
            assert f"dB ({db - widest:+z.2f})." in text
    assert text.startswith(f"{bits} bits, ten values of 10,000 at {distance} or -{distance}.")


def test_the_search_never_loses_and_gains_most_with_few_bits(capsys):
    for bits in (2, 4, 6, 8):
        for distance in (4, 12, 20, 40):
            db = {
                k: float(v) for k, v in decibels(said(capsys, bits=bits, distance=distance)).items()
            }
            assert list(db) == RULES
            assert db["MSE search"] == max(db.values())
    gains = {}
    for bits in (4, 6, 8):
        db = decibels(said(capsys, bits=bits, distance=20))
        gains[bits] = float(db["MSE search"]) - float(db["min-max"])
    assert gains[4] > 3 and gains[6] < 1 and 0 <= gains[8] < 0.1


def test_controls():
    controls = declarations()["07"].controls
    assert list(controls) == ["bits", "distance"]
    assert (controls["bits"].start, controls["distance"].start) == (4, 20)
