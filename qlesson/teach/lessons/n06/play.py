"""The live figure of notebook 06: another bit, or smaller groups?"""

from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Shown, Slider, declare

_WAYS = {
    "one scale per row": ql.PerAxis(0),
    "groups of 32": ql.PerGroup(32),
    "groups of 16": ql.PerGroup(16),
}


@cache
def _normals() -> Tensor:
    return randn(64, 1024, generator=torch.Generator().manual_seed(0))


@cache
def _price_and_sqnr(times: int, bits: int, way: str) -> tuple[float, float]:
    w = _normals().clone()
    w[:, ::128] *= times
    x = ql.quantize(w, ql.Scheme(bits, "symmetric", _WAYS[way]))
    return x.bits_per_value, ql.sqnr(w, x.dequantize()).item()


@declare(
    "SQNR against bits per value, for a scale per row and for two sizes of groups.",
    times=Slider("8 columns times", 1, 12, 1, 1),
    price=Slider("bits per value", 4, 6, 1, 5),
)
def _equal_price(times: int, price: int) -> Shown:
    offers = zip((price, price - 1, price - 2), _WAYS, strict=True)
    bought = {(bits, way): _price_and_sqnr(times, bits, way) for bits, way in offers}
    best_bits, best_way = max(bought, key=lambda offer: bought[offer][1])
    larger = f", 8 of the columns {times} times as large" if times > 1 else ""
    sentences = [f"64 x 1024 normal weights{larger}."]
    for (bits, way), (cost, db) in bought.items():
        sentences.append(f"{bits} bits, {way}: {cost:.2f} bits per value, {db:.2f} dB.")
    sentences.append(f"Best at this price: {best_bits} bits, {best_way}.")

    def draw() -> Figure:
        curves = {}
        for way in _WAYS:
            points = [_price_and_sqnr(times, bits, way) for bits in (2, 3, 4, 5, 6)]
            curves[way] = (*zip(*points, strict=True), ["2", "3", "4", "5", "6"])
        return figures.error_by_price(curves, equal_price=price)

    return sentences, draw
