"""Quantized layers against exact references, and the layers of whole models swapped."""

import ast
import copy
import inspect
import io
import itertools
import operator
import warnings
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.files import checkpoint
from qlesson.files.packing import PackedTensor
from qlesson.models import tinygpt
from qlesson.nn import (
    IntegerLinear,
    QuantizedConv,
    QuantizedEmbedding,
    QuantizedLinear,
    Rotation,
    calibrate,
    load_state,
    quantize_model,
    state,
    to_onnx_qdq,
)
from qlesson.nn.swap import SWAPPED, _key, swappable
from qlesson.nn.weight import QuantizedWeight

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
BY_ROW = ql.Scheme(8, "symmetric", ql.PerAxis(0))
PER_TOKEN = ql.Scheme(granularity=ql.PerAxis(0))
WEIGHTS = [ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(-2), ql.PerGroup(8), ql.PerGroup(7, 1)]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(x):
    return (8 * x.detach()).round()


def linear(inputs=30, outputs=12, bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def quantized(layer, scheme, activations=None, qparams=None):
    return QuantizedLinear(ql.quantize(layer.weight, scheme), layer.bias, activations, qparams)


# --- one linear layer -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", [ql.Scheme(4, "asymmetric", ql.PerGroup(7)), ql.Scheme(16)])
def test_weight_only_is_the_product_with_w_hat(scheme, dtype):
    layer, x = linear(), drawn(2, 5, 30, dtype=dtype)
    got = quantized(layer, scheme)(x)
    w_hat = ql.quantize(layer.weight, scheme).dequantize(dtype)
    assert got.dtype == dtype
    assert torch.equal(got, F.linear(x, w_hat, layer.bias.to(dtype)))


def test_weight_only_passes_the_gradient_to_its_input():
    layer, x = linear(), drawn(5, 30).requires_grad_()
    new = quantized(layer, BY_ROW)
    new(x).sum().backward()
    assert torch.allclose(x.grad, new.weight.sum(0).expand(5, 30), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_bias_that_learns_has_its_gradient_with_inputs_of_any_dtype(dtype):
    for layer, x in ((linear(), drawn(5, 30)), (nn.Conv1d(30, 4, 1), drawn(5, 30, 1))):
        for x_learns in (False, True):
            new = quantize_model(nn.Sequential(layer), BY_ROW)[0]
            new(x.to(dtype).requires_grad_(x_learns)).sum().backward()
            assert torch.equal(new[0].bias.grad, torch.full_like(new[0].bias, 5))


LEARNED = {
    "codes.scale": lambda: (quantized(linear(), BY_ROW), drawn(2, 30)),
    "codes.minimum": lambda: (QuantizedLinear(with_minima()), drawn(2, 32)),
    "per token": lambda: (quantized(linear(), BY_ROW, PER_TOKEN), drawn(2, 30)),
    "input_scale": lambda: (static_layer(), drawn(2, 30)),
    "embedding": lambda: (QuantizedEmbedding(ql.quantize(drawn(9, 4), BY_ROW)), torch.tensor([1])),
    "head": lambda: (QuantizedEmbedding(ql.quantize(drawn(9, 4), BY_ROW)).project, drawn(2, 4)),
    "conv": lambda: (quantize_model(nn.Conv1d(4, 4, 3), BY_ROW)[0], drawn(2, 4, 9)),
}


def static_layer():
    return quantized(linear(), BY_ROW, ql.Scheme(), ql.QParams(1, 0))


def with_minima():
    q = torch.ones(3, 32, dtype=torch.uint8)
    return Blocks(q, torch.ones(3, 1), torch.ones(3, 1), 4, 32)


@pytest.mark.parametrize("kernels", ["eager", "compiled"])
@pytest.mark.parametrize("name", LEARNED)
def test_a_step_that_learns_is_refused_and_not_left_without_its_gradient(name, kernels):
    with ql.use_kernels(kernels):  # compiled, one that has run asks less
        _check_that_a_step_may_not_learn(name)


def _check_that_a_step_may_not_learn(name):
    run, x = LEARNED[name]()
    layer = getattr(run, "__self__", run)
    buffer = name if "_" in name or "." in name else "codes.scale"
    held = layer.get_buffer(buffer)
    run(x)
    held.requires_grad_()
    with torch.no_grad():
        run(x)
    words = f"{buffer.removeprefix('codes.')} requires a gradient, and a quantized layer gives it"
    torch._dynamo.reset()  # it compiles a function for so many layers only
    for mode in (run, torch.compile(run, fullgraph=True, backend="eager")):
        with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match=words):
            mode(x)
    owner = layer.get_submodule(buffer.rpartition(".")[0])
    with pytest.raises(ValueError, match=words):
        setattr(owner, buffer.rpartition(".")[2], nn.Parameter(held.detach()))
    assert layer.get_buffer(buffer) is held


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("granularity", WEIGHTS)
@pytest.mark.parametrize("mapping_w,bits", [("symmetric", 8), ("asymmetric", 8), ("asymmetric", 4)])
@pytest.mark.parametrize("mapping_x,signed", [("symmetric", True), ("asymmetric", False)])
@pytest.mark.parametrize("ranges", ["per tensor", "per token", "static"])
def test_w8a8_is_exact(granularity, mapping_w, bits, mapping_x, signed, ranges, device):
    """Each int32 sum equals the 64-bit one, and y the same numbers added up in float64."""
    inputs = ql.PerAxis(0) if ranges == "per token" else ql.PerTensor()
    activations = ql.Scheme(8, mapping_x, inputs, signed)
    layer, x = linear().to(device), drawn(6, 30).to(device) + 0.5
    qparams = ql.choose_qparams(x, activations) if ranges == "static" else None
    new = quantized(layer, ql.Scheme(bits, mapping_w, granularity), activations, qparams)
    x_codes = ql.quantize(x, activations)
    assert torch.equal(new.quantize_input(x).q, x_codes.q)

    x_part = x_codes.q.long() - x_codes.zero_point.long()
    w = new.codes.held
    size = getattr(granularity, "group_size", 30)
    z_w, s_w = (p.reshape(1, 1) if p.ndim == 0 else p for p in (w.zero_point, w.scale))
    y = layer.bias.double()
    for i, acc in enumerate(new.accumulators(x_codes)):
        part = slice(size * i, size * (i + 1))
        w_part = w.q[:, part].long() - z_w[:, i : i + 1].long()
        wanted = (x_part[:, None, part] * w_part).sum(2)
        assert torch.equal(acc.long(), wanted)
        y = y + wanted * x_codes.scale.double() * s_w[:, i].double()
    assert size * (i + 1) >= 30
    assert torch.allclose(new(x).double(), y, rtol=1e-5, atol=1e-5)
    w_hat, x_hat = w.dequantize(torch.float64), x_codes.dequantize(torch.float64)
    assert torch.allclose(y, F.linear(x_hat, w_hat, layer.bias.double()), atol=1e-5)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 20)),
    weight_bits=st.sampled_from([2, 4, 8]),
    input_bits=st.sampled_from([3, 8]),
    mappings=st.tuples(*[st.sampled_from(["symmetric", "asymmetric"])] * 2),
    group_size=st.integers(1, 80),
    grouped=st.booleans(),
    signed=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_w8a8_is_exact_for_any_shape(
    shape, weight_bits, input_bits, mappings, group_size, grouped, signed, seed
):
    """The sums of the groups, put together in float64, are the product of the values."""
    m, k, n = shape
    by_mapping = [signed or mapping == "symmetric" for mapping in mappings]
    granularity = ql.PerGroup(group_size) if grouped else ql.PerAxis(0)
    scheme = ql.Scheme(weight_bits, mappings[0], granularity, by_mapping[0])
    activations = ql.Scheme(input_bits, mappings[1], ql.PerAxis(0), by_mapping[1])
    x, w = drawn(m, k, seed=seed) + 0.2, ql.quantize(drawn(n, k, seed=seed + 1), scheme)
    new = QuantizedLinear(w, None, activations)
    codes = new.quantize_input(x)
    x_part = codes.q.long() - codes.zero_point.long()
    size = min(group_size, k) if grouped else k
    w_part = w.q.long() - w.zero_point.long().repeat_interleave(size, 1)[:, :k]
    products = x_part[:, None] * w_part  # [m, n, k]
    sums = [p.sum(2) for p in products.split(size, 2)]
    accumulators = list(new.accumulators(codes))
    assert len(sums) == len(accumulators)
    assert all(torch.equal(a, b.long()) for a, b in zip(sums, accumulators, strict=True))
    y = sum(a.double() * s for a, s in zip(sums, w.scale.double().t(), strict=True))
    assert torch.allclose(new(x).double(), codes.scale.double() * y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_w8a8_takes_every_float_and_any_shape(dtype):
    new = quantized(linear(), BY_ROW, PER_TOKEN)
    x = drawn(2, 3, 30, dtype=dtype)
    assert new(x).dtype == dtype and new(x).shape == (2, 3, 12)
    assert torch.equal(new(x)[1, 2], new(x[1, 2]))  # a token does not see the others
    assert new(x[:, :0]).shape == (2, 0, 12)
    assert torch.allclose(new(x).float(), new(x.float()), rtol=0.02, atol=0.02)


def test_per_tensor_activations_see_the_whole_batch():
    new = quantized(linear(), BY_ROW, ql.Scheme())
    x = drawn(4, 30)
    assert not torch.equal(new(torch.cat([x, 50 * x]))[:4], new(x))


def test_static_ranges_clip_what_they_have_not_seen():
    new = quantized(linear(bias=False), BY_ROW, ql.Scheme(), ql.QParams(0.01, -128))
    x = torch.full((1, 30), 100.0)
    assert torch.allclose(new(x), new(torch.full((1, 30), 2.55)))
    x[0, 3] = torch.nan
    with pytest.raises(ValueError, match="1 NaN"):
        new(x)


@pytest.mark.parametrize("granularity", [ql.PerAxis(0), ql.PerGroup(4)])
@pytest.mark.parametrize("shape", [(2, 9), (2, 7), (2, 100), (0, 9), (2, 0), (9,), ()])
def test_w8a8_refuses_another_width(granularity, shape):
    new = quantized(linear(8, 3), ql.Scheme(8, "symmetric", granularity), PER_TOKEN)
    with pytest.raises(ValueError, match="but its last axis must be the layer's in_features=8"):
        new(torch.zeros(shape))
    assert new(torch.zeros(8)).shape == (3,)


def test_w8a8_is_the_same_under_autocast():
    new, x = quantized(linear(1, 12), BY_ROW, PER_TOKEN), drawn(4, 1)
    wanted = new(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(new(x), wanted)
        assert new(x).dtype == torch.float32
        assert new(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("learns", [False, True])
def test_autocast_leaves_float64_as_torch_does(learns):
    layer, x = linear().double(), drawn(4, 30, dtype=torch.float64).requires_grad_(learns)
    new = quantized(layer, BY_ROW)
    wanted = new(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert new(x).dtype == layer(x).dtype == torch.float64
        assert torch.equal(new(x), wanted)


def test_every_attribute_of_a_layer_can_be_asked_for():
    codes = ql.quantize(drawn(4, 8), BY_ROW)
    for weight in (codes, Blocks(codes.q, codes.scale, None, 8, 8)):
        layer = QuantizedLinear(weight)
        found = dict(inspect.getmembers(layer.codes)) | dict(inspect.getmembers(layer))
        assert found["in_features"] == 8


def test_row_sums_are_those_of_the_codes():
    new = quantized(linear(), ql.Scheme(8, "asymmetric", ql.PerGroup(8)), PER_TOKEN)
    q = new.codes.q.long()
    wanted = torch.stack([q[:, i : i + 8].sum(1) for i in range(0, 30, 8)])
    assert torch.equal(new.weight_sums.long(), wanted)
    assert "weight_sums" not in new.state_dict()


@pytest.mark.parametrize(
    "scheme,activations,qparams,message",
    [
        (ql.Scheme(8, "symmetric", ql.PerAxis(1)), PER_TOKEN, None, "inside the sum"),
        (ql.Scheme(8, "symmetric", ql.PerGroup(4, 0)), PER_TOKEN, None, "inside the sum"),
        (BY_ROW, ql.Scheme(granularity=ql.PerGroup(5)), None, "one scale per token"),
        (BY_ROW, ql.Scheme(granularity=ql.PerAxis(1)), None, "one scale per token"),
        (BY_ROW, PER_TOKEN, ql.QParams(0.1, 0), "without qparams"),
        (ql.Scheme(16), PER_TOKEN, None, "at most 8 bits"),
        (BY_ROW, ql.Scheme(16), None, "at most 8 bits"),
        (BY_ROW, None, ql.QParams(0.1, 0), "without activations"),
    ],
)
def test_a_linear_layer_refuses(scheme, activations, qparams, message):
    with pytest.raises(ValueError, match=message):
        quantized(linear(), scheme, activations, qparams)


def test_a_linear_layer_wants_a_scheme():
    with pytest.raises(TypeError, match="activations must be a ql.Scheme, got 8"):
        quantized(linear(), BY_ROW, 8)


def test_a_sum_that_could_overflow_is_refused_unless_it_is_grouped():
    w = drawn(2, 33_026)
    with pytest.raises(ValueError, match="33026 inputs could overflow .* up to 33025"):
        QuantizedLinear(ql.quantize(w), None, PER_TOKEN)
    QuantizedLinear(ql.quantize(w[:, 1:]), None, PER_TOKEN)
    QuantizedLinear(ql.quantize(w, BY_ROW), None, PER_TOKEN)
    QuantizedLinear(ql.quantize(w, ql.Scheme(granularity=ql.PerGroup(4096))), None, PER_TOKEN)


def test_scales_keep_their_bits_when_the_model_is_cast():
    new = quantized(linear(), BY_ROW, ql.Scheme(), ql.QParams(0.1, 3))
    scale = new.codes.scale.clone()
    half = copy.deepcopy(new).half()
    assert torch.equal(half.codes.scale, scale) and half.input_scale.dtype == torch.float32
    assert half.bias.dtype == torch.float16 and half.weight.dtype == torch.float16
    assert torch.equal(half.weight, new.weight.half())
    assert half(drawn(2, 30).half()).dtype == torch.float16
    assert new.double().weight.dtype == torch.float64


@pytest.mark.parametrize("kernels", ["eager", "compiled"])
@pytest.mark.parametrize("kind", ["grouped", "rotated", "static", "whole"])
def test_codes_stay_whole_when_all_is_cast(kind, kernels):
    """model.type(dtype) casts every buffer, and not floats alone."""
    four = ql.Scheme(4, granularity=ql.PerGroup(32))
    w, (x, static, integers) = ql.quantize(drawn(9, 64), four), integer_only()
    layer = {
        "grouped": QuantizedLinear(w),
        "rotated": QuantizedLinear(w, factor=Rotation(64, 8)),
        "static": static,
        "whole": integers,
    }[kind]
    if kind == "whole":
        x = static.quantize_input(x).q
    held = {n: b.clone() for n, b in layer.named_buffers() if not b.is_floating_point()}
    assert held
    wanted = layer(x)
    layer.type(torch.bfloat16)
    for name, codes in held.items():
        assert layer.get_buffer(name).dtype == codes.dtype
        assert torch.equal(layer.get_buffer(name), codes)
    with ql.use_kernels(kernels):
        y = layer(x if kind == "whole" else x.bfloat16())
    torch.testing.assert_close(y.float(), wanted.float(), rtol=0.05, atol=0.2)


def test_codes_of_inputs_from_elsewhere_are_refused():
    layer = QuantizedLinear(ql.quantize(drawn(6, 8), BY_ROW), None, ql.Scheme(8))
    x = layer.quantize_input(drawn(3, 8))
    there = ql.QTensor._trusted(*(t.to("meta") for t in (x.q, x.scale, x.zero_point)), x.scheme)
    for ask in (layer.product, lambda x: list(layer.accumulators(x))):
        with pytest.raises(ValueError, match="x is on meta and the layer on cpu: move one"):
            ask(there)


# --- embedding and convolution --------------------------------------------------------------------


@pytest.mark.parametrize(
    "granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerAxis(-1), ql.PerGroup(3)]
)
@pytest.mark.parametrize("rows", [1, 9])
def test_an_embedding_is_a_row_of_w_hat(granularity, rows):
    w = ql.quantize(drawn(rows, 8), ql.Scheme(4, "asymmetric", granularity))
    new, ids = QuantizedEmbedding(w), torch.tensor([[0, rows - 1, 0], [rows // 2, 0, 0]])
    assert torch.equal(new(ids), w.dequantize()[ids])
    assert new(ids[:0]).shape == (0, 3, 8)
    assert (new.num_embeddings, new.embedding_dim) == (rows, 8)


def test_an_embedding_refuses_groups_of_rows():
    with pytest.raises(ValueError, match="groups several rows"):
        QuantizedEmbedding(ql.quantize(drawn(8, 8), ql.Scheme(granularity=ql.PerGroup(4, 0))))


def test_an_embedding_takes_no_bias():
    """Neither does nn.Embedding, and one that was held would be left out of what it gives."""
    w = ql.quantize(drawn(8, 8), ql.Scheme(4))
    with pytest.raises(TypeError, match="unexpected keyword argument 'bias'"):
        QuantizedEmbedding(w, bias=drawn(8))
    assert QuantizedEmbedding(w).bias is None


CONVS = {
    "1d": (partial(nn.Conv1d, 4, 6, 3), (2, 4, 11)),
    "2d": (partial(nn.Conv2d, 4, 6, (3, 2)), (2, 4, 9, 8)),
    "3d": (partial(nn.Conv3d, 4, 6, 2), (2, 4, 5, 5, 5)),
}


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1, "groups": 2, "bias": False},
        {"padding": "same", "dilation": 2},
        {"padding": 1, "padding_mode": "circular"},
    ],
)
def test_a_convolution_is_the_one_with_w_hat(kind, settings):
    make, shape = CONVS[kind]
    conv, scheme = make(**settings), ql.Scheme(4, "symmetric", ql.PerAxis(0))
    new = quantize_model(conv, scheme)[0]
    assert isinstance(new, QuantizedConv)
    same = copy.deepcopy(conv)
    same.weight.data = ql.quantize(conv.weight.flatten(1), scheme).dequantize().view_as(conv.weight)
    assert torch.equal(new(drawn(*shape)), same(drawn(*shape)))
    assert torch.equal(new.weight, same.weight)


# --- integers only --------------------------------------------------------------------------------


OUTPUT = ql.Scheme()


def integer_only(scheme=BY_ROW, bias=True, output=OUTPUT, signed=True):
    """An input, a static layer, and the same layer on integers."""
    layer, x = linear(64, 24, bias), drawn(50, 64) + 0.3
    activations = ql.Scheme(rounding="outside", signed=signed)
    static = quantized(layer, scheme, activations, ql.choose_qparams(x, activations))
    return x, static, IntegerLinear(static, output, ql.choose_qparams(layer(x), output))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "output", [ql.Scheme(), ql.Scheme(signed=False), ql.Scheme(8, "symmetric")]
)
@pytest.mark.parametrize("scheme", [BY_ROW, ql.Scheme(), ql.Scheme(granularity=ql.PerAxis(0))])
def test_integer_only_is_the_static_layer_within_one_code(scheme, output, bias):
    x, static, new = integer_only(scheme, bias, output)
    q = static.quantize_input(x)
    accumulator = new.accumulator(q.q)
    (total,) = static.accumulators(q)
    assert torch.equal(accumulator, total + new.bias_codes)
    wanted = ql.quantize(static(x), output, (new.output_scale, new.output_zero_point))
    got = new(q.q)
    assert got.dtype == output.dtype
    assert (got.int() - wanted.q.int()).abs().max() <= 1
    assert (got != wanted.q).float().mean() < 0.01  # the bias, rounded to s_x s_w


def test_integer_only_uses_no_float():
    x, static, new = integer_only(ql.Scheme())
    q = static.quantize_input(x).q
    wanted = new(q)
    for scale in (static.input_scale, static.codes.scale, new.output_scale, static.bias.data):
        scale.fill_(torch.nan)
    assert torch.equal(new(q), wanted)


def test_integer_only_refuses():
    dynamic = quantized(linear(), BY_ROW, PER_TOKEN)
    grouped = quantized(
        linear(), ql.Scheme(granularity=ql.PerGroup(8)), ql.Scheme(), ql.QParams(0.1, 0)
    )
    for layer in (dynamic, grouped):
        with pytest.raises(ValueError, match="layer must be static"):
            IntegerLinear(layer, ql.Scheme(), ql.QParams(0.1, 0))
    static = quantized(linear(), BY_ROW, ql.Scheme(), ql.QParams(0.1, 0))
    with pytest.raises(ValueError, match="one scale"):
        IntegerLinear(static, PER_TOKEN, ql.QParams(0.1, 0))
    big = linear()
    big.bias.data[3] = 2_147_000_000 * 1e-3 * 1e-3
    weight = ql.quantize(big.weight, ql.Scheme(8, "symmetric"), ql.QParams(1e-3, 0))
    static = QuantizedLinear(weight, big.bias, ql.Scheme(), ql.QParams(1e-3, 0))
    with pytest.raises(ValueError, match="could overflow the 32-bit sum"):
        IntegerLinear(static, ql.Scheme(), ql.QParams(0.1, 0))
    big.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match="bias holds 1 NaN"):
        IntegerLinear(static, ql.Scheme(), ql.QParams(0.1, 0))


def run_onnx(path, x, signed, optimize=True):
    """The codes of y, and the operators that onnxruntime really ran."""
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_EXTENDED if optimize else levels.ORT_DISABLE_ALL
    )
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    if not signed:
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.optimized_model_filepath = str(path.with_suffix(".ran.onnx"))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    ran = [n.op_type for n in onnx.load(path.with_suffix(".ran.onnx")).graph.node]
    return session.run(None, {"x": x.numpy()})[0], ran


# Without VNNI onnxruntime adds pairs of int8 products in 16 bits, like torch (test_integer.py).
# Seven bits of weight leave room for that, and so does the option for uint8 in `run_onnx`.
EXPORTS = [
    (BY_ROW, False),
    (ql.Scheme(8, "symmetric"), False),
    (ql.Scheme(8), False),
    (ql.Scheme(7, "symmetric", ql.PerAxis(0)), True),
    (ql.Scheme(4, "symmetric"), True),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scheme,signed", EXPORTS)
def test_the_exported_layer_gives_the_same_codes(scheme, signed, bias, tmp_path):
    x, static, new = integer_only(scheme, bias, ql.Scheme(signed=signed), signed)
    wanted = new(static.quantize_input(x).q).numpy()
    to_onnx_qdq(new, tmp_path / "layer.onnx")
    onnx.checker.check_model(str(tmp_path / "layer.onnx"), full_check=True)
    got, ran = run_onnx(tmp_path / "layer.onnx", x, signed)
    assert ran == ["QuantizeLinear", "QGemm"]  # one integer operator
    assert got.dtype == wanted.dtype and np.array_equal(got, wanted)
    in_float, ran = run_onnx(tmp_path / "layer.onnx", x, signed, optimize=False)
    assert "Gemm" in ran
    assert np.abs(in_float.astype(int) - wanted).max() <= 1


def test_onnx_adds_up_the_same_accumulator():
    """MatMulInteger of onnxruntime is the sum of the four terms."""
    x, static, new = integer_only(ql.Scheme(7), bias=False)
    q, w = static.quantize_input(x), static.codes.held
    node = onnx.helper.make_node("MatMulInteger", ["x", "w", "z_x", "z_w"], ["y"])
    values = {"x": q.q, "w": w.q.t().contiguous(), "z_x": q.zero_point, "z_w": w.zero_point}
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [make(n, onnx.TensorProto.INT8, list(v.shape)) for n, v in values.items()],
        [make("y", onnx.TensorProto.INT32, [50, 24])],
    )
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (got,) = session.run(None, {n: v.numpy() for n, v in values.items()})
    assert np.array_equal(got, new.accumulator(q.q).numpy())


@pytest.mark.parametrize("name, value", [
    ("multiplier", -5), ("multiplier", 2**31), ("shift", -5), ("shift", 0), ("shift", 63),
])  # fmt: skip
def test_an_integer_layer_takes_no_factor_that_is_none(name, value):
    _, _, new = integer_only()
    held = new.state_dict()
    new.load_state_dict(held)
    with pytest.raises(RuntimeError, match=f"{name} holds codes from .*: save the layer as it is"):
        new.load_state_dict(held | {name: torch.full_like(held[name], value)})


@pytest.mark.parametrize("value", [1e-300, 1e300, 3e38, 1e-46])
def test_a_state_dict_brings_no_scale_that_the_layer_cannot_hold(value):
    """In the dtype of the layer it would be 0 or infinite, or its codes would be."""
    for layer, name in (
        (quantized(linear(), BY_ROW), "codes.scale"),
        (integer_only()[2], "output_scale"),
    ):
        held = layer.state_dict()
        before = held[name].clone()
        with pytest.raises(RuntimeError, match="which is to hold them, they are no steps"):
            layer.load_state_dict(held | {name: torch.full_like(before.double(), value)})
        assert torch.equal(layer.state_dict()[name], before)
        layer.load_state_dict(held | {name: before.double()})


@pytest.mark.parametrize("scheme", [ql.Scheme(16), BY_ROW])
def test_a_layer_can_be_asked_for_all_it_has(scheme):
    layer = quantized(linear(), scheme)
    assert hasattr(layer, "weight_sums") == (scheme.bits == 8)
    assert all(hasattr(layer, name) for name in dir(layer) if name != "weight_sums")


def test_the_export_refuses_what_onnx_would_clip_elsewhere(tmp_path):
    for activations, output in [
        (ql.Scheme(8, "symmetric"), ql.Scheme()),
        (ql.Scheme(4), ql.Scheme()),
        (ql.Scheme(), ql.Scheme(8, "symmetric")),
    ]:
        static = quantized(linear(), BY_ROW, activations, ql.QParams(0.1, 0))
        with pytest.raises(ValueError, match="ONNX clips at the ends of its 8-bit types"):
            to_onnx_qdq(IntegerLinear(static, output, ql.QParams(0.1, 0)), tmp_path / "x.onnx")


@pytest.mark.parametrize("name", ["layer.json", "layer.txt", "layer"])
def test_the_export_is_onnx_under_any_name_and_whole_or_not_there(name, tmp_path, monkeypatch):
    new = integer_only()[2]
    to_onnx_qdq(new, tmp_path / "layer.onnx")
    to_onnx_qdq(new, tmp_path / name)
    good = (tmp_path / "layer.onnx").read_bytes()
    assert (tmp_path / name).read_bytes() == good

    def half(path, data):
        path.open("wb").write(data[:10])
        raise OSError("the disk is full")

    monkeypatch.setattr(type(tmp_path), "write_bytes", half)
    with pytest.raises(OSError, match="the disk is full"):
        to_onnx_qdq(new, tmp_path / name)
    monkeypatch.undo()
    assert (tmp_path / name).read_bytes() == good and len(list(tmp_path.iterdir())) == 2


def test_the_export_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        to_onnx_qdq(integer_only()[2], tmp_path / "x.onnx")


# --- whole models ---------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose weight is also the head's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.body(self.embedding(ids)).relu())


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.list = nn.ModuleList([self.first, nn.Linear(8, 8)])
        self.kept = [self.first]  # a plain list refers to it too

    def forward(self, x):
        return self.list[1](self.list[0](self.first(x)))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )


def transformer():
    torch.manual_seed(0)
    return nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)


def fake(model, scheme):
    """The float model with W_hat in place of the weight of every layer that can be swapped."""
    model = copy.deepcopy(model)
    for layer in {_key(x): x for x in swappable(model).values()}.values():
        w_hat = ql.quantize(layer.weight.flatten(1), scheme).dequantize()
        layer.weight.data = w_hat.view_as(layer.weight).to(layer.weight.dtype)
    return model


MODELS = {
    "mlp": (mlp, lambda: (drawn(3, 8),)),
    "tied": (Tied, lambda: (torch.tensor([[1, 2, 10]]),)),
    "twice": (Twice, lambda: (drawn(3, 8),)),
    "convnet": (convnet, lambda: (drawn(2, 3, 8, 8),)),
    "transformer": (transformer, lambda: (drawn(2, 5, 16), drawn(2, 4, 16, seed=1))),
    "alone": (linear, lambda: (drawn(3, 30),)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [False, True])
def test_weight_only_models_compute_with_w_hat(name, training):
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().train(training)
    before = {n: x.clone() for n, x in model.state_dict().items()}
    scheme = ql.Scheme(4, "asymmetric", ql.PerGroup(4))
    qmodel, report = quantize_model(model, scheme)
    wanted = fake(model, scheme)
    with torch.set_grad_enabled(training):
        assert torch.equal(qmodel(*inputs()), wanted(*inputs()))
    assert {m.training for m in qmodel.modules()} <= {training, True}
    assert qmodel.training == training
    after = model.state_dict()
    if name != "convnet" or not training:
        assert all(torch.equal(before[n], after[n]) for n in before)
    own = {x.data_ptr() for x in [*model.parameters(), *model.buffers()]}
    new = {x.data_ptr() for x in [*qmodel.parameters(), *qmodel.buffers()] if x.numel()}
    assert not own & new
    swapped = {id(m) for m in model.modules() if type(m) in (*SWAPPED, OUT_PROJ)}
    assert len(report) == len(swapped)


OUT_PROJ = nn.modules.linear.NonDynamicallyQuantizableLinear


@pytest.mark.parametrize("name", MODELS)
def test_w8a8_models_stay_close(name):
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    qmodel, _ = quantize_model(model, BY_ROW, activations=PER_TOKEN)
    with torch.no_grad():
        weight_only = quantize_model(model, BY_ROW)[0](*inputs())
        got, wanted = qmodel(*inputs()), model(*inputs())
    assert ql.sqnr(wanted, got) > 25
    assert not torch.equal(got, weight_only)  # the inputs were quantized too


def test_the_fast_path_of_a_transformer_does_not_bypass_quantized_inputs():
    """In eval mode torch reads linear1.weight itself; W8A8 must not silently become weight-only."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    qmodel, _ = quantize_model(model, BY_ROW, activations=PER_TOKEN)
    calls = []
    qmodel.layers[1].linear1.register_forward_hook(lambda *_: calls.append(1))
    x = drawn(2, 5, 16)
    with torch.no_grad():
        fast = qmodel(x)
        assert calls == [1]
        padded = qmodel(x, src_key_padding_mask=torch.zeros(2, 5, dtype=torch.bool))
    assert calls == [1, 1]
    assert torch.allclose(fast, qmodel(x.requires_grad_()).detach(), atol=1e-5)
    assert torch.allclose(fast, padded, atol=1e-5)
    assert model.layers[0].activation_relu_or_gelu == 1


def test_the_output_of_attention_is_weight_only():
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    qmodel, report = quantize_model(attention, BY_ROW, activations=PER_TOKEN)
    assert qmodel.out_proj.activations is None
    assert [row.name for row in report] == ["out_proj"]
    x = drawn(2, 5, 16)
    with torch.no_grad():
        assert torch.equal(qmodel(x, x, x)[0], fake(attention, BY_ROW)(x, x, x)[0])
    assert "inputs stay float" in report[0].note


@pytest.mark.parametrize("scheme", [BY_ROW, ql.Scheme(4, "asymmetric", ql.PerGroup(32))])
def test_the_courses_gpt_has_the_perplexity_of_tinygpt_quantized(scheme):
    gpt = tinygpt.load()
    qmodel, report = quantize_model(gpt, scheme, skip="position_embedding")
    n = 2048
    wanted = tinygpt.perplexity(tinygpt.quantized(gpt, scheme), n=n)
    assert tinygpt.perplexity(qmodel, n=n) == wanted
    names = [row.name for row in report]
    assert sorted(names) == sorted(tinygpt.weight_matrices(gpt))
    with torch.no_grad():
        assert qmodel.generate("The ", 20) == tinygpt.quantized(gpt, scheme).generate("The ", 20)


def test_the_courses_gpt_in_w8a8():
    gpt = tinygpt.load()
    batches = [tinygpt.encode(tinygpt.calibration_text()[:512]).view(2, 256)]
    device = next(gpt.parameters()).device
    qparams = calibrate(gpt, [b.to(device) for b in batches], ql.Scheme())
    assert len(qparams) == 16
    float32 = tinygpt.perplexity(gpt, n=2048)
    for activations, static in ((PER_TOKEN, None), (ql.Scheme(), qparams)):
        qmodel, _ = quantize_model(gpt, BY_ROW, activations=activations, qparams=static)
        assert abs(tinygpt.perplexity(qmodel, n=2048) - float32) < 0.02 * float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activations", [None, PER_TOKEN])
def test_a_model_in_half_precision_stays_in_it(dtype, activations):
    gpt = tinygpt.load().to(dtype)
    qmodel, _ = quantize_model(gpt, BY_ROW, activations=activations)
    ids = tinygpt.encode("for i in range").to(gpt.token_embedding.weight.device)[None]
    with torch.no_grad():
        assert qmodel(ids).dtype == qmodel.token_embedding(ids).dtype == dtype
        assert ql.sqnr(gpt(ids), qmodel(ids)) > 25
    assert qmodel.token_embedding.codes.scale.dtype == torch.float32


def test_a_shared_weight_is_quantized_once_and_stays_shared():
    torch.manual_seed(0)
    model = Tied()
    qmodel, report = quantize_model(model, BY_ROW)
    assert qmodel.head.codes is qmodel.embedding.codes
    assert [row.bytes_before for row in report] == [11 * 8 * 4, 8 * 8 * 4, 0]
    assert report[2].bytes_after == 0 and report[2].note == "shares the codes of embedding"
    moved = copy.deepcopy(qmodel).to(torch.float64)
    assert moved.head.codes is moved.embedding.codes
    alone, _ = quantize_model(model, BY_ROW, skip="head")
    assert torch.equal(alone.head.weight, model.head.weight)
    assert alone.head.weight is not model.head.weight


def test_a_layer_used_twice_is_one_layer_everywhere():
    model = Twice()
    qmodel, report = quantize_model(model, BY_ROW)
    assert qmodel.first is qmodel.list[0] is qmodel.kept[0]
    assert isinstance(qmodel.first, QuantizedLinear)
    assert [row.name for row in report] == ["first", "list.1"]


def test_frozen_and_parametrized_layers():
    model = mlp()
    model[0].requires_grad_(False)
    nn.utils.parametrizations.weight_norm(model[2])
    model[2].parametrizations.weight.original0.data *= 2
    qmodel, _ = quantize_model(model, BY_ROW)
    assert torch.equal(qmodel[2].weight, ql.quantize(model[2].weight, BY_ROW).dequantize())
    assert type(qmodel[2]) is QuantizedLinear
    assert not qmodel[0].bias.requires_grad and qmodel[2].bias.requires_grad
    x = drawn(3, 8)
    qmodel(x).sum().backward()
    assert qmodel[2].bias.grad is not None and qmodel[0].bias.grad is None


def test_a_subclass_with_its_own_forward_stays():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Named(nn.Linear):
        pass

    model = nn.Sequential(Doubled(4, 4), Named(4, 4), nn.ConvTranspose1d(4, 4, 2))
    qmodel, report = quantize_model(model, BY_ROW)
    assert [row.name for row in report] == ["1"]
    assert type(qmodel[0]) is Doubled and type(qmodel[1]) is QuantizedLinear


def with_hook():
    model = mlp()
    model[2].register_forward_hook(lambda *_: None)
    return model


def with_own_forward():
    model = mlp()
    model[2].forward = lambda x: x
    return model


def with_nan():
    model = mlp()
    model[2].weight.data[1, 2] = torch.nan
    return model


def with_max_norm():
    return nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Embedding(5, 4, max_norm=1.0))


def with_buffer():
    model = mlp()
    model[2].register_buffer("mask", torch.ones(3))
    return model


def with_parameter():
    model = mlp()
    model[2].gain = nn.Parameter(torch.ones(3))
    return model


def with_child():
    model = mlp()
    model[2].adapter = nn.Linear(2, 2)
    return model


@pytest.mark.parametrize(
    "make,message",
    [
        (with_hook, "Layer '2': it has hooks"),
        (with_own_forward, "Layer '2': it has hooks"),
        (with_nan, "Layer '2': r holds 1 NaN and 0 infinite values, the first at index \\(1, 2\\)"),
        (with_max_norm, "Layer '2': its max_norm"),
        (with_buffer, "Layer '2': it holds mask, which a new layer would lose: keep that in"),
        (with_parameter, "Layer '2': it holds gain, which a new layer would lose"),
        (with_child, "Layer '2': it holds adapter, which a new layer would lose"),
        (lambda: nn.Sequential(nn.Identity(), nn.ReLU(), nn.LazyLinear(4)), "run the model once"),
    ],
)
def test_a_layer_that_cannot_be_swapped_is_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        quantize_model(make(), BY_ROW)
    assert str(caught.value).endswith("To leave this layer as it is: skip='2'.")
    quantize_model(make(), BY_ROW, skip="2")


def test_a_layer_alone_has_no_name_to_skip():
    with pytest.raises(ValueError, match="^it has hooks.*first\\.$"):
        quantize_model(with_hook()[2], BY_ROW)


def test_a_layer_on_meta_takes_what_is_assigned_whole():
    model = quantize_model(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), BY_ROW)[0].half()
    new = copy.deepcopy(model).to("meta")
    assert new[1](drawn(2, 8).to("meta")).shape == (2, 4)
    new.load_state_dict(model.state_dict(), assign=True)
    assert not any(x.is_meta for x in (*new.buffers(), *new.parameters()))
    ids = torch.tensor([[3, 0]])
    assert torch.equal(new.to("cpu")(ids), model(ids)) and new(ids[:, :0]).shape == (1, 0, 4)


def test_a_meta_layer_is_named():
    with pytest.raises(TypeError, match="Layer '0': r is on the meta device"):
        quantize_model(nn.Sequential(nn.Linear(4, 4, device="meta")), BY_ROW)


@pytest.mark.parametrize(
    "skip,left",
    [
        ((), []),
        ("head", ["head"]),
        (("embedding", "body"), ["body", "embedding"]),
        ("*d*", ["body", "embedding", "head"]),
        (["[bh]*"], ["body", "head"]),
    ],
)
def test_skip_takes_names_and_patterns(skip, left):
    qmodel, _ = quantize_model(Tied(), BY_ROW, skip)
    kept = [n for n in ("body", "embedding", "head") if type(getattr(qmodel, n)) in SWAPPED]
    assert kept == left


def test_a_pattern_fits_all_inside_a_module_and_every_name_of_a_layer():
    gpt = tinygpt.load("cpu")
    _, report = quantize_model(gpt, BY_ROW, skip=["blocks.[012]", "*embedding"])
    assert {row.name.split(".")[1] for row in report} == {"3"}
    _, report = quantize_model(Twice(), BY_ROW, skip="list.0")
    assert [row.name for row in report] == ["list.1"]


def test_a_scheme_for_each_pattern():
    wanted = {"body": ql.Scheme(4), "b*": ql.Scheme(2), "embedding": BY_ROW}
    qmodel, report = quantize_model(Tied(), wanted)
    assert {row.name: row.bits for row in report} == {"embedding": 8, "body": 4}
    assert type(qmodel.head) is nn.Linear


@pytest.mark.parametrize("pattern", ["nothing", "Head", "0.*"])
def test_a_pattern_that_fits_nothing_is_an_error(pattern):
    with pytest.raises(ValueError, match="fits none of what .*: 'embedding', 'body', 'head'"):
        quantize_model(Tied(), BY_ROW, skip=("head", pattern))
    with pytest.raises(ValueError, match="fits none of what could be quantized"):
        quantize_model(Tied(), {pattern: BY_ROW})


def test_what_is_no_model_or_has_no_layers():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got dict"):
        quantize_model({}, BY_ROW)
    with pytest.raises(TypeError, match="^scheme must be a ql.Scheme"):
        quantize_model(mlp(), 8)
    traced = torch.jit.trace(mlp(), drawn(2, 8))
    for model in (traced, nn.Sequential(traced, nn.Linear(4, 4))):
        with pytest.raises(TypeError, match="traced or scripted .*: quantize the model before"):
            quantize_model(model, BY_ROW)
    qmodel, report = quantize_model(nn.ReLU(), BY_ROW)
    assert isinstance(qmodel, nn.ReLU) and report == []
    assert "bytes in all" in str(report)


def test_no_float_copy_of_a_swapped_weight_is_made(monkeypatch):
    copied = []
    kept = nn.Parameter.__deepcopy__
    monkeypatch.setattr(
        nn.Parameter, "__deepcopy__", lambda p, memo: (copied.append(p.numel()), kept(p, memo))[1]
    )
    model = convnet()
    quantize_model(model, BY_ROW)
    assert sorted(copied) == [5, 8, 8, 8]  # the biases, and the batch norm's


def test_the_report_counts_every_byte():
    model = convnet()
    qmodel, report = quantize_model(model, BY_ROW, activations=PER_TOKEN)
    conv, head = report
    assert conv.shape == (8, 3, 3, 3) and conv.bytes_before == 8 * 27 * 4
    assert conv.bytes_after == 8 * 27 + 8 * 4  # codes and scales: symmetric, no zero points
    assert head.bytes_after == 512 * 5 + 5 * 4
    assert head.sqnr == pytest.approx(
        ql.sqnr(model[4].weight, ql.quantize(model[4].weight, BY_ROW).dequantize()).item()
    )
    before = sum(x.nbytes for x in [*model.parameters(), *model.buffers()])
    assert report.bytes_before == before
    rest = before - conv.bytes_before - head.bytes_before
    assert report.bytes_after == rest + conv.bytes_after + head.bytes_after
    saved = io.BytesIO()
    torch.save([x for x in [*qmodel.parameters(), *qmodel.buffers()]], saved)
    assert abs(len(saved.getvalue()) - report.bytes_after) < 8000  # torch's own overhead
    lines = str(report).split("\n")
    assert len(lines) == 5 and lines[1].startswith("0 ") and "8x3x3x3" in lines[1]
    assert lines[-1].split()[-2:] == [f"{before:,}", f"{report.bytes_after:,}"]


# --- what people's models have --------------------------------------------------------------------


class Noisy(nn.Module):
    """A parametrization that draws random numbers and counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + torch.randn(x.shape)


def parametrized():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)),
        nn.Linear(8, 8),
        nn.Unflatten(1, (2, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Conv1d(2, 4, 3)),
    )
    nn.utils.parametrize.register_parametrization(model[3], "weight", Noisy())
    return model


@pytest.mark.parametrize("train", [True, False])
def test_reading_a_weight_has_no_effect(train):
    model, x = parametrized().train(train), drawn(3, 8)
    before, rng = copy.deepcopy(model), torch.get_rng_state()
    qmodel, report = quantize_model(model, ql.Scheme(16))
    assert torch.equal(torch.get_rng_state(), rng)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert len(report) == 5 and all(row.sqnr > 80 for row in report)
    one = nn.Sequential(*[copy.deepcopy(before[i]) for i in (0, 1, 2, 4, 5)])  # without the noise
    new = nn.Sequential(*[qmodel[i] for i in (0, 1, 2, 4, 5)])
    assert ql.sqnr(one(x), new(x)) > 70
    tensors = state(qmodel)
    back = load_state(model, tensors)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert torch.equal(back(x), qmodel(x))


HOOKS = [
    name for name in dir(nn.Module) if name.lstrip("_").startswith("register_") and "hook" in name
]


@pytest.mark.parametrize("register", HOOKS)
def test_no_hook_is_lost_in_silence(register):
    model = mlp()
    getattr(model[2], register)(lambda *_: None)
    with pytest.raises(ValueError, match="Layer '2': it has hooks"):
        quantize_model(model, BY_ROW)
    with pytest.raises(ValueError, match="Layer '2': it has hooks"):
        load_state(model, state(quantize_model(mlp(), BY_ROW)[0]))


def test_a_swapped_layer_has_the_names_of_the_float_one():
    convs = [
        nn.Conv2d(4, 6, 3, 2, 1, 1, 2, padding_mode="reflect"),
        nn.Conv1d(2, 2, 3, padding="same", dilation=2),
    ]
    for layer in [nn.Embedding(9, 4, padding_idx=2), nn.Linear(5, 3), *convs]:
        new, _ = quantize_model(layer, BY_ROW)
        for name in {*layer.__constants__, "bias"} - {"_freeze"}:
            if hasattr(layer, name):
                wanted = getattr(layer, name)
                got = getattr(new, name)
                same = torch.equal if isinstance(wanted, torch.Tensor) else operator.eq
                assert same(got, wanted), name
        assert new.weight.shape == layer.weight.shape and new.weight.dtype == layer.weight.dtype
        back = load_state(layer, state(new))
        assert getattr(back, "padding_idx", None) == getattr(layer, "padding_idx", None)


def test_a_swapped_layer_takes_its_input_by_name():
    for layer, x in (
        (nn.Embedding(9, 4), torch.tensor([1, 2])),
        (nn.Linear(5, 3), drawn(2, 5)),
        (nn.Conv1d(2, 2, 3), drawn(1, 2, 5)),
    ):
        new, _ = quantize_model(layer, BY_ROW)
        assert torch.equal(new(input=x), new(x))
    new, _ = quantize_model(nn.Linear(5, 3), BY_ROW, activations=PER_TOKEN)
    assert torch.equal(new(input=drawn(2, 5)), new(drawn(2, 5)))


class Tripled(nn.Linear):
    def forward(self, input):
        return 3 * super().forward(input)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts, self.scale = nn.Parameter(drawn(4, 8, 8)), nn.Parameter(torch.ones(8))


STAYS = {
    "lstm": (lambda: nn.LSTM(4, 4), ["weight_ih_l0", "weight_hh_l0"], "nn.LSTM is none of"),
    "gru": (lambda: nn.GRUCell(4, 4), ["weight_ih", "weight_hh"], "nn.GRUCell is none of"),
    "transposed": (lambda: nn.ConvTranspose2d(2, 2, 3), ["weight"], "nn.ConvTranspose2d is none"),
    "bag": (lambda: nn.EmbeddingBag(4, 4), ["weight"], "nn.EmbeddingBag is none of"),
    "bilinear": (lambda: nn.Bilinear(2, 2, 2), ["weight"], "nn.Bilinear is none of"),
    "experts": (Experts, ["experts"], "a parameter of Experts's own, in no layer"),
    "subclass": (lambda: Tripled(4, 4), ["weight"], "Tripled has a forward of its own"),
}


@pytest.mark.parametrize("kind", STAYS)
def test_what_stays_float_is_listed_and_said(kind):
    make, names, reason = STAYS[kind]
    with pytest.warns(UserWarning, match="quantize_model swapped nothing.*" + reason) as caught:
        _, report = quantize_model(make(), BY_ROW)
    assert caught[0].filename == __file__
    assert [x.name for x in report.stayed] == names
    model = nn.Sequential(make(), nn.Linear(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, report = quantize_model(model, BY_ROW)
    assert [x.name for x in report.stayed] == ["0." + name for name in names]
    assert all(reason in x.reason and not x.chosen for x in report.stayed)
    assert [x.shape for x in report.stayed] == [
        tuple(p.shape) for n, p in model[0].named_parameters() if n in names
    ]
    assert f"stays float: 0.{names[0]} (" in str(report) and reason in str(report)


def test_what_was_left_by_choice_is_listed_and_not_printed():
    model = mlp()
    full = str(quantize_model(model, BY_ROW)[1])
    _, report = quantize_model(model, BY_ROW, skip="2")
    assert [(x.name, x.chosen) for x in report.stayed] == [("2.weight", True)]
    assert len(str(report).split("\n")) == len(full.split("\n")) - 1
    attention = nn.MultiheadAttention(4, 1)
    _, report = quantize_model(attention, BY_ROW)
    assert [x.name for x in report.stayed] == ["in_proj_weight"]
    assert "nn.MultiheadAttention reads it itself" in report.stayed[0].reason
    with pytest.warns(UserWarning, match="swapped nothing.*it has no weights to quantize"):
        quantize_model(nn.ReLU(), BY_ROW)


class Bracketed(nn.Module):
    def __init__(self):
        super().__init__()
        self.d = nn.ModuleDict({"h[0]": nn.Linear(4, 4), "h0": nn.Linear(4, 4), "x*": mlp()})


def test_an_exact_name_wins_before_a_pattern():
    model, four, three = Bracketed(), ql.Scheme(4), ql.Scheme(3)
    names = [row.name for row in quantize_model(model, BY_ROW)[1]]
    for name in names:
        _, report = quantize_model(model, BY_ROW, skip=name)
        assert [row.name for row in report] == [n for n in names if n != name]
        for schemes in ({name: four, "*": three}, {"*": three, name: four}):
            _, report = quantize_model(model, schemes)
            assert [row.name for row in report if row.bits == 4] == [name]
    _, report = quantize_model(model, BY_ROW, skip="d.x*")
    assert [row.name for row in report] == ["d.h[0]", "d.h0"]
    _, report = quantize_model(model, BY_ROW, skip="d.h[[]*")  # still a pattern
    assert "d.h[0]" not in [row.name for row in report] and len(report) == 3


def test_the_advice_of_a_message_works_when_followed():
    model = Bracketed()
    model.d["h[0]"].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="To leave this layer as it is: skip=") as error:
        quantize_model(model, BY_ROW)
    advice = str(error.value).rpartition("skip=")[2].rstrip(".")
    _, report = quantize_model(model, BY_ROW, skip=ast.literal_eval(advice))
    assert [row.name for row in report] == ["d.h0", "d.x*.0", "d.x*.2"]


def test_a_bias_is_one_float_for_each_output():
    w = ql.quantize(drawn(3, 4), BY_ROW)
    for bias in (torch.ones(1), torch.ones(3, 1), torch.ones(3).int(), torch.ones(3) + 1j):
        with pytest.raises(ValueError, match="bias must hold one float for each of the 3 outputs"):
            QuantizedLinear(w, bias, PER_TOKEN)
    with pytest.raises(TypeError, match="bias must be a torch tensor, got float"):
        QuantizedLinear(w, 1.0)
    for activations, mode in itertools.product((None, PER_TOKEN), ("eager", "compiled")):
        with torch.no_grad(), ql.use_kernels(mode):
            layer, x = QuantizedLinear(w, torch.ones(3), activations), drawn(2, 4)
            layer(x)  # from the second call on fewer questions are asked
            for other in (torch.ones(1), torch.ones(2), torch.ones(3, 1), torch.tensor(1.0)):
                layer.bias = nn.Parameter(other, requires_grad=False)
                with pytest.raises(ValueError, match="bias must hold one float for each of the 3"):
                    layer(x)
            layer.bias = nn.Parameter(torch.ones(3, device="meta"), requires_grad=False)
            with pytest.raises(ValueError, match="bias is on meta and the layer on cpu"):
                layer(x)
    with pytest.raises(TypeError, match="weight must be a QTensor or Blocks, got Tensor: use ql"):
        QuantizedLinear(drawn(3, 4))
    for kind in (QuantizedLinear, QuantizedEmbedding):
        with pytest.raises(ValueError, match="weight must be a matrix"):
            kind(ql.quantize(drawn(3, 4, 5), BY_ROW))
    with pytest.raises(TypeError, match="input must be torch.float32, .*got torch.int64"):
        QuantizedLinear(w)(torch.ones(2, 4).long())


# --- exported and compiled ------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.up, self.down = (
            nn.Embedding(10, 12),
            nn.Linear(12, 30),
            nn.Linear(30, 7),
        )

    def forward(self, ids):
        return self.down(torch.relu(self.up(self.embedding(ids))))


def picture():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(4, 2, 1))


INPUTS = {
    "weight-only": None,
    "per token": PER_TOKEN,
    "per tensor": ql.Scheme(signed=False),
    "literal": ql.Scheme(include_zero=False),
    "static": ql.Scheme(8, "symmetric"),
}


@pytest.mark.parametrize(
    "how, granularity",
    [(how, ql.PerGroup(5)) for how in (*INPUTS, "convolution")]
    + [("weight-only", ql.PerTensor()), ("per token", ql.PerTensor()), ("static", ql.PerAxis(0))],
)
def test_a_quantized_model_is_exported_and_compiled_whole(how, granularity):
    torch.manual_seed(0)
    scheme = ql.Scheme(4, "asymmetric", granularity)
    if how == "convolution":
        model, x = quantize_model(picture(), scheme)[0], drawn(2, 3, 8, 8)
    else:
        words, x = Words(), torch.tensor([[1, 2, 3], [4, 5, 6]])
        found = calibrate(words, [x], INPUTS[how]) if how == "static" else None
        model, _ = quantize_model(words, scheme, activations=INPUTS[how], qparams=found)
    wanted = model(x)
    exported = torch.export.export(model, (x,))
    assert torch.equal(exported.module()(x), wanted)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # a break is an error
    assert torch.equal(compiled(x), wanted)


def test_the_compilers_own_loops_give_the_same_values():
    torch.manual_seed(0)
    model, _ = quantize_model(Words(), BY_ROW, activations=PER_TOKEN)
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(model, fullgraph=True)(x), model(x))


@pytest.mark.parametrize(
    "granularity, bits", [(ql.PerAxis(0), 8), (ql.PerTensor(), 4), (ql.PerAxis(1), 4)]
)
def test_a_compiled_embedding_takes_no_number_outside_of_its_rows(granularity, bits):
    """As nn.Embedding: compiled by torch 2.12 and older, that counts -1 from the end."""
    scheme = ql.Scheme(bits, "symmetric", granularity)
    embedding, _ = quantize_model(nn.Embedding(9, 16), scheme)
    torch._dynamo.reset()
    run = torch.compile(embedding)
    with torch.no_grad():
        assert torch.equal(run(torch.tensor([8])), embedding(torch.tensor([8])))
        older = torch.__version__.startswith(("2.11.", "2.12."))
        for outside in (9,) if older else (-1, 9):
            with pytest.raises(RuntimeError, match="index out of bounds: 0 <= "):
                run(torch.tensor([outside]))


# --- calibration ----------------------------------------------------------------------------------


def test_calibrate_takes_the_range_over_all_batches():
    # Of whole numbers every sum is exact, so a product of 7 rows and two of 5 and 2 agree.
    model, a, b = mlp(), whole(drawn(5, 8)), whole(3 * drawn(2, 8, seed=1))
    for p in model.parameters():
        p.data = whole(p)
    before = copy.deepcopy(model.state_dict())
    scheme = ql.Scheme()
    found = calibrate(model, [a, (b,), {"input": a}], scheme)
    both = torch.cat([a, b])
    wanted = {"0": both, "2": model[1](model[0](both)).detach()}
    for name, x in wanted.items():
        for got, p in zip(found[name], ql.choose_qparams(x, scheme), strict=True):
            assert torch.equal(got, p)
    assert all(torch.equal(before[n], x) for n, x in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())
    qmodel, _ = quantize_model(model, BY_ROW, activations=scheme, qparams=found)
    assert torch.equal(qmodel[0].input_scale, found["0"].scale)
    assert ql.sqnr(model(both), qmodel(both)) > 30


def test_calibrate_learns_nothing_from_an_empty_batch():
    model, x = mlp(), drawn(5, 8)
    assert calibrate(model, [x[:0]], ql.Scheme()) == {}
    assert calibrate(model, [x[:0], x], ql.Scheme()) == calibrate(model, [x], ql.Scheme())


def test_calibrate_refuses():
    model = mlp()
    with pytest.raises(ValueError, match="The input of layer '0' holds NaN"):
        calibrate(model, [torch.full((2, 8), torch.nan)], ql.Scheme())
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="ql.PerTensor"):
        calibrate(model, [], PER_TOKEN)
    with pytest.raises(ValueError, match="Layer '0': qparams have no range for it"):
        quantize_model(model, BY_ROW, activations=ql.Scheme(), qparams={})
    one = {"0": ql.QParams(0.1, 0)}
    with pytest.raises(ValueError, match="qparams are given without activations"):
        quantize_model(model, BY_ROW, qparams=one)
    with pytest.raises(ValueError, match="qparams name \\['1'\\], which are no layers"):
        quantize_model(model, BY_ROW, activations=ql.Scheme(), qparams={**one, "1": one["0"]})


# --- to a file and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_state_and_back(name):
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    qmodel, _ = quantize_model(model, BY_ROW, activations=PER_TOKEN)
    tensors = state(qmodel)
    assert set(tensors) == {n for n, _ in [*model.named_parameters(), *model.named_buffers()]}
    other = make().eval()
    for x in other.parameters():
        x.data += 1
    back = load_state(other, tensors, PER_TOKEN)
    with torch.no_grad():
        assert torch.equal(back(*inputs()), qmodel(*inputs()))
    assert len(list(back.buffers())) == len(list(qmodel.buffers()))  # what was shared still is


@pytest.mark.parametrize("skip", ["head", "embedding"])
def test_state_of_a_shared_weight_that_one_layer_keeps_in_float(skip):
    torch.manual_seed(0)
    qmodel, ids = quantize_model(Tied(), BY_ROW, skip)[0], torch.tensor([1, 4])
    back = load_state(Tied(), state(qmodel))
    assert torch.equal(back(ids), qmodel(ids))
    assert isinstance(getattr(back, skip), SWAPPED)


def test_state_of_static_layers_packed_tensors_and_plain_shapes():
    model, x = convnet().eval(), drawn(2, 3, 8, 8)
    qparams = calibrate(model, [x], ql.Scheme())
    qmodel, _ = quantize_model(model, BY_ROW, activations=ql.Scheme(), qparams=qparams)
    tensors = state(qmodel)
    assert torch.equal(tensors["4.input_scale"], qparams["4"].scale)
    tensors["4.weight"] = PackedTensor.pack(tensors["4.weight"])
    tensors["0.weight"] = ql.quantize(model[0].weight, BY_ROW)  # 4 axes, as in a checkpoint
    back = load_state(convnet(), tensors, ql.Scheme()).eval()
    with torch.no_grad():
        assert torch.equal(back(x), qmodel(x))
    with pytest.raises(ValueError, match="pass the Scheme of the inputs"):
        load_state(model, tensors)


@pytest.mark.parametrize("name", MODELS)
def test_a_quantized_model_in_a_file_and_back(name, tmp_path):
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model, four = make().eval(), ql.Scheme(4, "asymmetric", ql.PerGroup(4))
    qmodel, report = quantize_model(model, four)
    checkpoint.save(tmp_path / "q.safetensors", state(qmodel))
    for packed in (False, True):
        tensors = checkpoint.load(tmp_path / "q.safetensors", packed=packed)
        with torch.no_grad():
            assert torch.equal(load_state(make().eval(), tensors)(*inputs()), qmodel(*inputs()))


@pytest.mark.parametrize("name", MODELS)
def test_a_float_checkpoint_quantized_in_its_file_becomes_a_model(name, tmp_path):
    """quantize_file knows no layers: it takes every matrix, and load_state finds places for all."""
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    floats = {n: x.clone() for n, x in model.state_dict().items()}
    safetensors.torch.save_file(floats, tmp_path / "f.safetensors")
    checkpoint.quantize_file(tmp_path / "f.safetensors", tmp_path / "q.safetensors", BY_ROW)
    tensors = checkpoint.load(tmp_path / "q.safetensors")
    if name == "twice":  # a file has no layer twice
        tensors = {n: x for n, x in tensors.items() if not n.startswith("list.0")}
    back = load_state(make().eval(), tensors)
    same = make().eval()
    values = {n: x if isinstance(x, torch.Tensor) else x.dequantize() for n, x in tensors.items()}
    same.load_state_dict(values, strict=name != "twice")
    with torch.no_grad():
        assert torch.equal(back(*inputs()), same(*inputs()))
    assert any(isinstance(m, QuantizedWeight) for m in back.modules())


def test_what_is_shared_may_come_under_any_of_its_names():
    """Codes under the second name alone, as safetensors.save_model may keep them, and buffers."""
    torch.manual_seed(0)
    qmodel, _ = quantize_model(Tied().eval(), BY_ROW)
    tensors, ids = state(qmodel), torch.tensor([[1, 2, 10]])
    back = load_state(Tied().eval(), tensors | {"head.weight": tensors.pop("embedding.weight")})
    with torch.no_grad():
        assert torch.equal(back(ids), qmodel(ids))
    model, mask = nn.Sequential(mlp(), mlp()), drawn(4)
    for part in model:
        part.register_buffer("mask", mask)
    saved = state(quantize_model(model, BY_ROW)[0])
    assert "1.mask" not in saved
    for more in ({"1.mask": mask + 0}, {}):
        load_state(model, saved | more)
    saved["1.mask"] = saved.pop("0.mask") + 1
    assert torch.equal(load_state(model, saved)[0].mask, mask + 1)


def test_load_state_says_what_does_not_fit():
    model = mlp()
    tensors = state(quantize_model(model, BY_ROW)[0])
    less = {n: x for n, x in tensors.items() if n != "0.bias"}
    with pytest.raises(ValueError, match="missing \\['0.bias'\\], unknown \\[\\]"):
        load_state(model, less)
    with pytest.raises(ValueError, match="missing \\[\\], unknown \\['x'\\]"):
        load_state(model, {**tensors, "x": torch.zeros(1)})
    with pytest.raises(ValueError, match="missing \\[\\], unknown \\['1.weight'\\]"):
        load_state(model, {**tensors, "1.weight": tensors["0.weight"]})
    with pytest.raises(ValueError, match="Layer '2': it has hooks.*first.$"):
        load_state(with_hook(), tensors)
    with pytest.raises(ValueError, match="'2.weight' has shape \\(16, 8\\), the model's is"):
        load_state(model, {**tensors, "2.weight": tensors["0.weight"]})


def test_torchs_own_state_dict_works():
    model, x = mlp(), drawn(3, 8)
    first, _ = quantize_model(model, BY_ROW)
    second, _ = quantize_model(
        mlp().requires_grad_(False), ql.Scheme(8, "symmetric", ql.PerAxis(0))
    )
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))
    saved = io.BytesIO()
    torch.save(first, saved)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=False)(x), first(x))


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(4)])
@pytest.mark.parametrize("static", [False, True])
def test_torchs_own_state_dict_brings_new_row_sums(static, granularity):
    scheme, x = ql.Scheme(8, "asymmetric", granularity), drawn(3, 8) + 0.5
    made = []
    for factor in (1, 3):
        model = mlp()
        model[0].weight.data.mul_(factor).add_(factor)
        qparams = calibrate(model, [x], ql.Scheme()) if static else None
        made.append(quantize_model(model, scheme, activations=ql.Scheme(), qparams=qparams)[0])
    first, second = made
    saved = io.BytesIO()
    torch.save(second, saved)
    saved.seek(0)
    for other in (copy.deepcopy(second), torch.load(saved, weights_only=False), second):
        assert not torch.equal(other(x), first(x))
        other.load_state_dict(first.state_dict())
        assert torch.equal(other(x), first(x))
        assert torch.equal(other[0].weight_sums, first[0].weight_sums)
