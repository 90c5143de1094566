"""The live figure of notebook 00: the same pixels with fewer bits."""

from functools import cache, partial

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.widgets import Shown, Slider, declare

_picture = cache(figures.grey_picture)


@declare(
    "A grey picture with 32 bits for each pixel, and the same pixels with fewer bits.",
    bits=Slider("bits", 2, 8, 1, 3),
)
def _fewer_bits(bits: int) -> Shown:
    picture = _picture()
    fewer = ql.fake_quantize(picture, ql.Scheme(bits))
    sentences = [
        f"{bits} bits for each pixel, in place of 32.",
        f"Pixels: {picture.numel()} before, {fewer.numel()} after.",
        f"Levels of grey: {picture.unique().numel()} before, {fewer.unique().numel()} after.",
    ]
    return sentences, partial(figures.pictures, {"32 bits": picture, f"{bits} bits": fewer})
