"""The live figure of notebook 12: where does a learned step come to rest?"""

from functools import cache, partial

import torch
from torch import Tensor

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Decades, Shown, Slider, declare

_STEPS = tuple(i / 50 for i in range(5, 101))
_NOTCHES = tuple(
    i / 50
    for i in (
        *range(5, 25),  # as near to 6 % apart as the steps of the curve allow
        *(25, 27, 28, 30, 32, 34, 36, 38, 40, 42, 45, 48),
        *(50, 53, 56, 60, 63, 67, 71, 75, 80, 85, 90, 95, 100),
    )
)


@cache
def _normals() -> Tensor:
    return randn(1000, generator=torch.Generator().manual_seed(0)).double()


@cache
@torch.enable_grad()
def _pulls(bits: int, step: float) -> tuple[float, float, float]:
    """The mean squared error, and its gradient by the step: of values inside, of clipped ones."""
    r, scheme = _normals(), ql.Scheme(bits, "symmetric")
    s = torch.tensor(step, dtype=torch.float64, requires_grad=True)
    r_hat = ql.fake_quantize(r, scheme, ql.QParams(s, torch.tensor(0, dtype=torch.int8)))
    clipped = (r / s).round().abs() > scheme.quant_max
    error = (r_hat - r).square() / len(r)
    parts = error[~clipped].sum(), error[clipped].sum()
    inside, outside = (torch.autograd.grad(p, s, retain_graph=True)[0].item() for p in parts)
    return error.sum().item(), inside, outside


@declare(
    "The error of 1,000 normal values for every step, and the two pulls on the chosen step.",
    bits=Slider("bits", 2, 4, 1, 3),
    s=Decades("step s", _NOTCHES, 0.6),
)
def _step(bits: int, s: float) -> Shown:
    chosen = min(range(len(_STEPS)), key=lambda i: abs(_STEPS[i] - s))
    every = [_pulls(bits, step) for step in _STEPS]
    losses = [loss for loss, _, _ in every]
    step = f"{_STEPS[chosen]:.2f}"
    loss, inside, clipped = every[chosen]
    if abs(_STEPS[chosen] - s) > 1e-9:  # typed: the picture marks the nearest that it has
        step, (loss, inside, clipped) = f"{s:g}", _pulls(bits, s)
    way = "falls" if inside + clipped > 0 else "grows"
    sentences = [
        f"{bits} bits, step {step}: MSE {loss:.4f}. The step {way}.",
        f"Pulls: inside {-inside:+.4f}, clipped {0.0 - clipped:+.4f}.",
    ]
    title = f"{bits} bits, step {step}"
    return sentences, partial(figures.pulls, _STEPS, losses, chosen, inside, clipped, title)
