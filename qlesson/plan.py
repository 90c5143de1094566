"""Which of many tensors are quantized, and how.

A plan is {name: Scheme}. `nn.quantize_model` makes one for layers, `files.checkpoint` for tensors
in a file, `models.tinygpt` for matrices.
"""

from collections.abc import Collection, Iterable, Mapping
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
    of: str = "what could be quantized",
) -> dict[str, S]:
    """{name: Scheme} of those to quantize, in the order of `names`.

    names    what could be quantized
    scheme   a Scheme for all, or {pattern: Scheme}: the own name decides, else the first pattern
             that fits, and what none fits is left out
    skip     a pattern or several, as in fnmatch, to leave out what they fit; one that is a name
             means that name alone
    modules  {name: every name it has} of all modules of a model, where `names` are among them: a
             pattern then fits by any of these names, and what fits a module fits all inside it
    of       what `names` are, in a sentence

    Raises ValueError for a pattern that fits nothing, and for one in `scheme` that decides nothing
    after a wider one, and would before it.
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
            raise ValueError(f"{pattern!r} fits none of {of}: {_some(names)}.")
    left = [name for name in names if not any(fits(pattern, name) for pattern in skip)]
    if not isinstance(scheme, dict):
        return dict.fromkeys(left, scheme)
    decides = {}
    for name in left:
        own = [same for same in every[name] if same in wanted]
        if fitting := own or [pattern for pattern in wanted if fits(pattern, name)]:
            decides[name] = fitting[0]
    for pattern in wanted:
        if pattern not in decides.values():
            its_names = {name for name in decides if fits(pattern, name)}
            _refuse_late(pattern, its_names, decides, wanted)
    return {name: wanted[pattern] for name, pattern in decides.items()}


def refuse_two_schemes(plan: Mapping[str, S | None], weights: Mapping[str, int]) -> None:
    """Raises ValueError where layers that share a weight are to have it in two schemes.

    weights  {layer's name: what those of one weight have in common}
    """
    first: dict[int, str] = {}
    for name, weight in weights.items():
        other = first.setdefault(weight, name)
        if plan.get(name) != plan.get(other):
            raise ValueError(
                f"{other!r} and {name!r} share one weight, and it cannot be in two schemes: give "
                "both the same."
            )


def _refuse_late(
    pattern: str, its_names: set[str], decides: dict[str, str], wanted: dict[str, S]
) -> None:
    """One that decides nothing after a wider one, and would before it, with something left for
    both: a "*" for the rest may well find nothing left.

    its_names  that it fits
    decides    {name: pattern}
    """
    within = {decides[name] for name in its_names}
    beyond = {decides[name] for name in decides.keys() - its_names}
    for wider in wanted:
        if wider in within & beyond and wanted[wider] != wanted[pattern]:
            raise ValueError(
                f"{pattern!r} decides nothing where it stands, since the first pattern that fits "
                f"decides: put it before {wider!r}."
            )


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
