"""The live figures of `qlesson.teach.widgets`: what they show, and that it is true."""

import base64
import html
import re
import subprocess
import sys

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import qlesson as ql
from qlesson.error import error_shares
from qlesson.teach import play
from qlesson.teach.show import facts
from qlesson.teach.widgets import Choice, Slider, declarations

VIEW = "application/vnd.jupyter.widget-view+json"
DECLARATIONS = declarations()
NOTEBOOKS = list(DECLARATIONS)
EVERY_CONTROL = [(n, name) for n in NOTEBOOKS for name in DECLARATIONS[n].controls]
T = torch.tensor([[191.6, -13.5, 728.6], [92.14, 295.5, -184], [0, 684.6, 245.5]])


def other_values(control):
    """Both ends and a place between, without the first value."""
    if isinstance(control, Choice):
        return [word for word in control.options if word != control.start]
    if not isinstance(control, Slider):
        return [not control.start, control.start]
    middle = control.low + control.step * round((control.high - control.low) / control.step / 3)
    return [v for v in (control.low, middle, control.high) if v != control.start]


def said(capsys, notebook, **settings):
    """What play prints, and the numbers in it."""
    assert play(notebook, **settings) is None
    text = capsys.readouterr().out
    return text, [float(x) for x in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)]


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


@pytest.mark.slow
@pytest.mark.parametrize("notebook, name", EVERY_CONTROL)
def test_a_control_changes_picture_and_words(notebook, name):
    figure, declaration = play(notebook), DECLARATIONS[notebook]
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
        assert figure.sentences == sentences
        assert all(html.escape(sentence) in figure.words.value for sentence in sentences)
        data, _ = figure._repr_mimebundle_()
        assert "\n".join(drawn) in data["text/plain"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_layout_of_the_first_drawing_has_room_for_all(notebook):
    figure, controls = play(notebook), DECLARATIONS[notebook].controls
    places = [ax.get_position(original=True).bounds for ax in figure.figure.axes]
    for name, control in controls.items():
        for value in other_values(control):
            figure.controls[name].value = value
            fig = figure.figure
            canvas = FigureCanvasAgg(fig)
            canvas.draw()
            drawn, (wide, high) = fig.get_tightbbox(canvas.get_renderer()), fig.get_size_inches()
            assert drawn.x0 >= -0.005 and drawn.y0 >= -0.005
            assert drawn.x1 <= wide + 0.005 and drawn.y1 <= high + 0.005
            assert [ax.get_position(original=True).bounds for ax in fig.axes] == places


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


# ---------------------------------------------------------------- the same in text


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_twin_says_what_the_figure_says(notebook, capsys):
    figure = play(notebook)
    text, _ = said(capsys, notebook, **figure.settings)
    assert text.splitlines() == figure.sentences
    assert 2 <= len(figure.sentences) <= 5
    for name, control in DECLARATIONS[notebook].controls.items():
        for value in other_values(control):
            text, _ = said(capsys, notebook, **{name: value})
            assert max(map(len, text.splitlines())) <= 79
            figure.controls[name].value = value
            assert text.splitlines() == figure.sentences
        figure.controls[name].value = control.start


def test_00_says_how_many_levels_are_left(capsys):
    from qlesson.teach.figures import grey_picture

    picture = grey_picture()
    for bits in range(2, 9):
        levels = ql.quantize(picture, ql.Scheme(bits)).q.unique().numel()
        assert levels <= 2**bits
        _, numbers = said(capsys, "00", bits=bits)
        assert numbers == [bits, 32, 4096, 4096, picture.unique().numel(), levels]


def test_01_can_beat_the_formula(capsys):
    text, numbers = said(capsys, "01", s=4.17, z=-84)
    r_hat = ql.dequantize_affine(ql.quantize_affine(T, 4.17, -84, -128, 127), 4.17, -84)
    mse = ql.mse(T, r_hat).item()
    assert f"MSE {mse:.3f}" in text and round(mse, 3) == 0.434
    assert "s = 3.5788, z = -77: MSE 1.573" in text
    assert f"{4.17 * (-128 + 84):.1f} to {4.17 * (127 + 84):.1f}" in text
    assert "MSE 170.875" in said(capsys, "01", s=3.5)[0]
    # No setting of the sliders does better.
    s_, z_ = (DECLARATIONS["01"].controls[name] for name in "sz")
    for z in range(z_.low, z_.high + 1):
        s = torch.arange(s_.low, s_.high + s_.step / 2, s_.step)[:, None, None]
        there = ql.dequantize_affine(ql.quantize_affine(T, s, z, -128, 127), s, z)
        assert (T - there).double().square().mean((1, 2)).min() > mse - 1e-9


def test_02_past_zero_the_zero_point_sticks_and_values_pile_up(capsys):
    values = torch.linspace(2, 6, 200)
    left, points = [], []
    for r_min in (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        s = (6 - r_min) / 31
        free = round(-16 - r_min / s)
        z = min(max(free, -16), 15)
        q = torch.clamp(torch.round(values / s + z), -16, 15)
        text, _ = said(capsys, "02", r_min=r_min)
        used, counts = q.unique(return_counts=True)
        back, most = len(used), counts.max().item()
        assert f"scale {s:.4f}, zero point {z} (codes -16 to 15)" in text
        assert f"200 different values go in, {back} come back; {most} of the 200" in text
        left.append(back)
        points.append((free, z))
    assert all(z == -16 and free < z for free, z in points[3:])  # the wall
    assert all(z == free for free, z in points[:3])
    assert left[3:] == sorted(left[3:], reverse=True) and left[-1] < left[2]
    # Holding 0 takes the pile away, and the wall with it.
    text, _ = said(capsys, "02", r_min=2.0, include_zero=True)
    assert "zero point -16" in text and "0.00 to 6.00" in text
    assert int(re.search(r"; (\d+) of the 200", text)[1]) < 15


def test_03_on_one_sided_values_symmetric_mode_has_a_bit_less(capsys):
    wasted = []
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for shift in (0.0, 1.0, 2.0, 4.0, 5.0):
        v = r + shift
        steps = [ql.choose_qparams(v, ql.Scheme(8, m)).scale for m in ("asymmetric", "symmetric")]
        text, numbers = said(capsys, "03", shift=shift)
        assert numbers[1:3] == [round(s.item(), 4) for s in steps]
        assert numbers[3] == pytest.approx(torch.log2(steps[1] / steps[0]).item(), abs=0.005)
        wasted.append(numbers[3])
    assert wasted == sorted(wasted) and wasted[0] < 0.1 and wasted[-1] == 1.01
    # After ReLU, whatever the shift: 8 bits symmetric is 7 bits asymmetric, value for value.
    for shift in torch.arange(0, 5.1, 0.25).tolist():
        text, _ = said(capsys, "03", shift=shift, relu=True)
        assert re.search(r"uses \d to 127 of its codes", text)
        assert "the same for 10000 of 10000 values" in text


def test_04_the_survivors_lie_on_the_grid(capsys):
    from qlesson.teach.figures import grey_picture

    picture = grey_picture()
    for bits in (2, 3, 6):
        x = ql.quantize(picture, ql.Scheme(bits))
        r_hat = x.dequantize()
        text, numbers = said(capsys, "04", bits=bits)
        survivors = r_hat.unique()
        assert numbers[:3] == [bits, picture.unique().numel(), len(survivors)]
        assert numbers[3] == pytest.approx(x.scale.item(), abs=5e-5)
        assert numbers[4:-1] == pytest.approx(survivors[:8].tolist(), abs=5e-4)
        assert numbers[-1] == pytest.approx((picture - r_hat).abs().max().item(), abs=5e-5)
        assert numbers[-1] <= x.scale / 2 + 5e-5


def test_05_the_least_error_lies_inside(capsys):
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    r[:5], r[5:10] = 20.0, -20.0
    limits = torch.linspace(1, 20, 39).tolist()
    best_limits = []
    for bits in (2, 3, 4, 5, 6, 8):
        shares = []
        for limit in limits:
            s, z = ql.symmetric_qparams(limit, 2 ** (bits - 1) - 1)
            q = ql.quantize_affine(r, s, z, -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
            shares.append([x.item() for x in error_shares(r, ql.dequantize_affine(q, s, z), s)])
        rounding, clipping = torch.tensor(shares).T
        assert (clipping.diff() <= 0).all()
        assert bits < 4 or (rounding.diff() > 0).all()  # with few codes most values go to 0
        i = int((rounding + clipping).argmin())
        best_limits.append(limits[i])
        text, _ = said(capsys, "05", bits=bits, limit=limits[i])
        a, b = shares[i]
        assert f"rounding {a:.4f} + clipping {b:.4f} = MSE {a + b:.4f}" in text
        assert f"The smallest MSE at {bits} bits: {a + b:.4f}, at limit {limits[i]:.1f}." in text
        if bits == 4:
            assert limits[i] == 7.5 and a + b == pytest.approx(0.25, abs=0.005)
            assert "MSE 0.6044" in said(capsys, "05", limit=20)[0]
    assert all(1 < limit < 20 for limit in best_limits[:4])  # inside
    assert best_limits == sorted(best_limits)  # further out with more bits


def test_06_the_winner_flips(capsys):
    w = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    winners = {}
    for times in range(1, 13):
        o = w.clone()
        o[:, ::128] *= times
        text, _ = said(capsys, "06", times=times)
        db = {}
        for bits, granularity, name in (
            (5, ql.PerAxis(0), "one scale per row"),
            (4, ql.PerGroup(32), "groups of 32"),
            (3, ql.PerGroup(16), "groups of 16"),
        ):
            x = ql.quantize(o, ql.Scheme(bits, "symmetric", granularity))
            db[f"{bits} bits, {name}"] = ql.sqnr(o, x.dequantize()).item()
            assert (
                f"{bits} bits, {name}: {x.bits_per_value:.2f} bits per value, "
                f"{db[f'{bits} bits, {name}']:.2f} dB." in text
            )
        winners[times] = max(db, key=db.get)
        assert f"Best at this price: {winners[times]}." in text
    assert winners[1] == "5 bits, one scale per row"
    assert winners[10] == "4 bits, groups of 32"
    flips = sum(winners[t] != winners[t + 1] for t in range(1, 12))
    assert flips == 1


# ---------------------------------------------------------------- what it refuses


def test_it_says_what_is_allowed():
    for notebook in ("99", 1, None, "", "1"):
        with pytest.raises(ValueError, match=r"choose from '00', '01', .*'06'"):
            play(notebook)
    with pytest.raises(ValueError, match="no setting 'scale': choose from s .*number from 3 to 5"):
        play("01", scale=3)
    for s in (7, 2.9, float("nan"), "3.5", None, True, torch.tensor([3.0, 4.0])):
        with pytest.raises(ValueError, match="^s must be a number from 3 to 5, got "):
            play("01", s=s)
    for z in (-111, -77.5, True, "x"):
        with pytest.raises(ValueError, match="^z must be a whole number from -110 to -40, got "):
            play("01", z=z)
    for switch in (1, "yes", None):
        with pytest.raises(ValueError, match="^include_zero must be True or False, got "):
            play("02", include_zero=switch)


def test_it_takes_what_a_reader_may_hold(capsys):
    formula = ql.choose_qparams(T)
    text, _ = said(capsys, "01", s=formula.scale, z=formula.zero_point)
    assert text.count("MSE 1.573") == 2
