"""Packed codes times inputs of 8 bits: the bits of the definition, on every processor."""

import pytest
import torch
from products import (
    INPUTS,
    KINDS,
    LAYOUTS,
    ROWS,
    codes_of,
    compiled,
    drawn,
    each_bits,
)

import qlesson as ql
from qlesson.nn import IntegerLinear, QuantizedLinear, calibrate, quantize_model

pytestmark = pytest.mark.usefixtures("by_the_kernel")


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


@each_bits
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


@each_bits
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
