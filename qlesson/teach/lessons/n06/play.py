"""The live figure of notebook 06: another bit, or smaller groups?"""

from functools import cache

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Choice, Decades, Shown, declare

_BITS = range(2, 7)
_BITS_OF_ROWS = range(2, 9)  # so that the line reaches as far as groups with float32 scales
_ROW = "one scale per row"
_GROUPS = {"groups of 32": ql.PerGroup(32), "groups of 16": ql.PerGroup(16)}
_WAYS = {_ROW: ql.PerAxis(0), **_GROUPS}
_SCALES = {"float16": torch.float16, "float32": torch.float32, "8-bit": None}
# Scales of 8 bits are codes themselves, with a float16 scale and a zero point for those of a row.
_OF_SCALES = ql.Scheme(8, granularity=ql.PerAxis(0), signed=False, scale_dtype=torch.float16)


@cache
def _normals() -> Tensor:
    return randn(64, 1024, generator=torch.Generator().manual_seed(0))


@cache
def _price_and_sqnr(times: int, bits: int, way: str, scales: str) -> tuple[float, float]:
    w = _normals().clone()
    w[:, ::128] *= times
    if scales == "8-bit" and way != _ROW:
        return _with_coded_scales(w, ql.Scheme(bits, "symmetric", _WAYS[way]))
    scale_dtype = _SCALES[scales] or torch.float16
    x = ql.quantize(w, ql.Scheme(bits, "symmetric", _WAYS[way], scale_dtype=scale_dtype))
    return x.bits_per_value, ql.sqnr(w, x.dequantize()).item()


def _with_coded_scales(w: Tensor, scheme: ql.Scheme) -> tuple[float, float]:
    """Codes from the scales that come back: bits per value, all that is stored, and SQNR."""
    scale, zero_point = ql.choose_qparams(w, scheme)
    coded = ql.quantize(scale, _OF_SCALES)
    w_hat = ql.fake_quantize(w, scheme, ql.QParams(coded.dequantize(), zero_point))
    price = scheme.bits + coded.bits_per_value * coded.q.numel() / w.numel()
    return price, ql.sqnr(w, w_hat).item()


def _price_and_height(times: int, bits: int, way: str, scales: str) -> tuple[float, float]:
    """Bits per value, and the dB above the line through the rows at that price."""
    price, db = _price_and_sqnr(times, bits, way, scales)
    rows = (_price_and_sqnr(times, b, _ROW, scales) for b in _BITS_OF_ROWS)
    prices, heights = zip(*rows, strict=True)
    return price, db - float(np.interp(price, prices, heights))


@declare(
    "Decibels above the line through the rows, against bits per value, for two sizes of groups.",
    times=Decades("8 columns times", (1, 2, 3, 4, 6, 8, 12), 1),
    scales=Choice("scales", tuple(_SCALES), "float16"),
)
def _bits_or_groups(times: int, scales: str) -> Shown:
    larger = f", 8 of the columns {times} times as large" if times > 1 else ""
    sentences = [f"64 x 1024 normal weights{larger}; {scales} scales."]
    for way in _WAYS:
        price, db = _price_and_sqnr(times, 4, way, scales)
        sentence = f"4 bits, {way}: {price:.2f} bits per value, {db:.2f} dB"
        if way != _ROW:
            _, height = _price_and_height(times, 4, way, scales)
            side = "above" if height > 0 else "below"
            sentence += f", {abs(height):.1f} {side} the rows' line"
        sentences.append(f"{sentence}.")

    def draw() -> Figure:
        curves = {}
        for way, bits in ((_ROW, _BITS_OF_ROWS), *((way, _BITS) for way in _GROUPS)):
            points = [_price_and_height(times, b, way, scales) for b in bits]
            curves[way] = (*zip(*points, strict=True), list(bits))
        return figures.above_the_rows(curves, f"{scales} scales, 8 columns times {times}")

    return sentences, draw
