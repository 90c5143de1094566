"""The figures of notebook 00 draw what they say: memory, matrices and grey pictures."""

import pytest
import torch
from drawn import close, line, words
from matplotlib.patches import Rectangle

import qlesson as ql
from qlesson.teach import figures
from qlesson.teach.show import facts

PICTURE = figures.grey_picture(32)
ROWS = {
    "float32": ("0" + "10000110" + "0" * 23, "s" + 8 * "e" + 23 * "d", "128"),
    "4 bits": ("0111", "dddd", "7 steps"),
}
CASES = {
    "bit_rows": [ROWS],
    "memory": [
        {"7B": 7e9, "70B": 7e10},
        [32, 16, 8, 4],
        {"phone": 8.0, "laptop": 16.0, "GPU": 24.0},
    ],
    "pictures": [{f"{b} bits": ql.fake_quantize(PICTURE, ql.Scheme(b)) for b in (8, 4, 2)}],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "memory": [[{"7B": 7e9, "13B": 13e9, "70B": 7e10}, [16, 8], {"phone": 8, "GPU": 80}]],
    "pictures": [[{"one": PICTURE}], [{str(k): PICTURE for k in range(5)}]],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_bit_rows():
    fig = draw("bit_rows")
    (ax,) = fig.axes
    boxes = [p for p in ax.patches if isinstance(p, Rectangle)]
    digits = [word for word in words(ax) if word in ("0", "1")]
    assert digits == [*ROWS["float32"][0], *"0111"]
    colors = [b.get_facecolor() for b in boxes]
    assert len(boxes) == 36 and len(set(colors)) == 3
    assert len({*colors[1:9]}) == 1 and colors[9] == colors[35] != colors[1] != colors[0]
    assert {"128", "7 steps"} <= set(words(ax))
    names = {t.get_text(): t.get_position()[0] for t in ax.texts}
    assert [names[name] for name in ("sign", "exponent", "digits")] == [0.5, 5, 20.5]
    assert "exponent 10000110" in "".join(facts(fig))
    changed = {**ROWS, "4 bits": ("0110", "dddd", "7 steps")}
    assert facts(figures.bit_rows(changed)) != facts(fig)


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
    assert ax.get_xscale() == "linear" and ax.get_xlim()[0] == 0
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "7B, 32 bits"


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
