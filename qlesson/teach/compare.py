"""Comparing and showing what may be anything: whatever an answer is, nothing here raises."""

from decimal import Decimal
from fractions import Fraction
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = (int, float, Fraction, Decimal)


def same(got: Any, expected: Any, within: float = 0.0, exact: bool = False) -> bool:
    """Integers exactly, floats to about five digits or as float32, tuples part by part."""
    if isinstance(expected, tuple):
        return has(len(expected), got) and all(
            same(a, b, within, exact) for a, b in zip(got, expected, strict=True)
        )
    a, b = as_tensor(got), as_tensor(expected)
    if a is None or b is None:
        return False
    if b.ndim == 0 and a.numel() == 1:
        a = a.reshape(())
    if a.shape != b.shape:
        return False
    if not b.is_floating_point() or not b.numel():
        return torch.equal(a.double(), b.double())
    if exact:
        return torch.equal(a.float(), b.float())
    a, b = a.double(), b.double()
    row = b.abs().amax(-1, keepdim=True) if b.ndim else b.abs()  # each has a size of its own
    return bool(((a == b) | ((a - b).abs() <= 1e-5 * b.abs() + (1e-6 * row).clamp(within))).all())


def has(n: int, x: Any) -> bool:
    return bool(isinstance(x, (list, tuple)) or shape_of(x)) and len(x) == n


def as_tensor(x: Any) -> Tensor | None:
    """x as a tensor on the CPU, or None where it does not hold real numbers."""
    try:
        if isinstance(x, (list, tuple)):
            if len(x) > 10_000:
                return None
            if any(isinstance(v, (list, tuple, Tensor)) for v in x):
                parts = [part for part in map(as_tensor, x) if part is not None]
                return torch.stack(parts) if len(parts) == len(x) else None
        if not isinstance(x, Tensor):
            x = np.asarray(x, order="C")  # float64 for Python's floats
            if x.dtype == object and all(isinstance(v, NUMBERS) for v in x.flat):
                x = x.astype(float)
            x = torch.as_tensor(x)
        odd = x.is_complex() or x.is_quantized or x.layout != torch.strided
        return None if odd else x.detach().cpu()
    except Exception:
        return None


def shape_of(x: Any) -> tuple[int, ...] | None:
    x = None if isinstance(x, tuple) else as_tensor(x)
    return None if x is None else tuple(x.shape)


def in_short(x: Any, most: int = 200) -> str:
    """x in one line of plain text, numbers to six digits."""
    try:
        text = _text(x)
    except Exception:
        text = f"an object of type {type(x).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 4] + " ..."


def _text(x: Any) -> str:
    if isinstance(x, BaseException):
        return f"{type(x).__name__}: {x}".rstrip(": ")
    if isinstance(x, Tensor) and x.numel() <= 1000:
        return _text(x.tolist())
    if isinstance(x, Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    if isinstance(x, (list, tuple)) and len(x) <= 1000:
        inside = ", ".join(_text(v) for v in x)
        return f"[{inside}]" if isinstance(x, list) else f"({inside})"
    if isinstance(x, float):
        return f"{x:.6g}" if not x.is_integer() or abs(x) >= 1e6 else f"{x:.1f}"
    if isinstance(x, str):
        return f'"{x}"'
    if x is ...:
        return "..."
    return f"the function {x.__name__}" if isinstance(x, FunctionType) else repr(x)
