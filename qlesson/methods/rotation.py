"""Hadamard rotation: spread outliers out (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456).

Random orthogonal matrices come from QuIP (Chee et al. 2023, arXiv:2307.13304), as Kronecker
products of two; Hadamard's, which are cheap to apply, from QuIP# (Tseng et al. 2024,
arXiv:2402.04396).

H has entries 1 and -1 and orthogonal rows, H H^T = n I. So M = diag(signs) H / sqrt(n) is a
rotation, and for any rotation

    x W^T = (x M) (W M)^T

Each rotated input is a sum of all n inputs with random signs over sqrt(n): one large input becomes
n of equal size (notebook 11).

Both papers choose the codes of the rotated weight by its inputs, QuIP as GPTQ does, QuaRot by GPTQ;
`rotate` takes the nearest ones. `gptq` of W M on the inputs x M does as they do, and is better.

QuaRot folds its rotations into the layers around and rotates a model as a whole, as
`qlesson.models.llama.rotated` does; here each layer rotates its own input, with the same signs. A
width that is no power of two is rotated in blocks, where QuaRot takes other Hadamard matrices.
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import rounded
from qlesson.methods.result import Result, _checked_weight
from qlesson.nn.factor import Rotation
from qlesson.qtensor import FindRange, quantize_by
from qlesson.scheme import Scheme


def hadamard(n: int) -> Tensor:
    """Sylvester's matrix of 1 and -1, [n, n], for n a power of two: H_2n = [[H, H], [H, -H]]."""
    checks.whole("n", n, low=1)
    if n & (n - 1):
        raise ValueError(
            f"n: this Hadamard matrix needs a power of two, got {n}: take blocks, as `rotate` does."
        )
    h = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], dim=1), torch.cat([h, -h], dim=1)])
    return h


def random_rotation(n: int, seed: int = 0) -> Tensor:
    """M = diag(signs) H / sqrt(n), [n, n]: orthogonal, M M^T = I. The signs are random.

    To look at: a layer keeps a `qlesson.nn.Rotation`, which multiplies by it without the matrix.
    """
    checks.whole("n", n, low=1)
    return Rotation(n, 1, seed).signs()[:, None] * hadamard(n) / n**0.5


@torch.no_grad()
def rotate(
    weight: Tensor,
    inputs: Tensor | None,
    scheme: Scheme,
    find_range: FindRange | None = None,
    seed: int = 0,
) -> Result:
    """Quantize W M; the inputs are to be multiplied by M. Their values are not looked at.

    weight  [out, in]. M has the largest blocks that divide `in`, which must be even: one block for
            a power of two, 192 = 3 x 64, 576 = 9 x 64
    inputs  [samples, in], or None
    find_range  where the range of W M comes from, as in `ql.choose_qparams`
    """
    weight = _checked_weight(weight, inputs)
    rotation = Rotation.of_width(weight.shape[1], seed)
    rotated = rounded(rotation.apply(weight.double()), weight.dtype)
    return Result(quantize_by(find_range, rotated, scheme), factor=rotation)
