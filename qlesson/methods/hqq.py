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
from qlesson.affine import (
    QParams,
    computing,
    dequantize_affine,
    quantize_affine,
    stored,
    too_small,
)
from qlesson.methods.result import Result, _checked_weight
from qlesson.qtensor import FindRange, choose_qparams, quantize
from qlesson.scheme import Scheme

P, BETA, GROWTH, STEPS = 0.7, 10.0, 1.01, 20  # the authors' values


def shrink(x: Tensor, beta: float) -> Tensor:
    """sign(x) max(|x| - |x|^(p-1)/beta, 0), nearly the E of least |E|^p / p + beta/2 (E-x)^2."""
    checks.numbers("x", x)
    checks.number("beta", beta, "a number above 0", lambda beta: beta > 0)
    return x.sign() * (x.abs() - x.abs().pow(P - 1) / beta).clamp(min=0)


@torch.no_grad()
def hqq(
    weight: Tensor, inputs: Tensor | None, scheme: Scheme, find_range: FindRange | None = None
) -> Result:
    """Quantize W [out, in], each block with the scale of least sum |W - W_hat|^p that is met.

    The first is that of rounding to nearest, so no sum is larger than its. inputs are not used.

    find_range  where the first scale comes from, as in `ql.choose_qparams`
    """
    weight = _checked_weight(weight, inputs)
    qparams = choose_qparams(weight, scheme, find_range)
    w, there = scheme.granularity.rows(weight.to(computing(weight.dtype)))
    scale, zero_point = (x.reshape(-1, 1) for x in qparams)
    rounding = scheme.quant_min, scheme.quant_max, w.dtype, scheme.rounding
    best, least = scale, torch.full_like(scale, torch.inf, dtype=torch.float64)
    for step in range(STEPS + 1):
        q = quantize_affine(w, scale, zero_point, *rounding)
        error = w.double() - dequantize_affine(q, scale, zero_point)
        cost = (there * error.abs().pow(P)).sum(1, keepdim=True)
        best, least = torch.where(cost < least, scale, best), torch.minimum(cost, least)
        s, q = scale.double(), (q - zero_point).double()
        kept = w - s * shrink(error / s, BETA * GROWTH**step)
        fitted = (there * kept * q).sum(1, keepdim=True) / (there * q * q).sum(1, keepdim=True)
        fitted = stored(fitted, scale.dtype)
        usable = ~too_small(fitted) & torch.isfinite(fitted)  # a block of zeros has none: 0 / 0
        scale = torch.where(usable, fitted, scale)
    chosen = QParams(best.reshape(qparams.scale.shape), qparams.zero_point)
    return Result(quantize(weight, scheme, chosen))
