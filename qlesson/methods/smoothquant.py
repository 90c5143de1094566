"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): move outliers from inputs into weights.

Dividing input channel j by s_j and multiplying column j of the weight by s_j changes no output:

    x W^T = (x / s) (W * s)^T

An input channel with outliers gets a large s_j. Then the inputs are easy to quantize, and the
weight is a little harder (section 4, and notebook 11).

The authors fold 1 / s into the norm before, so that layers behind one norm share it; here each
layer has its own. `qlesson.nn.fold` moves a factor into the norm, where one layer follows.
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.methods.result import Result
from qlesson.qtensor import FindRange, quantize_by
from qlesson.scheme import Scheme


@torch.no_grad()
def smoothing_scales(weight: Tensor, inputs: Tensor, alpha: float = 0.5) -> Tensor:
    """s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), [in]   (equation 4 of the paper).

    alpha = 0 makes every column of the weight equally large, alpha = 1 every input channel.
    A channel whose inputs or weights are all zero gets s_j = 1, as does one so near to zero that
    s_j or 1 / s_j is no normal number of float32.
    """
    weight, inputs = checks.layer(weight, inputs)
    checks.share("alpha", alpha)
    x_max, w_max = inputs.abs().amax(dim=0).double(), weight.abs().amax(dim=0).double()
    s = x_max.pow(alpha) / w_max.pow(1 - alpha)
    normal = torch.minimum(s, 1 / s) >= torch.finfo(torch.float32).tiny
    return torch.where((x_max > 0) & (w_max > 0) & normal, s, 1).float()


@torch.no_grad()
def smoothquant(
    weight: Tensor,
    inputs: Tensor,
    scheme: Scheme,
    find_range: FindRange | None = None,
    alpha: float = 0.5,
) -> Result:
    """Quantize W * s; the inputs are to be multiplied by 1 / s, and then quantized too.

    weight  [out, in]
    inputs  [samples, in], for the largest magnitude of each channel
    find_range  where the range of W * s comes from, as in `ql.choose_qparams`
    """
    s = smoothing_scales(weight, inputs, alpha)
    return Result(quantize_by(find_range, weight.detach() * s, scheme), factor=1 / s)
