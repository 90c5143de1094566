"""How far r_hat is from r (notebook 05). Sums are taken in float64.

A sum depends on the order of its terms, so these agree between devices to about twelve digits,
not to the last bit: print six.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import two_to

AT_ONCE = 2**18  # values that sqnr has in float64 at a time


@torch.no_grad()
def mse(r: Tensor, r_hat: Tensor) -> Tensor:
    """Mean squared error, mean((r - r_hat)^2), in units of r squared   (notebook 05)."""
    return _number(_difference(r, r_hat).square().mean(), r, r_hat)


@torch.no_grad()
def max_abs_error(r: Tensor, r_hat: Tensor) -> Tensor:
    """The largest error, max|r - r_hat|, in units of r   (notebook 05)."""
    return _number(_difference(r, r_hat).abs().max(), r, r_hat)


@torch.no_grad()
def sqnr(r: Tensor, r_hat: Tensor) -> Tensor:
    """Signal to quantization noise ratio, 10 log10(sum r^2 / sum (r - r_hat)^2), in dB.

    10 dB more is ten times less squared error. Infinite when there is no error (notebook 05).
    """
    plain, plain_hat = _checked(r, r_hat)
    noise, below = _power(plain, plain_hat)
    signal, above = _power(plain)
    _number(signal + noise, r, r_hat)
    bits = 2 * (above - below)  # the powers of two that were set aside
    near = bits.clamp(-600, 600)  # beyond, the ratio itself could leave float64
    decibels = 10 * torch.log10(signal / noise * two_to(near))
    decibels = decibels + (bits - near) * (10 * math.log10(2))
    return torch.where(noise == 0, torch.inf, decibels)


def _power(r: Tensor, r_hat: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(s, e): the sum of squares of r, or of r - r_hat, is s * 4^e, where s cannot overflow.

    Taken in pieces: float64 copies of a large tensor would need more memory than it.
    """
    pieces = (x.reshape(-1).split(AT_ONCE) for x in (r, r_hat) if x is not None)
    parts = [_power_of_piece(*piece) for piece in zip(*pieces, strict=True)]
    sums, powers = map(torch.stack, zip(*parts, strict=True))
    power = powers.amax()
    return (sums * two_to((2 * (powers - power)).clamp(min=-1022))).sum(), power


def _power_of_piece(r: Tensor, r_hat: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same of one piece. A square leaves float64 beyond 1.3e154, and is 0 below 1.5e-162;
    powers of two change no digit."""
    x = r.double() if r_hat is None else r.double() - r_hat.double()
    largest = x.abs().amax()
    power = torch.frexp(largest).exponent.long().clamp(-960, 960)
    power = torch.where(largest == 0, -960, power)  # zeros have a say in no sum
    return (x * two_to(-power)).square().sum(), power


class ErrorShares(NamedTuple):
    """The two parts of the mean squared error; their sum is the whole."""

    rounding: Tensor
    clipping: Tensor


@torch.no_grad()
def error_shares(r: Tensor, r_hat: Tensor, scale: Tensor | float) -> ErrorShares:
    """The mean squared error, split into rounding and clipping   (notebook 05).

    Rounding to the nearest code costs at most scale/2, and a little more where r_hat is itself
    rounded to its dtype. An element further off was clipped, and all of its error counts as
    clipping. `scale` broadcasts against r.
    """
    squared = _difference(r, r_hat).square()
    _number(squared.mean(), r, r_hat)
    checks.scales("scale", scale)
    step = torch.as_tensor(scale, dtype=torch.float64, device=r.device)
    checks.broadcasts("scale", step, "r", r)
    # float32 adds its own rounding: at 16 bits up to 0.8 % of a step, at 8 bits far less
    clipped = squared.sqrt() > 0.51 * step + _last_place(r_hat) / 2
    return ErrorShares(
        torch.where(clipped, 0, squared).mean(), torch.where(clipped, squared, 0).mean()
    )


def _last_place(r_hat: Tensor) -> Tensor | int:
    """How far apart the numbers of its dtype are where it lies; 0 for integers."""
    if not r_hat.is_floating_point():
        return 0
    info = torch.finfo(r_hat.dtype)
    size = checks.plain(r_hat).double().abs().clamp(min=info.tiny)
    return two_to(torch.frexp(size).exponent.long() - 1) * info.eps


def _difference(r: Tensor, r_hat: Tensor) -> Tensor:
    """r - r_hat in float64, where no difference of two half or single floats is rounded much."""
    plain, plain_hat = _checked(r, r_hat)
    return plain.double() - plain_hat.double()


def _checked(r: Tensor, r_hat: Tensor) -> tuple[Tensor, Tensor]:
    plain, plain_hat = checks.numbers("r", r), checks.numbers("r_hat", r_hat)
    checks.same_shape("r", r, "r_hat", r_hat, "an error needs equal shapes")
    checks.same_device("r", r, "r_hat", r_hat)
    return plain, plain_hat


def _number(error: Tensor, r: Tensor, r_hat: Tensor) -> Tensor:
    """An error that is a number. Only where it is none are r and r_hat read for the reason."""
    if not checks.all_finite(error):
        for name, x in (("r", r), ("r_hat", r_hat)):
            checks.finite(name, x)
        raise ValueError(
            "r and r_hat differ by too much for float64: divide both by a power of two first."
        )
    return error
