"""Better than rounding: how to quantize a layer so that its output errs less (notebook 11).

Each method is a function of (weight [out, in], inputs [samples, in], scheme) and gives a `Result`:
the quantized weight, and what the layer's inputs are to be multiplied by. `quantize_model(model,
scheme, method=gptq, inputs=batches)` makes quantized layers of the results.
"""

from qlesson.methods.awq import awq
from qlesson.methods.gptq import gptq
from qlesson.methods.hqq import hqq
from qlesson.methods.inputs import layer_inputs
from qlesson.methods.result import Result, output_error, round_to_nearest
from qlesson.methods.rotation import rotate
from qlesson.methods.smoothquant import smoothquant

__all__ = [
    "Result",
    "awq",
    "gptq",
    "hqq",
    "layer_inputs",
    "output_error",
    "rotate",
    "round_to_nearest",
    "smoothquant",
]
