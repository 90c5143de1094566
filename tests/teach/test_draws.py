"""randn: torch.randn's values, with the same bits on every machine."""

import zlib

import pytest
import torch

from qlesson.teach import randn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "shape", [(16,), (17,), (31,), (5, 7), (64, 128), (10_000,), (3, 3), (15,)]
)
def test_it_is_torch_randn_but_for_the_last_bits(shape):
    mine, theirs = generator(), generator()
    x, y = randn(*shape, generator=mine), torch.randn(shape, generator=theirs)
    assert x.dtype == torch.float32 and x.shape == y.shape
    assert torch.allclose(x, y, rtol=0, atol=2e-6)
    assert torch.equal(mine.get_state(), theirs.get_state())  # and so are the draws after it


def test_every_machine_has_these_bits():
    x = randn(10_000, generator=generator())
    assert zlib.crc32(x.numpy().tobytes()) == 4082382771
    assert [v.hex() for v in x[:3].tolist()] == [
        "-0x1.20370a0000000p+0",
        "-0x1.2701140000000p+0",
        "-0x1.0097ac0000000p-2",
    ]


@pytest.mark.parametrize("shape", [(3,), (16,), (17,)])
def test_torchs_default_dtype_changes_no_bit(shape):
    wanted = randn(*shape, generator=generator())
    torch.set_default_dtype(torch.float64)
    try:
        found = randn(*shape, generator=generator())
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == wanted.dtype == torch.float32 and torch.equal(found, wanted)


def test_they_lie_where_their_generator_does():
    wanted = randn(37, generator=torch.Generator().manual_seed(3))
    with torch.device("meta"):
        found = randn(37, generator=torch.Generator("cpu").manual_seed(3))
    assert torch.equal(found, wanted)
