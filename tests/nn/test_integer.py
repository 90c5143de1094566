"""The integer arithmetic of a layer, against exact integers and exact fractions."""

import math
import os
import subprocess
import sys
from fractions import Fraction

import pytest
import torch

import qlesson as ql
from qlesson.nn import integer
from qlesson.nn.integer import (
    FixedPoint,
    fixed_point,
    four_terms,
    int8_codes,
    int_conv2d,
    int_matmul,
    integer_bias,
    requantize,
    safe_length,
)

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SHAPES = [(1, 1, 1), (1, 7, 3), (2, 16, 2), (17, 8, 8), (16, 64, 5), (33, 1025, 65), (4, 4001, 3)]
SHAPES += [(3, 1, 4), (1, 2, 1), (1, 64, 5), (5, 3, 1)]


def codes(*shape, low=-128, high=127, seed=0, dtype=torch.int8):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=g).to(dtype)


def exact(x, w):
    """x w^T in 64 bits."""
    return (x.long()[:, None] * w.long()[None]).sum(2)


# --- the product ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("m,k,n", SHAPES)
@pytest.mark.parametrize("low,high", [(-128, 127), (127, 127), (-128, -128)])
def test_int_matmul_is_exact(m, k, n, low, high, device):
    x, w = codes(m, k, low=low, high=high), codes(n, k, low=low, high=high, seed=1)
    got = int_matmul(x.to(device), w.to(device))
    assert got.dtype == torch.int32 and got.shape == (m, n)
    assert torch.equal(got.cpu().long(), exact(x, w))
    assert torch.equal(integer._matmul_in_slices(x, w).long(), exact(x, w))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the same on a CUDA device runs above")
@pytest.mark.parametrize("m,k,n", [*SHAPES, (17, 24, 8), (32, 8, 16)])
def test_the_padding_for_cuda_changes_nothing(m, k, n, monkeypatch):
    def cuda_int_mm(x, w):
        assert len(x) > 16 and all(size % 8 == 0 for size in (*x.shape, *w.shape))
        return exact(x, w.t()).int()

    monkeypatch.setattr(torch, "_int_mm", cuda_int_mm)
    x, w = codes(m, k), codes(n, k, seed=1)
    assert torch.equal(integer._padded_int_mm(x, w).long(), exact(x, w))


def laid_out(x, how):
    """The same codes, or as many of them, in another layout in memory."""
    m, k = x.shape
    if how == "by columns":
        return x.t().contiguous().t()
    if how == "a part":
        return torch.nn.functional.pad(x, (3, 2, 2, 1))[2:-1, 3:-2]
    if how == "every third":
        return x.repeat_interleave(3, 1)[::1, ::3]
    if how == "one row for all":
        return x[:1].expand(m, k)
    return x[:1].as_strided((1, k), (1, 1))  # a single row, whose stride should not matter


LAYOUTS = ["by columns", "a part", "every third", "one row for all", "a single row"]


@pytest.mark.parametrize("how_x", LAYOUTS)
@pytest.mark.parametrize("how_w", LAYOUTS)
@pytest.mark.parametrize("m,k,n", [(3, 2, 4), (17, 8, 16), (2, 65, 3)])
def test_int_matmul_takes_any_layout(m, k, n, how_x, how_w):
    x, w = laid_out(codes(m, k), how_x), laid_out(codes(n, k, seed=1), how_w)
    assert torch.equal(int_matmul(x, w).long(), exact(x, w))


def test_int_matmul_takes_empty_matrices():
    x, w = codes(9, 40), codes(5, 40, seed=1)
    assert int_matmul(x[:0], w).shape == (0, 5) and int_matmul(x, w[:0]).shape == (9, 0)
    assert torch.equal(int_matmul(x[:, :0], w[:, :0]), torch.zeros(9, 5, dtype=torch.int32))


def test_int_matmul_wraps_where_32_bits_end():
    """-128 * -128 added 2^17 times is 2^31, one more than an int32 holds."""
    x = torch.full((1, 2**17), -128, dtype=torch.int8)
    assert int_matmul(x[:, 1:], x[:, 1:]).item() == 2**31 - 2**14
    assert int_matmul(x, x).item() == -(2**31)
    assert integer._matmul_in_slices(x, x).item() == -(2**31)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 70, 1025])
def test_autocast_rounds_no_sum(k, device):
    x, w = codes(17, k).to(device), codes(8, k, seed=1).to(device)
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(int_matmul(x, w).long(), exact(x, w))
        assert torch.equal(integer._matmul_in_slices(x, w).long(), exact(x, w))


def test_int_matmul_refuses_other_dtypes():
    with pytest.raises(TypeError, match="x must hold integers in torch.int8, got torch.uint8"):
        int_matmul(codes(2, 2).byte(), codes(2, 2))


def test_a_cpu_without_vnni_saturates_and_is_found_out():
    """oneDNN held to AVX2 adds pairs of products in 16 bits: int_matmul notices, and is exact."""
    program = """if True:
        import torch
        from qlesson.nn import integer
        x = torch.full((4, 64), 127, dtype=torch.int8)
        raw = torch._int_mm(x, x.t())[0, 0].item()
        print(raw == 64 * 127 * 127, integer._int_mm_is_exact(x.device))
        print((integer.int_matmul(x, x) == 64 * 127 * 127).all().item())"""
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    out = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    right, noticed, exact_now = out.stdout.split()
    assert exact_now == "True"
    assert right == noticed  # "False False" where oneDNN is used, "True True" elsewhere


@pytest.mark.parametrize("mapping_x", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("mapping_w", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("m,k,n", [(1, 1, 1), (3, 5, 4), (18, 130, 7)])
def test_four_terms_make_the_product_of_the_differences(
    m, k, n, per_row, per_token, mapping_w, mapping_x
):
    x, w = codes(m, k), codes(n, k, seed=1)
    z_x = codes(m, 1, seed=2) if per_token else codes(1, seed=2)[0]
    z_w = codes(n, seed=3) if per_row else codes(1, seed=3)[0]
    z_x = torch.zeros_like(z_x) if mapping_x == "symmetric" else z_x
    z_w = torch.zeros_like(z_w) if mapping_w == "symmetric" else z_w
    rows = z_w[:, None] if per_row else z_w
    wanted = exact(x.long() - z_x.long(), w.long() - rows.long())
    sums = w.sum(1, dtype=torch.int32)
    for terms in (four_terms(x, z_x, w, z_w), four_terms(x, z_x, w, z_w, sums)):
        assert terms.total().dtype == torch.int32
        assert torch.equal(terms.total().expand(m, n).long(), wanted)
    assert torch.equal(terms.products.long(), exact(x, w))


def test_zero_points_of_another_shape_than_the_row_sums_are_refused():
    """Square, so that nothing but the shape tells rows from columns."""
    x, w, z_x, z_w = codes(5, 5), codes(5, 5), codes(5, 1), codes(5, 1)
    with pytest.raises(ValueError, match=r"z_w has shape \(5, 1\), .* the row sum's \(5,\)"):
        four_terms(x, z_x, w, z_w)
    with pytest.raises(ValueError, match=r"z_x has shape \(5,\), .* the row sum's \(5, 1\)"):
        four_terms(x, z_x.flatten(), w, z_w.flatten())


def test_sums_on_another_device_than_the_rows_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(integer.checks, "same_device", lambda *two: asked.append(two[::2]))
    x = codes(3, 5)
    four_terms(x, 0, x, 0, x.sum(1, dtype=torch.int32))
    assert ("w_sums", "w") in asked


@pytest.mark.parametrize("low,high", [(0, 255), (0, 15)])
def test_unsigned_codes_become_int8_with_the_same_differences(low, high):
    q, z = codes(6, 9, low=low, high=high, dtype=torch.uint8), torch.tensor(high, dtype=torch.uint8)
    moved, z_moved = int8_codes(q, z)
    assert moved.dtype == torch.int8 and z_moved.dtype == torch.int32
    assert torch.equal(moved.long() - z_moved.long(), q.long() - z.long())


def test_16_bit_codes_are_refused():
    with pytest.raises(TypeError, match="got torch.int16: the product takes at most 8 bits"):
        int8_codes(codes(2, dtype=torch.int16), torch.tensor(0))


# --- the bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x_scheme,w_scheme,bound",
    [
        (ql.Scheme(), ql.Scheme(), 33_025),
        (ql.Scheme(), ql.Scheme(mapping="symmetric"), 66_311),
        (ql.Scheme(mapping="symmetric"), ql.Scheme(mapping="symmetric"), 133_144),
        (ql.Scheme(signed=False), ql.Scheme(4, "symmetric"), 1_203_072),
    ],
)
def test_safe_length_is_the_last_that_cannot_overflow(x_scheme, w_scheme, bound):
    """The worst codes: as far from their zero points as they can be, all on one side."""
    assert safe_length(x_scheme, w_scheme) == bound
    worst = []
    for s in (x_scheme, w_scheme):
        z = 0 if s.mapping == "symmetric" else s.quant_min
        q = torch.full((1, bound + 1), s.quant_max, dtype=s.dtype)
        worst += int8_codes(q, torch.tensor(z, dtype=s.dtype))
    x, z_x, w, z_w = worst
    reach = (x[0, 0].item() - z_x.item()) * (w[0, 0].item() - z_w.item())
    assert four_terms(x[:, 1:], z_x, w[:, 1:], z_w).total().item() == bound * reach
    assert four_terms(x, z_x, w, z_w).total().item() == (bound + 1) * reach - 2**32


# --- bias and requantization ----------------------------------------------------------------------


def test_an_integer_bias_has_its_own_shape_and_is_named_where_it_does_not_fit():
    bias, scales = torch.tensor([5.0, 1.0]), torch.tensor([1.0, 0.5])
    assert integer_bias(bias, torch.tensor([[0.5]]), scales).tolist() == [10, 4]
    with pytest.raises(ValueError, match=r"A bias of 1 needs .* s_x s_w = 1e-10:"):
        integer_bias(bias, torch.tensor(1.0), torch.tensor([1.0, 1e-10]))


def test_an_integer_bias_is_off_by_half_a_unit_at_most():
    g = torch.Generator().manual_seed(0)
    bias, s_x = torch.randn(1000, generator=g), torch.tensor(0.02)
    s_w = 0.001 + 0.01 * torch.rand(1000, 1, generator=g)
    q = integer_bias(bias, s_x, s_w)
    with torch.device("meta"):  # a number lies where the bias does
        assert torch.equal(integer_bias(bias, 0.25, 0.5), torch.round(8 * bias.double()).int())
    unit = s_x.double() * s_w.double().flatten()
    off = (q * unit - bias.double()).abs() / unit
    assert q.dtype == torch.int32 and 0.45 < off.max() <= 0.5
    with pytest.raises(ValueError, match=r"x_scale must be one number, got the shape \(1000, 1\)"):
        integer_bias(bias, s_w, s_w)
    with pytest.raises(ValueError, match="needs more than 32 bits"):
        integer_bias(torch.tensor([1.0, 5.0]), torch.tensor(1e-6), torch.tensor(1e-4))
    with pytest.raises(ValueError, match="bias holds 0 NaN and 1 infinite"):
        integer_bias(torch.tensor([1.0, -math.inf]), torch.tensor(1e-3), torch.tensor(1e-3))
    with pytest.raises(ValueError, match="bias holds 1 NaN"):
        integer_bias(torch.tensor([1.0, math.nan]), torch.tensor(1e-3), torch.tensor(1e-3))


FACTORS = [2.0**-33, 2.0**-32, 1e-9, 0.1, 1 / 3, 0.5, 1 - 2**-53, 1.0, 1.5, 1e6, 2.0**30 - 1]


def test_fixed_point_is_the_factor_to_31_bits():
    found = fixed_point(torch.tensor(FACTORS, dtype=torch.float64))
    for factor, multiplier, shift in zip(FACTORS, *(p.tolist() for p in found), strict=True):
        if factor < 2**-32:
            assert multiplier == 0
            continue
        assert 2**30 <= multiplier < 2**31 and 1 <= shift <= 62
        off = abs(Fraction(multiplier, 2**shift) - Fraction(factor))
        assert off <= Fraction(factor) / 2**31


@pytest.mark.parametrize("factor", [0.0, -0.5, 2.0**30, math.nan, math.inf])
def test_fixed_point_refuses(factor):
    with pytest.raises(ValueError, match="factor must be positive and (finite|below 2\\^30)"):
        fixed_point(torch.tensor([0.5, factor]))


def by_fractions(acc, multiplier, shift, z, scheme):
    """clip(floor(acc * multiplier / 2^shift + 1/2) + z), in exact fractions."""
    q = math.floor(Fraction(acc * multiplier, 2**shift) + Fraction(1, 2)) + z
    return min(max(q, scheme.quant_min), scheme.quant_max)


@pytest.mark.parametrize(
    "scheme,z",
    [(ql.Scheme(), -77), (ql.Scheme(signed=False), 51), (ql.Scheme(4, "symmetric"), 0)],
)
def test_requantize_is_the_exact_fraction_rounded_half_up(scheme, z):
    g = torch.Generator().manual_seed(0)
    edges = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31), 5, -5, 7, -7])
    drawn = torch.randint(-(2**31), 2**31, (200,), generator=g) >> torch.arange(200) % 31
    acc = torch.cat([edges, drawn]).int()
    factors = torch.tensor([0.5, 0.25, 2.0**-32, 2.0**-31, 1.0, 1e-7, 0.013, 3.7, 0.37])
    factor = fixed_point(factors)
    columns = acc[:, None].expand(-1, len(factors))
    got = requantize(columns, factor, torch.tensor(z, dtype=scheme.dtype), scheme)
    assert got.dtype == scheme.dtype
    for j, (multiplier, shift) in enumerate(zip(*map(torch.Tensor.tolist, factor), strict=True)):
        wanted = [by_fractions(a, multiplier, shift, z, scheme) for a in acc.tolist()]
        assert got[:, j].tolist() == wanted


def test_requantize_rounds_ties_up():
    half = fixed_point(torch.tensor(0.5))
    acc = torch.tensor([-3, -1, 1, 3], dtype=torch.int32)
    assert requantize(acc, half, 0, ql.Scheme()).tolist() == [-1, 0, 1, 2]


def gemmlowp(acc, multiplier, shift):
    """gemmlowp's two roundings: the doubling high product, then the shift, ties away from zero."""
    product = acc * multiplier
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = int(math.trunc(Fraction(product + nudge, 2**31)))
    right = shift - 31
    rest, threshold = high & ((1 << right) - 1), ((1 << right) - 1 >> 1) + (high < 0)
    return (high >> right) + (rest > threshold)


@pytest.mark.parametrize("factor,share", [(0.00113, 0.001), (0.0123, 0.009), (0.37, 0.255)])
def test_gemmlowp_differs_by_one_code_at_most(factor, share):
    """It rounds twice. Near 1/2, one in four is rounded up twice."""
    g = torch.Generator().manual_seed(0)
    fixed, most = fixed_point(torch.tensor(factor)), int(125 / factor)
    acc = torch.randint(-most, most, (20_000,), generator=g).int()
    ours = requantize(acc, fixed, 0, ql.Scheme()).tolist()
    theirs = [gemmlowp(a, *map(int, fixed)) for a in acc.tolist()]
    off = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    assert max(off) == 1
    assert sum(off) / len(off) == pytest.approx(share, rel=0.15)


def test_gemmlowp_takes_ties_away_from_zero():
    tie = fixed_point(torch.tensor(0.25))
    minus = torch.tensor([-6], dtype=torch.int32)
    assert requantize(minus, tie, 0, ql.Scheme()).item() == -1
    assert gemmlowp(-6, int(tie.multiplier), int(tie.shift)) == -2


def test_requantize_takes_a_factor_per_column():
    acc = torch.tensor([[100, 100], [-30, -30]], dtype=torch.int32)
    factor = FixedPoint(*(torch.tensor(p) for p in ([2**30, 2**30], [31, 32])))
    assert requantize(acc, factor, 3, ql.Scheme()).tolist() == [[53, 28], [-12, -4]]
    by_rows = FixedPoint(*(part[:, None] for part in factor))
    for sums in (acc, acc[:1]):
        with pytest.raises(ValueError, match=r"factor has shape \(2, 1\), .* accumulator's \(2,\)"):
            requantize(sums, by_rows, 3, ql.Scheme())
    with pytest.raises(ValueError, match=r"zero_point must be one number, got the shape \(2, 1\)"):
        requantize(acc, factor, torch.zeros(2, 1, dtype=torch.int8), ql.Scheme())


# --- convolution ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stride,padding", [(1, 0), (1, 1), (2, 1), (3, 2)])
def test_a_convolution_of_codes_is_the_same_product(stride, padding):
    q, w = codes(2, 3, 9, 8), codes(5, 3, 3, 2, seed=1)
    z_q, z_w = torch.tensor(-77, dtype=torch.int8), codes(5, seed=2)
    got = int_conv2d(q, z_q, w, z_w, stride, padding)
    differences = w.double() - z_w.double()[:, None, None, None]
    wanted = torch.nn.functional.conv2d(
        q.double() - z_q.double(), differences, stride=stride, padding=padding
    )
    assert got.dtype == torch.int32
    assert torch.equal(got.double(), wanted)
