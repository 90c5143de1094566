"""The live figure of notebook 01: how small can you make the error?"""

from functools import partial

import torch

import qlesson as ql
from qlesson.error import error_shares
from qlesson.teach import figures
from qlesson.teach.widgets import Shown, Slider, as_set, declare

_T = torch.tensor([[191.6, -13.5, 728.6], [92.14, 295.5, -184], [0, 684.6, 245.5]])


@declare(
    "Nine values, what they come back as, and their errors.",
    s=Slider("scale s", 3.0, 5.0, 0.01, 3.5),
    z=Slider("zero point z", -110, -40, 1, -70),
)
def _guess(s: float, z: int) -> Shown:
    q = ql.quantize_affine(_T, s, z, -128, 127)
    mine = error_shares(_T, ql.dequantize_affine(q, s, z), s)
    low, high = ql.dequantize_affine(torch.tensor([-128, 127]), s, z)
    sentences = [
        f"s = {as_set(s, 2)}, z = {z}: the codes reach from {low:.1f} to {high:.1f}.",
        f"MSE {sum(mine):.3f}: rounding {mine.rounding:.3f}, clipping {mine.clipping:.3f}.",
    ]
    return sentences, partial(figures.guess, _T, s, z, -128, 127)
