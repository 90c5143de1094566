"""What the live figure of notebook 11 says, computed here in another way."""

import re

import pytest
import torch

from qlesson.teach import play


def numbers(capsys, **settings):
    play("11", **settings)
    text = capsys.readouterr().out
    return text, [float(x) for x in re.findall(r"(\d+\.\d+)", text)]


def layer(times):
    g = torch.Generator().manual_seed(0)
    w, x = torch.randn(64, 128, generator=g) / 128**0.5, torch.randn(1024, 128, generator=g)
    patterns, mixed = torch.randn(1024, 8, generator=g), torch.randn(8, 128, generator=g)
    x = x + (patterns.double() @ mixed.double() / 2**0.5).float()
    x[:, [7, 40, 90]] *= times
    return w, x[:512], x[512:]


def errors(times, alpha):
    """In percent, with the inputs, the weights, and both on their grid of 8 bits."""
    w, known, new = layer(times)
    s = torch.ones(128)
    if alpha is not None:
        s = known.abs().amax(0) ** alpha / w.abs().amax(0) ** (1 - alpha)
    low, high = (known / s).min(), (known / s).max()
    step = (high - low) / 255
    zero = (-128 - low / step).round()
    x = step * (((new / s) / step + zero).round().clamp(-128, 127) - zero)
    row = (w * s).abs().amax(1, keepdim=True) / 127
    w_hat = row * ((w * s) / row).round()
    exact = new @ w.T
    off = [x @ (w * s).T - exact, (new / s) @ w_hat.T - exact, x @ w_hat.T - exact]
    return [100 * (d.square().sum() / exact.square().sum()).item() for d in off]


@pytest.mark.parametrize("times, alpha", [(20, 0.0), (20, 0.6), (20, 1.0), (1, 0.5), (40, 0.35)])
def test_the_sentences_are_true(times, alpha, capsys):
    text, found = numbers(capsys, times=times, alpha=alpha)
    plain, said_alpha, inputs, weights, both = found[:5]
    wanted = errors(times, alpha)
    assert [inputs, weights, both] == pytest.approx(wanted, abs=0.0011)
    assert plain == pytest.approx(errors(times, None)[2], abs=0.0011)
    assert said_alpha == pytest.approx(alpha)
    assert ("No outliers." in text) == (times == 1)


@pytest.mark.parametrize("times", [5, 20, 40])
def test_the_smallest_error_lies_inside_and_beats_no_smoothing(times, capsys):
    _, found = numbers(capsys, times=times)
    plain, best, at = found[0], found[-2], found[-1]
    assert 0.3 < at < 0.9 and best < 0.3 * plain
    every = [errors(times, i / 20) for i in range(21)]
    assert best == pytest.approx(min(e[2] for e in every), abs=0.0011)
    assert every[0][0] > 10 * every[16][0]  # the inputs' share falls
    assert every[20][1] > 5 * every[0][1]  # the weights' share rises
