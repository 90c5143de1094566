"""Which matrix suffers most from few bits, and a plan that gives each its own (notebook 10).

A plan is {name of a matrix: Scheme}, as `quantized` takes it.
"""

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.error import mse
from qlesson.evaluate import running
from qlesson.models.tinygpt.matrices import quantized, weight_matrices
from qlesson.models.tinygpt.measure import WINDOWS_AT_ONCE, windows
from qlesson.models.tinygpt.model import GPT, in_float64
from qlesson.models.tinygpt.text import calibration_text
from qlesson.plan import make_plan
from qlesson.qtensor import quantize
from qlesson.scheme import Scheme

CALIBRATION = 4096  # characters that sensitivity reads

Costs = dict[str, dict[Scheme, float]]  # of each matrix under each scheme


def divergence(model: GPT, other: GPT, text: str | None = None, n: int = CALIBRATION) -> float:
    """Mean over n characters of KL(p, p_other) = sum p log(p / p_other), in nats.

    p and p_other are what the two models expect of the next character. It is 0 where they expect
    the same, and never less; what the text really goes on with does not matter (None: the
    calibration text).
    """
    return _mean_kl(*(log_probabilities(m, text, n) for m in (model, other)))


def sensitivity(
    model: GPT, scheme: Scheme, text: str | None = None, n: int = CALIBRATION
) -> dict[str, float]:
    """The divergence from the model when one matrix alone is quantized, for each matrix."""
    log_p, harm = log_probabilities(model, text, n), {}
    for name in weight_matrices(model):
        other = quantized(model, {name: scheme})
        harm[name] = _mean_kl(log_p, log_probabilities(other, text, n))
    return harm


@torch.no_grad()
def log_probabilities(model: GPT, text: str | None = None, n: int = CALIBRATION) -> Tensor:
    """log p of every character coming next, after each of the first n: float64 [n, 94]."""
    model = in_float64(model)
    inputs, _ = windows(model, calibration_text() if text is None else text, n)
    logits = torch.cat([model(some) for some in inputs.split(WINDOWS_AT_ONCE)])
    return logits.flatten(0, 1).log_softmax(-1)


def _mean_kl(log_p: Tensor, log_other: Tensor) -> float:
    return running.kl(log_p, log_other).mean().item()


def packed_bytes(w: Tensor, scheme: Scheme) -> float:
    """Bytes of a matrix under a scheme: codes packed, with their scales and zero points."""
    return quantize(w, scheme).packed_nbytes


def model_bytes(model: nn.Module, scheme: Scheme | dict[str, Scheme]) -> float:
    """Bytes of all weights: matrices under a scheme or a plan, the rest as they are.

    The rest are the position embedding, the biases and the norms, and matrices not in the plan.
    """
    matrices = weight_matrices(model)
    plan = make_plan(matrices, scheme)
    saved = sum(matrices[name].nbytes - packed_bytes(matrices[name], s) for name, s in plan.items())
    return sum(w.nbytes for w in model.parameters()) - saved


def squared_error(w: Tensor, scheme: Scheme) -> float:
    """Mean of (w - w_hat)^2 under a scheme."""
    checks.known("w", w)
    return mse(w, quantize(w, scheme).dequantize()).item()


def greedy_plan(damage: Costs, size: Costs, budget: float) -> dict[str, Scheme]:
    """The plan of at most `budget` bytes that a greedy search finds.

    damage, size  {name: {scheme: nats or bytes}}: what each matrix costs under each scheme

    It starts with the largest scheme for every matrix. Each step replaces one of them, where the
    damage grows least for a byte saved, until the sizes add up to the budget.
    """
    checks.number("budget", budget)
    smallest = sum(min(options.values()) for options in size.values())
    if budget < smallest:
        raise ValueError(f"budget is {budget:g} bytes: the smallest plan takes {smallest:g}.")
    plan = {name: max(options, key=options.__getitem__) for name, options in size.items()}

    def price(name: str, scheme: Scheme) -> float:
        saved = size[name][plan[name]] - size[name][scheme]
        return (damage[name][scheme] - damage[name][plan[name]]) / saved

    while sum(size[name][scheme] for name, scheme in plan.items()) > budget:
        moves = [(n, s) for n in plan for s in size[n] if size[n][s] < size[n][plan[n]]]
        name, scheme = min(moves, key=lambda move: price(*move))
        plan[name] = scheme
    return plan
