"""Layers whose codes are multiplied packed: how they are packed, and which path an input takes.

The products themselves are tested in test_product_floats.py and test_product_ints.py.
"""

import copy
import gc
import os
import re
import subprocess
import sys

import pytest
import torch
from products import (
    HALF_BITS,
    HALVES,
    INPUTS,
    KINDS,
    LAYOUTS,
    ROWS,
    blocks_of,
    codes_of,
    compiled,
    drawn,
    each_bits,
)
from test_product_ints import slowly

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.files import packing
from qlesson.kernels import modes, product
from qlesson.kernels.cpp import NoCompiler
from qlesson.kernels.packed import fields, pack_rows, row_nbytes, unpack_rows
from qlesson.nn import (
    QuantizedEmbedding,
    QuantizedLinear,
    quantize_model,
    weight,
)
from qlesson.nn import product as layer_product

pytestmark = pytest.mark.usefixtures("by_the_kernel")


# --- how codes are packed ---
@each_bits
def test_packed_rows_of_every_width_hold_every_code_in_its_bits(bits):
    filling = 8 // fields(bits)[-1][0] - 1
    for width in range(1, 530):
        low = -(2 ** (bits - 1)) if width % 2 else 0
        g = torch.Generator().manual_seed(width)
        q = torch.randint(low, low + 2**bits, (5, width), generator=g)
        q = q.to(torch.int8 if low else torch.uint8)
        data = pack_rows(q, bits)
        assert torch.equal(unpack_rows(data, bits, width, low < 0), q)
        assert torch.equal(unpack_rows(data[3:4], bits, width, low < 0), q[3:4])
        assert data.shape == (5, row_nbytes(width, bits))
        assert width * bits <= 8 * data.shape[1] <= (width + filling) * bits


@pytest.mark.parametrize("width", [250, 256 + 32 + 3, 511])
def test_a_code_lies_where_the_docstring_says(width):
    """Code by code, with no tensor operation: blocks of 256 in their order, then of 32."""
    bits = 5
    q = torch.randint(0, 32, (1, width), generator=torch.Generator().manual_seed(0))
    data, at = pack_rows(q.byte(), bits)[0].tolist(), 0
    longs, shorts = width // 256 * 256, width // 32 * 32
    blocks = [(i, 256) for i in range(0, longs, 256)] + [(i, 32) for i in range(longs, shorts, 32)]
    for first, size in [*blocks, (shorts, -(-(width - shorts) // 8) * 8)]:
        shift = 0
        for p in (4, 1):
            n = size * p // 8
            for i in range(size):
                place = first + i
                if size == 256:
                    four, within = divmod(i, 4)
                    place = first + 32 * (four % 8) + 4 * (four // 8) + within
                wanted = int(q[0, place]) >> shift if place < width else 0
                found = data[at + i % n] >> (i // n * p)
                assert found % 2**p == wanted % 2**p
            at, shift = at + n, shift + p
    assert at == len(data)


def test_four_bits_in_short_rows_are_ggmls_halves():
    q = torch.randint(0, 16, (3, 224), generator=torch.Generator().manual_seed(0)).byte()
    assert torch.equal(pack_rows(q, 4).flatten(), packing.pack(q, 4, "halves"))


@each_bits
def test_a_layer_takes_its_bits_and_little_more(bits):
    scheme = ql.Scheme(bits, "symmetric", ql.PerGroup(32), scale_dtype=torch.float16)
    model = torch.nn.Sequential(torch.nn.Linear(512, 64, bias=False))
    for activations in (None, ql.Scheme(8, "symmetric")):
        qmodel, report = quantize_model(model, scheme, activations=activations)
        held = sum(x.nbytes for x in qmodel.buffers())
        assert held == report.bytes_after == sum(x.nbytes for x in qmodel.state_dict().values())
        assert 8 * held <= (bits + 0.6) * 512 * 64
    assert torch.equal(qmodel[0].codes.q, ql.quantize(model[0].weight, scheme).q)


# --- layers ---
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


def test_row_numbers_to_be_negated():
    w, ids = codes_of(64, ql.PerGroup(32), 4), torch.arange(ROWS)
    layer = QuantizedEmbedding(w)
    for some in (ids, torch._neg_view(-ids)):
        assert torch.equal(compiled(layer, some), w.dequantize())
    with pytest.raises(IndexError, match="reach from -6 to 0"):
        compiled(layer, torch._neg_view(ids[:7]))


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


# --- embeddings and tied heads ---
def test_an_embedding_unpacks_the_rows_asked_for(monkeypatch):
    seen, unpack = [], weight.unpack_rows
    monkeypatch.setattr(weight, "unpack_rows", lambda p, *a: seen.append(len(p)) or unpack(p, *a))
    for w in (codes_of(70, ql.PerGroup(32), 3), blocks_of(70, 32, 5, False, True)):
        ids = torch.tensor([[3, 36], [0, 3]])
        assert torch.equal(QuantizedEmbedding(w)(ids), w.dequantize()[ids])
        assert torch.equal(compiled(QuantizedEmbedding(w), ids), w.dequantize()[ids])
    assert seen == [4, 4]


@each_bits
def test_rows_have_the_bits_of_dequantize(bits, by_the_kernel):
    for width, granularity in LAYOUTS:
        for kind in KINDS:
            w = codes_of(width, granularity, bits, kind)
            assert torch.equal(compiled(QuantizedEmbedding(w), torch.arange(ROWS)), w.dequantize())
    w = blocks_of(300, 32, bits, True, True)
    large = Blocks(w.q, w.scale.float() * 4e37, w.minimum.float(), bits, 32)  # some are infinite
    for dtype in HALVES if bits in HALF_BITS else ():
        for codes in (w, large):
            half = QuantizedEmbedding(codes).to(dtype)
            assert torch.equal(compiled(half, torch.arange(ROWS)), codes.dequantize(dtype))
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
        half, y = copy.deepcopy(model).bfloat16(), x.bfloat16()
        whole = torch.compile(half, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(whole(y), half(y))
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


FAILS = [
    (NoCompiler("no C++ compiler"), 1, r"^Nothing can be compiled here \(no C\+\+ compiler\)"),
    (
        PermissionError("not yours"),
        2,
        r"product_\w*.cpp .* \(not yours\).* Set TORCHINDUCTOR_CACHE",
    ),
    (RuntimeError("g++ fails: here"), 2, r"product_\w*.cpp .*g\+\+ fails.* another C\+\+ compiler"),
]


@pytest.mark.parametrize("error, warned, says", FAILS, ids=lambda x: type(x).__name__)
def test_where_it_fails_the_values_are_the_same_after_one_warning(monkeypatch, error, warned, says):
    """One for all where there is no compiler, else for each file; what is compiled goes on."""

    def fails(*source, **macros):
        raise error

    monkeypatch.setitem(modes._state, "broken", False)
    layers = [QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), None, a) for a in (None, INPUTS[0])]
    x = drawn(2, 64)
    with ql.use_kernels("eager"):
        wanted = [layer(x) for layer in layers]
    monkeypatch.setattr(product, "library", fails)
    product._library.cache_clear()
    with pytest.warns(RuntimeWarning, match=says) as found:
        assert all(torch.equal(compiled(a, x), b) for a, b in zip(layers, wanted, strict=True))
    product._library.cache_clear()
    assert len(found) == warned
    assert modes._state["broken"] == isinstance(error, NoCompiler)
    modes._state["broken"] = False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux to take memory away")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "inputs, room", [("None", 2**26), ("ql.Scheme(8, granularity=ql.PerAxis(0))", 2**22)]
)
def test_where_memory_is_short_the_process_goes_on(inputs, room, threads):
    """It runs eagerly, or torch says how much it lacks."""
    code = f"""
import resource, torch, qlesson as ql
from qlesson.kernels import product
from qlesson.nn import QuantizedLinear
torch.set_num_threads({threads})
product.THREAD = 1
w = ql.quantize(torch.randn(8, 1024), ql.Scheme(4, "symmetric", ql.PerGroup(32)))
layer = QuantizedLinear(w, None, {inputs})
x = torch.randn(2**14, 1024)
torch.set_grad_enabled(False)
ql.use_kernels("compiled")
wanted = layer(x)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + {room}, -1))
try:
    layer(x)
except RuntimeError as error:
    print("memory" in str(error))
else:
    print("done")
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(torch.allclose(layer(x), wanted, atol=1e-4))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.stdout.split() in (["True", "True"], ["done", "True"]), made.stderr


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


@pytest.mark.parametrize("name", ["packed", "scale", "zero_point"])
def test_codes_and_steps_that_came_to_lie_elsewhere_are_found_again(name):
    layer, other = (QuantizedLinear(codes_of(256, ql.PerGroup(32), 4, KINDS[2])) for _ in range(2))
    x = drawn(1, 256)
    compiled(layer, x)
    buffer = getattr(layer.codes, name)
    buffer.data = buffer.data // 2 if name != "scale" else buffer.data * 3
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(compiled(layer, x), compiled(other, x), rtol=0, atol=0)


def test_a_bias_in_float64_is_added_as_in_the_steps(by_the_kernel):
    bias = torch.full((ROWS,), 1 / 3, dtype=torch.float64)
    for scheme in (None, *INPUTS):
        layer = QuantizedLinear(codes_of(256, ql.PerGroup(32), 4), bias, scheme)
        for m in (1, 16):
            x = drawn(m, 256)
            alone = compiled(QuantizedLinear(layer.codes, None, scheme), x)
            assert torch.equal(compiled(layer, x), (alone + bias).float())
