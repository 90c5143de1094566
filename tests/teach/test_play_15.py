"""What the live figure of notebook 15 says is what the formats give back."""

import pytest
import torch

import qlesson as ql
from qlesson.files import codebooks
from qlesson.files.formats import gguf
from qlesson.teach.lessons.n15.play import BLOCKS, FORMATS, LARGE, _row
from qlesson.teach.widgets import declarations

BOOKS = {"NF4": codebooks.nf4_blocks, "NVFP4": codebooks.nvfp4, "MXFP4": codebooks.mxfp4}


def given_back(name, row):
    if name in BOOKS:
        return BOOKS[name](row)
    if name.startswith("FP8"):
        scale = row.abs().max() / torch.tensor(448.0)
        return (row / scale).to(torch.float8_e4m3fn).float() * scale
    return gguf.quantize(row, name).dequantize()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_said(said, name, block):
    text, _ = said("15", format=name, block=block)
    row = _row(block)
    r, r_hat = row[:32], given_back(name, row)[:32]
    assert f"{name}, {FORMATS[name].bits:g} bits" in text
    assert f"SQNR {ql.sqnr(r, r_hat).item():.1f} dB" in text
    assert f"; {len(set(r_hat.tolist()))} different values" in text
    off = (r_hat - r).abs().double()
    worst = max(range(32), key=off.tolist().__getitem__)
    assert f"{off.median().item():.3g} in the middle" in text
    assert f"at most {off.max().item():.3g}, at place {worst}." in text
    returned = float(text.split("comes back as ")[1].split(".\n")[0])
    exact = block == "no negative one" or name not in ("Q5_1", "Q4_1")
    assert (returned == 0) == exact


@pytest.mark.parametrize("name", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_the_bits_are_those_of_the_file(name):
    assert FORMATS[name].bits == gguf.quantize(torch.ones(1, 64), name).bits_per_value


def test_what_the_notebook_says_of_the_large_weight():
    """Median errors: fivefold, not quite threefold, a little more than a third more."""
    grown = {}
    for name in ("Q4_0", "NF4", "NVFP4"):
        medians = []
        for block in BLOCKS[:2]:
            row = _row(block)
            off = (FORMATS[name].there_and_back(row) - row)[:32].abs()
            medians.append(off.median().item())
        grown[name] = medians[1] / medians[0]
    assert 4.5 < grown["Q4_0"] < 5.5
    assert 2.5 < grown["NF4"] < 3
    assert 1.33 < grown["NVFP4"] < 1.45


def test_the_first_setting_shows_a_large_weight_only_where_it_is_chosen():
    first = {name: c.start for name, c in declarations()["15"].controls.items()}
    assert first == {"format": "Q4_0", "block": "weights"}
    assert _row("one large weight")[LARGE] == 12 and _row("weights").abs().max() < 3
