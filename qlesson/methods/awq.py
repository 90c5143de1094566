"""AWQ (Lin et al. 2023, arXiv:2306.00978): protect the weight columns that meet large inputs.

A column multiplied by s before it is quantized, and divided by s after, keeps about the same step
and so errs s times less. Columns that meet large inputs matter most for the output, so

    s_j = (mean |X_j|)^alpha

and alpha is searched for on calibration inputs (notebook 11). The paper's second search, for a clip
limit, is left out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from qlesson import checks
from qlesson.methods.result import Result
from qlesson.qtensor import FindRange, quantize_by
from qlesson.scheme import Scheme

ALPHAS = tuple(i / 20 for i in range(21))


@torch.no_grad()
def awq_scales(inputs: Tensor, alpha: float) -> Tensor:
    """s_j = (mean |X_j|)^alpha, [in], where the mean is relative to the mean of all channels.

    A channel counts as at least 0.0001 of that mean, so that no s_j is 0.
    """
    inputs = checks.samples("inputs", inputs)
    checks.share("alpha", alpha)
    size = inputs.double().abs().mean(dim=0)
    size = size / size.mean().clamp(min=1e-300)
    return size.clamp(min=1e-4).pow(alpha).float()


@torch.no_grad()
def awq(
    weight: Tensor,
    inputs: Tensor,
    scheme: Scheme,
    find_range: FindRange | None = None,
    alphas: Sequence[float] = ALPHAS,
) -> Result:
    """Quantize W * s, with the alpha of the smallest output error on the calibration inputs.

    weight  [out, in]
    inputs  [samples, in]
    find_range  where the range of W * s comes from, as in `ql.choose_qparams`
    alphas  the exponents to try. With 0 among them s = 1 is tried, so the output error on these
            inputs is never larger than that of rounding to nearest.

    The layer's inputs are to be multiplied by 1 / s.
    """
    weight, inputs = checks.layer(weight, inputs)
    checks.scheme("scheme", scheme)
    if not len(alphas):
        raise ValueError("alphas is empty: give at least one exponent, such as 0.")
    h, tried = inputs.double().T @ inputs.double(), []
    for alpha in alphas:
        s = awq_scales(inputs, alpha)
        result = Result(quantize_by(find_range, weight * s, scheme), factor=1 / s)
        d = weight.double() - result.float_weight().double()
        tried.append((((d @ h) * d).sum().item(), result))  # squared error of all outputs
    return min(tried, key=lambda pair: pair[0])[1]
