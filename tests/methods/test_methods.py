"""SmoothQuant, AWQ, GPTQ, HQQ and rotation: known answers, guarantees, and what is refused."""

import inspect
import itertools
from pathlib import Path

import pytest
import torch

import qlesson as ql
from qlesson import methods
from qlesson.blocks import Blocks, choose_steps, quantize_blocks
from qlesson.methods import Result, output_error, round_to_nearest
from qlesson.methods.awq import ALPHAS, awq, awq_scales
from qlesson.methods.clip import LIMITS, clipped
from qlesson.methods.gptq import gptq, inverse_factor
from qlesson.methods.hqq import P, hqq, shrink
from qlesson.methods.rotation import hadamard, random_rotation, rotate
from qlesson.methods.smoothquant import smoothing_scales, smoothquant
from qlesson.nn import Rotation, quantize_model
from qlesson.nn.factor import multiplied


def takes_a_layer(f):
    """Whether f is a method: a function of (weight, inputs, scheme), perhaps with options."""
    return callable(f) and list(inspect.signature(f).parameters)[:3] == LAYER


LAYER = ["weight", "inputs", "scheme"]
ALL = {name: getattr(methods, name) for name in methods.__all__}
ALL = {name: f for name, f in ALL.items() if takes_a_layer(f)}
each_method = pytest.mark.parametrize("method", ALL.values(), ids=ALL)
ROW, GROUP, RAGGED = ql.PerAxis(0), ql.PerGroup(8), ql.PerGroup(5)
each_granularity = pytest.mark.parametrize(
    "granularity", [ql.PerTensor(), ROW, GROUP, RAGGED], ids=["tensor", "row", "group", "ragged"]
)
each_mapping = pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])


def layer(seed=0, rows=6, columns=16, samples=64, outliers=True):
    """A weight and inputs whose channels are correlated, channel 3 ten times as large."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=g)
    inputs = torch.randn(samples, columns, generator=g)
    inputs = inputs + torch.randn(samples, 1, generator=g)
    inputs[:, 3] *= 10 if outliers else 1
    return weight, inputs


def error_of(result, weight, inputs):
    return output_error(weight, result.float_weight(), inputs).item()


# What all of them give


@each_method
@each_granularity
@each_mapping
def test_a_result_is_a_quantized_weight_and_a_factor_for_the_inputs(method, granularity, mapping):
    weight, inputs = layer()
    before = weight.clone(), inputs.clone()
    scheme = ql.Scheme(4, mapping, granularity)
    if method is hqq and (mapping == "symmetric" or granularity == ql.PerTensor()):
        return  # it has no such codes: its own tests
    result = method(weight, inputs, scheme)
    assert isinstance(result, Result) and result.weight.shape == weight.shape
    assert result.factor is None or isinstance(result.factor, (torch.Tensor, Rotation))
    assert isinstance(result.weight, Blocks) or result.weight.scheme == scheme
    outputs = result.prepare(inputs) @ result.weight.dequantize().T
    torch.testing.assert_close(inputs @ result.float_weight().T, outputs, rtol=1e-4, atol=1e-3)
    assert torch.equal(weight, before[0]) and torch.equal(inputs, before[1])
    again = method(weight, inputs, scheme)
    assert torch.equal(again.weight.q, result.weight.q)


@pytest.mark.parametrize(
    "factor", [None, torch.tensor([2.0, 4.0]), Rotation(2, 2, 3), Rotation(2, 1)]
)
def test_prepare_and_float_weight_are_two_sides_of_one_product(factor):
    q = ql.quantize(torch.tensor([[1.0, 2.0], [-3.0, 4.0]]), ql.Scheme(8))
    result, x = Result(q, factor), torch.tensor([[1.0, 10.0], [100.0, 0.5]])
    plain = torch.eye(2) if factor is None else multiplied(torch.eye(2), factor)
    torch.testing.assert_close(result.prepare(x), x @ plain)
    torch.testing.assert_close(x @ result.float_weight().T, x @ plain @ q.dequantize().T)
    torch.testing.assert_close(result.prepare(x[None]), (x @ plain)[None])


@each_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_dtypes(method, dtype):
    weight, inputs = (x.to(dtype) for x in layer())
    result = method(weight, inputs, ql.Scheme(8, granularity=ROW))
    wanted = inputs.double() @ weight.double().T
    prepared = result.prepare(inputs).double()
    got = prepared @ result.weight.dequantize(torch.float64).T
    assert ql.sqnr(wanted, got) > 25


def test_output_error_by_hand():
    weight, weight_hat = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0, 1]])
    inputs = torch.tensor([[1.0, 2.0], [5.0, -4.0], [0.0, 0.0]])
    # outputs differ by 2, 0; -4, 0; 0, 0
    assert output_error(weight, weight_hat, inputs).item() == pytest.approx((4 + 16) / 6)


def test_the_output_error_is_the_quadratic_form_that_gptq_lowers():
    weight, inputs = layer()
    d = (weight - round_to_nearest(weight, None, ql.Scheme(3)).float_weight()).double()
    h = inputs.double().T @ inputs.double()
    by_form = (d @ h * d).sum() / (len(inputs) * len(weight))
    torch.testing.assert_close(output_error(weight, weight - d, inputs), by_form)


def test_rounding_is_plain_quantization():
    weight, inputs = layer()
    scheme = ql.Scheme(3, granularity=GROUP)
    result = round_to_nearest(weight, inputs, scheme)
    assert torch.equal(result.weight.q, ql.quantize(weight, scheme).q) and result.factor is None


# What is refused


@each_method
def test_bad_input_gets_a_sentence(method):
    weight, inputs = layer()
    scheme = ql.Scheme(4, granularity=ROW)
    with pytest.raises(TypeError, match=r"weight must be torch.float32, .*, got torch.int"):
        method(weight.long(), inputs, scheme)
    with pytest.raises(TypeError, match=r"inputs must be a torch tensor, got list"):
        method(weight, [[1.0]], scheme)
    with pytest.raises(ValueError, match=r"got the shape \(8, 8, 16\): use inputs.flatten"):
        method(weight, inputs.view(8, 8, 16), scheme)
    with pytest.raises(ValueError, match=r"weight must be \[out, in\], got the shape \(16,\)"):
        method(weight[0], inputs, scheme)
    with pytest.raises(ValueError, match=r"inputs is empty \(shape \(0, 16\)\)"):
        method(weight, inputs[:0], scheme)
    with pytest.raises(ValueError, match="weight has 6 columns and inputs have 16.*weight.T"):
        method(weight.T, inputs, scheme)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="inputs holds .* NaN and"):
            method(weight, inputs.index_fill(1, torch.tensor([2]), bad), scheme)
        with pytest.raises(ValueError, match="weight holds .* NaN and"):
            method(weight.index_fill(1, torch.tensor([2]), bad), inputs, scheme)
    with pytest.raises(TypeError, match="scheme must be a ql.Scheme"):
        ql.quantize(weight, 4)


# SmoothQuant


def test_smoothing_scales_by_hand():
    weight = torch.tensor([[1.0, -4.0, 2.0], [0.5, 2.0, -2.0]])
    inputs = torch.tensor([[16.0, 0.25, 3.0], [-1.0, -1.0, 8.0]])
    # largest inputs 16, 1, 8; largest weights 1, 4, 2
    for alpha, wanted in ((0.5, [4, 0.5, 2]), (0, [1, 0.25, 0.5]), (1, [16, 1, 8])):
        torch.testing.assert_close(
            smoothing_scales(weight, inputs, alpha), torch.tensor(wanted).float()
        )
    torch.testing.assert_close(
        smoothing_scales(weight, inputs), smoothing_scales(weight, inputs, 0.5)
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_smoothing_is_exact_before_quantization(alpha):
    weight, inputs = layer()
    s = smoothing_scales(weight, inputs, alpha).double()
    smoothed = (inputs.double() / s) @ (weight.double() * s).T
    torch.testing.assert_close(smoothed, inputs.double() @ weight.double().T)


def test_at_one_half_inputs_and_weights_are_equally_large():
    weight, inputs = layer()
    s = smoothing_scales(weight, inputs, 0.5)
    largest = (inputs / s).abs().amax(dim=0)
    torch.testing.assert_close(largest, (weight * s).abs().amax(dim=0))


def test_smoothquant_quantizes_the_scaled_weight():
    weight, inputs = layer()
    scheme = ql.Scheme(8, granularity=ROW)
    result, s = (
        smoothquant(weight, inputs, scheme, alpha=0.7),
        smoothing_scales(weight, inputs, 0.7),
    )
    assert torch.equal(result.weight.q, ql.quantize(weight * s, scheme).q)
    torch.testing.assert_close(result.factor, 1 / s)


def test_smoothing_helps_where_inputs_with_outliers_are_quantized_too():
    weight, inputs = layer()
    scheme, errors = ql.Scheme(8), []
    for result in (round_to_nearest(weight, None, scheme), smoothquant(weight, inputs, scheme)):
        x = ql.fake_quantize(result.prepare(inputs), scheme)
        errors.append(ql.mse(inputs @ weight.T, x @ result.weight.dequantize().T).item())
    assert errors[1] < 0.5 * errors[0]


def test_a_channel_of_zeros_is_left_alone():
    weight, inputs = layer()
    weight[:, 0], inputs[:, 1] = 0, 0
    s = smoothing_scales(weight, inputs)
    assert s[0] == s[1] == 1 and torch.isfinite(s).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_channel_near_zero_is_left_alone_where_its_scale_is_no_normal_number(alpha):
    """float32 ends at 1e-38, below which 1 / s is infinite."""
    weight, inputs = layer()
    inputs[:, 0], weight[:, 1] = 1e-42, 1e-44
    inputs[:, 2], weight[:, 2] = 1e37, 1e-37
    s = smoothing_scales(weight, inputs, alpha)
    assert s.isfinite().all() and (1 / s).isfinite().all()
    assert (s[0] == 1) == (alpha == 1) and (s[1] == 1) == (alpha == 0)
    assert s[2].item() == pytest.approx(1e37)
    result = smoothquant(weight, inputs, ql.Scheme(8, granularity=ROW), alpha=alpha)
    assert result.factor.isfinite().all() and result.float_weight().isfinite().all()
    assert result.prepare(inputs).isfinite().all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_lies_between_0_and_1(alpha):
    with pytest.raises(ValueError, match="alpha must be a number from 0 to 1, got"):
        smoothquant(*layer(), ql.Scheme(8), alpha=alpha)


# AWQ


def test_awq_scales_by_hand():
    inputs = torch.tensor([[4.0, -1.0, 0.0], [-4.0, -15.0, 0.0]])  # mean sizes 4, 8, 0
    middle = (8 * 1e-4) ** 0.5
    torch.testing.assert_close(awq_scales(inputs, 1), torch.tensor([4.0, 8, 1e-4]) / middle)
    torch.testing.assert_close(awq_scales(inputs[:, :2], 0.5), torch.tensor([0.5**0.25, 2**0.25]))
    assert torch.equal(awq_scales(inputs, 0), torch.ones(3))
    assert torch.isfinite(awq_scales(0 * inputs, 1)).all()


@each_granularity
@each_mapping
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_awq_is_never_worse_than_rounding_on_its_calibration_inputs(granularity, mapping, bits):
    scheme = ql.Scheme(bits, mapping, granularity)
    for seed, outliers in itertools.product(range(4), (True, False)):
        weight, inputs = layer(seed, outliers=outliers)
        plain = error_of(round_to_nearest(weight, inputs, scheme), weight, inputs)
        assert error_of(awq(weight, inputs, scheme, clip=False), weight, inputs) <= plain


def test_awq_takes_the_best_alpha_of_those_offered():
    weight, inputs = layer()
    scheme = ql.Scheme(3, granularity=ROW)
    alone = {
        a: error_of(awq(weight, inputs, scheme, alphas=[a], clip=False), weight, inputs)
        for a in (0, 0.5, 1)
    }
    assert len(set(alone.values())) == 3
    best = awq(weight, inputs, scheme, alphas=[0, 0.5, 1], clip=False)
    assert error_of(best, weight, inputs) == min(alone.values())
    plain = round_to_nearest(weight, inputs, scheme)
    assert torch.equal(awq(weight, inputs, scheme, alphas=[0], clip=False).weight.q, plain.weight.q)
    assert ALPHAS == tuple(i / 20 for i in range(20))  # the authors' grid


def test_awq_protects_the_column_that_meets_large_inputs():
    weight, inputs = layer()
    scheme = ql.Scheme(3, granularity=ROW)
    result, plain = awq(weight, inputs, scheme), round_to_nearest(weight, inputs, scheme)
    assert result.factor[3] < 0.5 * result.factor[[0, 1, 2, 4, 5]].min()
    off = [(weight - r.float_weight())[:, 3].square().sum() for r in (result, plain)]
    assert off[0] < 0.2 * off[1]
    assert error_of(result, weight, inputs) < 0.5 * error_of(plain, weight, inputs)


def slow_clip(weight, inputs, scheme, block):
    """One block by itself: its weights clipped at ten limits, and the others exact."""
    found, least = None, float("inf")
    for i in range(10):
        most = weight[block].abs().max() * ((20 - i) / 20)
        x = ql.quantize(weight[block].clamp(-most, most), ql.Scheme(scheme.bits, scheme.mapping))
        d = torch.zeros_like(weight)
        d[block] = weight[block] - x.dequantize()
        error = (inputs.double() @ d.double().T).square().sum()
        if error < least:
            found, least = x.dequantize(), error
    return found


BLOCKS = {  # a granularity, and its blocks in a weight [6, 16]
    ql.PerTensor(): [(slice(None), slice(None))],
    ROW: [(slice(i, i + 1), slice(None)) for i in range(6)],
    ql.PerAxis(1): [(slice(None), slice(j, j + 1)) for j in range(16)],
    RAGGED: [(slice(i, i + 1), slice(j, j + 5)) for i in range(6) for j in range(0, 16, 5)],
    ql.PerGroup(4, 0): [(slice(i, i + 4), slice(j, j + 1)) for i in (0, 4) for j in range(16)],
}


@pytest.mark.parametrize("granularity", BLOCKS, ids=str)
@each_mapping
def test_every_block_is_clipped_where_its_share_of_the_output_errs_least(granularity, mapping):
    weight, inputs = layer()
    scheme = ql.Scheme(3, mapping, granularity)
    got = clipped(weight, inputs, scheme).dequantize()
    for block in BLOCKS[granularity]:
        assert torch.equal(got[block], slow_clip(weight, inputs, scheme, block))
    assert LIMITS == tuple((20 - i) / 20 for i in range(10))
    assert granularity == ql.PerAxis(1) or not torch.equal(
        got, ql.quantize(weight, scheme).dequantize()
    )


def test_awq_clips_what_it_has_scaled():
    weight, inputs = layer()
    scheme = ql.Scheme(3, granularity=ROW)
    result, plain = awq(weight, inputs, scheme), awq(weight, inputs, scheme, clip=False)
    s = 1 / plain.factor
    assert torch.equal(result.factor, plain.factor)
    wanted = clipped(weight * s, inputs / s, scheme)
    torch.testing.assert_close(result.weight.dequantize(), wanted.dequantize())
    assert error_of(result, weight, inputs) < error_of(plain, weight, inputs)


def test_awq_needs_an_alpha():
    with pytest.raises(ValueError, match="alphas is empty"):
        awq(*layer(), ql.Scheme(4), alphas=[])


# GPTQ


def slow_gptq(weight, inputs, scheme, damping, turn=None):
    """Column by column; after each, the open columns are solved for anew, from the start.

    In another order, with the scales of the untouched groups of W."""
    if turn is not None:
        size = getattr(scheme.granularity, "group_size", weight.shape[1])
        scales = [ql.choose_qparams(part, scheme) for part in weight.split(size, 1)]
        moved = slow_gptq_in_order(
            weight[:, turn], inputs[:, turn], scheme, damping, [scales[j // size] for j in turn]
        )
        return moved[:, torch.tensor(turn).argsort()]
    return slow_gptq_in_order(weight, inputs, scheme, damping)


def slow_gptq_in_order(weight, inputs, scheme, damping, scales=None):
    w, x = weight.double(), inputs.double()
    h = x.T @ x
    h += damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    size = getattr(scheme.granularity, "group_size", w.shape[1])
    now, back = w.clone(), torch.zeros_like(w)
    for j in range(w.shape[1]):
        if scales is not None:
            qparams = scales[j]
        elif j % size == 0:
            qparams = ql.choose_qparams(now[:, j : j + size].float(), scheme)
        q = ql.quantize_affine(
            now[:, j : j + 1], *qparams, scheme.quant_min, scheme.quant_max, torch.int8
        )
        back[:, j : j + 1] = ql.dequantize_affine(q, *qparams)
        done, rest = slice(0, j + 1), slice(j + 1, None)
        off = (w - back)[:, done]
        # the real numbers of least error, once the first columns are what they are
        now[:, rest] = w[:, rest] + off @ h[done, rest] @ torch.linalg.inv(h[rest, rest])
    return back


@each_granularity
@each_mapping
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_gptq_is_the_slow_spec(granularity, mapping, damping):
    for seed, bits in itertools.product(range(3), (2, 4)):
        weight, inputs = layer(seed)
        scheme = ql.Scheme(bits, mapping, granularity)
        result = gptq(weight, inputs, scheme, damping=damping)
        wanted = slow_gptq(weight, inputs, scheme, damping)
        torch.testing.assert_close(result.float_weight().double(), wanted)


def test_gptq_by_hand():
    """Two equal inputs: what the first weight loses, the second makes up for. The codes are whole
    numbers: 0.4 and 0.4 round to 0 and 0 and lose 0.8; GPTQ gives 0 and 1 and is 0.2 off."""
    weight, inputs = torch.tensor([[0.4, 0.4, 7.0]]), torch.tensor([[1.0, 1.0, 0], [0, 0, 1.0]])
    scheme = ql.Scheme(4, "symmetric", ROW)
    assert round_to_nearest(weight, inputs, scheme).weight.q.tolist() == [[0, 0, 7]]
    assert gptq(weight, inputs, scheme, damping=1e-6).weight.q.tolist() == [[0, 1, 7]]


def test_gptq_finds_what_brute_force_finds():
    """The best of all 4^4 codes, which rounding misses."""
    weight = torch.tensor([[2.4, 1.9, 2.4, 3.0]])
    inputs = torch.tensor(
        [[-3.0, -1, -1, -2], [-4, -3, -4, -5], [-2, -1, 0, -1], [1, 1, -1, 3], [4, 5, 3, 3]]
    )
    scheme = ql.Scheme(2, granularity=ROW)
    qparams = ql.choose_qparams(weight, scheme)
    assert qparams.scale.item() == 1 and qparams.zero_point.item() == -2
    errors = {}
    for codes in itertools.product(range(4), repeat=4):
        errors[codes] = output_error(weight, torch.tensor([codes]).float(), inputs).item()
    best = min(errors, key=errors.get)
    assert best == (2, 2, 3, 3)
    got = gptq(weight, inputs, scheme, damping=1e-6)
    assert tuple(got.float_weight()[0].tolist()) == best
    plain = round_to_nearest(weight, inputs, scheme)
    assert tuple(plain.float_weight()[0].tolist()) == (2, 2, 2, 3)


@each_granularity
@each_mapping
def test_inputs_that_have_nothing_in_common_leave_rounding(granularity, mapping):
    weight, _ = layer()
    inputs = 3 * torch.eye(16)
    scheme = ql.Scheme(3, mapping, granularity)
    assert torch.equal(gptq(weight, inputs, scheme).weight.q, ql.quantize(weight, scheme).q)


def test_gptq_rounds_ties_as_the_scheme_says():
    weight, codes = torch.tensor([[-1.0, 2.0, 0.5, 1.5]]), []  # scale 1, zero point -1
    for rounding in ("inside", "outside"):
        scheme = ql.Scheme(2, granularity=ROW, rounding=rounding)
        codes.append(gptq(weight, torch.eye(4), scheme).weight.q)
        assert torch.equal(codes[-1], ql.quantize(weight, scheme).q)
    assert not torch.equal(*codes)


@each_granularity
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_beats_rounding_on_these_layers(granularity, bits):
    """Not a theorem: see the next test."""
    scheme = ql.Scheme(bits, granularity=granularity)
    for seed, outliers in itertools.product(range(4), (True, False)):
        weight, inputs = layer(seed, 24, 48, 256, outliers)
        plain = error_of(round_to_nearest(weight, inputs, scheme), weight, inputs)
        assert error_of(gptq(weight, inputs, scheme), weight, inputs) < plain


def test_gptq_can_lose_to_rounding():
    g = torch.Generator().manual_seed(1871)
    weight, inputs = torch.randn(1, 3, generator=g), torch.randn(8, 3, generator=g)
    scheme = ql.Scheme(3, granularity=ROW)
    plain = error_of(round_to_nearest(weight, inputs, scheme), weight, inputs)
    assert error_of(gptq(weight, inputs, scheme, damping=0), weight, inputs) > 1.02 * plain


def test_the_factor_is_that_of_the_damped_inverse():
    _, inputs = layer()
    h = inputs.double().T @ inputs.double()
    u = inverse_factor(inputs, 0.1)
    damped = h + 0.1 * h.diagonal().mean() * torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(u.T @ u @ damped, torch.eye(16, dtype=torch.float64))
    assert torch.equal(u, u.triu())


def test_fewer_samples_than_inputs_need_damping():
    weight, inputs = layer(samples=4)
    assert torch.isfinite(gptq(weight, inputs, ql.Scheme(3)).float_weight()).all()
    for bad in (0 * inputs, inputs):
        with pytest.raises(ValueError, match="has no inverse: give more inputs.*or more damping"):
            gptq(weight, bad, ql.Scheme(3), damping=-1e-3)


@each_granularity
@each_mapping
def test_the_order_by_activation_is_gptq_of_the_columns_in_that_order(granularity, mapping):
    """The layer with its columns sorted by hand, each with the scale that its own group has in W,
    has the same codes; they are stored where they were."""
    weight, inputs = layer()
    scheme = ql.Scheme(3, mapping, granularity)
    turn = sorted(range(16), key=lambda j: -inputs[:, j].double().square().sum())
    assert turn[0] == 3 and turn != list(range(16))
    w_hat = slow_gptq(weight, inputs, scheme, 0.01, turn)
    result = gptq(weight, inputs, scheme, order="activation")
    torch.testing.assert_close(result.float_weight().double(), w_hat)
    plain = ql.choose_qparams(weight, scheme)
    assert torch.equal(result.weight.scale, plain.scale)
    assert not torch.equal(result.weight.q, gptq(weight, inputs, scheme).weight.q)


def test_columns_in_their_order_by_activation_stay_where_they_are():
    weight, inputs = layer(outliers=False)
    inputs = inputs * torch.arange(16, 0, -1)
    scheme = ql.Scheme(3, granularity=ROW)
    plain = gptq(weight, inputs, scheme)
    assert torch.equal(gptq(weight, inputs, scheme, order="activation").weight.q, plain.weight.q)


@pytest.mark.parametrize("granularity", [ql.PerAxis(1), ql.PerGroup(2, axis=0)])
def test_gptq_refuses_scales_that_cross_its_columns(granularity):
    with pytest.raises(ValueError, match=r"GPTQ needs PerTensor\(\), PerAxis\(0\) or PerGroup"):
        gptq(*layer(), ql.Scheme(4, granularity=granularity))


# HQQ


def slow_hqq(weight, bits, size, range_of=None):
    """The authors' solver, in their letters: 1 / s, and a zero point in codes, block after block.

    The mean error that stops it is that of all blocks together.
    """
    top, groups = 2**bits - 1, [row.split(size) for row in weight.double()]
    groups = [g for row in groups for g in row]
    ends = range_of or [(g.min(), g.max()) for g in groups]
    inverse = [top / (high - low) if high > low else torch.tensor(1.0) for low, high in ends]
    zeros = [-low * i for (low, _), i in zip(ends, inverse, strict=True)]
    best, least, beta = zeros, float("inf"), 10.0
    for _ in range(21):
        codes = [
            (g * i + z).round().clamp(0, top)
            for g, i, z in zip(groups, inverse, zeros, strict=True)
        ]
        back = [(q - z) / i for q, i, z in zip(codes, inverse, zeros, strict=True)]
        off = [g - h for g, h in zip(groups, back, strict=True)]
        error = torch.cat(off).abs().mean()
        if not error < least:
            break
        best, least, found = zeros, error, back
        forgiven = [e.sign() * (e.abs() - e.abs() ** (0.7 - 1) / beta).clamp(min=0) for e in off]
        zeros = [
            (q - (g - e) * i).mean()
            for q, g, e, i in zip(codes, groups, forgiven, inverse, strict=True)
        ]
        beta *= 1.01
    return torch.cat(found).view(weight.shape), best


def mean_off(weight, weight_hat):
    return (weight.double() - weight_hat.double()).abs().mean().item()


@pytest.mark.parametrize("size", [16, 8, 5])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("spread", [0.05, 1.0, 20.0])  # from 0.17 on errors are forgiven
def test_hqq_is_the_authors_solver(bits, size, spread):
    for seed in range(3):
        weight = spread * layer(seed)[0]
        got = hqq(weight.double(), None, ql.Scheme(bits, granularity=ql.PerGroup(size))).weight
        wanted, zeros = slow_hqq(weight, bits, size)
        torch.testing.assert_close(got.dequantize(), wanted)
        found = (-got.minimum / got.scale).flatten()
        torch.testing.assert_close(found, torch.stack(zeros).double())


def test_hqq_forgives_at_this_size_and_fits_squares_below_it():
    """Both happen in the cases of the test before: with E = 0 the large weights end elsewhere."""
    for spread, changes in ((0.05, False), (20.0, True)):
        weight, scheme = spread * layer()[0].double(), ql.Scheme(3, granularity=GROUP)
        found = [hqq(weight * k, None, scheme).weight for k in (1, 2.0**-20)]  # E = 0 there
        assert torch.equal(found[0].minimum, found[1].minimum * 2.0**20) != changes


@pytest.mark.parametrize("granularity", [ROW, GROUP, RAGGED], ids=str)
@pytest.mark.parametrize("scale_dtype", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mean_error_of_hqq_is_never_that_of_rounding_or_more(bits, scale_dtype, granularity):
    scheme = ql.Scheme(bits, granularity=granularity, scale_dtype=scale_dtype)
    size = 48 if granularity == ROW else granularity.group_size
    for seed in range(4):
        weight, _ = layer(seed, rows=32, columns=48)
        result = hqq(weight, None, scheme).weight
        assert result.scale.dtype == result.minimum.dtype == (scale_dtype or torch.float32)
        steps = choose_steps(weight, scheme)
        assert torch.equal(result.scale, steps[0])
        plain = mean_off(weight, quantize_blocks(weight, *steps, bits, size).dequantize())
        # In short groups the first fit may raise the mean, and then HQQ is that rounding.
        most = 1 + 1e-6 if granularity == RAGGED else 0.999
        assert mean_off(weight, result.dequantize()) <= most * plain
        again = quantize_blocks(weight, result.scale, result.minimum, bits, size)
        assert torch.equal(again.q, result.q)  # the nearest for what is stored


def test_hqq_compares_what_is_stored():
    """At 8 bits a minimum in bfloat16 is off by up to half a step: most fits are rounded away."""
    scheme = ql.Scheme(8, granularity=GROUP, scale_dtype=torch.bfloat16)
    for seed in range(20):
        weight, _ = layer(seed)
        plain = quantize_blocks(weight, *choose_steps(weight, scheme), 8, 8).dequantize()
        got = hqq(weight, None, scheme).weight.dequantize()
        assert mean_off(weight, got) <= mean_off(weight, plain) * (1 + 1e-6)


def test_hqq_keeps_the_scale_of_the_range():
    weight, _ = layer()
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    x = hqq(weight, None, ql.Scheme(3, granularity=ROW)).weight
    assert torch.equal(x.scale, (high - low) / torch.tensor(7.0)) and x.group_size == 16
    x = hqq(weight, None, ql.Scheme(3, granularity=ROW), ql.ranges.mse_search).weight
    low, high = ql.ranges.mse_search(weight, ql.Scheme(3, granularity=ROW))
    assert torch.equal(x.scale, (high - low) / torch.tensor(7.0))
    away = 5 + weight.abs()  # a range without 0 stays one
    x = hqq(away, None, ql.Scheme(3, granularity=ROW)).weight
    assert torch.equal(x.scale, (away.amax(1) - away.amin(1)).view(-1, 1) / torch.tensor(7.0))


def test_values_on_a_grid_stay_as_they_are():
    weight = 0.25 * torch.tensor([[-8.0, 7, 3, 0, 1], [-8, 7, 7, 7, 7]])
    for method in (hqq, round_to_nearest):
        result = method(weight, None, ql.Scheme(4, granularity=ROW))
        assert torch.equal(result.float_weight(), weight)
    for value in (0.0, -0.3, 1e-30):
        same = torch.full((2, 3), value)
        assert torch.equal(hqq(same, None, ql.Scheme(2, granularity=ROW)).float_weight(), same)


@pytest.mark.parametrize(
    "scheme, words",
    [
        (ql.Scheme(4), r"Blocks are neighbours on .* \(6, 16\) has PerTensor\(\): use ql.PerGr"),
        (ql.Scheme(4, granularity=ql.PerAxis(1)), r"has PerAxis\(axis=1\): use ql.PerGroup"),
        (ql.Scheme(4, granularity=ql.PerGroup(2, 0)), "has PerGroup.*axis=0"),
        (ql.Scheme(4, "symmetric", ROW), 'the scheme is symmetric with 4: use mapping="asymm'),
        (ql.Scheme(16, granularity=ROW), "at most 8 bits, and the scheme is asymmetric with 16"),
    ],
)
def test_hqq_refuses_what_it_has_no_blocks_for(scheme, words):
    with pytest.raises(ValueError, match=words):
        hqq(*layer(), scheme)


def test_hqq_refuses_what_half_precision_cannot_hold():
    half = ql.Scheme(4, granularity=ROW, scale_dtype=torch.float16)
    for weight in (torch.tensor([[-3e6, 3e6]]), torch.tensor([[-7e4, -7e4 + 15]])):
        with pytest.raises(ValueError, match="too wide for float16.*use scale_dtype="):
            hqq(weight, None, half)
    with pytest.raises(ValueError, match="too wide for float32. Scale r down, or pass it"):
        hqq(torch.tensor([[-3e38, 3e38]]), None, ql.Scheme(4, granularity=ROW))


def test_shrink_by_hand():
    x = torch.tensor([1.0, -1.0, 0.1, 0.0, 32.0])
    got = shrink(x, beta=10)
    torch.testing.assert_close(got, torch.tensor([0.9, -0.9, 0, 0, 32 - 0.1 * 2**-1.5]))


@pytest.mark.parametrize("beta", [3.0, 10.0, 30.0])
def test_shrink_nearly_minimises(beta):
    """|E|^p / p + beta/2 (E - x)^2, for x a good way beyond the place where E leaves 0."""
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)

    def cost(e, x):
        return e.abs() ** P / P + beta / 2 * (e - x) ** 2

    for x in torch.tensor([3.0, 1.5, -2.0, 0.01, 0.0], dtype=torch.float64):
        assert cost(shrink(x, beta), x) <= 1.005 * cost(grid, x).min() + 1e-12


# Rotation


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64, 512])
def test_a_hadamard_matrix_has_orthogonal_rows_of_ones(n):
    h = hadamard(n)
    assert torch.equal(h.abs(), torch.ones_like(h))
    assert torch.equal(h @ h.T, n * torch.eye(n, dtype=h.dtype))


def test_the_smallest_hadamard_matrices():
    assert hadamard(2).tolist() == [[1, 1], [1, -1]]
    assert hadamard(4)[3].tolist() == [1, -1, -1, 1]


@pytest.mark.parametrize("n", [0, 3, 12, 384])
def test_other_sizes_are_refused(n):
    with pytest.raises(ValueError, match=f"n.* (of at least 1|a power of two), got {n}"):
        hadamard(n)


def test_an_odd_width_is_refused_and_the_remedy_works():
    weight, inputs = layer(columns=15)
    with pytest.raises(ValueError, match="width must be even, got 15.*up with columns of zeros"):
        rotate(weight, inputs, ql.Scheme(8))
    weight, inputs = (torch.nn.functional.pad(x, (0, 1)) for x in (weight, inputs))
    assert error_of(rotate(weight, inputs, ql.Scheme(8)), weight, inputs) < 0.1


@pytest.mark.parametrize("width,block", [(12, 4), (192, 64), (576, 64), (64, 64), (6, 2)])
def test_a_width_is_rotated_in_the_largest_blocks_that_fit(width, block):
    weight, inputs = layer(columns=width)
    result = rotate(weight, inputs, ql.Scheme(8, granularity=ROW), seed=5)
    assert result.factor == Rotation(width, block, 5)
    assert error_of(result, weight, inputs) < 0.01 * error_of(
        Result(ql.quantize(0 * weight)), weight, inputs
    )


def test_a_rotation_keeps_outputs_and_lengths():
    weight, inputs = (x.double() for x in layer())
    m = random_rotation(16)
    torch.testing.assert_close(m @ m.T, torch.eye(16, dtype=m.dtype))
    torch.testing.assert_close((inputs @ m) @ (weight @ m).T, inputs @ weight.T)
    result = rotate(weight, inputs, ql.Scheme(16))
    torch.testing.assert_close(result.factor.apply(torch.eye(16, dtype=m.dtype)), m)
    torch.testing.assert_close(result.float_weight(), weight, rtol=0, atol=1e-3)


def test_one_large_input_becomes_many_equal_ones():
    x = torch.zeros(64, dtype=torch.float64)
    x[5] = 8
    torch.testing.assert_close((x @ random_rotation(64)).abs(), torch.ones(64, dtype=x.dtype))


def test_the_signs_come_from_the_seed():
    assert torch.equal(random_rotation(64, 1), random_rotation(64, 1))
    assert not torch.equal(random_rotation(64, 1), random_rotation(64, 2))
    assert not torch.equal(random_rotation(64), hadamard(64) / 8)


def test_rotation_helps_where_a_column_of_the_weight_is_an_outlier():
    weight, inputs = layer(columns=64, outliers=False)
    weight[:, 7] *= 20
    scheme = ql.Scheme(4, granularity=ROW)
    plain = round_to_nearest(weight, None, scheme)
    rotated = rotate(weight, inputs, scheme)
    assert error_of(rotated, weight, inputs) < 0.3 * error_of(plain, weight, inputs)


# A whole model


class TwoLayers(torch.nn.Module):
    """The second layer is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 16)
        self.norm, self.dropout = torch.nn.LayerNorm(16), torch.nn.Dropout(0.5)

    def forward(self, x):
        x = self.dropout(self.norm(self.first(x)))
        return self.second(self.second(x))


def test_layer_inputs_are_what_each_layer_meets():
    torch.manual_seed(0)
    model, x = TwoLayers().train(), torch.randn(3, 5, 8, dtype=torch.float64)
    inputs = methods.layer_inputs(model, x)
    assert list(inputs) == ["first", "second"]
    assert torch.equal(inputs["first"], x.flatten(0, 1).float())
    model = model.double().eval()  # no dropout
    hidden = model.norm(model.first(x)).flatten(0, 1)
    both = torch.cat([hidden, model.second(hidden)]).float()
    torch.testing.assert_close(inputs["second"], both)
    assert inputs["second"].dtype == torch.float32


class ByName(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, batch, ids):
        return self.layer(input=batch["x"]) + ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_layer_inputs_of_models_that_take_floats(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 4).to(dtype)
    model = torch.nn.Linear(4, 4).to(dtype)
    assert torch.equal(methods.layer_inputs(model, x)[""], x.float())
    assert torch.equal(methods.layer_inputs(model, x[0])[""], x[:1].float())
    assert model.weight.dtype == dtype
    found = methods.layer_inputs(ByName().to(dtype), {"x": x}, torch.ones(1, dtype=torch.int64))
    assert torch.equal(found["layer"], x.float())


def test_layer_inputs_need_a_layer():
    with pytest.raises(ValueError, match="met no torch.nn.Linear"):
        methods.layer_inputs(torch.nn.LayerNorm(8), torch.randn(2, 8))


def test_the_gpt_at_8_bits_loses_nothing():
    from qlesson.models import tinygpt

    gpt = tinygpt.load("cpu")
    ids = tinygpt.encode(tinygpt.calibration_text()[:64])[None]
    inputs = methods.layer_inputs(gpt, ids)
    assert {*inputs} == {*tinygpt.weight_matrices(gpt)} - {"token_embedding"}
    scheme = ql.Scheme(8, granularity=ROW)
    small, _ = quantize_model(gpt, scheme, skip="*embedding", method=gptq, inputs=[ids])
    assert tinygpt.perplexity(small, n=512) == pytest.approx(tinygpt.perplexity(gpt, n=512), 0.01)


# The files


@pytest.mark.parametrize("name", ["smoothquant", "awq", "clip", "gptq", "hqq", "rotation"])
def test_a_method_can_be_read_in_one_sitting(name):
    text = (Path(methods.__file__).parent / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 90  # a tall screen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA to compare with the CPU")
@each_method
def test_cpu_and_cuda_give_the_same_codes(method):
    weight, inputs = layer()
    scheme = ql.Scheme(3, granularity=GROUP)
    here, there = method(weight, inputs, scheme), method(weight.cuda(), inputs.cuda(), scheme)
    assert torch.equal(here.weight.q, there.weight.q.cpu())
    with pytest.raises(ValueError, match="weight is on cuda:0 and inputs on cpu: move one"):
        awq(weight.cuda(), inputs, scheme)
