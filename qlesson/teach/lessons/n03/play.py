"""The live figure of notebook 03: what does one-sidedness cost?"""

from functools import cache, partial

import torch
from torch import Tensor

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Shown, Slider, Switch, declare


@cache
def _normals() -> Tensor:
    return randn(10_000, generator=torch.Generator().manual_seed(0))


@declare(
    "The values and the range that each mapping covers; what lies beyond all values is hatched.",
    shift=Slider("shift", 0.0, 5.0, 0.25, 2.0),
    relu=Switch("ReLU", False),
)
def _one_sided(shift: float, relu: bool) -> Shown:
    r = _normals() + shift
    r = r.relu() if relu else r
    symmetric = ql.quantize(r, ql.Scheme(8, "symmetric"))
    asymmetric = ql.quantize(r, ql.Scheme(8))
    seven = ql.fake_quantize(r, ql.Scheme(7))
    equal = (symmetric.dequantize() == seven).sum()
    wasted = torch.log2(symmetric.scale / asymmetric.scale)
    sentences = [
        f"Step at 8 bits: asymmetric {asymmetric.scale:.4f}, symmetric {symmetric.scale:.4f}: "
        f"{wasted:.2f} bits wasted.",
        f"Symmetric mode uses {symmetric.q.min()} to {symmetric.q.max()} of its codes -127 to 127.",
        f"8 bits symmetric and 7 bits asymmetric give the same for {equal} of {len(r)} values.",
    ]
    rows = {}
    for name, x in (("asymmetric", asymmetric), ("symmetric", symmetric)):
        codes = torch.tensor([x.scheme.quant_min, x.scheme.quant_max])
        rows[name] = (r, *ql.dequantize_affine(codes, x.scale, x.zero_point))
    return sentences, partial(figures.two_ranges, rows)
