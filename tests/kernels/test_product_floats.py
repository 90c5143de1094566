"""Packed codes times float inputs: within n eps of float64, halves rounded once.

ATEN_CPU_CAPABILITY=avx2 (or default) runs it as an older processor does, and test_product_ints.py.
"""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from products import (
    BITS,
    EPS,
    HALF_BITS,
    HALVES,
    KINDS,
    LAYOUTS,
    ROWS,
    blocks_of,
    codes_of,
    compiled,
    drawn,
    each_bits,
    each_half_bits,
    each_kind,
    kinds_of,
)

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.nn import QuantizedLinear

pytestmark = pytest.mark.usefixtures("by_the_kernel")


@each_bits
@pytest.mark.parametrize("width, granularity", LAYOUTS)
def test_a_float_product_is_within_n_eps_of_float64(bits, width, granularity, by_the_kernel):
    for kind in kinds_of(bits):
        w, bias = codes_of(width, granularity, bits, kind), drawn(ROWS, seed=9)
        w_hat = w.dequantize(torch.float64)
        for m in (1, 3, 9) if kind in KINDS[1:] else (*range(1, 10), 16, 23, 41, 64, 72, 90, 257):
            x = drawn(m, width, seed=m)
            y, wanted = compiled(QuantizedLinear(w, bias), x), x.double() @ w_hat.T + bias
            size = x.double().abs() @ w_hat.abs().T + bias.abs()
            assert ((y - wanted).abs() <= (width + 4) * EPS * size).all()
    assert {"linear"} == set(by_the_kernel)


@each_half_bits
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


@pytest.mark.parametrize("rows, width", [(203, 96), (203, 300), (500, 40), (70, 33_000)])
def test_many_rows_go_by_in_parts(rows, width):
    """Of a thread, of a panel, and those that stay in the cache for two goes of few inputs."""
    w = codes_of(width, ql.PerGroup(32), 4, rows=rows)
    layer, w_hat = QuantizedLinear(w), w.dequantize(torch.float64)
    for m in (9, 24, 70):
        x, found = drawn(m, width, seed=m), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(compiled(layer, x))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
        size = x.double().abs() @ w_hat.abs().T
        assert ((found[0] - x.double() @ w_hat.T).abs() <= (width + 4) * EPS * size).all()


def hard(*shape):
    """Inputs that no step suits: some outliers, many sizes, or one that drowns the others."""
    x, sizes = drawn(*shape, seed=1), torch.exp(4 * drawn(*shape, seed=2))
    outliers, drowned = x.clone(), x.clone()
    outliers[:, ::97] *= 1000
    drowned[:, ::32] = 2.0**23
    return {"outliers": outliers, "sizes": x * sizes, "tiny": x * 1e-30, "drowned": drowned}


def largest_times(x, w_hat):
    """The largest |x| of each 32 neighbours, times the |w_hat| that all of them meet."""
    x, w_hat = (F.pad(t.double().abs(), (0, -x.shape[1] % 32)) for t in (x, w_hat))
    return x.unflatten(1, (-1, 32)).amax(-1) @ w_hat.unflatten(1, (-1, 32)).sum(-1).T


@each_kind
def test_few_inputs_lose_at_most_2_to_the_minus_23_of_the_largest_of_32(bits, kind):
    """And float sums lose what they lose: eight lanes, each of an eighth of the blocks."""
    w = codes_of(2350, ql.PerGroup(32), bits, kind)
    w_hat = w.dequantize(torch.float64)
    for m in (1, 2, 5, 8):
        for x in hard(m, 2350).values():
            wanted = x.double() @ w_hat.T
            size = x.double().abs() @ w_hat.abs().T
            bound = EPS * (largest_times(x, w_hat) + 32 * size)
            assert ((compiled(QuantizedLinear(w), x) - wanted).abs() <= bound).all()


@pytest.mark.parametrize(
    "dtype, parts, bits",
    [
        *(pytest.param(torch.float32, 0x7F7F7F, n, id=f"floats-codes_of_{n}") for n in BITS),
        *(pytest.param(torch.bfloat16, 0x7F7F, n, id=f"bfloat16-codes_of_{n}") for n in HALF_BITS),
    ],
)
def test_one_input_loses_at_most_so_many_parts_of_the_largest_of_32(bits, dtype, parts):
    """Of the sum nothing but it is left, so that what it lost is all that y lacks, but for y's own
    rounding, which is small where the input is."""
    scheme = ql.Scheme(bits, "symmetric", ql.PerGroup(32))
    steps = torch.ones(512, 16), torch.zeros(512, 16, dtype=torch.int8)
    signed = ql.QTensor(torch.eye(512, dtype=torch.int8), *steps, scheme)
    unsigned = Blocks(torch.eye(512, dtype=torch.uint8), steps[0], None, bits, 32)
    half = 0x3F7F7F if dtype is torch.float32 and bits <= 4 else parts
    for (codes, most), m in product([(signed, parts), (unsigned, half)], (1, 3, 8)):
        for x in hard(m, 512).values():
            x = x.to(dtype)
            largest = x.unflatten(1, (-1, 32)).abs().amax(-1).double().repeat_interleave(32, 1)
            off = (compiled(QuantizedLinear(codes), x).double() - x.double()).abs()
            assert (off <= largest / most + torch.finfo(dtype).eps / 2 * x.double().abs()).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_one_input_loses_less_than_half_of_what_a_sum_in_float32_does(bits):
    """From the first product to the last: F.linear's order is a matter of its processor."""
    w = codes_of(4096, ql.PerGroup(32), bits, rows=256)
    w_hat, w_32 = w.dequantize(torch.float64), w.dequantize()
    for name in ("outliers", "sizes", "tiny"):
        x = hard(1, 4096)[name]
        wanted = x.double() @ w_hat.T
        in_order = torch.from_numpy(np.add.accumulate((x * w_32).numpy(), 1)[:, -1])
        off, floats_off = compiled(QuantizedLinear(w), x) - wanted, in_order - wanted
        assert 4 * off.square().mean() < floats_off.square().mean()


@each_half_bits
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


@each_bits
@pytest.mark.parametrize("signed", [True, False])
def test_all_digits_of_32_inputs_fit_in_a_sum(bits, signed):
    """The largest inputs times the largest codes of weights with one zero for all."""
    low = -(2 ** (bits - 1)) if signed else 0
    dtype = torch.int8 if signed else torch.uint8
    for code in (low, low + 2**bits - 1):
        w = Blocks(torch.full((6, 512), code, dtype=dtype), torch.ones(6, 16), None, bits, 32)
        for n in (0x7F7F00, -0x7F7F00, 0x3F7F00, -0x3F7F00):
            wanted = torch.full((6,), 512.0 * n * code)
            for m in (1, 2, 3):
                y = compiled(QuantizedLinear(w), torch.full((m, 512), float(n)))
                torch.testing.assert_close(y, wanted.expand(m, 6), rtol=16 * EPS, atol=0)


@pytest.mark.parametrize("width, place", [(64, 5), (288, 5), (288, 270), (96, 90)])
def test_an_input_without_end_meets_w_hat_and_not_the_minimum_alone(width, place):
    """s (sum of u x) + m (sum of x) is inf - inf; and where x fits, its sum may not."""
    for bits in (4, 8):
        q = torch.randint(0, 2**bits, (ROWS, width), generator=torch.Generator().manual_seed(0))
        shape = ROWS, width // 32
        w = Blocks(q.byte(), torch.full(shape, 0.1), torch.full(shape, -0.75), bits, 32)
        layer, w_hat = QuantizedLinear(w), w.dequantize()
        for m, value in product((1, 3, 9, 25), (float("inf"), -float("inf"))):
            x = torch.ones(m, width)
            x[0, place] = value
            y = compiled(layer, x)
            assert torch.equal(y[0], value * w_hat[:, place].sign())
            assert y[1:].isfinite().all()
    zeros = torch.zeros(ROWS, width, dtype=torch.uint8)
    w = Blocks(zeros, torch.full(shape, 0.1), torch.full(shape, 1e-3), 4, 32)
    x = torch.zeros(1, width)
    x[0, :4] = 1.2e38
    torch.testing.assert_close(compiled(QuantizedLinear(w), x), torch.full((1, ROWS), 4.8e35))


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("place", [3, 300, 321])
def test_what_is_no_number_goes_through(value, place):
    """Beside it, and in other inputs, nothing changes."""
    for bits, kind in ((4, KINDS[0]), (8, KINDS[2]), (5, KINDS[1])):
        w = codes_of(325, ql.PerGroup(32), bits, kind)
        layer = QuantizedLinear(w)
        for m, dtype in product((1, 2, 6, 64), (torch.float32, torch.bfloat16)):
            near = {"rtol": 1e-4, "atol": 1e-4}
            if dtype == torch.bfloat16:
                near = {"rtol": 2**-6, "atol": 2**-2}  # of sums that lose more
            x = drawn(m, 325).to(dtype)
            clean = compiled(layer, x)
            x[0, place] = value
            with ql.use_kernels("eager"):
                wanted = layer(x)
            y = compiled(layer, x)
            torch.testing.assert_close(y, wanted, **near, equal_nan=True)
            torch.testing.assert_close(y[1:], clean[1:], **near)
            assert not y[0].isfinite().any()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_half_inputs_are_multiplied_as_floats_and_rounded_once(bits, dtype, by_the_kernel):
    """To the bit: in bfloat16 many that are too small for the products of pairs."""
    for width, granularity in LAYOUTS:
        for kind in KINDS[1:]:
            w, bias = codes_of(width, granularity, bits, kind), drawn(ROWS, seed=9)
            layer = QuantizedLinear(w, bias)
            for m in (1, 2, 3, 8, 64) if dtype == torch.float16 else (64,):
                x = drawn(m, width, seed=m)
                x = (x if dtype == torch.float16 else x * 2.0**-110).to(dtype)
                assert torch.equal(compiled(layer, x), compiled(layer, x.float()).to(dtype))
    assert {"linear"} == set(by_the_kernel)


@each_half_bits
@pytest.mark.parametrize("width, granularity", LAYOUTS)
def test_many_in_bfloat16_lose_what_float_sums_lose(bits, width, granularity):
    """And y its own rounding; also where some inputs are too small for the products of pairs."""
    weights = [codes_of(width, granularity, bits, kind) for kind in KINDS[1:]]
    if isinstance(granularity, ql.PerGroup):
        weights.append(blocks_of(width, granularity.group_size, bits, False, True))
    for w in weights:
        layer, w_hat = QuantizedLinear(w), w.dequantize(torch.float64)
        steps = w_hat.abs().max()  # what differences of large numbers are small beside
        for m in (32, 48, 64):  # whole batches, of 16 without AVX-512
            for drawn_x in hard(m, width).values():
                for factor in (1, 2.0**-26):  # the tiny ones are then below 2^-126, some of them
                    x = (drawn_x * factor).bfloat16()
                    wanted, sizes = x.double() @ w_hat.T, x.double().abs()
                    size = sizes @ w_hat.abs().T + steps * sizes.sum(1, keepdim=True)
                    bound = 2**-8 * wanted.abs() + 32 * EPS * size + 2.0**-133
                    assert ((compiled(layer, x).double() - wanted).abs() <= bound).all()


@each_half_bits
@pytest.mark.parametrize("kind", KINDS)
def test_few_in_bfloat16_lose_at_most_2_to_the_minus_15_of_the_largest_of_32(bits, kind):
    """Less than the rounding of the output takes, where no input drowns the others."""
    w = codes_of(2350, ql.PerGroup(32), bits, kind)
    w_hat = w.dequantize(torch.float64)
    for m in (1, 2, 5, 7, 8, 70):
        for name, x in hard(m, 2350).items():
            x = x.bfloat16()
            wanted = x.double() @ w_hat.T
            size = 32 * EPS * (x.double().abs() @ w_hat.abs().T)
            bound = largest_times(x, w_hat) / 0x7F7F + size + 2**-8 * wanted.abs()
            off = (compiled(QuantizedLinear(w), x).double() - wanted).abs()
            assert (off <= bound).all()
            rounding = (wanted.bfloat16().double() - wanted).square().mean()
            assert name == "drowned" or off.square().mean() < 1.2 * rounding


@each_half_bits
def test_two_digits_at_their_ends_times_codes_at_theirs(bits):
    ends, scheme = (0, 2**bits - 1), ql.Scheme(bits, granularity=ql.PerGroup(64), signed=False)
    for code in ends:
        for zero in ends:
            steps = torch.ones(6, 8), torch.full((6, 8), zero, dtype=torch.uint8)
            w = ql.QTensor(torch.full((6, 512), code, dtype=torch.uint8), *steps, scheme)
            for n in (127 * 256, -127 * 256, 127, 128, -128, -129 * 128, 1, -1):
                x = torch.full((1, 512), float(n))
                x[0, ::32] = 127 * 256.0  # so that the step of all is 1
                assert torch.equal(x.bfloat16().float(), x)
                wanted = (x.double() * (code - zero)).sum().bfloat16().expand(1, 6)
                for m in (1, 3):
                    y = compiled(QuantizedLinear(w), x.bfloat16().expand(m, -1).contiguous())
                    assert torch.equal(y, wanted.expand(m, 6))


@pytest.mark.parametrize("dtype", HALVES)
def test_half_layers_round_once(dtype):
    w, x = codes_of(320, ql.PerGroup(32), 4), drawn(3, 320).to(dtype)
    layer = QuantizedLinear(w, drawn(ROWS, seed=1)).to(dtype)
    y = compiled(layer, x)
    wanted = x.double() @ w.dequantize(torch.float64).T + layer.bias
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    layer.bias.requires_grad_()  # it is added to floats then, and the sum rounded
    with ql.use_kernels("compiled"):
        learning = layer(x)
        learning.sum().backward()
    floats = compiled(QuantizedLinear(w), x.float()) + layer.bias.detach()
    assert torch.equal(learning, floats.to(dtype))
    assert torch.equal(layer.bias.grad, torch.full((ROWS,), 3, dtype=dtype))
    with torch.autocast("cpu", dtype):
        assert compiled(QuantizedLinear(w), x.float()).dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_that_are_no_numbers_or_too_large_stay_so(dtype):
    scheme = ql.Scheme(8, "symmetric", ql.PerGroup(32))
    codes = torch.ones(9, 64, dtype=torch.int8)
    for scale, wanted in ((3e38, "inf"), (-3e38, "-inf"), (float("nan"), "nan")):
        w = Blocks(codes, torch.full((9, 2), scale), None, 8, 32)
        for m in (1, 3, 64):
            x = torch.ones(m, 64, dtype=dtype)
            y = compiled(QuantizedLinear(w), x)
            assert torch.equal(y.isnan(), torch.full((m, 9), wanted == "nan"))
            assert wanted == "nan" or (y == float(wanted)).all()
    w = ql.QTensor(codes, torch.ones(9, 2), torch.zeros(9, 2, dtype=torch.int8), scheme)
    for m in (1, 3, 64):
        for value in ("inf", "-inf", "nan"):
            x = torch.ones(m, 64, dtype=dtype)
            x[0, 33] = float(value)
            y = compiled(QuantizedLinear(w), x)
            assert torch.equal(
                y[0].float().nan_to_num(7), torch.full((9,), float(value)).nan_to_num(7)
            )
            assert (y[1:] == 64).all()


def test_what_fills_up_a_block_of_32_adds_nothing():
    """To a large scale or an infinite one: 0 times it is no number."""
    for bits, width in ((8, 33), (4, 40), (3, 296)):
        ones = torch.ones(ROWS, width, dtype=torch.int8)  # no code stands for 0
        scale = torch.ones(ROWS, -(-width // 32))
        for large in (3e36, float("inf")):
            scale[:, -1] = large
            w = Blocks(ones, scale, None, bits, 32)
            for m, dtype in product((1, 3, 8, 40), (torch.float32, torch.bfloat16)):
                x = (drawn(m, width).abs() + 0.5).to(dtype)
                wanted = (x.double() @ w.dequantize().double().T).to(dtype)
                torch.testing.assert_close(compiled(QuantizedLinear(w), x), wanted)


def test_a_row_takes_nothing_from_the_next():
    """Scales and minima are read in eights, and those of other rows may be no numbers."""
    rows = [1, 2, ROWS - 1]
    for width, minimum in product((576, 96), (True, False)):
        w, x = blocks_of(width, 32, 4, False, minimum), drawn(1, width)
        w.scale[3:-1] = float("nan")
        if minimum:
            w.minimum[3:-1] = float("inf")
        for m in (1, 2, 8, 12, 30):
            y = compiled(QuantizedLinear(w), x.expand(m, -1).contiguous())
            wanted = x.double() @ w.dequantize()[rows].double().T
            torch.testing.assert_close(y[:, rows], wanted.float().expand(m, -1))
