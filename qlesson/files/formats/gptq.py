"""GPTQ's files, as AutoGPTQ and GPTQModel write them, and AWQ's, as AutoAWQ does.

    r_hat = scales[g] * (q - z[g]),  g the group of the input

The file has W^T, inputs first, in int32 words (`words.py`):

             GPTQ                            AWQ
    qweight  [inputs * bits / 32, outputs]   [inputs, outputs / 8]
    qzeros   [groups, outputs * bits / 32]   [groups, outputs / 8]
    scales   [groups, outputs]               [groups, outputs]
    g_idx    [inputs], the group of each

GPTQ's words are dense, its zero points are stored minus 1: 0 as the largest code. "gptq_v2" stores
them as they are, and so do AutoRound's own layout and "gptq_p", whose words are planes
(`words.py`), as those of 5, 6 and 7 bits are in any case. With act-order neighbours belong to
different groups, and g_idx says to which. AWQ has 4 bits; the codes of eight neighbours lie in the
word in the order 0 2 4 6 1 3 5 7, and the zero points as they are. A layout has its name in the
configuration; one that is not in LAYOUTS is not read, since its words have the same shapes.

Sources: qlinear_cuda.py of AutoGPTQ, convert_gptq_v1_to_v2 and docs/gptq_planar.md of GPTQModel,
gemm.py of AutoAWQ, export_to_autoround/ of AutoRound.
"""

from collections.abc import Iterator

from torch import Tensor

from qlesson import checks
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
    grouped,
    size_of_groups,
    whole_number,
)
from qlesson.files.formats.words import dense_words, unpack_dense, unpack_planes

BITS = (2, 3, 4, 5, 6, 7, 8)
METHODS = ("gptq", "awq", "auto-round", "intel/auto-round", "rtn")
AWQ = "gemm"
# The layouts that are read: what each adds to a zero point that is stored.
LAYOUTS = {
    "gptq": 1, "gptq_v2": 0, "gptq_p": 0, AWQ: 0,
    "auto_round:auto_gptq": 1, "auto_round": 0, "auto_round:gptqmodel": 0, "auto_round:auto_awq": 0,
}  # fmt: skip
# AutoRound names a layout with a kernel, in older files by that alone: the first of these counts.
OF_AUTO_ROUND = {
    "awq": "auto_round:auto_awq", "auto_awq": "auto_round:auto_awq",
    "gptq": "auto_round:auto_gptq", "auto_gptq": "auto_round:auto_gptq",
    "exllamav2": "auto_round", "triton": "auto_round", "tritonv2": "auto_round",
}  # fmt: skip
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the code in each 4 bits of a word, from the lowest on
AWQ_PLACES = tuple(sorted(range(8), key=AWQ_ORDER.__getitem__))


def qweight(parts: Parts, config: Config) -> Found | None:
    """What `qweight` stands for: its shape says which of the two it is. None for floats, which a
    model may have under that name."""
    (weight,) = need(parts, "qweight")
    if weight.entry.dtype in (*FLOATS, "F64"):
        return None
    said = list(dict.fromkeys(_layouts(config)))
    method = config.get("quant_method")
    if method is not None and str(method).lower() not in METHODS:
        return not_read(parts, "qweight", str(method), f"was quantized by {checks.shown(method)}")
    if any(layout not in LAYOUTS for layout in said) or len(said) > 1:
        return not_read(
            parts, "qweight", " ".join(said), f"is in the layout {checks.shown(' or '.join(said))}",
            "save it as gptq or gemm",
        )  # fmt: skip
    if "scales" not in parts or weight.entry.dtype != "I32":
        kind = weight.entry.dtype
        return not_read(parts, "qweight", kind, f"is {kind}, or comes without scales")
    _, columns = matrix(weight)
    _, outputs = matrix(parts["scales"])
    is_awq = columns * 8 == outputs
    if said and is_awq != (said[0] in (AWQ, "auto_round:auto_awq")):
        raise weight.wrong(f"has shape {weight.shape}, which is none of {said[0]}")
    return _awq(parts, config) if is_awq else _gptq(parts, config, *said)


def _layouts(config: Config) -> Iterator[str]:
    """The names of the layout, under the keys that people have used for it."""
    if "auto-round" in str(config.get("quant_method")).lower():
        yield _of_auto_round(config)
        return
    for key in ("checkpoint_format", "format", "packing_format", "version", "backend"):
        said = config.get(key)
        if said is None or (key == "backend" and said != "llm-awq"):  # else the kernel to run it
            continue
        if key != "version" or not str(said)[:1].isdigit():
            yield str(said).lower()


def _of_auto_round(config: Config) -> str:
    """The layout that AutoRound's configuration names, in whatever words; else these words."""
    said = config.get("packing_format") or config.get("backend") or config["quant_method"]
    text = str(said).lower().replace("autoround", "auto_round")
    named = text.split(":")
    known = (OF_AUTO_ROUND[kernel] for kernel in OF_AUTO_ROUND if kernel in named)
    return text if text in LAYOUTS else next(known, text)


def _gptq(parts: Parts, config: Config, layout: str = "gptq") -> Found:
    weight, zeros, scales = need(parts, "qweight", "qzeros", "scales")
    (rows, outputs), (groups, _) = matrix(weight), matrix(scales)
    bits = _bits(zeros, outputs, config)
    index = parts.get("g_idx")
    inputs = index.shape[0] if index and len(index.shape) == 1 else rows * 32 // bits
    if inputs == 0 or rows != dense_words(inputs, bits):
        raise weight.wrong(f"has {rows} rows of words for {inputs} codes of {bits} bits")
    if index is None and config.get("desc_act") is True and groups > 1:
        raise weight.wrong("comes without its g_idx, and desc_act is true")
    planes = layout == "gptq_p" or bits in (5, 6, 7)
    if planes and (inputs % 32 or outputs % 32):
        raise weight.wrong(f"has {inputs} inputs and {outputs} outputs, in planes of 32")
    unpack = unpack_planes if planes else unpack_dense

    def read() -> Value:
        z = unpack(zeros.read("I32", (groups, dense_words(outputs, bits))), bits, outputs)
        z = (z + LAYOUTS[layout]) & (2**bits - 1)
        size = size_of_groups(scales, inputs, groups, [config.get("group_size")])
        granularity = grouped(groups, size)
        if index:
            granularity = by_index(index.read("I32", (inputs,)), groups, size, index)
        q = unpack(weight.read("I32").T, bits, inputs)
        return coded(q, scales.read(FLOATS, (groups, outputs)).T, z.T, bits, granularity, scales)

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

    def read() -> Value:
        q = _in_order(weight.read("I32"))
        if "qzeros" in parts:
            z = _in_order(parts["qzeros"].read("I32", (groups, outputs // 8)))
        else:
            z = q.new_full((groups, outputs), 8)  # "zero_point": false
        size = size_of_groups(scales, inputs, groups, [config.get("group_size")])
        scale = scales.read(FLOATS)
        return coded(q.T.contiguous(), scale.T, z.T, 4, grouped(groups, size), scales)

    return found("AWQ 4 bits", parts, (outputs, inputs), read)


def _in_order(words: Tensor) -> Tensor:
    """AWQ's words [rows, n] as uint8 codes [rows, 8 n]."""
    codes = unpack_dense(words, 4, 8 * words.shape[1])
    return codes.unflatten(1, (-1, 8))[:, :, list(AWQ_PLACES)].flatten(1)
