"""What is in a file of quantized tensors, in words and numbers: `qlesson inspect FILE`."""

import difflib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from qlesson import checks
from qlesson.blocks import Blocks, code_ends
from qlesson.files import formats
from qlesson.files.formats import NotRead, Opened, Stored
from qlesson.files.formats.kinds import BookBlocks, SuperBlocks
from qlesson.files.formats.steps import PerIndex
from qlesson.granularity import Granularity, PerAxis, PerGroup, PerTensor
from qlesson.qtensor import QTensor
from qlesson.report import by, columns, no_bar, printable

CHUNK = 2**20  # codes that are counted at a time
BINS = 32  # lines of a histogram of codes, at most
BARS = BINS // 2  # of one of values
WIDEST = 50  # letters of its longest bar
UNCOUNTED = (torch.complex64, torch.float4_e2m1fn_x2)  # no numbers on a line; two in an element


class Line(NamedTuple):
    """One tensor of the table; the shares are those of `shares`, or None for plain tensors."""

    name: str
    stored: Stored
    type: str
    at_ends: float | None = None
    unused: float | None = None


def report(path: str | Path) -> str:
    """A table of all tensors of a file that `formats.open` opens, and totals.

    A line has the name, the shape, the bits per value as the file stores them (its scales and all
    else counted), the share of values whose code is the first or the last, the share of codes that
    no value has, and the type in words.
    """
    with formats.open(path) as file:
        names = tqdm(file, "inspect", disable=no_bar(), leave=False)
        return _table(file, [_line(file, name) for name in names])


def histogram(path: str | Path, name: str) -> str:
    """How often each code of one tensor occurs, in lines of text; of plain numbers, each value."""
    with formats.open(path) as file:
        if name not in file:
            near = printable(", ".join(difflib.get_close_matches(str(name), list(file), 3, 0)))
            remedy = f"name one, such as {near}" if near else "it has none at all"
            raise ValueError(f"{path} has no tensor {name!r}: {remedy}.")
        x = file[name]
        head = printable(f"{name}: {by(x.shape)}, {_words(x)}")
        if isinstance(x, Tensor):
            if x.dtype in UNCOUNTED:
                raise ValueError(
                    f"{printable(name)} is {checks.dtype_name(x.dtype)}, which has no histogram."
                )
            return "\n".join([head, *_bars(*_of_values(x))])
        bars = _bars(*_of_codes(counted(x), _ends(x)[0]))
        return "\n".join([head, *bars, f"scales: {_span(x.scale)}"])


def counted(x: QTensor | Blocks) -> Tensor:
    """How many values have each code that there is, int64, the smallest code first.

    A QTensor has its scheme's, Blocks have all 2^bits.
    """
    checks.of_type("x", x, (QTensor, Blocks), "use ql.quantize(r)")
    low, high = _ends(x)
    counts = torch.zeros(high - low + 1, dtype=torch.int64, device="cpu")
    for part in x.q.flatten().split(CHUNK):
        counts += torch.bincount(part.long() - low, minlength=len(counts))
    return counts


def shares(x: QTensor | Blocks) -> tuple[float, float]:
    """(of values that have the first or the last code, of codes that no value has), both 0 to 1.

    What was clipped is among the first, with the ends of each block, which are there anyway. Of a
    book the ends are the codes of its smallest and of its largest finite value.
    """
    counts = counted(x)
    at_ends = counts[_of_ends(x.book) if isinstance(x, BookBlocks) else [0, -1]].sum()
    return int(at_ends) / int(counts.sum()), int((counts == 0).sum()) / len(counts)


def _ends(x: QTensor | Blocks) -> tuple[int, int]:
    """The smallest and the largest code that a value may have."""
    if isinstance(x, QTensor):
        return x.scheme.quant_min, x.scheme.quant_max
    return code_ends(x.bits, x.q.dtype.is_signed)


def _of_ends(book: Tensor) -> Tensor:
    """Which codes of a book are at its ends."""
    finite = book[book.isfinite()]
    return torch.isin(book, torch.stack(finite.aminmax()) if len(finite) else finite)


def _line(file: Opened, name: str) -> Line:
    stored = file.stored[name]
    try:
        x = file[name]
    except NotRead:
        return Line(name, stored, "not read")
    return Line(name, stored, _words(x), *(() if isinstance(x, Tensor) else shares(x)))


def _words(x: QTensor | Blocks | Tensor) -> str:
    """The type in the course's words: bits, mapping, granularity, and what scales are stored in."""
    if isinstance(x, Tensor):
        return checks.dtype_name(x.dtype)
    scale = f"scale {checks.dtype_name(x.scale.dtype)}"
    if isinstance(x, QTensor):
        middle = 0 if x.scheme.signed else 2 ** (x.scheme.bits - 1)
        mapping = "symmetric" if (x.zero_point == middle).all() else "asymmetric"
        return f"{x.scheme.bits} bits, {mapping}, {_who(x.scheme.granularity)}, {scale}"
    if isinstance(x, BookBlocks):
        mapping = f"book of {len(x.book)}"
    else:
        mapping = "symmetric" if x.minimum is None else "float minimum"
    if isinstance(x, SuperBlocks):
        small = x.shape[-1] // x.scale_codes.shape[-1]
        return (
            f"{x.bits} bits, {mapping}, groups of {small} in {x.group_size}, scales of "
            f"{x.code_bits} bits"
        )
    return f"{x.bits} bits, {mapping}, groups of {x.group_size}, {scale}"


def _who(granularity: Granularity) -> str:
    """Who shares a scale."""
    if isinstance(granularity, PerIndex):
        return f"{max(granularity.index) + 1} listed groups"
    if isinstance(granularity, PerGroup):
        return f"groups of {granularity.group_size}"
    return {PerTensor(): "per tensor", PerAxis(0): "per row"}.get(granularity, str(granularity))


def _table(file: Opened, lines: list[Line]) -> str:
    head = ["tensor", "shape", "bits per value", "at ends %", "unused %", "type"]
    cells = [head, *(_cells(line) for line in lines)]
    kinds = dict.fromkeys(line.stored.kind for line in lines)
    totals = [["", "tensors", "values", "bytes", "bits per value"]]
    for kind in kinds:
        totals.append(_total(kind, (x.stored for x in lines if x.stored.kind == kind)))
    totals.append(_total("in all", (x.stored for x in lines)))
    told = [f"{file.format}: {file.path}", ""]
    widths = (max(len(by(x.stored.shape)) for x in lines) if lines else 5, 14, 9, 8, 0)
    lines_of_text = [*told, *columns(cells, *widths), "", *columns(totals, 8, 15, 15, 14)]
    return "\n".join(map(printable, lines_of_text))


def _cells(line: Line) -> list[str]:
    shares = ["-" if s is None else f"{100 * s:.2f}" for s in (line.at_ends, line.unused)]
    said = line.stored.kind in (line.type, line.name)
    kind = "" if said else f"  ({line.stored.kind})"
    return [line.name, by(line.stored.shape), _rate([line.stored]), *shares, line.type + kind]


def _total(kind: str, stored: Iterable[Stored]) -> list[str]:
    several = list(stored)
    values, nbytes = sum(map(_count, several)), sum(x.nbytes for x in several)
    known = f"{nbytes:,}" if nbytes or not values else "-"
    return [kind, f"{len(several):,}", f"{values:,}", known, _rate(several)]


def _rate(several: list[Stored]) -> str:
    """Bits per value, of those whose size is known."""
    values = sum(_count(x) for x in several if x.nbytes)
    return f"{8 * sum(x.nbytes for x in several) / values:.3f}" if values else "-"


def _count(stored: Stored) -> int:
    return math.prod(stored.shape)


# --- the histogram ---


def _of_codes(counts: Tensor, low: int) -> tuple[list[str], list[int]]:
    """Labels and counts, several codes in a line where there are many."""
    each = -(-len(counts) // BINS)
    sums = [int(part.sum()) for part in counts.split(each)]
    end = low + len(counts)
    parts = [(a, min(a + each, end) - 1) for a in range(low, end, each)]
    names = [str(a) if a == b else f"{a} to {b}" for a, b in parts]
    return names, sums


def _of_values(x: Tensor) -> tuple[list[str], list[int]]:
    """Labels and counts of 16 bins of equal width, from the smallest to the largest number, and
    of what is infinite or NaN, where something is."""
    x = x.double().flatten()
    none = {"-inf": x == -torch.inf, "inf": x == torch.inf, "NaN": x.isnan()}
    others = {name: int(mask.sum()) for name, mask in none.items() if mask.any()}
    names, counts = _of_numbers(x[x.isfinite()])
    return [*names, *others], [*counts, *others.values()]


def _of_numbers(x: Tensor) -> tuple[list[str], list[int]]:
    if x.numel() == 0:
        return [], []
    low, high = x.min().item(), x.max().item()
    width = high / BARS - low / BARS  # high - low may be infinite
    if width == 0:
        return [f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"], [x.numel()]
    place = ((x / BARS - low / BARS) / width * BARS).long().clamp(max=BARS - 1)
    counts = torch.bincount(place, minlength=BARS).tolist()
    return [f"{low + i * width:.4g} on" for i in range(BARS)], counts


def _bars(names: list[str], counts: list[int]) -> Iterator[str]:
    most, total = max(counts, default=0), sum(counts)
    width = max(map(len, names), default=0)
    for name, count in zip(names, counts, strict=True):
        bar = "#" * round(WIDEST * count / most)
        yield f"{name:>{width}}  {100 * count / total:6.2f} %  {bar}".rstrip()


def _span(scale: Tensor) -> str:
    s = scale.float()
    return f"{s.numel():,}, from {s.min().item():.4g} to {s.max().item():.4g}"
