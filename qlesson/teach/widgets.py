"""Live figures: controls above a picture, its numbers below, and the same numbers as text.

    play("01")                # the figure with its controls
    play("01", s=4.17, z=-84) # its numbers for these settings, as text

A declaration, in `lessons/nNN/play.py`, says what can be set, and from the settings makes sentences
and a figure of `qlesson.teach.figures`. What it computes, the package computes.
"""

import html
import io
import operator
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import ipywidgets
import torch
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from qlesson.teach import lessons
from qlesson.teach.figures.drawing import drawing_into
from qlesson.teach.show import caption, mimebundle


def play(notebook: str, **settings: Any) -> "LiveFigure | None":
    """The live figure of a notebook, or its numbers for these settings as text.

    notebook  two digits, such as "01"
    settings  what the controls set; those left out keep their first value

    Raises ValueError for a notebook without a live figure, an unknown setting, or a value that
    the control does not offer.
    """
    if notebook not in declarations():
        raise ValueError(
            f"No live figure belongs to notebook {notebook!r}: choose from "
            f"{', '.join(map(repr, declarations()))}."
        )
    declaration = declarations()[notebook]
    if not settings:
        return LiveFigure(declaration)
    settings = _checked(declaration, notebook, settings)
    with _one_thread():
        sentences, _ = declaration.look(**settings)
    print("\n".join(sentences))
    return None


_NOTCHES = "qlesson-notches"  # sliders whose readout, and not whose place, is their value


class Slider(NamedTuple):
    """Numbers from low to high; whole numbers if `step` is one."""

    words: str
    low: float
    high: float
    step: float
    start: float

    def widget(self) -> ipywidgets.Widget:
        whole = isinstance(self.step, int)
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        digits = 0 if whole else len(f"{self.step:g}".partition(".")[2])
        return kind(
            self.start,
            min=self.low,
            max=self.high,
            step=self.step,
            readout_format="d" if whole else f".{digits}f",
        )

    def checked(self, value: Any) -> float:
        """`value` as the slider would give it, or an error if it could not."""
        return _number(value, self.low, self.high)

    def __str__(self) -> str:
        return _numbers(self.low, self.high)


class Decades(NamedTuple):
    """Numbers that span a decade or more: a notch of the slider multiplies, where it could add.

    values  one for each notch, from the lowest to the highest; whole numbers if all are
    """

    words: str
    values: tuple[float, ...]
    start: float

    def widget(self) -> ipywidgets.Widget:
        named = [(f"{value:g}", value) for value in self.values]
        return ipywidgets.SelectionSlider(options=named, value=self.start).add_class(_NOTCHES)

    def checked(self, value: Any) -> float:
        """`value` if it lies between the ends, on a notch or not, else an error."""
        return _number(value, self.values[0], self.values[-1])

    def __str__(self) -> str:
        return _numbers(self.values[0], self.values[-1])


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError
    value = operator.index(value) if isinstance(low, int) else float(value)
    if not low <= value <= high:
        raise ValueError
    return value


def _numbers(low: float, high: float) -> str:
    return f"a {'whole number' if isinstance(low, int) else 'number'} from {low:g} to {high:g}"


def as_set(x: float, decimals: int) -> str:
    """A setting in the decimals of its slider, or in those it was typed in."""
    return f"{x:z.{decimals}f}" if abs(x - round(x, decimals)) < 1e-9 else f"{x:.6g}"


class Switch(NamedTuple):
    """On or off."""

    words: str
    start: bool

    def widget(self) -> ipywidgets.Widget:
        return ipywidgets.Checkbox(self.start)

    def checked(self, value: Any) -> bool:
        """`value` if it is True or False, else ValueError."""
        if value is not True and value is not False:
            raise ValueError
        return value

    def __str__(self) -> str:
        return "True or False"


class Choice(NamedTuple):
    """One of several words, in a list that drops down."""

    words: str
    options: tuple[str, ...]
    start: str

    def widget(self) -> ipywidgets.Widget:
        return ipywidgets.Dropdown(value=self.start, options=self.options)

    def checked(self, value: Any) -> str:
        """`value` if it is one of the words, else ValueError."""
        if not isinstance(value, str) or value not in self.options:
            raise ValueError
        return value

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.options))


Control = Slider | Decades | Switch | Choice
VIEW = "application/vnd.jupyter.widget-view+json"
Shown = tuple[list[str], Callable[[], Figure]]  # sentences, and what makes the figure


class Declaration(NamedTuple):
    """One live figure.

    picture   one sentence that says what the figure shows
    controls  {setting: Slider, Decades, Switch or Choice}
    look      from the settings to sentences about them and a function that makes the figure
    """

    picture: str
    controls: dict[str, Control]
    look: Callable[..., Shown]


class LiveFigure(ipywidgets.VBox):
    """Controls, a picture and its numbers; shows itself as a plain picture where nothing runs.

    The first drawing lays the figure out, and the others keep that layout: finding it takes as
    long as drawing does, and a picture that shifts under the eye is hard to compare.
    """

    figure: Figure

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.controls = {name: c.widget() for name, c in declaration.controls.items()}
        for name, control in self.controls.items():
            control.description = declaration.controls[name].words
            control.style.description_width = "11em"
            control.layout = {"width": "34em", "max_width": "98%"}
            control.observe(self._update, "value")
        self.picture = ipywidgets.Image(
            format="png", layout={"align_self": "flex-start", "max_width": "98%"}
        )
        self.words = ipywidgets.HTML(layout={"max_width": "98%"})
        super().__init__([*self.controls.values(), self.picture, self.words])
        self.add_class("qlesson-play")
        self._update()

    @property
    def settings(self) -> dict[str, Any]:
        """{setting: the value its control has}."""
        return {name: control.value for name, control in self.controls.items()}

    def _update(self, change: Any = None) -> None:
        """`change` is what a control sends; None draws the first figure."""
        self.picture.value = self.draw(self.settings, first=change is None)
        words = "<br>".join(map(html.escape, self.sentences))
        names = _SAY_WHAT_IT_IS.format(html.escape(self.declaration.picture))
        self.words.value = f'{names}<div style="line-height: 1.5">{words}</div>'

    def draw(self, settings: dict[str, Any], first: bool = False) -> bytes:
        """The picture of these settings as PNG, in the layout of the first; sets `sentences`."""
        with _one_thread():
            self.sentences, draw = self.declaration.look(**settings)
            with drawing_into(None if first else self.figure):
                self.figure = draw()
        layout = self.figure.get_layout_engine()
        if isinstance(layout, ConstrainedLayoutEngine):
            layout.set(rect=(0.03, 0, 0.97, 1))  # room on the left for longer numbers to come
        picture = _png(self.figure)
        _stay(self.figure)
        return picture

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live view, and for a page without a kernel the picture and its facts."""
        alt = " ".join([self.declaration.picture, *self.sentences])
        data, metadata = mimebundle(self.figure, alt)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {VIEW: view} | data, metadata

    def _ipython_display_(self) -> None:
        """The picture, and below it its sentence, which holds wherever the controls stand."""
        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)
        display(caption(self.declaration.picture), raw=True)


# ipywidgets gives a slider's handle no accessible name, a picture no alt text and its text no live
# region, so a screen reader would say "slider, 2.0999999999999996", or the number of a notch, and
# nothing about what that changed. Replacing the text runs this in the page: each handle gets the
# name that stands beside it and says its rounded number, or what stands beside the notch, the
# picture gets its sentence, and the text is read out when it changes.
# A drop-down keeps its keys from JupyterLab, which would go to another cell at an arrow and cut
# this one at an x. Where scripts are forbidden, no more is lost.
_SAY_WHAT_IT_IS = textwrap.dedent("""\
    <img alt="{}" src="data:," style="display: none" onerror="
      const all = this.closest('.qlesson-play');
      all.querySelector('img.widget-image').alt = this.alt;
      for (const handle of all.querySelectorAll('.widget-slider [role=slider]')) {{
        const slider = handle.closest('.widget-slider');
        const told = slider.querySelector('.widget-readout');
        const round = () => {{
          const text = slider.matches('.qlesson-notches') ? told.textContent
            : String(parseFloat((+handle.ariaValueText).toFixed(4)));
          if (text != 'NaN' && text != handle.ariaValueText) handle.ariaValueText = text;
        }};
        handle.setAttribute('aria-label', slider.firstChild.textContent);
        handle.rounds ??= new MutationObserver(round);
        handle.rounds.observe(handle, {{attributeFilter: ['aria-valuetext']}});
        round();
      }}
      for (const s of all.querySelectorAll('select')) s.onkeydown = event => {{
        if (!event.shiftKey && !event.ctrlKey && !event.metaKey) event.stopPropagation();
      }};
      this.parentNode.setAttribute('aria-live', 'polite')">
    """)


def _stay(fig: Figure) -> None:
    """Keep the axes and the words below them where the first drawing put them."""
    fig.set_layout_engine(None)
    for ax in fig.axes:
        label = ax.xaxis.label
        ax.xaxis.set_label_coords(*label.get_position(), transform=label.get_transform())


def _png(fig: Figure) -> bytes:
    """The figure as `show` draws it, and larger in bytes, because making it small takes time."""
    image = io.BytesIO()
    fig.savefig(
        image,
        format="png",
        dpi=100,
        facecolor="white",
        edgecolor="white",
        pil_kwargs={"compress_level": 1},
    )
    return image.getvalue()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute without waiting for a second core, which others in a classroom keep busy.

    On tensors as small as these that wait takes ten times as long as the work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _checked(declaration: Declaration, notebook: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All settings, the given ones checked; or a sentence about what can be given."""
    controls = declaration.controls
    for name, value in settings.items():
        if name not in controls:
            offered = ", ".join(f"{n} ({c})" for n, c in controls.items())
            raise ValueError(f"play({notebook!r}) has no setting {name!r}: choose from {offered}.")
        try:
            settings[name] = controls[name].checked(value)
        except (TypeError, ValueError, RuntimeError):  # the last from a tensor of many
            raise ValueError(f"{name} must be {controls[name]}, got {value!r}.") from None
    return {name: control.start for name, control in controls.items()} | settings


def declare(picture: str, **controls: Control) -> Callable[[Callable[..., Shown]], Declaration]:
    """Turn the function `look` into a Declaration, which describes it."""
    return partial(Declaration, picture, controls)


@cache
def declarations() -> dict[str, Declaration]:
    """Every live figure by its notebook, in the order of the course."""
    found = {}
    for notebook, module in lessons.modules("play").items():
        (found[notebook],) = (x for x in vars(module).values() if isinstance(x, Declaration))
    return found
