"""The 4-bit codebooks against the published values, onnx's ml_dtypes, and torchao."""

import ml_dtypes  # onnx's own dependency
import numpy as np
import pytest
import torch

import qlesson as ql
from qlesson import ranges
from qlesson.files import codebooks
from qlesson.models import tinygpt

# As QLoRA's authors publish them in bitsandbytes.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_e2m1_is_the_4_bit_float():
    every = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert codebooks.e2m1().tolist() == every[:8].tolist()
    assert every[8:].tolist() == [-x for x in every[:8]]


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


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "nf4_blocks"])
@pytest.mark.parametrize("largest", [0.0, 1e-45, 5e-42, 1e-38, 1e-35])
def test_zeros_and_the_smallest_floats_stay_finite(name, largest):
    r = normals(2, 64).double()
    r = (r * largest / r.abs().max()).float()
    back = getattr(codebooks, name)(r)
    assert (back - r).abs().max() <= r.abs().max()  # no NaN, and exactly 0 for zeros


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "nf4_blocks"])
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


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "nf4_blocks"])
def test_each_scale_belongs_to_its_own_block(name):
    size = {"mxfp4": 32, "nvfp4": 16, "nf4_blocks": 64}[name]
    r = normals(2, 4 * size)
    changed = r.clone()
    changed[1, size : 2 * size] /= 1.7
    before, after = (getattr(codebooks, name)(x).view(8, size) for x in (r, changed))
    differs = (before != after).any(1).tolist()
    assert before.shape == (8, size) and differs == [i == 5 for i in range(8)]


def test_what_helps_asymmetric_int4_against_the_books():
    """Notebook 08: a zero point brings 0.9 dB, and 16 codes in place of 15 bring 0.6 dB."""
    w = tinygpt.weight_matrices(tinygpt.load("cpu"))["blocks.0.mlp.up"]
    groups = ql.PerGroup(64)
    symmetric, asymmetric = (ql.Scheme(4, m, groups) for m in ("symmetric", "asymmetric"))
    r_min, r_max = ranges.min_max(w, asymmetric)
    wider = ql.qtensor.qparams_from_range(r_min, r_max + (r_max - r_min) / 14, asymmetric)
    fifteen = ql.quantize(w, asymmetric, wider)
    assert fifteen.q.max() == 6 and fifteen.q.min() == -8
    db = [
        ql.sqnr(w, w_hat.dequantize()).item()
        for w_hat in (ql.quantize(w, symmetric), fifteen, ql.quantize(w, asymmetric))
    ]
    assert [db[1] - db[0], db[2] - db[1]] == pytest.approx([0.9, 0.6], abs=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "nf4_blocks"])
def test_cuda_gives_the_same(name):
    r, f = normals(64, 256), getattr(codebooks, name)
    assert torch.equal(f(r.cuda()).cpu(), f(r))
