"""The ranges, of a tensor and of batches, against slow specs, brute force, and other libraries."""

import contextlib
import io
import math
import warnings
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    HistogramCollector,
    create_calibrator,
)
from reference import T, home, indices, plain, qparams_of_range, whole
from strategies import problems, tensors

import qlesson as ql
from qlesson.limits import _codes, _short
from qlesson.models import tinygpt
from qlesson.observers import (
    EntropyObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    moving_average,
)
from qlesson.qtensor import qparams_from_range
from qlesson.ranges import KL_BINS, entropy, min_max, mse_search, percentile
from qlesson.scheme import qparams_of

SYMMETRIC = ql.Scheme(8, "symmetric")


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_outliers():
    """Notebook 05's: 10,000 normals, ten of them replaced by 20 or -20."""
    r = normals(10_000)
    r[:5], r[5:10] = 20.0, -20.0
    return r


DATA = {
    "normal": normals(10_000),
    "outliers": with_outliers(),
    "ReLU": normals(10_000).relu(),
    "heavy tails": normals(10_000) ** 3,
    "far from 0": 100 + normals(10_000),
    "T": T,
}


def error_of(r, ends, scheme):
    """The mean squared error that a range leads to, by the package's own round trip."""
    return ql.mse(r, ql.quantize(r, scheme, qparams_from_range(*ends, scheme)).dequantize())


def observed(observer, *batches):
    for batch in batches:
        observer.observe(batch)
    return observer.range()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- min and max ----------------------------------------------------------------------------------


def test_min_max_of_T():
    assert [v.item() for v in min_max(T.double())] == [-184.0, T.max().item()]
    low, high = min_max(T, ql.Scheme(granularity=ql.PerAxis(0)))
    assert torch.equal(low, torch.tensor([[-13.5], [-184.0], [0.0]]))
    assert torch.equal(high, torch.tensor([[728.6], [295.5], [684.6]]))
    low, high = min_max(T, ql.Scheme(granularity=ql.PerGroup(2)))
    assert torch.equal(low, torch.tensor([[-13.5, 728.6], [92.14, -184.0], [0.0, 245.5]]))


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_min_max_carry_nan_and_infinity(granularity, dtype, bad):
    for place in range(5):
        r = torch.arange(5.0).to(dtype)
        r[place] = bad
        low, high = min_max(r, ql.Scheme(granularity=granularity))
        assert not (low.isfinite() & high.isfinite()).all()


@given(problems())
def test_qparams_follow_the_spec_from_the_ends_of_each_block(problem):
    r, scheme = problem
    low, high = min_max(r, scheme)
    scale, zero_point = qparams_from_range(low, high, scheme)
    lows, highs = plain(low).flatten(), plain(high).flatten()
    for block, (a, b) in enumerate(zip(lows, highs, strict=True)):
        s, z = qparams_of_range(a, b, scheme)
        assert (scale.flatten()[block].item(), zero_point.flatten()[block].item()) == (s, z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ends", [(0.001, 0.003), (-60000.0, 60000.0), (1.0, 1.0), (-3.1, 0.7)])
@pytest.mark.filterwarnings("ignore::qlesson.ZeroPointClipped")
def test_half_ends_are_raised_to_float32(ends, dtype):
    half = [torch.tensor(v).to(dtype) for v in ends]
    for scheme in (ql.Scheme(), ql.Scheme(include_zero=False), ql.Scheme(mapping="symmetric")):
        raised = qparams_from_range(*(v.float() for v in half), scheme)
        assert qparams_from_range(*half, scheme) == raised
        assert raised.scale.dtype == torch.float32


def test_a_range_from_elsewhere():
    """Notebook 05's play: a symmetric range of our own choice."""
    ends = torch.tensor(-7.0), torch.tensor(7.0)
    scale, zero_point = qparams_from_range(*ends, ql.Scheme(4, "symmetric"))
    assert (scale.item(), zero_point.item()) == (1.0, 0)
    scale, zero_point = qparams_from_range(*ends, ql.Scheme(4))
    assert (scale.item(), zero_point.item()) == (torch.tensor(14 / 15).item(), 0)


# --- every way, block by block --------------------------------------------------------------------

WAYS = {
    "min_max": lambda r, scheme: min_max(r, scheme),
    "percentile": lambda r, scheme: percentile(r, scheme, 90),
    "mse_search": mse_search,
    "entropy": lambda r, scheme: entropy(r, scheme, bins=256),
    "moving_average": lambda r, scheme: moving_average([r, r / 2], scheme),
    "PercentileObserver": lambda r, s: observed(PercentileObserver(s, 90), r),
    "MSEObserver": lambda r, scheme: observed(MSEObserver(scheme), r),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@each_way
@pytest.mark.parametrize("granularity", [ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(3, 0)])
def test_each_block_has_the_range_it_has_alone(way, granularity):
    """Groups of 3 among 8 rows: the last has two, filled up with copies that must not count."""
    r = normals(8, 3) * torch.tensor([1.0, 100.0, 0.0])
    r[7] *= 50  # in the short group, and last
    scheme = ql.Scheme(4, granularity=granularity)
    low, high = way(r, scheme)
    assert low.shape == high.shape == granularity.scale_shape(r.shape)
    for block in indices(low.shape):
        alone = [r[i] for i in indices(r.shape) if home(i, r.shape, granularity) == block]
        ends = way(torch.stack(alone), ql.Scheme(4))
        assert (low[block], high[block]) == ends


def test_the_filling_of_a_short_group_does_not_count():
    """Groups of 5 and 3: the last value of 3 is there three times once the group is filled up."""
    r = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 8.0])
    groups = ql.PerGroup(5)
    low, high = percentile(r, ql.Scheme(granularity=groups), 60)
    assert (low.tolist(), high.tolist()) == ([2.0, 1.0], [4.0, 8.0])  # of 1, 2, 8: ranks 0 and 2
    observer = HistogramObserver(ql.Scheme(granularity=groups))
    observer.observe(r)
    assert observer.counts.sum(1).tolist() == [5, 3]


@each_way
def test_dtypes_and_what_came_in(way):
    r = normals(40)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        low, high = way(r.to(dtype), ql.Scheme(4))
        if way is not WAYS["min_max"]:  # which is exact in any dtype
            assert (
                low.dtype == high.dtype == (torch.float64 if dtype.itemsize == 8 else torch.float)
            )
            assert same((low, high), way(plain_tensor(r.to(dtype)), ql.Scheme(4)))
    parameter = torch.nn.Parameter(r.clone())
    ends = way(parameter, ql.Scheme(4))
    assert same(ends, way(r, ql.Scheme(4)))
    if way is not WAYS["min_max"]:
        assert not ends[0].requires_grad and type(ends[0]) is torch.Tensor


def plain_tensor(r):
    return torch.from_numpy(plain(r).copy())


@pytest.mark.parametrize("way", [w for name, w in WAYS.items() if name != "moving_average"])
@settings(max_examples=15)
@given(problem=problems(bits=(2, 4, 8)))
def test_ranges_lie_within_the_values_and_can_be_used(way, problem):
    r, scheme = problem
    low, high = way(r, scheme)
    r_min, r_max = min_max(plain_tensor(r), scheme)
    assert (low >= r_min).all() and (high <= r_max).all() and (low <= high).all()
    if r.abs().max() > 1e-30:
        ql.quantize(r, scheme, qparams_from_range(low, high, scheme))


# --- percentile -----------------------------------------------------------------------------------


@given(problems(), st.sampled_from([50.5, 75.0, 90.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_numpys_taken_outwards(problem, percent):
    r, scheme = problem
    low, high = percentile(r, scheme, percent)
    values, blocks = plain(r), {}
    for i in indices(r.shape):
        blocks.setdefault(home(i, r.shape, scheme.granularity), []).append(values[i])
    for block, inside in blocks.items():
        assert high[block] == np.percentile(inside, percent, method="higher")
        assert low[block] == -np.percentile([-x for x in inside], percent, method="higher")


@pytest.mark.parametrize(
    "n, percent, rank",
    [(1001, 99.9, 999), (2001, 99.9, 1998), (101, 55, 55), (41_001, 99.9, 40_959)],
)
def test_a_rank_that_is_whole_is_not_rounded_up(n, percent, rank):
    """(n - 1) * 99.9 / 100 is whole here; (n - 1) * 0.999 in floats is a little more."""
    assert percentile(torch.arange(float(n)), percent=percent)[1] == rank


def test_a_hundred_percent_is_min_max_and_less_clips_no_more_than_it_says():
    for r in DATA.values():
        assert same(percentile(r, percent=100), min_max(r))
        for percent in (60, 90, 99, 99.9):
            low, high = percentile(r, percent=percent)
            assert (r > high).sum() <= (1 - percent / 100) * r.numel()
            assert (r < low).sum() <= (1 - percent / 100) * r.numel()
    low, high = percentile(with_outliers(), percent=99.9)
    assert -4 < low < -3 and 3 < high < 4  # five of ten thousand at either end


@pytest.mark.parametrize("percent, clipped", [(99, {1, 2}), (99.9, {0})])
def test_of_128_weights_a_symmetric_percentile_clips_one_or_two(percent, clipped):
    """Notebook 07: of the one left out at either end, the range of the larger end holds one."""
    w = tinygpt.weight_matrices(tinygpt.load("cpu"))["blocks.0.mlp.up"]
    scheme = ql.Scheme(4, "symmetric", ql.PerAxis(0))
    rule = partial(percentile, percent=percent)
    s = ql.choose_qparams(w, scheme, find_range=rule).scale
    assert set((w.abs() > 7.001 * s).sum(1).tolist()) == clipped


# --- least squared error --------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", DATA)
def test_the_search_is_as_good_as_brute_force(name, bits, mapping):
    """2,000 limits, a row for each, on the package's whole way from a range to the error."""
    r = DATA[name][:1000]
    scheme = ql.Scheme(bits, mapping)
    found = error_of(r, mse_search(r, scheme), scheme)
    limits = torch.linspace(0, 1, 2001)[1:, None] * r.abs().max()
    rows = r.flatten().expand(2000, -1)
    ends = r.min().clamp(-limits, limits), r.max().clamp(-limits, limits)
    each = ql.Scheme(bits, mapping, ql.PerAxis(0))
    r_hat = ql.quantize(rows, each, qparams_from_range(*ends, each)).dequantize()
    errors = (rows - r_hat).double().square().mean(1)
    assert errors[-1] == error_of(r, [end[-1, 0] for end in ends], scheme)
    slack = 1.4 if r.numel() < 10 else 1.05  # nine values: the error jumps from limit to limit
    assert found <= slack * errors.min()


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("shape", [(300, 700), (40, 90), (1, 200_000), (1, 1)])
def test_limits_tried_together_are_those_tried_one_after_the_other(shape, mapping):
    """Rows and limits come in parts, and where limits share a scale the first stays."""
    r = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    scheme = ql.Scheme(3, mapping, ql.PerAxis(0), scale_dtype=torch.bfloat16)
    r_min, r_max = min_max(r, scheme)
    start = best = top = torch.maximum(-r_min, r_max)
    least = torch.full_like(top, math.inf, dtype=torch.float64)
    coarse, fine = [-k / 8 for k in range(1, 73)], [k / 256 for k in range(-64, 65)]
    for powers in ([None], coarse, fine):
        for power in powers:
            limit = top if power is None else torch.minimum(_short(start * 2.0**power), top)
            ends = r_min.clamp(-limit, limit), r_max.clamp(-limit, limit)
            r_hat = ql.quantize(r, scheme, qparams_from_range(*ends, scheme)).dequantize()
            here = (r_hat - r).double().square().sum(1, keepdim=True)
            best = torch.where(here < least, limit, best)
            least = torch.minimum(here, least)
        start = best
    low, high = mse_search(r, scheme)
    assert torch.equal(low, r_min.clamp(-best, best)) and torch.equal(
        high, r_max.clamp(-best, best)
    )


@pytest.mark.parametrize("bins", [6, 12, 14, 18, 24])
def test_the_value_nearest_to_the_end_of_a_histogram_is_counted(bins):
    """The width of bins that are no power of two is rounded, and lies a little too low."""
    r = torch.tensor([0.25, -0.5, 1 - 2**-53], dtype=torch.float64)
    observer = PercentileObserver(bins=bins)
    observer.observe(r)
    assert observer.counts.sum() == 3 and observer.counts[0, -1] == 1
    assert entropy(r, bins=bins)[1] <= 1


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_the_search_reaches_far_down(mapping):
    """One value of 450, given up for very many of size 1: the best limit lies near 1."""
    r = torch.tensor([1.0, -1.0]).repeat(150_000)
    r[0] = 450.0
    _, high = mse_search(r, ql.Scheme(2, mapping))
    assert 0.9 < high < 2.1


@settings(max_examples=50)
@given(problems(bits=(2, 3, 4, 8)))
def test_the_search_is_never_worse_than_min_max(problem):
    r, scheme = problem
    if r.abs().max() < 1e-30:
        return
    r = plain_tensor(r)
    best, widest = mse_search(r, scheme), min_max(r, scheme)
    squared = [
        (r - ql.quantize(r, scheme, qparams_from_range(*ends, scheme)).dequantize()).double() ** 2
        for ends in (best, widest)
    ]
    sums = [{}, {}]
    for i in indices(r.shape):
        block = home(i, r.shape, scheme.granularity)
        for total, e in zip(sums, squared, strict=True):
            total[block] = total.get(block, 0.0) + e[i].item()
    assert all(sums[0][b] <= sums[1][b] * (1 + 1e-9) for b in sums[0])


@given(problems(include_zero=False))
def test_the_qparams_inside_the_searches_are_the_packages(problem):
    r, scheme = problem
    ends = min_max(plain_tensor(r), scheme)
    for include_zero in (True, False):
        scheme = ql.Scheme(
            scheme.bits, scheme.mapping, scheme.granularity, scheme.signed, include_zero
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ql.ZeroPointClipped)
            wanted = qparams_from_range(*ends, scheme)
        scale, zero_point = qparams_of(*ends, scheme)
        assert torch.equal(scale, wanted.scale)
        assert torch.equal(zero_point.to(scheme.dtype), wanted.zero_point)


def test_the_codes_inside_the_searches_are_the_packages():
    """At ties with an odd zero point the two orders of rounding differ."""
    r = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    for rounding in ("inside", "outside"):
        scheme, qparams = ql.Scheme(4, rounding=rounding), ql.QParams(torch.tensor(1.0), 1)
        codes = _codes(r, qparams.scale, torch.tensor(qparams.zero_point), scheme)
        assert codes.tolist() == ql.quantize(r, scheme, qparams).q.tolist()


# --- histograms -----------------------------------------------------------------------------------


@given(tensors(min_dims=1), st.integers(0, 2**20))
def test_a_histogram_counts_right_whatever_the_order(r, seed):
    r = plain_tensor(r)
    whole_tensor, by_parts = HistogramObserver(bins=16), HistogramObserver(bins=16)
    whole_tensor.observe(r)
    order = torch.randperm(r.numel(), generator=torch.Generator().manual_seed(seed))
    for part in r.flatten()[order].split(2):
        by_parts.observe(part)
    assert torch.equal(whole_tensor.counts, by_parts.counts)
    assert torch.equal(whole_tensor.exponent, by_parts.exponent)
    assert whole_tensor.counts.sum() == r.numel()
    width = whole_tensor.width.item()
    wanted = np.zeros(16)
    for x in r.flatten().double().tolist():
        wanted[math.floor(x / width) + 8] += 1
    assert whole_tensor.counts.tolist() == [wanted.tolist()]
    # No wider than needed: half of it would not hold the largest value.
    largest = r.abs().max().item()
    assert largest < 8 * width and (largest >= 4 * width or not r.any())


def test_each_row_has_bins_of_its_own():
    r = torch.tensor([[1.0, -1.0, 0.5], [100.0, 1.0, 0.0]])
    observer = HistogramObserver(ql.Scheme(granularity=ql.PerAxis(0)), bins=8)
    observed(observer, r[:, :1], r[:, 1:])
    assert observer.width.tolist() == [[0.5], [32.0]]
    assert observer.counts.tolist() == [[0, 0, 1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 2, 0, 0, 1]]


def test_counts_are_floats_past_16_million_and_merge_over_any_distance():
    observer = HistogramObserver(bins=4)
    observed(observer, torch.tensor([1e-30, -1e-30]))
    observer.counts += 2.0**24  # where float32 would stop counting
    observed(observer, torch.tensor([1e-30]), torch.tensor([3e38]))
    assert observer.counts.tolist() == [[0, 2.0**25 + 1, 2.0**25 + 2, 1]]
    observer = HistogramObserver(bins=1024)
    observed(observer, torch.tensor([1e-30, -1e-30]), torch.tensor([1.5]))
    assert observer.counts[0, 511:513].tolist() == [1, 1]


def test_an_observer_keeps_no_batches():
    for observer in (
        MinMaxObserver(),
        MovingAverageObserver(),
        PercentileObserver(bins=64),
        MSEObserver(bins=64),
        EntropyObserver(bins=64),
    ):
        held = []
        for scale in (1, 10, 1000):
            observer.observe(scale * normals(5000))
            held.append(sum(x.numel() for x in vars(observer).values() if torch.is_tensor(x)))
        assert held[0] == held[1] == held[2] <= 64 + 3


# --- observers against the tensor as a whole ------------------------------------------------------


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(-1), ql.PerGroup(3)])
def test_min_and_max_of_batches_are_those_of_all(granularity):
    batches = normals(6, 4, 7).unbind()
    ends = observed(MinMaxObserver(ql.Scheme(granularity=granularity)), *batches)
    stacked = [min_max(b, ql.Scheme(granularity=granularity)) for b in batches]
    assert torch.equal(ends[0], torch.stack([low for low, _ in stacked]).amin(0))
    assert torch.equal(ends[1], torch.stack([high for _, high in stacked]).amax(0))


@pytest.mark.parametrize(
    "batches",
    [
        [[1.34, 1.3400002], [96.98]],  # each end is rounded for itself
        [[-1.1901844e38, -1.1901843e38], [3.335448e38]],  # by halves: the difference is infinite
    ],
)
@pytest.mark.parametrize("weight", [0.1, 0.3, 0.7, 0.9])
def test_the_ends_of_a_moving_average_stay_in_order(batches, weight):
    low, high = moving_average(map(torch.tensor, batches), weight=weight)
    assert low <= high
    ql.choose_qparams(torch.ones(1), ql.Scheme(), lambda r, scheme: (low / 2, high / 2))


def test_the_moving_average_is_its_formula():
    batches = [torch.tensor(b) for b in ([-1.0, 4.0], [-3.0, 0.0], [0.0, 40.0])]
    assert moving_average(batches, weight=0.25) == (-1.125, 12.25)  # -1.5, 3; then -1.125, 12.25
    assert moving_average(batches, weight=1) == (0.0, 40.0)
    narrow = [torch.tensor([-1e4, 1e4]), torch.tensor([-1e-4, 1e-4])]
    assert moving_average(narrow, weight=1) == tuple(narrow[1])
    apart = [torch.tensor([2e38, 3e38]), torch.tensor([-3e38, -2e38])]  # an infinite difference
    assert moving_average(apart, weight=1) == tuple(apart[1])
    assert moving_average(batches[:1]) == (-1.0, 4.0)
    assert moving_average(iter(batches)) == observed(MovingAverageObserver(), *batches)


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percent", [75, 99, 99.9, 100])
def test_the_percentile_of_a_histogram_is_at_most_a_bin_further_out(name, percent):
    r = DATA[name]
    observer = PercentileObserver(percent=percent)
    low, high = observed(observer, *r.flatten().split(3))
    exact_low, exact_high = percentile(r, percent=percent)
    assert 0 <= exact_low - low <= observer.width
    assert 0 <= high - exact_high <= observer.width


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_search_on_a_histogram_finds_nearly_the_least_error(name, bits):
    r = DATA[name]
    for mapping in ("symmetric", "asymmetric"):
        scheme = ql.Scheme(bits, mapping)
        ends = observed(MSEObserver(scheme), *r.flatten().split(999))
        exact = error_of(r, mse_search(r, scheme), scheme)
        slack = 1.3 if r.numel() < 10 else 1.05
        assert error_of(r, ends, scheme) <= slack * exact + 1e-12


def test_a_limit_is_cut_by_three_parts_in_ten_thousand_at_most():
    limit = DATA["normal"].abs()
    cut = 1 - _short(limit) / limit
    assert cut.min() >= 0 and 2e-4 < cut.max() < 3e-4


# --- entropy --------------------------------------------------------------------------------------


def slow_divergences(values, scheme, bins, every=1):
    """{limit: KL divergence}, in Python numbers, one bin at a time."""
    top = max(abs(x) for x in values)
    width = 2.0 ** (math.frexp(top)[1] + 1) / bins
    low, high = min(values), max(values)
    counts = {}
    for x in values:
        if x != 0:
            counts[math.floor(x / width)] = counts.get(math.floor(x / width), 0) + 1
    found = {}
    for k in range(bins // 2, 0, -every):
        limit = np.float32(min(k * width, top))
        ends = np.float32(max(low, -limit)), np.float32(min(high, limit))
        s, z = qparams_of_range(*ends, scheme)
        if s < width or 2 * sum(n for b, n in counts.items() if -k <= b < k) < sum(counts.values()):
            continue
        p, codes = [0.0] * (2 * k), []
        for b, n in counts.items():
            p[min(max(b, -k), k - 1) + k] += n
        for b in range(-k, k):
            centre = np.float32(min(max((b + 0.5) * width, low), high))
            codes.append(whole(centre / s + np.float32(z)))
        codes = [min(max(c, scheme.quant_min), scheme.quant_max) for c in codes]
        q = [0.0] * (2 * k)
        for code in set(codes):
            mine = [i for i in range(2 * k) if codes[i] == code and p[i] > 0]
            kept = max(sum(counts.get(i - k, 0) for i in range(2 * k) if codes[i] == code), 1e-4)
            for i in mine:
                q[i] = kept / len(mine)
        p_sum, q_sum = sum(p), sum(q)
        pairs = [(a / p_sum, b / q_sum) for a, b in zip(p, q, strict=True) if a > 0]
        found[float(limit)] = sum(a * math.log(a / b) for a, b in pairs)
    return found


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [3, 4, 5])
@pytest.mark.parametrize("name", ["normal", "outliers", "ReLU", "heavy tails", "T"])
def test_entropy_is_the_least_of_the_slow_spec(name, bits, mapping):
    r, scheme = DATA[name].flatten()[:300], ql.Scheme(bits, mapping)
    low, high = entropy(r, scheme, bins=128)
    divergences = slow_divergences(r.tolist(), scheme, bins=128)
    limit = max(-low.item(), high.item())
    nearest = min(divergences, key=lambda t: abs(t - limit))
    assert nearest == pytest.approx(limit, rel=1e-6)
    assert divergences[nearest] <= min(divergences.values()) + 1e-9
    assert (low, high) == (r.min().clamp(-limit, limit), r.max().clamp(-limit, limit))


def test_with_many_bins_the_limits_tried_are_every_fourth():
    r, scheme = DATA["heavy tails"][:100], ql.Scheme(4)
    low, high = entropy(r, scheme)
    divergences = slow_divergences(r.tolist(), scheme, bins=KL_BINS, every=4)
    limit = max(-low.item(), high.item())
    assert divergences[limit] == pytest.approx(min(divergences.values()), rel=1e-9)


def test_entropy_never_clips_most_of_the_values():
    """With all values in one end code P and Q would be equal, and their divergence 0."""
    for r, bits in ((DATA["normal"] + 10, 8), (DATA["normal"].abs() / 10 + 1, 4)):
        low, high = entropy(r, ql.Scheme(bits))
        assert ((r >= low) & (r <= high)).float().mean() >= 0.5
        assert high > 0.9 * r.max()


def test_entropy_may_clip_half_of_the_values_and_no_more():
    r = torch.tensor([1.0] * 4 + [1.4] + [1.5] * 3)  # without the last four, nothing is lost
    assert entropy(r, ql.Scheme(2), bins=64)[1] < 1.4
    assert entropy(torch.cat([r, r[-1:]]), ql.Scheme(2), bins=64)[1] >= 1.4


def test_with_too_few_bins_entropy_is_min_max():
    """A step of 8 bits is narrower than a bin until the limit reaches the end."""
    r = with_outliers()
    for bins in (2, 64, 128, 256):
        assert same(entropy(r, SYMMETRIC, bins), min_max(r))
    assert max(entropy(r, SYMMETRIC, bins=4096)).item() < 5


def test_zeros_do_not_decide():
    """They come back exactly, whatever the range; counted, they would draw it towards 0."""
    r = DATA["ReLU"]
    for scheme in (ql.Scheme(8), SYMMETRIC, ql.Scheme(4)):
        assert same(entropy(r, scheme), entropy(torch.cat([r, torch.zeros(10**5)]), scheme))
    all_zero = torch.zeros(5)
    assert entropy(all_zero) == mse_search(all_zero) == percentile(all_zero) == (0.0, 0.0)


# --- torch and onnxruntime ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torchs_observers():
    from torch.ao.quantization import observer as ao

    batches = normals(10, 500).unbind()
    for mine, theirs in (
        (MinMaxObserver(), ao.MinMaxObserver()),
        (MovingAverageObserver(weight=0.01), ao.MovingAverageMinMaxObserver()),
    ):
        for batch in batches:
            theirs(batch)
        low, high = observed(mine, *batches)
        torch.testing.assert_close((low, high), (theirs.min_val, theirs.max_val))
    # Its HistogramObserver searches for the least squared error too, by another path.
    scheme = ql.Scheme(4)
    theirs = ao.HistogramObserver(quant_min=-8, quant_max=7, dtype=torch.qint8)
    for batch in with_outliers().split(1000):
        theirs(batch)
    r = with_outliers()
    ends = observed(MSEObserver(scheme), *r.split(1000))
    assert error_of(r, ends, scheme) <= error_of(r, theirs._non_linear_param_search(), scheme)


class Batches(CalibrationDataReader):
    def __init__(self, batches):
        self.left = iter(batches)

    def get_next(self):
        batch = next(self.left, None)
        return None if batch is None else {"x": batch.numpy()}


@pytest.fixture
def calibrated(tmp_path):
    """What onnxruntime's calibrators find on the input of a model with one MatMul."""
    n = 500
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one_product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, n))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1))],
        [helper.make_tensor("w", TensorProto.FLOAT, (n, 1), np.ones(n, np.float32))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")

    def calibrate(method, collections, **options):
        with contextlib.redirect_stdout(io.StringIO()):
            calibrator = create_calibrator(
                tmp_path / "model.onnx",
                augmented_model_path=str(tmp_path / "augmented.onnx"),
                calibrate_method=CalibrationMethod[method],
                extra_options=options,
            )
            for batches in collections:
                calibrator.collect_data(Batches(b[None] for b in batches))
            ends = calibrator.compute_data()["x"].range_value
        return tuple(torch.tensor(np.float32(end).item()) for end in ends)

    return calibrate


def test_onnxruntimes_min_max_and_moving_average(calibrated):
    batches = normals(6, 500).unbind()
    assert calibrated("MinMax", [batches]) == observed(MinMaxObserver(), *batches)
    one_by_one = [[batch] for batch in batches]
    theirs = calibrated("MinMax", one_by_one, moving_average=True, averaging_constant=0.2)
    torch.testing.assert_close(theirs, moving_average(batches, weight=0.2))
    # In one collection it takes the plain mean instead, and the constant plays no part.
    theirs = calibrated("MinMax", [batches], moving_average=True, averaging_constant=0.2)
    torch.testing.assert_close(theirs[1], torch.stack(batches).amax(1).mean())


def test_onnxruntime_forgets_batches_when_it_saves_memory(calibrated):
    """max_intermediate_outputs clears what was collected before it was counted."""
    batches = [torch.full((500,), v) for v in (100.0, 1.0, 2.0)]
    assert calibrated("MinMax", [batches], max_intermediate_outputs=2)[1] == 2.0
    assert observed(MinMaxObserver(), *batches)[1] == 100.0


def onnxruntimes(method, r, bins, percent=99.9, symmetric=False, quantized_bins=128):
    with contextlib.redirect_stdout(io.StringIO()):
        collector = HistogramCollector(
            method, symmetric, bins, quantized_bins, percent, scenario="same"
        )
        collector.collect({"x": r.numpy()})
        low, high = collector.compute_collection_result()["x"][:2]
    return float(low), float(high)


def test_onnxruntimes_percentile_is_a_bin_short_above():
    """It takes the left edge of the bin on either side: above, the inner one."""
    r = normals(100_000)
    low, high = percentile(r, percent=99.5)
    for bins in (2048, 64):
        width = 2 * r.abs().max().item() / bins
        theirs = onnxruntimes("percentile", r, bins, percent=99)  # 0.5 % at either end
        assert 0 <= low - theirs[0] <= width
        assert 0 < high - theirs[1] <= width
    assert (r > theirs[1]).float().mean() > 0.005 >= (r > high).float().mean()


def test_onnxruntimes_default_entropy_is_min_max(calibrated):
    """128 bins for 128 levels leave it a single limit to try."""
    batches = with_outliers().split(500)
    assert calibrated("Entropy", [batches]) == observed(MinMaxObserver(), *batches) == (-20.0, 20.0)
    with_enough = calibrated("Entropy", [batches], num_bins=2048)
    assert with_enough[1] < 6


def test_onnxruntimes_entropy_lets_zeros_decide():
    r = normals(100_000).relu()
    scheme = ql.Scheme(8, "symmetric")
    theirs = onnxruntimes("entropy", r, 2048, quantized_bins=255)
    assert theirs[1] < 2.7 and entropy(r, scheme)[1] > 3.5
    ends = torch.tensor(theirs[0]), torch.tensor(theirs[1])
    assert error_of(r, ends, scheme) > 20 * error_of(r, entropy(r, scheme), scheme)


# --- what they refuse -----------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
OBSERVERS = [
    MinMaxObserver,
    MovingAverageObserver,
    HistogramObserver,
    PercentileObserver,
    MSEObserver,
    EntropyObserver,
]


@pytest.mark.parametrize("take", [percentile, mse_search, entropy, *OBSERVERS])
def test_bad_tensors(take):
    def ask(r):
        take().observe(r) if take in OBSERVERS else take(r)

    for bad in (NAN, INF, -INF):
        with pytest.raises(
            ValueError, match=r"(r|batch) holds [01] NaN and [01] infinite .* \(1, 2\): remove"
        ):
            ask(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, bad]]))
    with pytest.raises(ValueError, match=r"(r|batch) is empty \(shape \(0, 3\)\)"):
        ask(torch.zeros(0, 3))
    with pytest.raises(TypeError, match="must be a torch tensor, got list: use torch.tensor"):
        ask([1.0, 2.0])
    with pytest.raises(
        TypeError, match="(r|batch) must be torch.float32, .*, got torch.int64: use (r|batch).float"
    ):
        ask(torch.arange(3))
    with pytest.raises(TypeError, match="(r|batch) is on the meta device"):
        ask(torch.zeros(3, device="meta"))


@pytest.mark.parametrize("take", OBSERVERS)
def test_no_range_before_a_batch_and_a_refused_batch_leaves_no_trace(take):
    observer = take()
    with pytest.raises(ValueError, match=r"No batch was observed: call observe\(batch\) before"):
        observer.range()
    with pytest.raises(ValueError, match="NaN"):
        observer.observe(torch.tensor([NAN]))
    with pytest.raises(ValueError, match="No batch was observed"):
        observer.range()
    observer.observe(torch.tensor([1.0, -1.0]))
    before = observer.range()
    with pytest.raises(ValueError, match="infinite"):
        observer.observe(torch.tensor([INF, 7.0]))
    assert same(before, observer.range())


@pytest.mark.parametrize("take", OBSERVERS)
def test_a_batch_on_another_device_than_those_before_is_refused(take):
    observer = take()
    observer.observe(torch.tensor([1.0, 2.0]))
    observer.r_min = observer.r_min.to("meta")
    with pytest.raises(ValueError, match="batch is on cpu and those before on meta: move one"):
        observer.observe(torch.tensor([1.0, 2.0]))


def test_a_histogram_refuses_what_its_bins_cannot_reach():
    observer = MSEObserver()
    with pytest.raises(ValueError, match="a histogram ends at 2\\^1022. Scale the batch down"):
        observer.observe(torch.tensor([1e308, 0], dtype=torch.float64))
    with pytest.raises(ValueError, match="No batch was observed"):
        observer.range()


def test_batches_of_other_shapes():
    per_tensor, per_axis = MinMaxObserver(), MinMaxObserver(ql.Scheme(granularity=ql.PerAxis(-1)))
    for shape in ((3, 4), (7, 4), (2, 5, 4)):
        per_tensor.observe(torch.ones(shape))
    per_axis.observe(torch.ones(3, 4))
    per_axis.observe(torch.ones(7, 4))
    wrong = r"shape \(3, 5\) has scales of shape \(1, 5\), those before had \(1, 4\): use one"
    with pytest.raises(ValueError, match=wrong):
        per_axis.observe(torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"scales of shape \(1, 1, 4\)"):
        per_axis.observe(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match="axis=3 is out of range"):
        MinMaxObserver(ql.Scheme(granularity=ql.PerAxis(3))).observe(torch.ones(2, 2))
    with pytest.raises(ValueError, match="No batch was observed"):
        MinMaxObserver().range()
    with pytest.raises(ValueError, match="batches has none: .*a new generator each time"):
        moving_average([])
    for bad in (torch.ones(3, 5), 5):
        with pytest.raises(TypeError, match=r"list of batches, got .*: for one batch pass \[batch"):
            moving_average(bad)


def test_bad_settings():
    for percent in (50, 49.9, 100.1, 0.999, NAN, True, "99"):
        with pytest.raises(ValueError, match="^percent must be a number above 50 and at most 100"):
            percentile(T, percent=percent)
        with pytest.raises(ValueError, match="^percent must be"):
            PercentileObserver(percent=percent)
    for weight in (0, -0.1, 1.1, NAN, "0.1"):
        with pytest.raises(ValueError, match="^weight must be a number above 0 and at most 1"):
            MovingAverageObserver(weight=weight)
    for bins in (0, -2, 3, 2.0, "64", True):
        with pytest.raises(ValueError, match="^bins must be (even|an integer of at least 2)"):
            HistogramObserver(bins=bins)
    for take in (mse_search, entropy):
        with pytest.raises(TypeError, match="^scheme must be a ql.Scheme, got PerTensor"):
            take(T, ql.PerTensor())
    for take in (MSEObserver, EntropyObserver, MinMaxObserver, PercentileObserver, Observer):
        with pytest.raises(TypeError, match="^scheme must be a ql.Scheme, got 8"):
            take(8)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_last_bits_of_the_data_decide_nothing(bits):
    """From -t to t the zero point is a tie: a sum in another order must not send it elsewhere."""
    g = torch.Generator().manual_seed(0)
    r = torch.randn(40, 500, generator=g, dtype=torch.float64)
    scheme = ql.Scheme(bits, granularity=ql.PerAxis(0))
    ends = mse_search(r, scheme)
    inside = (ends[1] < r.amax(1, keepdim=True)) & (ends[0] > r.amin(1, keepdim=True))
    assert inside.sum() > 5 or bits == 8
    for _ in range(5):
        other = r * (1 + 1e-14 * torch.randn(r.shape, generator=g, dtype=torch.float64))
        low, high = mse_search(other, scheme)
        assert torch.equal(low[inside], ends[0][inside])
        assert torch.equal(high[inside], ends[1][inside])
