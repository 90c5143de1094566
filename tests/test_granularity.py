"""Who shares a scale: shapes, blocks, ragged groups, and the numbers of T per row and column."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import T, home, indices, scale_shape
from strategies import granularities, tensors

import qlesson as ql


@pytest.mark.parametrize(
    "granularity, shape, expected",
    [
        (ql.PerTensor(), (), ()),
        (ql.PerTensor(), (2, 4), ()),
        (ql.PerAxis(0), (5,), (5,)),
        (ql.PerAxis(0), (2, 4), (2, 1)),
        (ql.PerAxis(1), (2, 4), (1, 4)),
        (ql.PerAxis(-1), (2, 4), (1, 4)),
        (ql.PerAxis(-3), (2, 3, 4), (2, 1, 1)),
        (ql.PerAxis(1), (2, 3, 4, 5), (1, 3, 1, 1)),
        (ql.PerGroup(4), (2, 8), (2, 2)),
        (ql.PerGroup(3), (2, 8), (2, 3)),  # 3 + 3 + 2
        (ql.PerGroup(100), (2, 8), (2, 1)),
        (ql.PerGroup(1), (2, 8), (2, 8)),
        (ql.PerGroup(2, 0), (5, 3), (3, 3)),
        (ql.PerGroup(2, axis=-2), (4, 5, 3), (4, 3, 3)),
        (ql.PerGroup(2), (3,), (2,)),
    ],
)
def test_scale_shape(granularity, shape, expected):
    assert granularity.scale_shape(shape) == expected
    assert scale_shape(shape, granularity) == expected  # the spec says the same
    qparams = ql.choose_qparams(torch.ones(shape), ql.Scheme(granularity=granularity))
    assert qparams.scale.shape == qparams.zero_point.shape == expected


@pytest.mark.parametrize(
    "granularity, mapping, error",
    [
        (ql.PerTensor(), "asymmetric", 1.572973),
        (ql.PerAxis(0), "asymmetric", 0.445346),
        (ql.PerAxis(1), "asymmetric", 0.736343),
        (ql.PerGroup(2), "asymmetric", 0.042256),
        (ql.PerGroup(2, 0), "asymmetric", 0.501858),
        (ql.PerGroup(3), "asymmetric", 0.445346),  # one group is one row
        (ql.PerGroup(1), "asymmetric", 0.0),
        (ql.PerTensor(), "symmetric", 2.509191),
        (ql.PerAxis(0), "symmetric", 1.808444),
        (ql.PerAxis(1), "symmetric", 1.078149),
        (ql.PerGroup(2), "symmetric", 0.096955),
        (ql.PerGroup(2, 0), "symmetric", 0.044167),
    ],
)
def test_error_of_T(granularity, mapping, error):
    r_hat = ql.quantize(T, ql.Scheme(mapping=mapping, granularity=granularity)).dequantize()
    assert ql.mse(T, r_hat).item() == pytest.approx(error, abs=6e-7)


@pytest.mark.parametrize(
    "granularity, scale, zero_point, q",
    [
        (
            ql.PerAxis(0),
            [[2.91019606590271], [1.8803921937942505], [2.6847057342529297]],
            [[-123], [-30], [-128]],
            [[-57, -128, 127], [19, 127, -128], [-128, 127, -37]],
        ),
        (
            ql.PerAxis(1),
            [[0.7513725757598877, 2.73764705657959, 3.5788233280181885]],
            [[-128, -123, -77]],
            [[127, -128, 127], [-5, -15, -128], [-128, 127, -8]],
        ),
        (
            ql.PerGroup(2),
            [
                [0.8043137788772583, 2.85725474357605],
                [1.1588234901428223, 0.7215686440467834],
                [2.6847057342529297, 0.9627450704574585],
            ],
            [[-111, -128], [-128, 127], [-128, -128]],
            [[127, -128, 127], [-48, 127, -128], [-128, 127, 127]],
        ),
    ],
)
def test_scales_and_codes_of_T(granularity, scale, zero_point, q):
    x = ql.quantize(T, ql.Scheme(granularity=granularity))
    assert x.scale.tolist() == scale
    assert x.zero_point.tolist() == zero_point
    assert x.q.tolist() == q


def test_a_row_and_a_column_are_not_the_same_on_a_2_by_4_tensor():
    r = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, -40.0]])
    symmetric = ql.Scheme(mapping="symmetric", granularity=ql.PerAxis(0))
    scale = ql.choose_qparams(r, symmetric).scale
    assert (scale * 127).round().tolist() == [[4.0], [40.0]]
    symmetric = ql.Scheme(mapping="symmetric", granularity=ql.PerAxis(1))
    scale = ql.choose_qparams(r, symmetric).scale
    assert (scale * 127).round().tolist() == [[10.0, 20.0, 30.0, 40.0]]


def test_finer_is_not_always_better():
    errors = [
        ql.mse(T, ql.quantize(T, ql.Scheme(5, "symmetric", g)).dequantize()).item()
        for g in (ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1))
    ]
    assert errors == pytest.approx([40.539669, 63.792623, 85.747487], abs=1e-5)


def play(outlier_columns):
    """Notebook 06: normal weights; or the same with 8 of 1024 columns ten times as large."""
    w = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    if outlier_columns:
        w[:, ::128] *= 10
    return w


ANOTHER_BIT = ql.Scheme(5, "symmetric", ql.PerAxis(0))
SMALLER_GROUPS = ql.Scheme(4, "symmetric", ql.PerGroup(32))


@pytest.mark.parametrize(
    "outlier_columns, bit, groups", [(False, 23.39, 20.29), (True, 11.84, 15.85)]
)
def test_at_5_bits_a_value_another_bit_or_smaller_groups(outlier_columns, bit, groups):
    w = play(outlier_columns)
    for scheme, price, expected in ((ANOTHER_BIT, 5.03125, bit), (SMALLER_GROUPS, 5.0, groups)):
        x = ql.quantize(w, scheme)
        assert x.bits_per_value == price
        assert ql.sqnr(w, x.dequantize()).item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    "scheme, price",
    [
        (ql.Scheme(8, granularity=ql.PerGroup(32)), 8 + (32 + 8) / 32),
        (ql.Scheme(4, granularity=ql.PerGroup(128)), 4 + (32 + 4) / 128),
        (ql.Scheme(4, "symmetric", ql.PerGroup(128)), 4 + 32 / 128),
        (ql.Scheme(4, granularity=ql.PerGroup(1000)), 4 + 2 * (32 + 4) / 1024),  # 1000 + 24
        (ql.Scheme(16, granularity=ql.PerAxis(0)), 16 + (32 + 16) / 1024),
    ],
)
def test_the_price_of_a_scale(scheme, price):
    assert ql.quantize(play(False), scheme).bits_per_value == price
    wide = ql.quantize(play(False).double(), scheme)
    assert wide.bits_per_value == price + 32 * wide.scale.numel() / wide.q.numel()


@given(st.data())
def test_split_align_and_join_agree_with_the_spec(data):
    r = data.draw(tensors(min_dims=1, dtypes=(torch.float32,)))
    granularity = data.draw(granularities(r.ndim))
    blocks = granularity.split(r)
    assert torch.equal(granularity.join(blocks, r.shape), r)

    # Number the scales; every element must meet the number of the scale that is its home.
    shape = granularity.scale_shape(r.shape)
    numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
    met = granularity.join((blocks * 0 + granularity.align(numbers)), r.shape)
    for index in indices(r.shape):
        assert met[index] == numbers[home(index, r.shape, granularity)]


@given(st.data())
def test_reduce_is_the_minimum_and_the_maximum_of_each_block(data):
    r = data.draw(tensors(dtypes=(torch.float32,)))
    granularity = data.draw(granularities(r.ndim))
    members = {}
    for index in indices(r.shape):
        members.setdefault(home(index, r.shape, granularity), []).append(r[index].item())
    low, high = granularity.reduce(torch.amin, r), granularity.reduce(torch.amax, r)
    assert low.shape == high.shape == granularity.scale_shape(r.shape)
    for block, values in members.items():
        assert (low[block].item(), high[block].item()) == (min(values), max(values))


def test_a_short_last_group_has_its_own_range():
    r = torch.tensor([0.0, 1.0, 2.0, 50.0, 100.0])
    x = ql.quantize(r, ql.Scheme(granularity=ql.PerGroup(3)))
    assert x.scale.tolist() == pytest.approx([2 / 255, 100 / 255])
    assert x.shape == r.shape
    assert torch.allclose(x.dequantize(), r, atol=0.2)


@pytest.mark.parametrize("n", [1, 4, 5, 7, 8])
def test_groups_equal_each_group_alone(n):
    r = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    x = ql.quantize(r, ql.Scheme(4, granularity=ql.PerGroup(4)))
    for group in range(0, n, 4):
        for row in range(3):
            alone = ql.quantize(r[row, group : group + 4], ql.Scheme(4))
            assert torch.equal(x.q[row, group : group + 4], alone.q)
            assert x.scale[row, group // 4] == alone.scale


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ql.PerGroup(0), ("group_size", "at least 1", "0")),
        (lambda: ql.PerGroup(-4), ("group_size", "at least 1", "-4")),
        (lambda: ql.PerGroup(2.0), ("group_size", "must be an integer", "2.0")),
        (lambda: ql.PerGroup("4"), ("group_size", "must be an integer", "'4'")),
        (lambda: ql.PerGroup(True), ("group_size", "must be an integer", "True")),
        (lambda: ql.PerGroup(None), ("group_size", "must be an integer", "None")),
        (lambda: ql.PerGroup(4, 1.0), ("axis", "must be an integer", "1.0")),
        (lambda: ql.PerAxis("row"), ("axis", "must be an integer", "'row'")),
        (lambda: ql.PerAxis(None), ("axis", "must be an integer", "None")),
    ],
)
def test_a_bad_size_or_axis_is_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words)


def test_equal_granularities_are_equal_and_hash_alike():
    assert ql.PerGroup(4) == ql.PerGroup(4, -1) != ql.PerGroup(4, 0)
    assert len({ql.PerAxis(0), ql.PerAxis(0), ql.PerAxis(-1), ql.PerTensor(), ql.PerTensor()}) == 3
    with pytest.raises(AttributeError):
        ql.PerAxis(0).axis = 1
