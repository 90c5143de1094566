"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): later columns make up for the earlier ones.

For a row d of W - W_hat, the squared output error on the inputs X is d H d^T with H = X^T X. After
column j is rounded, the best move of the later columns of its row is -e * U[j, j+1:], where U is
the upper Cholesky factor of H^-1 and e = (w_j - w_hat_j) / U[j, j]   (notebook 11).

It is the best for real numbers. The later columns are rounded in their turn, so nothing is
guaranteed in general: GPTQ can lose to plain rounding. Left out: the order by activation.
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import QParams, dequantize_affine, quantize_affine, rounded
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.methods.result import Result
from qlesson.qtensor import FindRange, QTensor, choose_qparams
from qlesson.scheme import Scheme


@torch.no_grad()
def gptq(
    weight: Tensor,
    inputs: Tensor,
    scheme: Scheme,
    find_range: FindRange | None = None,
    damping: float = 0.01,
) -> Result:
    """Quantize W [out, in] so that its outputs on inputs [samples, in] stay near.

    scheme   per tensor, PerAxis(0) or PerGroup(size); a group's scale is chosen in its turn
    find_range  where the range of a row or group comes from, as in `ql.choose_qparams`
    damping  this share of H's mean diagonal is added to its diagonal, so that H has an inverse
    """
    weight, inputs = checks.layer(weight, inputs)
    checks.scheme("scheme", scheme)
    w, u, codes, qparams = weight.double().clone(), inverse_factor(inputs, damping), [], []
    size, (low, high) = _columns_per_scale(scheme, w.shape[1]), (scheme.quant_min, scheme.quant_max)
    for j in range(w.shape[1]):
        if j % size == 0:
            qparams.append(
                choose_qparams(rounded(w[:, j : j + size], weight.dtype), scheme, find_range)
            )
        q = quantize_affine(w[:, [j]], *qparams[-1], low, high, scheme.dtype, scheme.rounding)
        codes.append(q)
        error = (w[:, [j]] - dequantize_affine(q, *qparams[-1])) / u[j, j]
        w[:, j + 1 :] -= error * u[j, j + 1 :]
    groups = zip(*qparams, strict=True)
    joined = qparams[0] if len(qparams) == 1 else QParams(*map(torch.hstack, groups))
    return Result(QTensor(torch.hstack(codes), *joined, scheme))


def inverse_factor(inputs: Tensor, damping: float) -> Tensor:
    """U with U^T U = (H + damping * mean(diag H) * I)^-1, upper triangular, in float64."""
    inputs = checks.samples("inputs", inputs)
    checks.number("damping", damping)
    h = inputs.double().T @ inputs.double()
    h.diagonal().add_(damping * h.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise ValueError("H = X^T X has no inverse: give more inputs, not all 0, or more damping.")
    return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)


def _columns_per_scale(scheme: Scheme, columns: int) -> int:
    """How many neighbouring columns share a scale."""
    g = scheme.granularity
    if type(g) is PerGroup and g.axis in (1, -1):
        return g.group_size
    if g in (PerTensor(), PerAxis(0), PerAxis(-2)):
        return columns
    raise ValueError(f"scheme: GPTQ needs PerTensor(), PerAxis(0) or PerGroup(size), got {g}.")
