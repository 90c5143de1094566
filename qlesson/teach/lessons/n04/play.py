"""The live figure of notebook 04: which values survive?"""

from functools import cache, partial

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.widgets import Shown, Slider, declare

_picture = cache(figures.grey_picture)


@declare(
    "The staircase of a grey picture, and the picture that comes back.",
    bits=Slider("bits", 2, 8, 1, 3),
)
def _survivors(bits: int) -> Shown:
    picture, scheme = _picture(), ql.Scheme(bits)
    x = ql.quantize(picture, scheme)
    r_hat = x.dequantize()
    sentences = [
        f"{bits} bits: codes {scheme.quant_min} to {scheme.quant_max}, "
        f"scale {x.scale:.4f}, zero point {x.zero_point}.",
        f"Different values: {picture.unique().numel()} before, {r_hat.unique().numel()} after.",
        f"The largest error of a pixel: {ql.max_abs_error(picture, r_hat):.4f}.",
    ]
    return sentences, partial(figures.staircase_and_picture, picture, scheme)
