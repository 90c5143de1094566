"""The verdict on an answer: it prints nothing and never raises, whatever the answer is."""

import contextlib
import inspect
import io
import os
import random
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from qlesson.teach import advice
from qlesson.teach.compare import as_tensor, in_short, same

if TYPE_CHECKING:
    from qlesson.teach.exercises import Exercise, Wrong

Seed = int | str | None


class Verdict(NamedTuple):
    """What `check` prints, and the wrong answer that it recognised."""

    state: str  # "untouched", "wrong" or "passed"
    text: str
    recognised: "Wrong | None" = None


def judge(ex: "Exercise", answer: Any, seed: Seed = None) -> Verdict:
    """The verdict on an answer, whatever it is: on the CPU, whatever torch's default device is."""
    with torch.device("cpu"):
        return _judged(ex, answer, seed)


def _judged(ex: "Exercise", answer: Any, seed: Seed) -> Verdict:
    try:
        if untouched(ex, answer):
            return Verdict("untouched", f"{ex.id} not attempted yet")
        if ex.spec:
            return _judge_function(ex, answer, seed)
        return (_judge_letters if isinstance(ex.right, str) else _judge_numbers)(ex, answer)
    except Exception as error:  # an answer that cannot even be looked at
        return _no(ex, f"this answer cannot be read ({in_short(error)}).")


def _no(ex: "Exercise", *lines: str, recognised: "Wrong | None" = None) -> Verdict:
    text = "\n".join(f"{ex.id} not yet: {line}" if i == 0 else line for i, line in enumerate(lines))
    last = recognised.hint if recognised else f'hint("{ex.id}") gives a hint.'
    return Verdict("wrong", f"{text}\n{textwrap.fill(last, 79)}", recognised)


def untouched(ex: "Exercise", answer: Any) -> bool:
    """Whether the answer is what the stub left: nothing, or the stub's own function."""
    if answer is None or answer is ...:
        return True
    if isinstance(answer, (list, tuple)):
        return bool(answer) and all(x is None or x is ... for x in answer)
    if not (ex.spec and isinstance(answer, FunctionType)):
        return False
    stub: dict[str, Any] = {}
    exec(ex.stub, stub)
    return any(_same_code(answer.__code__, f.__code__) for f in (stub[ex.name], _blank))


def _blank() -> None: ...


def _same_code(a: CodeType, b: CodeType) -> bool:
    return (a.co_code, a.co_names, a.co_consts) == (b.co_code, b.co_names, b.co_consts)


# A function: run on inputs, beside the spec


class Outcome(NamedTuple):
    """What a function made of its inputs."""

    value: Any = None
    error: str | None = None
    printed: str = ""
    changed: bool = False  # the inputs, in place


class Trial(NamedTuple):
    inputs: tuple
    expected: Any
    got: Outcome


def _judge_function(ex: "Exercise", answer: Any, seed: Seed) -> Verdict:
    if not callable(answer):
        call = f'check("{ex.id}", {ex.name})'
        return _no(ex, f"it asks for the function itself, {call}, and got {in_short(answer)}.")
    if not _takes(answer, ex.right):
        arguments = f"{ex.name}{inspect.signature(ex.right)}"
        return _no(ex, f"it calls {arguments}, and your function does not take these.")
    trials = [t for t in (_trial(ex, answer, inputs) for inputs in draw(ex, seed)) if t]
    if not trials:
        return _no(ex, "its own solution does not run here, so nothing can be compared.")
    failed = [t for t in trials if _failed(ex, t)]
    if failed:
        tries = ((w, loosely) for loosely in (False, True) for w in ex.wrong)
        recognised = next((w for w, loosely in tries if _explains(ex, w, trials, loosely)), None)
        unnamed = [t for t in failed if (t.got.error or "").startswith("NameError")]
        smallest = min(unnamed or failed, key=lambda t: (_size(t), len(in_short(t.inputs, 10_000))))
        said = _report(ex, _shrunk(ex, answer, smallest))
        alike = advice.about_all([(t.got.value, t.expected) for t in failed])
        return _no(ex, *said, *alike, recognised=recognised)
    if any(t.got.changed for t in trials):
        return _no(ex, "the values are right, but the function changes its input in place.",
                   "y += ... and y[:] = ... write into the tensor that came in, also where y is a",
                   "part of it, such as x[0], which is a view. Write y = y + ..., or begin with a",
                   "copy, y = x.clone().")  # fmt: skip
    others = (t.got.value for t in trials if getattr(t.got.value, "dtype", None) != ex.dtype)
    other = next(others, None) if ex.dtype else None
    if isinstance(other, Tensor):
        given = f"{other.dtype} instead of {ex.dtype}"
        return _no(ex, f"the values are right, the dtype is not: {given}.")
    if other is not None:
        module, kind = type(other).__module__, type(other).__name__
        given = "a numpy array" if module == "numpy" else kind
        return _no(ex, f"the values are right, the type is not: {given} instead of a tensor.",
                   f"torch.as_tensor(q, dtype={ex.dtype}) makes one of q.")  # fmt: skip
    return Verdict("passed", f"Passed: {ex.id} is right on all {len(trials)} inputs tried.")


def draw(ex: "Exercise", seed: Seed = None) -> list[tuple]:
    """The inputs of one check: the edge cases, and others drawn fresh or from the seed."""
    seed = os.environ.get("QLESSON_SEED") if seed is None else seed
    assert ex.cases
    return list(ex.cases(random.Random(seed)))


def _takes(answer: Callable, solution: Callable) -> bool:
    try:
        inspect.signature(answer).bind(*inspect.signature(solution).parameters)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature: calling it will tell
        pass
    return True


def _trial(ex: "Exercise", answer: Callable, inputs: tuple) -> Trial | None:
    """The answer beside the spec, or None where these are no inputs of the question."""
    assert ex.spec
    try:
        if ex.valid and not ex.valid(*inputs):
            return None
        expected = ex.spec(*[x.tolist() if isinstance(x, Tensor) else x for x in inputs])
    except (ArithmeticError, ValueError, LookupError):
        return None
    trial = Trial(inputs, expected, _run(answer, inputs))
    return None if _failed(ex, trial._replace(got=_run(ex.right, inputs))) else trial


def _run(fn: Callable, inputs: tuple) -> Outcome:
    """What fn makes of its own copies of the inputs: on the CPU of every machine, since numpy reads
    no GPU's memory, and a GPU multiplies no matrices of integers."""
    said = io.StringIO()
    copies = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value, error = fn(*copies), None
            except KeyboardInterrupt:
                raise
            except BaseException as e:  # SystemExit too
                value, error = None, in_short(e)
    changed = any(
        isinstance(x, Tensor) and not torch.equal(x, y.cpu())
        for x, y in zip(inputs, copies, strict=True)
    )
    return Outcome(value, error, said.getvalue(), changed)


def _failed(ex: "Exercise", trial: Trial) -> bool:
    got = trial.got
    return got.error is not None or not same(got.value, trial.expected, ex.within, ex.exact)


def _explains(ex: "Exercise", wrong: "Wrong", trials: list[Trial], loosely: bool) -> bool:
    """Whether this wrong function does on every input what the answer did.

    Loosely, inputs on which it has no value (a row of zeros gives 0 / 0) say nothing about the
    answer, which may have a second way to treat these.
    """
    told = []
    for t in trials:
        theirs = _run(wrong.answer, t.inputs)
        if loosely and _undefined(theirs):
            continue
        if not _alike(theirs, t.got, ex.within):
            return False
        told.append(t)
    return any(_failed(ex, t) for t in told)


def _alike(a: Outcome, b: Outcome, within: float) -> bool:
    if _undefined(a) or _undefined(b):
        return _undefined(a) and _undefined(b)
    return same(b.value, a.value, within)


def _undefined(got: Outcome) -> bool:
    """Whether it has no value: NaN, infinity, or an error, as Python makes it of 1 / 0."""
    parts = got.value if isinstance(got.value, tuple) else (got.value,)
    tensors = [x for x in map(as_tensor, parts) if x is not None and x.numel() <= 10_000]
    return got.error is not None or any(not x.isfinite().all() for x in tensors)


def _shrunk(ex: "Exercise", answer: Callable, trial: Trial) -> Trial:
    """The trial with as much of its inputs left out as still goes wrong."""
    smaller: Trial | None = trial
    while smaller:
        trial = smaller
        tries = (_trial(ex, answer, inputs) for inputs in _smaller(trial.inputs))
        smaller = next((t for t in tries if t and _failed(ex, t)), None)
    return trial


def _size(trial: Trial) -> int:
    return sum(x.numel() for x in trial.inputs if isinstance(x, Tensor))


def _smaller(inputs: tuple) -> Iterator[tuple]:
    """The inputs with a half, an eighth or one slice left out of the axes that go together.

    These are an axis of every tensor of one shape, or else all axes of one length.
    """
    shapes = dict.fromkeys(x.shape for x in inputs if isinstance(x, Tensor))
    axes = [(shape, i, n) for shape in shapes for i, n in enumerate(shape)]
    alike = [[axis for axis in axes if axis[2] == n] for n in dict.fromkeys(n for *_, n in axes)]
    for together in [*([axis] for axis in axes), *(some for some in alike if len(some) > 1)]:
        n = together[0][2]
        sizes = sorted({n // 2, n // 8, min(n - 1, 1)} - {0}, reverse=True)
        parts = (range(i, i + size) for size in sizes for i in range(0, n, size))
        for left_out in parts:
            keep = torch.tensor([j for j in range(n) if j not in left_out])
            yield tuple(_kept(x, together, keep) for x in inputs)


def _kept(x: Any, axes: list, keep: Tensor) -> Any:
    for i in [i for shape, i, _ in axes if isinstance(x, Tensor) and x.shape == shape]:
        x = x.index_select(i, keep)
    return x


def _report(ex: "Exercise", trial: Trial) -> Iterator[str]:
    yield "the smallest input found on which it goes wrong is"
    named = dict(zip(inspect.signature(ex.right).parameters, trial.inputs, strict=True))
    got = trial.got.error or in_short(trial.got.value)
    rows = {name: in_short(x) for name, x in named.items()}
    rows |= {"expected": in_short(trial.expected), "got": got}
    width = max(map(len, rows))
    yield from (f"  {name:{width}}  {text}" for name, text in rows.items())
    if trial.got.error is None:
        yield from advice.about_form(trial.got.value, trial.expected, ex.exact)
    else:
        yield from advice.about_error(trial.got.error)
    if trial.got.changed:
        yield "It changes its input in place, too."
    if trial.got.printed:
        yield f"It printed: {in_short(trial.got.printed.strip())}"


# A value


def _judge_letters(ex: "Exercise", answer: Any) -> Verdict:
    if isinstance(answer, (list, tuple, set)) and all(isinstance(x, str) for x in answer):
        answer = "".join(answer)
    if not isinstance(answer, str):
        return _no(ex, f'it asks for letters in quotes, such as "A", and got {in_short(answer)}.')
    letters, offered = _letters(answer), re.findall(r"^- \*\*([A-Z])\*\*", ex.text, flags=re.M)
    if not set(letters) <= set(offered):
        said = f"it asks for letters from {offered[0]} to {offered[-1]}, and got {answer}."
        return _no(ex, said)
    if letters == _letters(ex.right):
        return Verdict("passed", textwrap.fill(f"Passed: {ex.id}. {ex.why}", 79))
    recognised = next((w for w in ex.wrong if _letters(w.answer) == letters), None)
    recognised = recognised or _one_too_many(ex, set(letters))
    return _no(ex, f"{letters or 'an empty answer'} is not right.", recognised=recognised)


def _one_too_many(ex: "Exercise", letters: set[str]) -> "Wrong | None":
    """The wrong answer whose letters beside the right ones are most of those given."""
    right = set(_letters(ex.right))
    more = [(set(_letters(w.answer)) - right, w) for w in ex.wrong if right < set(w.answer)]
    of_these = [(len(beside), w) for beside, w in more if beside <= letters]
    return max(of_these, key=lambda pair: pair[0], default=(0, None))[1]


def _letters(text: str) -> str:
    text = re.sub(r"\band\b", "", text, flags=re.IGNORECASE)  # "B and C"
    return "".join(sorted({c for c in text.upper() if c.isalpha()}))


def _judge_numbers(ex: "Exercise", answer: Any) -> Verdict:
    numbers = _numbers(answer)
    if isinstance(answer, (list, tuple)) and any(x is ... or x is None for x in answer):
        return _no(ex, f"a part of it is still open: {in_short(answer)}.")
    if numbers is None:
        return _no(ex, f"it asks for finite numbers in one row, and got {in_short(answer)}.")
    if ex.facts:
        return _judge_construction(ex, ex.facts, numbers)
    wanted, within = _list(ex.right), ex.within
    if len(numbers) != len(wanted):
        return _no(ex, _so_many(len(wanted), numbers))
    if _match(numbers, wanted, within):
        return Verdict("passed", textwrap.fill(f"Passed: {ex.id}. {ex.why}", 79))
    if len(wanted) > 1 and _match(numbers[::-1], wanted, within):
        return _no(ex, "these are the right numbers in the other order.")
    recognised = _recognise(ex, numbers)
    said = f"{in_short(answer)} is not right."
    parts = zip(_named(ex), numbers, wanted, _list(within, wanted), strict=True)
    off = {name: (a, b) for name, a, b, w in parts if not _match([a], [b], [w])}
    if len(wanted) > 1 and not recognised:
        good = len(wanted) - len(off)
        said = f"{good} of {len(wanted)} numbers right. Look again at {' and '.join(off)}."
    if not recognised and any(_rounded(a, b) for a, b in off.values()):
        said += " What is rounded needs more digits."
    return _no(ex, said, recognised=recognised)


def _so_many(n: int, numbers: list[float]) -> str:
    return f"it asks for {n} {'number' if n == 1 else 'numbers'}, and got {len(numbers)}."


def _named(ex: "Exercise") -> list[str]:
    """What to call each number of the answer: its own name, or its place."""
    n = len(_list(ex.right))
    return ex.names if len(ex.names) == n else [f"number {i + 1}" for i in range(n)]


def _recognise(ex: "Exercise", numbers: list[float]) -> "Wrong | None":
    """The wrong answer that these numbers are, or else one that they round or abbreviate."""
    for close in (False, True):
        for w in ex.wrong:
            pattern = _list(w.answer)
            if _match(numbers, pattern, _in_proportion(ex, pattern) if close else 0):
                return w
    return None


def _in_proportion(ex: "Exercise", pattern: list) -> list[float]:
    """What `within` allows, less for numbers smaller than the right ones."""
    rows = zip(pattern, _list(ex.right), _list(ex.within, pattern), strict=True)
    return [0 if b is ... else min(1, abs(b / r)) * max(_ends(w)) for b, r, w in rows]


def _rounded(a: float, b: float) -> bool:
    """Whether a, not 0, is b in fewer digits."""
    return bool(a) and any(a == round(a, d) != b and abs(a - b) <= 0.501 / 10**d for d in range(6))


def _judge_construction(ex: "Exercise", facts: Callable, numbers: list[float]) -> Verdict:
    try:
        inspect.signature(facts).bind(*numbers)
    except TypeError:
        return _no(ex, _so_many(len(ex.right), numbers))
    recognised = next((w for w in ex.wrong if w.rule and w.rule(*numbers)), None)
    said = facts(*numbers)
    if recognised:
        return _no(ex, said, recognised=recognised)
    return Verdict("passed", f"Passed: {ex.id}. {said[0].upper()}{said[1:]}")


def _list(x: Any, like: list | None = None) -> list:
    return list(x) if isinstance(x, (list, tuple)) else [x] * len(like or [0])


def _match(numbers: list[float], pattern: list, within: Any = 0) -> bool:
    return len(numbers) == len(pattern) and all(
        b is ... or b - max(below, 1e-7 * abs(b)) <= a <= b + max(above, 1e-7 * abs(b))
        for a, b, w in zip(numbers, pattern, _list(within, numbers), strict=True)
        for below, above in [_ends(w)]
    )


def _ends(within: Any) -> tuple[float, float]:
    """How far below and above the right number still counts."""
    return within if isinstance(within, tuple) else (within, within)


def _numbers(answer: Any) -> list[float] | None:
    """The answer as a flat list of finite floats, at least one, or None."""
    x = as_tensor(answer)
    if x is None or x.ndim > 1 or not 0 < x.numel() <= 10_000 or x.dtype == torch.bool:
        return None
    x = x.double().reshape(-1)
    return x.tolist() if torch.isfinite(x).all() else None
