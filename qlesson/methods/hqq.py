"""HQQ, half-quadratic quantization: a better zero point from the weights alone   (notebook 11).

Badri and Shaji 2023, mobiusml.github.io/hqq_blog, and their code, github.com/mobiusml/hqq,
`optimize_weights_proximal_v2`. The scale s stays that of the range. The zero point z, a real
number, is to lower sum |W - W_hat|^p with p = 0.7: with E the errors that are forgiven,

    E = shrink(W - W_hat),   z = mean of q - (W - E) / s over each block

alternate until the mean of |W - W_hat| over the matrix falls no more. Here minimum = -s z is
fitted, as the mean of (W - E) - s q. E has the units of W: at beta = 10 no error below 0.17 is
forgiven, in the last of 20 steps none below 0.147. Where none is, the fit is least squares.

Departures. W_hat is what comes back from scale and minimum as they are stored, and all is computed
in float64, theirs in float32 or float16. Their last fit of 20 is kept untried, ours if its mean is
less. Their least range (1e-4) and largest 1 / s (2e4) are left out. What their package runs by
default is older than v2: its beta does not grow, and the fit behind the best one is kept.
"""

import torch
from torch import Tensor

from qlesson import blocks, checks
from qlesson.affine import dequantize_blocks, quantize_blocks, rounded
from qlesson.granularity import PerGroup, rows
from qlesson.methods.result import Result, _checked_weight
from qlesson.qtensor import FindRange
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
    """Quantize W [out, in] to Blocks with the minimum of least mean |W - W_hat| that is met.

    The first is that of `blocks.choose_steps`, whose rounding so has no smaller mean; `scheme` and
    find_range are as there: PerAxis(0) or PerGroup(size), asymmetric. inputs are not used.
    """
    weight = _checked_weight(weight, inputs)
    scale, minimum = blocks.choose_steps(weight, scheme, find_range)
    size = blocks.block_size(scheme, weight.shape)
    w, there = rows(PerGroup(size), weight.double())
    s, m = (x.reshape(-1, 1).double() for x in (scale, minimum))
    least = torch.inf
    for step in range(STEPS + 1):
        q = quantize_blocks(w, s, m, scheme.reach)
        off = w - dequantize_blocks(q, s, m)
        mean = (there * off.abs()).sum().item() / weight.numel()
        if not mean < least:
            break
        least, minimum = mean, m.reshape(scale.shape).to(scale.dtype)
        kept = w - shrink(off, BETA * GROWTH**step)
        m = (there * (kept - s * q)).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        m = rounded(m, scale.dtype).double()
    return Result(blocks.quantize_blocks(weight, scale, minimum, scheme.bits, size))
