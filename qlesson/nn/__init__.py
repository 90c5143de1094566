"""Quantized layers, and the layers of any model swapped for them (notebook 09)."""

from qlesson.nn.factor import Rotation
from qlesson.nn.fold import fold
from qlesson.nn.integer_linear import IntegerLinear
from qlesson.nn.layers import QuantizedConv, QuantizedEmbedding, QuantizedLinear
from qlesson.nn.model import quantize_model
from qlesson.nn.onnx_qdq import to_onnx_qdq
from qlesson.nn.record import calibrate, record
from qlesson.nn.state import load_state, state

__all__ = [
    "IntegerLinear",
    "QuantizedConv",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "Rotation",
    "calibrate",
    "fold",
    "load_state",
    "quantize_model",
    "record",
    "state",
    "to_onnx_qdq",
]
