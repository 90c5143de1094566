"""HQQ, half-quadratic quantization (Badri and Shaji 2023, mobiusml.github.io/hqq_blog): a better
scale from the weights alone, without inputs   (notebook 11).

Squares let the few largest errors decide. HQQ lowers sum |W - W_hat|^p with p = 0.7, which
forgives them: it splits off the errors E to forgive, and alternates, for each block,

    E = shrink(W - W_hat),   s = sum (W - E)(q - z) / sum (q - z)^2

where s is the least squares fit of W - E = s (q - z). The authors solve for z instead, which they
keep as a real number; here z is a code. They measure E in units of W, we in steps.
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.methods.result import Result
from qlesson.qtensor import choose_qparams, quantize
from qlesson.scheme import Scheme

P, BETA, GROWTH, STEPS = 0.7, 10.0, 1.01, 20  # the authors' values


def shrink(x: Tensor, beta: float, p: float = P) -> Tensor:
    """sign(x) max(|x| - |x|^(p-1)/beta, 0), nearly the E of least |E|^p / p + beta/2 (E-x)^2."""
    checks.numbers("x", x)
    checks.number("beta", beta, "a number above 0", lambda beta: beta > 0)
    size = x.abs()
    return x.sign() * (size - size.clamp(min=1e-30).pow(p - 1) / beta).clamp(min=0)


@torch.no_grad()
def hqq(weight: Tensor, inputs: Tensor | None, scheme: Scheme) -> Result:
    """Quantize W [out, in], each block with the scale of least sum |W - W_hat|^p that is met.

    The first is that of rounding to nearest, so no sum is larger than its. inputs are not used.
    """
    weight, _ = checks.layer(weight, inputs, optional=True)
    scale, zero_point = choose_qparams(weight, scheme)
    block = _block_numbers(weight, scale, scheme.granularity)
    w, z = weight.double(), zero_point.double().flatten()[block]
    best, least = scale, torch.full_like(scale, torch.inf, dtype=torch.float64)
    for step in range(STEPS + 1):
        s, x = scale.double().flatten()[block], quantize(weight, scheme, (scale, zero_point))
        error, codes = w - x.dequantize(torch.float64), x.q - z
        cost = _sums(error.abs().pow(P), block, scale)
        best, least = torch.where(cost < least, scale, best), torch.minimum(cost, least)
        kept = w - s * shrink(error / s, BETA * GROWTH**step)
        fitted = _sums(kept * codes, block, scale) / _sums(codes.square(), block, scale)
        scale = torch.where(fitted > 1e-30, fitted, scale).to(scale.dtype)
    return Result(quantize(weight, scheme, (best, zero_point)))


def _block_numbers(weight, scale, g) -> Tensor:
    """Which scale each weight uses, counted from 0."""
    numbers = torch.arange(scale.numel(), device=weight.device).view(scale.shape)
    return g.join(g.align(numbers).expand_as(g.split(weight)), weight.shape)


def _sums(x, block, scale) -> Tensor:
    """The sum of x over each block, in the shape of the scale."""
    return torch.bincount(block.flatten(), x.flatten(), minlength=scale.numel()).view(scale.shape)
