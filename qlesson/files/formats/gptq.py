"""GPTQ's files, as AutoGPTQ and GPTQModel write them, and AWQ's, as AutoAWQ does.

    r_hat = scales[g] * (q - z[g]),  g the group of the input

The file has W^T, inputs first, in int32 words (`words.py`):

             GPTQ                            AWQ
    qweight  [inputs * bits / 32, outputs]   [inputs, outputs / 8]
    qzeros   [groups, outputs * bits / 32]   [groups, outputs / 8]
    scales   [groups, outputs]               [groups, outputs]
    g_idx    [inputs], the group of each

GPTQ's words are dense, its zero points are stored minus 1: 0 as the largest code. "gptq_v2", in
checkpoint_format of the configuration, stores them as they are. With act-order neighbours belong to
different groups, and g_idx says to which. AWQ has 4 bits; the codes of eight neighbours lie in the
word in the order 0 2 4 6 1 3 5 7, and the zero points as they are.

Sources: qlinear_cuda.py of AutoGPTQ, convert_gptq_v1_to_v2 of GPTQModel, gemm.py of AutoAWQ.
"""

import torch
from torch import Tensor

from qlesson.files.formats.parts import FLOATS, Config, Found, Part, Parts, found, matrix, need
from qlesson.files.formats.steps import (
    by_index,
    coded,
    grouped,
    size_of_groups,
    whole_number,
)
from qlesson.files.formats.words import dense_words, unpack_dense
from qlesson.qtensor import QTensor

BITS = (2, 3, 4, 5, 6, 7, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the code in each 4 bits of a word, from the lowest on
AWQ_PLACES = tuple(sorted(range(8), key=AWQ_ORDER.__getitem__))


def qweight(parts: Parts, config: Config) -> Found:
    """What `qweight` stands for: its shape says which of the two it is."""
    weight, scales = need(parts, "qweight", "scales")
    _, columns = matrix(weight)
    groups, outputs = matrix(scales)
    how = config.get("checkpoint_format") or config.get("version")
    if how in ("marlin", "gemv", "gemv_fast", "exllama", "ipex"):
        raise weight.not_read(
            f"is in the layout {how}, which qlesson does not read: save it as gptq or gemm"
        )
    return _awq(parts, config) if columns * 8 == outputs else _gptq(parts, config)


def _gptq(parts: Parts, config: Config) -> Found:
    weight, zeros, scales = need(parts, "qweight", "qzeros", "scales")
    (rows, outputs), (groups, _) = matrix(weight), matrix(scales)
    bits = _bits(zeros, outputs, config)
    index = parts.get("g_idx")
    inputs = index.shape[0] if index and len(index.shape) == 1 else rows * 32 // bits
    if inputs == 0 or rows != dense_words(inputs, bits):
        raise weight.wrong(f"has {rows} rows of words for {inputs} codes of {bits} bits")

    def read() -> QTensor:
        z = unpack_dense(zeros.read("I32", (groups, dense_words(outputs, bits))), bits, outputs)
        if config.get("checkpoint_format") != "gptq_v2":
            z = (z + 1) & (2**bits - 1)
        size = size_of_groups(scales, inputs, groups, [config.get("group_size")])
        granularity = grouped(groups, size)
        if index:
            granularity = by_index(index.read("I32", (inputs,)), groups, size, index)
        q = unpack_dense(weight.read("I32").T, bits, inputs)
        return coded(q, scales.read(FLOATS, (groups, outputs)).T, z.T, bits, granularity)

    return found(f"GPTQ {bits} bits", parts, (outputs, inputs), read)


def _bits(zeros: Part, outputs: int, config: Config) -> int:
    """By the words that the zero points of a group take; the configuration where they do not say.

    A file may have other bits in some layers than its configuration says.
    """
    columns = matrix(zeros)[1]
    for bits in (columns * 32 / outputs, whole_number(config.get("bits"), 2, 8)):
        if bits in BITS and dense_words(outputs, int(bits)) == columns:
            return int(bits)
    raise zeros.wrong(f"has {columns} words for {outputs} zero points, which fits no bits")


def _awq(parts: Parts, config: Config) -> Found:
    weight, scales = need(parts, "qweight", "scales")
    (inputs, _), (groups, outputs) = matrix(weight), matrix(scales)

    def read() -> QTensor:
        q = _in_order(weight.read("I32"))
        if "qzeros" in parts:
            z = _in_order(parts["qzeros"].read("I32", (groups, outputs // 8)))
        else:
            z = torch.full((groups, outputs), 8, dtype=torch.uint8)  # "zero_point": false
        size = size_of_groups(scales, inputs, groups, [config.get("group_size")])
        scale = scales.read(FLOATS)
        return coded(q.T.contiguous(), scale.T, z.T, 4, grouped(groups, size))

    return found("AWQ 4 bits", parts, (outputs, inputs), read)


def _in_order(words: Tensor) -> Tensor:
    """AWQ's words [rows, n] as uint8 codes [rows, 8 n]."""
    codes = unpack_dense(words, 4, 8 * words.shape[1])
    return codes.unflatten(1, (-1, 8))[:, :, list(AWQ_PLACES)].flatten(1)
