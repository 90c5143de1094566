"""GPTQ (Frantar et al. 2022, arXiv:2210.17323, section 3): later columns make up for the earlier.

For a row d of W - W_hat, the squared output error on the inputs X is d H d^T with H = X^T X. After
column j is rounded, the best move of the later columns of its row is -e * U[j, j+1:], where U is
the upper Cholesky factor of H^-1 and e = (w_j - w_hat_j) / U[j, j]   (notebook 11).

It is the best for real numbers. The later columns are rounded in their turn, so nothing is
guaranteed in general: GPTQ can lose to plain rounding.

Otherwise than the authors' program (IST-DASLab/gptq): all is computed in float64; each column moves
all later ones at once, where they collect the moves of 128; a column whose inputs are all 0 is
rounded, where they set it to 0. The order by activation is theirs ("actorder"), and with it the
scales of groups are chosen before any column has moved ("static groups").
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
    order: str = "columns",
) -> Result:
    """Quantize W [out, in] so that its outputs on inputs [samples, in] stay near.

    scheme   per tensor, PerAxis(0) or PerGroup(size)
    find_range  where the range of a row or group comes from, as in `ql.choose_qparams`
    damping  this share of H's mean diagonal is added to its diagonal, so that H has an inverse
    order    "columns": as they stand, and a group's scale is chosen in its turn, from its columns
             as they then are. "activation": the largest H[j, j] first; scales come from W
    """
    weight, inputs = checks.layer(weight, inputs)
    checks.scheme("scheme", scheme)
    checks.one_of("order", order, ("columns", "activation"))
    size, low, high = _columns_per_scale(scheme, weight), scheme.quant_min, scheme.quant_max
    turn = torch.arange(weight.shape[1], device=weight.device)
    chosen = {}  # the scales of each group
    if order == "activation":
        turn = inputs.double().square().sum(0).argsort(descending=True, stable=True)
        parts = enumerate(weight.split(size, dim=1))
        chosen = {group: choose_qparams(part, scheme, find_range) for group, part in parts}
    w, u = weight.double()[:, turn], inverse_factor(inputs[:, turn], damping)
    codes = torch.empty_like(weight, dtype=scheme.dtype)
    for k, j in enumerate(turn.tolist()):
        if j // size not in chosen:
            now = rounded(w[:, k : k + size], weight.dtype)
            chosen[j // size] = choose_qparams(now, scheme, find_range)
        qparams = chosen[j // size]
        codes[:, [j]] = quantize_affine(
            w[:, [k]], *qparams, low, high, scheme.dtype, scheme.rounding
        )
        error = (w[:, [k]] - dequantize_affine(codes[:, [j]], *qparams)) / u[k, k]
        w[:, k + 1 :] -= error * u[k, k + 1 :]
    groups = zip(*(chosen[group] for group in range(len(chosen))), strict=True)
    joined = chosen[0] if len(chosen) == 1 else QParams(*map(torch.hstack, groups))
    return Result(QTensor(codes, *joined, scheme))


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


def _columns_per_scale(scheme: Scheme, weight: Tensor) -> int:
    """How many neighbouring columns share a scale."""
    g = scheme.granularity
    if type(g) is PerGroup and g.axis in (1, -1):
        return g.group_size
    if g in (PerTensor(), PerAxis(0), PerAxis(-2)):
        return weight.shape[1]
    raise ValueError(f"scheme: GPTQ needs PerTensor(), PerAxis(0) or PerGroup(size), got {g}.")
