"""Where r_min and r_max come from: the values alone, or a search (notebook 07).

Of a tensor, for each block by itself, in the granularity's scale shape:

    min_max(r, scheme)                    the smallest and the largest value
    percentile(r, scheme, 99.9)           without the outermost 0.1 % at either end
    mse_search(r, scheme)                 the range of least squared error
    entropy(r, scheme)                    the range of least KL divergence

`qlesson.observers` finds the same of values that come in batches and are not kept.

Each can be the `find_range` of `ql.choose_qparams`. Both searches try ranges
[max(r_min, -t), min(r_max, t)]: one limit t for both ends, from max|r| downwards.
"""

import torch
from torch import Tensor

from qlesson import checks, kernels, limits
from qlesson.granularity import rows
from qlesson.scheme import Scheme

KL_BINS = 2048  # of the histogram that entropy searches: more are slower, no better (notebook 07)


def min_max(r: Tensor, scheme: Scheme = Scheme()) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each block, in the granularity's scale shape.

    A NaN makes the minimum and the maximum of its block NaN, so checking these two for NaN and
    infinity checks all of r.
    """
    checks.scheme("scheme", scheme)
    r = checks.float_tensor("r", r)
    checks.scales_for(scheme.granularity, r.shape)
    return kernels.min_max(r, scheme.granularity)


@torch.no_grad()
def percentile(
    r: Tensor, scheme: Scheme = Scheme(), percent: float = 99.9
) -> tuple[Tensor, Tensor]:
    """The (100 - percent)-th and the percent-th percentile of each block   (notebook 07).

    Both are values of r, the next ones outwards: at most 100 - percent percent of a block lie
    beyond either end, and 100 is min-max. Wu et al. 2020, arXiv:2004.09602, take the percentile
    of |r|, which on symmetric data is one end at half the rest: their 99.8 is 99.9 here.

    percent  more than 50 (where both ends are the median), at most 100
    """
    limits.check_percent(percent)
    checks.scheme("scheme", scheme)
    granularity = scheme.granularity
    r = limits.checked(r, granularity)
    values, weights = rows(granularity, r)
    ordered = torch.where(weights > 0, values, torch.inf).sort(dim=1).values
    low, high = (rank[:, None] for rank in limits.ranks(weights.sum(1), percent))
    shape = granularity.scale_shape(r.shape)
    return ordered.gather(1, low).reshape(shape), ordered.gather(1, high).reshape(shape)


@torch.no_grad()
def mse_search(r: Tensor, scheme: Scheme = Scheme()) -> tuple[Tensor, Tensor]:
    """The range with the least mean squared error of each block   (notebook 07).

    Quantizes r with about 200 limits t and keeps the best: Nagel et al. 2021, arXiv:2106.08295,
    section 3.1. Never worse than min-max, which is among them. Compiled it adds up in another
    order: that can decide only between two limits whose errors agree to some fifteen digits.
    """
    checks.scheme("scheme", scheme)
    r = limits.checked(r, scheme.granularity)
    values, weights = rows(scheme.granularity, r)
    shape = scheme.granularity.scale_shape(r.shape)
    r_min, r_max = (x.reshape(-1, 1) for x in kernels.min_max(r, scheme.granularity))
    limit = limits.of_least_error(values, weights, r_min, r_max, scheme)
    return limits.within(r_min.reshape(shape), r_max.reshape(shape), limit.reshape(shape))


@torch.no_grad()
def entropy(r: Tensor, scheme: Scheme = Scheme(), bins: int = KL_BINS) -> tuple[Tensor, Tensor]:
    """The range whose codes keep the most of r's histogram, by KL divergence   (notebook 07).

    As `observers.EntropyObserver` says, fed once with r.
    """
    checks.scheme("scheme", scheme)
    granularity = scheme.granularity
    limits.check_bins(bins)
    r = limits.checked(r, granularity)
    r_min, r_max = (x.reshape(-1, 1) for x in kernels.min_max(r, granularity))
    limits.check_reach(r_min, r_max)
    values, weights = limits.without_zeros(*rows(granularity, r))
    width = limits.bin_width(limits.reach(values), bins)
    counts = limits.count(values, weights, width, bins)
    limit = limits.of_least_divergence(counts, width, r_min, r_max, scheme)
    shape = granularity.scale_shape(r.shape)
    return limits.within(r_min.reshape(shape), r_max.reshape(shape), limit.reshape(shape))
