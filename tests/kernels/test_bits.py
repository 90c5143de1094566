"""One formula, every machine: eager and compiled give the same bits, on more than 10^8 values.

HYPOTHESIS_PROFILE=thorough compiles every scheme for every dtype, which takes some minutes.
"""

import functools
import itertools
import warnings

import pytest
import torch
from products import THOROUGH
from torch._subclasses import FakeTensorMode

import qlesson as ql
from qlesson import kernels
from qlesson.kernels import compilers

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALVES)
CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
)
# (bits, mapping, signed, rounding): each code dtype, mapping and rounding; the rest when thorough
KINDS = [(8, "asymmetric", True, "inside"), (16, "symmetric", True, "outside")]
KINDS += [(8, "asymmetric", False, "outside")]
EVERY_KIND = [
    (bits, mapping, signed, rounding)
    for bits, (mapping, signed), rounding in itertools.product(
        (2, 3, 4, 5, 6, 7, 8, 16),
        (("asymmetric", True), ("asymmetric", False), ("symmetric", True)),
        ("inside", "outside"),
    )
    if signed or bits < 16
]
# a row per block, columns, ragged rows, groups in the middle, one scale with a rest
LAYOUTS = [
    ((96, 384), ql.PerTensor()),
    ((7, 1111), ql.PerTensor()),
    ((96, 384), ql.PerAxis(0)),
    ((96, 384), ql.PerAxis(1)),
    ((96, 384), ql.PerGroup(24)),
    ((96, 384), ql.PerGroup(32, 0)),
    ((64, 100), ql.PerGroup(32)),
]
LENGTHS = [((96, 384), ql.PerGroup(n)) for n in (16, 64, 128)]  # of loops by hand of their own
MORE_LAYOUTS = [
    ((90, 100), ql.PerAxis(1)),  # no row but the first begins where a vector may
    ((6, 16, 96), ql.PerAxis(1)),
    ((6, 16, 96), ql.PerGroup(5, 1)),
    ((96, 384), ql.PerGroup(1)),
    ((96, 384), ql.PerGroup(1000)),
    ((5000,), ql.PerAxis(0)),
]
# more rows than there are scales in a piece
MANY_ROWS = ((140_000, 3), ql.PerAxis(0))
EVERY_LAYOUT = LAYOUTS + LENGTHS + MORE_LAYOUTS
# The first compiles every kernel, the others (half a minute in all) the two that matter most.
WORK = [(torch.float32, KINDS[0], LAYOUTS)]
BY_THE_COMPILER = [LAYOUTS[i] for i in (1, 2, 3, -1)]  # one for each shape that its loops have
WORK += [(torch.float32, kind, LAYOUTS[1:3]) for kind in KINDS[1:]]
WORK += [(dtype, KINDS[0], LAYOUTS[1:3]) for dtype in HALVES]
if THOROUGH:
    WORK = [(dtype, kind, EVERY_LAYOUT) for dtype, kind in itertools.product(DTYPES, EVERY_KIND)]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def values(shape, dtype, seed=0):
    """Normal values of many magnitudes, exact ties, near-ties, zeros, subnormals and large ones."""
    g = torch.Generator().manual_seed(seed)
    r = torch.randn(shape, generator=g) * torch.logspace(-3, 3, shape[-1])
    flat = r.view(-1)
    ties = torch.arange(len(flat[::5])) % 509 / 2 - 127
    flat[::5], flat[1::5] = ties, ties.nextafter(torch.tensor(999.0))[: len(flat[1::5])]
    flat[2::25] = 0
    flat[7::25] = 1e-42
    flat[12::25] = -3e4
    return r.to(dtype)


def assert_same(r, scheme, qparams=None):
    """Every output of eager on the CPU and of the kernels chosen, bit for bit."""
    with ql.use_kernels("eager"):
        x = ql.quantize(r.cpu(), scheme, qparams)
        there = ql.QParams(x.scale.to(r.device), x.zero_point.to(r.device))
    with ql.use_kernels("compiled"):
        y = ql.quantize(r, scheme, qparams and there)
        given = ql.quantize(r, scheme, there, check=False)
        chosen = ql.choose_qparams(r, scheme)
    assert torch.equal(y.q.cpu(), x.q) and torch.equal(given.q.cpu(), x.q)
    if qparams is None:
        for found in (y, chosen):
            assert torch.equal(found.scale.cpu(), x.scale)
            assert torch.equal(found.zero_point.cpu(), x.zero_point)
    flat = isinstance(scheme.granularity, ql.PerTensor) and scheme.bits == 8
    for dtype in DTYPES if flat or THOROUGH else (torch.float32,):
        with ql.use_kernels("eager"):
            r_hat = x.dequantize(dtype)
        with ql.use_kernels("compiled"):
            assert torch.equal(y.dequantize(dtype).cpu(), r_hat)


@pytest.fixture(autouse=True)
def two_threads():
    """Whatever the run of the tests has: the parts of a tensor must meet without a seam."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


BY_TORCH = functools.cache(kernels._compiled.__wrapped__)


@pytest.fixture(params=["by hand", "by torch.compile"])
def compiled(monkeypatch, request):
    """Fails where the compiled path was not taken, or fell back."""
    calls, loop = [], kernels._loop
    if request.param == "by torch.compile":
        for own in ("by_hand", "_by_triton"):
            monkeypatch.setattr(compilers, own, lambda *a: None)
        monkeypatch.setattr(kernels, "_compiled", BY_TORCH)
    monkeypatch.setattr(kernels, "_loop", lambda *a: calls.append(a[0].__name__) or loop(*a))
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    yield calls
    assert {"quantize", "dequantize"} <= set(calls)
    assert not kernels.modes._state["broken"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype, kind, layouts", WORK, ids=lambda x: str(x)[:40])
def test_eager_and_compiled_agree_bit_for_bit(device, dtype, kind, layouts, compiled):
    bits, mapping, signed, rounding = kind
    if layouts is LAYOUTS:
        layouts = BY_THE_COMPILER if kernels._compiled is BY_TORCH else LAYOUTS + LENGTHS
    for shape, granularity in layouts:
        scheme = ql.Scheme(bits, mapping, granularity, signed, rounding=rounding)
        assert_same(values(shape, dtype).to(device), scheme)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_loops_by_hand_agree_over_every_scheme(dtype):
    """Codes of 8 bits or fewer in every layout, chosen and given, with NaN and infinity planted."""
    assert compilers.by_hand(kernels.quantize, (0, 1, "inside"), [(dtype, 2), (torch.uint8, 2)])
    nothing = torch.tensor([float("nan"), float("inf"), -float("inf")]).to(dtype)
    for kind, (shape, granularity) in itertools.product(EVERY_KIND, [*EVERY_LAYOUT, MANY_ROWS]):
        bits, mapping, signed, rounding = kind
        if bits == 16 or ((shape, granularity) == MANY_ROWS and kind != KINDS[0]):
            continue
        scheme = ql.Scheme(bits, mapping, granularity, signed, rounding=rounding)
        r = values(shape, dtype)
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme)
        with ql.use_kernels("compiled"):
            y = ql.quantize(r, scheme)
        assert torch.equal(y.scale, x.scale) and torch.equal(y.zero_point, x.zero_point)
        assert torch.equal(y.q, x.q)
        r.view(-1)[3:99:7] = nothing.repeat(5)[: len(r.view(-1)[3:99:7])]
        qparams = ql.QParams(x.scale, x.zero_point)
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme, qparams, check=False)
        with ql.use_kernels("compiled"):
            y = ql.quantize(r, scheme, qparams, check=False)
        assert torch.equal(y.q, x.q)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_written_past_the_caches(dtype, monkeypatch):
    """Small results too where `far` says so, at addresses of whole vectors and at others."""

    def far(formula, constants, kinds, device):
        return compilers.by_hand(formula, constants, kinds, far=0)

    monkeypatch.setattr(kernels, "_compiled", functools.cache(far))
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    for shape, granularity in EVERY_LAYOUT:
        r, scheme = values(shape, dtype), ql.Scheme(granularity=granularity)
        assert_same(r, scheme)
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme)
            r_hat = x.dequantize(dtype)
        with ql.use_kernels("compiled"):
            q = torch.zeros(r.numel() + 2, dtype=torch.int8)
            ql.quantize(r, scheme, out=q[1:-1].view(shape))
            out = torch.zeros(r.numel() + 2, dtype=dtype)
            x.dequantize(dtype, out=out[1:-1].view(shape))
        assert torch.equal(q[1:-1].view(shape), x.q) and q[0] == q[-1] == 0
        assert torch.equal(out[1:-1].view(shape), r_hat) and out[0] == out[-1] == 0
    assert not kernels.modes._state["broken"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ranges_by_hand(dtype):
    """Far from 0 on either side, so that nothing but the values themselves can be an end."""
    for (shape, granularity), sign in itertools.product([*EVERY_LAYOUT, MANY_ROWS], (1, -1)):
        whole = sign * (values(shape, dtype).abs() + 1)
        for bad, at in itertools.product((1.5, float("nan"), float("inf")), (0, 40, -1)):
            r = whole.clone()
            r.view(-1)[at] = bad
            with ql.use_kernels("compiled"):
                found = kernels.min_max(r, granularity)
            for end, function in zip(found, (torch.amin, torch.amax), strict=True):
                expected = granularity.reduce(function, r)
                assert end.dtype == dtype
                assert torch.equal(end.nan_to_num(7e4), expected.nan_to_num(7e4))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_columns_whose_rows_threads_share(dtype):
    """Few long ones, and strips that have left the caches when their last row is read: every part
    of the rows counts, in ranges and in codes."""
    far = 2**23 // (512 * dtype.itemsize) + 77  # rows, of which 512 values each are TALL bytes
    layouts = [((40_001, 70), ql.PerAxis(1)), ((far, 600), ql.PerAxis(1))]
    layouts += [((2 * far, 520), ql.PerGroup(far, 0))]
    for threads, (shape, granularity) in itertools.product((1, 3), layouts):
        torch.set_num_threads(threads)
        r = values(shape, dtype)
        assert_same(r, ql.Scheme(8, granularity=granularity))
        places = itertools.product(
            (0, shape[0] // 2 - 1, -1), ((1, 6e4), (-1, 1.5), (1, float("nan")))
        )
        for row, (sign, value) in places:
            bad = sign * (r.abs() + 1)
            bad[row, 5] = value
            with ql.use_kernels("compiled"):
                found = kernels.min_max(bad, granularity)
            for end, function in zip(found, (torch.amin, torch.amax), strict=True):
                expected = granularity.reduce(function, bad)
                assert torch.equal(end.nan_to_num(7e4), expected.nan_to_num(7e4))


@pytest.fixture
def interpreted(monkeypatch):
    """Triton's interpreter in the place of the loops by hand; torch.compile keeps the rest."""
    pytest.importorskip("triton", reason="needs Triton")
    if torch.cuda.is_available():
        pytest.skip("the tests on CUDA run the kernels themselves")
    monkeypatch.setattr(compilers, "by_hand", compilers._by_triton)
    monkeypatch.setattr(kernels, "_compiled", functools.cache(kernels._compiled.__wrapped__))
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    yield
    assert not kernels.modes._state["broken"]


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_half_scales_in_tritons_interpreter(mapping, interpreted):
    """float16: the interpreter cuts bfloat16 off where a GPU rounds."""
    for granularity in (ql.PerAxis(0), ql.PerGroup(32)):
        scheme = ql.Scheme(4, mapping, granularity, scale_dtype=torch.float16)
        r = values((96, 384), torch.float32)
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme)
        with ql.use_kernels("compiled"):
            y = ql.quantize(r, scheme)
        assert torch.equal(y.scale, x.scale) and torch.equal(y.zero_point, x.zero_point)
        assert torch.equal(y.q, x.q) and torch.equal(y.dequantize(), x.dequantize())


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype, bits", [*((dtype, 8) for dtype in DTYPES), (torch.float32, 16), (torch.bfloat16, 3)]
)
def test_the_kernels_for_a_gpu_agree_in_tritons_interpreter(bits, dtype, interpreted):
    nothing = torch.tensor([float("nan"), float("inf"), -float("inf")]).to(dtype)
    layouts = [((7, 1111), ql.PerTensor())]
    layouts += [((48, 384), g) for g in (ql.PerAxis(0), ql.PerGroup(24), ql.PerGroup(32))]
    for kind, (shape, granularity) in itertools.product(EVERY_KIND, layouts):
        if kind[0] != bits:
            continue
        scheme = ql.Scheme(bits, kind[1], granularity, kind[2], rounding=kind[3])
        r = values(shape, dtype)
        r[4] = r[4].abs() + 1
        r[1, 5], r[2], r[3] = min(3e5, torch.finfo(dtype).max), 0, 1e-42  # too large for float16
        broken = r.clone()
        broken.view(-1)[3:99:7] = nothing.repeat(5)[:14]
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme)
            qparams = ql.QParams(x.scale, x.zero_point)
            expected = ql.quantize(broken, scheme, qparams, check=False).q
            # The interpreter cuts bfloat16 off where a GPU rounds.
            r_hats = [x.dequantize(d) for d in (torch.float32, torch.float16)]
        with ql.use_kernels("compiled"):
            y = ql.quantize(r, scheme)
            assert torch.equal(y.scale, x.scale) and torch.equal(y.zero_point, x.zero_point)
            assert torch.equal(y.q, x.q)
            assert torch.equal(ql.quantize(broken, scheme, qparams, check=False).q, expected)
            for r_hat in r_hats:
                assert torch.equal(y.dequantize(r_hat.dtype), r_hat)
            if not isinstance(granularity, ql.PerTensor):
                with pytest.raises(ValueError, match="NaN"):
                    ql.quantize(broken, scheme, check=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shape, granularity",
    [((70, 333), ql.PerAxis(1)), ((9, 1500), ql.PerAxis(1)), ((6, 40, 130), ql.PerGroup(20, 1))],
    ids=str,
)
def test_codes_of_columns_in_tritons_interpreter(shape, granularity, dtype, interpreted):
    scheme, r = ql.Scheme(granularity=granularity), values(shape, dtype)
    with ql.use_kernels("eager"):
        x = ql.quantize(r, scheme)
        r_hat = x.dequantize(dtype)
    with ql.use_kernels("compiled"):
        y = ql.quantize(r, scheme, ql.QParams(x.scale, x.zero_point))
        assert torch.equal(y.q, x.q) and torch.equal(y.dequantize(dtype), r_hat)


def test_rows_too_wide_for_one_program_of_triton(interpreted, monkeypatch):
    from qlesson.kernels import loops_triton

    monkeypatch.setattr(loops_triton, "WIDEST", 300)
    r, scheme = values((70, 384), torch.float32), ql.Scheme(granularity=ql.PerAxis(0))
    with ql.use_kernels("eager"):
        x = ql.quantize(r, scheme)
    with ql.use_kernels("compiled"):
        y = ql.quantize(r, scheme)
    assert torch.equal(y.q, x.q) and torch.equal(y.scale, x.scale)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_layouts_that_do_not_lie_straight_in_memory(device, compiled):
    r = values((96, 384), torch.float32).to(device)
    wide = torch.empty(96, 768, device=device)
    wide[:, ::2] = r
    for odd in (r.t(), wide[:, ::2], r[:, 1:], r[5:].expand(91, 384)):
        for granularity in (ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(32)):
            assert_same(odd, ql.Scheme(granularity=granularity))


GIVEN = ql.QParams(torch.tensor(0.05), torch.tensor(3, dtype=torch.int8))


def codes(r):
    return ql.quantize(r, ql.Scheme(), GIVEN, check=False).q


def test_values_that_are_not_the_numbers_at_an_address(monkeypatch):
    """A pending minus sign, a fake tensor, torch.func, a recorded trace: eager, without a warning.

    A loop by hand would read past them, some at address 0.
    """
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    r = values((64, 100), torch.float32)
    minus = torch.complex(r, r).conj().imag.as_strided((64, 50), (50, 1))
    assert minus.is_neg() and minus.is_contiguous()
    groups = ql.Scheme(granularity=ql.PerGroup(25))
    with ql.use_kernels("eager"):
        expected = ql.quantize(minus, groups)
    with ql.use_kernels("compiled"):
        found = ql.quantize(minus, groups)
        assert torch.equal(found.q, expected.q) and torch.equal(found.scale, expected.scale)
        with FakeTensorMode() as fake:
            qparams = ql.QParams(*map(fake.from_tensor, GIVEN))
            wide = ql.quantize(fake.from_tensor(r), ql.Scheme(), qparams, check=False)
            assert wide.shape == r.shape
        with ql.use_kernels("eager"):
            expected = codes(r)
        assert torch.equal(torch.vmap(codes)(r[None])[0], expected)
        assert torch.equal(torch.func.functionalize(codes)(r), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jit is deprecated, and a check is not recorded
            traced = torch.jit.trace(codes, (r,))
        assert torch.equal(traced(r), expected)
    assert not kernels.modes._state["broken"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_ten_to_the_eight_random_values(device, compiled):
    """Given scale per group, and one scale; the scale of each is random too."""
    total = 0
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        r = torch.randn(2**18, 128, generator=g)
        scale = torch.rand(2**18, 1, generator=g) * 0.05 + 1e-4
        zero_point = torch.randint(-128, 128, (2**18, 1), generator=g).to(torch.int8)
        if seed == 0:
            qparams, scheme = ql.QParams(scale[0, 0], zero_point[0, 0]), ql.Scheme()
        else:
            qparams = ql.QParams(scale, zero_point)
            scheme = ql.Scheme(granularity=ql.PerGroup(128))
        there = ql.QParams(*(p.to(device) for p in qparams))
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme, qparams, check=False)
        with ql.use_kernels("compiled"):
            y = ql.quantize(r.to(device), scheme, there, check=False)
            r_hat = y.dequantize().cpu()
        assert torch.equal(y.q.cpu(), x.q)
        with ql.use_kernels("eager"):
            assert torch.equal(r_hat, x.dequantize())
        total += r.numel()
    assert total > 10**8


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_planted_ties_and_near_ties(device, compiled):
    """(k + 1/2) s for every code k and 4096 scales, and the floats next to it on either side."""
    g = torch.Generator().manual_seed(0)
    scale = torch.rand(4096, 1, generator=g) * 10 ** torch.linspace(-6, 6, 4096)[:, None]
    tie = (torch.arange(-130, 126) + 0.5) * scale
    for r in (tie, tie.nextafter(torch.tensor(torch.inf)), tie.nextafter(torch.tensor(-torch.inf))):
        for z in (0, 1, -77):
            zero_point = torch.full((4096, 1), z, dtype=torch.int8)
            scheme = ql.Scheme(granularity=ql.PerAxis(0))
            with ql.use_kernels("eager"):
                x = ql.quantize(r, scheme, (scale, zero_point))
            with ql.use_kernels("compiled"):
                there = (scale.to(device), zero_point.to(device))
                y = ql.quantize(r.to(device), scheme, there)
                y.dequantize()
            assert torch.equal(y.q.cpu(), x.q)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_given_scales_of_every_size(dtype, axis):
    """Ties of scales from 2^-140 to 3e38, where 1 / s or 255 s is no float; NaN of any bits."""
    g = torch.Generator().manual_seed(1)
    scale = (torch.arange(-140, 127).double().exp2() * (1 + torch.rand(267, generator=g))).float()
    scale[-1] = 3e38
    r = (scale[:, None].double() * (torch.arange(-150, 150) + 0.5)).float()
    r[:, ::3] = torch.randn(267, 100, generator=g)
    nan = torch.tensor([0x7FC00005, 0x7FFFFFFF, -1, 0x7F812345], dtype=torch.int32)
    r[:, 3:12] = torch.cat([nan.view(torch.float32), torch.tensor([0, 1e38, -1e38, 1e99, -1e99])])
    zero_point = torch.randint(-128, 128, (267,), generator=g).to(torch.int8)
    shape = (267, 1) if axis == 0 else (1, 267)
    r = (r if axis == 0 else r.t().contiguous()).to(dtype)
    qparams = ql.QParams(scale.view(shape), zero_point.view(shape))
    for rounding in ("inside", "outside"):
        scheme = ql.Scheme(granularity=ql.PerAxis(axis), rounding=rounding)
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme, qparams, check=False)
            r_hats = [x.dequantize(dtype) for dtype in DTYPES]
        with ql.use_kernels("compiled"):
            assert torch.equal(ql.quantize(r, scheme, qparams, check=False).q, x.q)
            for r_hat in r_hats:
                assert torch.equal(x.dequantize(r_hat.dtype), r_hat)


@pytest.mark.parametrize("scale_dtype", [None, *HALVES])
def test_chosen_ranges_whose_last_code_is_a_tie(scale_dtype):
    """Of 2 bits and 4, where a range ends half a code beyond the last."""
    g = torch.Generator().manual_seed(1)
    r = (torch.randn(4096, 32, generator=g) * 16).round() / 16
    r *= (
        torch.arange(-130, 126).repeat_interleave(16)[:, None].double().exp2()
        if scale_dtype is None
        else 1
    )
    for bits, mapping, rounding in itertools.product(
        (2, 4, 8), ("asymmetric", "symmetric"), ("inside", "outside")
    ):
        scheme = ql.Scheme(bits, mapping, ql.PerAxis(0), rounding=rounding, scale_dtype=scale_dtype)
        with ql.use_kernels("eager"):
            x = ql.quantize(r, scheme, check=False)
        with ql.use_kernels("compiled"):
            y = ql.quantize(r, scheme, check=False)
        assert torch.equal(y.q, x.q) and torch.equal(y.scale, x.scale)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_infinity_saturates_and_nan_is_code_0_compiled_too(device, compiled):
    nan, inf = float("nan"), float("inf")
    r = torch.tensor([nan, inf, -inf, 1e38, -1e38]).repeat(1000)
    for kind, dtype in itertools.product(KINDS, DTYPES):
        bits, mapping, signed, rounding = kind
        if dtype in HALVES and kind != KINDS[0]:
            continue
        scheme = ql.Scheme(bits, mapping, signed=signed, rounding=rounding)
        with ql.use_kernels("eager"):
            x = ql.quantize(r.to(dtype), scheme, (0.1, 0), check=False)
        with ql.use_kernels("compiled"):
            y = ql.quantize(r.to(device, dtype), scheme, (0.1, 0), check=False)
            y.dequantize()
        assert torch.equal(y.q.cpu(), x.q)
        assert x.q[:3].tolist() == [0, scheme.quant_max, scheme.quant_min]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_one_value_that_fits_no_int32_wherever_it_stands(axis, dtype):
    """In vectors of each length and after them; the others are plain, and what is noted is seen."""
    r = drawn(107, 107)
    scale, zero_point = torch.full((107, 1), 0.05), torch.full((107, 1), 3, dtype=torch.int8)
    qparams = ql.QParams(*((scale, zero_point) if axis == 0 else (scale.t(), zero_point.t())))
    edge = 0.05 * 2**31
    odd = [float("nan"), 1e38, -1e38, edge, -edge, edge * 0.999, -edge * 1.001]
    for value, bits in itertools.product(odd, (8, 3)):
        x = r.clone().fill_diagonal_(value).to(dtype)
        scheme = ql.Scheme(bits, granularity=ql.PerAxis(axis))
        with ql.use_kernels("eager"):
            expected = ql.quantize(x, scheme, qparams, check=False).q
        with ql.use_kernels("compiled"):
            assert torch.equal(ql.quantize(x, scheme, qparams, check=False).q, expected)


def test_refusals_are_the_same_compiled():
    r = drawn(128, 128)
    r[100, 7] = float("nan")
    wide = torch.full((128, 128), 3e38)
    wide[0] = -3e38
    groups = ql.Scheme(granularity=ql.PerGroup(32))
    out = torch.full((128, 128), 77, dtype=torch.int8)
    with ql.use_kernels("compiled"):
        for granularity in (ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(32)):
            with pytest.raises(ValueError, match=r"1 NaN .* index \(100, 7\)"):
                ql.quantize(r, ql.Scheme(granularity=granularity), out=out)
        assert (out == 77).all()  # nothing is written before an error ...
        with pytest.raises(ValueError, match="1 NaN"):
            ql.quantize(r, groups, check=False, out=out)  # ... but here it may be
        assert not (out == 77).all()
        with pytest.raises(ValueError, match="too wide for float32"):
            ql.quantize(wide.t().contiguous(), groups)


@pytest.mark.parametrize("scale_dtype", [None, torch.float16])
@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_a_checked_out_is_filled_in_one_loop_where_it_can_be(mapping, scale_dtype, monkeypatch):
    """Where no block can be refused; else the long way, before `out` is written."""
    scheme = ql.Scheme(8, mapping, ql.PerGroup(32), scale_dtype=scale_dtype)
    largest = 65504.0 * scheme.reach if scale_dtype else torch.finfo(torch.float32).max
    far = drawn(128, 128)  # each block has a scale; from -0.9 to 0.9 there is none
    far[0], far[1] = -0.9 * largest, 0.9 * largest
    seen, loop = [], kernels._loop
    monkeypatch.setattr(kernels, "_loop", lambda f, *a: seen.append(f.__name__) or loop(f, *a))
    for r in (drawn(128, 128), far, torch.zeros(128, 128)):
        with ql.use_kernels("eager"):
            wanted = ql.quantize(r, scheme)
        out = torch.full(r.shape, 77, dtype=torch.int8)
        seen.clear()
        with ql.use_kernels("compiled"):
            x = ql.quantize(r, scheme, out=out)
        together = mapping == "symmetric" or r is not far
        assert ("choose_and_quantize" in seen) == together
        assert x.q is out and torch.equal(out, wanted.q)
        assert torch.equal(x.scale, wanted.scale) and torch.equal(x.zero_point, wanted.zero_point)
    for bad in (float("nan"), float("inf"), 3e38):
        r = drawn(128, 128)
        r[100, 7], r[100, 8] = bad, -3e38
        out.fill_(77)
        with ql.use_kernels("compiled"), pytest.raises(ValueError):
            ql.quantize(r, ql.Scheme(granularity=ql.PerGroup(32)), out=out)
        assert (out == 77).all()


@pytest.mark.parametrize("where", [(0, 0), (127, 127)])  # whichever core finds it
@pytest.mark.parametrize("granularity", [ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(32)])
def test_a_finite_scale_with_a_code_beyond_float32_is_refused_compiled(granularity, where):
    r = torch.zeros(128, 128)
    r[where] = torch.finfo(torch.float32).max
    with ql.use_kernels("compiled"):
        # 127 times the scale, which was rounded up, is beyond; 63 times that of 7 bits is not
        with pytest.raises(ValueError, match="too wide for float32"):
            ql.quantize(r, ql.Scheme(8, "symmetric", granularity))
        x = ql.quantize(r, ql.Scheme(7, "symmetric", granularity))
    assert x.scale.isfinite().all() and x.dequantize().isfinite().all()


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13.")
    or not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="what notebook 13 says of torch 2.13 and its loops for AVX",
)
def test_torch_2_13_compiles_a_cat_that_is_cut_back_wrong():
    def fill_divide_cut(a, s):
        filled = torch.cat([a, a[:, -1:].expand(64, 28)], dim=1)
        codes = torch.round(filled.view(64, 4, 32) / s)
        return codes.view(64, 128)[:, :100].contiguous()

    a, each = values((64, 100), torch.float32), torch.full((64, 4, 1), 0.03)
    differ = torch.compile(fill_divide_cut)(a, each) != fill_divide_cut(a, each)
    assert differ[:, 96:].any() and not differ[:, :96].any()


def test_a_ragged_split_before_a_division_compiles_right():
    """With cat in place of index_select it is wrong, as above."""
    g, r = ql.PerGroup(32), drawn(64, 100)
    scale = drawn(64, 4, seed=1).abs() + 0.5
    run = torch.compile(lambda r, s: g.join(torch.round(g.split(r) / g.align(s)), r.shape))
    assert torch.equal(run(r, scale), g.join(torch.round(g.split(r) / g.align(scale)), r.shape))


def depends_on_input(node):
    return node.op == "placeholder" or any(map(depends_on_input, node.all_input_nodes))


@pytest.mark.parametrize("scale_dtype", [None, torch.float16])
@pytest.mark.parametrize(
    "mapping, include_zero", [("asymmetric", 0), ("asymmetric", 1), ("symmetric", 1)]
)
def test_no_divisor_is_known_to_the_compiler(mapping, include_zero, scale_dtype):
    """On a GPU torch.compile would multiply by its reciprocal, however division is rounded."""
    torch._dynamo.reset()  # it keeps at most eight versions of the lambda below
    r, scale, out = drawn(64, 32), torch.ones(64, 1), torch.zeros(64, 32, dtype=torch.int8)
    zero_point, ends = torch.zeros(64, 1, dtype=torch.int8), torch.tensor([-128.0, 127.0])
    codes, how = (-128, 127, "inside"), (mapping, include_zero, scale_dtype)
    scale = scale.to(scale_dtype or scale.dtype)
    for formula, constants, tensors in (
        (kernels.loops.choose_and_quantize, (*codes, *how), (ends, r)),
        (kernels.quantize, codes, (r,)),
    ):
        graphs = []

        def keep(graph, inputs, graphs=graphs):
            graphs.append(graph.graph)
            return graph

        tensors = (*tensors, scale, zero_point, out)
        torch.compile(lambda *t, f=formula, c=constants: f(*t, *c), backend=keep)(*tensors)
        (graph,) = graphs
        divisions = [n for n in graph.nodes if "div" in str(n.target)]
        assert len(divisions) >= 1 + (len(constants) > 3)
        assert all(depends_on_input(n.args[1]) for n in divisions)


def test_the_formulas_compile_without_a_break():
    run = torch.compile(
        lambda r: ql.quantize_affine(
            r, *ql.asymmetric_qparams(r.amin(), r.amax(), -128, 127), -128, 127
        ),
        fullgraph=True,
    )
    r = values((40, 64), torch.float32)
    assert torch.equal(run(r), ql.quantize(r).q)
