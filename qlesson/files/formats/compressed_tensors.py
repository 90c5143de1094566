"""compressed-tensors, the files of llm-compressor and vLLM.

    r_hat = weight_scale * (q - weight_zero_point)

pack-quantized    weight_packed int32 [outputs, words], plus 2^(bits - 1), and weight_shape; packed
                  zero points [words of a column, groups], along axis 0. Words are dense from
                  version 0.18 on, padded before (`words.py`)
int-quantized     weight int8 [outputs, inputs], and zero points in int8
float-quantized, nvfp4-pack-quantized and the like are in `floats.py`

A symmetric file has no zero points; its codes reach down to -2^(bits - 1) all the same.

Source: compressors/ in the repository of compressed-tensors.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qlesson.files.formats.opened import Value
from qlesson.files.formats.parts import (
    FLOATS,
    Config,
    Found,
    Part,
    Parts,
    found,
    matrix,
    need,
    not_read,
)
from qlesson.files.formats.steps import (
    by_index,
    coded,
    coded_by_shape,
    size_of_groups,
    whole_number,
)
from qlesson.files.formats.words import dense_words, padded_words, unpack_dense, unpack_padded

DENSE_SINCE = (0, 18)


def weights(config: Config) -> Iterator[dict[str, Any]]:
    """What the configuration says about weights, one for each kind of layers."""
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        said = group.get("weights") if isinstance(group, dict) else None
        if isinstance(said, dict):
            yield said


def packed(parts: Parts, config: Config) -> Found:
    """pack-quantized."""
    weight, scale, shape = need(parts, "weight_packed", "weight_scale", "weight_shape")
    rows, words = matrix(weight)
    outputs, inputs = _shape(shape)
    if rows != outputs:
        raise weight.wrong(f"has {rows} rows, and weight_shape says {outputs}")
    fitting = _bits(weight, words, inputs, config)
    if len(fitting) > 1:
        either = " or ".join(map(str, fitting))
        return not_read(parts, "weight_packed", "compressed-tensors", f"may have {either} bits")
    ((bits, dense),) = fitting.items()
    zeros, index = parts.get("weight_zero_point"), parts.get("weight_g_idx")
    sizes = [said.get("group_size") for said in weights(config)]

    def read() -> Value:
        q = _codes(weight.read("I32"), bits, inputs, dense)
        s = scale.read(FLOATS)
        z = zeros and _zero_points(zeros, bits, s.shape, dense)
        if index is None or s.ndim != 2:
            return coded_by_shape(q, s, z, bits, scale, (None, *sizes))
        size = size_of_groups(scale, inputs, s.shape[1], sizes)
        granularity = by_index(index.read("I32", (inputs,)), s.shape[1], size, index)
        return coded(q, s, z, bits, granularity, scale)

    return found(f"compressed-tensors {bits} bits", parts, (outputs, inputs), read)


def integers(parts: Parts, config: Config) -> Found:
    """int-quantized: one code in a byte."""
    weight, scale = need(parts, "weight", "weight_scale")
    zeros, said = parts.get("weight_zero_point"), list(weights(config))
    named = {whole_number(x.get("num_bits"), 2, 8) or 8 for x in said}
    bits = named.pop() if len(named) == 1 else 8
    sizes = [None, *(x.get("group_size") for x in said)]

    def read() -> Value:
        z, q = zeros and zeros.read("I8", scale.shape), weight.read("I8")
        low, high = q.aminmax()
        held = bits if -(2 ** (bits - 1)) <= int(low) and int(high) < 2 ** (bits - 1) else 8
        return coded_by_shape(q, scale.read(FLOATS), z, held, scale, sizes)

    return found(f"compressed-tensors {bits} bits", parts, weight.shape, read)


def _shape(part: Part) -> tuple[int, int]:
    outputs, inputs = (int(n) for n in part.read(("I64", "I32"), (2,)))
    if outputs < 1 or inputs < 1:
        raise part.wrong(f"says {outputs} by {inputs}")
    return outputs, inputs


def _bits(weight: Part, words: int, inputs: int, config: Config) -> dict[int, bool]:
    """{bits: whether dense}: the bits that the configuration says for some layers, where they fit.

    Without a configuration they are those that fill whole words, 4 or 8. The version says whether
    words are dense; where nothing fits so, it is not that of the file.
    """
    said = [whole_number(x.get("num_bits"), 2, 8) for x in weights(config)]
    written = _version(config) >= DENSE_SINCE
    for dense in (written, not written):
        count = dense_words if dense else padded_words
        some = [b for b in said if b] or (4, 8)
        if fitting := {b: dense for b in some if count(inputs, b) == words}:
            return fitting
    raise weight.wrong(f"has {words} words for {inputs} codes, which fits no bits that it may have")


def _version(config: Config) -> tuple[int, ...]:
    """Of the package that wrote the file; the newest where it does not say."""
    try:
        return tuple(int(n) for n in str(config["version"]).split(".")[:2])
    except (KeyError, ValueError):
        return DENSE_SINCE


def _codes(words: Tensor, bits: int, count: int, dense: bool) -> Tensor:
    """Signed codes [rows, count]."""
    codes = (unpack_dense if dense else unpack_padded)(words, bits, count)
    return codes.contiguous().view(torch.int8) - 2 ** (bits - 1)


def _zero_points(zeros: Part, bits: int, shape: torch.Size, dense: bool) -> Tensor:
    """[outputs, groups], packed down the columns; int8 as they are in some older files."""
    if zeros.entry.dtype == "I8":
        return zeros.read("I8", shape)
    if len(shape) != 2:
        raise zeros.wrong(f"is packed, and the scales have shape {tuple(shape)}")
    count = (dense_words if dense else padded_words)(shape[0], bits)
    return _codes(zeros.read("I32", (count, shape[1])).T, bits, shape[0], dense).T
