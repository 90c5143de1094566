"""The figures of notebook 04 draw what they say: the way back."""

import numpy as np
import torch
from drawn import FOUR, GRANULARITIES, NORMAL, T, close, line, minus, words

import qlesson as ql
from qlesson.teach import figures

PICTURE = figures.grey_picture(32)
CASES = {
    "heatmaps": [{"T": T, "few": FOUR[None, :2]}],
    "staircase_and_picture": [PICTURE, ql.Scheme(3)],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "heatmaps": [
        [
            {
                n: T - ql.fake_quantize(T, ql.Scheme(granularity=g))
                for n, g in GRANULARITIES.items()
            },
            "{:.2f}",
            "r_hat − r",
            True,
            True,
        ],
        [{f"no. {k}": 99 * NORMAL[9 * k : 9 * k + 9].view(3, 3) for k in range(7)}, "{:.2f}", "r"],
        [{"a": NORMAL[:48].view(6, 8), "b": NORMAL[48:96].view(6, 8)}, "{:.1f}", "", False],
        [{"zeros": torch.zeros(2, 2)}, "{:.0f}", "", True, True],
    ],
    "staircase_and_picture": [[PICTURE, ql.Scheme(4, "symmetric")]],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_staircase_and_picture():
    left, right = draw("staircase_and_picture").axes
    back = ql.fake_quantize(PICTURE, ql.Scheme(3))
    close(right.images[0].get_array(), back)
    assert right.images[0].get_clim() == (0, 1)
    assert right.get_xlabel() == f"{len(back.unique())} distinct values survive"
    qparams = ql.choose_qparams(PICTURE, ql.Scheme(3))
    x, y = line(left, "r_hat")
    close(y, ql.fake_quantize(torch.tensor(x, dtype=torch.float32), ql.Scheme(3), qparams))
    close(x[[0, -1]], [PICTURE.min(), PICTURE.max()])


def test_heatmaps():
    fig = figures.heatmaps({"T": T, "tiny": T * 0 - 0.01}, unit="r")
    assert fig.get_supxlabel() == "r"
    left, right = fig.axes
    close(left.images[0].get_array(), T)
    assert left.images[0].get_clim() == right.images[0].get_clim()
    assert words(left) == [minus(f"{v:.1f}") for v in T.flatten().tolist()]
    assert words(right) == ["0.0"] * 9, "minus zero is zero"
    for t, (i, j) in zip(left.texts, np.ndindex(3, 3), strict=True):
        assert t.get_position() == (j, i)


def test_heatmaps_alone_and_diverging():
    fig = figures.heatmaps({"T": T, "half": T / 2}, shared=False)
    limits = [ax.images[0].get_clim() for ax in fig.axes]
    close(limits, [[-184, 728.6], [-92, 364.3]])
    fig = figures.heatmaps({"T": T}, diverging=True)
    close(fig.axes[0].images[0].get_clim(), [-728.6, 728.6])
