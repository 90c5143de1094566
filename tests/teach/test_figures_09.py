"""The figures of notebook 09 draw what they say: products of codes."""

from drawn import close, line, words

from qlesson.teach import figures
from qlesson.teach.lessons.n09 import figures as module
from qlesson.teach.show import facts, png

CASES = {
    "four_areas": [9.0, 3.0, 7.0, 2.0],
    "pipelines": [],
    "bits_used": [{"products": 16.7, "total": 15.0, "worst case": 23.0}],
    "noise_split": [
        {"inputs alone": ([2.0, 4.0, 8.0], [10.1, 24.2, 48.9]), "both": ([2.0, 8.0], [9.8, 23.1])},
        23.4,
        (8.0, 23.1),
        "weights with 4 bits",
    ],
}


def draw(name):
    return getattr(figures, name)(*CASES[name])


def test_four_areas_add_up():
    """Each rectangle has the area that its title gives, and the first four make the last."""
    sizes = []
    for ax in draw("four_areas").axes:
        (box,) = [p for p in ax.patches if p.get_gid() != "aside"]
        name, area = ax.get_title("left").split(": ")
        close(box.get_width() * box.get_height(), float(area))
        sizes.append((1 if name[0] in "+=" else -1) * float(area))
    assert sizes == [63, -18, -21, 6, 30]
    assert sum(sizes[:4]) == sizes[4] == (9 - 3) * (7 - 2)
    strip, left = (draw("four_areas").axes[i].patches[0].get_bbox().get_points() for i in (1, 2))
    close(strip, [[0, 0], [9, 2]])
    close(left, [[0, 0], [3, 7]])
    assert sorted(words(draw("four_areas").axes[0])) == ["2", "3", "7", "9"]


def test_pipelines_give_integers_and_floats_boxes_of_their_own():
    fig = draw("pipelines")
    boxes = {t.get_text(): t.get_bbox_patch() for t in fig.axes[0].texts}
    looks = {}
    for steps in module.KINDS_OF_LAYERS.values():
        for step, on_integers in steps:
            box = boxes[step]
            looks.setdefault(on_integers, set()).add(
                (type(box.get_boxstyle()).__name__, box.get_facecolor(), box.get_edgecolor())
            )
    assert len(looks[True]) == len(looks[False]) == 1 and looks[True] != looks[False]
    assert {"Square", "Round"} == {next(iter(look))[0] for look in looks.values()}
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["integers", "floats"]


def test_bits_used():
    ax = draw("bits_used").axes[0]
    (bars,) = ax.containers
    close([b.get_width() for b in bars], [16.7, 15, 23])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(CASES["bits_used"][0])
    assert [b.get_y() for b in bars] == sorted((b.get_y() for b in bars), reverse=True)
    assert words(ax) == ["16.7", "15", "23"]
    close({*line(ax, "an int32 holds 31")[0]}.pop(), 31)


def test_noise_split():
    ax = draw("noise_split").axes[0]
    close(line(ax, "inputs alone"), [[2, 4, 8], [10.1, 24.2, 48.9]])
    close(line(ax, "both"), [[2, 8], [9.8, 23.1]])
    close({*line(ax, "weights alone")[1]}.pop(), 23.4)
    close(line(ax, "chosen"), [[8], [23.1]])
    assert ax.get_title("left") == "weights with 4 bits"


def test_another_word_or_kind_of_step_changes_the_picture(monkeypatch):
    before, kinds = draw("pipelines"), module.KINDS_OF_LAYERS
    for step, what in ((("x → codes", True), png), (("codes", False), facts)):
        monkeypatch.setattr(
            module, "KINDS_OF_LAYERS", {**kinds, "W8A8": [step, *kinds["W8A8"][1:]]}
        )
        assert what(draw("pipelines")) != what(before)
