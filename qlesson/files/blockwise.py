"""What small blocks share: r cut into them, and their numbers as ggml computes and stores them."""

import torch
from torch import Tensor

from qlesson import checks

HALF_MAX = 65504.0  # the largest torch.float16


def in_blocks(r: Tensor, size: int) -> Tensor:
    """r as float64 [..., blocks, size]. Raises ValueError where it has no such blocks."""
    r = checks.numbers("r", r)
    if r.ndim == 0 or r.shape[-1] % size:
        raise ValueError(
            f"r has shape {tuple(r.shape)}, but its last axis must be made of whole blocks of "
            f"{size} values: fill it up with zeros."
        )
    if not checks.all_finite(r.float()):
        raise ValueError(
            "r holds NaN or values that are infinite in float32: remove or replace them first, "
            "for example with torch.nan_to_num(r)."
        )
    return r.double().unflatten(-1, (-1, size))


def inverse(d: Tensor) -> Tensor:
    """1 / d as ggml has it, rounded to float32; 0 where d is 0 or 1 / d infinite."""
    x = torch.ones_like(d) / torch.where(d == 0, 1, d)
    return torch.where((d == 0) | x.isinf(), 0, x)


def as_half(d: Tensor, r: Tensor, what: str) -> Tensor:
    """d [..., 1] as float16 [...]. Raises ValueError where it is too large, and ggml infinite."""
    stored = d.squeeze(-1).half()
    if not checks.all_finite(stored):
        raise ValueError(
            f"r holds values up to {r.abs().max().item():g}, and {what} in float16, which ends at "
            f"{HALF_MAX:g}: divide r first."
        )
    return stored
