"""A model's weights rounded once more   (notebook 16)."""

import copy

import torch

from qlesson import checks
from qlesson.models.llama.model import Llama
from qlesson.nn.weight import QuantizedWeight
from qlesson.qtensor import FindRange, quantize_by
from qlesson.scheme import Scheme


@torch.no_grad()
def requantized(model: Llama, scheme: Scheme, find_range: FindRange | None = None) -> Llama:
    """A copy of a model that holds codes, in which every W_hat is rounded to its nearest codes in
    another scheme.

    So the error of the file's own codes stays in, and the new one comes on top. One matrix at a
    time is in float; weights that layers share stay shared. find_range as in `ql.choose_qparams`.

    Raises ValueError for a model in float: `quantize_model` quantizes it.
    """
    checks.of_type("model", model, Llama, "use llama.load(path)")
    checks.scheme("scheme", scheme)
    held = [m for m in model.modules() if isinstance(m, QuantizedWeight)]
    if not held:
        raise ValueError("model holds no codes, but floats: use quantize_model(model, scheme).")
    new = {}
    for codes in held:
        nearest = quantize_by(find_range, codes.values(torch.float32), scheme)
        new[id(codes)] = QuantizedWeight(nearest, codes.like.dtype)
    return copy.deepcopy(model, new)
