"""What the live figure of notebook 05 says is true: where the range stops."""

import pytest
import torch

import qlesson as ql
from qlesson.error import error_shares


def test_the_least_error_lies_inside(said):
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    r[:5], r[5:10] = 20.0, -20.0
    limits = torch.linspace(1, 20, 39).tolist()
    best_limits = []
    for bits in (2, 3, 4, 5, 6, 8):
        shares = []
        for limit in limits:
            s, z = ql.symmetric_qparams(limit, 2 ** (bits - 1) - 1)
            q = ql.quantize_affine(r, s, z, -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
            shares.append([x.item() for x in error_shares(r, ql.dequantize_affine(q, s, z), s)])
        rounding, clipping = torch.tensor(shares).T
        assert (clipping.diff() <= 0).all()
        assert bits < 4 or (rounding.diff() > 0).all()  # with few codes most values go to 0
        i = int((rounding + clipping).argmin())
        best_limits.append(limits[i])
        text, _ = said("05", bits=bits, limit=limits[i])
        a, b = shares[i]
        assert f"rounding {a:.4f} + clipping {b:.4f} = MSE {a + b:.4f}" in text
        assert f"The smallest MSE at {bits} bits: {a + b:.4f}, at limit {limits[i]:.1f}." in text
        if bits == 4:
            assert limits[i] == 7.5 and a + b == pytest.approx(0.25, abs=0.005)
            assert "MSE 0.6044" in said("05", limit=20)[0]
    assert all(1 < limit < 20 for limit in best_limits[:4])  # inside
    assert best_limits == sorted(best_limits)  # further out with more bits
