"""The live figure of notebook 15: one block of 32 weights through nine formats."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

import qlesson as ql
from qlesson.files import codebooks
from qlesson.files.formats import gguf
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.widgets import Choice, Shown, declare


class Format(NamedTuple):
    """What a value costs, and what comes back of a row of 64."""

    bits: float
    there_and_back: Callable[[Tensor], Tensor]


def _ggml(kind: str) -> Callable[[Tensor], Tensor]:
    return lambda r: gguf.quantize(r, kind).dequantize()


def _fp8(r: Tensor) -> Tensor:
    scale = r.abs().amax() / r.new_tensor(codebooks.E4M3_MAX)
    return (r / scale).to(torch.float8_e4m3fn).float() * scale


FORMATS = {
    "Q8_0": Format(8.5, _ggml("Q8_0")),
    "FP8 (E4M3)": Format(8.5, _fp8),
    "Q5_1": Format(6, _ggml("Q5_1")),
    "Q5_0": Format(5.5, _ggml("Q5_0")),
    "Q4_1": Format(5, _ggml("Q4_1")),
    "Q4_0": Format(4.5, _ggml("Q4_0")),
    "NF4": Format(4.5, codebooks.nf4_blocks),
    "NVFP4": Format(4.5, codebooks.nvfp4),
    "MXFP4": Format(4.25, codebooks.mxfp4),
}
BLOCKS = ("weights", "one large weight", "no negative one")
FIRST, LARGE = 0, 20  # the places of 0.0 and of the weight that may be large


@cache
def _row(block: str) -> Tensor:
    """64 weights: the block that is shown, and its neighbours, which may share its scale."""
    r = randn(64, generator=torch.Generator().manual_seed(15))
    r[FIRST] = 0.0
    if block == "one large weight":
        r[LARGE] = 12.0
    return r.abs() if block == "no negative one" else r


@declare(
    "The 32 weights of a block, what comes back of each, and below them the errors.",
    format=Choice("format", tuple(FORMATS), "Q4_0"),
    block=Choice("block", BLOCKS, "weights"),
)
def _block(format: str, block: str) -> Shown:
    row, (bits, there_and_back) = _row(block), FORMATS[format]
    r, r_hat = row[:32], there_and_back(row)[:32]
    off = (r_hat - r).abs().double()
    sentences = [
        f"{format}, {bits:g} bits per value: SQNR {ql.sqnr(r, r_hat).item():.1f} dB; "
        f"{len(r_hat.unique())} different values come back.",
        f"0.0, at place {FIRST}, comes back as {r_hat[FIRST].item() + 0.0:.3g}.",
        f"The error is {off.median().item():.3g} in the middle of all, and at most "
        f"{off.max().item():.3g}, at place {off.argmax().item()}.",
    ]
    return sentences, partial(figures.there_and_back_in_a_block, r, r_hat, f"{format}: {block}")
