"""How a figure must look, whatever it shows."""

import io
import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.text import Text
from PIL import Image

from qlesson.teach.figures import drawing
from qlesson.teach.show import facts, png


def contrast(a, b="white"):
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color):
    c = np.asarray(to_rgb(color))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def drawn_texts(fig):
    """Every text with letters that is really drawn."""
    for ax in fig.axes:
        yield from (t for t in (ax.title, ax._left_title, *ax.texts) if t.get_text())
        for axis in (ax.xaxis, ax.yaxis):
            if not (ax.axison and axis.get_visible()):
                continue
            yield axis.label
            low, high = sorted(axis.get_view_interval())
            slack = 1e-6 * (high - low)
            for tick in axis.get_major_ticks():
                if low - slack <= tick.get_loc() <= high + slack and tick.label1.get_visible():
                    yield tick.label1
        if ax.get_legend():
            yield from ax.get_legend().findobj(Text)
    for legend in fig.legends:
        yield from legend.findobj(Text)
    yield from (t for t in (fig._suptitle, fig._supxlabel) if t)


def assert_looks(make, stored=True):
    """The rules of every figure: its size, its words, its colours, and that nothing overlaps.

    make    draws the figure, anew at each call
    stored  whether it is drawn as a notebook stores it, so that the size of the file counts
    """
    fig = make()
    canvas = FigureCanvasAgg(fig)
    if stored:
        first = png(fig)
        assert Image.open(io.BytesIO(first)).width == 700
        assert len(first) <= 40_000
        assert png(make()) == first, "the same data give the same bytes"
    else:
        fig.draw_without_rendering()
    width, height = fig.get_size_inches() * fig.dpi
    assert width == 700 and 150 <= height <= 400
    said = facts(fig)
    assert len(said) < 15
    assert not re.search(r"[-−]0(\.0*)?(?![.\d])", "\n".join(said)), said
    box = fig.get_tightbbox(canvas.get_renderer())
    assert min(box.x0, box.y0) >= -0.01, f"something leaves the canvas: {box}"
    if fig.get_layout_engine():
        assert min(box.x0, box.y0, 7 - box.x1, height / 100 - box.y1) > 0.04, "no margin"
    assert box.x1 <= 7.01 and box.y1 <= height / 100 + 0.01, f"something leaves the canvas: {box}"
    assert_words_read(fig)
    assert_log_axes_say_so(fig)
    for ax in fig.axes:
        assert not any(ax.spines[s].get_visible() and ax.axison for s in ("top", "right"))
        _assert_colours_read(ax)


def assert_log_axes_say_so(fig):
    """In the axis' label, or in the title where the axis has none."""
    for ax in fig.axes:
        for axis, shared in ((ax.xaxis, fig.get_supxlabel()), (ax.yaxis, fig.get_supylabel())):
            if axis.get_visible() and axis.get_scale() != "linear":
                words = axis.get_label_text() or shared or ax.get_title("left")
                assert "(log" in words, f"a logarithmic axis, called {words!r}"


def assert_words_read(fig):
    texts = [t for t in drawn_texts(fig) if t.get_text().strip()]
    assert all(contrast(t.get_color()) >= 4.5 and t.get_fontsize() >= 6.5 for t in texts)
    boxes = [t.get_window_extent() for t in texts]
    for i, (t, a) in enumerate(zip(texts, boxes, strict=True)):
        for u, b in zip(texts[:i], boxes[:i], strict=True):
            touch = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
            assert not touch, f"{t.get_text()!r} covers {u.get_text()!r}"


def _assert_colours_read(ax):
    colors = [x.get_color() for x in ax.lines]
    for c in ax.collections:
        if isinstance(c, LineCollection):
            colors += [tuple(k) for k in c.get_edgecolor()]
    for color in colors:
        white = to_rgba(color)[:3] == (1, 1, 1)  # what separates cells
        assert white or contrast(color) >= 4.5, color
    for image in ax.images:
        if ax.texts:
            cells = image.to_rgba(image.get_array()).reshape(-1, 4)
            assert min(contrast(drawing.INK, c[:3]) for c in cells) >= 4.5
