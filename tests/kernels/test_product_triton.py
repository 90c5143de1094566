"""The product's kernels for a GPU: in Triton's interpreter where there is none."""

import pytest
import torch
from products import EPS, INPUTS, KINDS, ROWS, blocks_of, codes_of, compiled, drawn
from test_product_ints import slowly

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.kernels import modes, product
from qlesson.nn import QuantizedLinear
from qlesson.nn import product as layer_product

kernels = pytest.importorskip("qlesson.kernels.product_triton", reason="needs Triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# some long blocks at a time, long blocks, blocks of 32 and a shorter last one; groups that end
# inside and outside of a block
LAYOUTS = [
    (5 * 256 + 96 + 24, ql.PerGroup(64)),
    (256 + 64, ql.PerGroup(32)),
    (256 + 32 + 5, ql.PerGroup(96)),
    (1024, ql.PerGroup(128)),
    (33, ql.PerAxis(0)),
    (70, ql.PerTensor()),
]
CASES = [(bits, LAYOUTS[0]) for bits in range(2, 9)] + [(4, layout) for layout in LAYOUTS[1:]]


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The kernels that ran; it fails where one gave up."""
    found, launch = [], kernels._launch
    seen = lambda kernel, *a: found.append(kernel) or launch(kernel, *a)  # noqa: E731
    monkeypatch.setattr(kernels, "_launch", seen)
    monkeypatch.setattr(product, "runs", lambda *a, **how: False)
    monkeypatch.setattr(layer_product, "_triton", lambda w: kernels)
    monkeypatch.setitem(modes._state, "broken", False)
    yield found
    assert not modes._state["broken"]


def on_device(x):
    return x.to(DEVICE)


@pytest.mark.parametrize("bits, layout", CASES)
def test_a_float_product_is_within_n_eps_of_float64(bits, layout, calls):
    width, granularity = layout
    for kind, m in zip(KINDS, (1, 3, 8, 2), strict=True):
        w, x = codes_of(width, granularity, bits, kind), drawn(m, width, seed=m)
        w_hat, bias = w.dequantize(torch.float64), drawn(ROWS, seed=9)
        y = compiled(QuantizedLinear(w, bias).to(DEVICE), on_device(x)).cpu()
        size = x.double().abs() @ w_hat.abs().T + bias.abs()
        assert ((y - (x.double() @ w_hat.T + bias)).abs() <= (width + 4) * EPS * size).all()
    assert calls == [kernels._linear] * 8  # `compiled` calls twice


@pytest.mark.parametrize("bits, layout", CASES)
def test_an_integer_product_has_the_bits_of_the_eager_path(bits, layout, calls):
    width, granularity = layout
    for kind, m, inputs in zip(KINDS[1:], (1, 3, 8), (*INPUTS, INPUTS[0]), strict=True):
        w = codes_of(width, granularity, bits, kind)
        layer = QuantizedLinear(w, activations=inputs)
        x = layer.quantize_input(drawn(m, width, seed=m))
        with ql.use_kernels("eager"):
            wanted = layer.product(x)
        with ql.use_kernels("compiled"):
            y = layer.to(DEVICE).product(x.to(DEVICE)).cpu()
        assert torch.equal(y, wanted) and torch.equal(y, slowly(x, w))
    assert calls == [kernels._int_linear] * 3


@pytest.mark.parametrize("signed", [True, False])
def test_blocks_are_multiplied_with_their_minima(signed):
    for width, size, bits in ((320, 32, 4), (300, 64, 5), (64, 64, 2)):
        w, x = blocks_of(width, size, bits, signed, True), drawn(2, width)
        parts = w.scale.double().abs().repeat_interleave(size, 1)[:, :width] * w.q.double().abs()
        parts += w.minimum.double().abs().repeat_interleave(size, 1)[:, :width]
        y = compiled(QuantizedLinear(w).to(DEVICE), on_device(x)).cpu()
        wanted = x.double() @ w.dequantize(torch.float64).T
        assert ((y - wanted).abs() <= (width + 4) * EPS * (x.double().abs() @ parts.T)).all()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scale, minimum", [("inf", None), (1, "inf"), (1, "-inf")])
def test_an_infinite_scale_or_minimum_meets_its_own_codes_alone(scale, minimum, signed):
    """In a last block that is not whole, and in a whole one: none of what fills it up."""
    for width in (33, 32):
        codes = torch.full((1, width), -1 if signed else 1)
        codes = codes.to(torch.int8 if signed else torch.uint8)
        steps = torch.ones(2, 1, -(-width // 32))
        steps[0, 0, -1], steps[1, 0, -1] = float(scale), float(minimum or 1)
        w = Blocks(codes, steps[0], None if minimum is None else steps[1], 4, 32)
        x = torch.ones(1, width)
        with ql.use_kernels("eager"):
            wanted = QuantizedLinear(w)(x)
        assert wanted.isinf().all()
        assert torch.equal(compiled(QuantizedLinear(w).to(DEVICE), on_device(x)).cpu(), wanted)


def test_codes_cut_from_a_wider_buffer_are_read_where_they_lie(calls):
    w, x = codes_of(32, ql.PerAxis(0), 8, rows=1), drawn(1, 32)
    layer = QuantizedLinear(w).to(DEVICE)
    wider = layer.codes.packed.new_zeros(3, 33)
    wider[:1, :32] = layer.codes.packed
    wanted = compiled(layer, on_device(x))
    layer.codes.packed = wider[:1, :32]
    assert torch.equal(compiled(layer, on_device(x)), wanted)


def test_too_little_memory_is_no_missing_compiler(monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "_launch", full)
    layer = QuantizedLinear(codes_of(64, ql.PerGroup(32), 4)).to(DEVICE)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(layer, on_device(drawn(2, 64)))


def test_many_inputs_go_in_parts_of_a_few(calls):
    w, x = codes_of(320, ql.PerGroup(32), 4, KINDS[2]), drawn(19, 320)
    y = compiled(QuantizedLinear(w).to(DEVICE), on_device(x)).cpu()
    torch.testing.assert_close(y, x @ w.dequantize().T, rtol=1e-5, atol=1e-4)
    assert calls == [kernels._linear] * 6  # `compiled` calls twice
    layer = QuantizedLinear(w, activations=INPUTS[0])
    q_x = layer.quantize_input(x)
    with ql.use_kernels("compiled"):
        y = layer.to(DEVICE).product(q_x.to(DEVICE)).cpu()
    assert torch.equal(y, slowly(q_x, w)) and calls[6:] == [kernels._int_linear] * 3


def test_what_the_kernels_are_not_written_for_runs_eagerly(calls):
    w = codes_of(320, ql.PerGroup(32), 4)
    many, none = drawn(kernels.MOST + 1, 320), drawn(0, 320)
    for codes, x in ((w, many), (w, none), (codes_of(96, ql.PerGroup(24), 4), drawn(1, 96))):
        y = compiled(QuantizedLinear(codes).to(DEVICE), on_device(x)).cpu()
        torch.testing.assert_close(y, x @ codes.dequantize().T)
    with ql.use_kernels("eager"):
        QuantizedLinear(w).to(DEVICE)(on_device(drawn(1, 320)))
    by_rows = QuantizedLinear(codes_of(320, ql.PerAxis(0), 4), None, INPUTS[0]).to(DEVICE)
    compiled(by_rows, on_device(many))
    assert not calls


def test_a_kernel_that_cannot_be_built_is_left_after_one_warning(monkeypatch):
    def none(*args):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(kernels, "_launch", none)
    layers = [QuantizedLinear(codes_of(64, ql.PerGroup(32), 4), None, a) for a in (None, INPUTS[0])]
    x = drawn(2, 64)
    with ql.use_kernels("eager"):
        wanted = [layer(x) for layer in layers]
    with pytest.warns(RuntimeWarning, match="no C compiler") as found:
        assert all(torch.equal(compiled(a, x), b) for a, b in zip(layers, wanted, strict=True))
    assert len(found) == 1
    modes._state["broken"] = False


COMPILED = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qlesson.kernels import product_triton
known = dict(M=2, ROWS=32, BLOCKS=2, PTX=True, WIDTH=5 * 256 + 96 + 8, BITS=5, P=4, LOW=16)
known |= dict(KIND=1, EACH=2, ROW_WORDS=216, PER_ROW=22, LAST=8)
kinds = {"packed": "*u8", "words": "*i32", "scale": "*fp16", "offset": "*i8", "y": "*fp32"}
kinds |= {"s_x": "*fp32", "z_x": "*i32"}
of_x = {product_triton._linear: ("*fp32", "*bf16"), product_triton._int_linear: ("*i32", "*i8")}
for kernel, (x, last) in of_x.items():
    names, given = kernel.arg_names, kinds | {"x": x, "last": last}
    types = {n: "constexpr" if n in known else given.get(n, "i32") for n in names}
    fixed = {(i,): known[n] for i, n in enumerate(names) if n in known}
    options = {"enable_fp_fusion": kernel is product_triton._linear}
    source = ASTSource(kernel, types, fixed)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    print(*(len(re.findall(word, made.asm["ptx"])) for word in ("fma.rn", "prmt", "dp4a")))
"""


@pytest.mark.slow
def test_they_compile_for_a_gpu_and_the_integer_one_fuses_no_addition(said_by):
    counts = (map(int, line.split()) for line in said_by(COMPILED).splitlines())
    (fused, bytes_alone, _), (whole, _, fours) = counts
    assert fused and not whole
    assert bytes_alone and fours  # which the interpreter has no words for
