"""Where the formula ends: 4-bit values as files store them, even and uneven (notebook 08).

A codebook lists the values that can come back, before the scale. The formula of `affine` has the
book -8, -7 ... 7; a 4-bit float and NF4 have others. `mxfp4`, `nvfp4`, `nf4_blocks` and `q4_0` take
r to the values that come back, in float32, with one scale for each block of neighbours on the last
axis. NaN, infinity, an empty r and a last axis that is not made of whole blocks raise ValueError.

The nearest value of a book is found in float64, and scale * value is rounded once, to float32.
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import two_to
from qlesson.blocks import Blocks
from qlesson.files.blockwise import as_half, in_blocks, inverse

E4M3_MAX = 448.0  # the largest torch.float8_e4m3fn
E2M1_MAX = 6.0


def e2m1() -> Tensor:
    """The magnitudes of a 4-bit float: 1 sign bit, 2 exponent bits e, 1 mantissa bit m.

    2^(e - 1) * (1 + m / 2), and m / 2 for e = 0: 0, 0.5, 1, 1.5, 2, 3, 4, 6. OCP Microscaling
    Formats (MX) specification 1.0.
    """
    code = torch.arange(8, device="cpu")
    e, m = code // 2, (code % 2).float()
    return torch.where(e > 0, two_to(e - 1).float() * (1 + m / 2), m / 2)


def nf4() -> Tensor:
    """The 16 values of NormalFloat: quantiles of the normal distribution, the largest scaled to 1.

    Eight steps of equal probability above 0, seven below, and 0 itself, each half from the median
    to a quantile just short of 1. The 16 values share normal numbers out unevenly: which of them is
    nearest depends on the middles between values, and on the largest of the block, which comes
    back as 1 or -1. Dettmers et al. 2023 (QLoRA), arXiv:2305.14314.
    """
    last = 1 - (1 / 32 + 1 / 30) / 2  # the authors' offset: at 1 the quantile is infinite
    above, below = (
        torch.special.ndtri(torch.linspace(0.5, last, n, dtype=torch.float64, device="cpu"))
        for n in (9, 8)
    )
    return (torch.cat([-below[1:].flip(0), above]) / above[-1]).float()


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
    """MXFP4: blocks of 32 share a power of two, E8M0; 4 + 8 / 32 = 4.25 bits per value.

    scale = 2^(floor(log2 max|r|) - 2): the exponent of the largest value becomes that of 4 and 6.
    What is then above 6 is clipped. OCP Microscaling Formats (MX) specification 1.0.
    """
    blocks = in_blocks(r, 32)
    exponent = torch.frexp(blocks.abs().amax(-1, keepdim=True)).exponent - 1
    return _in_e2m1(blocks, two_to((exponent - 2).clamp(-127, 127).long()))


@torch.no_grad()
def nvfp4(r: Tensor) -> Tensor:
    """NVFP4: blocks of 16 share an E4M3 scale; 4 + 8 / 16 = 4.5 bits per value, and 32 a tensor.

    One float32 scale for the tensor brings the blocks' scales, max|r| / 6, into E4M3's range.
    NVIDIA 2025, *Pretraining Large Language Models with NVFP4*, arXiv:2509.25149.
    """
    blocks = in_blocks(r, 16)
    largest = blocks.abs().amax(-1, keepdim=True).float() / E2M1_MAX
    whole = largest.amax() / largest.new_tensor(E4M3_MAX)
    whole = whole.clamp(min=2.0**-120)  # times the smallest E4M3 it is still a normal float32
    smallest = torch.finfo(torch.float8_e4m3fn).tiny
    scale = (largest / whole).clamp(min=smallest).to(torch.float8_e4m3fn)
    return _in_e2m1(blocks, scale.double() * whole)


@torch.no_grad()
def nf4_blocks(r: Tensor) -> Tensor:
    """NF4: blocks of 64 share a float32 scale max|r|; 4 + 32 / 64 = 4.5 bits per value.

    As bitsandbytes stores it by default. QLoRA quantizes these scales once more, to 8 bits in
    blocks of 256: 4 + 8 / 64 + 32 / (64 * 256) = 4.127 bits. That is left out here.
    """
    blocks = in_blocks(r, 64)
    scale = blocks.abs().amax(-1, keepdim=True).float().double()
    scale = torch.where(scale > 0, scale, 1)
    return _rounded(scale * _nearest(blocks / scale, nf4()))


@torch.no_grad()
def q4_0(r: Tensor) -> Tensor:
    """Q4_0, ggml's even grid: blocks of 32 share a float16 scale d; 4 + 16 / 32 = 4.5 bits.

    d     = (the value of largest magnitude, with its sign) / -8, in float32
    q     = clip(floor(r / d + 8.5), 0, 15), with that d
    r_hat = (d rounded to float16) * (q - 8)

    So the largest gets code 0 and comes back as -8 d, whatever its sign, and all 16 codes are used;
    a value as large on the other side is clipped to 7 d. As in ggml, r / d is r * (1 / d), rounded
    to float32 three times. Of two values as large, the first gives the sign.

    Raises ValueError where d is too large for a float16, which ggml stores as infinity.
    """
    return signed_largest(r, 4).dequantize()


@torch.no_grad()
def signed_largest(r: Tensor, bits: int) -> Blocks:
    """ggml's Q4_0 or Q5_0 as Blocks, by the bits: with 5, -16 is in the place of -8, 31 of 15.

    Codes around 0, q - 8 or q - 16, and scales, as ggml's reference quantizer stores them.
    """
    blocks = in_blocks(r, 32).float()
    end = 2 ** (checks.whole("bits", bits, 4, 5) - 1)
    at = blocks.abs().argmax(-1, keepdim=True)
    d = blocks.gather(-1, at) / -end
    q = (blocks * inverse(d) + (end + 0.5)).floor().clamp(0, 2 * end - 1) - end
    scale = as_half(d, blocks, f"Q{bits}_0 stores the largest divided by {end}")
    return Blocks(q.to(torch.int8).flatten(-2), scale, None, bits, 32)


def _in_e2m1(blocks: Tensor, scale: Tensor) -> Tensor:
    """The nearest of scale * E2M1; the scale is float64, and so is its product, exactly."""
    x = blocks / scale
    return _rounded(scale * torch.copysign(_nearest(x.abs(), e2m1()), x))


def _rounded(blocks: Tensor) -> Tensor:
    return blocks.float().flatten(-2)
