"""AWQ (Lin et al. 2023, arXiv:2306.00978): protect the weight columns that meet large inputs.

A column multiplied by s before it is quantized, and divided by s after, keeps about the same step
and so errs s times less. Columns that meet large inputs matter most for the output, so

    s_j = (mean |X_j|)^alpha      (section 3.2, equation 5)

and alpha is searched for on calibration inputs. Then each row or group of W * s is clipped as far
as its own share of the output errs least   (notebook 11).

Constants and clip are those of the authors' program, mit-han-lab/llm-awq. Otherwise than there: the
output is that of this layer alone, where they take the whole attention for q, k and v together; the
clip is searched on all of the inputs, where they take 512; and no layer is left out of it, where
they leave out q and k: clip=False is for those, and in a weight that holds q, k and v for the rows
of q and k alone. All errors are summed in float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from qlesson import checks
from qlesson.methods.clip import clipped
from qlesson.methods.result import Result
from qlesson.qtensor import FindRange, quantize_by
from qlesson.scheme import Scheme

ALPHAS = tuple(i / 20 for i in range(20))


@torch.no_grad()
def awq_scales(inputs: Tensor, alpha: float) -> Tensor:
    """s_j = (mean |X_j|)^alpha, at least 0.0001, over sqrt(max s * min s): [in]."""
    inputs = checks.samples("inputs", inputs)
    checks.share("alpha", alpha)
    s = inputs.double().abs().mean(dim=0).pow(alpha).clamp(min=1e-4)
    return (s / (s.max() * s.min()).sqrt()).float()


@torch.no_grad()
def awq(
    weight: Tensor,
    inputs: Tensor,
    scheme: Scheme,
    find_range: FindRange | None = None,
    alphas: Sequence[float] = ALPHAS,
    clip: bool = True,
) -> Result:
    """Quantize W * s, with the alpha of the smallest output error on the calibration inputs.

    weight  [out, in]
    inputs  [samples, in]
    find_range  where the range of W * s, clipped, comes from, as in `ql.choose_qparams`
    alphas  the exponents to try. With 0 among them s = 1 is tried, so the output error on these
            inputs is never larger than that of rounding to nearest, if nothing is clipped.
    clip    whether to search for a limit too

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
        tried.append((((d @ h) * d).sum().item(), s, result))  # squared error of all outputs
    _, s, result = min(tried, key=lambda one: one[0])
    if not clip:
        return result
    return Result(clipped(weight * s, inputs / s, scheme, find_range), factor=1 / s)
