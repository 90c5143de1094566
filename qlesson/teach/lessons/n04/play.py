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
    survivors = r_hat.unique()
    named = ", ".join(f"{v:z.3f}" for v in survivors[:8])
    sentences = [
        f"{bits} bits: of {picture.unique().numel()} different values, "
        f"{len(survivors)} survive, {x.scale:.4f} apart.",
        f"They are {named}{' and higher' if len(survivors) > 8 else ''}.",
        f"No pixel is off by more than {ql.max_abs_error(picture, r_hat):.4f}.",
    ]
    return sentences, partial(figures.staircase_and_picture, picture, scheme)
