"""Layers that multiply their input by a factor first: the same product, in all that layers do."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qlesson as ql
from qlesson import methods
from qlesson.files import checkpoint
from qlesson.files.packing import PackedTensor
from qlesson.methods.rotation import random_rotation
from qlesson.nn import (
    IntegerLinear,
    QuantizedLinear,
    Rotation,
    calibrate,
    load_state,
    quantize_model,
    record,
    state,
)
from qlesson.nn.factor import untouched

ROW = ql.Scheme(4, granularity=ql.PerAxis(0))
EIGHT = ql.Scheme(8)
DIAGONAL = torch.linspace(0.25, 3, 24)
FACTORS = {"diagonal": DIAGONAL, "rotation": Rotation(24, 8, seed=3)}
each_factor = pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
INPUTS = {
    "weight-only": (None, None),
    "dynamic": (EIGHT, None),
    "per token": (ql.Scheme(8, granularity=ql.PerAxis(0)), None),
    "static": (EIGHT, ql.QParams(0.05, 3)),
}
each_kind = pytest.mark.parametrize("how", INPUTS.values(), ids=INPUTS)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer(factor, activations=None, qparams=None, scheme=ROW, bias=True):
    codes = ql.quantize(drawn(6, 24, seed=1), scheme)
    bias = drawn(6, seed=2) if bias else None
    return QuantizedLinear(codes, bias, activations, qparams, factor)


def matrix(factor):
    """M, [in, in], by hand."""
    if isinstance(factor, torch.Tensor):
        return factor.double().diag()
    block = random_rotation(factor.block, 0)
    signs = block[:, :1].sign() * factor.block**0.5  # of seed 0; H's first column is all 1
    hadamard = signs.sign() * block
    parts = [hadamard] * (factor.width // factor.block)
    return factor.signs().double()[:, None] * torch.block_diag(*parts)


# --- a rotation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width,block", [(1, 1), (2, 2), (24, 8), (24, 1), (192, 64), (576, 64)])
def test_a_rotation_is_the_product_with_its_matrix(width, block):
    rotation, x = Rotation(width, block, 7), drawn(2, 3, width, dtype=torch.float64)
    m = matrix(rotation)
    torch.testing.assert_close(m @ m.T, torch.eye(width, dtype=m.dtype))
    torch.testing.assert_close(rotation.apply(x), x @ m)
    torch.testing.assert_close(rotation.inverse(x), x @ m.T)
    assert Rotation.of_width(width).block == (block if block > 1 or width == 1 else 8)


def test_the_signs_are_those_that_files_were_written_with():
    """Another generator would give a saved model other signs."""
    assert Rotation(16, 1).signs().tolist() == SIGNS
    assert Rotation(16, 1, 1).signs().tolist() != SIGNS


SIGNS = [-1, 1, 1, -1, 1, 1, 1, 1, 1, 1, 1, -1, -1, 1, -1, -1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_half_is_rotated_in_float32_and_rounded_once(dtype):
    rotation, x = Rotation(24, 8), drawn(5, 24, dtype=dtype)
    assert torch.equal(rotation.apply(x), rotation.apply(x.float()).to(dtype))
    assert torch.equal(rotation.inverse(x), rotation.inverse(x.float()).to(dtype))


def test_a_compiler_finds_the_same_bits():
    rotation, x = Rotation(192, 64), drawn(7, 192)
    one = layer_of(rotation)
    compiled = torch.compile(one.prepare, fullgraph=True)
    assert torch.equal(compiled(x), rotation.apply(x))


def layer_of(rotation):
    return QuantizedLinear(ql.quantize(drawn(3, rotation.width), ROW), factor=rotation)


@pytest.mark.parametrize("width", [3, 15, 577])
def test_an_odd_width_is_refused(width):
    with pytest.raises(ValueError, match=f"width must be even, got {width}.*columns of zeros"):
        Rotation.of_width(width)
    for block in (2, 3, 0):
        with pytest.raises(ValueError, match="block must be"):
            Rotation(width, block)


# --- a layer --------------------------------------------------------------------------------------


@each_factor
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_layer_is_the_product_of_the_multiplied_input(factor, dtype):
    new, x = layer(factor), drawn(2, 5, 24, dtype=dtype)
    w_hat, bias, m = new.codes.values(torch.float64), new.bias.double(), matrix(factor)
    got = new(x)
    assert got.dtype == dtype
    wanted = F.linear(x.double() @ m, w_hat, bias)
    near = {torch.float64: 1e-5, torch.float32: 1e-5}.get(dtype, 0.1)
    torch.testing.assert_close(got.double(), wanted, rtol=near, atol=near)
    torch.testing.assert_close(new.weight.double(), w_hat @ m.T, rtol=1e-5, atol=1e-5)
    assert new.weight.dtype == torch.float32
    assert new.factor is factor or torch.equal(new.factor, factor)


@each_factor
@each_kind
def test_what_is_quantized_is_the_multiplied_input(factor, how):
    x = drawn(2, 5, 24)
    new, plain = layer(factor, *how), layer(None, *how)
    prepared = new.prepare(x)
    torch.testing.assert_close(prepared.double(), x.double() @ matrix(factor))
    assert torch.equal(new(x), plain(prepared)) and not torch.equal(new(x), plain(x))
    if how[0] is not None:
        rows = x.flatten(0, 1)
        assert torch.equal(
            new.quantize_input(rows).q, plain.quantize_input(prepared.flatten(0, 1)).q
        )


@each_factor
def test_the_gradient_goes_through_to_the_input(factor):
    x = drawn(5, 24).requires_grad_()
    new = layer(factor)
    new(x).sum().backward()
    torch.testing.assert_close(x.grad, new.weight.sum(0).expand(5, 24))
    half = x.detach().bfloat16().requires_grad_()
    new(half).sum().backward()
    torch.testing.assert_close(half.grad.float(), x.grad, rtol=2**-6, atol=2**-4)


@each_factor
def test_no_matrix_is_held(factor):
    new, plain = layer(factor), layer(None)
    extra = sum(x.nbytes for x in new.buffers()) - sum(x.nbytes for x in plain.buffers())
    assert extra == (24 * 4 if isinstance(factor, torch.Tensor) else 24 + 3 * 8)


def test_what_is_no_factor_is_refused():
    for factor, error, why in (
        (torch.ones(23), ValueError, r"one number for each of the 24 inputs, got .*\(23,\)"),
        (torch.eye(24), ValueError, r"a rotation is passed as Rotation\(width, block, seed\)"),
        (torch.full((24,), torch.nan), ValueError, "factor holds .* NaN"),
        (torch.ones(24, dtype=torch.int64), TypeError, "factor must be torch.float32"),
        (Rotation(12, 4), ValueError, "factor must be a Rotation of width 24, got Rotation"),
        ([1.0] * 24, TypeError, "factor must be a tensor .* or a Rotation, got"),
        (0.5, TypeError, "factor must be a tensor .* or a Rotation, got"),
    ):
        with pytest.raises(error, match=why):
            layer(factor)


@each_factor
def test_integers_alone_cannot_be_multiplied(factor):
    new = layer(factor, *INPUTS["static"])
    with pytest.raises(ValueError, match="multiplies its float input by a factor.*fold the factor"):
        IntegerLinear(new, EIGHT, ql.QParams(0.1, 0))


# --- what becomes of a layer ----------------------------------------------------------------------


@each_factor
@each_kind
def test_copies_do_what_the_layer_does(factor, how):
    new, x, file = layer(factor, *how), drawn(5, 24), io.BytesIO()
    wanted = new(x)
    for other in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        assert torch.equal(other(x), wanted)
    torch.save(new.state_dict(), file)
    file.seek(0)
    fresh = layer(torch.ones(24) if factor is DIAGONAL else Rotation(24, 2, seed=9), *how)
    assert not torch.equal(fresh(x), wanted)
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(x), wanted)
    assert str(fresh.factor) == str(new.factor) and "inputs times" in repr(fresh)


@each_factor
@each_kind
def test_moves_leave_the_factor_as_it_is(factor, how):
    new, x = layer(factor, *how), drawn(5, 24)
    held = new.input_factor.clone()
    wanted = new(x)
    for move in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double()):
        moved = move(copy.deepcopy(new))
        assert moved.input_factor.dtype == held.dtype and torch.equal(moved.input_factor, held)
    assert torch.equal(new.half().float()(x), layer(factor, *how, bias=False)(x) + new.bias)
    half = new.half()(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), wanted, rtol=0.1, atol=0.1)


@each_factor
@each_kind
def test_a_layer_on_meta_takes_what_is_assigned(factor, how):
    new = layer(factor, *how)
    empty = copy.deepcopy(new).to("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that nothing was copied
        empty.load_state_dict(new.state_dict())
    assert empty.input_factor.is_meta
    fresh = layer(factor, *how).to("meta")
    fresh.load_state_dict(new.state_dict(), assign=True)
    assert torch.equal(fresh.input_factor, new.input_factor)


@each_factor
@each_kind
def test_one_graph_for_compile_and_export(factor, how):
    new, x = layer(factor, *how), drawn(5, 24)
    wanted = new(x)
    torch.testing.assert_close(torch.compile(new, fullgraph=True, backend="aot_eager")(x), wanted)
    exported = torch.export.export(new, (x,)).module()
    assert torch.equal(exported(2 * x), new(2 * x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_state_on_the_cpu_fills_a_model_on_a_gpu():
    model, x = nn.Sequential(nn.Linear(64, 20)), drawn(100, 64)
    scheme = ql.Scheme(4, granularity=ql.PerGroup(32))
    small, _ = quantize_model(model, scheme, method=methods.awq, inputs=[x])
    there = load_state(model.cuda(), state(small))
    torch.testing.assert_close(there(x.cuda()).cpu(), small(x), rtol=1e-4, atol=1e-4)


def test_a_state_dict_brings_no_bad_factor():
    turned, scaled = layer(FACTORS["rotation"]), layer(DIAGONAL)
    for new, bad, why in (
        (turned, DIAGONAL, "input_factor"),
        (turned, torch.tensor([24, 3, 0]), "block must be a power of two"),
        (turned, torch.tensor([12, 4, 0]), "must be a Rotation of width 24"),
        (turned, torch.tensor([24, 4]), "width, block and seed"),
        (turned, torch.tensor([24, 4, -1]), "seed"),
        (scaled, torch.tensor([24, 8, 3]), "factor must be torch.float32"),
        (scaled, DIAGONAL * torch.inf, "factor holds"),
        (scaled, DIAGONAL.double() * 1e300, "factor holds"),
        (scaled, torch.ones(3), "one number for each of the 24"),
    ):
        before = new.input_factor.clone()
        with pytest.raises(RuntimeError, match=why):
            new.load_state_dict(new.state_dict() | {"input_factor": bad})
        assert torch.equal(new.input_factor, before)


# --- a model --------------------------------------------------------------------------------------


class Result:
    """What a method gives, known by what it has."""

    def __init__(self, weight, factor):
        self.weight, self.factor = weight, factor


def with_factor(factor):
    def method(weight, inputs, scheme):
        if isinstance(factor, torch.Tensor):
            return Result(ql.quantize(weight / factor[: weight.shape[1]], scheme), factor)
        rotation = Rotation.of_width(weight.shape[1], 5)
        return Result(ql.quantize(rotation.apply(weight), scheme), rotation)

    return method


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)).eval()


@each_factor
@pytest.mark.parametrize("way", ["memory", "file", "packed", "pack"])
def test_the_state_comes_back_to_the_last_bit(factor, way, tmp_path):
    plain, x = model(), drawn(5, 24)
    qmodel, _ = quantize_model(plain, ROW, method=with_factor(factor))
    held = state(qmodel)
    kept = held["0.input_factor"]
    if isinstance(factor, torch.Tensor):
        assert torch.equal(kept, factor)
    else:
        assert kept.dtype == torch.int64 and kept.tolist() == [24, 8, 5]
    names = {"0.weight", "0.bias", "0.input_factor", "2.weight", "2.bias", "2.input_factor"}
    assert set(held) == names
    if way in ("file", "packed"):
        checkpoint.save(tmp_path / "it.safetensors", held)
        held = checkpoint.load(tmp_path / "it.safetensors", packed=way == "packed")
    if way == "pack":
        held = {
            n: PackedTensor.pack(t) if isinstance(t, ql.QTensor) else t for n, t in held.items()
        }
    back = load_state(plain, held)
    assert torch.equal(back(x), qmodel(x))
    assert all(torch.equal(a, b) for a, b in zip(back.buffers(), qmodel.buffers(), strict=True))
    assert all(torch.equal(plain[i].weight, model()[i].weight) for i in (0, 2))


def test_a_state_with_a_factor_that_is_none_is_refused():
    plain = model()
    held = state(quantize_model(plain, ROW, method=with_factor(DIAGONAL))[0])
    for bad, why in (
        (torch.ones(3), "one number for each of the 24 inputs"),
        (torch.ones(4, dtype=torch.int64), "width, block and seed of a rotation"),
        (held["0.weight"], "input_factor must be a"),
    ):
        with pytest.raises((TypeError, ValueError), match=why):
            load_state(plain, held | {"0.input_factor": bad})
    with pytest.raises(ValueError, match=r"unknown \['0.input_factor'\]"):
        load_state(
            plain,
            plain.state_dict() | {"0.input_factor": DIAGONAL},
        )


@each_factor
def test_ranges_are_those_of_the_multiplied_input(factor):
    plain, batches = model(), [drawn(20, 24, seed=i) for i in range(3)]
    method = with_factor(factor)
    qmodel, _ = quantize_model(plain, ROW, method=method)
    found, met = calibrate(qmodel, batches, EIGHT), {"0": [], "2": []}
    layers = {"0": qmodel[0], "2": qmodel[2]}
    record(qmodel, batches, lambda name, x: met[name].append(layers[name].prepare(x)), layers)
    for name, parts in met.items():
        wanted = ql.choose_qparams(torch.cat(parts), EIGHT)
        assert found[name] == wanted and found[name] != calibrate(plain, batches, EIGHT)[name]
    static, _ = quantize_model(plain, ROW, method=method, activations=EIGHT, qparams=found)
    assert static[0].input_scale == found["0"].scale
    back = load_state(plain, state(static), EIGHT)
    x = batches[0]
    assert torch.equal(back(x), static(x))
    x_hat = static[0].quantize_input(x).dequantize()
    wanted = F.linear(x_hat, static[0].codes.values(), static[0].bias)
    torch.testing.assert_close(static[0](x), wanted, rtol=1e-4, atol=1e-4)


@each_factor
def test_the_report_counts_the_factor_and_notes_it(factor):
    plain = model()
    _, without = quantize_model(plain, ROW)
    qmodel, report = quantize_model(plain, ROW, method=with_factor(factor))
    extra = 24 * 4 if isinstance(factor, torch.Tensor) else 24 + 3 * 8
    assert [a.bytes_after - b.bytes_after for a, b in zip(report, without, strict=True)] == [
        extra
    ] * 2
    assert report.bytes_after - without.bytes_after == 2 * extra
    said = "inputs times a factor" if isinstance(factor, torch.Tensor) else "in blocks of 8"
    assert all(said in row.note for row in report) and said in str(report)
    off = [float(ql.sqnr(plain[i].weight, qmodel[i].weight)) for i in (0, 2)]
    assert [row.sqnr for row in report] == off and min(off) > 10


def test_out_proj_is_read_as_for_untouched_inputs():
    """nn.MultiheadAttention reads the weight and does not call the layer."""
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(24, 2).eval(), drawn(5, 1, 24)
    weight = attention.out_proj.weight.detach()
    codes = ql.quantize(weight / DIAGONAL, ql.Scheme(8, granularity=ql.PerAxis(0)))
    wanted = attention(x, x, x)[0]
    attention.out_proj = QuantizedLinear(codes, attention.out_proj.bias, factor=DIAGONAL)
    torch.testing.assert_close(attention(x, x, x)[0], wanted, rtol=0.05, atol=0.05)
    torch.testing.assert_close(attention.out_proj.weight, untouched(codes.dequantize(), DIAGONAL))
