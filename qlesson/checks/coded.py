"""Codes, sums of codes, and ids."""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from qlesson.checks.tensors import no_symbol, not_torchs_codes, on_a_device, readable, strided
from qlesson.checks.words import shown

IDS = (torch.int64, torch.int32)  # what nn.Embedding takes


def codes(
    name: str, q: Any, *dtypes: torch.dtype, remedy: str = "ql.quantize(r, scheme) makes them"
) -> None:
    """A tensor of codes in one of these integer dtypes: a cast would wrap around, or cut off."""
    if not isinstance(q, Tensor) or q.dtype not in dtypes:
        no_symbol(name, q)
        kind = q.dtype if isinstance(q, Tensor) else type(q).__name__
        wanted = " or ".join(str(d) for d in dtypes)
        raise TypeError(f"{name} must hold integers in {wanted}, got {kind}: {remedy}.")
    strided(name, q)
    on_a_device(name, q)


def code_values(name: str, q: Tensor, low: int, high: int, remedy: str) -> None:
    """Codes from low to high: a dtype may hold more than a scheme has, and then they are read."""
    held = torch.iinfo(q.dtype)
    if (low <= held.min and held.max <= high) or q.numel() == 0 or not readable(q):
        return
    ends = torch.aminmax(q)
    if not readable(ends.min):
        return
    smallest, largest = (end.item() for end in ends)
    if smallest < low or largest > high:
        raise ValueError(
            f"{name} holds codes from {smallest} to {largest}, and the codes are {low} to {high}: "
            f"{remedy}."
        )


def integers(name: str, x: Any) -> None:
    """A whole number, or a tensor of an integer dtype."""
    if isinstance(x, Tensor):
        not_torchs_codes(name, x)
        good = not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
    else:
        good = isinstance(x, Integral) and not isinstance(x, bool)
    if not good:
        kind = x.dtype if isinstance(x, Tensor) else shown(x)
        raise TypeError(f"{name} must be made of integers, got {kind}: round it first.")
    if isinstance(x, Tensor):
        strided(name, x)
        on_a_device(name, x)


def ids(name: str, x: Any, count: int) -> None:
    """Row numbers from 0 to count - 1, as nn.Embedding takes them.

    On a GPU, and while a model is compiled, the lookup itself refuses what is out of range: reading
    the ids here would wait for the GPU.
    """
    if not isinstance(x, Tensor) or x.dtype not in IDS:
        no_symbol(name, x)
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be row numbers in int64 or int32, got {kind}.")
    strided(name, x)
    on_a_device(name, x)
    if x.device.type != "cpu" or not readable(x) or x.numel() == 0:
        return
    ends = torch.aminmax(x)
    if not readable(ends.min):
        return
    low, high = (end.item() for end in ends)
    if low < 0 or high >= count:
        raise IndexError(
            f"{name} reach from {low} to {high}, but the rows are 0 to {count - 1}: ask for those."
        )
