"""Hadamard rotation (QuaRot, arXiv:2404.00456): spread outliers out.

QuIP (arXiv:2307.13304) multiplies by random orthogonal matrices; Hadamard's are cheap to apply.

H has entries 1 and -1 and orthogonal rows, H H^T = n I. So M = diag(signs) H / sqrt(n) is a
rotation, and for any rotation

    x W^T = (x M) (W M)^T

Each rotated input is a sum of all n inputs with random signs over sqrt(n): one large input becomes
n of equal size (notebook 11).
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import rounded
from qlesson.methods.result import Result
from qlesson.qtensor import FindRange, quantize_by
from qlesson.scheme import Scheme


def hadamard(n: int) -> Tensor:
    """Sylvester's matrix of 1 and -1, [n, n], for n a power of two: H_2n = [[H, H], [H, -H]]."""
    checks.whole("n", n, low=1)
    if n & (n - 1):
        raise ValueError(
            f"n: this Hadamard matrix needs a power of two, got {n}: fill weight and inputs up "
            "with columns of zeros."
        )
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], dim=1), torch.cat([h, -h], dim=1)])
    return h


def random_rotation(n: int, seed: int = 0) -> Tensor:
    """M = diag(signs) H / sqrt(n), [n, n]: orthogonal, M M^T = I. The signs are random."""
    checks.whole("n", n, low=1)
    checks.whole("seed", seed, 0, 2**63 - 1)
    signs = torch.randint(0, 2, (n, 1), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return signs * hadamard(n) / n**0.5


@torch.no_grad()
def rotate(
    weight: Tensor,
    inputs: Tensor,
    scheme: Scheme,
    find_range: FindRange | None = None,
    seed: int = 0,
) -> Result:
    """Quantize W M; the inputs are to be multiplied by M. Their values are not looked at.

    weight  [out, in]; `in` must be a power of two
    inputs  [samples, in]
    find_range  where the range of W M comes from, as in `ql.choose_qparams`
    """
    weight, inputs = checks.layer(weight, inputs)
    m = random_rotation(weight.shape[1], seed).to(weight.device)
    rotated = rounded(weight.double() @ m, weight.dtype)  # in float64 every machine gets the same
    return Result(quantize_by(find_range, rotated, scheme), factor=rounded(m, weight.dtype))
