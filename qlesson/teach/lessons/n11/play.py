"""The live figure of notebook 11: how much of the outliers may move to the weights."""

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

import qlesson as ql
from qlesson.methods import output_error
from qlesson.methods.smoothquant import smoothing_scales
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Shown, Slider, declare

_WEIGHTS, _INPUTS = ql.Scheme(8, "symmetric", ql.PerAxis(0)), ql.Scheme(8)
_ALPHAS = tuple(i / 20 for i in range(21))


@cache
def _layer() -> tuple[Tensor, Tensor]:
    """Notebook 11's layer, without its outliers: W [64, 128] and inputs [1024, 128]."""
    g = torch.Generator().manual_seed(0)
    w = randn(64, 128, generator=g) / 128**0.5
    noise, patterns = randn(1024, 128, generator=g), randn(1024, 8, generator=g)
    shared = patterns.double() @ randn(8, 128, generator=g).double()
    return w, noise + (shared / 2**0.5).float()


@cache
def _inputs(times: int) -> Sequence[Tensor]:
    x = _layer()[1].clone()
    x[:, [7, 40, 90]] *= times
    return x.split(512)


@cache
def _errors(times: int, alpha: float | None) -> dict[str, float]:
    """Output error on new inputs in %: of the inputs, of the weights, and of both quantized.

    alpha None leaves the inputs as they are.
    """
    w, (known, new) = _layer()[0], _inputs(times)
    s = torch.ones(128) if alpha is None else smoothing_scales(w, known, alpha)
    codes = ql.quantize(w * s, _WEIGHTS).dequantize()
    inputs = ql.fake_quantize(new / s, _INPUTS, ql.choose_qparams(known / s, _INPUTS))
    power = output_error(w, torch.zeros_like(w), new)
    pairs = {"inputs": (inputs, w * s), "weights": (new / s, codes), "both": (inputs, codes)}
    wanted = new.double() @ w.double().T
    off = {k: (x.double() @ v.double().T - wanted).square().mean() for k, (x, v) in pairs.items()}
    return {name: 100 * (error / power).item() for name, error in off.items()}


@declare(
    "Output error of a layer with 8-bit inputs and weights, for every share of smoothing.",
    alpha=Slider("alpha", 0.0, 1.0, 0.05, 0.0),
    times=Slider("3 channels times", 1, 40, 1, 20),
)
def _smooth(alpha: float, times: int) -> Shown:
    alpha = min(_ALPHAS, key=lambda a: abs(a - alpha))
    plain, here = _errors(times, None), _errors(times, alpha)
    every = [_errors(times, a) for a in _ALPHAS]
    best = min(_ALPHAS, key=lambda a: _errors(times, a)["both"])
    outliers = f"3 of 128 input channels are {times} times as large."
    sentences = [
        f"{outliers if times > 1 else 'No outliers.'} Not smoothed: {plain['both']:.3f} %.",
        f"alpha {alpha:.2f}: inputs {here['inputs']:.3f} %, weights {here['weights']:.3f} %, "
        f"both {here['both']:.3f} %.",
        f"Smallest: {_errors(times, best)['both']:.3f} %, at alpha {best:.2f}.",
    ]
    shares = {name: [e[name] for e in every] for name in here}
    return sentences, partial(figures.smoothing, _ALPHAS, shares, alpha)
