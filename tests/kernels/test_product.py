"""Packed codes times inputs: float sums within n eps of float64, integer ones bit for bit.

ATEN_CPU_CAPABILITY=avx2 (or default) runs all of it as an older processor does.
"""

import copy
import gc
import os
import re
import subprocess
import sys

import pytest
import torch

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.files import packing
from qlesson.kernels import modes, product
from qlesson.kernels.packed import fields, pack_rows, row_nbytes, unpack_rows
from qlesson.nn import (
    IntegerLinear,
    QuantizedEmbedding,
    QuantizedLinear,
    calibrate,
    quantize_model,
    weight,
)
from qlesson.nn import product as layer_product

BITS = range(2, 9)
EPS = torch.finfo(torch.float32).eps
ROWS = 37  # more than a thread's share, and no whole tile
# width, granularity: whole and ragged groups, odd widths, one scale in a row and for all
LAYOUTS = [
    (256, ql.PerGroup(32)),
    (811, ql.PerGroup(64)),
    (776, ql.PerGroup(32)),
    (1100, ql.PerGroup(96)),
    (96, ql.PerGroup(24)),
    (100, ql.PerGroup(32)),
    (5, ql.PerGroup(2)),
    (290, ql.PerAxis(0)),
    (33, ql.PerAxis(0)),
    (1024, ql.PerTensor()),
]
KINDS = [("symmetric", True, torch.float16), ("symmetric", True, torch.bfloat16)]
KINDS += [("asymmetric", True, None), ("asymmetric", False, None)]
INPUTS = (ql.Scheme(8, granularity=ql.PerAxis(0)), ql.Scheme(8, "symmetric"))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.25


def codes_of(width, granularity, bits, kind=KINDS[0], rows=ROWS):
    mapping, signed, scale_dtype = kind
    scheme = ql.Scheme(bits, mapping, granularity, signed=signed, scale_dtype=scale_dtype)
    return ql.quantize(drawn(rows, width, seed=bits), scheme)


def blocks_of(width, size, bits, signed, minimum):
    g = torch.Generator().manual_seed(bits)
    low = -(2 ** (bits - 1)) if signed else 0
    q = torch.randint(low, low + 2**bits, (ROWS, width), generator=g)
    scale = torch.randn(ROWS, -(-width // size), generator=g).half()
    steps = torch.randn(scale.shape, generator=g).half() if minimum else None
    return Blocks(q.to(torch.int8 if signed else torch.uint8), scale, steps, bits, size)


@pytest.fixture(autouse=True)
def by_the_kernel(monkeypatch):
    """Fails where nothing was compiled; two threads, so that their parts must meet."""
    before, calls = torch.get_num_threads(), []
    torch.set_num_threads(2)
    monkeypatch.setattr(product, "THREAD", 1)
    for name in ("linear", "int_linear", "quantized_linear", "rows"):
        call = getattr(product, name)
        monkeypatch.setattr(
            product, name, lambda *a, n=name, call=call: calls.append(n) or call(*a)
        )
    monkeypatch.setitem(modes._state, "broken", False)
    yield calls
    torch.set_num_threads(before)
    assert not modes._state["broken"]


def compiled(layer, x):
    """layer(x), called twice: from the second call on fewer questions are asked."""
    with torch.no_grad(), ql.use_kernels("compiled"):
        y = layer(x)
        torch.testing.assert_close(layer(x), y, rtol=0, atol=0, equal_nan=True)
        return y


# --- how codes are packed ---
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 31, 32, 33, 50, 255, 256, 257, 300, 801])
def test_packed_rows_hold_every_code_in_its_bits(bits, width):
    for signed in (True, False):
        low = -(2 ** (bits - 1)) if signed else 0
        g = torch.Generator().manual_seed(width)
        q = torch.randint(low, low + 2**bits, (5, width), generator=g)
        q = q.to(torch.int8 if signed else torch.uint8)
        data = pack_rows(q, bits)
        assert torch.equal(unpack_rows(data, bits, width, signed), q)
        assert torch.equal(unpack_rows(data[3:4], bits, width, signed), q[3:4])
        assert data.shape == (5, row_nbytes(width, bits))
        filling = 8 // fields(bits)[-1][0] - 1
        assert width * bits <= 8 * data.shape[1] <= (width + filling) * bits


def test_a_code_lies_where_the_docstring_says():
    """Code by code, with no tensor operation: blocks of 256 in their order, then of 32."""
    bits, width = 5, 256 + 32 + 3
    q = torch.randint(0, 32, (1, width), generator=torch.Generator().manual_seed(0))
    data, at = pack_rows(q.byte(), bits)[0].tolist(), 0
    for first, size in ((0, 256), (256, 32), (288, 8)):
        shift = 0
        for p in (4, 1):
            n = size * p // 8
            for i in range(size):
                place = first + i
                if size == 256:
                    four, within = divmod(i, 4)
                    place = 32 * (four % 8) + 4 * (four // 8) + within
                wanted = int(q[0, place]) >> shift if place < width else 0
                found = data[at + i % n] >> (i // n * p)
                assert found % 2**p == wanted % 2**p
            at, shift = at + n, shift + p
    assert at == len(data)


def test_four_bits_in_short_rows_are_ggmls_halves():
    q = torch.randint(0, 16, (3, 224), generator=torch.Generator().manual_seed(0)).byte()
    assert torch.equal(pack_rows(q, 4).flatten(), packing.pack(q, 4, "halves"))


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_takes_its_bits_and_little_more(bits):
    scheme = ql.Scheme(bits, "symmetric", ql.PerGroup(32), scale_dtype=torch.float16)
    model = torch.nn.Sequential(torch.nn.Linear(512, 64, bias=False))
    for activations in (None, ql.Scheme(8, "symmetric")):
        qmodel, report = quantize_model(model, scheme, activations=activations)
        held = sum(x.nbytes for x in qmodel.buffers())
        assert held == report.bytes_after == sum(x.nbytes for x in qmodel.state_dict().values())
        assert 8 * held <= (bits + 0.6) * 512 * 64
    assert torch.equal(qmodel[0].codes.q, ql.quantize(model[0].weight, scheme).q)


# --- float inputs ---
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width, granularity", LAYOUTS)
def test_a_float_product_is_within_n_eps_of_float64(bits, width, granularity, by_the_kernel):
    for kind in KINDS:
        w, bias = codes_of(width, granularity, bits, kind), drawn(ROWS, seed=9)
        w_hat = w.dequantize(torch.float64)
        for m in (1, 3, 9) if kind in KINDS[1:] else (*range(1, 10), 16, 23, 41, 64, 72, 90, 257):
            x = drawn(m, width, seed=m)
            y, wanted = compiled(QuantizedLinear(w, bias), x), x.double() @ w_hat.T + bias
            size = x.double().abs() @ w_hat.abs().T + bias.abs()
            assert ((y - wanted).abs() <= (width + 4) * EPS * size).all()
    assert {"linear"} == set(by_the_kernel)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("minimum", [True, False])
def test_blocks_are_multiplied_with_their_minima(bits, signed, minimum):
    for width, size in ((256, 32), (811, 64), (96, 24), (64, 64)):
        w = blocks_of(width, size, bits, signed, minimum)
        q, s = w.q.double().abs(), w.scale.double().abs().repeat_interleave(size, 1)[:, :width]
        parts = s * q
        if w.minimum is not None:
            parts += w.minimum.double().abs().repeat_interleave(size, 1)[:, :width]
        for m in (1, 4, 9):
            x = drawn(m, width, seed=m)
            wanted = x.double() @ w.dequantize(torch.float64).T
            bound = (width + 4) * EPS * (x.double().abs() @ parts.T)
            assert ((compiled(QuantizedLinear(w), x) - wanted).abs() <= bound).all()


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_wide_inputs_go_by_in_parts(bits):
    """What stays in the first cache of few inputs, 1,024 or 2,048 columns, is less than a row."""
    for w in (
        blocks_of(2350, 32, bits, False, True),
        codes_of(2350, ql.PerGroup(64), bits, KINDS[2]),
    ):
        w_hat = w.dequantize(torch.float64)
        for m in (3, 8):
            x = drawn(m, 2350, seed=m)
            size = x.double().abs() @ w_hat.abs().T + 40 * x.double().abs().sum(1, keepdim=True)
            off = (compiled(QuantizedLinear(w), x) - x.double() @ w_hat.T).abs()
            assert (off <= 64 * EPS * size).all()


def hard(*shape):
    """Inputs that no step suits: some outliers, many sizes, or one that drowns the others."""
    x, sizes = drawn(*shape, seed=1), torch.exp(4 * drawn(*shape, seed=2))
    outliers, drowned = x.clone(), x.clone()
    outliers[:, ::97] *= 1000
    drowned[:, ::32] = 2.0**23
    return {"outliers": outliers, "sizes": x * sizes, "tiny": x * 1e-30, "drowned": drowned}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_few_inputs_lose_at_most_2_to_the_minus_23_of_the_largest_of_32(bits, kind):
    """And float sums lose what they lose: eight lanes, each of an eighth of the blocks."""
    w = codes_of(2350, ql.PerGroup(32), bits, kind)
    w_hat = w.dequantize(torch.float64)
    by_32 = torch.nn.functional.pad(w_hat.abs(), (0, 18)).unflatten(1, (-1, 32)).sum(-1)
    for m in (1, 2, 5, 8):
        for x in hard(m, 2350).values():
            wanted = x.double() @ w_hat.T
            largest = torch.nn.functional.pad(x.abs(), (0, 18)).unflatten(1, (-1, 32)).amax(-1)
            size = x.double().abs() @ w_hat.abs().T
            bound = EPS * (largest.double() @ by_32.T + 32 * size)
            assert ((compiled(QuantizedLinear(w), x) - wanted).abs() <= bound).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_one_input_is_nearer_than_float32s_own_product(bits):
    w = codes_of(4096, ql.PerGroup(32), bits, rows=256)
    w_hat, w_32 = w.dequantize(torch.float64), w.dequantize()
    for name in ("outliers", "sizes", "tiny"):
        x = hard(1, 4096)[name]
        wanted = x.double() @ w_hat.T
        ours, floats = compiled(QuantizedLinear(w), x), x @ w_32.T
        assert (ours - wanted).square().mean() < (floats - wanted).square().mean()


@pytest.mark.parametrize("bits", BITS)
def test_digits_at_their_ends_times_codes_at_theirs(bits):
    """Every place at once, so that a sum that does not fit its bits is wrong."""
    ends = (0, 2**bits - 1)
    scheme = ql.Scheme(bits, granularity=ql.PerGroup(64), signed=False)
    digits = [127 * 65536 + 127 * 256 + 127, 127 * 65536 - 128 * 256 - 128, -128, -128 * 256, 1]
    for code in ends:
        for zero in ends:
            steps = torch.ones(6, 8), torch.full((6, 8), zero, dtype=torch.uint8)
            w = ql.QTensor(torch.full((6, 512), code, dtype=torch.uint8), *steps, scheme)
            for n in (*digits, *(-n for n in digits)):
                x = torch.full((1, 512), float(n))
                x[0, ::32] = 127 * 65536.0  # so that the step of all is 1
                wanted = (x.double() * (code - zero)).sum().float().expand(1, 6)
                for m in (1, 3):
                    y = compiled(QuantizedLinear(w), x.expand(m, -1).contiguous())
                    torch.testing.assert_close(y, wanted.expand(m, 6), rtol=16 * EPS, atol=0)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("place", [3, 300, 321])
def test_what_is_no_number_goes_through(value, place):
    """Beside it, and in other inputs, nothing changes."""
    for bits, kind in ((4, KINDS[0]), (8, KINDS[2]), (5, KINDS[1])):
        w = codes_of(325, ql.PerGroup(32), bits, kind)
        layer = QuantizedLinear(w)
        for m in (1, 2, 6):
            x = drawn(m, 325)
            clean = compiled(layer, x)
            x[0, place] = value
            with ql.use_kernels("eager"):
                wanted = layer(x)
            y = compiled(layer, x)
            torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
            torch.testing.assert_close(y[1:], clean[1:], rtol=1e-4, atol=1e-4)
            assert not y[0].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_layers_round_once(dtype):
    w, x = codes_of(320, ql.PerGroup(32), 4), drawn(3, 320).to(dtype)
    layer = QuantizedLinear(w, drawn(ROWS, seed=1)).to(dtype)
    y = compiled(layer, x)
    wanted = x.double() @ w.dequantize(torch.float64).T + layer.bias
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    with torch.autocast("cpu", dtype):
        assert compiled(QuantizedLinear(w), x.float()).dtype == dtype


@pytest.mark.parametrize("activations", [None, INPUTS[0]])
def test_outputs_follow_the_inputs_not_torchs_default(activations):
    w, x = codes_of(64, ql.PerGroup(32), 4), drawn(2, 64)
    layer, ids = QuantizedLinear(w, drawn(ROWS, seed=1), activations), torch.tensor([3])
    wanted = compiled(layer, x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(compiled(layer, x), wanted)
        assert torch.equal(compiled(QuantizedEmbedding(w), ids), w.dequantize()[ids])
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("activations", [None, INPUTS[0]])
def test_what_is_no_input_is_refused_in_the_same_words(activations):
    layer = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), None, activations)
    wrong = [drawn(2, 63), torch.tensor(1.0), drawn(2, 64).int(), drawn(2, 64).to_sparse(), [1.0]]
    wrong += [torch.nested.nested_tensor([drawn(64), drawn(64)]), torch.empty(2, 64, device="meta")]
    wrong += [drawn(2, 64).to_sparse_csr(), drawn(2, 64).to_mkldnn()]
    compiled(layer, drawn(1, 64))
    for x in wrong:
        said = []
        for mode in ("eager", "compiled"):
            with ql.use_kernels(mode), torch.no_grad():
                with pytest.raises((TypeError, ValueError)) as error:
                    layer(x)
            said.append(str(error.value))
        assert said[0] == said[1]


def with_bias(bias):
    def call(layer, x):
        return torch.func.functional_call(layer, {"bias": bias}, (x,))

    return call


def under_autocast(layer, x):
    with torch.autocast("cpu", torch.bfloat16):
        return layer(x)


UNUSUAL = {
    "another step": lambda layer, x: layer(torch.cat([x, x], 1)[:, ::2]),
    "turned": lambda layer, x: layer(x.T.contiguous().T),
    "to be negated": lambda layer, x: layer(torch._neg_view(x)),
    "vmap": lambda layer, x: torch.vmap(layer)(x.view(2, 2, 64)),
    "autocast": under_autocast,
    "float64": lambda layer, x: layer(x.double()),
    "bias in float64": with_bias(drawn(ROWS).double()),
    "bias with a step": with_bias(drawn(2 * ROWS)[::2]),
    "bias to be negated": with_bias(torch._neg_view(drawn(ROWS))),
    "biases in vmap": lambda layer, x: torch.vmap(lambda b: with_bias(b)(layer, x))(drawn(3, ROWS)),
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("activations", [None, INPUTS[0]])
def test_a_layer_that_has_run_takes_unusual_tensors(name, activations):
    layer = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), drawn(ROWS), activations)
    x, found = drawn(4, 64), []
    compiled(layer, x)
    for mode in ("eager", "compiled"):
        with torch.no_grad(), ql.use_kernels(mode):
            found.append(UNUSUAL[name](layer, x))
    rough = {"rtol": 0.02, "atol": 0.1} if name == "autocast" else {}  # bfloat16 has 8 bits
    torch.testing.assert_close(*found, **rough)


def test_a_trace_does_not_take_the_product_for_a_constant():
    layer, x = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4)), drawn(1, 64)
    compiled(layer, x)
    with (
        torch.no_grad(),
        ql.use_kernels("compiled"),
        pytest.raises(RuntimeError, match="aten::view"),
    ):
        torch.jit.trace(lambda y: layer(y), x)


@pytest.mark.parametrize("state", [{"mode": "eager"}, {"broken": True}])
def test_a_layer_that_has_run_compiled_goes_back(state, monkeypatch, by_the_kernel):
    w, x, ids = codes_of(64, ql.PerGroup(32), 4), drawn(1, 64), torch.tensor([2])
    calls = [QuantizedLinear(w), QuantizedLinear(w, None, INPUTS[0])]
    for layer in calls:
        compiled(layer, x)
    compiled(QuantizedEmbedding(w), ids)
    monkeypatch.setattr(product, "_product", None)
    monkeypatch.setattr(product, "rows", None)
    with ql.use_kernels("compiled"), monkeypatch.context() as patched, torch.no_grad():
        for name, value in state.items():
            patched.setitem(modes._state, name, value)
        for layer in calls:
            layer(x)
        QuantizedEmbedding(w)(ids)


@pytest.mark.parametrize(
    "ids", [[ROWS], [-1], [[0, 2**40]], [1.0], [True], torch.tensor([1, 2]).to_sparse(), 3]
)
def test_what_is_no_row_is_refused_in_the_same_words(ids):
    layer = QuantizedEmbedding(codes_of(64, ql.PerGroup(32), 4))
    compiled(layer, torch.tensor([1]))
    said = []
    for mode in ("eager", "compiled"):
        with ql.use_kernels(mode), pytest.raises((TypeError, LookupError)) as error:
            layer(torch.tensor(ids) if isinstance(ids, list) else ids)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_row_numbers_of_any_shape(dtype):
    w, ids = codes_of(64, ql.PerGroup(32), 4), torch.arange(24, dtype=dtype).view(2, 3, 4)
    layer, wanted = QuantizedEmbedding(w), w.dequantize()
    for some in (ids, ids[0, 0, 0], ids[:, :, ::2], ids.transpose(0, 2), ids[:0]):
        assert torch.equal(compiled(layer, some), wanted[some.long()])


@pytest.mark.parametrize("shape", [(0, 64), (64,), (2, 3, 64), (2, 0, 64)])
@pytest.mark.parametrize("activations", [None, *INPUTS])
def test_inputs_of_any_shape(shape, activations):
    layer, x = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), None, activations), drawn(*shape)
    with ql.use_kernels("eager"):
        wanted = layer(x)
    y = compiled(layer, x)
    assert y.shape == wanted.shape == (*shape[:-1], ROWS)
    torch.testing.assert_close(y, wanted)


def test_a_factor_comes_first():
    w, factor, x = codes_of(64, ql.PerGroup(32), 4), drawn(64, seed=3), drawn(2, 64)
    torch.testing.assert_close(
        compiled(QuantizedLinear(w, factor=factor), x), (x * factor) @ w.dequantize().T
    )


def test_a_gradient_goes_through():
    w, x = codes_of(64, ql.PerGroup(32), 4), drawn(2, 64)
    bias = torch.nn.Parameter(drawn(ROWS))
    fixed, learned = QuantizedLinear(w), QuantizedLinear(w, bias)
    for layer in (fixed, learned):
        compiled(layer, x)
    with ql.use_kernels("compiled"):
        learned(x).sum().backward()
        fixed(x.requires_grad_()).sum().backward()
    torch.testing.assert_close(x.grad, w.dequantize().sum(0).expand(2, 64))
    assert torch.equal(bias.grad, torch.full((ROWS,), 2.0))


def test_a_layer_sees_its_buffers_change():
    """The kernel is told once where they are."""
    w, other = codes_of(64, ql.PerGroup(32), 4), codes_of(64, ql.PerGroup(32), 4, rows=2 * ROWS)
    other = ql.QTensor(*(t[ROWS:] for t in (other.q, other.scale, other.zero_point)), other.scheme)
    layer, x = QuantizedLinear(w, drawn(ROWS, seed=1)), drawn(1, 64)
    first, second = (compiled(QuantizedLinear(codes, layer.bias), x) for codes in (w, other))
    assert torch.equal(compiled(layer, x), first) and not torch.equal(first, second)
    twin = copy.deepcopy(layer)
    layer.load_state_dict(QuantizedLinear(other, layer.bias).state_dict())
    assert torch.equal(compiled(layer, x), second)
    assert torch.equal(compiled(twin, x), first)
    assert torch.equal(compiled(layer.share_memory(), x), second)
    twin.codes.packed = QuantizedLinear(other).codes.packed
    twin.codes.scale = other.scale
    assert torch.equal(compiled(twin, x), second)


def test_what_a_layer_is_for_the_kernel_goes_with_it():
    before = dict(layer_product._held)
    layer = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4))
    compiled(layer, drawn(1, 64))
    assert len(layer_product._held) == len(before) + 1
    del layer
    gc.collect()
    assert not layer_product._held.keys() - before.keys()


# --- 8-bit inputs ---
def slowly(x, w):
    """y += float(acc_g) * (s_x * s_g), g ascending: whole numbers in int64, one group at a time."""
    size = w.scheme.granularity.block_shape(w.shape)[1]
    s, z = (p.reshape(1, 1) if p.ndim == 0 else p for p in (w.scale.float(), w.zero_point.long()))
    s_x, z_x = x.scale.view(-1, 1), x.zero_point.view(-1, 1).long()
    y = torch.zeros(len(x.q), len(w.q))
    for g, i in enumerate(range(0, w.shape[1], size)):
        left, right = x.q[:, i : i + size].long() - z_x, w.q[:, i : i + size].long() - z[:, g, None]
        acc = (left[:, None] * right).sum(-1)
        y = y + acc.float() * (s_x * s[:, g])
    return y


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width, granularity", LAYOUTS)
def test_an_integer_product_has_the_bits_of_its_definition(bits, width, granularity, by_the_kernel):
    for kind in KINDS[1:]:
        w = codes_of(width, granularity, bits, kind)
        for scheme in INPUTS:
            layer = QuantizedLinear(w, activations=scheme)
            for m in (1, 2, 8, 9, 12, 30, 64) if kind == KINDS[2] else (1, 3, 17, 31):
                x = layer.quantize_input(drawn(m, width, seed=m))
                with ql.use_kernels("compiled"):
                    assert torch.equal(layer.product(x), slowly(x, w))
    assert set(by_the_kernel) == {"int_linear"}


def test_inputs_in_several_goes_for_rows_in_several_parts_have_them_too(by_the_kernel):
    w = codes_of(2112, ql.PerGroup(32), 4, KINDS[2], rows=300)
    layer = QuantizedLinear(w, activations=INPUTS[0])
    torch.set_num_threads(1)
    for m in (7, 8, 23):
        x = layer.quantize_input(drawn(m, 2112, seed=m))
        with ql.use_kernels("compiled"):
            assert torch.equal(layer.product(x), slowly(x, w))
    assert set(by_the_kernel) == {"int_linear"}


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0)])
def test_quantizing_and_multiplying_at_once_has_the_bits_of_both(
    bits, mapping, granularity, by_the_kernel
):
    scheme = ql.Scheme(bits, mapping, granularity)
    for width in (811, 64, 5):
        w = codes_of(width, ql.PerGroup(32), 4, KINDS[2])
        layer = QuantizedLinear(w, drawn(ROWS, seed=1), scheme)
        hard = torch.arange(width).float().sub(width // 2) / 2  # many ties
        inputs = [drawn(1, width), drawn(3, width), drawn(9, width), hard[None], -hard.abs()[None]]
        inputs += [torch.zeros(2, width), drawn(2, width) * 1e-38, drawn(1, width).double()]
        for x in (*inputs, drawn(2, width).bfloat16(), 1e-45 + torch.zeros(1, width)):
            codes = layer.quantize_input(x)
            wanted = (slowly(codes, w) + layer.bias).to(x.dtype)
            if x.dtype != torch.float64:
                assert torch.equal(compiled(layer, x), wanted)
    assert set(by_the_kernel) == {"quantized_linear"}
    for bad in (float("nan"), float("inf"), 3e38):
        x = drawn(2, 64)
        x[1, 63] = bad
        if bad == 3e38:
            x[1, 0] = -bad if mapping == "asymmetric" else float("inf")
        with pytest.raises(ValueError):
            compiled(QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), None, scheme), x)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [True, False])
def test_the_largest_codes_do_not_saturate(bits, signed):
    """With 8 bits -128 times -128 and 255 times -128, in every place at once."""
    kind = torch.int8 if signed else torch.uint8
    half = 2 ** (bits - 1)
    ends = (-half, half - 1) if signed else (0, 2 * half - 1)
    scheme = ql.Scheme(bits, granularity=ql.PerGroup(64), signed=signed)
    inputs = ql.Scheme(8, granularity=ql.PerAxis(0))
    for code in ends:
        for zero in ends:
            steps = torch.full((6, 8), 0.01), torch.full((6, 8), zero, dtype=kind)
            w = ql.QTensor(torch.full((6, 512), code, dtype=kind), *steps, scheme)
            layer = QuantizedLinear(w, activations=inputs)
            for z_x in (-128, 127):
                for m in (1, 12):
                    q = torch.full((m, 512), -128, dtype=torch.int8)
                    z = torch.full((m, 1), z_x, dtype=torch.int8)
                    x = ql.QTensor(q, torch.full((m, 1), 0.5), z, inputs)
                    with ql.use_kernels("compiled"):
                        assert torch.equal(layer.product(x), slowly(x, w))


def test_a_row_takes_nothing_from_the_next():
    """Scales and minima are read in eights, and those of other rows may be no numbers."""
    w = blocks_of(576, 32, 4, False, True)
    x, rows = drawn(1, 576), [1, 2, ROWS - 1]
    w.scale[3:-1] = float("nan")
    w.minimum[3:-1] = float("inf")
    for m in (1, 2, 8, 12):
        y = compiled(QuantizedLinear(w), x.expand(m, -1).contiguous())
        wanted = x.double() @ w.dequantize()[rows].double().T
        torch.testing.assert_close(y[:, rows], wanted.float().expand(m, -1))


def test_static_inputs_and_an_integer_layer_have_the_same_bits():
    model, x = torch.nn.Sequential(torch.nn.Linear(96, 40)), drawn(12, 96)
    inputs = ql.Scheme(8)
    qparams = calibrate(model, [x], inputs)
    found = []
    for mode in ("eager", "compiled"):
        with ql.use_kernels(mode), torch.no_grad():
            scheme = ql.Scheme(4, "symmetric", ql.PerAxis(0))
            qmodel, _ = quantize_model(model, scheme, activations=inputs, qparams=qparams)
            integer = IntegerLinear(qmodel[0], ql.Scheme(8), (0.05, 3))
            found.append((qmodel(x), qmodel(x[:1]), integer(qmodel[0].quantize_input(x).q)))
    assert all(map(torch.equal, *found))


# --- embeddings and tied heads ---
def test_an_embedding_unpacks_the_rows_asked_for(monkeypatch):
    seen, unpack = [], weight.unpack_rows
    monkeypatch.setattr(weight, "unpack_rows", lambda p, *a: seen.append(len(p)) or unpack(p, *a))
    for w in (codes_of(70, ql.PerGroup(32), 3), blocks_of(70, 32, 5, False, True)):
        ids = torch.tensor([[3, 36], [0, 3]])
        assert torch.equal(QuantizedEmbedding(w)(ids), w.dequantize()[ids])
        assert torch.equal(compiled(QuantizedEmbedding(w), ids), w.dequantize()[ids])
    assert seen == [4, 4]


@pytest.mark.parametrize("bits", BITS)
def test_rows_have_the_bits_of_dequantize(bits, by_the_kernel):
    for width, granularity in LAYOUTS:
        for kind in KINDS:
            w = codes_of(width, granularity, bits, kind)
            assert torch.equal(compiled(QuantizedEmbedding(w), torch.arange(ROWS)), w.dequantize())
    w = blocks_of(300, 32, bits, True, True)
    half = QuantizedEmbedding(w).half()
    assert torch.equal(compiled(half, torch.tensor([36])), w.dequantize(torch.float16)[36:])
    assert {"rows"} == set(by_the_kernel)


def test_a_tied_head_reads_the_embeddings_bytes():
    w, x = codes_of(64, ql.PerGroup(32), 4), drawn(1, 64)
    embedding = QuantizedEmbedding(w)
    head = QuantizedLinear(embedding.codes)
    assert head.codes.packed.data_ptr() == embedding.codes.packed.data_ptr()
    wanted = x @ w.dequantize().T
    torch.testing.assert_close(compiled(head, x), wanted)
    torch.testing.assert_close(compiled(embedding.project, x), wanted)


# --- which path ---
@pytest.mark.parametrize("activations", [None, INPUTS[0]])
def test_no_graph_breaks_and_an_export_runs(activations):
    layer = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), drawn(ROWS), activations)
    model, x = torch.nn.Sequential(layer), drawn(3, 64)
    wanted = model(x)
    with torch.no_grad():
        torch._dynamo.reset()
        whole = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(whole(x), wanted)
        program = torch.export.export(model, (x,))
    names = [str(node.target) for node in program.graph.nodes]
    assert any(re.search(r"qlesson\.(int_)?linear", name) for name in names)
    torch.testing.assert_close(program.module()(x), wanted)


def test_auto_compiles_after_enough_bytes(monkeypatch, by_the_kernel):
    layer, x = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4)), drawn(1, 64)
    monkeypatch.setitem(product._read, "bytes", 0)
    monkeypatch.setattr(product, "PAYS_OFF", 3 * ROWS * 32)
    with ql.use_kernels("auto"), torch.no_grad():
        for _ in range(3):
            layer(x)
        assert not by_the_kernel
        layer(x)
    assert by_the_kernel == ["linear"]


def test_without_a_compiler_the_values_are_the_same_after_one_warning(monkeypatch):
    def none(*kind):
        raise RuntimeError("no C++ compiler")

    layers = [QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), None, a) for a in (None, INPUTS[0])]
    x = drawn(2, 64)
    with ql.use_kernels("eager"):
        wanted = [layer(x) for layer in layers]
    monkeypatch.setattr(product, "_library", none)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler") as found:
        assert all(torch.equal(compiled(a, x), b) for a, b in zip(layers, wanted, strict=True))
    assert len(found) == 1
    modes._state["broken"] = False


def test_what_has_no_kernel_takes_the_whole_weight(by_the_kernel):
    x = drawn(2, 64)
    for scheme in (
        ql.Scheme(16, "symmetric", ql.PerAxis(0)),
        ql.Scheme(8, granularity=ql.PerAxis(1)),
    ):
        w = ql.quantize(drawn(ROWS, 64), scheme)
        assert torch.equal(compiled(QuantizedLinear(w), x), x @ w.dequantize().T)
    double = QuantizedLinear(ql.quantize(drawn(ROWS, 64).double()))
    assert compiled(double, x.double()).dtype == torch.float64
    assert not by_the_kernel


def test_eager_tiles_meet_without_a_seam(monkeypatch):
    monkeypatch.setattr(layer_product, "TILE", 5 * 64)
    w, x = codes_of(64, ql.PerGroup(32), 4, KINDS[2]), drawn(3, 64)
    with ql.use_kernels("eager"):
        layer = QuantizedLinear(w, drawn(ROWS, seed=2))
        torch.testing.assert_close(layer(x), x @ w.dequantize().T + layer.bias)
        layer = QuantizedLinear(w, activations=INPUTS[0])
        codes = layer.quantize_input(x)
        assert torch.equal(layer.product(codes), slowly(codes, w))


MEMORY = """
import ctypes, pathlib, re, torch, qlesson as ql
from qlesson.nn import QuantizedLinear
def status(key):
    lines = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(key + r":\\s+(\\d+) kB", lines)[1]) * 1024
w = ql.quantize(torch.randn(8192, 4096), ql.Scheme(4, "symmetric", ql.PerGroup(32)))
for activations in (None, ql.Scheme(8, "symmetric")):
    layer = QuantizedLinear(w, None, activations)
    for mode in ("eager", "compiled"):
        for m in (1, 64):
            with torch.no_grad(), ql.use_kernels(mode):
                x = torch.randn(m, 4096)
                layer(x)
                ctypes.CDLL(None).malloc_trim(0)
                pathlib.Path("/proc/self/clear_refs").write_text("5")
                before = status("VmRSS")
                layer(x)
                print((status("VmHWM") - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_a_whole_w_hat_is_never_made():
    """It would take 128 MB; one tile of it is 4 MB, and eagerly has some intermediates."""
    asked = [sys.executable, "-c", MEMORY]
    its = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # what is freed goes back at once
    said = subprocess.run(asked, capture_output=True, text=True, check=True, env=its).stdout
    assert len(said.split()) == 8 and max(map(float, said.split())) < 48
