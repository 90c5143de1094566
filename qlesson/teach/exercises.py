"""Exercises that check themselves: `check`, `hint`, `solution`, `progress` and `catch_up`.

Those of notebook 01 stand in lessons/n01/exercises.py, and each is one block there:

    @exercise("1.1", "The formula in your hands", "write code", difficulty=1, minutes=5)
    class Formula:
        '''The text, as the notebook shows it.'''

        hints = ("a first hint", "one that says more")
        why = "what solution() says below the code"

The rest of a block depends on the answer. It is one of three.

A function. The stub is `def name(...): ...`, or the text `stub` where a bug is to be repaired.

    spec          the slow, obvious function: plain numbers and nested lists in and out
    cases(rng)    yields tuples of inputs: small edge cases, then some drawn from rng
    valid         whether inputs are such as the question has, where a part of them may not be
    dtype         the dtype to return, where that matters
    within        the distance that still counts as right, beside about five digits
    exact         True where floats must be equal, in float32
    @right        one function, the solution
    @wrong(hint)  functions that a learner really writes

A value: numbers, or the letters of a choice.

    stub          "name = ..."
    right         the value; `within` is the distance that still counts as right, in a list with
                  one for each of several numbers; a pair is the distances below and above
    wrong         pairs (value, hint), a value to within `within` as well, or in proportion where
                  it is smaller than the right one; ... is any number

A construction, which has many right answers.

    stub, right   as above; right is one example
    @fault(hint, example)   what is wrong with some answers, on the numbers given; tried in order
    facts         the sentence that says what the numbers given lead to

tests/teach/test_exercises.py proves every block: the solution passes, each wrong answer gets its
own hint, and no mutant of the solution slips through. tests/teach/test_verdicts.py lists the
kinds of inputs that an exercise must meet, and answers in other styles, which must pass.
"""

import contextlib
import inspect
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qlesson.course import notebooks
from qlesson.teach import lessons
from qlesson.teach.compare import in_short
from qlesson.teach.verdict import Seed, judge, untouched

PROGRESS_FILE = ".qlesson_progress.json"


# What a notebook uses


def check(id: str, answer: Any = None, *, seed: Seed = None) -> None:
    """Print whether the answer is right and, if it is not, where it goes wrong. Never raises.

    id      the number of the exercise, "1.1"
    answer  a function, a number, several numbers, or the letters of a choice
    seed    draws the same inputs again; QLESSON_SEED does so for all checks
    """
    ex = _find(id)
    if ex is None:
        return
    verdict = judge(ex, answer, seed)
    if verdict.state == "passed":
        _remember(ex.id, "passed")
    print(verdict.text)


def hint(id: str) -> None:
    """Print one more hint at each call."""
    ex = _find(id)
    if ex is None:
        return
    n = _hints_given.get(ex.id, 0)
    _hints_given[ex.id] = n + 1
    if n < len(ex.hints):
        print(textwrap.fill(f"Hint {n + 1} of {len(ex.hints)}: {ex.hints[n]}", 79))
    if n + 1 >= len(ex.hints):
        print(f'That was the last hint. solution("{ex.id}") shows an answer and its reason.')


def solution(id: str) -> None:
    """Print an answer to an exercise, and why it is right."""
    ex = _find(id)
    if ex is not None:
        print(f"{ex.answered}\n\n{textwrap.fill(ex.why, 79)}")


def progress() -> None:
    """Print which exercises are passed or shown, in this session or noted beside the notebooks."""
    states = _states()
    for notebook in sorted({ex.notebook for ex in exercises().values()}):
        ids = [ex.id for ex in exercises().values() if ex.notebook == notebook]
        row = "".join(f"{id} {states.get(id, '-'):9}" for id in ids)
        print(f"{notebook}  {row}".rstrip())
    print(f"{list(states.values()).count('passed')} of {len(exercises())} passed")


def catch_up(to: str | int) -> None:
    """Print what to remember of each notebook up to this exercise, and define the open answers.

    to  the number of an exercise, "2.2", or of a notebook, 2, for all of its exercises

    What to remember is read from the course's own notebooks. What you have written stays as it is;
    where a name is asked for again, it is taken for the last answer. What is filled in counts
    as shown, not as passed, and solution("2.2") prints its code and its reason.
    """
    told = set()
    asked = [exercises()[id] for id in _up_to(to)]
    for i, ex in enumerate(asked):
        if ex.notebook not in told and (sentence := _last_sentence(ex.notebook)):
            print(textwrap.fill(f"{ex.notebook}   {sentence}", 79, subsequent_indent=" " * 5))
        told.add(ex.notebook)
        again = {name for later in asked[i + 1 :] for name in later.names}
        print(f"{ex.id}  {_filled_up(ex, again)}")


# What a block is made of


class Right(NamedTuple):
    """The function that is the solution of a block."""

    answer: Callable


class Wrong(NamedTuple):
    """A wrong answer, the hint it gets, and for a construction the rule that recognises it."""

    answer: Any
    hint: str
    rule: Callable | None = None


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise, as the module's docstring describes it."""

    id: str
    title: str
    kind: str
    difficulty: int
    minutes: int
    text: str
    hints: tuple[str, ...]
    why: str
    stub: str
    right: Any
    wrong: tuple[Wrong, ...]
    spec: Callable | None = None
    cases: Callable | None = None
    valid: Callable | None = None
    dtype: torch.dtype | None = None
    within: Any = 0
    exact: bool = False
    facts: Callable | None = None

    @property
    def notebook(self) -> str:
        """The number of its notebook, "01"."""
        return self.id.split(".")[0].zfill(2)

    @property
    def name(self) -> str:
        """What the stub defines, as `check` takes it: a name, or names in parentheses."""
        if self.spec:
            return re.findall(r"def (\w+)", self.stub)[0]
        names = self.stub.split(" = ")[0]
        return f"({names})" if "," in names else names

    @property
    def names(self) -> list[str]:
        """Each name that the stub defines."""
        return self.name.strip("()").split(", ")

    @property
    def answered(self) -> str:
        """The stub with the solution in its place."""
        if self.spec:
            return _source(self.right)
        value = in_short(self.right).strip("()")
        return f"{self.stub.split(' = ')[0]} = {value}"

    @property
    def cells(self) -> tuple[str, str]:
        """The Markdown and the code of its two cells in the notebook."""
        facts = f"difficulty {self.difficulty} · {self.minutes} minutes · {self.kind}"
        return (
            f"### Exercise {self.id} {self.title}\n\n{facts}\n\n{self.text}",
            self.cell(self.stub),
        )

    def cell(self, code: str) -> str:
        """The code cell, with this code in the stub's place."""
        gap = "\n\n\n" if self.spec else "\n\n"
        return f'{code}{gap}check("{self.id}", {self.name})'


def exercise(
    id: str, title: str, kind: str, *, difficulty: int, minutes: int
) -> Callable[[type], Exercise]:
    """Turn a block into an Exercise, which `check` finds by its id."""

    def build(block: type) -> Exercise:
        parts = {k: v for k, v in vars(block).items() if not k.startswith("__")}
        marked = (v.answer for v in parts.values() if isinstance(v, Right))
        right: Any = next(marked, parts.get("right"))
        wrong = [v for v in parts.values() if isinstance(v, Wrong)]
        wrong += [Wrong(*pair) for pair in parts.get("wrong", ())]
        optional = ("spec", "cases", "valid", "dtype", "within", "exact", "facts")
        return Exercise(
            id, title, kind, difficulty, minutes,
            text=_unwrapped(block.__doc__ or ""),
            hints=tuple(parts["hints"]),
            why=" ".join(parts["why"].split()),
            stub=textwrap.dedent(parts.get("stub") or _empty(right)).strip(),
            right=right,
            wrong=tuple(wrong),
            **{k: parts[k] for k in optional if k in parts},
        )  # fmt: skip

    return build


def right(fn: Callable) -> Right:
    """Mark the solution of a block."""
    return Right(fn)


def wrong(hint: str) -> Callable[[Callable], Wrong]:
    """Mark a function as an answer that learners give, with the hint it gets."""
    return lambda fn: Wrong(fn, hint)


def fault(hint: str, example: Any) -> Callable[[Callable], Wrong]:
    """Mark a rule that recognises what is wrong with a construction."""
    return lambda rule: Wrong(example, hint, rule)


# A vector, a square, a wide and a tall matrix, and a long one: what an input of any shape may be.
SHAPES = (3,), (3, 3), (2, 4), (5, 2), (2, 60)


def each(fn: Callable[[float], Any], r: Any) -> Any:
    """fn of every number in a nested list."""
    return [each(fn, x) for x in r] if isinstance(r, list) else fn(r)


def flat(r: Any) -> list:
    """The numbers of a nested list, in order."""
    return [x for part in r for x in flat(part)] if isinstance(r, list) else [r]


def off_ties(rng: Random, shape: Sequence[int], s: float, z: float, low: int, high: int) -> Tensor:
    """Real values whose codes before the clip run from low to high, none near a tie.

    Near a tie float32 and float64 may round apart, and the spec computes in float64.
    """
    steps = [rng.randint(low, high) + rng.uniform(-0.4, 0.4) - z for _ in range(math.prod(shape))]
    return torch.tensor([s * x for x in steps]).reshape(shape)


def symmetric_values(rng: Random, shape: Sequence[int], s: float, quant_max: int) -> Tensor:
    """The same with zero point 0; one value, of either sign, lies on the last code."""
    r = off_ties(rng, shape, s, 0, 1 - quant_max, quant_max - 1).flatten()
    r[rng.randrange(len(r))] = rng.choice((-s, s)) * quant_max
    return r.reshape(shape)


@cache
def exercises() -> dict[str, Exercise]:
    """Every exercise by its id, in the order of the course."""
    blocks = (x for module in lessons.modules("exercises").values() for x in vars(module).values())
    return {x.id: x for x in blocks if isinstance(x, Exercise)}


_hints_given: dict[str, int] = {}
_filled_in: dict[str, Any] = {}  # by catch_up, so that a second call knows them
_states_here: dict[str, str] = {}


def _find(id: object) -> Exercise | None:
    ex = exercises().get(str(id).strip())
    if ex is None:
        print(f"There is no exercise {id}. There are: {', '.join(exercises())}.")
    return ex


def _up_to(to: object) -> list[str]:
    """The ids of the exercises up to an exercise or the end of a notebook; a sentence if none."""
    wanted = str(to).strip()
    ids = list(exercises())
    ends = [i for i in ids if i == wanted or i.split(".")[0] == wanted.lstrip("0")]
    if not ends:
        print(f"There is no exercise or notebook {to}. There are: {', '.join(ids)}.")
    return ids[: ids.index(ends[-1]) + 1] if ends else []


def _last_sentence(notebook: str) -> str:
    """The sentence that a notebook of the course ends with, or nothing."""
    found = [""]
    for path in notebooks().glob(f"{notebook}_*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        found += re.findall(r"^\*\*Remember\.\*\* (.+)$", text, flags=re.M)
    return found[-1]


def _filled_up(ex: Exercise, again: set[str]) -> str:
    """Define what the reader has left open, and say so; names asked for again are not this one's.

    A name of theirs is never written over, whichever exercise they have it from.
    """
    here = vars(sys.modules["__main__"])
    given = [n for n in ex.names if n in here and here[n] is not _filled_in.get(n)]
    theirs = [n for n in given if not untouched(ex, here[n])]
    if theirs == ex.names and not again & {*theirs}:
        return f"{ex.name} is yours and stays"
    values = [copy(ex.right)] if len(ex.names) == 1 else ex.right
    new = {n: x for n, x in zip(ex.names, values, strict=True) if n not in theirs}
    _filled_in.update(new)
    here.update(new)
    _remember(ex.id, "shown")
    told = f"{ex.name} is defined" if ex.spec else ex.answered
    stays = f"; your {' and '.join(theirs)} {'stays' if len(theirs) == 1 else 'stay'}"
    return told + stays if theirs else told


def _source(fn: Callable) -> str:
    lines = textwrap.dedent(inspect.getsource(fn)).splitlines()
    return "\n".join(line for line in lines if not line.startswith("@")).strip()


def _empty(fn: Callable) -> str:
    return f"def {fn.__name__}{inspect.signature(fn)}: ..."


def _unwrapped(doc: str) -> str:
    """A docstring as Markdown: one line per paragraph, and one per point of a list."""
    return re.sub(r"(?<!\n)\n(?!\n|- ) *", " ", inspect.cleandoc(doc))


# What is passed


def _states() -> dict[str, str]:
    """By exercise, "passed" or "shown", as noted beside the notebooks and in this session."""
    try:
        noted = dict(json.loads(Path(PROGRESS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        noted = {}
    stored = {id: state for id, state in noted.items() if state in ("passed", "shown")}
    passed = {id: state for id, state in stored.items() if state == "passed"}  # by any notebook
    found = stored | _states_here | passed
    return {id: state for id, state in found.items() if id in exercises()}


def _remember(id: str, state: str) -> None:
    """Note it for this session, and beside the notebooks where that can be written."""
    if _states().get(id) != "passed":
        _states_here[id] = state
    with contextlib.suppress(OSError):
        if any(Path().glob("*.ipynb")):
            whole = Path(f"{PROGRESS_FILE}.{os.getpid()}")  # another notebook never reads a half
            whole.write_text(json.dumps(_states()) + "\n", encoding="utf-8")
            whole.replace(PROGRESS_FILE)
