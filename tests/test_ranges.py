"""The smallest and the largest value, and the scale and zero point that follow from a range."""

import pytest
import torch
from hypothesis import given
from reference import T, plain, qparams_of_range
from strategies import problems

import qlesson as ql
from qlesson.qtensor import qparams_from_range
from qlesson.ranges import min_max


def test_min_max_of_T():
    assert [v.item() for v in min_max(T.double(), ql.PerTensor())] == [-184.0, T.max().item()]
    low, high = min_max(T, ql.PerAxis(0))
    assert torch.equal(low, torch.tensor([[-13.5], [-184.0], [0.0]]))
    assert torch.equal(high, torch.tensor([[728.6], [295.5], [684.6]]))
    low, high = min_max(T, ql.PerGroup(2))
    assert torch.equal(low, torch.tensor([[-13.5, 728.6], [92.14, -184.0], [0.0, 245.5]]))


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_min_max_carry_nan_and_infinity(granularity, dtype, bad):
    for place in range(5):
        r = torch.arange(5.0).to(dtype)
        r[place] = bad
        low, high = min_max(r, granularity)
        assert not (low.isfinite() & high.isfinite()).all()


@given(problems())
def test_qparams_follow_the_spec_from_the_ends_of_each_block(problem):
    r, scheme = problem
    low, high = min_max(r, scheme.granularity)
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
