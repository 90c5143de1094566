"""What became of each of many tensors: a row for each, the table of them, and errors that say
which one they are about."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Row(NamedTuple):
    """What became of one tensor."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int  # of all that replaces it: codes, scales, zero points, sums
    sqnr: float | None  # of what comes back, in dB; None where nothing was rounded
    bits: int | None = None
    note: str = ""


class Stayed(NamedTuple):
    """A parameter of two axes or more that stayed float; `reason` says why."""

    name: str
    shape: tuple[int, ...]
    nbytes: int
    reason: str
    chosen: bool  # by `skip`, or by schemes that fit other layers


class Report(list[Row]):
    """A Row for each layer, in the model's order; prints as a table with totals in bytes.

    The totals count every parameter and buffer once, those left in float too.

    stayed  a `Stayed` for each float parameter of two axes or more that is left. Those that nobody
            chose to leave are printed below the table.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        bytes_before: int,
        bytes_after: int,
        stayed: Iterable[Stayed] = (),
    ) -> None:
        super().__init__(rows)
        self.bytes_before, self.bytes_after = bytes_before, bytes_after
        self.stayed = list(stayed)

    def __str__(self) -> str:
        before, after = sum_of_bytes(self)
        rest = self.bytes_before - before, self.bytes_after - after
        lines = [["", "shape", "bits", "before", "after", "SQNR dB"]]
        for row in self:
            sizes = f"{row.bytes_before:,}", f"{row.bytes_after:,}"
            numbers = str(row.bits), *sizes, f"{row.sqnr:.2f}"
            lines.append([row.name, by(row.shape), *numbers, row.note])
        said = "the rest, unchanged" if rest[0] == rest[1] else "the rest"
        lines.append([said, "", "", *(f"{n:,}" for n in rest)])
        lines.append(["bytes in all", "", "", f"{self.bytes_before:,}", f"{self.bytes_after:,}"])
        stayed = [
            f"stays float: {name} ({by(shape)}, {nbytes:,} bytes): {reason}"
            for name, shape, nbytes, reason, chosen in self.stayed
            if not chosen
        ]
        return "\n".join([*columns(lines, 14, 4, 12, 12, 7, 0), *stayed])


def sum_of_bytes(rows: Iterable[Row]) -> tuple[int, int]:
    """Before and after."""
    return sum(row.bytes_before for row in rows), sum(row.bytes_after for row in rows)


def by(shape: Sequence[int]) -> str:
    """(4, 3) -> "4x3", () -> "scalar"."""
    return "x".join(map(str, shape)) or "scalar"


def printable(text: str) -> str:
    """Text without what a terminal would obey: a name in somebody's file may hold any letter."""
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def no_bar() -> bool | None:
    """tqdm's `disable`: None asks stderr for a terminal, and a program may have no stderr."""
    return None if sys.stderr else True


def columns(lines: Sequence[Sequence[str]], *widths: int) -> list[str]:
    """Lines of cells, to print: the first flush left, as wide as needed, the others flush right."""
    first = max(len(line[0]) for line in lines)
    made = []
    for name, *cells in lines:
        right = [f"{x:>{width}}" for x, width in zip(cells, widths, strict=False)]
        made.append("  ".join([f"{name:{first}}", *right]).rstrip())
    return made


@contextmanager
def naming(what: str, remedy: str = "") -> Iterator[None]:
    """An error inside gets what it is about in front, and a remedy behind."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = f"{what}: {error} {remedy}".rstrip()
        try:
            named = type(error)(text)
        except TypeError:  # one that is made of more than a sentence, as UnicodeDecodeError is
            named = ValueError(text) if isinstance(error, ValueError) else TypeError(text)
        raise named from error
