"""What a range is found with: the two searches for its limit, and the histograms of observers.

`ranges` calls it for a tensor, and `observers` for values that come in batches. All of it works on
rows of values that they have checked, a row for each block.
"""

import math
from functools import partial

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import computing, dequantize_affine, quantize_affine, two_to
from qlesson.granularity import Granularity
from qlesson.kernels.search import Errors, errors_of
from qlesson.scheme import Scheme, qparams_of

SMALLEST = -900  # the exponent of a histogram that has seen nothing but zeros
AT_ONCE, AT_ONCE_CUDA = 2**17, 2**24  # values times limits: what a cache holds, or pays a launch
LIMITS_AT_ONCE = 2**20  # rows times limits, for the loop
SMOOTHED = 1e-4  # of one count: what Q has where only P has values


# --- the two searches -----------------------------------------------------------------------------


def of_least_error(
    values: Tensor, weights: Tensor, r_min: Tensor, r_max: Tensor, scheme: Scheme
) -> Tensor:
    """The limit t with the least sum of weights * (values - values_hat)^2, for each row.

    values, weights [blocks, n]; r_min, r_max, t [blocks, 1]. The error has many local minima, so
    a coarse pass goes from max|r| down to max|r| / 512 at ratios of 2^(1/8), and a fine one at
    2^(1/256) through the neighbourhood of the best. A range too wide for the dtype loses to all.
    """
    errors = errors_of(scheme, values)  # the loop, which needs room for no value's error
    at_once = AT_ONCE_CUDA if values.is_cuda else AT_ONCE
    rows = max(1, at_once // values.shape[1])
    parts = zip(*(x.split(rows) for x in (values, weights, r_min, r_max)), strict=True)
    each = values[:rows].numel() if errors is None else len(values[:rows])
    limits = max(1, (at_once if errors is None else LIMITS_AT_ONCE) // each)
    errors = errors or partial(_squared_errors, scheme)
    found = [_of_least_error(v, w, lo, hi, scheme, errors, limits) for v, w, lo, hi in parts]
    return torch.cat(found)


def _squared_errors(
    scheme: Scheme,
    values: Tensor,
    weights: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    small: Tensor,
) -> Tensor:
    """`search.squared_errors`, one operation at a time."""
    q = _codes(values, scale, zero_point, scheme)
    off = (dequantize_affine(q, scale, zero_point) - values).double()
    return (weights * off.mul_(small).square_()).sum(-1, keepdim=True)


def _of_least_error(
    values: Tensor,
    weights: Tensor,
    r_min: Tensor,
    r_max: Tensor,
    scheme: Scheme,
    errors: Errors,
    at_once: int,
) -> Tensor:
    """The same for rows that a cache holds; so many limits are tried at once."""
    start = best = top = torch.maximum(-r_min, r_max)
    power = torch.frexp(top.double()).exponent.long().clamp(-1000, 1000)
    small = two_to(-power)  # about 1 / max|r|: no square overflows

    def error(limit: Tensor) -> Tensor:
        """Of limits [some, blocks, 1], in their shape."""
        scale, zero_point = qparams_of(*within(r_min, r_max, limit), scheme)
        total = errors(values, weights, scale, zero_point, small)
        return torch.where(_too_wide(scale, scheme), torch.inf, total)

    (least,) = error(best[None])
    coarse, fine = [-k / 8 for k in range(1, 73)], [k / 256 for k in range(-64, 65)]
    for powers in (coarse, fine):
        shares = torch.tensor([2.0**k for k in powers], dtype=start.dtype, device=start.device)
        for some in shares.view(-1, 1, 1).split(at_once):
            limit = torch.minimum(_short(start * some), top)
            for one, here in zip(limit, error(limit), strict=True):
                best = torch.where(here < least, one, best)
                least = torch.minimum(here, least)
        start = best
    return best


def _short(limit: Tensor) -> Tensor:
    """limit without all but 12 binary digits, so that the last bits of r decide nothing.

    The zero point of the range -t to t is round(quant_min + levels / 2): a tie, which goes where
    the last bit of t sends it, and every code with it.
    """
    digits = limit.double().view(torch.int64) & -(1 << 40)
    return digits.view(torch.float64).to(limit.dtype)


def of_least_divergence(
    counts: Tensor, width: Tensor, r_min: Tensor, r_max: Tensor, scheme: Scheme
) -> Tensor:
    """The limit t, a whole number of bins, with the least KL divergence, for each row.

    counts [blocks, bins], over both signs; width, r_min, r_max, t [blocks, 1]. Tries up to 256
    limits, every bin where there are few. A limit whose step is narrower than a bin is left out:
    the histogram cannot see what it rounds. So is one that clips more than half of the values:
    all in one end code, P and Q are equal, and nothing is kept.
    """
    half, top = counts.shape[1] // 2, torch.maximum(-r_min, r_max)
    centres, every = centres_of(counts, width, r_min, r_max), math.ceil(half / 256)
    best, least = top, torch.full_like(top, torch.inf, dtype=torch.float64)
    for k in range(half, 0, -every):
        limit = torch.minimum(k * width.to(top.dtype), top)
        scale, zero_point = qparams_of(*within(r_min, r_max, limit), scheme)
        usable = (scale >= width) & ~_too_wide(scale, scheme)
        if not bool(usable.any()):
            continue
        inside = slice(half - k, half + k)
        q = _codes(centres[:, inside], scale, zero_point, scheme)
        here = _kl_of_codes(counts, inside, q.long() - scheme.quant_min)
        most = 2 * counts[:, inside].sum(1, keepdim=True) >= counts.sum(1, keepdim=True)
        here = torch.where(usable & most, here, torch.inf)
        best = torch.where(here < least, limit, best)
        least = torch.minimum(here, least)
    return best


def _kl_of_codes(counts: Tensor, inside: slice, code: Tensor) -> Tensor:
    """KL(P, Q) = sum of P log(P / Q), for each row.

    P is the histogram clipped: what lies outside goes to the first and the last bin inside. Q is
    what the codes keep of the inside: the count of a code, spread evenly over its bins that are
    not empty. So clipping makes P and Q differ, and so does rounding.

    An empty bin of P adds nothing. Where Q alone is empty, an end code without values of its own
    takes outliers, and KL would be infinite: there Q counts SMOOTHED, as onnxruntime smooths it.
    """
    p = counts[:, inside].clone()
    p[:, 0] += counts[:, : inside.start].sum(1)
    p[:, -1] += counts[:, inside.stop :].sum(1)
    full = (p > 0).double()
    empty = torch.zeros(len(p), int(code.max()) + 1, dtype=torch.float64, device=p.device)
    kept = empty.scatter_add(1, code, counts[:, inside]).clamp(min=SMOOTHED)
    among = empty.scatter_add(1, code, full)
    q = full * (kept / among.clamp(min=1)).gather(1, code)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return torch.where(p > 0, p * (p / q).log(), 0).sum(1, keepdim=True)


# --- a histogram of each block, over [-2^e, 2^e] --------------------------------------------------


def reach(values: Tensor) -> Tensor:
    """The smallest e with |values| < 2^e, for each row; SMALLEST where all are 0."""
    largest = values.abs().amax(1, keepdim=True)
    exponent = torch.frexp(largest).exponent.long()
    return torch.where(largest > 0, exponent, SMALLEST).clamp(min=SMALLEST)  # of 0 it would be 0


def bin_width(exponent: Tensor, bins: int) -> Tensor:
    """The width of a bin, [blocks, 1], in float64: for an even power of two, exact."""
    power = two_to(exponent + 1)
    return power / power.new_tensor(bins)


def count(values: Tensor, weights: Tensor, width: Tensor, bins: int) -> Tensor:
    """How much weight each bin holds, [blocks, bins], in float64."""
    index = torch.floor(values.double() / width).long() + bins // 2
    index = index.clamp(0, bins - 1)  # the width of bins that are no power of two is rounded
    return weights.new_zeros(len(values), bins).scatter_add_(1, index, weights)


def without_zeros(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Exact zeros come back exactly: they count for nothing."""
    return values, torch.where(values == 0, 0, weights)


def check_bins(bins: int) -> None:
    if checks.whole("bins", bins, low=2) % 2:
        raise ValueError(f"bins must be even, got {bins}: half of them lie on either side of 0.")


def check_reach(r_min: Tensor, r_max: Tensor) -> None:
    if bool((torch.maximum(-r_min, r_max) >= 2.0**1022).any()):
        raise ValueError(
            f"The batch reaches from {r_min.min().item():g} to {r_max.max().item():g}: a "
            "histogram ends at 2^1022. Scale the batch down."
        )


# --- shared ---------------------------------------------------------------------------------------


def within(r_min: Tensor, r_max: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    return torch.clamp(r_min, -limit, limit), torch.clamp(r_max, -limit, limit)


def _too_wide(scale: Tensor, scheme: Scheme) -> Tensor:
    """Where the codes of a scale reach beyond the largest float."""
    scale = scale.to(computing(scale.dtype))
    return ~torch.isfinite(scale * scale.new_tensor(scheme.reach))


def _codes(r: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme) -> Tensor:
    """The codes of r as floats: casts to integers and back would take half of a search."""
    codes = scheme.quant_min, scheme.quant_max
    return quantize_affine(r, scale, zero_point, *codes, r.dtype, scheme.rounding)


def centres_of(counts: Tensor, width: Tensor, r_min: Tensor, r_max: Tensor) -> Tensor:
    """The middle of every bin, [blocks, bins], in r's dtype and within what was seen."""
    places = torch.arange(counts.shape[1], dtype=torch.float64, device=counts.device)
    return ((places - counts.shape[1] // 2 + 0.5) * width).to(r_min.dtype).clamp(r_min, r_max)


def ranks(count: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """Which values, in ascending order from 0, are the two percentiles of `count` values."""
    place = (count.double() - 1) * percent / 100
    high = torch.ceil(place * (1 - 2**-50)).long()  # one that is whole, and was rounded up, is kept
    return count.long() - 1 - high, high


def check_percent(percent: float) -> None:
    checks.number(
        "percent",
        percent,
        "a number above 50 and at most 100",
        lambda x: 50 < x <= 100,
        ": 99.9 keeps all but 0.1 % at either end",
    )


def checked(r: Tensor, granularity: Granularity, name: str = "r") -> Tensor:
    """r as a plain tensor in float32 or float64. Raises where it has no range."""
    r = checks.float_tensor(name, r)
    checks.known(name, r)
    checks.fits_shape(granularity, r.shape)
    checks.finite(name, r)
    return r if r.dtype == torch.float64 else r.float()
