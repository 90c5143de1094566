"""The course's own language model, small enough to train on two cores (card.md).

from qlesson.models import tinygpt

model = tinygpt.load()
model.generate('The "for" statement', 80)
tinygpt.perplexity(tinygpt.quantized(model, ql.Scheme(bits=4)))
"""

from qlesson.models.cache import PER_CHANNEL, PER_TOKEN, KVCache
from qlesson.models.tinygpt.codes import load_trained
from qlesson.models.tinygpt.matrices import quantized, weight_matrices
from qlesson.models.tinygpt.measure import Cached, perplexity
from qlesson.models.tinygpt.model import GPT, Config, in_float64, load
from qlesson.models.tinygpt.plan import (
    divergence,
    greedy_plan,
    model_bytes,
    packed_bytes,
    sensitivity,
    squared_error,
)
from qlesson.models.tinygpt.text import (
    VOCABULARY,
    calibration_text,
    decode,
    encode,
    heldout_text,
)

__all__ = [
    "Cached",
    "Config",
    "GPT",
    "KVCache",
    "PER_CHANNEL",
    "PER_TOKEN",
    "VOCABULARY",
    "calibration_text",
    "decode",
    "divergence",
    "encode",
    "greedy_plan",
    "heldout_text",
    "in_float64",
    "load",
    "load_trained",
    "model_bytes",
    "packed_bytes",
    "perplexity",
    "quantized",
    "sensitivity",
    "squared_error",
    "weight_matrices",
]
