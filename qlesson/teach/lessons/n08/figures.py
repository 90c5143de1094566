"""The pictures of notebook 08: bits in bytes, and values that are not evenly spaced."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from qlesson.files.packing import pack, packed_size, unpack
from qlesson.teach.figures import drawing as draw
from qlesson.teach.show import ASIDE

BYTES_IN_A_ROW = 4
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def bit_owners(count: int, bits: int, order: str = "low_first") -> np.ndarray:
    """Which code each bit belongs to   (notebook 08, Play).

    Rows are bytes, columns bits from the highest to the lowest. Found by packing: where code i has
    all its bits set and the others have none. -1 is unused.
    """
    owners = np.full((packed_size(count, bits), 8), -1)
    for i in range(count):
        codes = torch.zeros(count, dtype=torch.uint8)
        codes[i] = 2**bits - 1
        mine = np.unpackbits(pack(codes, bits, order).numpy()[:, None], axis=1).astype(bool)
        owners[mine] = i
    return owners


def bits_in_bytes(
    codes: Tensor | Sequence[int],
    bits: int,
    orders: Sequence[str] = ("low_first",),
    rows: int | None = None,
    read: str | None = None,
) -> Figure:
    """Every bit of the packed bytes, and which code it belongs to   (notebook 08).

    codes   at most 8 integers that fit into `bits` bits, signed if one of them is negative
    orders  names as `qlesson.files.packing.pack` takes them, one below the other
    rows    how many rows of four bytes to leave room for; None is as many as there are
    read    the order in which to read the bytes of the last order; what comes back stands below
    """
    codes = torch.as_tensor(codes)
    codes = codes.to(torch.int8 if (codes < 0).any() else torch.uint8)
    drawn = {o: pack(codes, bits, o).numpy() for o in orders}
    needed = sum(-(-len(data) // BYTES_IN_A_ROW) for data in drawn.values())
    rows = needed if rows is None else rows
    bottom = -0.4 - 3.0 * rows
    fig, ax = draw.figure(0.7 + 0.85 * rows + (0.6 if read else 0))
    width = 9 * BYTES_IN_A_ROW - 1
    _code_boxes(ax, 0, [f"{a} = {draw.short(q)}" for a, q in _named(codes)], width)
    top = -1.6
    for order, data in drawn.items():
        owners = bit_owners(len(codes), bits, order)
        for k, (value, owner) in enumerate(zip(data, owners, strict=True)):
            row, place = divmod(k, BYTES_IN_A_ROW)
            _one_byte(ax, 9 * place, top - 3.0 * row, k, value, owner)
        if len(drawn) > 1:
            ax.text(-0.8, top - 0.5, order, ha="right", va="center")
        top -= 3.0 * -(-len(data) // BYTES_IN_A_ROW)
    ax.set_xlim(-6.5 if len(drawn) > 1 else -0.3, width + 0.3)
    if read:
        packed = pack(codes, bits, orders[-1])
        back = unpack(packed, bits, codes.shape, signed=codes.dtype.is_signed, order=read)
        right = (back == codes).tolist()
        marks = [("" if ok else "≠ ") + draw.short(q) for ok, q in zip(right, back, strict=True)]
        bottom -= 2.1
        ax.text(0, bottom + 1.4, f"read {read}", ha="left", va="bottom", fontsize=draw.SMALL)
        _code_boxes(ax, bottom + 0.2, marks, width, right)
    ax.set_ylim(bottom, 1.2)
    ax.set_axis_off()
    return fig


def _named(codes: Tensor) -> Iterator[tuple[str, int]]:
    return zip(LETTERS, codes.tolist(), strict=False)


def _code_boxes(
    ax: Axes, y: float, words: Sequence[str], width: float, tinted: Sequence[bool] | None = None
) -> None:
    """A box for each code; those that are not `tinted` stay white."""
    step = width / len(words)
    for i, word in enumerate(words):
        color = draw.TINTS[i] if tinted is None or tinted[i] else "white"
        _box(ax, i * step, y, step - 0.4, color)
        ax.text(i * step + step / 2 - 0.2, y + 0.5, word, ha="center", va="center")


def _one_byte(ax: Axes, x: float, y: float, k: int, value: int, owner: np.ndarray) -> None:
    """Eight boxes with their digits, the byte's value above, the codes' letters below."""
    ax.text(x + 4, y + 0.25, f"byte {k} = {value}", ha="center", va="bottom", fontsize=draw.SMALL)
    for i in range(8):
        _box(ax, x + i, y - 1, 1, draw.TINTS[owner[i]] if owner[i] >= 0 else "white")
        digit = value >> (7 - i) & 1
        ax.text(x + i + 0.5, y - 0.5, str(digit), ha="center", va="center", fontsize=draw.SMALL)
    starts = [0, *(np.flatnonzero(np.diff(owner)) + 1), 8]
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        letter = LETTERS[owner[start]] if owner[start] >= 0 else "unused"
        ax.text(x + (start + end) / 2, y - 1.15, letter, ha="center", va="top", fontsize=draw.SMALL)


def _box(ax: Axes, x: float, y: float, width: float, color: str) -> None:
    ax.add_patch(Rectangle((x, y), width, 1, facecolor=color, edgecolor=draw.INK, lw=0.8))


def codebook_lines(books: Mapping[str, draw.Values], r: draw.Values | None = None) -> Figure:
    """The values that each format can give back, all with the largest at 1   (notebook 08).

    books  {label: values}, a row for each
    r      real values to show where they lie, divided by the largest of their block
    """
    rows = len(books)
    height = 0.55 + 0.5 * rows + (0.9 if r is not None else 0)
    fig, ax = draw.figure(height)
    for y, (label, book) in enumerate(books.items()):
        values = draw.array(book)
        values = values / np.abs(values).max()
        ax.hlines(-y, -1, 1, color=draw.GRID, lw=0.8, gid=ASIDE)
        ax.plot(values, np.full(len(values), -float(y)), "d", color=draw.CODE, ms=6, label=label)
    if r is not None:
        counts, edges = np.histogram(draw.array(r).ravel(), bins=np.linspace(-1, 1, 81))
        heights = 1.6 * counts / counts.max()
        ax.stairs(
            heights + 0.45, edges, baseline=0.45, fill=True, color=draw.INSIDE, label="weights"
        )
        ax.text(-1, 1.2, "weights", va="center", color=draw.REAL)
    ax.set_xlim(-1.04, 1.04)
    ax.set_ylim(0.5 - rows, 2.15 if r is not None else 0.5)
    draw.own_ticks(ax.yaxis, [-y for y in range(rows)], list(books))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("value / largest of its block")
    return fig
