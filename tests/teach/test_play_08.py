"""The live figure of notebook 08: what it says is what `pack` and `unpack` do."""

import re

import pytest
import torch

import qlesson as ql
from qlesson.files.packing import pack, unpack
from qlesson.teach import play
from qlesson.teach.lessons.n08 import play as lesson


def said(capsys, **settings):
    play("08", **settings)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("order", ["low_first", "high_first"])
@pytest.mark.parametrize("read", ["low_first", "high_first"])
def test_bytes_borders_and_what_is_read(capsys, bits, order, read):
    first, second, third = said(capsys, bits=bits, order=order, read=read)
    q = ql.quantize(lesson._R, ql.Scheme(bits, "symmetric")).q
    data = pack(q, bits, order)
    assert first == (
        f"8 codes of {bits} bits, {order}: {bits} bytes, {' '.join(map(str, data.tolist()))}."
    )
    crossing = [i for i in range(8) if i * bits // 8 != ((i + 1) * bits - 1) // 8]
    assert second.startswith(f"{len(crossing)} of the codes cross")
    letters = re.search(r"(?: \((.*)\))?\.$", second)[1] or ""
    assert re.findall("[a-h]", letters) == ["abcdefgh"[i] for i in crossing]
    back = unpack(data, bits, (8,), order=read)
    assert third == (
        f"Read {read}: {' '.join(map(str, back.tolist()))}; {(back == q).sum()} of 8 are right."
    )
    if order == read or bits == 8:
        assert "8 of 8 are right" in third


def test_only_2_4_and_8_bits_keep_codes_within_bytes(capsys):
    crossing = {bits: said(capsys, bits=bits)[1][0] for bits in range(2, 9)}
    assert {bits for bits, n in crossing.items() if n == "0"} == {2, 4, 8}


def test_the_codes_use_both_ends():
    for bits in range(2, 9):
        q = ql.quantize(lesson._R, ql.Scheme(bits, "symmetric")).q
        assert torch.tensor([q.min(), q.max()]).tolist() == [
            1 - 2 ** (bits - 1),
            2 ** (bits - 1) - 1,
        ]
