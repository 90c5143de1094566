"""Inputs times the codes of a layer, packed as they are: x W_hat^T.

    weight-only      y = sum_g s_g sum_{k in g} x (q - z), or with a minimum m_g in the place of
                     -s_g z: float sums, within n eps of float64
    8-bit inputs     y = sum_g float(acc_g) (s_x s_g), g ascending, where acc_g is exact in int32:
                     the same bits on every path

`qlesson.kernels.product` reads packed codes as they lie; here stands what runs without it, on some
rows of W_hat at a time, so that a whole W_hat is never made. Both are for weights that are plain
QTensors or Blocks in PerTensor(), PerAxis(0) or groups along the inputs. Others (16 bits, scales
along the other axis, subclasses of Blocks) and inputs that need a gradient take W_hat whole.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from qlesson.affine import computing, rounded
from qlesson.nn.integer import four_terms, int8_codes
from qlesson.nn.weight import QuantizedWeight
from qlesson.qtensor import QTensor

TILE = 2**20  # values of W_hat at a time


def linear(x: Tensor, codes: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """x W_hat^T + b in x's dtype, for float x [..., inputs] on the codes' device."""
    bias = None if bias is None else rounded(bias, x.dtype)
    learns = x.requires_grad and torch.is_grad_enabled()
    tiles = [slice(None)] if learns else _tiles(codes)
    if len(tiles) == 1:
        return F.linear(x, codes.values(x.dtype), bias)
    parts = [
        F.linear(x, codes.rows(rows, x.dtype), None if bias is None else bias[rows])
        for rows in tiles
    ]
    return torch.cat(parts, -1)


def int_linear(x: QTensor, codes: QuantizedWeight) -> Tensor:
    """s_x s_w sum_k (x - z_x)(w - z_w), summed over the groups: float [tokens, outputs]."""
    dtype = computing(x.scale.dtype)
    parts = []
    for rows in _tiles(codes):
        s_x, s_w = x.scale.to(dtype), _columns(codes.parts_of(rows)["scale"]).to(dtype)
        y = torch.zeros((), dtype=dtype, device=x.device)
        for i, acc in enumerate(accumulators(x, codes, rows)):
            y = y + acc.to(dtype) * (s_x * s_w[:, i])
        parts.append(y)
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def accumulators(x: QTensor, codes: QuantizedWeight, rows: slice = slice(None)) -> Iterator[Tensor]:
    """One int32 sum [tokens, rows] per group of columns; without groups there is one."""
    parts = codes.parts_of(rows)
    q_x, z_x = int8_codes(x.q, x.zero_point)
    q_w, z_w = int8_codes(parts["q"], _columns(parts["zero_point"]))
    for i, columns in enumerate(groups(codes)):
        yield four_terms(q_x[:, columns], z_x, q_w[:, columns], z_w[:, i]).total()


def groups(codes: QuantizedWeight) -> list[slice]:
    """The columns that share a scale in each row."""
    _, size = codes.granularity.block_shape(codes.shape)
    return [slice(i, i + size) for i in range(0, codes.shape[1], size)]


def _tiles(codes: QuantizedWeight) -> list[slice]:
    """Rows of the weight that are unpacked at a time; a graph that is traced takes all."""
    n, width = codes.shape
    if not codes.by_rows or codes.bits > 8 or torch.compiler.is_compiling():
        return [slice(None)]
    step = max(1, TILE // width)
    return [slice(i, i + step) for i in range(0, n, step)]


def _columns(p: Tensor) -> Tensor:
    """Scales or zero points as [outputs, groups], or [1, 1] where there is one."""
    return p.reshape(1, 1) if p.ndim == 0 else p
