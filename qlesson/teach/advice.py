"""What the form of a wrong result says about its cause, whatever the exercise."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from qlesson.qtensor import QTensor
from qlesson.teach.compare import as_tensor, has, same, shape_of

_PLACES = (
    "max and min with dim=... give the values and their places: amax, amin give the\n"
    "values alone, argmax, argmin the places."
)


def about_error(error: str) -> Iterator[str]:
    """A way out, where an error of torch does not name it."""
    if "__round__" in error:
        yield "round is Python's own, for one number. torch.round takes a tensor."
    if "return_types" in error:
        yield _PLACES
    if "same device" in error or "expected device" in error:
        yield "The inputs of a check are on the CPU. Make your own tensors there."


def about_form(value: Any, expected: Any, exact: bool) -> Iterator[str]:
    """What is wrong with the kind, the number, the order or the shape of what came back."""
    if value is None:
        yield "The function returns None: no line with return was reached."
    elif isinstance(value, (set, frozenset)):
        yield "A set has no order. Return a list or a tensor."
    elif isinstance(value, Generator):
        yield "That is a generator, which has no values yet. Put it into list(...)."
    elif isinstance(value, QTensor):
        yield "That is a QTensor: .q has its codes, and .dequantize() gives the values."
    elif "return_types" in str(type(value)):
        yield _PLACES
    elif isinstance(expected, tuple):
        if not has(len(expected), value):
            yield f"It asks for {len(expected)} results, separated by a comma."
    elif exact and same(value, expected):
        yield "It is nearly right, but must be equal, to the last bit of float32."
    shapes = shape_of(value), shape_of(expected)
    if None not in shapes and shapes[0] != shapes[1]:
        yield f"The shape is {shapes[0]} instead of {shapes[1]}."


def about_all(results: Sequence[tuple[Any, Any]]) -> Iterator[str]:
    """What holds for every wrong result, in pairs (got, expected), and not for one by luck."""
    if all(isinstance(b, tuple) and has(len(b), a) for a, b in results):
        if all(same(tuple(a)[::-1], b) for a, b in results):
            yield "These are the right results in the other order."
    if rounded(results):
        yield "What is rounded needs more digits."


def rounded(results: Sequence[tuple[Any, Any]]) -> bool:
    """Whether each result, of pairs (got, expected), is the right one in fewer decimals."""
    flat = [(_numbers(got), _numbers(expected)) for got, expected in results]
    if any(len(a) != len(b) or not len(a) for a, b in flat):
        return False
    return any(
        all(torch.equal(a, b.round(decimals=digits)) for a, b in flat)
        and any(a.any() and not torch.equal(a, b) for a, b in flat)
        for digits in range(1, 6)
    )


def _numbers(x: Any) -> torch.Tensor:
    """The numbers of a result as they print, in float64; none where it holds none or very many."""
    parts = [as_tensor(part) for part in (x if isinstance(x, tuple) else (x,))]
    if not parts or any(part is None or part.numel() > 10_000 for part in parts):
        return torch.zeros(0)
    return torch.cat([p.double().flatten().round(decimals=7) for p in parts if p is not None])
