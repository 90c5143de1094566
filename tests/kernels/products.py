"""What the tests of products share: weights of all kinds, inputs, and layers that ran compiled."""

import os

import pytest
import torch

import qlesson as ql
from qlesson.blocks import Blocks

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
BITS = range(2, 9)
each_bits = pytest.mark.parametrize("bits", BITS, ids="codes_of_{}".format)
# Of inputs in half, of zero points and of minima beside floats: each compiles two files more. What
# unpacks codes knows none of them, and all bits go through it with floats and integers: these are
# one, two and three fields of a byte, the largest codes whose sums are one, and the largest of all.
HALF_BITS = BITS if THOROUGH else (3, 4, 7, 8)
each_half_bits = pytest.mark.parametrize("bits", HALF_BITS, ids="codes_of_{}".format)
EPS = torch.finfo(torch.float32).eps
ROWS = 37  # more than a thread's share, and no whole tile
# width, granularity: whole and ragged groups, odd widths, one scale in a row and for all
LAYOUTS = [
    (256, ql.PerGroup(32)),
    (224, ql.PerGroup(32)),
    (250, ql.PerGroup(32)),
    (500, ql.PerAxis(0)),
    (811, ql.PerGroup(64)),
    (776, ql.PerGroup(32)),
    (1100, ql.PerGroup(96)),
    (96, ql.PerGroup(24)),
    (100, ql.PerGroup(32)),
    (5, ql.PerGroup(2)),
    (290, ql.PerAxis(0)),
    (33, ql.PerAxis(0)),
    (32, ql.PerTensor()),
    (1024, ql.PerTensor()),
]
KINDS = [("symmetric", True, torch.float16), ("symmetric", True, torch.bfloat16)]
KINDS += [("asymmetric", True, None), ("asymmetric", False, None)]


def kinds_of(bits):
    return KINDS if bits in HALF_BITS else KINDS[:2]


each_kind = pytest.mark.parametrize(
    "bits, kind",
    [(n, kind) for n in BITS for kind in kinds_of(n)],
    ids=lambda x: f"codes_of_{x}" if isinstance(x, int) else x[0],
)
HALVES = [torch.float16, torch.bfloat16]
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


def compiled(layer, x):
    """layer(x), called twice: from the second call on fewer questions are asked."""
    with torch.no_grad(), ql.use_kernels("compiled"):
        y = layer(x)
        torch.testing.assert_close(layer(x), y, rtol=0, atol=0, equal_nan=True)
        return y
