"""A search for a range finds the same limits with its loop as one operation at a time."""

import math

import pytest
import torch

import qlesson as ql
from qlesson import limits, observers, ranges
from qlesson.kernels import modes, search

MAPPINGS = (
    {"mapping": "symmetric"},
    {"mapping": "asymmetric"},
    {"mapping": "asymmetric", "signed": False},
    {"mapping": "asymmetric", "include_zero": False},
)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def unbroken(monkeypatch):
    monkeypatch.setitem(modes._state, "broken", False)
    yield
    assert not modes._state["broken"]


@pytest.mark.parametrize("rounding", ["inside", "outside"])
@pytest.mark.parametrize("how", MAPPINGS, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_loop_gives_the_errors_of_the_formula(bits, how, rounding):
    """For any scale and zero point, rows of any length, and weights of any size: to the last digits
    of a sum in another order."""
    scheme = ql.Scheme(bits, rounding=rounding, **how)
    zeros = [0] if scheme.mapping == "symmetric" else [scheme.quant_min, 1, scheme.quant_max]
    for rows, n in ((1, 1), (3, 31), (2, 2048), (1, 5000)):
        values = drawn(rows, n)
        values[:, ::7] = torch.round(values[:, ::7] * 8) / 16  # ties, with a step of 1/8
        weights = drawn(rows, n, seed=1).double().square()
        scale = torch.tensor([0.125, 0.3, 1e-30, 1e30]).view(-1, 1, 1).repeat(5, rows, 1)
        zero_point = torch.tensor(zeros)[torch.arange(20 * rows) % len(zeros)].view(20, rows, 1)
        small = torch.full((rows, 1), 0.5, dtype=torch.float64)
        given = values, weights, scale, zero_point.int(), small
        with ql.use_kernels("compiled"):
            errors = search.errors_of(scheme, drawn(2 * modes.ROW))
        found, expected = errors(*given), limits._squared_errors(scheme, *given)
        assert found.shape == expected.shape == (20, rows, 1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1.0, 2.0**-120, 2.0**120])
@pytest.mark.parametrize("how", MAPPINGS, ids=str)
@pytest.mark.parametrize(
    "granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(32)], ids=str
)
def test_it_finds_the_same_limits(granularity, how, size):
    """The last groups are short: what fills them up weighs nothing."""
    r = drawn(30, 77) * size
    r[3] = 0
    for bits, rounding in ((3, "inside"), (8, "outside"), (16, "inside")):
        signed = how if bits < 16 else {k: v for k, v in how.items() if k != "signed"}
        scheme = ql.Scheme(bits, granularity=granularity, rounding=rounding, **signed)
        with ql.use_kernels("eager"):
            expected = ranges.mse_search(r, scheme)
        with ql.use_kernels("compiled"):
            found = ranges.mse_search(r, scheme)
        assert all(map(torch.equal, found, expected))


def test_an_observer_finds_the_same_limits():
    scheme = ql.Scheme(4, granularity=ql.PerAxis(0))
    found = []
    for mode in ("eager", "compiled"):
        with ql.use_kernels(mode):
            observer = observers.MSEObserver(scheme)
            for seed in range(3):
                observer.observe(drawn(20, 300, seed=seed))
            found.append(observer.range())
    assert all(map(torch.equal, *found))


def test_auto_compiles_when_enough_values_were_searched(monkeypatch):
    r, scheme = drawn(30, 200), ql.Scheme(4, granularity=ql.PerAxis(0))
    monkeypatch.setattr(search, "PAYS_OFF", {"cpu": 2 * r.numel()})
    monkeypatch.setattr(modes, "_seen", type(modes._seen)())
    there = [search.errors_of(scheme, r) is not None for _ in range(4)]
    assert there == [False, False, True, True]
    with ql.use_kernels("eager"):
        assert search.errors_of(scheme, r) is None
    with ql.use_kernels("compiled"):
        assert search.errors_of(scheme, r) is not None
        assert search.errors_of(scheme, r.double()) is None
        assert search.errors_of(scheme, r[:3]) is None


@pytest.mark.parametrize("error", [RuntimeError("no C++ compiler"), PermissionError("a folder")])
def test_where_it_cannot_be_compiled_the_limits_are_the_same(error, monkeypatch):
    """And all other loops go on."""

    def fails(*source, **macros):
        raise error

    r, scheme = drawn(60, 200), ql.Scheme(4, granularity=ql.PerAxis(0))
    expected = ranges.mse_search(r, scheme)
    monkeypatch.setattr(search, "library", fails)
    search._loop.cache_clear()
    with ql.use_kernels("compiled"):
        found = ranges.mse_search(r, scheme)
        assert search.errors_of(scheme, r) is None
    search._loop.cache_clear()
    assert all(map(torch.equal, found, expected))


def test_short_rows_take_no_more_room_than_long_ones(monkeypatch):
    """At most so many limits of so many rows are tried at once."""
    sizes, tried = [], limits._of_least_error

    def seen(values, weights, r_min, r_max, scheme, errors, at_once):
        sizes.append(at_once * len(values))
        return tried(values, weights, r_min, r_max, scheme, errors, at_once)

    monkeypatch.setattr(limits, "_of_least_error", seen)
    with ql.use_kernels("compiled"):
        for n in (1, 2, 32, 3000):
            ranges.mse_search(drawn(6000 // n, n), ql.Scheme(4, granularity=ql.PerAxis(0)))
    assert max(sizes) <= 2**20 and min(sizes) > 2**8


def test_its_threads_share_rows_and_limits():
    """One row of many parts, and many rows, with one thread and with two."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with ql.use_kernels("compiled"):
                scheme = ql.Scheme(3, granularity=ql.PerAxis(0))
                found.append([ranges.mse_search(drawn(m, 9000 // m), scheme) for m in (1, 90)])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert all(map(torch.equal, one, two))
    assert math.isfinite(found[0][0][1].item())
