"""Bad values at every door: each is refused in a sentence, or gives what is right."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import qlesson as ql
from qlesson import affine, checks, limits, methods, observers, ranges
from qlesson.error import error_shares
from qlesson.files import codebooks
from qlesson.files.packing import PackedTensor
from qlesson.methods.rotation import hadamard, random_rotation
from qlesson.methods.smoothquant import smoothing_scales
from qlesson.nn import (
    IntegerLinear,
    QuantizedConv,
    QuantizedEmbedding,
    QuantizedLinear,
    integer,
    load_state,
    quantize_model,
    state,
)
from qlesson.nn.integer import fixed_point, int8_codes, int_conv2d, int_matmul, requantize
from qlesson.qtensor import qparams_from_range

NAN, INF = math.nan, math.inf
EIGHT, ROWS = ql.Scheme(8), ql.Scheme(8, "symmetric", ql.PerAxis(0))
COMPLEX = torch.tensor([[1 + 1j, 2.0], [3.0, 4.0]])
TRUTH = torch.tensor([[True, False]])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight(scheme=ROWS):
    return ql.quantize(drawn(3, 4), scheme)


# --- zero points and scales -----------------------------------------------------------------------


def static(qparams, scheme=EIGHT):
    return QuantizedLinear(weight(), None, scheme, qparams)


def a_model(qparams, scheme=EIGHT):
    return quantize_model(nn.Linear(4, 3), ROWS, activations=scheme, qparams={"": qparams})


def a_state(qparams, scheme=EIGHT):
    model = nn.Sequential(nn.Linear(4, 3))
    one = {"0": ql.QParams(1.0, 0)}
    tensors = state(quantize_model(model, ROWS, activations=scheme, qparams=one)[0])
    tensors["0.input_scale"], tensors["0.input_zero_point"] = map(torch.as_tensor, qparams)
    return load_state(model, tensors, scheme)


def an_output(qparams, scheme=EIGHT):
    return IntegerLinear(static((0.1, 0)), scheme, qparams)


DOORS = {
    "quantize": lambda p, s=EIGHT: ql.quantize(drawn(3), s, p),
    "fake_quantize": lambda p, s=EIGHT: ql.fake_quantize(drawn(3), s, p),
    "QuantizedLinear": static,
    "quantize_model": a_model,
    "load_state": a_state,
    "IntegerLinear": an_output,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("z", [200, 3.7, NAN, -129, INF])
def test_a_zero_point_that_is_no_code_is_refused_everywhere(door, z):
    with pytest.raises(ValueError, match="zero_point must be an integer from -128 to 127, got"):
        DOORS[door]((0.1, z))
    if math.isfinite(z):
        with pytest.raises(ValueError, match="zero_point must be an integer from -128 to 127"):
            DOORS[door]((torch.tensor(0.1), torch.tensor(z)))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("scale", [-0.1, 0.0, NAN, INF])
def test_a_scale_that_is_no_step_is_refused_everywhere(door, scale):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        DOORS[door]((scale, 0))


@pytest.mark.parametrize("door", DOORS)
def test_other_qparams_are_refused_everywhere(door):
    with pytest.raises(ValueError, match="zero_point must be 0 in a symmetric scheme, got values"):
        DOORS[door]((0.1, 5), ql.Scheme(8, "symmetric"))
    with pytest.raises((TypeError, ValueError), match="zero_point must be"):
        DOORS[door]((0.1, 1j if door != "load_state" else torch.tensor(1j)))
    if door != "load_state":
        with pytest.raises(TypeError, match=r"qparams must be ql.QParams\(scale, zero_point\)"):
            DOORS[door](0.1)
    with pytest.raises(ValueError, match=r"scale has shape \(2,\), but PerTensor"):
        DOORS[door]((torch.ones(2), torch.zeros(2)))


def made(z=0, scale=0.1, scheme=None):
    scheme = scheme or ql.Scheme(8, "symmetric")
    q = torch.tensor([1, -1], dtype=scheme.dtype)
    return ql.QTensor(q, torch.tensor(scale), torch.tensor(z, dtype=scheme.dtype), scheme)


def test_a_qtensor_without_meaning_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match="zero_point must be 0 in a symmetric scheme, got .* 5"):
        made(5)
    with pytest.raises(ValueError, match="zero_point must be an integer from -8 to 7"):
        made(100, scheme=ql.Scheme(4))
    for scale in (-0.1, 0.0, NAN, INF):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            made(scale=scale)
    good = PackedTensor.pack(made())
    assert good.unpack().dequantize().tolist() == made().dequantize().tolist()
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        PackedTensor(good.data, good.shape, -good.scale, None, good.scheme)


def test_our_own_results_are_not_read_again(monkeypatch):
    """It would wait for a GPU: of 3 readings of small tensors, none is for the QTensor."""
    read = []
    monkeypatch.setattr(checks, "qparams_values", lambda *a: read.append(a))
    x = ql.quantize(drawn(3, 4), ROWS)
    x.to("cpu").dequantize()
    QuantizedLinear(x)(drawn(2, 4))
    QuantizedEmbedding(x)(torch.tensor([0]))
    assert not read
    ql.QTensor(x.q, x.scale, x.zero_point, x.scheme)
    assert len(read) == 1


def test_torchs_load_state_dict_takes_no_other_codes():
    model = static((0.1, 3))
    good = copy.deepcopy(model.state_dict())
    for name, bad, message in (
        (
            "codes.packed",
            good["codes.packed"].float(),
            "codes.packed must hold integers in torch.uint8",
        ),
        ("codes.scale", -good["codes.scale"], "codes.scale must be positive"),
        ("input_zero_point", torch.tensor(3.7), "input_zero_point must hold integers"),
        ("codes.packed", good["codes.packed"] * 0, "codes.packed holds codes from -128"),
    ):
        with pytest.raises(RuntimeError, match=message):
            model.load_state_dict({**good, name: bad})
        assert all(torch.equal(x, good[n]) for n, x in model.state_dict().items())
    model.load_state_dict(good)


def test_inside_vmap_nothing_is_read():
    """Where a value cannot be looked at, a formula still runs: a figure of notebook 05 does so."""
    r, steps = drawn(6), torch.tensor([0.1, 0.2])
    rounded = torch.stack([(r / s).round() * s for s in steps])
    found = torch.vmap(lambda r_hat, s: error_shares(r, r_hat, s))(rounded, steps)
    assert found.rounding.shape == (2,)
    near = torch.vmap(lambda x: codebooks.nearest(x, codebooks.nf4()))(drawn(2, 3))
    assert torch.equal(near, codebooks.nearest(drawn(2, 3), codebooks.nf4()))


# --- codes ----------------------------------------------------------------------------------------


def test_codes_of_another_dtype_are_refused_and_never_cast():
    int8 = torch.ones(1, 1, 2, 2, dtype=torch.int8)
    for bad in (torch.full((1, 1, 2, 2), 200, dtype=torch.uint8), int8.int() * 300, int8 * 0.7):
        with pytest.raises(TypeError, match="q must hold integers in torch.int8, got"):
            int_conv2d(bad, 0, int8, 0)
        with pytest.raises(TypeError, match="w must hold integers in torch.int8, got"):
            int_conv2d(int8, 0, bad, 0)
        with pytest.raises(TypeError, match="x must hold integers in torch.int8"):
            int_matmul(bad[0, 0], int8[0, 0])
    for z in (200, -129, 0.5, torch.tensor(200)):
        with pytest.raises(ValueError, match="z_q must be an integer from -128 to 127"):
            int_conv2d(int8, z, int8, 0, padding=1)
    with pytest.raises(TypeError, match="z_q must be made of integers, got 0.0: round it"):
        int_conv2d(int8, 0.0, int8, 0)
    with pytest.raises(ValueError, match=r"z_q must be one number, got the shape \(2,\)"):
        int_conv2d(int8, torch.zeros(2, dtype=torch.int8), int8, 0)
    with pytest.raises(TypeError, match="z_w must be made of integers, got 0.5: round it"):
        int_conv2d(int8, 0, int8, 0.5)
    with pytest.raises(TypeError, match="zero_point must be made of integers"):
        int8_codes(int8, torch.tensor(0.5))


def test_int_conv2d_pads_with_the_code_of_zero():
    q = torch.randint(-128, 128, (1, 2, 5, 5), generator=torch.Generator().manual_seed(0)).char()
    w = torch.randint(-128, 128, (3, 2, 3, 3), generator=torch.Generator().manual_seed(1)).char()
    for z in (-128, 127):
        padded = torch.nn.functional.pad(q.double(), (1,) * 4, value=z) - z
        wanted = torch.nn.functional.conv2d(padded, w.double() - 4)
        assert torch.equal(int_conv2d(q, z, w, 4, padding=1).double(), wanted)


def test_integer_linear_takes_the_codes_of_its_input():
    layer = an_output((0.1, 0))
    q = torch.full((2, 4), 100, dtype=torch.int8)
    assert layer(q).dtype == torch.int8
    for bad in (q.byte(), q.int(), q.float(), [1, 2]):
        with pytest.raises(TypeError, match="q must hold integers in torch.int8, got"):
            layer(bad)
    unsigned = IntegerLinear(static((0.1, 0), ql.Scheme(signed=False)), EIGHT, (0.1, 0))
    assert unsigned(q.byte()).shape == (2, 3)
    with pytest.raises(TypeError, match="q must hold integers in torch.uint8, got torch.int8"):
        unsigned(q)
    with pytest.raises(TypeError, match="layer must be a QuantizedLinear, got Linear"):
        IntegerLinear(nn.Linear(4, 3), EIGHT, (0.1, 0))
    with pytest.raises(TypeError, match="output must be a ql.Scheme"):
        IntegerLinear(static((0.1, 0)), 8, (0.1, 0))


def test_requantize_and_its_neighbours():
    half, acc = fixed_point(torch.tensor(0.5)), torch.tensor([[3, 5]], dtype=torch.int32)
    assert requantize(acc, half, 1, EIGHT).tolist() == [[3, 4]]
    for bad in (acc.float(), acc.double() + 0.7, acc.char(), COMPLEX):
        with pytest.raises(TypeError, match="accumulator must hold integers in torch.int32"):
            requantize(bad, half, 0, EIGHT)
    for z in (200, 3.7, NAN, torch.tensor(200), torch.tensor(3.7)):
        with pytest.raises(ValueError, match="zero_point must be an integer from -128"):
            requantize(acc, half, z, EIGHT)
    for bad in (1j, torch.tensor(1j), True):
        with pytest.raises(TypeError, match="factor must"):
            fixed_point(bad)
    with pytest.raises(TypeError, match="bias must be real"):
        integer.integer_bias(COMPLEX, torch.tensor(0.1), torch.tensor(0.1))
    for bad in (-0.1, 0.0, NAN):
        with pytest.raises(ValueError, match="x_scale must be positive"):
            integer.integer_bias(drawn(2), torch.tensor(bad), torch.tensor(0.1))
    with pytest.raises(TypeError, match="z_x must be made of integers"):
        integer.four_terms(acc.char(), 3.7, acc.char(), 0)


def test_codes_that_a_scheme_has_not_are_refused():
    """A dtype holds more than a narrow scheme, and more than 8 symmetric bits: -128."""
    layer = IntegerLinear(static((0.1, 0), ql.Scheme(4)), EIGHT, (0.1, 0))
    for bad in (-9, 8):
        with pytest.raises(ValueError, match=f"codes from .*{bad}.*, and the codes are -8 to 7"):
            layer(torch.tensor([[0, bad, 0, 0]], dtype=torch.int8))
    for scheme, bad in ((ql.Scheme(4), 8), (ql.Scheme(8, "symmetric"), -128)):
        q = torch.tensor([0, bad], dtype=torch.int8)
        with pytest.raises(ValueError, match="q holds codes from"):
            ql.QTensor(q, torch.tensor(0.1), torch.tensor(0, dtype=torch.int8), scheme)


def test_a_zero_point_beyond_int32_is_kept():
    for ends in ((0, 2**32 - 1), (-(2**33), 2**33)):
        z = ql.asymmetric_qparams(torch.tensor(-4.0).double(), torch.tensor(-2.0), *ends).zero_point
        assert z.dtype == torch.int64 and z.item() == ends[1]
    assert ql.asymmetric_qparams(-1.0, 1.0, 0, 2**31 - 1).zero_point.dtype == torch.int32


def test_text_of_ids_counts_from_the_front():
    from qlesson.models import tinygpt

    for bad in ([-1], [94], [1.7], [True], torch.tensor([-1]), torch.tensor([1.7])):
        with pytest.raises((ValueError, IndexError, TypeError), match="ids"):
            tinygpt.decode(bad)


def test_a_cache_takes_scales_that_can_be_joined():
    from qlesson.models import tinygpt

    groups = ql.PerGroup(16, -2), ql.PerAxis(2), ql.PerGroup(32, -1)
    across = [ql.PerGroup(size, -2) for size in (11, 17, 24, 33, 40, 47, 48, 64)]
    for bad in (ql.PerTensor(), ql.PerAxis(1), *across):
        with pytest.raises(ValueError, match="within 32 .* or do not divide .*: use PER_TOKEN or"):
            tinygpt.KVCache(keys=ql.Scheme(4, granularity=bad))
    for good in groups:
        cache = tinygpt.KVCache(*2 * [ql.Scheme(4, granularity=good)])
        for _ in range(3):
            cache.extend("a layer", drawn(1, 2, 32, 32), drawn(1, 2, 32, 32))
        assert cache.length == 96 and cache.contents()[0][0].shape == (1, 2, 96, 32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_convolution_gives_the_dtype_of_its_input_with_a_bias_too(dtype):
    conv = nn.Conv1d(2, 4, 3)
    codes = ql.quantize(conv.weight.detach().flatten(1), ROWS)
    assert QuantizedConv(conv, codes, conv.bias)(drawn(1, 2, 8).to(dtype)).dtype == dtype


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(2)])
def test_ids_that_are_none_are_refused_as_nn_embedding_does(granularity):
    new = QuantizedEmbedding(ql.quantize(drawn(5, 4), ql.Scheme(granularity=granularity)))
    for ids in ([-1], [5], [0, 10**9]):
        with pytest.raises(IndexError):
            nn.Embedding(5, 4)(torch.tensor(ids))
        with pytest.raises(IndexError, match="input reach from .*, but the rows are 0 to 4"):
            new(torch.tensor(ids))
    for dtype in (torch.uint8, torch.bool, torch.int16, torch.float32):
        with pytest.raises(TypeError, match="input must be row numbers in int64 or int32, got"):
            new(torch.tensor([1, 0]).to(dtype))
    with pytest.raises(TypeError, match="got list"):
        new([1])
    assert torch.equal(new(torch.tensor([4, 0]).int()), new.weight[[4, 0]])


@pytest.mark.parametrize("f", [ql.quantize, ql.fake_quantize, ql.choose_qparams])
def test_what_a_symbolic_trace_passes_is_not_taken_for_codes(f):
    with pytest.raises(TypeError, match="^r is a torch.fx.Proxy, since .*: use torch.export"):
        torch.fx.symbolic_trace(lambda r: f(r, ql.Scheme()))


# --- complex numbers and truth values -------------------------------------------------------------

REAL = {
    "mse": lambda x: ql.mse(x, x),
    "mse, r_hat": lambda x: ql.mse(torch.zeros(x.shape), x),
    "sqnr": lambda x: ql.sqnr(x, torch.zeros(x.shape)),
    "max_abs_error": lambda x: ql.max_abs_error(x, x),
    "error_shares": lambda x: error_shares(x, x, 1.0),
    "error_shares, scale": lambda x: error_shares(torch.zeros(x.shape), torch.zeros(x.shape), x),
    "quantize": ql.quantize,
    "choose_qparams": ql.choose_qparams,
    "fake_quantize": ql.fake_quantize,
    "quantize_affine": lambda x: ql.quantize_affine(x, 1, 0, -8, 7),
    "quantize_affine, scale": lambda x: ql.quantize_affine(1.0, x, 0, -8, 7),
    "quantize_affine, zero_point": lambda x: ql.quantize_affine(1.0, 1.0, x, -8, 7),
    "dequantize_affine": lambda x: ql.dequantize_affine(x, 1, 0),
    "dequantize_affine, scale": lambda x: ql.dequantize_affine(1, x, 0),
    "asymmetric_qparams": lambda x: ql.asymmetric_qparams(x, 1.0, -8, 7),
    "symmetric_qparams": lambda x: ql.symmetric_qparams(x, 7),
    "qparams_from_range": lambda x: qparams_from_range(x, x, EIGHT),
    "percentile": ranges.percentile,
    "mse_search": ranges.mse_search,
    "entropy": ranges.entropy,
    "moving_average": lambda x: observers.moving_average([x]),
    "observer": lambda x: observers.MinMaxObserver().observe(x),
    "nearest": lambda x: codebooks.nearest(x, codebooks.nf4()),
    "nearest, book": lambda x: codebooks.nearest(torch.ones(2), x),
    "mxfp4": lambda x: codebooks.mxfp4(x.repeat(1, 16)),
    "nvfp4": lambda x: codebooks.nvfp4(x.repeat(1, 16)),
    "nf4_blocks": lambda x: codebooks.nf4_blocks(x.repeat(1, 32)),
    "q4_0": lambda x: codebooks.q4_0(x.repeat(1, 16)),
    "methods": lambda x: methods.round_to_nearest(x, None, EIGHT),
    "output_error": lambda x: methods.output_error(x, x, x),
    "fixed_point": fixed_point,
    "QuantizedLinear": lambda x: QuantizedLinear(weight())(x),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("x", [COMPLEX, TRUTH], ids=["complex", "bool"])
def test_complex_numbers_and_truth_values_are_refused(name, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where it drops an imaginary part
        with pytest.raises(TypeError) as error:
            REAL[name](x)
    if x is COMPLEX:
        assert ".float()" not in str(error.value)


@pytest.mark.parametrize("x", [1j, True, np.array([1j]), [1j, 2.0]])
def test_so_are_numbers_and_arrays(x):
    for call in (
        lambda: ql.quantize_affine(x, 1, 0, -8, 7),
        lambda: ql.dequantize_affine(1, x, 0),
        lambda: ql.symmetric_qparams(x, 7),
    ):
        with pytest.raises(TypeError):
            call()


def test_a_book_is_sorted():
    for book in (torch.tensor([2.0, 1.0]), torch.ones(2, 2), torch.ones(0)):
        with pytest.raises(ValueError, match="book (is empty|must be one row of .* ascending)"):
            codebooks.nearest(torch.ones(2), book)
    for bad in (NAN, INF):
        with pytest.raises(ValueError, match="r holds"):
            codebooks.nearest(torch.tensor([bad]), codebooks.nf4())


# --- one rounding, and clips that hold ------------------------------------------------------------


@pytest.mark.parametrize("dtype, digits", [(torch.float16, 11), (torch.bfloat16, 8)])
def test_a_float64_value_is_rounded_once(dtype, digits):
    """By way of float32, 1 + 2^-11 + 2^-40 would be the middle 1 + 2^-11, and then 1."""
    value = 1 + 2.0**-digits + 2.0**-40
    wanted = 1 + 2.0 ** (1 - digits)
    scale = torch.tensor(value, dtype=torch.float64)
    one = torch.ones(2, 4, dtype=torch.int8)
    x = ql.QTensor(one, scale, torch.tensor(0).char(), ql.Scheme(8, "symmetric"))
    assert scale.to(dtype) == 1  # torch's own
    for mode in ("eager", "compiled"):
        with ql.use_kernels(mode):
            assert set(x.dequantize(dtype).unique().tolist()) == {wanted}
            out = torch.empty(2, 4, dtype=dtype)
            assert x.dequantize(dtype, out=out)[0, 0] == wanted
    assert QuantizedLinear(x).to(dtype).weight[0, 0] == wanted
    assert QuantizedEmbedding(x).to(dtype)(torch.tensor([1]))[0, 0] == wanted
    assert QuantizedLinear(x)(torch.eye(4, dtype=dtype))[0, 0] == wanted
    bias = torch.full((2,), value, dtype=torch.float64)
    assert QuantizedLinear(x, bias)(torch.zeros(1, 4, dtype=dtype))[0, 0] == wanted
    model = nn.Sequential(nn.LayerNorm((2, 4)))
    tensors = {"0.weight": x, "0.bias": torch.zeros(2, 4)}
    assert load_state(model.to(dtype), tensors)[0].weight[0, 0] == wanted


def test_the_cast_is_numpys_for_every_half_and_every_middle():
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16).double()
    every = every[every.isfinite()]
    middles = (every[1:] + every[:-1]) / 2
    for x in (every, middles, middles * (1 + 2.0**-40), middles * (1 - 2.0**-40), -middles / 3):
        with np.errstate(over="ignore"):
            wanted = torch.from_numpy(x.numpy().astype(np.float16))
        assert torch.equal(
            affine.rounded(x, torch.float16).view(torch.int16), wanted.view(torch.int16)
        )
    odd = torch.tensor([NAN, INF, -INF, 1e300, -1e-300, -0.0], dtype=torch.float64)
    got = affine.rounded(odd, torch.bfloat16)
    assert str(got.tolist()) == str([NAN, INF, -INF, INF, -0.0, -0.0])


@pytest.mark.parametrize("bits, dtype", [(31, torch.int32), (63, torch.int64), (24, torch.int32)])
def test_a_clip_holds_both_ends(bits, dtype):
    low, high = -(2**bits), 2**bits - 1
    r = torch.tensor([3e9, -3e9, 1e30, -INF, 5.5, INF])
    got = ql.quantize_affine(r, 1, 0, low, high, dtype).tolist()
    assert got == [min(max(x if abs(x) < 2**63 else x * 2**64, low), high) for x in
                   (3000000000, -3000000000, 2**63, -(2**63), 6, 2**63)]  # fmt: skip
    if bits == 63:
        return  # a zero point is an int32
    assert ql.asymmetric_qparams(1e10, 2e10, low, high).zero_point == max(low, -(2**31))
    assert ql.asymmetric_qparams(-2e10, -1e10, low, high).zero_point == min(high, 2**31 - 1)


# --- edges of searches and observers --------------------------------------------------------------


@pytest.mark.parametrize("observer", [observers.EntropyObserver, observers.MSEObserver])
def test_a_batch_of_zeros_leaves_a_histogram_as_it_is(observer):
    r = drawn(20_001) * 1e-4
    one, two, first = observer(), observer(), observer()
    one.observe(torch.cat([r, torch.zeros(1)]))
    for x in (r, torch.zeros(1)):
        two.observe(x)
    for x in (torch.zeros(1), r):
        first.observe(x)
    for other in (two, first):
        assert torch.equal(one.counts, other.counts) and torch.equal(one.exponent, other.exponent)
    alone = observer()
    alone.observe(r)
    assert torch.equal(alone.exponent, one.exponent)
    for wanted, got in zip(alone.range(), two.range(), strict=True):
        assert torch.equal(wanted, got)
    by_row = observer(ql.Scheme(granularity=ql.PerAxis(0)))
    by_row.observe(torch.stack([r, torch.zeros_like(r)]))
    assert by_row.width[0] == alone.width[0]


def test_a_moving_average_of_finite_ends_is_finite():
    batches = [torch.tensor([-3e38, 0]), torch.tensor([3e38, 3.1e38])]
    low, high = observers.moving_average(batches)
    assert low.item() == pytest.approx(-2.4e38) and high.item() == pytest.approx(3.1e37)
    low, _ = observers.moving_average([x.double() * 5e269 for x in batches])
    assert low.item() == pytest.approx(-1.2e308)
    mixed = [
        torch.tensor([[-3e38, 0], [1e-45, 3e-45]]),
        torch.tensor([[3e38, 3e38], [3e-45, 3e-45]]),
    ]
    low, _ = observers.moving_average(mixed, ql.Scheme(granularity=ql.PerAxis(0)), weight=1)
    assert torch.equal(low, torch.tensor([[3e38], [3e-45]]))


@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("search", ["mse_search", "entropy", "MSEObserver"])
def test_a_search_near_the_end_of_the_floats_finds_a_range_that_serves(search, dtype, mapping):
    largest = torch.finfo(dtype).max * 0.24 if "Obs" in search or search == "entropy" else 0
    largest = largest or torch.finfo(dtype).max * 0.9
    if search != "mse_search" and dtype == torch.float32:
        largest = 3e38
    r = torch.cat(
        [drawn(500).to(dtype) * (largest / 10), torch.tensor([-1.0, 1.0]).to(dtype) * largest]
    )
    scheme = ql.Scheme(8, mapping)
    if search == "MSEObserver":
        observer = observers.MSEObserver(scheme)
        observer.observe(r)
        ends = observer.range()
    else:
        ends = getattr(ranges, search)(r, scheme)
    assert all(x.isfinite().all() for x in ends)
    x = ql.quantize(r, scheme, qparams_from_range(*ends, scheme))
    assert x.dequantize().isfinite().all()
    assert ql.sqnr(r[:500] / largest, x.dequantize()[:500] / largest) > 20


def test_a_search_over_numbers_whose_squares_float64_does_not_hold():
    r = torch.cat([drawn(500), torch.tensor([10.0])]).double()
    wanted = ranges.mse_search(r, ql.Scheme(3))
    for power in (600, -600):
        got = ranges.mse_search(r * 2.0**power, ql.Scheme(3))
        for a, b in zip(wanted, got, strict=True):
            assert torch.equal(a * 2.0**power, b)
    assert wanted[1] < 9


@pytest.mark.parametrize("size", [1e155, 1e-170, 1e300, 1e-300])
def test_sqnr_of_numbers_whose_squares_float64_does_not_hold(size):
    r = drawn(100).double() * size
    assert ql.sqnr(r, r * 0.99).item() == pytest.approx(40)
    assert ql.sqnr(r, r) == INF and ql.sqnr(r, r * 0) == 0 and ql.sqnr(r * 0, r) == -INF


@pytest.mark.parametrize("error", [ql.mse, ql.max_abs_error, ql.sqnr])
def test_errors_that_are_no_numbers_are_refused(error):
    r = drawn(100).double()
    for name, pair in (("r", (r / 0, r)), ("r_hat", (r, r * NAN))):
        with pytest.raises(ValueError, match=f"^{name} holds"):
            error(*pair)


def test_a_mean_of_squares_that_float64_does_not_hold_is_refused():
    r = drawn(100).double()
    assert ql.mse(r * 1e150, r * 0).item() == pytest.approx(1e300 * r.square().mean().item())
    for call in (ql.mse, lambda a, b: error_shares(a, b, 1.0)):
        with pytest.raises(ValueError, match="r and r_hat differ by too much for float64: divide"):
            call(r * 1e155, r * 0)
    assert ql.mse(r * 1e-170, r * 0) == 0


def test_a_range_is_a_copy_of_the_observers_state():
    for observer in (
        observers.MinMaxObserver(),
        observers.MovingAverageObserver(),
        observers.PercentileObserver(),
        observers.MSEObserver(),
        observers.EntropyObserver(),
        observers.MinMaxObserver(ql.Scheme(granularity=ql.PerAxis(0))),
    ):
        r = drawn(3, 50)
        observer.observe(r)
        before = [x.clone() for x in observer.range()]
        for x in (*observer.range(), r):
            x -= 100
        assert all(torch.equal(a, b) for a, b in zip(before, observer.range(), strict=True))


def test_a_layer_keeps_a_copy_of_the_ranges_it_was_given():
    qparams = ql.QParams(torch.tensor(0.1), torch.tensor(3, dtype=torch.int8))
    layer, whole = static(qparams), an_output(qparams)
    qparams.scale.mul_(9)
    qparams.zero_point.mul_(9)
    assert layer.input_scale == whole.output_scale == torch.tensor(0.1)
    assert layer.input_zero_point == whole.output_zero_point == 3


def test_the_ends_of_a_range_are_checked():
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    with pytest.raises(ValueError, match="r_min is larger than r_max: pass the smaller"):
        qparams_from_range(two, one, EIGHT)
    with pytest.raises(ValueError, match="r_max holds 1 NaN"):
        qparams_from_range(one, torch.tensor(NAN), EIGHT)
    with pytest.raises(ValueError, match=r"r_min has shape \(\) and r_max \(2,\)"):
        qparams_from_range(one, torch.ones(2), EIGHT)
    with pytest.raises(TypeError, match="r_min must be a torch tensor, got float"):
        qparams_from_range(1.0, two, EIGHT)
    with pytest.raises(TypeError, match="scheme must be a ql.Scheme"):
        qparams_from_range(one, two, 8)


def test_the_middle_of_two_values_is_compared_in_float64():
    book = codebooks.nf4().double()
    middles = (book[1:] + book[:-1]) / 2
    for r in (torch.tensor([0.6427867412567139]), middles.float(), middles, middles + 1e-12):
        got = codebooks.nearest(r, codebooks.nf4()).double()
        least = (r.double()[:, None] - book).abs().min(1).values
        assert torch.equal((got - r.double()).abs(), least)


# --- torch's default dtype ------------------------------------------------------------------------


def everything():
    """{name: a result} of all public functions that take a tensor or numbers."""
    f32 = {"dtype": torch.float32}
    r = torch.randn(6, 64, generator=torch.Generator().manual_seed(0), **f32)
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(1), **f32)
    four, groups = ql.Scheme(4), ql.Scheme(4, granularity=ql.PerGroup(16))
    found = {
        "asymmetric_qparams": ql.asymmetric_qparams(-0.1, 0.3, -8, 7),
        "symmetric_qparams": ql.symmetric_qparams(0.3, 7),
        "quantize_affine": ql.quantize_affine(0.37, 0.1, 3, -8, 7),
        "dequantize_affine": ql.dequantize_affine(5, 0.1, 3),
        "mse": ql.mse(r, r.round()),
        "sqnr": ql.sqnr(r, r.round()),
        "max_abs_error": ql.max_abs_error(r, r.round()),
        "error_shares": error_shares(r, r.round(), 0.1),
        "percentile": ranges.percentile(r, percent=99),
        "moving_average": observers.moving_average([r, r + 1]),
        "e2m1": codebooks.e2m1(),
        "nf4": codebooks.nf4(),
        "nearest": codebooks.nearest(r, codebooks.nf4()),
        "mxfp4": codebooks.mxfp4(r),
        "nvfp4": codebooks.nvfp4(r),
        "nf4_blocks": codebooks.nf4_blocks(r),
        "q4_0": codebooks.q4_0(r),
        "fixed_point": fixed_point(0.37),
        "fake_quantize": ql.fake_quantize(r, groups),
        "numbers": ql.fake_quantize(r, four, (0.1, 3)),
        "hadamard": hadamard(4),
        "random_rotation": random_rotation(4),
        "smoothing_scales": smoothing_scales(w, r),
        "output_error": methods.output_error(w, w.round(), r),
    }
    for kind in (
        observers.MinMaxObserver,
        observers.PercentileObserver,
        observers.MSEObserver,
        observers.EntropyObserver,
    ):
        observer = kind()
        observer.observe(r)
        observer.observe(3 * r)
        found[kind.__name__] = observer.range()
        if kind is observers.MSEObserver:
            found["centres"] = limits.centres_of(observer.counts, observer.width, *observer._ends())
    for scheme in (EIGHT, four, groups, ql.Scheme(16), ROWS):
        x = ql.quantize(r, scheme)
        found[f"quantize {scheme}"] = x.q, x.scale, x.zero_point, x.dequantize()
        found[f"mse_search {scheme}"] = ranges.mse_search(r, scheme)
        found[f"packed {scheme}"] = PackedTensor.pack(x).data
    found["entropy"] = ranges.entropy(r, four, bins=256)
    for name in ("gptq", "awq", "hqq", "smoothquant", "rotate", "round_to_nearest"):
        result = getattr(methods, name)(w, r, groups)
        found[name] = result.weight.q, result.weight.scale, result.float_weight()
    inputs = ql.Scheme(signed=False)
    for how in ((), (inputs,), (inputs, (0.1, 3))):
        layer = QuantizedLinear(ql.quantize(w, ROWS), None, *how)
        found[f"linear {how}"] = layer(r), layer.weight
    whole = IntegerLinear(layer, EIGHT, (0.3, 3))
    found["IntegerLinear"] = whole(layer.quantize_input(r).q), whole.output_scale
    found["embedding"] = QuantizedEmbedding(ql.quantize(w, ROWS))(torch.tensor([1, 2]))
    conv = nn.Conv1d(2, 4, 3, **f32).requires_grad_(False)
    conv.weight.copy_(w[:4, :6].view(4, 2, 3))
    conv.bias.zero_()
    found["conv"] = QuantizedConv(conv, ql.quantize(conv.weight.flatten(1), ROWS), conv.bias)(
        r.view(6, 2, 32)
    )
    model = nn.Sequential(nn.Linear(64, 8, **f32)).requires_grad_(False)
    model[0].weight.copy_(w)
    model[0].bias.zero_()
    found["layer_inputs"] = methods.layer_inputs(model, r)["0"]
    return found


def flat(x):
    return [x] if isinstance(x, torch.Tensor) else [y for one in x for y in flat(one)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_torchs_default_dtype_changes_nothing(dtype):
    wanted = everything()
    torch.set_default_dtype(dtype)
    try:
        got = everything()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, x in wanted.items():
        for a, b in zip(flat(x), flat(got[name]), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b), name
