"""Errors: the article's numbers, their laws, and the set-ups of notebook 05."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import T
from torch.utils._python_dispatch import TorchDispatchMode

import qlesson as ql
from qlesson import error
from qlesson.error import error_shares

BITS = (2, 3, 4, 5, 6, 7, 8, 16)


def error_of(r, scheme, qparams=None):
    return ql.mse(r, ql.quantize(r, scheme, qparams).dequantize()).item()


@pytest.mark.parametrize(
    "bits, asymmetric, symmetric",
    [
        (2, 6619.409102, 25418.343536),
        (3, 1517.486188, 2164.309465),
        (4, 161.987551, 532.671546),
        (5, 74.698639, 40.539669),
        (6, 13.841441, 39.111909),
        (7, 3.358566, 7.670809),
        (8, 1.572973, 2.509191),
        (16, 0.000013, 0.000021),
    ],
)
def test_error_of_T_by_bits(bits, asymmetric, symmetric):
    assert error_of(T, ql.Scheme(bits)) == pytest.approx(asymmetric, abs=6e-7)
    assert error_of(T, ql.Scheme(bits, "symmetric")) == pytest.approx(symmetric, abs=6e-7)
    assert error_of(-T, ql.Scheme(bits, "symmetric")) == pytest.approx(symmetric, abs=6e-7)


def test_a_bad_guess_costs_one_value_nearly_everything():
    r_hat = ql.quantize(T, qparams=ql.QParams(3.5, -70)).dequantize()
    squared = (T.double() - r_hat.double()).square()
    assert ql.mse(T, r_hat).item() == pytest.approx(170.875, abs=5e-4)
    assert squared.argmax() == 2  # 728.6
    assert (squared.max() / squared.sum()).item() == pytest.approx(0.994, abs=5e-4)


def test_the_formula_is_safe_not_optimal():
    assert error_of(T, ql.Scheme(), ql.QParams(4.17, -84)) == pytest.approx(0.434, abs=5e-4)
    assert error_of(T, ql.Scheme()) == pytest.approx(1.573, abs=5e-4)


@pytest.mark.parametrize("scheme", [ql.Scheme(), ql.Scheme(mapping="symmetric")])
def test_the_127_5_convention_on_T(scheme):
    scale = T.abs().max().item() / 127.5
    assert error_of(T, scheme, ql.QParams(scale, 0)) == pytest.approx(2.843071, abs=6e-7)


def test_more_bits_do_not_help_every_value():
    def error(bits):
        return abs(ql.quantize(T, ql.Scheme(bits)).dequantize()[2, 2].item() - 245.5)

    assert error(6) == pytest.approx(0.76, abs=0.005)
    assert error(8) == pytest.approx(1.44, abs=0.005)


@pytest.mark.parametrize(
    "r, include_zero, r_hat",
    [
        ([2.0, 2.5, 3.0], False, [1.0, 1.0, 1.0]),
        ([2.0, 2.5, 3.0], True, [2.0, 2.494118, 3.0]),
        ([30.0, 35.0, 40.0], True, [29.960785, 34.980392, 40.0]),
        ([30.0, 35.0, 40.0], False, [10.0, 10.0, 10.0]),
    ],
)
@pytest.mark.filterwarnings("ignore::qlesson.ZeroPointClipped")
def test_a_range_far_from_zero(r, include_zero, r_hat):
    x = ql.quantize(torch.tensor(r), ql.Scheme(include_zero=include_zero))
    assert x.dequantize().tolist() == pytest.approx(r_hat, abs=1e-5)


def test_holding_zero_makes_the_step_of_30_to_40_four_times_as_large():
    r = torch.tensor([30.0, 35.0, 40.0])
    with pytest.warns(ql.ZeroPointClipped):
        narrow = ql.choose_qparams(r, ql.Scheme(include_zero=False)).scale
    assert (ql.choose_qparams(r).scale / narrow).item() == pytest.approx(4.0)


# --- decibels per bit ---

UNIFORM = torch.linspace(0, 1, 20_001)


def decibels(r, mapping):
    found = [ql.sqnr(r, ql.quantize(r, ql.Scheme(b, mapping)).dequantize()).item() for b in BITS]
    return found, [b - a for a, b in zip(found, found[1:], strict=False)]


def test_decibels_per_bit_on_uniform_data_asymmetric():
    found, gained = decibels(UNIFORM, "asymmetric")
    assert found == pytest.approx(
        [15.56, 22.92, 29.54, 35.85, 42.01, 48.10, 54.15, 102.35], abs=0.01
    )
    assert gained == pytest.approx([7.36, 6.62, 6.31, 6.16, 6.09, 6.05, 48.20], abs=0.01)
    # Derived: the range is 2^b - 1 steps wide, and the error is s^2 / 12.
    law = [20 * math.log10((2 ** (b + 1) - 1) / (2**b - 1)) for b in range(2, 8)]
    assert gained[:-1] == pytest.approx(law, abs=0.01)
    assert 20 * math.log10((2**17 - 1) / (2**16 - 1)) == pytest.approx(6.02, abs=0.001)


def test_decibels_per_bit_on_uniform_data_symmetric():
    """Symmetric ranges are 2^b - 2 steps wide, so the first bit gains more."""
    _, gained = decibels(2 * UNIFORM - 1, "symmetric")
    law = [20 * math.log10((2**b - 1) / (2 ** (b - 1) - 1)) for b in range(2, 8)]
    assert gained[:-1] == pytest.approx(law, abs=0.01)
    assert law[0] == pytest.approx(9.54, abs=0.01)


@pytest.mark.parametrize("bits", BITS)
def test_the_error_of_uniform_data_is_a_twelfth_of_the_squared_step(bits):
    r = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = ql.quantize(r, ql.Scheme(bits))
    ratio = ql.mse(r, x.dequantize()) / (x.scale**2 / 12)
    assert ratio.item() == pytest.approx(1, abs=0.02)


def test_the_law_fails_where_half_of_the_values_are_exactly_zero():
    r = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).relu()
    x = ql.quantize(r)
    ratio = ql.mse(r, x.dequantize()) / (x.scale.double() ** 2 / 12)
    assert ratio.item() == pytest.approx(0.5, abs=0.02)


# --- where should the range stop? ---


def outliers():
    """10,000 normals with ten at +-20 (notebook 05)."""
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    r[:5], r[5:10] = 20.0, -20.0
    return r


SYMMETRIC = {3: (0.0150, 0.2899), 5: (0.0424, 0.2250), 7: (0.0808, 0.1690), 10: (0.1696, 0.1000)}
SYMMETRIC |= {15: (0.3801, 0.0250), 20: (0.6044, 0.0)}
ASYMMETRIC = {3: (0.0133, 0.2901), 5: (0.0367, 0.2251), 7: (0.0708, 0.1692), 10: (0.1468, 0.1004)}
ASYMMETRIC |= {15: (0.3337, 0.0260), 20: (0.5502, 0.0)}


def limited(r, limit, mapping):
    if mapping == "symmetric":
        qparams = ql.symmetric_qparams(limit, 7)
    else:
        qparams = ql.asymmetric_qparams(-limit, limit, -8, 7)
    return ql.quantize(r, ql.Scheme(4, mapping), qparams)


@pytest.mark.parametrize("mapping, table", [("symmetric", SYMMETRIC), ("asymmetric", ASYMMETRIC)])
def test_rounding_and_clipping_share_by_clip_limit(mapping, table):
    r = outliers()
    for limit, shares in table.items():
        x = limited(r, limit, mapping)
        found = error_shares(r, x.dequantize(), x.scale)
        assert [v.item() for v in found] == pytest.approx(shares, abs=1e-4)
        assert sum(found).item() == pytest.approx(ql.mse(r, x.dequantize()).item(), rel=1e-12)


@pytest.mark.parametrize(
    "mapping, limit, least", [("symmetric", 7.2, 0.2494), ("asymmetric", 7.9, 0.2367)]
)
def test_the_best_clip_limit_lies_inside(mapping, limit, least):
    r = outliers()
    errors = {}
    for tenths in range(20, 201):
        r_hat = limited(r, tenths / 10, mapping).dequantize()
        errors[tenths / 10] = ql.mse(r, r_hat).item()
    best = min(errors, key=errors.get)
    assert (best, errors[best]) == (limit, pytest.approx(least, abs=1e-4))


@pytest.mark.parametrize("bits", BITS)
def test_without_clipping_all_error_is_rounding(bits):
    """Also at 16 bits, where float32's own rounding reaches a part of a step."""
    r = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    x = ql.quantize(r, ql.Scheme(bits))
    rounding, clipping = error_shares(r, x.dequantize(), x.scale)
    assert clipping == 0
    assert rounding > 0


def test_half_a_step_parts_rounding_from_clipping():
    r = torch.tensor([0.2, 0.5, 0.505, 0.52, 0.9, -0.5, -0.9])
    rounding, clipping = error_shares(r, 0 * r, 1.0)
    assert rounding.item() == pytest.approx((0.2**2 + 2 * 0.5**2 + 0.505**2) / 7)
    assert clipping.item() == pytest.approx((0.52**2 + 2 * 0.9**2) / 7)


def test_shares_refuse_what_the_error_refuses():
    with pytest.raises(ValueError, match="equal shapes"):
        error_shares(torch.ones(2, 3), torch.ones(3), 1.0)


def test_shares_with_a_scale_per_row():
    r = torch.tensor([[0.2, 9.0], [20.0, 90.0]])
    scheme = ql.Scheme(4, "symmetric", ql.PerAxis(0))
    scale = torch.tensor([[1.0], [10.0]])
    x = ql.quantize(r, scheme, ql.QParams(scale, torch.zeros(2, 1, dtype=torch.int8)))
    rounding, clipping = error_shares(r, x.dequantize(), x.scale)
    assert clipping.item() == pytest.approx((2.0**2 + 20.0**2) / 4)
    assert rounding.item() == pytest.approx(0.2**2 / 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_rounding_of_r_hat_to_half_is_no_clipping(dtype):
    r = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    for scheme in (ql.Scheme(8), ql.Scheme(8, "symmetric")):  # ranges from end to end
        rounding, clipping = error_shares(
            r, ql.fake_quantize(r, scheme), ql.choose_qparams(r, scheme).scale
        )
        assert clipping == 0 and rounding > 0
    off = torch.tensor([1.0, 1.0]).to(dtype), torch.tensor([1.5, 1.0]).to(dtype)
    assert error_shares(*off, 0.5).clipping == 0.125
    beyond = torch.tensor([256.0]).to(dtype), torch.tensor([254.0]).to(dtype)  # a code, of step 2
    assert error_shares(*beyond, 2.0) == (0, 4)


# --- the three errors by hand ---


def test_by_hand():
    r, r_hat = torch.tensor([3.0, -4.0]), torch.tensor([2.0, -1.0])
    assert ql.mse(r, r_hat).item() == 5.0  # not the mean of the errors, -1, nor of |errors|, 2
    assert ql.max_abs_error(r, r_hat).item() == 3.0
    assert ql.sqnr(r, r_hat).item() == pytest.approx(10 * math.log10(25 / 10))


def test_no_error_is_infinitely_good():
    r = torch.tensor([1.0, 2.0])
    assert (ql.mse(r, r).item(), ql.max_abs_error(r, r).item()) == (0.0, 0.0)
    assert ql.sqnr(r, r).item() == math.inf
    assert ql.sqnr(0 * r, 0 * r).item() == math.inf
    assert ql.sqnr(0 * r, r).item() == -math.inf


@pytest.mark.parametrize("large", [1e160, 1e300, 1.7e308])
@pytest.mark.parametrize("small", [1e-160, 1e-300, 5e-324])
def test_from_one_end_of_float64_to_the_other(large, small):
    far, near = (torch.tensor([x, large], dtype=torch.float64) for x in (small, 0))
    wanted = 20 * (math.log10(large) - math.log10(small))
    assert ql.sqnr(far, near).item() == pytest.approx(wanted)
    assert ql.sqnr(far[:1], far[1:]).item() == pytest.approx(-wanted)


@pytest.mark.parametrize("size", [1.0, 1e155, 1e-170, 1e-300])
def test_the_sqnr_of_pieces_is_the_sqnr_of_all(size, monkeypatch):
    """Also where float64 does not hold the squares, and where whole pieces are zero or exact."""
    r = torch.randn(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r[:500] = 0
    r_hat = r * 0.99
    r_hat[-500:] = r[-500:]
    wanted = ql.sqnr(r, r_hat).item()
    monkeypatch.setattr(error, "AT_ONCE", 7)
    for shape in ((3000,), (50, 60)):
        a, b = (x.view(shape) * size for x in (r, r_hat))
        assert ql.sqnr(a, b).item() == pytest.approx(wanted, rel=1e-9)
    assert ql.sqnr(r, r).item() == ql.sqnr(0 * r, 0 * r).item() == math.inf
    assert ql.sqnr(0 * r, r).item() == -math.inf


class Largest(TorchDispatchMode):
    """The most values of one float64 tensor that an operator made."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            self.values = max(self.values, made.numel())
        return made


def test_sqnr_has_few_values_in_float64_at_a_time():
    """Copies of a large tensor in float64 would need more memory than it."""
    r = torch.ones(3, 2**20)
    with Largest() as largest:
        ql.sqnr(r, r + 1)
    assert 0 < largest.values <= 2**20


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.integers(0, 999))
def test_agree_with_plain_python(values, seed):
    r = torch.tensor(values, dtype=torch.float32)
    r_hat = r + torch.randn(r.shape, generator=torch.Generator().manual_seed(seed))
    errors = [a - b for a, b in zip(r.tolist(), r_hat.tolist(), strict=True)]
    squared = math.fsum(e * e for e in errors)
    assert ql.mse(r, r_hat).item() == pytest.approx(squared / len(errors), rel=1e-12)
    assert ql.max_abs_error(r, r_hat).item() == max(map(abs, errors))
    signal = math.fsum(v * v for v in r.tolist())
    if signal and squared:
        expected = 10 * math.log10(signal / squared)
        assert ql.sqnr(r, r_hat).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_sums_are_taken_in_float64():
    r = torch.full((100_000,), 1e30)
    assert ql.mse(r, 0 * r).item() == pytest.approx(1e60)  # float32 ends at 3.4e38
    assert ql.mse(torch.ones(3).half() * 6e4, torch.zeros(3)).dtype == torch.float64


class Tagged(torch.Tensor):
    pass


@pytest.mark.parametrize("measure", [ql.mse, ql.sqnr, ql.max_abs_error])
def test_what_is_measured_and_what_is_refused(measure):
    r = torch.nn.Parameter(torch.ones(2, 3))
    found = measure(r, torch.zeros(2, 3).as_subclass(Tagged))
    assert type(found) is torch.Tensor
    assert (found.shape, found.requires_grad) == ((), False)
    with pytest.raises(ValueError, match=r"\(2, 3\) and r_hat \(3, 2\).*[Rr]eshape"):
        measure(r, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="equal shapes"):
        measure(r, torch.zeros(()))  # would broadcast
    with pytest.raises(ValueError, match="r is empty"):
        measure(torch.zeros(0), torch.zeros(0))
    with pytest.raises(TypeError, match="r must be a torch tensor, got list"):
        measure([1.0], torch.ones(1))
    with pytest.raises(TypeError, match="r_hat must be a torch tensor, got QTensor"):
        measure(T, ql.quantize(T))
