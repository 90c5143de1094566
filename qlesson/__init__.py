"""qlesson: quantization, from one formula to a quantized language model.

    import qlesson as ql

    x = ql.quantize(r, ql.Scheme(bits=8))   # r is a float tensor
    r_hat = x.dequantize()
    ql.mse(r, r_hat)

The data goes r -> range -> (scale, zero_point) -> q -> r_hat -> error, one module for each step.
"""

from qlesson.affine import (
    QParams,
    asymmetric_qparams,
    dequantize_affine,
    quantize_affine,
    symmetric_qparams,
)
from qlesson.error import max_abs_error, mse, sqnr
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.kernels import best_device, use_kernels
from qlesson.qtensor import QTensor, ZeroPointClipped, choose_qparams, fake_quantize, quantize
from qlesson.scheme import Scheme

__all__ = [
    "PerAxis",
    "PerGroup",
    "PerTensor",
    "QParams",
    "QTensor",
    "Scheme",
    "ZeroPointClipped",
    "asymmetric_qparams",
    "best_device",
    "choose_qparams",
    "dequantize_affine",
    "fake_quantize",
    "max_abs_error",
    "mse",
    "quantize",
    "quantize_affine",
    "sqnr",
    "symmetric_qparams",
    "use_kernels",
]
