"""The figures of notebook 04 draw what they say: the way back."""

import numpy as np
import torch
from drawn import close, line, lines

import qlesson as ql
from qlesson.teach import figures

PICTURE = figures.grey_picture(32)
CASES = {
    "staircase": [0.5, 0, -4, 3, -3.0, 2.5],
    "staircase_and_picture": [PICTURE, ql.Scheme(3)],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "staircase": [[3.5788, -77, -128, 127, -184, 728.6]],
    "staircase_and_picture": [[PICTURE, ql.Scheme(4, "symmetric")]],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_staircase_is_fake_quantize():
    top, below = draw("staircase").axes
    scheme = ql.Scheme(3)
    drawn = {}
    for label in ("rounded", "clipped"):
        x, y = line(top, label)
        there = ~np.isnan(y)
        assert there.any()
        r = torch.tensor(x[there], dtype=torch.float32)
        close(y[there], ql.fake_quantize(r, scheme, ql.QParams(0.5, 0)))
        drawn[label] = r
    assert drawn["clipped"].abs().min() >= 1.75 and drawn["rounded"].abs().max() <= 2.25
    assert len(drawn["rounded"]) + len(drawn["clipped"]) == 1401
    close(line(top, "r_hat = r"), [[-3, 2.5], [-3, 2.5]])
    x, y = line(below, "rounding")
    there = ~np.isnan(y)
    r = torch.tensor(x[there], dtype=torch.float32)
    close(y[there], ql.fake_quantize(r, scheme, ql.QParams(0.5, 0)) - r)
    assert np.abs(y[there]).max() <= 0.25 + 1e-6
    assert sorted(v for x in lines(below, "s/2 = 0.25") for v in {*x.get_ydata()}) == [-0.25, 0.25]


def test_staircase_and_picture():
    left, right = draw("staircase_and_picture").axes
    back = ql.fake_quantize(PICTURE, ql.Scheme(3))
    close(right.images[0].get_array(), back)
    assert right.images[0].get_clim() == (0, 1)
    assert right.get_title("left") == f"{len(back.unique())} distinct values survive"
    qparams = ql.choose_qparams(PICTURE, ql.Scheme(3))
    x, y = line(left, "rounded")
    close(y, ql.fake_quantize(torch.tensor(x, dtype=torch.float32), ql.Scheme(3), qparams))
    close(x[[0, -1]], [PICTURE.min(), PICTURE.max()])
