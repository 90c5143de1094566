"""The checked whole: goldens, properties against the slow spec, edges, messages, gradients."""

import dataclasses
import itertools
import re
import warnings

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import T
from strategies import FLOATS, problems
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import qlesson as ql
from qlesson.ranges import mse_search

SYMMETRIC = ql.Scheme(mapping="symmetric")
LITERAL = ql.Scheme(include_zero=False)
ROWS = ql.Scheme(granularity=ql.PerAxis(0))
BOTH_MAPPINGS = [ql.Scheme(), SYMMETRIC]
GRANULARITIES = [ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(2), ql.PerGroup(2, 0)]


class Tagged(torch.Tensor):
    """A Tensor subclass, as other libraries make them."""


def steps(scheme):
    return scheme.quant_max - scheme.quant_min


def aligned(x, p):
    """A scale or zero point of the QTensor x, repeated for every element."""
    g = x.scheme.granularity
    return g.join((g.split(x.q) * 0).double() + g.align(p.double()), x.shape)


# --- goldens ---


def test_a_clipped_value_gets_no_gradient_however_large_it_is():
    r = torch.tensor([0.5, 9.0], requires_grad=True)
    out = ql.fake_quantize(r, ql.Scheme(8, "symmetric"), ql.QParams(0.01, 0))
    out.backward(torch.tensor([1.0, torch.inf]))
    assert r.grad.tolist() == [1, 0]


def test_T_in_and_out():
    x = ql.quantize(T)
    assert x.q.tolist() == [[-23, -81, 127], [-51, 6, -128], [-77, 114, -8]]
    assert x.scale.item() == torch.tensor(3.578823433670343).item()
    assert x.zero_point.item() == -77
    assert (x.q.dtype, x.scale.dtype, x.zero_point.dtype) == (
        torch.int8,
        torch.float32,
        torch.int8,
    )
    assert [[round(v, 4) for v in row] for row in x.dequantize().tolist()] == [
        [193.2565, -14.3153, 730.0800],
        [93.0494, 297.0423, -182.5200],
        [0.0000, 683.5552, 246.9388],
    ]
    assert ql.mse(T, x.dequantize()).item() == pytest.approx(1.572973, abs=6e-7)


def test_T_in_float64_keeps_the_scale_in_float64():
    x = ql.quantize(T.double())
    assert x.scale.dtype == torch.float64
    assert x.scale.item() == 3.578823433670343
    assert x.dequantize().dtype == torch.float64


def test_T_symmetric():
    x = ql.quantize(T, SYMMETRIC)
    assert x.q.tolist() == [[33, -2, 127], [16, 52, -32], [0, 119, 43]]
    assert ql.choose_qparams(T.double(), SYMMETRIC).scale.item() == 5.737007681779035
    assert x.zero_point.item() == 0
    assert ql.mse(T, x.dequantize()).item() == pytest.approx(2.509191, abs=6e-7)


def test_minus_T():
    """The largest magnitude of T is positive; -T shows what rests on that."""
    x = ql.quantize(-T)
    assert x.q.tolist() == [[22, 80, -128], [50, -7, 127], [76, -115, 7]]
    assert (x.scale.item(), x.zero_point.item()) == (ql.quantize(T).scale.item(), 76)
    x = ql.quantize(-T, SYMMETRIC)
    assert x.q.tolist() == (-ql.quantize(T, SYMMETRIC).q).tolist()
    assert x.scale == ql.quantize(T, SYMMETRIC).scale


def test_T_unsigned():
    x = ql.quantize(T, ql.Scheme(signed=False))
    assert (x.q.dtype, x.zero_point.item()) == (torch.uint8, 51)
    assert x.q.tolist() == [[105, 47, 255], [77, 134, 0], [51, 242, 120]]


def test_T_in_bfloat16_is_computed_in_float32():
    x = ql.quantize(T.bfloat16())
    assert x.zero_point.item() == -77  # -76 in bfloat16 arithmetic: tests/test_affine.py
    assert x.scale.dtype == torch.float32
    assert x.dequantize().dtype == torch.float32


def test_bits_per_value_of_T_by_row_is_more_than_bfloat16():
    x = ql.quantize(T, ROWS)
    assert x.bits_per_value == pytest.approx(8 + 3 * (32 + 8) / 9)
    assert f"{x.bits_per_value:.1f}" == "21.3"
    assert x.nbytes == 9 + 3 * 4 + 3
    assert ql.quantize(T).bits_per_value == pytest.approx(8 + 40 / 9)
    assert ql.quantize(T, SYMMETRIC).bits_per_value == pytest.approx(8 + 32 / 9)
    assert ql.quantize(T.double()).bits_per_value == pytest.approx(8 + 72 / 9)
    sixteen = ql.quantize(T, ql.Scheme(16, granularity=ql.PerGroup(2)))
    assert sixteen.bits_per_value == pytest.approx(16 + 6 * (32 + 16) / 9)
    assert sixteen.nbytes == 2 * 9 + 6 * 4 + 6 * 2


def relu(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(64)])
def test_on_relu_data_8_bits_symmetric_are_7_bits_asymmetric(seed, granularity):
    r = relu(10_000, seed).view(10, 1000)
    symmetric = ql.quantize(r, ql.Scheme(8, "symmetric", granularity))
    asymmetric = ql.quantize(r, ql.Scheme(7, granularity=granularity))
    assert torch.equal(symmetric.scale, asymmetric.scale)
    assert (asymmetric.zero_point == -64).all()
    assert torch.equal(symmetric.q, asymmetric.q + 64)
    assert torch.equal(symmetric.dequantize(), asymmetric.dequantize())


@pytest.mark.parametrize("options", [{"signed": False}, {"rounding": "outside"}])
def test_on_relu_data_the_claim_is_exact_unsigned_or_outside(options):
    near_tie = torch.tensor([0.0, 127.0, 0.50000006])
    for r in (near_tie, relu(1_000_000), relu(1_000_000, 4)):
        symmetric, asymmetric = ql.quantize(r, SYMMETRIC), ql.quantize(r, ql.Scheme(7, **options))
        assert torch.equal(symmetric.dequantize(), asymmetric.dequantize())


def test_on_relu_data_the_claim_fails_at_near_ties_and_for_one_negative_value():
    r = torch.tensor([0.0, 127.0, 0.50000006])  # r/s - 64 is rounded onto the tie -63.5
    assert ql.quantize(r, SYMMETRIC).q.tolist() == [0, 127, 1]
    assert (ql.quantize(r, ql.Scheme(7)).q + 64).tolist() == [0, 127, 0]
    r = torch.cat([relu(1000), torch.tensor([-0.1])])
    symmetric, asymmetric = ql.quantize(r, SYMMETRIC), ql.quantize(r, ql.Scheme(7))
    assert not torch.equal(symmetric.dequantize(), asymmetric.dequantize())


# --- properties ---


@given(problems())
def test_equal_to_the_slow_spec_bit_for_bit(problem):
    r, scheme = problem
    x = ql.quantize(r, scheme)
    scale, zero_point = reference.choose_qparams(r, scheme)
    q = reference.quantize(r, scale, zero_point, scheme)
    r_hat = reference.dequantize(q, scale, zero_point, scheme)
    assert x.scale.shape == x.zero_point.shape == scale.shape
    assert (x.scale.numpy() == scale).all()
    assert (x.zero_point.numpy() == zero_point).all()
    assert (x.q.numpy() == q).all()
    assert (x.dequantize().numpy() == r_hat).all()


@given(problems(include_zero=False))
@pytest.mark.filterwarnings("ignore::qlesson.ZeroPointClipped")
def test_the_literal_formula_equals_the_slow_spec_too(problem):
    r, scheme = problem
    x = ql.quantize(r, scheme)
    scale, zero_point = reference.choose_qparams(r, scheme)
    assert (x.scale.numpy() == scale).all()
    assert (x.zero_point.numpy() == zero_point).all()
    assert (x.q.numpy() == reference.quantize(r, scale, zero_point, scheme)).all()


@given(problems())
def test_dtypes_shapes_and_codes_in_range(problem):
    r, scheme = problem
    x = ql.quantize(r, scheme)
    wide = torch.float64 if r.dtype == torch.float64 else torch.float32
    assert (x.q.dtype, x.zero_point.dtype, x.scale.dtype) == (scheme.dtype, scheme.dtype, wide)
    assert x.shape == x.q.shape == r.shape
    assert x.scale.shape == reference.scale_shape(r.shape, scheme.granularity)
    for codes in (x.q, x.zero_point):
        assert scheme.quant_min <= codes.min() and codes.max() <= scheme.quant_max
    assert x.dequantize().shape == r.shape
    assert x.dequantize().dtype == wide


@given(problems())
def test_round_trip_within_half_a_step(problem):
    """The bound counts float32's own rounding: of r/s, of the sum, of r_hat, and of the scale.

    The last one alone reaches (quant_max - quant_min) * 2^-23 of a step at the end of the range.
    """
    r, scheme = problem
    x = ql.quantize(r, scheme)
    bound = aligned(x, x.scale) * (0.5 + steps(scheme) * 2.0**-22)
    narrow = aligned(x, x.scale) == 1  # all zeros, or too narrow for a scale
    error = (r.double() - x.dequantize().double()).abs()
    assert ((error <= bound) | narrow).all()


@given(problems(bits=(2, 3, 4, 5, 6, 7, 8)), st.integers(0, 10**6))
def test_saturation_outside_the_range(problem, seed):
    r, scheme = problem
    x = ql.quantize(r, scheme)
    side = torch.rand(r.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    far = torch.where(side, -1.0, 1.0) * (r.double().abs().max() * 3 + 1e3)
    beyond = (far.double() / aligned(x, x.scale)).abs() > 2 * steps(scheme)
    assume(beyond.all())
    y = ql.quantize(far.to(x.scale.dtype), scheme, (x.scale, x.zero_point))
    assert torch.equal(y.q == scheme.quant_max, far > 0)
    assert torch.equal(y.q == scheme.quant_min, far < 0)


@given(problems())
def test_zero_comes_back_exactly(problem):
    r, scheme = problem
    x = ql.quantize(r, scheme)
    zeros = ql.quantize(torch.zeros_like(r), scheme, (x.scale, x.zero_point))
    assert torch.equal(zeros.q.double(), aligned(x, x.zero_point))
    assert not zeros.dequantize().any()


@given(problems())
def test_monotone(problem):
    r, scheme = problem
    scheme = dataclasses.replace(scheme, granularity=ql.PerTensor())
    values = torch.cat([r.flatten(), 3 * r.flatten()]).sort().values
    q = ql.quantize(values, scheme, ql.choose_qparams(r, scheme)).q.long()
    assert (q.diff() >= 0).all()


@given(problems())
def test_idempotent_with_the_same_scale_and_zero_point(problem):
    r, scheme = problem
    x = ql.quantize(r, scheme)
    again = ql.quantize(x.dequantize(), scheme, (x.scale, x.zero_point))
    assert torch.equal(again.q, x.q)


@pytest.mark.parametrize("limit", [50.0, 184.0, 500.0, 728.6, 750.0, 800.0, 1000.0])
def test_a_scale_computed_anew_is_the_same_where_a_value_got_the_last_code(limit):
    four = ql.Scheme(4, "symmetric")
    once = ql.quantize(T, four, ql.symmetric_qparams(limit, 7))
    twice = ql.quantize(once.dequantize(), four)
    same = torch.allclose(twice.dequantize(), once.dequantize())
    assert same is bool((once.q.abs() == 7).any()) is (limit < 784)  # there 728.6 is at 6.5 steps


@pytest.mark.parametrize(
    "ends", [(-184.0, 728.6), (-100.0, 500.0), (-100.0, 728.6), (-300.0, 500.0), (-100.0, 1000.0)]
)
def test_in_asymmetric_mode_both_ends_count(ends):
    four = ql.Scheme(4)
    once = ql.quantize(T, four, ql.asymmetric_qparams(*ends, -8, 7))
    twice = ql.quantize(once.dequantize(), four)
    both = bool((once.q == -8).any() and (once.q == 7).any())
    assert torch.allclose(twice.dequantize(), once.dequantize()) is both


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-128.5, 126.5)])
def test_at_a_tie_of_the_zero_point_the_ends_come_back_a_step_too_near(ends):
    x = ql.quantize(torch.tensor(ends))
    assert x.q.tolist() == [-128, 126]
    again = ql.quantize(x.dequantize())
    assert (again.scale / x.scale).item() == pytest.approx(254 / 255)


@given(problems(min_dims=2), st.data())
def test_permuting_channels_permutes_everything(problem, data):
    r, scheme = problem
    axis = data.draw(st.integers(0, r.ndim - 1))
    order = data.draw(st.permutations(range(r.shape[axis])))
    granularity = data.draw(st.sampled_from([ql.PerTensor(), ql.PerAxis(axis), ql.PerGroup(2)]))
    if isinstance(granularity, ql.PerGroup):
        assume(axis != r.ndim - 1)
    scheme = dataclasses.replace(scheme, granularity=granularity)
    x, y = ql.quantize(r, scheme), ql.quantize(r.index_select(axis, torch.tensor(order)), scheme)
    assert torch.equal(y.q, x.q.index_select(axis, torch.tensor(order)))
    if not isinstance(granularity, ql.PerTensor):
        assert torch.equal(y.scale, x.scale.index_select(axis, torch.tensor(order)))


@given(problems(dtypes=(torch.float32, torch.float64)), st.integers(-30, 30))
def test_a_power_of_two_scales_the_scale_and_nothing_else(problem, power):
    r, scheme = problem
    assume(r.abs().max() > 1e-30)  # the smallest floats lose digits when halved
    x, y = ql.quantize(r, scheme), ql.quantize(r * 2.0**power, scheme)
    nonzero = aligned(x, x.scale) != 1
    assert torch.equal(y.q, x.q)
    assert torch.equal(y.zero_point, x.zero_point)
    scaled = aligned(y, y.scale) == aligned(x, x.scale) * 2.0**power
    assert (scaled | ~nonzero).all()


@given(problems(dtypes=(torch.float16, torch.bfloat16)))
def test_half_equals_its_float32_copy(problem):
    r, scheme = problem
    x, y = ql.quantize(r, scheme), ql.quantize(r.float(), scheme)
    for name in ("q", "scale", "zero_point"):
        assert torch.equal(getattr(x, name), getattr(y, name))
    given_x = ql.quantize(r, scheme, (x.scale, x.zero_point))
    assert torch.equal(given_x.q, x.q)


@given(problems(dtypes=(torch.float16, torch.bfloat16), include_zero=False))
@pytest.mark.filterwarnings("ignore::qlesson.ZeroPointClipped")
def test_half_equals_its_float32_copy_in_the_literal_formula(problem):
    r, scheme = problem
    x, y = ql.quantize(r, scheme), ql.quantize(r.float(), scheme)
    for name in ("q", "scale", "zero_point"):
        assert torch.equal(getattr(x, name), getattr(y, name))


def test_a_range_too_narrow_for_half_is_wide_enough_for_float32():
    r = torch.tensor([0.001, 0.003]).half()  # a step of 7.8e-6 would be subnormal in float16
    with pytest.warns(ql.ZeroPointClipped, match="the zero point -256 lies outside"):
        scale = ql.choose_qparams(r, LITERAL).scale
    assert scale.item() == pytest.approx(0.002 / 255, rel=1e-3)


@given(problems(), st.data())
def test_the_layout_in_memory_changes_nothing(problem, data):
    r, scheme = problem
    order = data.draw(st.permutations(range(r.ndim)))
    back = [order.index(i) for i in range(r.ndim)]
    apart = torch.stack([r.permute(order), r.permute(order)], dim=-1)[..., 0].permute(back)
    assert torch.equal(apart, r)
    x, y = ql.quantize(r, scheme), ql.quantize(apart, scheme)
    for name in ("q", "scale", "zero_point"):
        assert torch.equal(getattr(x, name), getattr(y, name))
    assert torch.equal(ql.fake_quantize(r, scheme), ql.fake_quantize(apart, scheme))


@given(problems())
def test_the_input_is_not_changed_and_not_shared(problem):
    r, scheme = problem
    before = r.clone()
    x = ql.quantize(r, scheme)
    qparams = ql.QParams(x.scale, x.zero_point)
    y = ql.quantize(r, scheme, qparams)
    fake = ql.fake_quantize(r, scheme)
    scale, zero_point = x.scale.clone(), x.zero_point.clone()
    r_hat = x.dequantize()
    for made in (fake, r_hat, y.q):
        made.zero_()
    assert torch.equal(r, before)
    assert torch.equal(x.scale, scale) and torch.equal(x.zero_point, zero_point)


@given(problems())
def test_choose_then_quantize_is_quantize(problem):
    r, scheme = problem
    x = ql.quantize(r, scheme)
    scale, zero_point = ql.choose_qparams(r, scheme)
    assert torch.equal(x.scale, scale) and torch.equal(x.zero_point, zero_point)
    out = torch.empty(r.shape, dtype=scheme.dtype)
    y = ql.quantize(r, scheme, (scale, zero_point), check=False, out=out)
    assert torch.equal(x.q, out) and y.q.data_ptr() == out.data_ptr()


@given(problems())
def test_fake_quantize_has_the_value_of_there_and_back(problem):
    r, scheme = problem
    expected = ql.quantize(r, scheme).dequantize(r.dtype)
    fake = ql.fake_quantize(r, scheme)
    assert fake.dtype == r.dtype
    assert torch.equal(fake, expected)


def test_the_round_trip_bound_needs_2_to_the_minus_22_at_16_bits():
    """One end of this range comes back half a step and 1.27 * 65535 * 2^-23 of a step away."""
    r = torch.tensor([-0.20151358842849731, 0.802034854888916])
    x = ql.quantize(r, ql.Scheme(16))
    excess = (r.double() - x.dequantize().double()).abs().max() / x.scale.double() - 0.5
    assert 65535 * 2.0**-23 < excess < 65535 * 2.0**-22


# --- edges ---

TINY = torch.finfo(torch.float32).tiny


@pytest.mark.parametrize(
    "r, scheme, scale, zero_point, r_hat",
    [
        # zero width: widened to hold 0
        ([5.0, 5.0], ql.Scheme(), 5 / 255, -128, [5.0, 5.0]),
        ([5.0, 5.0], LITERAL, 5 / 255, -128, [5.0, 5.0]),
        ([-5.0], ql.Scheme(), 5 / 255, 127, [-5.0]),
        ([-5.0], LITERAL, 5 / 255, 127, [-5.0]),
        ([5.0], SYMMETRIC, 5 / 127, 0, [5.0]),
        ([-5.0], SYMMETRIC, 5 / 127, 0, [-5.0]),
        ([5.0], ql.Scheme(signed=False), 5 / 255, 0, [5.0]),
        # nothing but zeros
        ([0.0, -0.0], ql.Scheme(), 1, 0, [0.0, 0.0]),
        ([0.0], LITERAL, 1, 0, [0.0]),
        ([0.0], SYMMETRIC, 1, 0, [0.0]),
        ([0.0], ql.Scheme(signed=False), 1, 0, [0.0]),
        ([0.0], ql.Scheme(16), 1, 0, [0.0]),
        # so narrow that the scale would be zero or subnormal
        ([1e-45], ql.Scheme(), 1, 0, [0.0]),
        ([1e-36], ql.Scheme(), 1, 0, [0.0]),  # 3.9e-39, of notebook 02
        ([TINY, -TINY], ql.Scheme(), 1, 0, [0.0, 0.0]),
        ([TINY, -TINY], LITERAL, 1, 0, [0.0, 0.0]),
        ([TINY, 3 * TINY], LITERAL, 1, 0, [0.0, 0.0]),
        ([126 * TINY], SYMMETRIC, 1, 0, [0.0]),
        ([127 * TINY], SYMMETRIC, TINY, 0, [127 * TINY]),
        ([0.0, 255 * TINY], ql.Scheme(), TINY, -128, [0.0, 255 * TINY]),
        # the largest range that fits
        ([0.0, 3.4e38], ql.Scheme(), 3.4e38 / 255, -128, [0.0, 3.4e38]),
        ([-1.7e38, 1.7e38], ql.Scheme(), 3.4e38 / 255, 0, None),
        ([3.4e38], SYMMETRIC, 3.4e38 / 127, 0, [3.4e38]),
    ],
)
def test_narrow_and_wide_ranges(r, scheme, scale, zero_point, r_hat, recwarn):
    r = torch.tensor(r)
    x = ql.quantize(r, scheme)
    assert x.scale.item() == pytest.approx(scale, rel=2e-7)
    assert x.zero_point.item() == zero_point
    if r_hat is not None:
        assert x.dequantize().tolist() == pytest.approx(r_hat, rel=3e-7)
    assert torch.equal(ql.fake_quantize(r, scheme), x.dequantize())
    assert not recwarn.list


def test_each_block_has_its_own_edge():
    r = torch.tensor([[0.0, 0.0], [5.0, 5.0], [1e-45, 0.0], [3.0, -1.0]])
    x = ql.quantize(r, ROWS)
    assert x.scale.flatten().tolist() == pytest.approx([1.0, 5 / 255, 1.0, 4 / 255])
    assert x.zero_point.flatten().tolist() == [0, -128, 0, -64]
    assert x.dequantize()[:3].tolist() == [[0.0, 0.0], [5.0, 5.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "r, scheme",
    [
        ([-3e38, 3e38], ql.Scheme()),
        ([-3e38, 3e38], LITERAL),
        ([-3e38, 3e38], ql.Scheme(2)),
        ([3.4028234e38], ql.Scheme(6, "symmetric")),  # max / 31 * 31 rounds to infinity
        ([[1.0, 2.0], [-3e38, 3e38]], ROWS),
    ],
)
def test_a_range_too_wide_for_the_dtype_is_refused(r, scheme):
    r = torch.tensor(r)
    with pytest.raises(ValueError, match=r"r reaches from .* too wide for float32.*float64"):
        ql.choose_qparams(r, scheme)
    assert ql.quantize(r.double(), scheme).dequantize().isfinite().all()


@pytest.mark.parametrize(
    "most, dtype, scale_dtype, remedy",
    [
        (3e38, torch.float32, None, ", or pass it as float64."),
        (3e38, torch.float32, torch.float32, ", or use scale_dtype=None and pass it as float64."),
        (3e6, torch.float32, torch.float16, ", or use scale_dtype=torch.float32."),
        (3e38, torch.float32, torch.bfloat16, ", or use scale_dtype=None and pass it as float64."),
        (3e38, torch.float32, torch.float16, ", or use scale_dtype=None and pass it as float64."),
        (1e300, torch.float64, torch.float16, ", or use scale_dtype=None."),
        (1e300, torch.float64, torch.float32, ", or use scale_dtype=None."),
        (1.7e308, torch.float64, None, "Scale r down."),
    ],
)
def test_a_range_too_wide_has_a_remedy_that_is_one(most, dtype, scale_dtype, remedy):
    r = torch.tensor([-most, most], dtype=dtype)
    with pytest.raises(ValueError, match=f"{re.escape(remedy)}$"):
        ql.quantize(r, ql.Scheme(4, scale_dtype=scale_dtype))
    if "float32." in remedy:
        assert ql.quantize(r, ql.Scheme(4, scale_dtype=torch.float32)).scale.isfinite()
    if "scale_dtype=None" in remedy:
        assert ql.quantize(r.double(), ql.Scheme(4)).scale.isfinite()


@pytest.mark.parametrize(
    "r, zero_point, r_hat, words",
    [
        ([2.0, 2.5, 3.0], -128, [1.0] * 3, ("from 2 to 3", "-638", "-128", "values above 1 ")),
        ([-3.0, -2.5, -2.0], 127, [-1.0] * 3, ("-3 to -2", "637", "127", "values below -1 ")),
        ([30.0, 35.0, 40.0], -128, [10.0] * 3, ("30 to 40", "-893", "values above 10 ")),
        ([100.0, 150.0, 200.0], -128, [100.0] * 3, ("100 to 200", "-383", "values above 100 ")),
    ],
)
def test_a_clipped_zero_point_warns_and_says_what_is_lost(r, zero_point, r_hat, words):
    with pytest.warns(ql.ZeroPointClipped) as record:
        x = ql.quantize(torch.tensor(r), LITERAL)
    assert len(record) == 1
    assert record[0].filename == __file__
    message = str(record[0].message)
    assert all(word in message for word in (*words, "-128 to 127", "include_zero=True"))
    assert x.zero_point.item() == zero_point
    assert x.dequantize().tolist() == pytest.approx(r_hat, abs=1e-5)


def test_the_warning_counts_the_clipped_rows_and_shows_the_first():
    r = torch.tensor([[-1.0, 3.0], [2.0, 3.0], [0.0, 1.0], [-6.0, -4.0]])
    with pytest.warns(ql.ZeroPointClipped, match=r"\(2 of 4 zero points; this is the first\)") as w:
        x = ql.quantize(r, ql.Scheme(include_zero=False, granularity=ql.PerAxis(0)))
    assert "from 2 to 3" in str(w[0].message)
    assert "values above 1 come back as 1" in str(w[0].message)
    assert x.zero_point.flatten().tolist() == [-64, -128, -128, 127]


@pytest.mark.parametrize("call", [ql.choose_qparams, ql.quantize, ql.fake_quantize])
def test_the_warning_points_at_the_callers_line(call):
    with pytest.warns(ql.ZeroPointClipped) as record:
        call(torch.tensor([2.0, 3.0]), LITERAL)  # this line
    with open(__file__, encoding="utf-8") as source:
        assert "# this line" in source.readlines()[record[0].lineno - 1]
    assert record[0].filename == __file__


def test_the_warning_survives_a_caller_without_a_name():
    code = "ql.choose_qparams(r, scheme)"
    with pytest.warns(ql.ZeroPointClipped):
        exec(code, {"ql": ql, "r": torch.tensor([2.0, 3.0]), "scheme": LITERAL})


@pytest.mark.parametrize("r", [[-1.0, 3.0], [0.0, 1.0], [-1.0, 0.0], [0.001, 1.0], [4.0, 4.0]])
def test_no_warning_where_nothing_is_lost(r, recwarn):
    ql.quantize(torch.tensor(r), LITERAL)
    assert not recwarn.list


def test_where_nobody_can_look_there_is_no_warning(recwarn):
    r = torch.tensor([[2.0, 3.0], [-1.0, 3.0]])
    found = torch.vmap(lambda r: ql.quantize(r, LITERAL).q)(r)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(found, torch.stack([ql.quantize(one, LITERAL).q for one in r]))
    with FakeTensorMode() as mode:
        there = ql.quantize(mode.from_tensor(r), LITERAL)
        assert there.dequantize().shape == r.shape
    assert not recwarn.list


def test_where_there_is_no_memory_out_shares_none():
    r, scheme = torch.linspace(-1, 1, 64), ql.Scheme()
    meta, out = ql.quantize(r, scheme).to("meta"), torch.empty(64, device="meta")
    assert meta.dequantize(out=out) is out
    with FakeTensorMode() as mode:
        codes = torch.empty(64, dtype=torch.int8)
        x = ql.quantize(mode.from_tensor(r), scheme, out=codes)
        assert x.q is codes and x.dequantize(out=torch.empty(64)).shape == r.shape


def test_including_zero_never_clips_the_zero_point(recwarn):
    for r in ([2.0, 3.0], [-3.0, -2.0], [1e-3, 1e-3 + 1e-9], [1e30, 1.1e30]):
        for signed in (True, False):
            x = ql.quantize(torch.tensor(r), ql.Scheme(signed=signed))
            assert (x.dequantize() - torch.tensor(r)).abs().max() <= 0.5001 * x.scale
    assert not recwarn.list


# --- every refusal ---

NAN, INF = float("nan"), float("inf")
R = torch.arange(6.0).reshape(2, 3)
OK = ql.QParams(torch.tensor(0.1), torch.tensor(3, dtype=torch.int8))


def q(*args, **kwargs):
    return lambda: ql.quantize(*args, **kwargs)


def out_of(shape=(2, 3), dtype=torch.int8, device="cpu"):
    return torch.empty(shape, dtype=dtype, device=device)


def given_qparams(scale=0.1, zero_point=3, r=R, scheme=ql.Scheme()):  # noqa: B008
    return lambda: ql.quantize(r, scheme, ql.QParams(scale, zero_point))


def bytes_of(r):
    return r.view(torch.int8).flatten()[: r.numel()].view(r.shape)


def shared_zero_point():
    z = torch.zeros(3, dtype=torch.int8)
    scheme = ql.Scheme(granularity=ql.PerAxis(0))
    return ql.quantize(torch.ones(3), scheme, ql.QParams(torch.ones(3), z), out=z)


def q_of(r=R, scheme=ql.Scheme()):  # noqa: B008
    return ql.quantize(r, scheme)


def shared_scale():
    x = ql.quantize(torch.ones(3), ql.Scheme(granularity=ql.PerAxis(0)))
    return x.dequantize(out=x.scale)


REFUSED = {
    # what r must be
    "a list": (q([1.0]), TypeError, "r must be a torch tensor, got list", "torch.tensor(r)"),
    "an array": (q(np.ones(3)), TypeError, "r must be a torch tensor", "torch.tensor(r)"),
    "a number": (q(3.0), TypeError, "r must be a torch tensor, got float", "torch.tensor(r)"),
    "None": (q(None), TypeError, "r must be a torch tensor, got NoneType", "torch.tensor(r)"),
    "a QTensor": (lambda: ql.quantize(q_of()), TypeError, "r is a QTensor", "r.dequantize()"),
    "int": (q(torch.ones(3, dtype=torch.int32)), TypeError, "r must be", "int32", "r.float()"),
    "bool": (q(torch.ones(3) > 0), TypeError, "r must be", "torch.bool", "r.float()"),
    "complex": (q(torch.ones(3) + 1j), TypeError, "r must be", "torch.complex64"),
    "float8": (q(R.to(torch.float8_e4m3fn)), TypeError, "r must be", "float8", "r.float()"),
    "sparse": (q(R.to_sparse()), TypeError, "r has layout torch.sparse_coo", "r.to_dense()"),
    "meta": (q(R.to("meta")), TypeError, "r is on the meta device", "real device"),
    "empty": (q(torch.ones(0)), ValueError, "r is empty", "(0,)", "pass at least one"),
    "empty 2-D": (q(torch.ones(2, 0)), ValueError, "r is empty", "(2, 0)"),
    "one NaN": (q(torch.tensor([1.0, NAN])), ValueError, "r holds 1 NaN and 0 inf", "(1,)"),
    "infinities": (
        q(torch.tensor([[1.0, INF], [-INF, 0.0]])),
        ValueError,
        "0 NaN and 2 infinite",
        "index (0, 1)",
        "torch.nan_to_num(r)",
    ),
    "NaN, no dimension": (q(torch.tensor(NAN)), ValueError, "1 NaN", "index ()"),
    "NaN in a group": (
        q(torch.tensor([1.0, 2.0, NAN, 4.0, INF]), ql.Scheme(granularity=ql.PerGroup(2))),
        ValueError,
        "1 NaN and 1 infinite",
        "(2,)",
    ),
    "NaN in half": (q(torch.tensor([NAN]).half()), ValueError, "1 NaN", "(0,)"),
    "NaN with qparams": (q(torch.tensor([1.0, NAN]), ql.Scheme(), OK), ValueError, "1 NaN"),
    "infinity with numbers": (
        q(torch.tensor([INF, 1.0]), ql.Scheme(), (0.1, 3)),
        ValueError,
        "1 infinite",
        "(0,)",
    ),
    # scheme and axis
    "bits for a scheme": (q(R, 8), TypeError, "scheme must be a ql.Scheme, got 8", "ql.Scheme("),
    "no scheme": (q(R, None), TypeError, "scheme must be a ql.Scheme, got None"),
    "axis 2 of 2": (
        q(R, ql.Scheme(granularity=ql.PerAxis(2))),
        ValueError,
        "axis=2",
        "(2, 3)",
        "choose axis from -2 to 1",
    ),
    "axis -3 of 2": (q(R, ql.Scheme(granularity=ql.PerAxis(-3))), ValueError, "axis=-3"),
    "group axis": (q(R, ql.Scheme(granularity=ql.PerGroup(2, 5))), ValueError, "axis=5", "choose"),
    "axis of a number": (
        q(torch.tensor(1.0), ROWS),
        ValueError,
        "axis=0",
        "shape ()",
        "use ql.PerTensor()",
    ),
    "group of a number": (
        q(torch.tensor(1.0), ql.Scheme(granularity=ql.PerGroup(2))),
        ValueError,
        "axis=-1",
        "use ql.PerTensor()",
    ),
    # qparams: kind
    "one number": (q(R, ql.Scheme(), 0.1), TypeError, "qparams must be ql.QParams", "float"),
    "three": (q(R, ql.Scheme(), (1, 2, 3)), TypeError, "qparams must be ql.QParams", "tuple"),
    "a string scale": (given_qparams("0.1"), TypeError, "scale must be a number", "str"),
    "a bool zero point": (given_qparams(0.1, True), TypeError, "zero_point must be a number"),
    "None as scale": (given_qparams(None), TypeError, "scale must be a number", "NoneType"),
    "int scale": (given_qparams(torch.tensor(1)), ValueError, "scale must be a float", "int64"),
    # qparams: shape and device
    "scale (1,)": (
        given_qparams(torch.ones(1)),
        ValueError,
        "scale has shape (1,)",
        "(2, 3) needs ()",
        "ql.choose_qparams(r, scheme)",
    ),
    "scale (2,) for rows": (
        given_qparams(torch.ones(2), torch.zeros(2), scheme=ROWS),
        ValueError,
        "scale has shape (2,)",
        "needs (2, 1)",
        "reshape",
    ),
    "columns for rows": (
        given_qparams(torch.ones(1, 3), torch.zeros(1, 3), scheme=ROWS),
        ValueError,
        "scale has shape (1, 3)",
        "needs (2, 1)",
    ),
    "zero point (3,)": (
        given_qparams(torch.tensor(1.0), torch.zeros(3)),
        ValueError,
        "zero_point has shape (3,)",
        "needs ()",
    ),
    "groups": (
        given_qparams(
            torch.ones(2, 1), torch.zeros(2, 1), scheme=ql.Scheme(granularity=ql.PerGroup(2))
        ),
        ValueError,
        "scale has shape (2, 1)",
        "needs (2, 2)",
    ),
    "a number for rows": (given_qparams(scheme=ROWS), ValueError, "scale has shape ()", "(2, 1)"),
    "scale elsewhere": (
        given_qparams(torch.tensor(1.0, device="meta")),
        ValueError,
        "scale is on meta",
        "on cpu",
        "move",
    ),
    "zero point elsewhere": (
        given_qparams(torch.tensor(1.0), torch.tensor(0, device="meta")),
        ValueError,
        "zero_point is on meta",
        "move",
    ),
    # qparams: values
    "scale 0": (given_qparams(0.0), ValueError, "scale must be positive and finite"),
    "scale < 0": (given_qparams(-0.1), ValueError, "scale must be positive and finite"),
    "scale NaN": (given_qparams(NAN), ValueError, "scale must be positive and finite"),
    "scale inf": (given_qparams(torch.tensor(INF)), ValueError, "scale must be positive"),
    "scale below float32": (given_qparams(1e-60), ValueError, "scale must be positive"),
    "scale too large": (
        given_qparams(2e38),
        ValueError,
        "scale * 255 is infinite",
        "pass it as float64",
    ),
    "scale too large in a scheme of 4 bits": (
        given_qparams(torch.tensor(5e37), 0, scheme=ql.Scheme(4, "symmetric")),
        ValueError,
        "scale * 7 is infinite in float32",
    ),
    "one scale of two": (
        given_qparams(torch.tensor([[1.0], [0.0]]), torch.zeros(2, 1), scheme=ROWS),
        ValueError,
        "scale must be positive",
    ),
    "zero point 128": (given_qparams(0.1, 128), ValueError, "zero_point must be", "-128 to 127"),
    "zero point -129": (given_qparams(0.1, -129), ValueError, "zero_point must be", "-129"),
    "zero point -1, unsigned": (
        given_qparams(0.1, -1, scheme=ql.Scheme(signed=False)),
        ValueError,
        "zero_point must be an integer from 0 to 255",
    ),
    "zero point 8, 4 bits": (
        given_qparams(torch.tensor(0.1), torch.tensor(8, dtype=torch.int8), scheme=ql.Scheme(4)),
        ValueError,
        "zero_point must be an integer from -8 to 7",
    ),
    "zero point 0.5": (given_qparams(0.1, 0.5), ValueError, "zero_point must be an integer"),
    "zero point NaN": (given_qparams(0.1, NAN), ValueError, "zero_point must be an integer"),
    "zero point 1, symmetric": (
        given_qparams(0.1, 1, scheme=SYMMETRIC),
        ValueError,
        "zero_point must be 0 in a symmetric scheme",
    ),
    # out
    "out is a list": (q(R, out=[0]), TypeError, "out must be a torch tensor, got list"),
    "out flat": (q(R, out=out_of((6,))), ValueError, "out has shape (6,)", "torch.empty((2, 3)"),
    "out int16": (q(R, out=out_of(dtype=torch.int16)), ValueError, "out has dtype", "torch.int8"),
    "out uint8": (q(R, out=out_of(dtype=torch.uint8)), ValueError, "out has dtype torch.uint8"),
    "out on meta": (q(R, out=out_of(device="meta")), ValueError, "out has device meta", "cpu"),
    "out is r": (q(R, out=R), ValueError, "out has dtype torch.float32", "torch.int8"),
    "out in r's memory": (q(R, out=bytes_of(R)), ValueError, "out shares memory with r"),
    "out expanded": (q(R, out=out_of((1, 3)).expand(2, 3)), ValueError, "out is expanded"),
    "out is the zero point": (shared_zero_point, ValueError, "out shares memory with zero_point"),
    "dequantize into float64": (
        lambda: q_of().dequantize(out=out_of(dtype=torch.float64)),
        ValueError,
        "out has dtype torch.float64",
        "torch.float32",
    ),
    "dequantize into half": (
        lambda: q_of().dequantize(torch.bfloat16, out=out_of(dtype=torch.float32)),
        ValueError,
        "out has dtype torch.float32, but needs torch.bfloat16",
    ),
    "dequantize into a wrong shape": (
        lambda: q_of().dequantize(out=out_of((3, 2), torch.float32)),
        ValueError,
        "out has shape (3, 2)",
    ),
    "dequantize into a gradient": (
        lambda: q_of().dequantize(out=torch.zeros(2, 3, requires_grad=True)),
        ValueError,
        "out requires a gradient",
        "out.detach()",
    ),
    "dequantize into the scale": (shared_scale, ValueError, "out shares memory with scale"),
    "dequantize to int": (
        lambda: q_of().dequantize(torch.int8),
        ValueError,
        "dtype must be torch.float32",
        "torch.int8",
    ),
    # the other doors
    "choose: NaN": (lambda: ql.choose_qparams(torch.tensor([NAN])), ValueError, "1 NaN"),
    "choose: list": (lambda: ql.choose_qparams([1.0]), TypeError, "r must be a torch tensor"),
    "choose: scheme": (lambda: ql.choose_qparams(R, 4), TypeError, "scheme must be a ql.Scheme"),
    "fake: NaN": (lambda: ql.fake_quantize(torch.tensor([NAN])), ValueError, "1 NaN"),
    "fake: NaN with qparams": (
        lambda: ql.fake_quantize(torch.tensor([NAN]), ql.Scheme(), OK),
        ValueError,
        "1 NaN",
    ),
    "fake: int": (lambda: ql.fake_quantize(torch.ones(2).int()), TypeError, "r must be"),
    "fake: qparams": (
        lambda: ql.fake_quantize(R, ql.Scheme(), (torch.ones(2), 0)),
        ValueError,
        "scale has shape (2,)",
    ),
    "QTensor: a list": (
        lambda: ql.QTensor([1], OK.scale, OK.zero_point, ql.Scheme()),
        TypeError,
        "q must be a torch tensor, got list",
    ),
    "QTensor: float codes": (
        lambda: ql.QTensor(R, OK.scale, OK.zero_point, ql.Scheme()),
        ValueError,
        "q has dtype float32",
        "int8",
        "ql.quantize(r, scheme)",
    ),
    "QTensor: a row scale": (
        lambda: ql.QTensor(R.char(), torch.ones(2), torch.zeros(2).char(), ROWS),
        ValueError,
        "scale has shape (2,)",
        "needs (2, 1)",
    ),
    "QTensor: too large": (
        lambda: ql.QTensor(
            R.char(),
            torch.tensor(3e38, dtype=torch.bfloat16),
            OK.zero_point,
            ql.Scheme(scale_dtype=torch.bfloat16),
        ),
        ValueError,
        "scale * 255 is infinite in float32",
    ),
    "QTensor: elsewhere": (
        lambda: ql.QTensor(R.char().to("meta"), OK.scale, OK.zero_point, ql.Scheme()),
        ValueError,
        "scale is on cpu",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence_that_names_the_argument_and_the_remedy(name):
    call, kind, *words = REFUSED[name]
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert type(error.value) is kind
    for word in words:
        assert word in message
    assert message[-1] in ".)" and "\n" not in message


FILLED = 77
WRITES_NOTHING = {
    "NaN": (torch.tensor([1.0, NAN]), {}),
    "NaN with qparams": (torch.tensor([1.0, NAN]), {"qparams": (0.1, 3)}),
    "bad axis": (torch.ones(2), {"scheme": ql.Scheme(granularity=ql.PerAxis(1))}),
    "too wide": (torch.tensor([-3e38, 3e38]), {}),
    "bad scale": (torch.ones(2), {"qparams": (-1.0, 3)}),
    "bad zero point": (torch.ones(2), {"qparams": (1.0, 300)}),
    "bad shape": (torch.ones(2), {"qparams": (torch.ones(2), torch.zeros(2))}),
    "longer r": (torch.ones(3), {}),
}


@pytest.mark.parametrize("name", WRITES_NOTHING)
def test_nothing_is_written_when_an_error_is_raised(name):
    r, options = WRITES_NOTHING[name]
    out = torch.full((2,), FILLED, dtype=torch.int8)
    with pytest.raises(ValueError):
        ql.quantize(r, **options, out=out)
    assert (out == FILLED).all()


def test_nothing_is_written_when_the_warning_is_an_error():
    out = torch.full((2,), FILLED, dtype=torch.int8)
    with warnings.catch_warnings(), pytest.raises(ql.ZeroPointClipped):
        warnings.simplefilter("error")
        ql.quantize(torch.tensor([2.0, 3.0]), LITERAL, out=out)
    assert (out == FILLED).all()


# --- given scale and zero point, check=False, out ---


@pytest.mark.parametrize(
    "qparams",
    [
        ql.QParams(3.5, -70),
        (3.5, -70.0),
        [3.5, -70],
        ql.QParams(np.float32(3.5), np.int64(-70)),
        ql.QParams(torch.tensor(3.5), -70),
        ql.QParams(torch.tensor(3.5, dtype=torch.float64), torch.tensor(-70)),
        ql.QParams(torch.tensor(3.5).bfloat16(), torch.tensor(-70.0)),
        ql.QParams(torch.nn.Parameter(torch.tensor(3.5)), torch.tensor(-70, dtype=torch.int8)),
        ql.QParams(torch.tensor(3.5).as_subclass(Tagged), torch.tensor(-70).as_subclass(Tagged)),
    ],
)
def test_the_many_ways_to_give_scale_and_zero_point(qparams):
    x = ql.quantize(T, ql.Scheme(), qparams)
    assert x.q.tolist() == [[-15, -74, 127], [-44, 14, -123], [-70, 126, 0]]
    assert (x.scale.item(), x.zero_point.item()) == (3.5, -70)
    assert (x.scale.dtype, x.zero_point.dtype) == (torch.float32, torch.int8)
    for held in (x.q, x.scale, x.zero_point, x.dequantize()):
        assert type(held) is torch.Tensor and not held.requires_grad


def test_a_number_becomes_float64_for_a_float64_tensor():
    x = ql.quantize(T.double(), ql.Scheme(), (0.1, 0))
    assert (x.scale.dtype, x.scale.item()) == (torch.float64, 0.1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "scheme", [ql.Scheme(), SYMMETRIC, ql.Scheme(signed=False), ql.Scheme(16), ql.Scheme(3)]
)
@pytest.mark.parametrize("n", [1, 7, 1000])  # single values and the vector code
def test_without_the_check_infinity_saturates_and_nan_becomes_code_0(dtype, scheme, n):
    r = torch.tensor([NAN, INF, -INF]).to(dtype).repeat_interleave(n)
    zero_point = 0 if scheme.mapping == "symmetric" else scheme.quant_max // 2
    x = ql.quantize(r, scheme, (0.1, zero_point), check=False)
    assert x.q.tolist() == [0] * n + [scheme.quant_max] * n + [scheme.quant_min] * n


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_without_the_check_r_is_read_once_less():
    qparams = ql.choose_qparams(T)
    seen = []
    for check in (True, False):
        with Operators() as operators:
            ql.quantize(T, ql.Scheme(), qparams, check=check)
        seen.append(operators.names)
    assert "aminmax" in seen[0]
    assert not {"aminmax", "amin", "amax", "isfinite", "isnan"} & seen[1]


def test_the_check_is_on_without_qparams_whatever_check_says():
    with pytest.raises(ValueError, match="1 NaN"):
        ql.quantize(torch.tensor([NAN]), check=False)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_out_is_filled_and_returned(granularity, layout):
    r = torch.randn(5, 7)
    out, r_hat = torch.empty(5, 7, dtype=torch.int8), torch.empty(5, 7)
    if layout == "transposed":
        out, r_hat = torch.empty(7, 5, dtype=torch.int8).t(), torch.empty(7, 5).t()
    if layout == "strided":
        out = torch.empty(5, 14, dtype=torch.int8)[:, ::2]
        r_hat = torch.empty(5, 14)[:, ::2]
    scheme = ql.Scheme(granularity=granularity)
    x, plain = ql.quantize(r, scheme, out=out), ql.quantize(r, scheme)
    assert x.q is out and torch.equal(out, plain.q)
    assert x.dequantize(out=r_hat) is r_hat and torch.equal(r_hat, plain.dequantize())
    half = torch.empty(5, 7, dtype=torch.bfloat16)
    assert torch.equal(x.dequantize(torch.bfloat16, out=half), plain.dequantize().bfloat16())


def test_there_and_back_and_out_in_a_graph_and_in_vmap():
    r = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    wanted = ql.quantize(r, ROWS)
    for work in (
        lambda r: ql.quantize(r, ROWS).dequantize(),
        lambda r: ql.quantize(r, ROWS, out=torch.empty_like(r, dtype=torch.int8)).dequantize(),
        lambda r: wanted.dequantize(out=torch.empty_like(r)),
    ):
        torch._dynamo.reset()
        whole = torch.compile(work, fullgraph=True, backend="eager")  # a break is an error
        assert torch.equal(whole(r), wanted.dequantize())
    q = torch.vmap(lambda r: ql.quantize(r, out=torch.empty_like(r, dtype=torch.int8)).q)(r)
    assert torch.equal(q, wanted.q)


def test_out_beside_r_in_one_buffer_is_fine():
    buffer = torch.arange(20.0)
    r, out = buffer[:10], buffer[10:].view(torch.int8)[:10]
    expected = ql.quantize(r.clone()).q
    assert torch.equal(ql.quantize(r, out=out).q, expected)


def test_a_refused_out_leaves_r_as_it_was():
    r = torch.arange(6.0).reshape(2, 3)
    for out in (bytes_of(r), r.view(torch.int8)[:, 5:8]):
        with pytest.raises(ValueError, match="out shares memory with r, which must stay"):
            ql.quantize(r, out=out)
    assert torch.equal(r, R)


# --- what comes in and what goes out ---


@pytest.mark.parametrize(
    "wrap", [torch.nn.Parameter, lambda r: r.as_subclass(Tagged), lambda r: r.requires_grad_()]
)
def test_plain_tensors_without_gradient_come_out(wrap):
    r = wrap(T.clone())
    x = ql.quantize(r)
    y = ql.quantize(r, ql.Scheme(), ql.choose_qparams(r))
    z = ql.quantize(T, ql.Scheme(), ql.QParams(wrap(y.scale.clone()), y.zero_point))
    held = [x.q, x.scale, x.zero_point, x.dequantize(), y.q, *ql.choose_qparams(r)]
    held += [z.q, z.scale, z.dequantize()]
    for tensor in held:
        assert type(tensor) is torch.Tensor
        assert not tensor.requires_grad
    assert torch.equal(x.q, ql.quantize(T).q) and torch.equal(y.q, x.q)
    assert type(ql.fake_quantize(r)) is torch.Tensor


def test_a_qtensor_holds_plain_tensors():
    x = ql.quantize(T, ROWS)
    parts = x.q, x.scale, x.zero_point
    for wrap in (lambda x: x.as_subclass(Tagged), lambda x: nn.Parameter(x, False)):
        made = ql.QTensor(*map(wrap, parts), ROWS)
        held = made.q, made.scale, made.zero_point
        assert all(type(part) is torch.Tensor for part in (*held, made.dequantize()))
        assert made.q.data_ptr() == x.q.data_ptr()  # the same memory
    learns = ql.QTensor(x.q, x.scale.clone().requires_grad_(), x.zero_point, ROWS)
    assert not learns.scale.requires_grad


def test_a_qtensor_is_frozen_and_equal_only_to_itself():
    x, y = ql.quantize(T), ql.quantize(T)
    assert x == x and x != y
    assert len({x, y, x}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        x.scale = y.scale


def test_what_a_qtensor_tells():
    x = ql.quantize(T, ROWS)
    assert x.shape == (3, 3)
    assert x.device == torch.device("cpu")
    assert x.scheme == ROWS
    moved = x.to("cpu")
    assert type(moved) is ql.QTensor and moved.scheme == x.scheme
    assert torch.equal(moved.dequantize(), x.dequantize())
    assert x.to("meta").device.type == "meta"
    assert x.to("meta").scale.device.type == x.to("meta").zero_point.device.type == "meta"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("source", FLOATS)
def test_dequantize_to_a_dtype_rounds_once_at_the_end(source, dtype):
    x = ql.quantize(T.to(source), ROWS)
    assert torch.equal(x.dequantize(dtype), x.dequantize().to(dtype))
    assert x.dequantize(dtype).dtype == dtype


def test_codes_survive_any_default_dtype():
    expected = ql.quantize(T)
    torch.set_default_dtype(torch.float64)
    try:
        x = ql.quantize(T)
        assert ql.quantize(T, ql.Scheme(), (3.5, -70)).scale.dtype == torch.float32
        assert ql.quantize(0 * T).scale.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(x.q, expected.q) and x.scale.dtype == torch.float32


# --- fake_quantize ---


def gradient(r, *args):
    r = r.clone().requires_grad_()
    ql.fake_quantize(r, *args).backward(torch.arange(1.0, r.numel() + 1).to(r).view_as(r))
    return r.grad / torch.arange(1.0, r.numel() + 1).view_as(r)


def test_fake_quantize_saturates_where_the_usual_trick_does_not():
    r = torch.tensor([1e8, -1e8, 0.04])
    fake = ql.fake_quantize(r, ql.Scheme(), (0.1, 0))
    d = ql.quantize(r, ql.Scheme(), (0.1, 0)).dequantize()
    assert torch.equal(fake, d)
    assert fake.tolist() == pytest.approx([12.7, -12.8, 0.0])
    assert (r + (d - r).detach())[0].item() == 16.0  # the usual straight-through trick


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_fake_quantize_refuses_nan_and_infinity_with_given_qparams_too(bad):
    r = torch.tensor([1.0, bad], requires_grad=True)
    for qparams in (None, (0.1, 0), OK):
        with pytest.raises(ValueError, match=r"the first at index \(1,\)"):
            ql.fake_quantize(r, ql.Scheme(), qparams)


def test_the_gradient_is_1_inside_and_0_outside():
    r = torch.tensor([-200.0, -128.51, -128.5, -128.49, 0.0, 127.49, 127.5, 127.51, 300.0])
    # half to even: -128.5 -> -128 lies inside, 127.5 -> 128 lies outside
    assert gradient(r, ql.Scheme(), (1.0, 0)).tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert gradient(r, SYMMETRIC, (1.0, 0)).tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert gradient(r, ql.Scheme(), (1.0, 10)).tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert gradient(r, ql.Scheme(signed=False), (2.0, 64)).tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert gradient(torch.tensor([1e30, -1e30, 3e38]), ql.Scheme(), (1e-3, 5)).tolist() == [0] * 3


@given(problems(dtypes=(torch.float32, torch.float64)))
def test_the_gradient_is_the_mask_of_the_spec(problem):
    r, scheme = problem
    scale, zero_point = ql.choose_qparams(r, scheme)
    scale = scale * 0.6  # so that some values lie outside
    wide = dataclasses.replace(scheme, bits=16, signed=True)
    z = zero_point.to(torch.int16)
    unclipped = reference.quantize(r, scale.numpy(), z.numpy(), wide)
    inside = (unclipped >= scheme.quant_min) & (unclipped <= scheme.quant_max)
    if scheme.bits < 16:
        assert gradient(r, scheme, (scale, zero_point)).numpy().tolist() == inside.tolist()
    expected = ql.quantize(r, scheme, (scale, zero_point)).dequantize()
    assert torch.equal(ql.fake_quantize(r, scheme, (scale, zero_point)), expected)


@pytest.mark.parametrize("scheme", BOTH_MAPPINGS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_with_its_own_range_the_whole_gradient_passes(scheme, granularity):
    r = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    scheme = dataclasses.replace(scheme, granularity=granularity)
    assert (gradient(r, scheme) == 1).all()


def test_the_gradient_of_a_loss_is_the_straight_through_one():
    """Gradcheck fails by design (a staircase is flat); the chain rule around it must not."""
    r = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    r.requires_grad_()
    loss = (ql.fake_quantize(r, ql.Scheme(4), (0.2, 0)) @ w).square().sum()
    loss.backward()
    with torch.no_grad():
        fake = ql.fake_quantize(r, ql.Scheme(4), (0.2, 0))
        inside = (torch.round(r / 0.2) >= -8) & (torch.round(r / 0.2) <= 7)
        expected = (2 * (fake @ w) @ w.T) * inside
    assert not inside.all() and inside.any()
    assert torch.allclose(r.grad, expected, rtol=1e-12)


def test_the_gradient_of_the_gradient_and_no_gradient():
    r = torch.tensor([1.0, 2.0], requires_grad=True)
    fake = ql.fake_quantize(r, ql.Scheme(), (0.1, 0))
    (first,) = torch.autograd.grad((fake**2).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    assert second.tolist() == pytest.approx([2.0, 2.0])
    with torch.no_grad():
        assert not ql.fake_quantize(r).requires_grad
    assert not ql.fake_quantize(r.detach()).requires_grad


LEARNED = [ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(4), ql.PerGroup(5, 0)]


@pytest.mark.parametrize("granularity", LEARNED)
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_the_gradient_of_the_scale_is_that_of_a_rounding_that_adds_a_constant(mapping, granularity):
    """Against finite differences, in float64: where the code is clipped, r has no say."""
    g = torch.Generator().manual_seed(0)
    r, weights = (torch.randn(6, 7, dtype=torch.float64, generator=g) for _ in range(2))
    scheme = ql.Scheme(3, mapping, granularity)
    s, z = ql.choose_qparams(r, scheme)
    s = (0.6 * s).requires_grad_()  # so that some codes are clipped
    (weights * ql.fake_quantize(r, scheme, (s, z))).sum().backward()

    split, align, join = granularity.split, granularity.align, granularity.join
    exact = split(r) / align(s.detach()) + align(z.double())
    q = exact.round().clamp(scheme.quant_min, scheme.quant_max)
    inside = exact.round() == q
    assert inside.any() and not inside.all()

    def total(s):
        within = align(s) * (split(r) / align(s) + q - exact)
        beyond = align(s) * (q - align(z.double()))
        return (weights * join(torch.where(inside, within, beyond), r.shape)).sum()

    for i in range(s.numel()):
        h = torch.zeros_like(s).flatten()
        h[i] = 1e-6
        h = h.view(s.shape)
        slope = (total(s.detach() + h) - total(s.detach() - h)) / 2e-6
        assert s.grad.flatten()[i].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("x", [0.4, 0.9, 1.3, 1.6, -1.3, -1.6])
def test_within_half_a_step_of_the_last_code_a_value_counts_as_rounded_as_torchs_does(x):
    """At 1.3, with codes to 1, LSQ's slope by the step would be 1, and by r 0."""
    found = []
    for learnable in (True, False):
        r, s = torch.tensor([x], requires_grad=True), torch.ones(1, requires_grad=True)
        if learnable:
            theirs = torch._fake_quantize_learnable_per_tensor_affine
            r_hat = theirs(r, s, torch.zeros(1), -1, 1, 1.0)
        else:
            r_hat = ql.fake_quantize(r, ql.Scheme(2, "symmetric"), (s.squeeze(), 0))
        r_hat.sum().backward()
        found.append((r.grad.item(), s.grad.item()))
    clipped, code = abs(x) > 1.5, max(-1, min(1, round(x)))
    assert found[0] == found[1]
    assert found[1] == (float(not clipped), pytest.approx(code - (0 if clipped else x)))


@pytest.mark.parametrize("granularity", LEARNED[:3])
def test_a_scale_that_learns_comes_near_the_best_range(granularity):
    r = torch.randn(32, 40, generator=torch.Generator().manual_seed(0))
    scheme = ql.Scheme(3, "symmetric", granularity)
    s, z = ql.choose_qparams(r, scheme)
    s = s.clone().requires_grad_()

    def error():
        return ql.fake_quantize(r, scheme, (s, z)).sub(r).square().mean()

    optimizer, seen = torch.optim.Adam([s], lr=0.01), []
    for _ in range(200):
        optimizer.zero_grad()
        loss = error()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    searched = ql.quantize(r, scheme, ql.choose_qparams(r, scheme, mse_search))
    best = ql.mse(r, searched.dequantize()).item()
    assert min(seen) < best + 0.25 * (seen[0] - best)


def test_a_scale_without_gradient_gets_none_and_r_its_own():
    r, s = torch.tensor([0.26, 9.0], requires_grad=True), torch.tensor(0.5)
    ql.fake_quantize(r, ql.Scheme(3, "symmetric"), (s, 0)).sum().backward()
    assert s.grad is None and r.grad.tolist() == [1.0, 0.0]
    s.requires_grad_()
    ql.fake_quantize(r.detach(), ql.Scheme(3, "symmetric"), (s, 0)).sum().backward()
    assert s.grad.item() == pytest.approx((1 - 0.26 / 0.5) + 3)
    with pytest.raises(TypeError, match="qparams must be ql.QParams"):
        ql.fake_quantize(r, ql.Scheme(), (s, 0, 1))


@pytest.mark.parametrize("dtype", FLOATS)
def test_value_and_gradient_have_the_dtype_of_r(dtype):
    r = torch.nn.Parameter(T.to(dtype))
    fake = ql.fake_quantize(r, ROWS)
    assert fake.dtype == dtype
    fake.sum().backward()
    assert r.grad.dtype == dtype and (r.grad == 1).all()


class Ends(torch.autograd.Function):
    """No gradient comes back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_no_gradient_in_none_out():
    r = torch.tensor([1.0, 2.0], requires_grad=True)
    ended = Ends.apply(ql.fake_quantize(r)).sum()
    assert torch.autograd.grad(ended, r, allow_unused=True) == (None,)
    fake = ql.fake_quantize(r)
    (found,) = torch.autograd.grad((Ends.apply(fake) + 2 * fake).sum(), r)
    assert found.tolist() == [2.0, 2.0]


def of_r_and_scale(function, r, s):
    """Value and gradients, each a tensor of its own."""
    r, s = r.clone().requires_grad_(), s.clone().requires_grad_()
    value = function(r, s)
    value.square().sum().backward()
    return value.detach(), r.grad, s.grad


ALL_LEARNED = [ql.Scheme(3, "symmetric"), ql.Scheme(3, granularity=ql.PerGroup(5))]


@pytest.mark.slow
@pytest.mark.parametrize("own_range, scheme", zip((True, False), ALL_LEARNED, strict=True))
def test_fake_quantize_is_compiled_without_a_break(own_range, scheme):
    r = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    s, z = ql.choose_qparams(r, scheme)

    def work(r, s):
        return ql.fake_quantize(r, scheme, None if own_range else (s, z)) + 0 * s.sum()

    torch._dynamo.reset()
    found = of_r_and_scale(torch.compile(work, fullgraph=True), r, 0.6 * s)
    wanted = of_r_and_scale(work, r, 0.6 * s)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    torch.testing.assert_close(found[2], wanted[2])  # a sum of floats, in any order


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scheme", ALL_LEARNED, ids=str)
def test_fake_quantize_in_the_transforms_of_torch_func(scheme):
    r = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(0))
    chosen = [ql.choose_qparams(one, scheme) for one in r]
    s, z = torch.stack([0.6 * p.scale for p in chosen]), torch.stack([p.zero_point for p in chosen])

    def loss(r, s, z):
        return ql.fake_quantize(r, scheme, (s, z)).square().sum()

    own = torch.vmap(lambda r: ql.fake_quantize(r, scheme))(r)
    given = torch.vmap(lambda r, s, z: ql.fake_quantize(r, scheme, (s, z)))(r, s, z)
    grads = torch.vmap(torch.func.grad(loss, (0, 1)))(r, s, z)
    for i in range(3):
        assert torch.equal(own[i], ql.fake_quantize(r[i], scheme))
        value, *wanted = of_r_and_scale(
            lambda r, s, i=i: ql.fake_quantize(r, scheme, (s, z[i])), r[i], s[i]
        )
        assert torch.equal(given[i], value)
        for found, grad in zip(grads, wanted, strict=True):
            torch.testing.assert_close(found[i], grad)


def test_what_was_made_in_inference_mode_lets_a_scale_learn():
    r = torch.randn(8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        s, z = ql.choose_qparams(r)
        there = r.clone()
    for x in (r, r.clone().requires_grad_(), there):
        learns, wanted = s.clone().requires_grad_(), s.clone().requires_grad_()
        ql.fake_quantize(x, ql.Scheme(), (learns, z)).sum().backward()
        ql.fake_quantize(r, ql.Scheme(), (wanted, z.clone())).sum().backward()
        assert torch.equal(learns.grad, wanted.grad)


# --- the same on CUDA ---


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA to compare with the CPU")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_cpu_and_cuda_agree_bit_for_bit(granularity, dtype):
    g = torch.Generator().manual_seed(0)
    r = torch.cat([torch.randn(300, 513, generator=g), torch.arange(513.0)[None] / 2 - 90])
    codes = [(8, "asymmetric", True), (8, "asymmetric", False), (4, "symmetric", True)]
    codes += [(16, "asymmetric", True), (16, "symmetric", True)]
    for (bits, mapping, signed), rounding in itertools.product(codes, ["inside", "outside"]):
        scheme = ql.Scheme(bits, mapping, granularity, signed, rounding=rounding)
        assert_cpu_and_cuda_agree(r.to(dtype), scheme)


def assert_cpu_and_cuda_agree(r, scheme):
    here, there = ql.quantize(r, scheme), ql.quantize(r.cuda(), scheme)
    for name in ("q", "scale", "zero_point"):
        assert torch.equal(getattr(here, name), getattr(there, name).cpu()), name
    assert torch.equal(here.dequantize(), there.dequantize().cpu())
    assert torch.equal(here.dequantize(torch.bfloat16), there.dequantize(torch.bfloat16).cpu())
    assert torch.equal(ql.fake_quantize(r, scheme), ql.fake_quantize(r.cuda(), scheme).cpu())
    if scheme.granularity == ql.PerTensor():
        qparams = (here.scale.item(), here.zero_point.item())
        assert torch.equal(here.q, ql.quantize(r.cuda(), scheme, qparams).q.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA to compare with the CPU")
def test_nan_and_infinity_are_the_same_codes_on_cuda():
    r = torch.tensor([NAN, INF, -INF, 1.0])
    for scheme in (ql.Scheme(), ql.Scheme(16), ql.Scheme(signed=False)):
        here = ql.quantize(r, scheme, (0.1, 3), check=False).q
        there = ql.quantize(r.cuda(), scheme, (0.1, 3), check=False).q
        assert torch.equal(here, there.cpu())
    with pytest.raises(ValueError, match="1 NaN and 2 infinite"):
        ql.quantize(r.cuda())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for call in (ql.quantize, ql.choose_qparams, ql.fake_quantize):
        with pytest.raises(TypeError, match="r has layout nested: pass one tensor at a time"):
            call(nested)


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(ValueError, match="scale is too large for a float"):
        ql.quantize(torch.ones(3), ql.Scheme(), ql.QParams(10**400, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_a_qtensor_stores_its_zero_point_like_its_codes(dtype):
    q, scale = torch.tensor([1, 2], dtype=torch.int8), torch.tensor(0.1)
    with pytest.raises(ValueError, match=r"zero_point has dtype .* use zero_point.to"):
        ql.QTensor(q, scale, torch.tensor(0, dtype=dtype), ql.Scheme())


def test_a_qtensor_holds_codes():
    empty, zero = torch.empty(0, 3, dtype=torch.int8), torch.tensor(0, dtype=torch.int8)
    with pytest.raises(ValueError, match="q is empty"):
        ql.QTensor(empty, torch.tensor(0.1), zero, ql.Scheme())


@pytest.mark.parametrize("dtype, largest", [(torch.float16, 65504.0), (torch.bfloat16, None)])
def test_a_value_too_large_for_half_becomes_its_largest_number(dtype, largest):
    """The zero point's rounding moves an end of the range by up to half a step, past 65504."""
    largest = largest or torch.finfo(dtype).max
    x = ql.QTensor(
        torch.tensor([127, -127], dtype=torch.int8),
        torch.tensor(1.001 * largest / 127),
        torch.tensor(0, dtype=torch.int8),
        SYMMETRIC,
    )
    assert x.dequantize(dtype).tolist() == [largest, -largest]
    r = torch.tensor([65504.0, -300.0]).half()
    fake = ql.fake_quantize(r, ql.Scheme(3))
    assert fake.isfinite().all() and torch.equal(
        fake, ql.quantize(r, ql.Scheme(3)).dequantize(r.dtype)
    )


@pytest.mark.parametrize("scheme", BOTH_MAPPINGS)
def test_the_largest_scale_that_can_be_given_gives_finite_values(scheme):
    largest = torch.finfo(torch.float32).max
    scale = torch.nextafter(torch.tensor(largest) / scheme.reach, torch.tensor(0.0))
    z = scheme.quant_min if scheme.mapping == "asymmetric" else 0
    x = ql.quantize(torch.tensor([largest, 0.0]), scheme, (scale, z))
    assert x.q.tolist() == [scheme.quant_max, z] and x.dequantize().isfinite().all()
    half = torch.tensor(65504.0, dtype=torch.float16)  # times 255 it is none, but a float32
    ql.quantize(R, ql.Scheme(scale_dtype=torch.float16), (half, 0))
    ql.quantize(R.double(), ql.Scheme(), (2e38, 0))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_out_is_refused(layout):
    x, out = ql.quantize(T), torch.zeros(3, 3).to_sparse(layout=layout)
    with pytest.raises(TypeError, match=f"out has layout {layout}"):
        x.dequantize(out=out)


def test_an_out_that_overlaps_itself_is_refused():
    r = torch.randn(3, 4)
    out = torch.zeros(12, dtype=torch.int8)
    with pytest.raises(ValueError, match="out overlaps itself"):
        ql.quantize(r, out=out.as_strided((3, 4), (2, 1)))
    assert not out.any()
    assert ql.quantize(r, out=out.as_strided((3, 4), (1, 3))).q.shape == (3, 4)
