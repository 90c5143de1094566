"""What only a notebook needs: `show` a figure, `show_source` of a function, `play`, `figures`.

from qlesson.teach import figures, play, randn, show, show_source
from qlesson.teach import catch_up, check, hint, progress, solution  # the exercises
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qlesson.teach.widgets import play as play

_missing: Exception | None = None
try:
    from qlesson.teach.draws import randn
    from qlesson.teach.exercises import catch_up, check, hint, progress, solution
    from qlesson.teach.show import show, show_source
except Exception as error:  # `preflight` runs where something is missing or too old, and names it
    _missing = error

__all__ = [
    "catch_up",
    "check",
    "hint",
    "play",
    "progress",
    "randn",
    "show",
    "show_source",
    "solution",
]


def __getattr__(name: str) -> Any:
    if name in __all__ and _missing is not None:
        raise _missing
    # ipywidgets is imported for those who play.
    if name == "play":
        from qlesson.teach.widgets import play

        return play
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
