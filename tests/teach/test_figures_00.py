"""The figures of notebook 00 draw what they say: memory, matrices and grey pictures."""

import numpy as np
import pytest
import torch
from drawn import FOUR, GRANULARITIES, NORMAL, T, close, line, minus, words

import qlesson as ql
from qlesson.teach import figures

PICTURE = figures.grey_picture(32)
CASES = {
    "memory": [
        {"7B": 7e9, "70B": 7e10},
        [32, 16, 8, 4],
        {"phone": 8.0, "laptop": 16.0, "GPU": 24.0},
    ],
    "heatmaps": [{"T": T, "few": FOUR[None, :2]}],
    "pictures": [{f"{b} bits": ql.fake_quantize(PICTURE, ql.Scheme(b)) for b in (8, 4, 2)}],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "memory": [[{"7B": 7e9, "13B": 13e9, "70B": 7e10}, [16, 8], {"phone": 8, "GPU": 80}]],
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
    "pictures": [[{"one": PICTURE}], [{str(k): PICTURE for k in range(5)}]],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_memory():
    ax = draw("memory").axes[0]
    assert [c.get_label() for c in ax.containers] == ["7B", "70B"]
    close([b.get_width() for b in ax.containers[0]], [28, 14, 7, 3.5])
    close([b.get_width() for b in ax.containers[1]], [280, 140, 70, 35])
    for bar, word in zip(ax.containers[0], ("28 GB", "14 GB", "7 GB", "3.5 GB"), strict=True):
        (text,) = [t for t in ax.texts if t.get_text() == word]
        close(text.xy, [bar.get_width(), bar.get_y() + bar.get_height() / 2])
    for name, size in (("phone", 8), ("laptop", 16), ("GPU", 24)):
        close({*line(ax, name)[0]}.pop(), size)
        assert f"{name}\n{size} GB" in words(ax)
    assert ax.get_xscale() == "log" and ax.get_xlim()[0] == 1
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "7B, 32 bits"


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


def test_pictures():
    named = CASES["pictures"][0]
    fig = draw("pictures")
    for ax, (label, picture) in zip(fig.axes, named.items(), strict=True):
        close(ax.images[0].get_array(), picture)
        assert ax.images[0].get_clim() == (0, 1) and ax.get_xlabel() == label
        pixels = ax.get_window_extent().width / 32
        assert pixels == pytest.approx(round(pixels)), "a pixel of ours is a whole number of theirs"


def test_grey_picture():
    picture = figures.grey_picture()
    assert picture.shape == (64, 64) and picture.dtype == torch.float32
    assert torch.equal(picture, figures.grey_picture(64))
    assert picture.min() == 0 and picture.max() == 1
    assert len(picture.unique()) > 2000
    levels = [len(ql.fake_quantize(picture, ql.Scheme(b)).unique()) for b in (2, 3, 4, 8)]
    assert levels[:3] == [4, 8, 16] and levels[3] > 200
