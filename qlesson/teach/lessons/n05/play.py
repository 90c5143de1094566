"""The live figure of notebook 05: where should the range stop?"""

from functools import cache, partial

import torch
from torch import Tensor

import qlesson as ql
from qlesson.error import error_shares
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Shown, Slider, declare


@cache
def _normals_with_ten_outliers() -> Tensor:
    r = randn(10_000, generator=torch.Generator().manual_seed(0))
    r[:5], r[5:10] = 20.0, -20.0
    return r


@cache
def _shares(bits: int, limit: float) -> tuple[float, float]:
    """The MSE by rounding, and by clipping."""
    r, scheme = _normals_with_ten_outliers(), ql.Scheme(bits, "symmetric")
    qparams = ql.symmetric_qparams(limit, scheme.quant_max)
    shares = error_shares(r, ql.quantize(r, scheme, qparams).dequantize(), qparams.scale)
    return shares.rounding.item(), shares.clipping.item()


@declare(
    "Rounding error, clipping error and their sum, for every clip limit.",
    bits=Slider("bits", 2, 8, 1, 4),
    limit=Slider("clip limit", 1.0, 20.0, 0.5, 20.0),
)
def _clip(bits: int, limit: float) -> Shown:
    limits = [i / 2 for i in range(2, 41)]
    rounding, clipping = _shares(bits, limit)
    best = min(limits, key=lambda x: sum(_shares(bits, x)))
    sentences = [
        f"{bits} bits, range -{limit:.1f} to {limit:.1f}: "
        f"rounding {rounding:.4f} + clipping {clipping:.4f} = MSE {rounding + clipping:.4f}.",
        f"The smallest MSE at {bits} bits: {sum(_shares(bits, best)):.4f}, at limit {best:.1f}.",
    ]
    r = _normals_with_ten_outliers()
    shares_at = partial(_shares, bits)
    return sentences, partial(figures.clip_sweep, r, bits, limits, limit, shares_at)
