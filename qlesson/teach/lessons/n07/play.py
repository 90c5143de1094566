"""The live figure of notebook 07: how much does a better range gain?"""

from functools import cache, partial

import torch
from torch import Tensor

import qlesson as ql
from qlesson.qtensor import qparams_from_range
from qlesson.ranges import min_max, mse_search, percentile
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Decades, Shown, Slider, declare

_DISTANCES = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40)


@cache
def _normals_and_ten_at(distance: int) -> Tensor:
    r = randn(10_000, generator=torch.Generator().manual_seed(0))
    r[:5], r[5:10] = float(distance), -float(distance)
    return r


@cache
def _ranges_and_sqnr(bits: int, distance: int) -> dict[str, tuple[Tensor, Tensor, float]]:
    """{method: (r_min, r_max, SQNR in dB)}."""
    r, scheme = _normals_and_ten_at(distance), ql.Scheme(bits, "symmetric")
    ranges = {
        "min-max": min_max(r, scheme),
        "percentile 99.9": percentile(r, scheme, 99.9),
        "MSE search": mse_search(r, scheme),
    }
    quality = {}
    for method, ends in ranges.items():
        x = ql.quantize(r, scheme, qparams_from_range(*ends, scheme))
        quality[method] = (*ends, ql.sqnr(r, x.dequantize()).item())
    return quality


@declare(
    "A histogram of 10,000 values, ten of them far out, and the range that each method takes.",
    bits=Slider("bits", 2, 8, 1, 4),
    distance=Decades("ten values at ±", _DISTANCES, 20),
)
def _gain_over_min_max(bits: int, distance: int) -> Shown:
    quality = _ranges_and_sqnr(bits, distance)
    sentences = [f"{bits} bits, ten values of 10,000 at {distance} or -{distance}."]
    words = {}
    for method, (low, high, db) in quality.items():
        said = f"{low:.2f} to {high:.2f}, {db:.2f} dB"
        gain = db - quality["min-max"][2]
        sentences.append(f"{method}: {said}{'' if method == 'min-max' else f' ({gain:+z.2f})'}.")
        words[method] = said.replace("-", "−")
    ranges = {method: ends[:2] for method, ends in quality.items()}
    r = _normals_and_ten_at(distance)
    title = f"{bits} bits, ten values at ±{distance}"
    return sentences, partial(figures.histogram_and_ranges, r, ranges, words, title)
