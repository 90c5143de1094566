"""The live figures of `qlesson.teach.widgets`: what they show, and that it is true."""

import base64
import html
import itertools
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from drawn import T
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from looks import assert_words_read, drawn_texts
from matplotlib.backends.backend_agg import FigureCanvasAgg

import qlesson as ql
from qlesson.teach import play
from qlesson.teach.figures.drawing import drawing_into
from qlesson.teach.show import caption, facts
from qlesson.teach.widgets import Choice, Decades, Slider, declarations

VIEW = "application/vnd.jupyter.widget-view+json"
DECLARATIONS = declarations()
NOTEBOOKS = list(DECLARATIONS)
EVERY_CONTROL = [(n, name) for n in NOTEBOOKS for name in DECLARATIONS[n].controls]


def other_values(control):
    """Both ends and a place between, without the first value."""
    if isinstance(control, Choice):
        return [word for word in control.options if word != control.start]
    if isinstance(control, Decades):
        low, middle, high = (control.values[i] for i in (0, len(control.values) // 3, -1))
        return [v for v in (low, middle, high) if v != control.start]
    if not isinstance(control, Slider):
        return [not control.start, control.start]
    middle = control.low + control.step * round((control.high - control.low) / control.step / 3)
    return [v for v in (control.low, middle, control.high) if v != control.start]


# ---------------------------------------------------------------- the figure


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_bundle_is_a_picture_its_facts_and_a_view(notebook):
    figure = play(notebook)
    data, metadata = figure._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain", VIEW}
    assert set(data[VIEW]) == {"version_major", "version_minor", "model_id"}  # no state
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert len(data["image/png"]) < 40_000
    text = data["text/plain"]
    assert text.endswith("\n".join(facts(figure.figure)))
    words = " ".join(text.split())
    assert words.startswith(DECLARATIONS[notebook].picture)
    assert all(sentence in words for sentence in figure.sentences)
    assert metadata["image/png"]["alt"].startswith(DECLARATIONS[notebook].picture)
    # A second one is the same to the byte: what is stored does not change by running again.
    again, _ = play(notebook)._repr_mimebundle_()
    assert all(again[mime] == data[mime] for mime in ("image/png", "text/plain"))


def test_the_sentence_below_a_live_figure_holds_for_every_setting():
    """It stays while the controls move, so it has no number of theirs."""

    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            display(play("01"))
    finally:
        InteractiveShell.clear_instance()
    picture, below = captured.outputs
    assert set(picture.data) == {"image/png", "text/plain", VIEW}
    assert picture.metadata["image/png"]["alt"].startswith(DECLARATIONS["01"].picture + " s = ")
    assert below.data == caption(DECLARATIONS["01"].picture)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_picture_says_its_settings(notebook):
    """A stored one has no controls, and the sentence below it holds for every setting."""
    words = " ".join(t.get_text() for t in drawn_texts(play(notebook).figure))
    for name, control in DECLARATIONS[notebook].controls.items():
        if isinstance(control, Choice):
            assert control.start in words
        if name == "bits" and isinstance(control, Slider) and notebook != "08":  # draws each bit
            assert f"{control.start} bits" in words
        if name == "rotated":
            assert "not rotated" in words


@pytest.mark.slow
@pytest.mark.parametrize("notebook, name", EVERY_CONTROL)
def test_a_control_changes_picture_and_words(notebook, name, said):
    """As they are in text; and the layout of the first drawing has room for all."""
    figure, declaration = play(notebook), DECLARATIONS[notebook]
    places = [ax.get_position(original=True).bounds for ax in figure.figure.axes]
    for value in other_values(declaration.controls[name]):
        picture, words = figure.picture.value, figure.words.value
        figure.controls[name].value = value
        assert figure.picture.value != picture
        assert figure.words.value != words
        # What is drawn is what the figure function draws of these settings, made anew.
        assert figure.settings[name] == pytest.approx(value)
        sentences, draw = declaration.look(**figure.settings)
        drawn = facts(draw())
        assert facts(figure.figure) == drawn
        text, _ = said(notebook, **{name: value})
        assert text.splitlines() == figure.sentences == sentences
        assert max(map(len, sentences)) <= 79
        assert all(html.escape(sentence) in figure.words.value for sentence in sentences)
        data, _ = figure._repr_mimebundle_()
        assert "\n".join(drawn) in data["text/plain"]
        fig = figure.figure
        box = fig.get_tightbbox(FigureCanvasAgg(fig).get_renderer())
        wide, high = fig.get_size_inches()
        assert box.x0 >= -0.005 and box.y0 >= -0.005
        assert box.x1 <= wide + 0.005 and box.y1 <= high + 0.005
        assert [ax.get_position(original=True).bounds for ax in fig.axes] == places


ROW = 34  # pixels that a control takes


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_picture_and_controls_fit_a_projector_at_150_percent(notebook):
    _, high = play(notebook).figure.get_size_inches() * 100
    assert high <= 300 and high + ROW * len(DECLARATIONS[notebook].controls) <= 420


@pytest.mark.parametrize("notebook, name", EVERY_CONTROL)
def test_a_slider_over_a_decade_multiplies(notebook, name):
    control = DECLARATIONS[notebook].controls[name]
    if isinstance(control, Slider):
        assert not 0 < 10 * control.low <= control.high
    if isinstance(control, Decades):
        values = control.values
        low, middle, high = values[0], values[len(values) // 2], values[-1]
        assert 10 * low <= high and control.start in values
        assert all(1 < b / a <= 2 for a, b in zip(values, values[1:], strict=False))
        assert 0.6 < middle / (low * high) ** 0.5 < 1.6


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_no_word_is_cut_or_covered_at_any_corner_of_the_settings(notebook):
    fig, declaration = play(notebook).figure, DECLARATIONS[notebook]
    controls = declaration.controls
    for corner in itertools.product(*(ends(control) for control in controls.values())):
        _, draw = declaration.look(**dict(zip(controls, corner, strict=True)))
        with drawing_into(fig):
            fig = draw()
        FigureCanvasAgg(fig).draw()
        assert_words_read(fig)
        for words in drawn_texts(fig):
            box, page = words.get_window_extent(), fig.bbox
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < page.x1 + 1 and box.y1 < page.y1 + 1
            assert inside or not words.get_text().strip(), (corner, words.get_text())


def ends(control):
    if isinstance(control, Choice):
        return control.options[0], control.options[-1]
    if isinstance(control, Decades):
        return control.values[0], control.values[-1]
    return (control.low, control.high) if isinstance(control, Slider) else (False, True)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_control_has_a_name_and_the_words_are_read_out(notebook):
    figure = play(notebook)
    names = [control.description for control in figure.controls.values()]
    assert all(names) and len(set(names)) == len(names)
    assert "aria-live" in figure.words.value and "aria-label" in figure.words.value
    for name, control in figure.controls.items():
        assert control.value == pytest.approx(DECLARATIONS[notebook].controls[name].start)


def test_threads_are_given_back():
    threads = torch.get_num_threads()
    play("06").controls["times"].value = 2
    assert torch.get_num_threads() == threads


def test_ipywidgets_is_imported_for_those_who_play():
    code = "import sys, qlesson.teach as t; assert 'ipywidgets' not in sys.modules; t.play"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing_such"):
        getattr(sys.modules["qlesson.teach"], "nothing_such")  # noqa: B009


def test_a_choice_takes_its_own_words_alone():
    choice = Choice("mode", ("symmetric", "asymmetric"), "symmetric")
    widget = choice.widget()
    assert (widget.value, widget.options) == ("symmetric", ("symmetric", "asymmetric"))
    assert choice.checked("asymmetric") == "asymmetric"
    assert str(choice) == "one of 'symmetric', 'asymmetric'"
    for value in ("both", "", 1, None, ["symmetric"], torch.tensor(1)):
        with pytest.raises(ValueError):
            choice.checked(value)


def test_decades_go_by_their_notches_and_take_what_lies_between():
    notches = Decades("GB/s", (1, 10, 25, 100), 25)
    widget = notches.widget()
    assert widget.value == 25 and widget.label == "25"
    assert widget.options == (("1", 1), ("10", 10), ("25", 25), ("100", 100))
    assert notches.checked(7) == 7 and str(notches) == "a whole number from 1 to 100"
    steps = Decades("step", (0.1, 0.5, 1.0), 0.5)
    assert steps.checked(0.3) == 0.3 and str(steps) == "a number from 0.1 to 1"
    for value in (0, 101, 7.5, True, "25", None, torch.tensor([5, 10])):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            notches.checked(value)


# ---------------------------------------------------------------- the same in text


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_twin_says_what_the_figure_says(notebook, said):
    figure = play(notebook)
    text, _ = said(notebook, **figure.settings)
    assert text.splitlines() == figure.sentences
    assert 2 <= len(figure.sentences) <= 5


# ---------------------------------------------------------------- what it refuses


def test_it_says_what_is_allowed():
    for notebook in ("99", 1, None, "", "1"):
        with pytest.raises(ValueError, match=r"choose from '00', '01', .*'06'"):
            play(notebook)
    with pytest.raises(ValueError, match="no setting 'scale': choose from s .*number from 3 to 5"):
        play("01", scale=3)
    for s in (7, 2.9, float("nan"), "3.5", None, torch.tensor([3.0, 4.0])):
        with pytest.raises(ValueError, match="^s must be a number from 3 to 5, got "):
            play("01", s=s)
    for z in (-111, -77.5, "-77", "x"):
        with pytest.raises(ValueError, match="^z must be a whole number from -110 to -40, got "):
            play("01", z=z)
    with pytest.raises(ValueError, match="^r_min must be a number from -2 to 3, got True"):
        play("02", r_min=True)
    for switch in (1, "yes", None):
        with pytest.raises(ValueError, match="^include_zero must be True or False, got "):
            play("02", include_zero=switch)


def test_it_takes_what_a_reader_may_hold(said):
    formula = ql.choose_qparams(T)
    text, _ = said("01", s=formula.scale, z=formula.zero_point)
    assert "\nMSE 1.573: " in text


# ---------------------------------------------------------------- what is written of it

ROOT = Path(__file__).parents[2]
CALL = re.compile(r'play\("\d\d"(?:, \w+=[^,()]+)+\)')
FILES = (path for folder in (".", "notebooks", "docs") for path in ROOT.glob(f"{folder}/*.md"))
TEXTS = [path.read_text("utf-8") for path in FILES]
WRITTEN = {call for text in TEXTS for call in CALL.findall(text)}


@pytest.mark.parametrize("call", sorted(WRITTEN))
def test_a_line_that_the_texts_name_answers(call, capsys):
    assert eval(call, {"play": play}) is None and capsys.readouterr().out


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_line_in_text_stands_below_each_live_figure(notebook):
    (path,) = ROOT.glob(f"notebooks/{notebook}_*.ipynb")
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    below = cells[cells.index(f'play("{notebook}")') + 1]
    assert re.search(rf'play\("{notebook}", \w+=|play\("{notebook}", \*\*', below)
