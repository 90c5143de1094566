"""qlesson: quantization, from one formula to a quantized language model.

    import qlesson as ql

    x = ql.quantize(r, ql.Scheme(bits=8))   # r is a float tensor
    r_hat = x.dequantize()
    ql.mse(r, r_hat)

The data goes r -> range -> (scale, zero_point) -> q -> r_hat -> error, one module for each step.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names of _ROOMS, which a test compares
    from qlesson import observers as observers
    from qlesson import ranges as ranges
    from qlesson.affine import QParams as QParams
    from qlesson.affine import asymmetric_qparams as asymmetric_qparams
    from qlesson.affine import dequantize_affine as dequantize_affine
    from qlesson.affine import quantize_affine as quantize_affine
    from qlesson.affine import symmetric_qparams as symmetric_qparams
    from qlesson.device import best_device as best_device
    from qlesson.error import max_abs_error as max_abs_error
    from qlesson.error import mse as mse
    from qlesson.error import sqnr as sqnr
    from qlesson.granularity import PerAxis as PerAxis
    from qlesson.granularity import PerGroup as PerGroup
    from qlesson.granularity import PerTensor as PerTensor
    from qlesson.kernels import use_kernels as use_kernels
    from qlesson.qtensor import QTensor as QTensor
    from qlesson.qtensor import ZeroPointClipped as ZeroPointClipped
    from qlesson.qtensor import choose_qparams as choose_qparams
    from qlesson.qtensor import fake_quantize as fake_quantize
    from qlesson.qtensor import quantize as quantize
    from qlesson.scheme import Scheme as Scheme

__version__ = "0.1.0"

# Names are loaded when they are first asked for: the check of a machine, `python -m
# qlesson.teach.preflight`, runs on a Python that has no torch yet.
_ROOMS = {
    "affine": [
        "QParams", "asymmetric_qparams", "dequantize_affine", "quantize_affine",
        "symmetric_qparams",
    ],
    "device": ["best_device"],
    "error": ["max_abs_error", "mse", "sqnr"],
    "granularity": ["PerAxis", "PerGroup", "PerTensor"],
    "kernels": ["use_kernels"],
    "observers": [],
    "qtensor": ["QTensor", "ZeroPointClipped", "choose_qparams", "fake_quantize", "quantize"],
    "scheme": ["Scheme"],
    "ranges": [],
}  # fmt: skip
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"qlesson.{name}")
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"qlesson.{_ROOM_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
