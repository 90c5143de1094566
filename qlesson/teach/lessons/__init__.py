"""The lessons: the folder nNN holds what belongs to notebook NN.

    figures.py    from data to a matplotlib Figure, found as qlesson.teach.figures.NAME
    play.py       its live figure, one function under `declare`, found by play("NN")
    exercises.py  a block for each exercise, found by check("N.1", answer)
    play.js       in the web book: what play.py computes, where its settings are too many for frames
    rules.js      in the web book: the rules of an exercise that asks for a construction

Any of them may be missing, and other modules may stand beside them. The folders are walked: none
is listed anywhere.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def files(kind: str, suffix: str = ".py") -> dict[str, Path]:
    """The file of this kind, such as "figures", of every lesson that has one: {"09": path}."""
    name = f"n[0-9][0-9]/{kind}{suffix}"
    found = [file for place in __path__ for file in Path(place).glob(name)]
    return {file.parent.name[1:]: file for file in sorted(found, key=lambda file: file.parent.name)}


def modules(kind: str) -> dict[str, ModuleType]:
    """The same as modules."""
    return {number: import_module(f"{__name__}.n{number}.{kind}") for number in files(kind)}
