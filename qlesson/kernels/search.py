"""What a search for a range compares, as one loop (search.cpp): a value takes .4 to .9 nanoseconds
for each limit, where eager operations take ten to sixteen (an Intel Xeon, one thread)."""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlesson.kernels import modes
from qlesson.kernels.cpp import library
from qlesson.scheme import Scheme

# Values, each met by some two hundred limits, until "auto" compiles: about a second, as that takes.
PAYS_OFF = {"cpu": 2**19}

Errors = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def errors_of(scheme: Scheme, values: Tensor) -> Errors | None:
    """`squared_errors` with the scheme's codes; None where it is not to be compiled for these
    values, or cannot be."""
    if not modes._compiles(errors_of, (scheme.rounding,), values, pays_off=PAYS_OFF):
        return None
    loop = _loop(int(scheme.rounding == "inside"))
    codes = ctypes.c_float(scheme.quant_min), ctypes.c_float(scheme.quant_max)

    def squared_errors(
        values: Tensor, weights: Tensor, scale: Tensor, zero_point: Tensor, small: Tensor
    ) -> Tensor:
        """sum of weights (small (values_hat - values))^2 of each row, in float64.

        values, weights [m, n]; scale, zero_point and what is given back [some, m, 1]; small [m, 1]
        """
        held = [values, weights, scale.float(), zero_point.float(), small]
        held = [*(x.contiguous() for x in held), small.new_zeros(scale.shape)]
        sizes = (*values.shape, len(scale), torch.get_num_threads())
        loop(*(ctypes.c_void_p(x.data_ptr()) for x in held), *map(ctypes.c_int64, sizes), *codes)
        return held[-1]

    return None if loop is None else squared_errors


@cache
def _loop(inside: int) -> Any:
    """None where it cannot be compiled: then a search takes longer, and nothing else changes."""
    source = Path(__file__).with_name("search.cpp")
    try:
        return library(source, REAL="float", CODE="int8_t", INSIDE=inside).add_errors
    except (OSError, RuntimeError):
        return None
