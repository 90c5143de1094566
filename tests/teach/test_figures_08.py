"""The pictures of notebook 08: what they draw is what `pack` and the codebooks give."""

import re

import numpy as np
import pytest
import torch
from looks import assert_looks, contrast
from matplotlib.patches import Rectangle

from qlesson.files import codebooks
from qlesson.files.packing import ORDERS, pack, unpack
from qlesson.teach import figures
from qlesson.teach.figures import drawing
from qlesson.teach.show import facts

CODES = [-7, 5, -3, 1, 7, -6, 3, -1]
E2M1 = codebooks.e2m1()
BOOKS = {
    "int4": torch.arange(-7, 8.0),
    "E2M1": torch.cat([-E2M1.flip(0), E2M1]),
    "NF4": codebooks.nf4(),
}
BLOCKS = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) / 4
DRAWN = {
    "orders": lambda: figures.bits_in_bytes(CODES, 4, ORDERS),
    "three bits": lambda: figures.bits_in_bytes([-4, 3, -2, 1, 2, -3, 0, -1], 3),
    "eight bits": lambda: figures.bits_in_bytes(CODES, 8, rows=2),
    "one row of two": lambda: figures.bits_in_bytes([1, 2, 3], 3, rows=2),
    "read": lambda: figures.bits_in_bytes(CODES, 7, ("high_first",), rows=2, read="low_first"),
    "books": lambda: figures.codebook_lines(BOOKS, BLOCKS),
    "books alone": lambda: figures.codebook_lines(BOOKS),
}


def words(fig):
    return [t.get_text() for t in fig.axes[0].texts]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("order", ["low_first", "high_first"])
def test_every_bit_has_the_owner_that_packing_gives_it(bits, order):
    owners = figures.bit_owners(5, bits, order)
    assert owners.shape == (-(-5 * bits // 8), 8)
    for i in range(5):
        assert (owners == i).sum() == bits
    one = torch.tensor([0, 0, 1, 0, 0], dtype=torch.uint8)  # its lowest bit
    (at,) = np.argwhere(np.unpackbits(pack(one, bits, order).numpy()[:, None], axis=1))
    assert owners[tuple(at)] == 2
    assert (owners == -1).sum() == -5 * bits % 8


def test_the_owners_by_hand():
    assert figures.bit_owners(2, 4).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert figures.bit_owners(2, 4, "high_first").tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert figures.bit_owners(3, 3).tolist() == [[2, 2, 1, 1, 1, 0, 0, 0], [-1] * 7 + [2]]
    assert figures.bit_owners(4, 4, "halves")[0].tolist() == [2, 2, 2, 2, 0, 0, 0, 0]


def test_bits_in_bytes_writes_the_bytes_that_pack_gives():
    fig = DRAWN["orders"]()
    said = words(fig)
    assert said[:8] == "a = −7|b = 5|c = −3|d = 1|e = 7|f = −6|g = 3|h = −1".split("|")
    digits = [int(t) for t in said if t in ("0", "1")]
    wanted = [pack(torch.tensor(CODES, dtype=torch.int8), 4, order) for order in ORDERS]
    assert np.packbits(digits).tolist() == torch.cat(wanted).tolist()
    values = [int(t.split("= ")[1]) for t in said if t.startswith("byte")]
    assert values == torch.cat(wanted).tolist()
    assert [t for t in said if t in ORDERS] == list(ORDERS)
    letters = [t for t in said if re.fullmatch("[a-h]", t)]
    assert letters[:8] == list("badcfehg") and letters[8:16] == list("abcdefgh")


def test_bits_in_bytes_colours_a_bit_as_its_code():
    fig = DRAWN["three bits"]()
    boxes = [p.get_facecolor() for p in fig.axes[0].patches if isinstance(p, Rectangle)]
    codes, bits = boxes[:8], boxes[8:]
    assert len(set(codes)) == 8 and len(bits) == 24
    owners = figures.bit_owners(8, 3).ravel()
    assert bits == [codes[i] for i in owners]
    assert "unused" in words(DRAWN["one row of two"]())


def test_four_bytes_stand_in_a_row():
    texts = [t for t in DRAWN["read"]().axes[0].texts if t.get_text().startswith("byte")]
    rows = [t.get_position()[1] for t in texts]
    assert len(rows) == 7 and len(set(rows[:4])) == len(set(rows[4:])) == 1 and rows[0] > rows[4]


def test_what_is_read_stands_below_and_only_what_is_right_is_tinted():
    codes = [1, 1, 2, 3, -3, -3, 0, 7]
    for read in ("low_first", "high_first"):
        fig = figures.bits_in_bytes(codes, 4, ("low_first",), read=read)
        data = pack(torch.tensor(codes, dtype=torch.int8), 4)
        back = unpack(data, 4, (8,), order=read).tolist()
        right = [a == b for a, b in zip(codes, back, strict=True)]
        marks = ["" if ok else "≠ " for ok in right]
        wanted = [m + str(q).replace("-", "−") for m, q in zip(marks, back, strict=True)]
        assert words(fig)[-9:] == [f"read {read}", *wanted]
        boxes = [p.get_facecolor()[:3] for p in fig.axes[0].patches if isinstance(p, Rectangle)]
        assert [box != (1, 1, 1) for box in boxes[-8:]] == right
        assert sum(right) == (8 if read == "low_first" else 4)


def test_codebook_lines_draws_each_book_with_its_largest_at_one():
    ax = DRAWN["books"]().axes[0]
    for y, (label, book) in enumerate(BOOKS.items()):
        (line,) = [x for x in ax.lines if x.get_label() == label]
        np.testing.assert_allclose(line.get_xdata(), book.double() / book.abs().max(), rtol=1e-6)
        assert set(line.get_ydata()) == {-y}
    (steps,) = [p for p in ax.patches if p.get_label() == "weights"]
    heights, edges, base = steps.get_data()
    counts, _ = np.histogram(BLOCKS.numpy().ravel(), bins=edges)
    np.testing.assert_allclose((heights - base) / 1.6, counts / counts.max())


def test_a_changed_datum_changes_the_facts():
    assert facts(figures.bits_in_bytes([*CODES[:7], 0], 4)) != facts(
        figures.bits_in_bytes(CODES, 4)
    )
    more = BOOKS | {"NF4": BOOKS["NF4"].clone()}
    more["NF4"][3] *= 1.0001
    assert facts(figures.codebook_lines(more)) != facts(figures.codebook_lines(BOOKS))


def test_drawing_into_a_figure_leaves_nothing_of_the_one_before():
    fig = figures.bits_in_bytes(CODES, 7, rows=2)
    with drawing.drawing_into(fig):
        assert figures.bits_in_bytes(CODES, 4, rows=2) is fig
    assert facts(fig) == facts(figures.bits_in_bytes(CODES, 4, rows=2))


@pytest.mark.parametrize("name", DRAWN)
def test_looks(name):
    assert_looks(DRAWN[name])
    patches = DRAWN[name]().axes[0].patches
    fills = [p.get_facecolor()[:3] for p in patches if isinstance(p, Rectangle)]
    assert all(contrast("black", fill) >= 4.5 for fill in fills)
