"""`show` and `show_source`: what a stored notebook holds of a figure or a function."""

import ast
import base64
import inspect
import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import qlesson as ql
from qlesson import teach
from qlesson.nn import QuantizedLinear
from qlesson.teach import show, show_source
from qlesson.teach.show import (
    MOST_LETTERS,
    MOST_LINES,
    facts,
    mimebundle,
    png,
    without_annotations,
)


def plot(x, y, **look):
    ax = (fig := Figure(figsize=(7, 3), dpi=100, layout="constrained")).subplots()
    ax.plot(x, y, **look)
    return fig


def axes():
    fig = Figure(figsize=(7, 3), dpi=100)
    return fig, fig.subplots()


def text(fig):
    return "\n".join(facts(fig))


def test_a_notebook_finds_the_names_it_imports():
    from qlesson.teach import figures

    assert {"show", "show_source"} <= set(teach.__all__)
    assert callable(show) and callable(show_source) and inspect.ismodule(figures)


# ------------------------------------------------------------ the facts


def test_a_sine_is_not_a_cosine():
    x = np.linspace(0, 6, 100)
    assert text(plot(x, np.sin(x))) != text(plot(x, np.cos(x)))


def test_few_points_are_listed_and_many_are_summed_up():
    assert "(1, 3) (2, 5)" in text(plot([1, 2], [3, 5], label="two"))
    x = np.arange(13.0)
    y = x**2
    later = (y * np.arange(1, 14)).sum() / np.arange(1, 14).sum()
    words = text(plot(x, y, label="many"))
    assert 'line "many": n 13, x 0 to 12 mean 6 ' in words
    assert f"y 0 to 144 mean {y.mean():.6g} std {y.std():.6g} weighted {later:.6g}" in words


def test_a_reordering_shows():
    y = np.arange(50.0)
    assert text(plot(range(50), y)) != text(plot(range(50), y[::-1]))


@pytest.mark.parametrize("n", (5, 40))
def test_the_last_ten_thousandth_shows(n):
    y = np.linspace(3, 9, n)
    assert text(plot(range(n), y)) != text(plot(range(n), y * 1.0001))


def test_noise_and_minus_zero_are_zero():
    words = text(plot([1, 2, 3], [-3.6e-17, -0.0, 5.0]))
    assert "(1, 0) (2, 0) (3, 5)" in words
    x = np.linspace(0, 2 * np.pi, 1001)
    words = text(plot(x, np.sin(x)))
    assert "mean 0 std" in words
    assert not re.search(r"-0\b(?!\.[0-9]*[1-9])|e-1\d", words), words


def test_small_numbers_on_a_log_scale_stay():
    fig, ax = axes()
    ax.plot([1, 2], [1e-12, 1.0])
    ax.set_yscale("log")
    assert "(1, 1e-12)" in text(fig) and "y: (log)" in text(fig)


def test_breaks_in_a_line_are_left_out():
    assert "(0, 1) (2, 3)" in text(plot([0, 1, 2], [1, np.nan, 3]))


def test_bars_steps_dots_images_boxes_texts_and_labels():
    fig, ax = axes()
    ax.bar([0, 1, 2], [3, 5, 4], label="up")
    ax.barh([0, 1], [7, 8], left=[1, 1], label="across")
    ax.stairs([1, 6], [0, 1, 2], label="steps")
    ax.scatter([1, 2], [3, 4], label="dots")
    ax.axvspan(1.5, 2.5)
    ax.text(1, 1, "a\nword")
    ax.set_title("the title", loc="left")
    ax.set_xlabel("code q")
    ax.set_yticks([0, 1], ["low", "high"])
    words = text(fig)
    for fact in (
        'axes 1; "the title"; x: code q; y: [low, high]',
        'bars "up": at 3 from 0 to 2, heights 3 5 4',
        'bars "across": at 0 1, heights 7 8, from 1 1',
        'steps "steps": at 3 from 0 to 2, heights 1 6',
        'dots "dots": (1, 3) (2, 4)',
        "boxes: (1.5, 0) (2.5, 1)",
        "texts: a word",
    ):
        assert fact in words


def test_images_are_listed_up_to_sixteen_cells():
    fig, ax = axes()
    ax.imshow([[1.5, -2], [0, 4]])
    assert "image 2x2: 1.5 -2 0 4" in text(fig)
    fig, ax = axes()
    ax.imshow(np.arange(25.0).reshape(5, 5))
    assert "image 5x5: n 25, 0 to 24 mean 12 std 7.2111 weighted 16" in text(fig)


def crowd(last):
    fig, ax = axes()
    for k in range(40):
        ax.plot([0, 1], [k, k + 1])
    ax.plot([0, 1], [0, last])
    for k in range(200):
        ax.text(0, 0, f"word {k}")
    return fig


def test_a_crowd_is_cut_short_and_still_told_apart():
    lines = facts(crowd(1.0))
    assert len(lines) == MOST_LINES < 15
    assert max(map(len, lines)) <= MOST_LETTERS
    assert lines != facts(crowd(1.0001))
    assert lines == facts(crowd(1.0))


def test_a_long_line_is_cut_and_marked():
    def words(last):
        fig, ax = axes()
        for k in (*range(200), last):
            ax.text(0, 0, f"word {k}")
        return facts(fig)

    assert max(map(len, words(1))) <= MOST_LETTERS
    assert words(1) != words(2)


# ------------------------------------------------------------ the picture


def test_the_picture_is_700_pixels_wide_on_white_and_says_nothing_of_its_maker():
    image = Image.open(io.BytesIO(png(plot([0, 1], [0, 1]))))
    assert image.size == (700, 300)
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert set(image.info) == {"dpi"}


def test_for_slides_it_has_more_dots(monkeypatch):
    monkeypatch.setenv("QLESSON_DPI", "200")
    assert Image.open(io.BytesIO(png(plot([0, 1], [0, 1])))).size == (1400, 600)


def test_the_same_figure_gives_the_same_bytes():
    assert png(plot([0, 1], [0, 1])) == png(plot([0, 1], [0, 1]))
    fig = plot([0, 1], [0, 1])
    assert png(fig) == png(fig)


def test_few_colours_lose_little():
    x = np.linspace(0, 9, 300)
    fig = plot(x, np.sin(x), color="#0072b2", label="a curve")
    greys = np.linspace(0, 1, 256)[None]
    fig.axes[0].imshow(greys, cmap="gray", extent=(0, 9, 2, 3), aspect="auto")
    fig.legend()
    exact = io.BytesIO()
    fig.savefig(exact, format="png", dpi=100, facecolor="white")
    exact, small = (
        np.asarray(Image.open(b).convert("RGB"), dtype=int) for b in (exact, io.BytesIO(png(fig)))
    )
    off = np.abs(exact - small).max(axis=2)
    assert off.max() <= 10


# ------------------------------------------------------------ show


def test_the_bundle_holds_the_picture_the_alt_text_and_the_facts():
    fig = plot([1, 2], [3, 5])
    bundle, metadata = mimebundle(fig, "Two points.")
    assert set(bundle) == {"image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]) == png(fig)
    assert bundle["text/plain"] == "Two points.\naxes 1; line: (1, 3) (2, 5)"
    assert metadata == {"image/png": {"alt": "Two points."}}


def test_in_a_notebook_the_sentence_stands_below_the_picture():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            assert show(plot([1, 2], [3, 5]), "Two points.") is None
            assert show(plot([1, 2], [3, 5]), 'a < b & "c"') is None
    finally:
        InteractiveShell.clear_instance()
    output, below, _, escaped = captured.outputs
    assert set(output.data) == {"image/png", "text/plain"}
    assert output.data["text/plain"].startswith("Two points.\naxes 1")
    assert output.metadata == {"image/png": {"alt": "Two points."}}
    assert below.data == {
        "text/html": "<p><em>Two points.</em></p>",
        "text/plain": "Two points.",
    }
    assert escaped.data["text/html"] == '<p><em>a &lt; b &amp; "c"</em></p>'
    assert escaped.data["text/plain"] == 'a < b & "c"'
    assert not captured.stdout


def test_outside_a_notebook_the_text_is_printed(capsys):
    show(plot([1, 2], [3, 5]), alt="Two points.")
    assert capsys.readouterr().out == "Two points.\naxes 1; line: (1, 3) (2, 5)\n"


# ------------------------------------------------------------ show_source


def test_a_function_is_printed_as_it_stands_decorator_and_all(capsys):
    show_source(ql.quantize_affine, annotations=True)
    out = capsys.readouterr().out
    assert out.startswith("@torch.no_grad()\ndef quantize_affine(\n    r: Value,")
    assert out == inspect.getsource(inspect.unwrap(ql.quantize_affine))


def test_a_formula_is_read_without_types(capsys):
    show_source(ql.symmetric_qparams)
    out = capsys.readouterr().out
    assert out.startswith("@torch.no_grad()\ndef symmetric_qparams(r_max, quant_max):\n")
    whole = inspect.getsource(inspect.unwrap(ql.symmetric_qparams))
    assert out.split("\n")[2:] == whole.split("\n")[2:]


EVERY_KIND = """class A:
    def f(self, a: int, /, b: str = "x, y", *c: int, d: float = 0.5, e: int, **g: int) -> None:
        return None

    def long(
        self, name: dict[str, int], another_long_name: str = "words", one_more_long_name=10_000, x=1
    ) -> "A":
        def inside(*, y: int) -> int:
            return y

    def one_line(self, x: int) -> int: return x

    def f(
        a: int,  # a reason
    ) -> None:
        pass"""


def test_nothing_but_the_types_goes():
    plain = without_annotations(EVERY_KIND)
    assert '    def f(self, a, /, b="x, y", *c, d=0.5, e, **g):\n        return None' in plain
    assert (
        "    def long(\n        self, name, another_long_name=" in plain
        and "10_000, x=1\n    ):" in plain
    )
    assert "        def inside(*, y):\n            return y" in plain
    assert "a: int,  # a reason" in plain and "def one_line(self, x: int) -> int: return x" in plain
    lines = "def f(x: int) -> int:\n    return x"
    assert without_annotations(lines) == "def f(x):\n    return x"


def test_what_is_printed_without_types_is_the_same_code():
    """For every function of the package: parsed, and with the types taken from both."""
    for file in sorted(Path(ql.__file__).parent.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        before, after = ast.parse(source), ast.parse(without_annotations(source))
        for node in (n for tree in (before, after) for n in ast.walk(tree)):
            if isinstance(node, ast.FunctionDef):
                node.returns = None
            if isinstance(node, ast.arg):
                node.annotation = None
        assert ast.dump(before) == ast.dump(after), file


def test_methods_properties_and_classes_are_printed_without_indent(capsys):
    show_source(QuantizedLinear.product)
    assert capsys.readouterr().out.startswith("@torch.no_grad()\ndef product(self")
    show_source(ql.Scheme.quant_min)
    assert capsys.readouterr().out.startswith("@property\ndef quant_min(self)")
    show_source(ql.PerTensor)
    assert capsys.readouterr().out.startswith("@dataclass(frozen=True)\nclass PerTensor")
