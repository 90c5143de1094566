"""The ends of ranges, and what is chosen by them, as a GPU finds them: in Triton's interpreter
where there is none."""

import functools
import itertools

import pytest
import torch

import qlesson as ql
from qlesson import kernels
from qlesson.kernels import compilers

triton_loops = pytest.importorskip("qlesson.kernels.loops_triton", reason="needs Triton")

CUDA = torch.cuda.is_available()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# one range for all, with a rest; wide rows; narrow ones, more than a program takes; columns that
# programs share, of many rows; groups in the middle
LAYOUTS = [
    ((7, 1111), ql.PerTensor()),
    ((3, 20_000), ql.PerAxis(0)),
    ((700, 24), ql.PerAxis(0)),
    ((96, 384), ql.PerGroup(32)),
    ((300, 201), ql.PerAxis(1)),
    ((2100, 3), ql.PerAxis(1)),
    ((6, 40, 130), ql.PerGroup(20, 1)),
    ((5000,), ql.PerAxis(0)),
]
ODD = (float("nan"), float("inf"), -float("inf"))


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The functions of loops_triton that ran; it fails where one gave up."""
    found = []
    for name in ("min_max", "choose", "choose_and_quantize"):
        run = getattr(triton_loops, name)
        monkeypatch.setattr(
            triton_loops, name, lambda *a, name=name, run=run: found.append(name) or run(*a)
        )
    if not CUDA:
        monkeypatch.setattr(compilers, "by_hand", compilers._by_triton)
        monkeypatch.setattr(kernels, "_on_gpu", lambda r: True)
    monkeypatch.setattr(kernels, "_compiled", functools.cache(kernels._compiled.__wrapped__))
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    yield found
    assert not kernels.modes._state["broken"]


def drawn(shape, dtype, sign=1):
    """Far from 0 on one side, so that nothing but the values themselves can be an end."""
    r = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs() + 1
    return (sign * r).to("cuda" if CUDA else "cpu", dtype)


def in_mode(mode, function, *arguments):
    with ql.use_kernels(mode):
        return function(*arguments)


def assert_same(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape, granularity", LAYOUTS, ids=str)
def test_the_ends_are_those_of_the_eager_path(shape, granularity, dtype, calls):
    """A NaN makes both of its block NaN, and infinity is an end, wherever it stands."""
    times = 0
    for sign, odd in itertools.product((1, -1), (None, *ODD)):
        for at in (0, 40, -1) if odd and dtype is torch.float32 else (40,):
            r = drawn(shape, dtype, sign)
            if odd:
                r.view(-1)[at] = odd
            found = in_mode("compiled", kernels.min_max, r, granularity)
            assert_same(found, in_mode("eager", kernels.min_max, r, granularity))
            times += 1
    assert calls == ["min_max"] * times


def test_a_block_of_nothing_but_nan():
    for shape, granularity in LAYOUTS:
        r = drawn(shape, torch.float32)
        r.view(-1)[:2000] = r[..., :1] = float("nan")
        found = in_mode("compiled", kernels.min_max, r, granularity)
        assert_same(found, in_mode("eager", kernels.min_max, r, granularity))


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("shape, granularity", LAYOUTS, ids=str)
def test_what_is_chosen_by_them_has_the_bits_of_the_eager_path(shape, granularity, mapping, calls):
    both_signs, small, subnormal = (-2, 1), (0, 1e-9), (0, 1e-39)
    kinds = [(dtype, (0, -1)) for dtype in DTYPES]
    kinds += [(torch.float32, kind) for kind in (both_signs, small, subnormal)]
    for (bits, scale_dtype), kind in itertools.product(((8, None), (3, torch.float16)), kinds):
        scheme = ql.Scheme(bits, mapping, granularity, scale_dtype=scale_dtype)
        dtype, (more, times) = kind
        r = (drawn(shape, dtype) + more) * times
        expected = in_mode("eager", ql.choose_qparams, r, scheme)
        assert_same(in_mode("compiled", ql.choose_qparams, r, scheme), expected)
        if more and not scale_dtype:
            x, y = (in_mode(mode, ql.quantize, r, scheme) for mode in ("eager", "compiled"))
            assert_same((y.q, y.scale, y.zero_point), (x.q, *expected))
    assert calls.count("choose") >= 12


@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_what_cannot_be_chosen_is_refused_as_the_eager_path_does(mapping, calls):
    """A half scale is infinite sooner; a literal range needs its ends for a warning."""
    for (shape, granularity), value in zip(LAYOUTS, 2 * (*ODD, 3e38), strict=True):
        scheme = ql.Scheme(8, mapping, granularity, scale_dtype=torch.float16)
        r, said = drawn(shape, torch.float32), []
        r.view(-1)[41] = value
        for mode in ("eager", "compiled"):
            with pytest.raises(ValueError) as error:
                in_mode(mode, ql.quantize, r, scheme)
            said.append(str(error.value))
        assert said[0] == said[1]
    assert "choose" in calls
    calls.clear()
    with pytest.warns(ql.ZeroPointClipped):
        literal = ql.Scheme(include_zero=False)
        in_mode("compiled", ql.quantize, drawn((7, 1111), torch.float32), literal)
    assert "choose" not in calls


def test_rows_too_wide_to_keep_are_read_twice(calls):
    scheme = ql.Scheme(granularity=ql.PerAxis(0))
    r = drawn((64, triton_loops.WIDEST + 1), torch.float32)
    x, y = (in_mode(mode, ql.quantize, r, scheme) for mode in ("eager", "compiled"))
    assert_same((y.q, y.scale, y.zero_point), (x.q, x.scale, x.zero_point))
    assert calls == ["choose_and_quantize", "choose", "min_max"]


@pytest.mark.parametrize(
    "shape, granularity", [LAYOUTS[i] for i in (0, 1, 4, 6)] + [((1, 5000), ql.PerAxis(0))], ids=str
)
def test_codes_follow_before_anybody_waits(shape, granularity, calls):
    """Of all in one range, of columns, and of a few rows, which a processor takes in two steps."""
    scheme, r = ql.Scheme(granularity=granularity), drawn(shape, torch.float32)
    x, y = (in_mode(mode, ql.quantize, r, scheme) for mode in ("eager", "compiled"))
    assert_same((y.q, y.scale, y.zero_point), (x.q, x.scale, x.zero_point))
    assert calls[0] == "choose_and_quantize"


def test_what_does_not_lie_in_memory_runs_eagerly(calls):
    odd = (drawn((96, 384), torch.float32).t(), drawn((96, 384), torch.float64))
    for r, granularity in itertools.product(odd, (ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1))):
        scheme = ql.Scheme(granularity=granularity)
        found = in_mode("compiled", ql.choose_qparams, r, scheme)
        assert_same(found, in_mode("eager", ql.choose_qparams, r, scheme))
    assert not calls


@pytest.mark.skipif(CUDA, reason="counts what a GPU would be asked")
def test_all_is_chosen_in_one_wait(monkeypatch):
    waits = []
    for name in ("__bool__", "__float__", "item"):
        look = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, look=look: waits.append(x) or look(x))
    for granularity in (ql.PerTensor(), ql.PerAxis(1)):
        scheme = ql.Scheme(granularity=granularity)
        for function in (ql.choose_qparams, ql.quantize):
            in_mode("compiled", function, drawn((96, 384), torch.float32), scheme)
            assert len(waits) == 1
            waits.clear()


COMPILED = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qlesson.kernels import loops_triton

def compiled(kernel, kinds, even=(), **known):
    names = kernel.arg_names
    types = {n: "constexpr" if n in known else kinds.get(n, "i32") for n in names}
    fixed = {(i,): known[n] for i, n in enumerate(names) if n in known}
    divisible = {(names.index(n),): [["tt.divisibility", 16]] for n in even}
    source = ASTSource(kernel, types, fixed, divisible)
    options = {"num_warps": 8}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return made.asm["ptx"]

for real in ("*fp32", "*bf16", "*fp16"):
    kinds = dict.fromkeys(("r", "lows", "highs", "scale"), real)
    kinds |= {"zero_point": "*i8", "q": "*i8", "low": "fp32", "high": "fp32", "m": "i64"}
    rows, columns = {"M": 8, "N": 1024, "C": 1, "c": 1, "across": 1}, {"M": 1, "N": 64, "C": 128}
    for shape, even in ((rows, ("r", "n")), (columns, ("r", "c"))):
        ptx = compiled(loops_triton._ends, kinds, even, **shape)
        print(all(re.findall("ld[.]global[.](v?)", ptx)))
    for how in ({"SYMMETRIC": True}, {"SYMMETRIC": False}):
        ptx = compiled(loops_triton._choose, kinds, COLS=1024, **how)
        print(not re.search("(min|max)[.]f32", ptx))  # they drop NaN
        compiled(loops_triton._choose_and_quantize, kinds, INSIDE=True, ROWS=4, COLS=1024, **how)
"""


@pytest.mark.slow
def test_they_compile_for_a_gpu_read_several_values_at_once_and_keep_nan(said_by):
    assert said_by(COMPILED).split() == ["True"] * 12
