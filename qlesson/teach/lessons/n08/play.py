"""The live figure of notebook 08: which bit of which byte a code gets."""

from functools import partial

import torch
from torch import Tensor

import qlesson as ql
from qlesson.files.packing import PackedTensor, unpack
from qlesson.teach import figures
from qlesson.teach.lessons.n08.figures import LETTERS
from qlesson.teach.widgets import Choice, Shown, Slider, declare

_R = torch.tensor([-1.0, 0.7, -0.4, 0.2, 1.0, -0.8, 0.4, -0.1])
_ORDERS = ("low_first", "high_first")


@declare(
    "Eight codes, which bits of which bytes they take, and what is read from the bytes.",
    bits=Slider("bits", 2, 8, 1, 5),
    order=Choice("written", _ORDERS, "low_first"),
    read=Choice("read", _ORDERS, "low_first"),
)
def _bits_in_bytes(bits: int, order: str, read: str) -> Shown:
    x = ql.quantize(_R, ql.Scheme(bits, "symmetric"))
    data = PackedTensor.pack(x, order).data
    owners = figures.bit_owners(len(_R), bits, order)
    crossing = [n for i, n in enumerate(LETTERS[:8]) if (owners == i).any(axis=1).sum() > 1]
    back = unpack(data, bits, x.shape, order=read)
    names = f" ({', '.join(crossing)})" if crossing else ""
    sentences = [
        f"8 codes of {bits} bits, {order}: {len(data)} bytes, {_listed(data)}.",
        f"{len(crossing)} of the codes cross a border between bytes{names}.",
        f"Read {read}: {_listed(back)}; {(back == x.q).sum()} of 8 are right.",
    ]
    return sentences, partial(figures.bits_in_bytes, x.q, bits, (order,), rows=2, read=read)


def _listed(x: Tensor) -> str:
    return " ".join(map(str, x.tolist()))
