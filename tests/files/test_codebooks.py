"""The 4-bit codebooks against the published values, onnx's ml_dtypes, torchao, and gguf's bytes."""

import math

import ml_dtypes  # onnx's own dependency
import numpy as np
import pytest
import torch

import qlesson as ql
from qlesson.files import codebooks
from qlesson.files.packing import unpack
from qlesson.models import tinygpt

# As QLoRA's authors publish them in bitsandbytes.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip

FORMATS = ["mxfp4", "nvfp4", "nf4_blocks", "q4_0"]


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_e2m1_is_the_4_bit_float():
    every = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert codebooks.e2m1().tolist() == every[:8].tolist()
    assert every[8:].tolist() == [-x for x in every[:8]]


@pytest.mark.parametrize("name", FORMATS)
def test_the_books_have_values_whatever_the_default_device(name):
    r = normals(4, 64)
    wanted = getattr(codebooks, name)(r)
    with torch.device("meta"):
        assert torch.equal(getattr(codebooks, name)(r), wanted)
        assert codebooks.e2m1().device.type == codebooks.nf4().device.type == "cpu"


def test_nf4_is_computed_as_published():
    book = codebooks.nf4()
    assert book.dtype == torch.float32 and len(book) == 16
    assert (book - torch.tensor(NF4)).abs().max() < 1e-6
    assert book[7] == 0 and not torch.signbit(book[7])


def test_nearest_is_nearest():
    r, book = normals(1000) * 2, codebooks.e2m1()
    found = codebooks.nearest(r, book)
    assert torch.equal((found - r).abs(), (book - r[:, None]).abs().amin(1))


def test_a_tie_goes_to_the_even_index_as_in_the_cast_to_float4():
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    cast = ties.numpy().astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert codebooks.nearest(ties, codebooks.e2m1()).tolist() == cast.tolist()
    assert cast.tolist() == [0, 1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_mxfp4_is_torchaos(scale):
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    r = normals(64, 256) * scale
    r[0, :32] = 0
    theirs = MXTensor.to_mx(r.clone(), torch.float4_e2m1fn_x2, 32).dequantize(torch.float32)
    assert torch.equal(codebooks.mxfp4(r), theirs)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_nvfp4_is_torchaos(scale):
    """They multiply by a reciprocal, so the scales agree to the last digits of float32 only."""
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    r = normals(64, 256) * scale
    r[0, :16] *= 2e-5  # its scale would be a subnormal E4M3
    whole = per_tensor_amax_to_scale(r.abs().max())
    theirs = NVFP4Tensor.to_nvfp4(r.clone(), 16, whole).dequantize(torch.float32)
    torch.testing.assert_close(codebooks.nvfp4(r), theirs, rtol=1e-5, atol=0)


def test_nf4_blocks_take_the_nearest_value():
    r = normals(8, 128)
    r[0, :64] = 0
    found = codebooks.nf4_blocks(r)
    for row, back in zip(r.view(-1, 64), found.view(-1, 64), strict=True):
        if not row.any():
            assert not back.any()
            continue
        values = row.abs().max() * torch.tensor(NF4)
        nearest = values[(row[:, None] - values).abs().argmin(1)]
        torch.testing.assert_close(back, nearest, rtol=1e-5, atol=1e-6)


# What the gguf package (0.19) writes of these 32 values: a float16, then the halves of 16 bytes.
# 1.6 and -1.6 are the largest: the first gives the sign, and the other is clipped.
Q4_0_VALUES = [
    0.1, 0.953125, -1.484375, 1.6, -0.09375, 0.046875, 0.40625, -0.671875, 1.484375, -1.6,
    -0.6875, -0.359375, 0.21875, -0.28125, -1.140625, -1.40625, -1.546875, -1.40625, -1.09375,
    1.546875, -0.953125, 0.46875, 0.78125, -0.828125, -0.671875, -0.203125, -0.734375, 1.46875,
    -1.0, 1.234375, 0.921875, 1.078125,
]  # fmt: skip
Q4_0_BYTES = "66b2f8f3df00d86846cbb19fcb1ad7293e3f"


def test_q4_0_is_what_gguf_reads_from_what_it_writes():
    data = torch.tensor(list(bytes.fromhex(Q4_0_BYTES)), dtype=torch.uint8)
    codes = unpack(data[2:].clone(), 4, (32,), signed=False, order="halves")
    back = data[:2].clone().view(torch.float16).float() * (codes.float() - 8)
    assert torch.equal(codebooks.q4_0(torch.tensor(Q4_0_VALUES)), back)
    assert codes[3] == 0 and codes[9] == 15 and back[9] > -1.6


def test_q4_0_takes_its_codes_before_the_scale_is_rounded():
    """-8 d is the largest; d16 is 0.03 % off, and codes near a tie follow d."""
    r = torch.full((32,), 0.1)
    d = 1.0 + 2.0**-11 + 2.0**-13  # as a float16 it is 1 + 2^-10
    r[0] = -8 * d
    r[1] = 2.5 * d - 1e-4  # below the tie of d, and below 2.5 * d16 too
    r[2] = 2.5 * d + 1e-4  # above the tie of d, and still below 2.5 * d16
    assert 2.5 * d + 1e-4 < 2.5 * (1 + 2**-10)
    back = codebooks.q4_0(r) / (1 + 2.0**-10)
    assert back[:3].tolist() == [-8, 2, 3]


def test_q4_0_refuses_what_ggml_stores_as_infinity():
    assert codebooks.q4_0(torch.full((32,), 5e5)).isfinite().all()
    with pytest.raises(
        ValueError, match="up to 1e.07, and Q4_0 stores the largest divided by 8 .* divide r"
    ):
        codebooks.q4_0(torch.full((32,), 1e7))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_comes_back_is_float32(name, dtype):
    assert getattr(codebooks, name)(normals(2, 64).to(dtype)).dtype == torch.float32


def test_nvfp4_rounds_the_product_of_its_two_scales_and_a_value_once():
    r = normals(64, 64, seed=3)
    blocks = r.unflatten(-1, (-1, 16))
    largest = blocks.abs().amax(-1, keepdim=True) / 6
    whole = largest.amax() / 448
    scale = (largest / whole).to(torch.float8_e4m3fn).double() * whole.double()
    book = codebooks.e2m1().double()
    values = (scale * torch.cat([-book.flip(0), book]))[..., None, :]
    at = (blocks.double()[..., None] - values).abs().argmin(-1, keepdim=True)
    nearest = values.expand(*blocks.shape, 16).gather(-1, at)[..., 0]
    assert torch.equal(codebooks.nvfp4(r), nearest.float().view_as(r))


def test_nf4_decides_in_float64():
    """In float32, r / scale falls on the other side of a middle."""
    book = codebooks.nf4().double()
    scales = normals(2000).abs() + 0.5
    middles = ((book[1:] + book[:-1]) / 2)[14:] * scales.double()
    r = torch.zeros(2000, 64)
    r[:, 0], r[:, 1] = scales, middles.float()
    back = codebooks.nf4_blocks(r)[:, 1].double()
    values = scales.double()[:, None] * book
    least = (r[:, 1:2].double() - values).abs().amin(1)
    rounding = scales.double() * 2.0**-24
    assert ((r[:, 1].double() - back).abs() <= least + rounding).all()
    index = (r[:, 1:2].double() - values).abs().argmin(1)
    assert torch.equal(values.gather(1, index[:, None])[:, 0].float(), back.float())


def test_how_nf4_shares_out_normal_values():
    """Notebook 08: not evenly. The ends hold the largest of each block, and not much more."""
    blocks = normals(2**14, 64)
    found = codebooks.nearest(blocks / blocks.abs().amax(1, keepdim=True), codebooks.nf4())
    shares = [(found == value).float().mean().item() for value in codebooks.nf4()]
    assert max(shares) == pytest.approx(0.092, abs=0.003)
    assert [shares[0], shares[-1]] == pytest.approx([0.019, 0.017], abs=0.002)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("largest", [0.0, 1e-45, 5e-42, 1e-38, 1e-35])
def test_zeros_and_the_smallest_floats_stay_finite(name, largest):
    r = normals(2, 64).double()
    r = (r * largest / r.abs().max()).float()
    back = getattr(codebooks, name)(r)
    assert (back - r).abs().max() <= r.abs().max()  # no NaN, and exactly 0 for zeros


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("r", "words"),
    [
        (torch.zeros(0, 64), r"r is empty \(shape \(0, 64\)\)"),
        (torch.zeros(2, 0), r"r is empty \(shape \(2, 0\)\)"),
        (torch.tensor(1.0), r"r has shape \(\), but its last axis must be made of whole blocks"),
        (torch.zeros(2, 63), "whole blocks of .. values: fill it up with zeros"),
        (torch.full((1, 64), torch.nan), "r holds NaN or values that are infinite"),
        (torch.full((1, 64), -torch.inf), "r holds NaN or values that are infinite"),
        (torch.full((1, 64), 1e300, dtype=torch.float64), "infinite in float32"),
    ],
)
def test_what_has_no_blocks_is_named(name, r, words):
    with pytest.raises(ValueError, match=words):
        getattr(codebooks, name)(r)


@pytest.mark.parametrize("name", FORMATS)
def test_each_scale_belongs_to_its_own_block(name):
    size = {"mxfp4": 32, "nvfp4": 16, "nf4_blocks": 64, "q4_0": 32}[name]
    r = normals(2, 4 * size)
    changed = r.clone()
    changed[1, size : 2 * size] /= 1.7
    before, after = (getattr(codebooks, name)(x).view(8, size) for x in (r, changed))
    differs = (before != after).any(1).tolist()
    assert before.shape == (8, size) and differs == [i == 5 for i in range(8)]


def test_what_the_sixteenth_code_is_worth():
    """Notebook 08: at the same price and blocks, Q4_0 has 1.1 dB more than codes from -7 to 7,
    whose step is a seventh of the largest, not an eighth: that alone would be 20 log10(8/7)."""
    w = tinygpt.weight_matrices(tinygpt.load("cpu"))["blocks.0.mlp.up"]
    symmetric = ql.Scheme(4, "symmetric", ql.PerGroup(32), scale_dtype=torch.float16)
    x = ql.quantize(w, symmetric)
    assert x.bits_per_value == 4.5
    gain = ql.sqnr(w, codebooks.q4_0(w)) - ql.sqnr(w, x.dequantize())
    assert gain.item() == pytest.approx(1.1, abs=0.05)
    assert gain.item() == pytest.approx(20 * math.log10(8 / 7), abs=0.1)


def test_what_even_steps_have_at_the_price_of_mxfp4():
    """Notebook 08: of the published formats it lies lowest, and groups of 64 have 0.4 dB more."""
    w = tinygpt.weight_matrices(tinygpt.load("cpu"))["blocks.0.mlp.up"]
    db = {name: ql.sqnr(w, getattr(codebooks, name)(w)).item() for name in FORMATS}
    assert min(db, key=db.get) == "mxfp4"
    symmetric = ql.Scheme(4, "symmetric", ql.PerGroup(64), scale_dtype=torch.float16)
    x = ql.quantize(w, symmetric)
    assert x.bits_per_value == 4.25
    assert ql.sqnr(w, x.dequantize()).item() - db["mxfp4"] == pytest.approx(0.4, abs=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", FORMATS)
def test_cuda_gives_the_same(name):
    r, f = normals(64, 256), getattr(codebooks, name)
    assert torch.equal(f(r.cuda()).cpu(), f(r))
