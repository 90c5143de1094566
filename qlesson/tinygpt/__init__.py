"""The course's own language model, small enough to train on two cores (card.md).

from qlesson import tinygpt

model = tinygpt.load()
model.generate('The "for" statement', 80)
tinygpt.perplexity(tinygpt.quantized(model, ql.Scheme(bits=4)))
"""

from qlesson.tinygpt.model import (
    GPT,
    VOCABULARY,
    Config,
    calibration_text,
    decode,
    encode,
    heldout_text,
    load,
    perplexity,
    quantized,
    weight_matrices,
)

__all__ = [
    "Config",
    "GPT",
    "VOCABULARY",
    "calibration_text",
    "decode",
    "encode",
    "heldout_text",
    "load",
    "perplexity",
    "quantized",
    "weight_matrices",
]
