"""Ranges of values that come in batches and are not kept (notebook 07).

    observer = MSEObserver(scheme)
    for batch in batches:
        observer.observe(batch)
    qparams = qparams_from_range(*observer.range(), scheme)

An observer finds what the function of the same name in `qlesson.ranges` finds of a tensor; and

    moving_average(batches, scheme)  min and max, averaged over batches
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from qlesson import checks, kernels, limits
from qlesson.granularity import rows
from qlesson.ranges import KL_BINS
from qlesson.scheme import Scheme

BINS = 4096  # of a histogram, over both signs


def moving_average(
    batches: Iterable[Tensor], scheme: Scheme = Scheme(), weight: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Min and max of each batch, averaged: range <- range + weight * (batch's range - range).

    The first batch starts it. Late batches count most, and a value seen once fades: Jacob et al.
    2018, arXiv:1712.05877, section 3.1, for activations during training.

    batches  tensors whose blocks have the same scale shape;  weight  in (0, 1]
    """
    checks.batches("batches", batches)
    observer = MovingAverageObserver(scheme, weight)
    for batch in batches:
        observer.observe(batch)
    if observer.shape is None:
        raise ValueError("batches has none: pass one at least, and a new generator each time.")
    return observer.range()


class Observer:
    """Sees one batch after the other and keeps what the range needs, not the batches.

    observe(batch)  a float tensor; the scale shape must be that of the batches before, so per
                    tensor any shape will do, and PerAxis(-1) may see batches of other lengths
    range()         r_min and r_max so far, in the scale shape

    Raises ValueError for NaN, infinity, an empty batch, another scale shape, or a range asked for
    before any batch; TypeError for anything but a float tensor.
    """

    r_min: Tensor
    r_max: Tensor

    def __init__(self, scheme: Scheme = Scheme()) -> None:
        checks.scheme("scheme", scheme)
        self.scheme, self.granularity = scheme, scheme.granularity
        self.shape: tuple[int, ...] | None = None  # of a scale

    @torch.no_grad()
    def observe(self, batch: Tensor) -> None:
        """Take this batch into account."""
        batch = limits.checked(batch, self.granularity, "batch")
        shape = self.granularity.scale_shape(batch.shape)
        if self.shape not in (None, shape):
            raise ValueError(
                f"This batch of shape {tuple(batch.shape)} has scales of shape {shape}, those "
                f"before had {self.shape}: use one observer for each kind of batch, or PerTensor()."
            )
        if self.shape is not None:
            checks.same_device("batch", batch, "those before", self.r_min)
        self._update(batch, *kernels.min_max(batch, self.granularity))
        self.shape = shape

    def range(self) -> tuple[Tensor, Tensor]:
        """(r_min, r_max) of the batches so far, in the granularity's scale shape."""
        if self.shape is None:
            raise ValueError("No batch was observed: call observe(batch) before range().")
        r_min, r_max = self._range()
        return r_min.reshape(self.shape).clone(), r_max.reshape(self.shape).clone()

    def _update(self, batch: Tensor, r_min: Tensor, r_max: Tensor) -> None:
        """The smallest and the largest value so far."""
        if self.shape is not None:
            r_min, r_max = torch.minimum(r_min, self.r_min), torch.maximum(r_max, self.r_max)
        self.r_min, self.r_max = r_min, r_max

    def _range(self) -> tuple[Tensor, Tensor]:
        return self.r_min, self.r_max


class MinMaxObserver(Observer):
    """The smallest and the largest value of all batches; exact   (notebook 07)."""


class MovingAverageObserver(Observer):
    """Min and max averaged over batches, as `moving_average` says; exact   (notebook 07)."""

    def __init__(self, scheme: Scheme = Scheme(), weight: float = 0.1) -> None:
        super().__init__(scheme)
        checks.number(
            "weight",
            weight,
            "a number above 0 and at most 1",
            lambda x: 0 < x <= 1,
            ": it is the share that a new batch has in the average",
        )
        self.weight = weight

    @torch.no_grad()
    def observe(self, batch: Tensor) -> None:
        """Take this batch into account."""
        before = None if self.shape is None else (self.r_min, self.r_max)
        super().observe(batch)
        if before and not checks.all_finite(self.r_min, self.r_max):
            # The difference of two ends was too large: that of their halves is not.
            batch = limits.checked(batch, self.granularity, "batch")
            found = kernels.min_max(batch, self.granularity)
            steps = [2 * self._between(x / 2, y / 2) for x, y in zip(before, found, strict=True)]
            r_min, r_max = (
                torch.where(torch.isfinite(x), x, step)
                for x, step in zip((self.r_min, self.r_max), steps, strict=True)
            )
            self.r_min, self.r_max = r_min, torch.maximum(r_min, r_max)

    def _update(self, batch: Tensor, r_min: Tensor, r_max: Tensor) -> None:
        if self.shape is not None:
            r_min, r_max = self._between(self.r_min, r_min), self._between(self.r_max, r_max)
            r_max = torch.maximum(r_min, r_max)  # each is rounded for itself
        self.r_min, self.r_max = r_min, r_max

    def _between(self, old: Tensor, new: Tensor) -> Tensor:
        """old + weight * (new - old), counted from the nearer end: a weight of 1 gives `new`."""
        if self.weight < 0.5:
            return old + self.weight * (new - old)
        return new - (1 - self.weight) * (new - old)


class HistogramObserver(Observer):
    """Counts of each block's values in `bins` equal bins over [-2^e, 2^e].

    e is the smallest that holds the block; zeros need none. When a larger value comes, e grows and
    neighbouring bins merge, two, four or more into one, so no count is ever split: counts, kept in
    float64, are exact, and the same whatever the order of the batches. What is lost is where in its
    bin a value lies. Memory: 8 * bins bytes for each block.
    """

    def __init__(self, scheme: Scheme = Scheme(), bins: int = BINS) -> None:
        super().__init__(scheme)
        limits.check_bins(bins)
        self.bins = bins

    def _update(self, batch: Tensor, r_min: Tensor, r_max: Tensor) -> None:
        limits.check_reach(r_min, r_max)
        super()._update(batch, r_min, r_max)
        values, weights = self._counted(*rows(self.granularity, batch))
        if self.shape is None:
            self.counts = values.new_zeros(len(values), self.bins, dtype=torch.float64)
            self.exponent = torch.full_like(values[:, :1], limits.SMALLEST, dtype=torch.int64)
        self._grow(torch.maximum(self.exponent, limits.reach(values)))
        self.counts += limits.count(values, weights, self.width, self.bins)

    def _counted(self, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Which values to count, and how often."""
        return values, weights

    def _grow(self, exponent: Tensor) -> None:
        """Merge bins until they reach to 2^exponent."""
        place = torch.arange(self.bins, device=exponent.device) - self.bins // 2
        index = (place >> (exponent - self.exponent).clamp(max=62)) + self.bins // 2
        self.counts = torch.zeros_like(self.counts).scatter_add_(1, index, self.counts)
        self.exponent = exponent

    @property
    def width(self) -> Tensor:
        """The width of a bin, [blocks, 1], in float64: for an even power of two, exact."""
        return limits.bin_width(self.exponent, self.bins)

    def _ends(self) -> tuple[Tensor, Tensor]:
        return self.r_min.reshape(-1, 1), self.r_max.reshape(-1, 1)


class PercentileObserver(HistogramObserver):
    """`percentile` of all batches, from a histogram   (notebook 07).

    Approximate: either end is the edge of the bin that holds the percentile, so at most one bin
    further out, and never beyond the smallest and the largest value.
    """

    def __init__(self, scheme: Scheme = Scheme(), percent: float = 99.9, bins: int = BINS) -> None:
        super().__init__(scheme, bins)
        limits.check_percent(percent)
        self.percent = percent

    def _range(self) -> tuple[Tensor, Tensor]:
        below = self.counts.cumsum(1)
        low, high = (
            torch.searchsorted(below, rank[:, None].double(), right=True) - self.bins // 2
            for rank in limits.ranks(below[:, -1], self.percent)
        )
        r_min, r_max = self._ends()
        low, high = (low * self.width).to(r_min.dtype), ((high + 1) * self.width).to(r_max.dtype)
        return torch.maximum(low, r_min), torch.minimum(high, r_max)


class MSEObserver(HistogramObserver):
    """`mse_search` over all batches, from a histogram   (notebook 07).

    Approximate: every value counts as the centre of its bin. That serves as long as a step is
    several bins wide.
    """

    @torch.no_grad()
    def _range(self) -> tuple[Tensor, Tensor]:
        centres = limits.centres_of(self.counts, self.width, *self._ends())
        limit = limits.of_least_error(centres, self.counts, *self._ends(), self.scheme)
        return limits.within(*self._ends(), limit)


class EntropyObserver(HistogramObserver):
    """The range of least KL divergence between the histogram and what the codes keep of it.

    Migacz 2017, "8-bit inference with TensorRT" (GTC talk S7310), with its pitfalls mended. Which
    bins a code covers is asked of `quantize_affine`, so their number need not divide evenly;
    counts are floats; only an end code that is empty but takes outliers is smoothed; and exact
    zeros, which come back exactly, are not counted, or the half of the values that ReLU makes 0
    would decide alone. With too few bins no limit can be judged, and the result is min-max.
    Approximate like every histogram, and more: another number of bins may choose another range
    (notebook 07).
    """

    def __init__(self, scheme: Scheme = Scheme(), bins: int = KL_BINS) -> None:
        super().__init__(scheme, bins)

    def _counted(self, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return limits.without_zeros(values, weights)

    @torch.no_grad()
    def _range(self) -> tuple[Tensor, Tensor]:
        ends = self._ends()
        limit = limits.of_least_divergence(self.counts, self.width, *ends, self.scheme)
        return limits.within(*ends, limit)
