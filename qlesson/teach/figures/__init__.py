"""The pictures of the course: plain functions from data to a matplotlib Figure.

Tensors on any device, or lists, go in; nothing is shown (`qlesson.teach.show` does that) and no
global state is touched. Every code and every value that comes back is computed by qlesson.

Each stands in the lesson that shows it first, as a public function of `lessons/nNN/figures.py`, and
is found here by its name, as in `figures.heatmaps`; `drawing` is what they share. Colours have
roles, and each role also has a marker, a line style or a hatch of its own.
"""

from functools import cache
from inspect import getmembers, isfunction
from types import FunctionType

from qlesson.teach import lessons
from qlesson.teach.figures import drawing  # noqa: F401  must be there before a lesson asks for it


@cache
def by_name() -> dict[str, FunctionType]:
    """Every picture of the lessons by its name."""
    found = {}
    for module in lessons.modules("figures").values():
        for name, picture in getmembers(module, isfunction):
            if picture.__module__ == module.__name__ and not name.startswith("_"):
                found[name] = picture
    return found


def __getattr__(name: str) -> FunctionType:
    if name.startswith("_") or name not in by_name():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return by_name()[name]


def __dir__() -> list[str]:
    return [*globals(), *by_name()]
