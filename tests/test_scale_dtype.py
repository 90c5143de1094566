"""Scales as files store them: rounded once to half, before zero point and codes are computed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from strategies import problems

import qlesson as ql
from qlesson import affine, methods, ranges
from qlesson.__main__ import main as command
from qlesson.blocks import choose_steps, quantize_blocks
from qlesson.files import checkpoint, packing
from qlesson.nn import QuantizedEmbedding, QuantizedLinear, quantize_model

HALVES = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # dtype: u, half of its last digit
NUMPY = {torch.float16: np.float16, torch.float32: np.float32}
GRANULARITIES = (ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(32), ql.PerGroup(24))


def drawn(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def halves(**more):
    return [ql.Scheme(scale_dtype=dtype, **more) for dtype in HALVES]


# --- the value ---


def by_hand(r, scheme):
    """scale, zero point and codes of a float32 tensor per tensor, one numpy operation each."""
    low, high, one = scheme.quant_min, scheme.quant_max, np.float32
    if scheme.mapping == "symmetric":
        scale = one(max(-r.min(), r.max())) / one(high)
        scale, z = NUMPY[scheme.scale_dtype](scale), 0
    else:
        r_min, r_max = one(min(r.min(), 0)), one(max(r.max(), 0))
        scale = NUMPY[scheme.scale_dtype]((r_max - r_min) / one(high - low))
        z = np.clip(np.rint(one(low) - r_min / one(scale)), low, high)
    return scale, int(z), np.clip(np.rint(r / one(scale) + one(z)), low, high)


@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", NUMPY)
def test_the_scale_is_rounded_before_zero_point_and_codes(dtype, bits, mapping):
    scheme = ql.Scheme(bits, mapping, scale_dtype=dtype)
    for seed in range(50):
        r = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
        scale, z, q = by_hand(r.numpy(), scheme)
        x = ql.quantize(r, scheme)
        assert x.scale.dtype == dtype and x.scale.item() == float(scale)
        assert x.zero_point.item() == z and x.q.tolist() == q.tolist()


def test_a_rounded_scale_gives_other_codes_than_a_scale_rounded_afterwards():
    """What a file that stores float16 scales of float32 codes loses; here nothing of it is lost."""
    r = drawn(512, 128)
    whole, half = ql.Scheme(8), ql.Scheme(8, scale_dtype=torch.float16)
    x = ql.quantize(r, whole)
    late = ql.dequantize_affine(x.q, x.scale.half(), x.zero_point)
    assert ql.mse(r, ql.quantize(r, half).dequantize()) < ql.mse(r, late)


@given(problems(bits=(2, 3, 4, 8)), st.sampled_from([*HALVES]))
def test_no_error_is_beyond_half_a_step_and_what_the_rounding_of_the_scale_clips(problem, dtype):
    r, scheme = problem
    scheme, granularity = replace(scheme, scale_dtype=dtype), scheme.granularity
    try:
        x = ql.quantize(r, scheme)
    except ValueError as error:
        assert "too wide" in str(error)
        return
    s = granularity.join(
        granularity.align(x.scale.double()).expand_as(granularity.split(r)), r.shape
    )
    most = (0.5 + scheme.reach * HALVES[dtype]) * s
    assert bool(((r.double() - x.dequantize(torch.float64)).abs() <= most * (1 + 1e-5)).all())


@pytest.mark.parametrize("scheme", halves(), ids=str)
def test_of_the_stored_scale_the_codes_are_the_nearest(scheme):
    r = drawn(1000)
    x = ql.quantize(r, scheme)
    codes = torch.arange(-128, 128)
    values = ql.dequantize_affine(codes, x.scale, x.zero_point)
    best = (r[:, None] - values).abs().min(1).values
    torch.testing.assert_close((r - x.dequantize()).abs(), best, rtol=0, atol=1e-7)


def test_a_normal_half_scale_moves_the_last_code_a_sixteenth_of_a_step_and_a_subnormal_one_more():
    """Notebook 06: with 8 bits the normal ones begin where the largest value is 0.0078."""
    tops = torch.linspace(0.001, 0.1, 10_000)
    scale = (tops / 127).half().float()
    off = (tops / scale - 127).abs()
    first = torch.finfo(torch.float16).tiny  # 6.1e-5
    assert 127 * first == pytest.approx(0.00775, rel=1e-3)
    assert off[scale >= first].max() == pytest.approx(127 / 2048, rel=0.02)
    assert off[scale < first].max() > 0.2


def test_a_subnormal_half_scale_is_kept_and_one_that_rounds_to_0_is_1():
    scheme = ql.Scheme(8, "symmetric", scale_dtype=torch.float16)
    smallest = 2.0**-24
    x = ql.quantize(torch.tensor([127 * smallest, -smallest]), scheme)
    assert x.scale.item() == smallest and x.q.tolist() == [127, -1]
    for mapping, include_zero in (("symmetric", True), ("asymmetric", True), ("asymmetric", False)):
        scheme = ql.Scheme(8, mapping, include_zero=include_zero, scale_dtype=torch.float16)
        x = ql.quantize(torch.tensor([1e-9, -1e-9]), scheme)
        assert (x.scale.item(), x.zero_point.item(), x.q.tolist()) == (1, 0, [0, 0])
    narrow = torch.tensor([5.0, 5.0 + 2**-20])  # its own step is no half: widened to hold 0
    x = ql.quantize(narrow, ql.Scheme(8, include_zero=False, scale_dtype=torch.float16))
    torch.testing.assert_close(x.dequantize(), narrow, rtol=0, atol=x.scale.item())


@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_a_scale_that_overflows_is_refused(mapping):
    scheme = ql.Scheme(4, mapping, scale_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"too wide for float16.*use scale_dtype=torch.float32"):
        ql.quantize(torch.tensor([-3e6, 3e6]), scheme)
    assert ql.quantize(torch.tensor([-4e5, 4e5]), scheme).scale.isfinite()  # 65504 * 7 is fine


# --- the dtypes ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_values_come_back_in_the_dtype_that_is_computed_in(dtype):
    for scheme in (*halves(), ql.Scheme(scale_dtype=torch.float32)):
        x = ql.quantize(drawn(4, 8, dtype=dtype), scheme)
        assert x.scale.dtype == scheme.scale_dtype and x.dequantize().dtype == torch.float32
        r = drawn(4, 8, dtype=dtype)
        assert ql.fake_quantize(r, scheme).dtype == dtype
        assert torch.equal(ql.fake_quantize(r, scheme), x.dequantize(dtype))
    assert ql.quantize(drawn(4, dtype=dtype)).dequantize().dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )


def test_what_is_stored_is_counted():
    r, groups = drawn(64, 128), ql.PerGroup(32)
    whole, half = (
        ql.quantize(r, ql.Scheme(4, "symmetric", groups, scale_dtype=dtype))
        for dtype in (None, torch.float16)
    )
    assert (whole.bits_per_value, half.bits_per_value) == (5.0, 4.5)
    assert whole.nbytes - half.nbytes == 2 * 256


def test_given_qparams_have_the_dtype_of_the_scheme():
    r, scheme = drawn(8), ql.Scheme(scale_dtype=torch.float16)
    given = ql.choose_qparams(r, scheme)
    assert torch.equal(ql.quantize(r, scheme, given).q, ql.quantize(r, scheme).q)
    with pytest.raises(TypeError, match=r"scale is in torch.float32.*scale.to\(torch.float16\)"):
        ql.quantize(r, scheme, (given.scale.float(), given.zero_point))
    assert ql.quantize(r, scheme, (0.125, 3)).scale.item() == 0.125
    with pytest.raises(TypeError, match=r"scale=0.1 is no number of torch.float16"):
        ql.quantize(r, scheme, (0.1, 3))
    exact = r"scale=0.00392156862745098 .*pass torch.tensor\(0.00392156862745098, dtype="
    with pytest.raises(TypeError, match=exact):  # not some of its digits
        ql.quantize(r, scheme, (1 / 255, 3))
    for beyond in (1e6, 1e-9):  # that tensor would be refused in its turn
        with pytest.raises(TypeError, match="is no number of .*: use scale_dtype=None"):
            ql.quantize(r, scheme, (beyond, 0))
    with pytest.raises(TypeError, match="scale"):
        ql.QTensor(torch.zeros(2, dtype=torch.int8), torch.tensor(1.0), given.zero_point, scheme)


def test_what_no_scheme_can_have_is_refused():
    for dtype in HALVES:
        with pytest.raises(ValueError, match="16 bits need a scale of more digits"):
            ql.Scheme(16, scale_dtype=dtype)
    assert ql.Scheme(16, scale_dtype=torch.float32).scale_dtype == torch.float32
    for wrong in (torch.int8, torch.float64, "float16", 16):
        with pytest.raises(ValueError, match="scale_dtype must be None or torch.float32"):
            ql.Scheme(scale_dtype=wrong)


def test_the_warning_speaks_of_the_stored_scale():
    r = torch.tensor([100.0, 103.1])
    scheme = ql.Scheme(include_zero=False, scale_dtype=torch.float16)
    with pytest.warns(ql.ZeroPointClipped, match="was clipped to -128"):
        x = ql.quantize(r, scheme)
    assert x.scale.item() == np.float16(np.float32(103.1) - np.float32(100)) / np.float16(255) or (
        x.scale.item() == float(np.float16((np.float32(103.1) - np.float32(100)) / np.float32(255)))
    )


# --- every path ---


@pytest.mark.parametrize("scheme_dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_eager_and_loops_agree_bit_for_bit(mapping, dtype, scheme_dtype, monkeypatch):
    monkeypatch.setitem(ql.kernels.modes._state, "broken", False)
    r = drawn(96, 384, dtype=dtype)
    for granularity in GRANULARITIES:
        scheme = ql.Scheme(4, mapping, granularity, scale_dtype=scheme_dtype)
        found = []
        for mode in ("eager", "compiled"):
            with ql.use_kernels(mode):
                x = ql.quantize(r, scheme)
                y = ql.quantize(r, scheme, ql.choose_qparams(r, scheme))
                found.append((x.q, x.scale, x.zero_point, y.q, x.dequantize(), y.dequantize(dtype)))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        assert torch.equal(x.q, y.q) and x.scale.dtype == scheme_dtype
    assert not ql.kernels.modes._state["broken"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
def test_a_compiler_does_not_leave_the_rounding_out(dtype):
    """It reads a half again as the float32 that it was, unless the bits are asked for."""
    for mapping in ("asymmetric", "symmetric"):
        scheme = ql.Scheme(4, mapping, ql.PerGroup(32), scale_dtype=dtype)

        def work(r, scheme=scheme):
            x = ql.quantize(r, scheme)
            return x.q, x.scale, x.zero_point

        r = drawn(64, 256)
        found = torch.compile(work, fullgraph=True)(r)
        assert all(torch.equal(a, b) for a, b in zip(found, work(r), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
def test_values_in_half_are_rounded_in_a_graph_too(dtype):
    r = drawn(37, 64)
    rows, groups = (ql.Scheme(granularity=g) for g in (ql.PerAxis(0), ql.PerGroup(32)))
    x, half = ql.quantize(r, rows), r.to(dtype)
    wide = ql.quantize(r.double(), rows)
    blocks = quantize_blocks(r, *choose_steps(r, groups), 8, 32)
    words = QuantizedEmbedding(x).to(dtype)
    layer = QuantizedLinear(x, None, rows).to(dtype)
    ids = torch.arange(37)
    works = [
        lambda: x.dequantize(dtype).float(),
        lambda: wide.dequantize(dtype).double(),
        lambda: blocks.dequantize(dtype).float(),
        lambda: ql.fake_quantize(half, groups).float(),
        lambda: words(ids).float(),
        lambda: layer(half).float(),
    ]
    for work in works if dtype is torch.float16 else works[::2]:
        torch._dynamo.reset()
        whole = torch.compile(lambda one, work=work: work() * one)
        with torch.no_grad():
            assert torch.equal(whole(torch.ones(1)), work())


@pytest.mark.parametrize("dtype", HALVES)
def test_the_digits_of_a_half_are_those_of_the_cast(dtype):
    """Over all exponents, at the middles of two halves, and just beside them."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 0x7F800000, (200_000,), generator=g, dtype=torch.int32)
    middles = (x & -(1 << 12)) | (1 << 12) | ((x & 1) << 16)
    for bits in (x, middles, middles + 1, middles - 1):
        values = bits.view(torch.float32)
        for signed in (values, -values):
            found = affine._digits_of_a_half(signed, dtype)
            assert torch.equal(found, signed.to(dtype).float())
    for wide in (values.double() * (1 + 2.0**-40), -values.double() * (1 - 2.0**-40)):
        found = affine._digits_of_a_half(wide, dtype)
        assert torch.equal(found, affine.rounded(wide, dtype).float())


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_no_number_of_a_half_stays_what_it_is(dtype):
    """A NaN may have any of its last bits, and rounding must not carry them beyond."""
    bits = torch.tensor([0x7F800001, 0x7FC00000, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32)
    assert affine._digits_of_a_half(bits.view(torch.float32), dtype).isnan().all()
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3.4e38, -3.4e38])
    found, wanted = affine._digits_of_a_half(x, dtype), x.to(dtype).float()
    assert torch.equal(found, wanted) and torch.equal(found.signbit(), wanted.signbit())


# --- a range of one's own ---


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("scale_dtype", [None, *HALVES])
def test_a_range_comes_from_any_function(granularity, scale_dtype):
    r = drawn(48, 96)
    scheme = ql.Scheme(3, granularity=granularity, scale_dtype=scale_dtype)
    wanted = ql.choose_qparams(r, scheme)
    for mine, theirs in zip(wanted, ql.choose_qparams(r, scheme, ranges.min_max), strict=True):
        assert torch.equal(mine, theirs)
    halved = ql.choose_qparams(r, scheme, lambda r, s: tuple(x / 2 for x in ranges.min_max(r, s)))
    torch.testing.assert_close(halved.scale.float(), wanted.scale.float() / 2, rtol=1e-2, atol=0)
    searched = ql.quantize(r, scheme, ql.choose_qparams(r, scheme, ranges.mse_search))
    assert ql.mse(r, searched.dequantize()) < ql.mse(r, ql.quantize(r, scheme).dequantize())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("found_in", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_a_range_is_taken_in_the_dtype_that_r_is_computed_in(found_in, dtype):
    scheme, r = ql.Scheme(4, granularity=ql.PerGroup(16)), drawn(4, 32, dtype=dtype)
    computed = affine.computing(dtype)

    def search(r, scheme):
        return tuple((3 * x).to(found_in) for x in ranges.min_max(r, scheme))

    ends = [x.to(computed) for x in search(r, scheme)]
    wanted = ql.choose_qparams(r, scheme, lambda r, scheme: ends)
    found = ql.choose_qparams(r, scheme, search)
    assert found.scale.dtype == computed
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    steps = choose_steps(r, scheme, search), choose_steps(r, scheme, lambda r, scheme: ends)
    assert all(a.dtype == computed and torch.equal(a, b) for a, b in zip(*steps, strict=True))
    held = methods.gptq(r, drawn(40, 32, dtype=dtype), scheme, search).weight
    assert held.scale.dtype == computed


def test_ends_that_float32_does_not_reach_are_refused():
    r = drawn(8)
    ends = [torch.tensor(x, dtype=torch.float64) for x in (-1e300, 1e300)]
    with pytest.raises(ValueError, match="that range is too wide for float32"):
        ql.choose_qparams(r, ql.Scheme(), lambda r, scheme: ends)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_with_a_range_of_ones_own_too_r_must_be_finite(bad):
    r, groups = torch.tensor([1.0, bad]), ql.Scheme(granularity=ql.PerGroup(2))

    def search(r, scheme):
        return torch.full((1,), -1.0), torch.full((1,), 1.0)

    for choose in (ql.choose_qparams, choose_steps):
        with pytest.raises(ValueError, match=r"r holds .* the first at index \(1,\)"):
            choose(r, groups, search)


@pytest.mark.parametrize(
    "find_range, error, words",
    [
        (3, TypeError, "find_range must be a function"),
        (lambda r, s: r, ValueError, "find_range must give r_min and r_max"),
        (lambda r, s: (r.min(),), ValueError, "find_range must give r_min and r_max"),
        (lambda r, s: (r, r), ValueError, "find_range must give r_min and r_max"),
        (lambda r, s: (-1.0, 1.0), ValueError, "find_range must give r_min and r_max"),
        (lambda r, s: (r.max(), r.min()), ValueError, "r_min is larger than r_max"),
        (lambda r, s: (r.min(), r.max() * torch.inf), ValueError, "r_max holds 0 NaN and 1 inf"),
    ],
)
def test_a_range_that_is_none_is_refused(find_range, error, words):
    with pytest.raises(error, match=words):
        ql.choose_qparams(drawn(8), ql.Scheme(), find_range)


# --- files, layers, models and methods ---


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_packed_and_in_a_file_the_scales_stay_as_they_are(mapping, dtype, tmp_path):
    scheme = ql.Scheme(4, mapping, ql.PerGroup(32), scale_dtype=dtype)
    r = drawn(64, 128)
    x = ql.quantize(r, scheme)
    again = packing.PackedTensor.pack(x).unpack()
    assert torch.equal(again.scale, x.scale) and again.scheme == scheme
    with pytest.raises(TypeError, match="the scheme stores scales in"):
        replace(packing.PackedTensor.pack(x), scale=x.scale.double())
    checkpoint.save(tmp_path / "a.safetensors", {"w": x})
    read = checkpoint.load(tmp_path / "a.safetensors")["w"]
    assert read.scheme == scheme and torch.equal(read.q, x.q) and torch.equal(read.scale, x.scale)

    save_file({"w": r}, tmp_path / "r.safetensors")
    (row,) = checkpoint.quantize_file(
        tmp_path / "r.safetensors", tmp_path / "q.safetensors", scheme
    )
    assert row.bytes_after == math.ceil(x.packed_nbytes)
    checkpoint.dequantize_file(tmp_path / "q.safetensors", tmp_path / "back.safetensors")
    assert torch.equal(load_file(tmp_path / "back.safetensors")["w"], x.dequantize())
    checkpoint.dequantize_file(tmp_path / "a.safetensors", tmp_path / "plain.safetensors")
    assert torch.equal(load_file(tmp_path / "plain.safetensors")["w"], x.dequantize())


def test_a_file_of_before_has_no_scale_dtype(tmp_path):
    """And one without it is written as before."""
    checkpoint.save(tmp_path / "a.safetensors", {"w": ql.quantize(drawn(4, 8))})
    assert b"scale_dtype" not in (tmp_path / "a.safetensors").read_bytes()


def test_the_command_line_stores_half_scales(tmp_path):
    save_file({"w": drawn(64, 128)}, tmp_path / "r.safetensors")
    files = [str(tmp_path / "r.safetensors"), str(tmp_path / "q.safetensors")]
    how = ["--bits", "4", "--group-size", "32", "--scale-dtype", "float16"]
    assert command(["quantize", *files, *how]) == 0
    assert checkpoint.load(files[1])["w"].scale.dtype == torch.float16


@pytest.mark.parametrize("dtype", HALVES)
def test_layers_give_what_their_codes_and_scales_say(dtype):
    w, x = drawn(32, 64), drawn(5, 64)
    for granularity in (ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(16)):
        scheme = ql.Scheme(8, "symmetric", granularity, scale_dtype=dtype)
        codes = ql.quantize(w, scheme)
        assert torch.equal(QuantizedLinear(codes)(x), x @ codes.dequantize().T)
        inputs = ql.Scheme(8, scale_dtype=dtype)
        layer = QuantizedLinear(codes, activations=inputs)
        x_hat = ql.quantize(x, inputs).dequantize(torch.float64)
        wanted = x_hat @ codes.dequantize(torch.float64).T
        torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-5)
        assert layer(x).dtype == torch.float32 and layer.half().codes.scale.dtype == dtype


def test_a_state_with_scales_of_another_dtype_is_refused():
    w = drawn(8, 16)
    half, whole = (
        QuantizedLinear(ql.quantize(w, ql.Scheme(scale_dtype=dtype)))
        for dtype in (torch.float16, torch.float32)
    )
    with pytest.raises(RuntimeError, match="the scheme stores scales in torch.float16"):
        half.load_state_dict(whole.state_dict())


def test_a_model_is_quantized_in_the_ranges_of_a_search_and_counted_as_stored():
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 8))
    scheme = ql.Scheme(3, "symmetric", ql.PerGroup(16), scale_dtype=torch.float16)
    (plain, before), (searched, after) = (
        quantize_model(model, scheme, find_range=f) for f in (None, ranges.mse_search)
    )
    assert all(b.sqnr > a.sqnr for a, b in zip(before, after, strict=True))
    wanted = ql.quantize(
        model[0].weight, scheme, ql.choose_qparams(model[0].weight, scheme, ranges.mse_search)
    )
    assert torch.equal(searched[0].codes.q, wanted.q)
    assert before[0].bytes_after == 64 * 32 * 3 // 8 + 128 * 2


@pytest.mark.parametrize("scale_dtype", [None, *HALVES])
@pytest.mark.parametrize(
    "name", ["round_to_nearest", "hqq", "rotate", "smoothquant", "awq", "gptq"]
)
def test_every_method_takes_a_range_and_stores_its_scales(name, scale_dtype):
    method, weight, inputs = getattr(methods, name), drawn(24, 64), drawn(100, 64)
    scheme = ql.Scheme(3, granularity=ql.PerAxis(0), scale_dtype=scale_dtype)
    plain = method(weight, inputs, scheme)
    searched = method(weight, inputs, scheme, find_range=ranges.mse_search)
    for result in (plain, searched):
        assert result.weight.scale.dtype == (scale_dtype or torch.float32)
    assert not torch.equal(plain.weight.scale, searched.weight.scale)
    errors = [methods.output_error(weight, r.float_weight(), inputs) for r in (searched, plain)]
    # hqq lowers another sum, from either range, and awq clips by itself
    assert errors[0] < errors[1] or name in ("hqq", "awq")
