"""Blocks against a slow spec: the value, what is refused, and everything that takes them."""

import copy
import itertools
import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import qlesson as ql
from qlesson import affine, kernels
from qlesson.blocks import Blocks, quantize_blocks
from qlesson.files import checkpoint, packing
from qlesson.files.packing import PackedBlocks
from qlesson.methods import Result
from qlesson.nn import (
    IntegerLinear,
    QuantizedConv,
    QuantizedEmbedding,
    QuantizedLinear,
    load_state,
    quantize_model,
    state,
)
from qlesson.nn.weight import QuantizedWeight

STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
ANY = [0.0, -0.0, -1.5, 0.1, 1e-7, 3e38, float("inf"), -float("inf"), float("nan")]
INF, NAN = float("inf"), float("nan")


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some(shape=(6, 20), group_size=8, bits=4, dtype=torch.float16, signed=False, seed=0):
    """Blocks of drawn codes, scales of both signs, and minima."""
    g = torch.Generator().manual_seed(seed)
    low = -(2 ** (bits - 1)) if signed else 0
    kind = torch.int8 if signed else torch.uint8
    q = torch.randint(low, low + 2**bits, shape, generator=g).to(kind)
    steps = (*shape[:-1], -(-shape[-1] // group_size))
    scale, minimum = (torch.randn(steps, generator=g).to(dtype) for _ in range(2))
    return Blocks(q, scale, minimum, bits, group_size)


def unusual(dtype=torch.float16):
    """What a file may hold: every block of the first row has a scale that is no step."""
    x = some((3, 20), 4, dtype=dtype)
    x.scale[0] = torch.tensor([0.0, -1.5, INF, NAN, -0.0])
    x.minimum[1, :3] = torch.tensor([INF, -INF, NAN])
    return x


def same_bits(a, b):
    """Equal tensors, NaN for NaN."""
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(123.0, 1e30, -1e30), b.nan_to_num(
        123.0, 1e30, -1e30)) and torch.equal(a.isnan(), b.isnan())  # fmt: skip


def equal(x, y):
    minima = [v.minimum for v in (x, y)]
    here = minima[0] is minima[1] is None or raw(minima[0]) == raw(minima[1])
    return (
        (x.q.dtype, x.shape, x.scale.dtype) == (y.q.dtype, y.shape, y.scale.dtype)
        and (x.bits, x.group_size) == (y.bits, y.group_size)
        and torch.equal(x.q, y.q)
        and raw(x.scale) == raw(y.scale)
        and here
    )


def raw(x):
    return bytes(x.contiguous().view(torch.uint8).flatten().tolist())


def spec(x):
    """One value at a time, one rounding for each operation."""
    number = np.float64 if x.scale.dtype == torch.float64 else np.float32
    scale = x.scale.double().numpy().astype(number)
    minimum = None if x.minimum is None else x.minimum.double().numpy().astype(number)
    r_hat = np.empty(x.shape, number)
    for index in itertools.product(*map(range, x.shape)):
        home = (*index[:-1], index[-1] // x.group_size)
        r_hat[index] = scale[home] * number(x.q[index].item())
        if minimum is not None:
            r_hat[index] = r_hat[index] + minimum[home]
    return torch.from_numpy(r_hat)


# --- the value ---


@st.composite
def blocks(draw):
    shape = draw(st.lists(st.integers(1, 4), max_size=2)) + [draw(st.integers(1, 9))]
    bits, group_size = draw(st.integers(2, 8)), draw(st.integers(1, 10))
    x = some(tuple(shape), group_size, bits, draw(st.sampled_from(STORED)), draw(st.booleans()),
             draw(st.integers(0, 2**20)))  # fmt: skip
    for part in (x.scale, x.minimum):
        places = draw(st.lists(st.integers(0, part.numel() - 1), max_size=3))
        for i in places:
            part.view(-1)[i] = draw(st.sampled_from(ANY))
    minimum = None if draw(st.booleans()) else x.minimum
    return Blocks(x.q, x.scale, minimum, bits, group_size)


@given(blocks())
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_the_value_is_the_slow_spec(x):
    wanted = spec(x)
    assert same_bits(x.dequantize(), wanted)
    for dtype in (torch.float16, torch.bfloat16):
        largest = torch.finfo(dtype).max
        clipped = wanted.clamp(-largest, largest)
        clipped = torch.where(wanted.isinf(), wanted, clipped)
        if wanted.dtype == torch.float32:
            assert same_bits(x.dequantize(dtype), clipped.to(dtype))
        else:
            assert same_bits(x.dequantize(dtype), affine.rounded(clipped, dtype))


def test_by_hand():
    q = torch.tensor([[0, 1, 2, 3, 3], [3, 2, 1, 0, 1]], dtype=torch.uint8)
    scale = torch.tensor([[0.5, -1.0, 2.0], [0.0, INF, 1.0]])
    minimum = torch.tensor([[-1.0, 4.0, 0.0], [0.25, 0.0, -INF]])
    x = Blocks(q, scale, minimum, 2, 2)  # the last block of a row has one value
    wanted = [[-1.0, -0.5, 2.0, 1.0, 6.0], [0.25, 0.25, INF, NAN, -INF]]
    assert same_bits(x.dequantize(), torch.tensor(wanted))
    assert (x.shape, x.device.type) == ((2, 5), "cpu")
    row = Blocks(q, scale[:, :1], None, 2, 5)
    assert row.dequantize().tolist() == [[0.0, 0.5, 1.0, 1.5, 1.5], [0.0] * 5]


def test_a_finite_value_that_does_not_fit_becomes_the_largest_and_an_infinite_one_stays():
    q = torch.tensor([[2, 2, 2]], dtype=torch.uint8)
    x = Blocks(q, torch.tensor([[5e4, -5e4, INF]]), torch.zeros(1, 3), 2, 1)
    assert x.dequantize().tolist() == [[1e5, -1e5, INF]]
    assert x.dequantize(torch.float16).tolist() == [[65504.0, -65504.0, INF]]


def test_the_product_is_rounded_before_the_sum():
    """A fused multiply-add rounds once; here it would give other values."""
    x = some((40, 256), 16, 8, torch.float32)
    where = ql.PerGroup(16)
    scale, minimum = (where.align(p).double() for p in (x.scale, x.minimum))
    fused = (scale * where.split(x.q) + minimum).float().flatten(1)
    assert (x.dequantize() != fused).float().mean() > 0.1


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("shape, size", [((64, 256), 32), ((50, 100), 32), ((3, 4000), 4000)])
def test_every_mode_gives_the_same_bits(shape, size, dtype):
    x = some(shape, size, 4, dtype)
    x.scale[0, 0], x.minimum[-1, -1] = INF, -INF
    for out in (torch.float32, torch.float16):
        found = []
        for mode in ("eager", "compiled"):
            with ql.use_kernels(mode):
                found.append(x.dequantize(out))
        assert same_bits(*found)
    assert not kernels.modes._state["broken"]


class Largest(TorchDispatchMode):
    """The most bytes of one tensor that any operation gives."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view and "copy_" not in str(func):
            self.most = max(self.most, out.nbytes)
        return out


def test_no_float_copy_of_the_whole_is_made():
    x = some((512, 4096), 32)
    r_hat = torch.empty(x.shape)
    with ql.use_kernels("eager"), Largest() as seen:
        x.dequantize(out=r_hat)
    assert 0 < seen.most <= r_hat.nbytes / 8


# --- what it costs, and where it lies ---


@pytest.mark.parametrize(
    "name, bits, signed, minimum, price",
    [("Q4_0", 4, True, False, 4.5), ("Q4_1", 4, False, True, 5.0), ("Q8_0", 8, True, False, 8.5)],
)
def test_the_price_is_that_of_ggmls_types(name, bits, signed, minimum, price):
    x = some((4, 64), 32, bits, signed=signed)
    x = Blocks(x.q, x.scale, x.minimum if minimum else None, bits, 32)
    assert x.bits_per_value == price
    assert x.packed_nbytes == 256 * price / 8 == PackedBlocks.pack(x).nbytes
    assert x.nbytes == 256 + (2 if minimum else 1) * 8 * 2


def test_a_short_last_block_costs_a_whole_scale():
    assert some((2, 9), 8).bits_per_value == 4 + 32 * 4 / 18


def test_to_moves_every_part():
    x = some()
    assert equal(x.to("cpu"), x)
    there = x.to("meta")
    assert {t.device.type for t in (there.q, there.scale, there.minimum)} == {"meta"}
    assert (there.bits, there.group_size, there.shape) == (x.bits, x.group_size, x.shape)
    assert Blocks(x.q, x.scale, None, 4, 8).to("meta").minimum is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA to compare with the CPU")
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", STORED)
def test_cuda_gives_the_same_bits(dtype, mode):
    for x in (some((64, 256), 32, 8, dtype), some((50, 100), 32, 8, dtype), unusual(dtype)):
        with ql.use_kernels(mode):
            there = x.to("cuda")
            assert same_bits(there.dequantize().cpu(), x.dequantize())
            layer = QuantizedWeight(there)
            torch._dynamo.reset()
            whole = torch.compile(lambda layer=layer: layer.values(), fullgraph=True)
            assert dtype == torch.float64 or same_bits(whole().cpu(), x.dequantize())


@pytest.mark.parametrize("minimum", [True, False])
def test_blocks_hold_plain_tensors(minimum):
    class Tagged(torch.Tensor):
        """As other libraries make them."""

    x = some()
    parts = x.q, x.scale, x.minimum if minimum else None
    for wrap in (lambda x: x.as_subclass(Tagged), lambda x: nn.Parameter(x, False)):
        wrapped = [None if part is None else wrap(part) for part in parts]
        made = Blocks(*wrapped, x.bits, x.group_size)
        assert all(type(t) is torch.Tensor for t in (*made._tensors().values(), made.dequantize()))
        assert made.q.data_ptr() == x.q.data_ptr()  # the same memory


def test_out_is_filled():
    x = some()
    out = torch.empty(6, 20, dtype=torch.float16)
    assert x.dequantize(torch.float16, out=out) is out
    assert torch.equal(out, x.dequantize(torch.float16))
    with pytest.raises(ValueError, match=r"out has dtype torch.float16, but needs torch.float32"):
        x.dequantize(out=out)
    with pytest.raises(ValueError, match="out shares memory with scale"):
        whole = some((4, 8), 1, dtype=torch.float32)
        whole.dequantize(out=whole.scale)


# --- what is refused ---

Q, S, M = some().q, some().scale, some().minimum


@pytest.mark.parametrize(
    "parts, error, words",
    [
        ((Q.float(), S, M, 4, 8), TypeError, "q must hold codes in torch.uint8 or torch.int8"),
        ((Q.tolist(), S, M, 4, 8), TypeError, "q must be a torch tensor, got list"),
        ((Q[:0], S[:0], M[:0], 4, 8), ValueError, r"q has shape \(0, 20\).*at least one code"),
        ((Q[0, 0], S[0, 0], M[0, 0], 4, 8), ValueError, r"q has shape \(\): blocks lie along"),
        ((Q, S, M, 3, 8), ValueError, "codes from 0 to 15, and the codes are 0 to 7: pass the"),
        ((Q.view(torch.int8), S, M, 4, 8), ValueError, "the codes are -8 to 7"),
        ((Q, S, M, 16, 8), ValueError, "bits must be an integer from 2 to 8, got 16"),
        ((Q, S, M, 4, 0), ValueError, "group_size must be an integer of at least 1, got 0"),
        ((Q, S, M, 4, 7.5), ValueError, "group_size must be an integer of at least 1, got 7.5"),
        ((Q, S[:, :2], M, 4, 8), ValueError, r"scale has shape \(6, 2\).*blocks of 8.*\(6, 3\)"),
        ((Q, S, M[:, :1], 4, 8), ValueError, r"minimum has shape \(6, 1\).*need \(6, 3\): reshape"),
        ((Q, S, M.float(), 4, 8), TypeError, "minimum is in torch.float32 and scale in torch.fl"),
        ((Q, S.int(), M, 4, 8), TypeError, r"scale must be torch.float32, .*got torch.int32"),
        ((Q, None, M, 4, 8), TypeError, "scale must be a torch tensor, got NoneType"),
        ((Q, S, 0.0, 4, 8), TypeError, "minimum must be a torch tensor, got float"),
        ((Q, S.to("meta"), M, 4, 8), ValueError, "scale is on meta, and q on cpu: move one"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, error, words):
    with pytest.raises(error, match=words):
        Blocks(*parts)


def test_blocks_are_no_tensor_to_quantize():
    with pytest.raises(TypeError, match=r"r is a Blocks already: call r.dequantize\(\) first"):
        ql.quantize(some())
    with pytest.raises(TypeError, match=r"call r_hat.dequantize\(\)"):
        ql.mse(torch.ones(6, 20), some())


# --- codes for given scales ---


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_codes_are_the_nearest_for_what_is_stored(bits, dtype):
    r, x = drawn(6, 20), some((6, 20), 8, bits, dtype)
    got = quantize_blocks(r, x.scale, x.minimum, bits, 8)
    assert got.scale is x.scale and got.minimum is x.minimum and got.q.dtype == torch.uint8
    every = torch.arange(2**bits, dtype=torch.float64)
    where = ql.PerGroup(8)
    scale, minimum = (where.align(p.double()) for p in (x.scale, x.minimum))
    values = (scale.unsqueeze(-1) * every + minimum.unsqueeze(-1)).expand(6, 3, 8, -1)
    off = (where.split(r.double()).unsqueeze(-1) - values).abs()
    taken = off.gather(-1, where.split(got.q).long().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(taken, off.amin(-1), rtol=0, atol=1e-12)


def test_the_codes_are_decided_in_float64():
    r, scale, minimum = drawn(1024, 256), torch.full((1024, 1), 0.03), torch.full((1024, 1), -3.7)
    exact = (r.double() - minimum.double()) / scale.double()
    wanted = exact.round().clamp(0, 255)
    assert torch.equal(quantize_blocks(r, scale, minimum, 8, 256).q.double(), wanted)
    assert not torch.equal(((r - minimum) / scale).round().clamp(0, 255).double(), wanted)


def test_codes_of_scales_that_are_no_steps():
    r = torch.tensor([[-1.0, 1.0, 2.0]]).repeat(5, 1)
    scale = torch.tensor([[0.0], [-1.0], [INF], [NAN], [1.0]])
    minimum = torch.tensor([[1.0], [2.0], [0.0], [0.0], [INF]])
    q = quantize_blocks(r, scale, minimum, 2, 3).q
    assert q.tolist() == [[0, 0, 3], [3, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="r holds 1 NaN and 0 infinite values"):
        quantize_blocks(torch.tensor([NAN]), torch.ones(1), torch.ones(1), 2, 1)


# --- packed ---


@given(blocks(), st.sampled_from(packing.ORDERS))
def test_packed_blocks_come_back_bit_for_bit(x, order):
    order = "low_first" if order == "halves" and x.bits != 4 else order
    packed = PackedBlocks.pack(x, order)
    assert equal(packed.unpack(), x)
    assert packed.data.nbytes == -(-x.q.numel() * x.bits // 8)
    assert packed.nbytes == packed.data.nbytes + x.nbytes - x.q.nbytes


def test_packed_blocks_that_do_not_fit_are_refused():
    p = PackedBlocks.pack(some())
    with pytest.raises(ValueError, match=r"take 60 bytes in one row: pass what pack gave"):
        PackedBlocks(p.data[:-1], p.shape, p.scale, p.minimum, 4, 8)
    with pytest.raises(ValueError, match=r"scale has shape \(6, 3\).*need \(6, 4\)"):
        PackedBlocks(p.data, p.shape, p.scale, p.minimum, 4, 5)
    with pytest.raises(TypeError, match="x must be a Blocks, got QTensor"):
        PackedBlocks.pack(ql.quantize(drawn(2, 3)))


# --- in a file ---


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("order", packing.ORDERS)
def test_a_file_keeps_blocks_bit_for_bit(tmp_path, dtype, order):
    path, x = tmp_path / "x.safetensors", unusual(dtype)
    bare = Blocks(x.q, x.scale, None, 4, 4)
    signed = some((5, 9), 4, 4, dtype, signed=True)
    wanted = {"x": x, "bare": bare, "signed": signed, "plain": torch.ones(2)}
    checkpoint.save(path, wanted | {"packed": PackedBlocks.pack(x, order)})
    found = checkpoint.load(path)
    for name in ("x", "bare", "signed"):
        assert type(found[name]) is Blocks and equal(found[name], wanted[name])
    assert equal(found["packed"], x)
    assert checkpoint.load(path, packed=True)["packed"].order == order


def test_a_file_holds_the_bits_that_are_promised(tmp_path):
    path, x = tmp_path / "x.safetensors", some((64, 256), 32)
    checkpoint.save(path, {"w": x})
    parts = load_file(path)
    assert sorted(parts) == ["w.codes", "w.minimum", "w.scale"]
    assert sum(p.nbytes for p in parts.values()) == x.packed_nbytes == 64 * 256 * 5 / 8
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == header + x.packed_nbytes


def version_of(path):
    text = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    return json.loads(json.loads(text)["__metadata__"]["qlesson"])["version"]


def test_only_a_file_that_an_older_reader_could_not_read_has_the_new_version(tmp_path):
    path, r = tmp_path / "x.safetensors", drawn(4, 8)
    half = ql.Scheme(4, scale_dtype=torch.float16)
    for x, version in ((r, 1), (ql.quantize(r), 1), (ql.quantize(r, half), 2), (some(), 2)):
        checkpoint.save(path, {"x": x, "plain": r})
        assert version_of(path) == version


def test_a_changed_byte_of_blocks_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"w": some((2, 5), 4)})
    whole = path.read_bytes()
    for i in range(8, len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(ValueError, match="is damaged|is no safetensors file|was not written"):
            checkpoint.load(path)


def test_blocks_in_a_file_go_back_to_floats(tmp_path):
    path, back = tmp_path / "x.safetensors", tmp_path / "back.safetensors"
    x = unusual()
    checkpoint.save(path, {"w": x, "b": torch.ones(3)})
    rows = checkpoint.dequantize_file(path, back, device="cpu")
    assert same_bits(load_file(back)["w"], x.dequantize())
    assert {row.name: row.bytes_before for row in rows}["w"] == x.packed_nbytes
    with pytest.raises(ValueError, match="is quantized already: dequantize it first"):
        checkpoint.quantize_file(path, tmp_path / "y.safetensors", ql.Scheme(4))


def test_a_name_that_a_part_would_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"w.minimum would be stored twice.*or w.minimum"):
        checkpoint.save(tmp_path / "x", {"w": some(), "w.minimum": torch.ones(1)})


# --- in layers ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_linear_layer_is_that_of_the_values(dtype):
    x, inputs, bias = some(), drawn(5, 20, dtype=dtype), drawn(6, seed=1)
    layer = QuantizedLinear(x, bias)
    wanted = nn.functional.linear(inputs, x.dequantize(dtype), bias.to(dtype))
    assert torch.equal(layer(inputs), wanted)
    assert torch.equal(layer.weight, x.dequantize())
    assert layer.extra_repr() == "[6, 20], 4 bits, Blocks, PerGroup(group_size=8, axis=-1)"


@pytest.mark.parametrize("minimum", [True, False])
def test_an_embedding_reads_the_rows_asked_for(minimum):
    x = some()
    x = x if minimum else Blocks(x.q, x.scale, None, 4, 8)
    ids = torch.tensor([[0, 5], [5, 2]])
    layer = QuantizedEmbedding(x)
    assert torch.equal(layer(ids), x.dequantize()[ids])
    assert layer(ids[:0]).shape == (0, 2, 20)


def test_a_convolution_is_that_of_the_values():
    conv, x = nn.Conv1d(4, 6, 5), some()
    inputs = drawn(2, 4, 9)
    wanted = nn.functional.conv1d(inputs, x.dequantize().view(6, 4, 5), conv.bias)
    assert torch.equal(QuantizedConv(conv, x, conv.bias)(inputs), wanted)


def test_integer_products_are_refused():
    words = r"The weight is Blocks, with a float minimum, .*: use activations=None"
    with pytest.raises(ValueError, match=words):
        QuantizedLinear(some(), activations=ql.Scheme(8))
    with pytest.raises(ValueError, match="layer must be static"):
        IntegerLinear(QuantizedLinear(some()), ql.Scheme(8), (0.1, 0))
    with pytest.raises(TypeError, match="weight must be a QTensor or Blocks, got Tensor"):
        QuantizedLinear(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"weight must be a matrix, got codes of shape \(20,\)"):
        QuantizedLinear(some((20,)))


def test_a_dtype_of_the_model_rounds_no_scale_and_no_minimum():
    x = some(dtype=torch.float32)
    layer = QuantizedLinear(x).half()
    assert layer.codes.scale.dtype == layer.codes.minimum.dtype == torch.float32
    assert layer.weight.dtype == torch.float16 and equal(layer.codes.held, x)
    assert torch.equal(layer.weight, x.dequantize(torch.float16))
    there = QuantizedLinear(x).to("meta").codes
    assert {b.device.type for b in there.buffers()} == {"meta"}
    bare = QuantizedLinear(Blocks(x.q, x.scale, None, 4, 8)).half()
    assert bare.codes.scale.dtype == torch.float32 and bare.codes.held.minimum is None


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.up = nn.Embedding(6, 20), nn.Linear(20, 6)

    def forward(self, ids):
        return self.up(self.embedding(ids))


def in_blocks(seed=0):
    """A model of codes: an embedding in Blocks, and a layer without minima."""
    torch.manual_seed(0)
    model, x = Two().requires_grad_(False), some(seed=seed)
    bare = Blocks(x.q, x.scale, None, 4, 8)
    return load_state(model, {"embedding.weight": x, "up.weight": bare, "up.bias": model.up.bias})


def test_a_model_in_blocks_is_saved_and_loaded(tmp_path):
    qmodel, path, ids = in_blocks(), tmp_path / "x.safetensors", torch.tensor([0, 3, 5])
    saved = state(qmodel)
    assert equal(saved["embedding.weight"], some()) and saved["up.weight"].minimum is None
    for packed in (False, True):
        checkpoint.save(path, saved)
        again = load_state(Two(), checkpoint.load(path, packed=packed))
        assert torch.equal(again(ids), qmodel(ids))
        assert equal(state(again)["up.weight"], saved["up.weight"])
    with pytest.raises(ValueError, match=r"'up.weight' has shape \(6, 20\), the model's is"):
        load_state(nn.ModuleDict({"up": nn.Linear(8, 6)}), {"up.weight": some()})


def test_blocks_that_are_no_layers_weight_become_floats():
    model = Two()
    loaded = load_state(model, {**model.state_dict(), "up.bias": some((6,), 4)})
    assert torch.equal(loaded.up.bias, some((6,), 4).dequantize())


def test_load_state_dict_takes_what_a_file_may_hold_and_rounds_nothing():
    qmodel, other = in_blocks(), in_blocks(1)
    given = other.state_dict()
    given["embedding.codes.scale"][0] = torch.tensor([NAN, 0.0, -1.0])
    qmodel.load_state_dict(given)
    assert equal(state(qmodel)["embedding.weight"], state(other)["embedding.weight"])
    for name, bad, words in (
        ("scale", lambda x: x.float(), "scale is in torch.float32, and is stored in torch.float16"),
        ("minimum", lambda x: x.double(), "minimum is in torch.float64, and is stored in torch.f"),
        ("packed", lambda x: x.float(), "packed must hold integers in torch.uint8, got torch.flo"),
    ):
        name = f"embedding.codes.{name}"
        with pytest.raises(RuntimeError, match=words):
            qmodel.load_state_dict(given | {name: bad(given[name])})


def test_a_copy_of_a_layer_shares_nothing():
    layer = QuantizedLinear(some())
    again = copy.deepcopy(layer)
    again.codes.scale.zero_()
    assert equal(layer.codes.held, some()) and not equal(again.codes.held, some())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_in_blocks_is_exported_and_compiled_whole(dtype):
    x = some((6, 20), 8, 4, dtype)
    model = nn.Sequential(QuantizedEmbedding(x), QuantizedLinear(x))
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    wanted = model(ids)
    assert torch.equal(torch.export.export(model, (ids,)).module()(ids), wanted)
    torch._dynamo.reset()
    whole = torch.compile(model, fullgraph=True, backend="eager")  # a break is an error
    assert torch.equal(whole(ids), wanted)


def test_the_compilers_own_loops_give_the_same_values():
    layer = QuantizedWeight(some((64, 96), 16, 8, torch.float32))
    torch._dynamo.reset()
    assert torch.equal(torch.compile(lambda: layer.values(), fullgraph=True)(), layer.values())


def test_a_report_counts_blocks_as_they_are_held():
    model = nn.Sequential(nn.Linear(20, 6, bias=False))
    _, report = quantize_model(model, ql.Scheme(4, granularity=ql.PerGroup(8)))
    assert report[0].bits == 4
    layer = QuantizedLinear(some())
    assert sum(b.nbytes for b in layer.buffers()) == some().packed_nbytes


def test_a_result_may_hold_blocks():
    x, inputs = some(), drawn(3, 20)
    result = Result(x, torch.full((20,), 2.0))
    assert torch.equal(result.float_weight(), 2 * x.dequantize())
    assert torch.equal(result.prepare(inputs), 2 * inputs)


# --- a subclass: a book in the place of even steps ---


@dataclass(frozen=True, eq=False)
class Booked(Blocks):
    """r_hat = scale * book[q]: a subclass adds a part, and says what a code stands for."""

    book: torch.Tensor

    @staticmethod
    def _fill(parts, granularity, r_hat):
        plain = dict(parts) | {"q": parts["book"][parts["q"].long()]}
        return Blocks._fill(plain, granularity, r_hat)


def booked():
    x, book = some((6, 20), 8, 2), torch.tensor([-1.0, -0.3, 0.2, 1.0])
    return Booked(x.q, x.scale, None, 2, 8, book)


def test_a_subclass_brings_its_own_parts_and_its_own_values():
    x, plain = booked(), some((6, 20), 8, 2)
    steps = plain.scale.float().repeat_interleave(8, 1)[:, :20]
    wanted = steps * x.book[x.q.long()]
    assert torch.equal(x.dequantize(), wanted)
    assert x.nbytes == plain.q.nbytes + plain.scale.nbytes + 16
    layer = QuantizedLinear(x)
    assert torch.equal(layer.weight, wanted) and type(layer.codes.held) is Booked
    assert torch.equal(layer.codes.held.book, x.book)
    assert type(x.to("cpu")) is Booked and x.to("meta").book.is_meta


def test_a_subclass_is_not_stored_as_blocks(tmp_path):
    words = r"x is a Booked, which holds more than Blocks: store it in its own format"
    with pytest.raises(TypeError, match=words):
        PackedBlocks.pack(booked())
    with pytest.raises(TypeError, match=re.compile(f"w: {words}")):
        checkpoint.save(tmp_path / "x.safetensors", {"w": booked()})
