"""The figures of notebook 15 draw what they say: zeros, prices, and a block."""

import pytest
import torch
from drawn import close, line, steps, words

from qlesson.files.formats.ggml import TYPES
from qlesson.teach import figures

OFF = {"one": torch.linspace(-0.48, 0.5, 99), "other": [0.01, 0.0, -0.02]}
TYPES_BY_PART = {
    "Q8_0": (32, {"codes": 256, "scale": 16}),
    "Q4_1": (32, {"codes": 128, "scale": 16, "minimum": 16}),
    "Q4_K": (256, {"codes": 1024, "scale": 16, "minimum": 64, "scale codes": 48}),
}
R = [0.0, 1.5, -2.25, 0.5]
CASES = {
    "where_zero_comes_back": [OFF],
    "price_by_part": [TYPES_BY_PART],
    "there_and_back_in_a_block": [R, [0.25, 1.25, -2.0, 0.75]],
}


def draw(name):
    return getattr(figures, name)(*CASES[name])


def test_where_zero_comes_back_counts_every_block():
    fig = draw("where_zero_comes_back")
    for ax, (title, off) in zip(fig.axes, OFF.items(), strict=True):
        off = torch.as_tensor(off)
        assert ax.get_title("left") == title
        counts, edges, _ = steps(ax, f"to {off.abs().max():.6g}")
        assert counts.sum() == len(off)
        expected = ((off >= edges[13]) & (off < edges[14])).sum().item()
        assert counts[13] == expected and edges[13] == pytest.approx(-edges[14])
        assert {-0.5, 0.5} <= {*edges.round(12)}
    assert "dashed: 0.0" in fig.get_supxlabel()
    assert [ax.get_ylabel() for ax in fig.axes] == ["blocks", "blocks"]  # their scales differ


def test_price_by_part_stacks_bits_per_value():
    (ax,) = draw("price_by_part").axes
    bars = {c.get_label(): c for c in ax.containers}
    assert list(bars) == ["codes", "scale", "minimum", "scale codes"]
    for i, (n, bits) in enumerate(TYPES_BY_PART.values()):
        end = 0.0
        for part, container in bars.items():
            bar = container[i]
            close([bar.get_x(), bar.get_width()], [end, bits.get(part, 0) / n])
            end += bar.get_width()
    prices = {x.name: 8 * x.nbytes / x.values for x in TYPES.values()}
    assert words(ax) == [f"{prices[name]:g}" for name in TYPES_BY_PART]
    assert len({container[0].get_hatch() for container in bars.values()}) == len(bars)


def test_a_price_is_written_in_four_digits():
    (ax,) = figures.price_by_part({"GPTQ": (128, {"codes": 512, "scale": 16, "zero": 4})}).axes
    assert words(ax) == ["4.156"]


def test_a_block_there_and_back():
    top, below = draw("there_and_back_in_a_block").axes
    r, r_hat = CASES["there_and_back_in_a_block"]
    close(line(top, "r"), [range(4), r])
    close(line(top, "r_hat"), [range(4), r_hat])
    errors = [b - a for a, b in zip(r, r_hat, strict=True)]
    close([bar.get_height() for bar in below.patches], errors)


def test_a_block_without_error_is_drawn_too():
    _, below = figures.there_and_back_in_a_block(R, R).axes
    assert below.get_ylim() == (-1, 1)
