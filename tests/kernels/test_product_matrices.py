"""Many inputs where a processor multiplies matrices (AMX), and where it does not.

What this processor has is in test_product_floats.py and test_product_ints.py too. Here are both
forms: `played`, whose instructions are loops, and `none`, as a processor before AMX runs it.
"""

import os
from itertools import product as all_of

import pytest
import torch
from products import EPS, KINDS, ROWS, blocks_of, codes_of, compiled, drawn
from test_product_ints import slowly

import qlesson as ql
from qlesson.kernels import cpp, product
from qlesson.nn import QuantizedLinear

FORMS = {"played": ["-DPLAY_MATRICES"], "none": [f"-mno-amx-{x}" for x in ("tile", "int8", "bf16")]}
SIZES = [(1100, ql.PerGroup(96)), (776, ql.PerGroup(32)), (811, ql.PerGroup(64))]
SIZES += [(290, ql.PerAxis(0)), (1024, ql.PerTensor()), (96, ql.PerGroup(24))]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch, by_the_kernel):
    try:
        known = cpp._output(*cpp.command(), "-dM", "-E", "-x", "c++", os.devnull)
    except RuntimeError:
        pytest.skip("needs a C++ compiler")
    if request.param == "none" and b"__AMX_BF16__" not in known:
        pytest.skip("this processor has no AMX, so the other tests of products see this form")
    if b"__AVX512BF16__" not in known or b"__AVX512VNNI__" not in known:
        pytest.skip("needs a processor with AVX-512 for bfloat16 and for bytes")
    more, library = FORMS[request.param], cpp.library
    monkeypatch.setattr(product, "library", lambda *a, **m: library(*a, *more, **m))
    product._library.cache_clear()
    yield request.param
    product._library.cache_clear()
    assert set(by_the_kernel) <= {"linear", "int_linear", "quantized_linear"} and by_the_kernel


@pytest.mark.parametrize(
    "bits, dtype", [(4, torch.float32), (8, torch.bfloat16), (3, torch.float16)]
)
def test_a_float_product_is_within_n_eps_of_float64(bits, dtype, form):
    for (width, granularity), kind in all_of(SIZES, KINDS[::2]):
        w = codes_of(width, granularity, bits, kind, rows=150)  # more than a tile for each thread
        w_hat = w.dequantize(torch.float64)
        for m in (30, 49):
            x = drawn(m, width, seed=m).to(dtype)
            x[3] *= 2.0**-14  # in float16 some have fewer digits
            y, wanted = compiled(QuantizedLinear(w), x).double(), x.double() @ w_hat.T
            size = x.double().abs() @ w_hat.abs().T
            rounded = torch.finfo(dtype).eps / 2 * wanted.abs() if bits != 4 else 0
            least = 2.0**-24 if dtype is torch.float16 else 0
            assert ((y - wanted).abs() <= (width + 4) * EPS * size + rounded + least).all()


def test_minima_are_added_for_all_parts_of_an_input(form):
    w = blocks_of(811, 64, 4, False, True)
    parts = w.scale.double().abs().repeat_interleave(64, 1)[:, :811] * w.q.double().abs()
    parts += w.minimum.double().abs().repeat_interleave(64, 1)[:, :811]
    x = drawn(40, 811)
    wanted = x.double() @ w.dequantize(torch.float64).T
    bound = 815 * EPS * (x.double().abs() @ parts.T)
    assert ((compiled(QuantizedLinear(w), x) - wanted).abs() <= bound).all()


def test_float32_inputs_lose_no_bit(form):
    """One input of 24 bits for each output, times codes of 8 bits and the scale 1."""
    q = torch.eye(64, dtype=torch.int8)
    w = ql.QTensor(q, torch.ones(64, 2), torch.zeros(64, 2, dtype=torch.int8),
                   ql.Scheme(8, "symmetric", ql.PerGroup(32)))  # fmt: skip
    x = drawn(32, 64) * torch.exp(10 * drawn(32, 64, seed=1))
    assert torch.equal(compiled(QuantizedLinear(w), x), x)


@pytest.mark.parametrize("odd", [1e-42, 2.0**-110, 3e38, float("inf"), float("nan")])
def test_inputs_that_no_part_holds_go_another_way(odd, form):
    w = codes_of(64, ql.PerGroup(32), 8)
    x = drawn(32, 64)
    x[5, 7] = odd
    x[9] = odd / 1000
    wanted = torch.nn.functional.linear(x, w.dequantize())
    found = compiled(QuantizedLinear(w), x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert (found[9] != 0).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_an_integer_product_has_the_bits_of_its_definition(bits, form):
    inputs = (ql.Scheme(8, granularity=ql.PerAxis(0)), 23), (ql.Scheme(8, "symmetric"), 40)
    for (width, granularity), kind, (scheme, m) in all_of(SIZES, KINDS[1:3], inputs):
        w = codes_of(width, granularity, bits, kind, rows=150)  # more than a tile for each thread
        layer = QuantizedLinear(w, activations=scheme)
        x = layer.quantize_input(drawn(m, width, seed=m))
        with ql.use_kernels("compiled"):
            assert torch.equal(layer.product(x), slowly(x, w))


def test_the_largest_codes_do_not_saturate(form):
    scheme = ql.Scheme(8, granularity=ql.PerGroup(64), signed=False)
    inputs = ql.Scheme(8, granularity=ql.PerAxis(0))
    for code, zero in all_of((0, 255), (0, 255)):
        steps = torch.full((ROWS, 8), 0.01), torch.full((ROWS, 8), zero, dtype=torch.uint8)
        w = ql.QTensor(torch.full((ROWS, 512), code, dtype=torch.uint8), *steps, scheme)
        layer = QuantizedLinear(w, activations=inputs)
        for end, z_x in all_of((-128, 127), (-128, 127)):
            q = torch.full((20, 512), end, dtype=torch.int8)
            z = torch.full((20, 1), z_x, dtype=torch.int8)
            x = ql.QTensor(q, torch.full((20, 1), 0.5), z, inputs)
            with ql.use_kernels("compiled"):
                assert torch.equal(layer.product(x), slowly(x, w))
