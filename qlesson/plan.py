"""Which of many tensors are quantized, and how.

A plan is {name: Scheme}. `nn.quantize_model` makes one for layers, `files.checkpoint` for tensors
in a file, `models.tinygpt` for matrices.
"""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

from qlesson import checks

Patterns = str | Iterable[str]
S = TypeVar("S")  # a Scheme, which stands above


def make_plan(
    names: Collection[str],
    scheme: S | dict[str, S],
    skip: Patterns = (),
    modules: dict[str, list[str]] | None = None,
) -> dict[str, S]:
    """{name: Scheme} of those to quantize, in the order of `names`.

    names    what could be quantized
    scheme   a Scheme for all, or {pattern: Scheme}: the own name decides, else the first pattern
             that fits, and what none fits is left out
    skip     a pattern or several, as in fnmatch, to leave out what they fit; one that is a name
             means that name alone
    modules  {name: every name it has} of all modules of a model, where `names` are among them: a
             pattern then fits by any of these names, and what fits a module fits all inside it

    Raises ValueError for a pattern that fits nothing.
    """
    every = {name: [name] for name in names} if modules is None else modules
    known = {name for same in every.values() for name in same}
    skip = checks.patterns("skip", skip)
    wanted: dict[str, S] = scheme if isinstance(scheme, dict) else {}
    checks.patterns("scheme", list(wanted))
    for its_scheme in wanted.values() if isinstance(scheme, dict) else [scheme]:
        checks.scheme("scheme", its_scheme)

    def fits(pattern: str, name: str) -> bool:
        around = every[name]
        if modules is not None:
            around = [module for same in around for module in _modules_around(same)]
        return any(_means(pattern, n, known) for n in around)

    for pattern in (*skip, *wanted):
        if not any(fits(pattern, name) for name in names) and (names or pattern != "*"):
            raise ValueError(f"{pattern!r} fits none of what could be quantized: {_some(names)}.")
    left = [name for name in names if not any(fits(pattern, name) for pattern in skip)]
    if not isinstance(scheme, dict):
        return dict.fromkeys(left, scheme)
    plan = {}
    for name in left:
        own = [same for same in every[name] if same in wanted]
        if fitting := own or [pattern for pattern in wanted if fits(pattern, name)]:
            plan[name] = wanted[fitting[0]]
    return plan


def _modules_around(name: str) -> list[str]:
    """What "a.b.c" lies in: "a", "a.b", and itself."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _some(names: Collection[str], most: int = 20) -> str:
    if not names:
        return "there is nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, list(names)[:most])) + more


def _means(pattern: str, name: str, names: Iterable[str]) -> bool:
    """Whether a pattern, as in fnmatch, means this name. One that is a name means that one alone:
    "h[0]" is a layer here, and as a pattern would be "h0"."""
    return name == pattern if pattern in names else fnmatchcase(name, pattern)
