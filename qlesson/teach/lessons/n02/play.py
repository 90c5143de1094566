"""The live figure of notebook 02: what must the range contain?"""

import warnings
from functools import partial

import torch

import qlesson as ql
from qlesson.qtensor import qparams_from_range
from qlesson.teach import figures
from qlesson.teach.figures.drawing import evenly
from qlesson.teach.widgets import Shown, Slider, Switch, as_set, declare


@declare(
    "A range of real values and the codes it maps to, and how many values each code gets.",
    r_min=Slider("r_min", -2.0, 3.0, 0.1, 2.0),
    r_max=Slider("r_max", 4.0, 8.0, 0.1, 6.0),
    include_zero=Switch("hold 0", False),
)
def _pile_up(r_min: float, r_max: float, include_zero: bool) -> Shown:
    values = evenly(2, 6, 200)
    scheme = ql.Scheme(bits=5, include_zero=include_zero)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ql.ZeroPointClipped)
        qparams = qparams_from_range(torch.tensor(r_min), torch.tensor(r_max), scheme)
    x = ql.quantize(values, scheme, qparams)
    used, counts = x.q.unique(return_counts=True)
    codes = torch.tensor([scheme.quant_min, scheme.quant_max])
    low, high = ql.dequantize_affine(codes, *qparams)
    verb = "comes" if len(used) == 1 else "come"
    sentences = [
        f"Range {as_set(r_min, 1)} to {as_set(r_max, 1)}, "
        f"hold 0 {'on' if include_zero else 'off'}: scale {x.scale:.4f}, "
        f"zero point {x.zero_point} (codes {codes[0]} to {codes[1]}).",
        f"The codes mean {low:z.2f} to {high:.2f}; the values lie from 2 to 6.",
        f"{len(values)} different values go in, {len(used)} {verb} back; "
        f"{counts.max()} of the {len(values)} share code {used[counts.argmax()]}.",
    ]
    return sentences, partial(figures.pile_up, values, r_min, r_max, scheme)
