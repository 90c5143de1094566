"""AWQ's second search (Lin et al. 2023, arXiv:2306.00978, and mit-han-lab/llm-awq): a limit for the
weights of each block, so that its share of the output errs least.

For a block B of columns the share of row d of W - W_hat is sum_x (x_B d_B)^2 = d_B H_BB d_B^T.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from qlesson import checks
from qlesson.qtensor import FindRange, QTensor, quantize_by
from qlesson.scheme import Scheme

LIMITS = tuple((20 - i) / 20 for i in range(10))  # of the block's largest magnitude: 1 to 0.55


@torch.no_grad()
def clipped(
    weight: Tensor, inputs: Tensor, scheme: Scheme, find_range: FindRange | None = None
) -> QTensor:
    """The codes of W [out, in], each block clipped at the first of LIMITS of least error."""
    weight, inputs = checks.layer(weight, inputs)
    checks.scheme("scheme", scheme)
    largest = scheme.granularity.reduce(torch.amax, weight.abs())
    h, best = _h_of_blocks(inputs, scheme, weight.shape), torch.ones_like(largest)
    least = torch.full_like(largest, torch.inf, dtype=torch.float64)
    for limit in LIMITS:
        tried = quantize_by(find_range, _clip(weight, largest * limit, scheme), scheme)
        error = _shares(weight.double() - tried.dequantize(torch.float64), h, scheme)
        best = torch.where(error < least, limit, best)
        least = torch.minimum(error, least)
    return quantize_by(find_range, _clip(weight, largest * best, scheme), scheme)


def _clip(weight: Tensor, limit: Tensor, scheme: Scheme) -> Tensor:
    blocks, limit = scheme.granularity.split(weight), scheme.granularity.align(limit)
    return scheme.granularity.join(blocks.clamp(-limit, limit), weight.shape)


def _h_of_blocks(inputs: Tensor, scheme: Scheme, shape: torch.Size) -> Tensor:
    """X_B^T X_B, [blocks along a row, columns, columns]."""
    _, columns = scheme.granularity.block_shape(shape)
    x = _in_blocks(inputs.double(), columns)
    return torch.einsum("xbi,xbj->bij", x, x)


def _shares(d: Tensor, h: Tensor, scheme: Scheme) -> Tensor:
    """d_B H_BB d_B^T, summed over the rows that share a scale, in the scale's shape."""
    rows, columns = scheme.granularity.block_shape(d.shape)
    blocks = _in_blocks(d, columns)
    each = torch.einsum("rbi,bij,rbj->rb", blocks, h, blocks)
    summed = torch.stack([part.sum(0) for part in each.split(rows)])
    return summed.reshape(scheme.granularity.scale_shape(d.shape))


def _in_blocks(x: Tensor, columns: int) -> Tensor:
    """[..., blocks, columns], a short last block filled up with zeros."""
    return F.pad(x, (0, -x.shape[-1] % columns)).unflatten(-1, (-1, columns))
