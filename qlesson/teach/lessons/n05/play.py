"""The live figure of notebook 05: where should the range stop?"""

from functools import cache, partial

import torch
from torch import Tensor

import qlesson as ql
from qlesson.error import error_shares
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Decades, Shown, Slider, declare

_LIMITS = (
    *(1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5),
    *(6.0, 6.5, 7.0, 7.5, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0, 18.0, 19.0, 19.5, 20.0),
)


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
    "Rounding and clipping error for every clip limit, and their sum from the chosen one on.",
    bits=Slider("bits", 2, 8, 1, 4),
    limit=Decades("clip limit", _LIMITS, 20.0),
)
def _clip(bits: int, limit: float) -> Shown:
    rounding, clipping = _shares(bits, limit)
    r = _normals_with_ten_outliers()
    step = limit / ql.Scheme(bits, "symmetric").quant_max
    sentences = [
        f"{bits} bits, range -{limit:g} to {limit:g}: step {step:.4g}, "
        f"{(r.abs() > limit).sum()} of {len(r):,} values lie outside.",
        f"MSE {rounding + clipping:.4f}: rounding {rounding:.4f}, clipping {clipping:.4f}.",
    ]
    shares_at = partial(_shares, bits)
    return sentences, partial(figures.clip_sweep, r, bits, _LIMITS, limit, shares_at)
