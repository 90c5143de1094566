"""The lessons: the folder nNN holds what belongs to notebook NN.

    figures.py    from data to a matplotlib Figure, found as qlesson.teach.figures.NAME
    play.py       its live figure, one function under `declare`, found by play("NN")
    exercises.py  a block for each exercise, found by check("N.1", answer)

Any of them may be missing, and other modules may stand beside them. The folders are walked: none
is listed anywhere.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def modules(kind) -> dict[str, ModuleType]:
    """The module of this kind, such as "figures", of every lesson that has one: {"09": module}."""
    found = (file for place in __path__ for file in Path(place).glob(f"n[0-9][0-9]/{kind}.py"))
    names = sorted(file.parent.name for file in found)
    return {name[1:]: import_module(f"{__name__}.{name}.{kind}") for name in names}
