"""What eager runs and the compiler compiles: the formulas between a reading and a store.

The loops by hand, loops.cpp and loops_triton.py, do the same.
"""

import torch
from torch import Tensor

from qlesson import affine
from qlesson.affine import computing, dequantize_affine, narrowed, quantize_affine, safe_qparams


def quantize(
    r: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    out: Tensor,
    quant_min: int,
    quant_max: int,
    rounding: str,
) -> tuple[()]:
    # The cast is copy_'s; a compiled loop narrows integers faster than floats.
    dtype = torch.int32 if torch.compiler.is_compiling() else computing(r.dtype)
    out.copy_(quantize_affine(r, scale, zero_point, quant_min, quant_max, dtype, rounding))
    return ()


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, out: Tensor) -> tuple[()]:
    out.copy_(narrowed(dequantize_affine(q, scale, zero_point), out.dtype))
    return ()


def dequantize_blocks(q: Tensor, scale: Tensor, minimum: Tensor, out: Tensor) -> tuple[()]:
    r_hat = affine.dequantize_blocks(q, scale, minimum)
    # An infinite scale or minimum is what the file says, and no value that does not fit.
    out.copy_(torch.where(torch.isinf(r_hat), r_hat, narrowed(r_hat, out.dtype)))
    return ()


def quantize_blocks(
    r: Tensor, scale: Tensor, minimum: Tensor, out: Tensor, quant_max: int
) -> tuple[()]:
    out.copy_(affine.quantize_blocks(r, scale, minimum, quant_max))
    return ()


def min_max(r: Tensor) -> tuple[Tensor, Tensor]:
    return r.amin(dim=1), r.amax(dim=1)


def choose(
    codes: Tensor,
    r: Tensor,
    scale_out: Tensor,
    zero_point_out: Tensor,
    quant_min: int,
    quant_max: int,
    mapping: str,
    include_zero: bool,
    scale_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    r_min, r_max = (x.float() for x in (r.amin(dim=1, keepdim=True), r.amax(dim=1, keepdim=True)))
    scale, zero_point = safe_qparams(
        r_min, r_max, codes[0], codes[1], mapping, include_zero, scale_dtype
    )
    scale_out.copy_(scale)
    zero_point_out.copy_(zero_point)
    return scale, zero_point


def choose_and_quantize(
    codes: Tensor,
    r: Tensor,
    scale_out: Tensor,
    zero_point_out: Tensor,
    out: Tensor,
    quant_min: int,
    quant_max: int,
    rounding: str,
    mapping: str,
    include_zero: bool,
    scale_dtype: torch.dtype | None,
) -> tuple[()]:
    how = quant_min, quant_max, mapping, include_zero, scale_dtype
    scale, zero_point = choose(codes, r, scale_out, zero_point_out, *how)
    return quantize(r, scale, zero_point, out, quant_min, quant_max, rounding)
