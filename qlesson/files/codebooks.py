"""Where the formula ends: 4-bit values that are not evenly spaced (notebook 08).

A codebook lists the values that can come back, before the scale. The formula of `affine` has the
book -8, -7 ... 7; a 4-bit float and NF4 have others. Each function here takes r to the values that
come back, with one scale for each block of neighbours on the last axis. NaN, infinity, an empty r
and a last axis that is not made of whole blocks raise ValueError.
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import two_to

E4M3_MAX = 448.0  # the largest torch.float8_e4m3fn
E2M1_MAX = 6.0


def e2m1() -> Tensor:
    """The magnitudes of a 4-bit float: 1 sign bit, 2 exponent bits e, 1 mantissa bit m.

    2^(e - 1) * (1 + m / 2), and m / 2 for e = 0: 0, 0.5, 1, 1.5, 2, 3, 4, 6. OCP Microscaling
    Formats (MX) specification 1.0.
    """
    e, m = torch.arange(8) // 2, torch.arange(8, dtype=torch.float32) % 2
    return torch.where(e > 0, two_to(e - 1).float() * (1 + m / 2), m / 2)


def nf4() -> Tensor:
    """The 16 values of NormalFloat: quantiles of the normal distribution, the largest scaled to 1.

    Eight steps of equal probability above 0, seven below, and 0 itself. Dettmers et al. 2023
    (QLoRA), arXiv:2305.14314.
    """
    last = 1 - (1 / 32 + 1 / 30) / 2  # the authors' offset: at 1 the quantile is infinite
    above = torch.special.ndtri(torch.linspace(0.5, last, 9, dtype=torch.float64))
    below = -torch.special.ndtri(torch.linspace(0.5, last, 8, dtype=torch.float64))
    return (torch.cat([below[1:].flip(0), above]) / above[-1]).float()


@torch.no_grad()
def nearest(r: Tensor, book: Tensor) -> Tensor:
    """For each r the nearest value of a sorted book, on r's device; a tie to the even index.

    Raises TypeError for complex numbers and truth values, and ValueError for NaN, infinity, and a
    book that is not sorted.
    """
    for name, x in (("r", r), ("book", book)):
        checks.finite(name, checks.numbers(name, x).double())
    if book.ndim != 1 or not checks.ascending(book):
        raise ValueError(
            f"book must be one row of values in ascending order, got the shape "
            f"{tuple(book.shape)}: use book.flatten().sort().values."
        )
    return _nearest(r, book)


def _nearest(r: Tensor, book: Tensor) -> Tensor:
    """The same, of what was checked. The middle of two floats is one only in float64."""
    r, book = r.as_subclass(Tensor), book.as_subclass(Tensor).to(r.device)
    wide = book.double()
    middles = (wide[1:] + wide[:-1]) / 2
    index = torch.bucketize(r.double(), middles)
    tie = index != torch.bucketize(r.double(), middles, right=True)
    return book[index + (tie & (index % 2 == 1))]


@torch.no_grad()
def mxfp4(r: Tensor) -> Tensor:
    """MXFP4: blocks of 32 share a power of two; 4 + 8 / 32 = 4.25 bits per value.

    scale = 2^(floor(log2 max|r|) - 2): the exponent of the largest value becomes that of 4 and 6.
    What is then above 6 is clipped. OCP Microscaling Formats (MX) specification 1.0.
    """
    blocks = _blocks(r, 32)
    exponent = torch.frexp(blocks.abs().amax(-1, keepdim=True)).exponent - 1
    scale = two_to((exponent - 2).clamp(-127, 127).long()).float()
    return (scale * _signed_e2m1(blocks / scale)).flatten(-2)


@torch.no_grad()
def nvfp4(r: Tensor) -> Tensor:
    """NVFP4: blocks of 16 share an E4M3 scale; 4 + 8 / 16 = 4.5 bits per value, and 32 a tensor.

    One float32 scale for the tensor brings the blocks' scales, max|r| / 6, into E4M3's range.
    NVIDIA 2025, *Pretraining Large Language Models with NVFP4*, arXiv:2509.25149.
    """
    blocks = _blocks(r, 16)
    largest = blocks.abs().amax(-1, keepdim=True) / E2M1_MAX
    whole = largest.amax() / largest.new_tensor(E4M3_MAX)
    whole = whole.clamp(min=2.0**-120)  # times the smallest E4M3 it is still a normal float32
    smallest = torch.finfo(torch.float8_e4m3fn).tiny
    scale = (largest / whole).clamp(min=smallest).to(torch.float8_e4m3fn).float() * whole
    return (scale * _signed_e2m1(blocks / scale)).flatten(-2)


@torch.no_grad()
def nf4_blocks(r: Tensor) -> Tensor:
    """NF4: blocks of 64 share a float32 scale max|r|; 4 + 32 / 64 = 4.5 bits per value.

    QLoRA quantizes these scales once more; that is left out here.
    """
    blocks = _blocks(r, 64)
    scale = blocks.abs().amax(-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    return (scale * _nearest(blocks / scale, nf4())).flatten(-2)


def _blocks(r: Tensor, size: int) -> Tensor:
    """r as float32 [..., blocks, size]. Raises ValueError where it has no such blocks."""
    r = checks.numbers("r", r)
    if r.ndim == 0 or r.shape[-1] % size:
        raise ValueError(
            f"r has shape {tuple(r.shape)}, but its last axis must be made of whole blocks of "
            f"{size} values: fill it up with zeros."
        )
    r = r.float()
    if not checks.all_finite(r):
        raise ValueError(
            "r holds NaN or values that are infinite in float32: remove or replace them first, "
            "for example with torch.nan_to_num(r)."
        )
    return r.unflatten(-1, (-1, size))


def _signed_e2m1(x: Tensor) -> Tensor:
    return torch.copysign(_nearest(x.abs(), e2m1()), x)
