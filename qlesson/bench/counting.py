"""The bytes that a call reads and writes, operator by operator (notebook 13)."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What gives memory out as it is, and what fills it without looking at what was there.
UNFILLED = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
FILLING = ("copy", "fill", "zero")


class _Counting(TorchDispatchMode):
    """Counts, for every operator that runs, the bytes of the tensors it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, int, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        called = func.overloadpacket.__name__
        name = called.strip("_")
        given = _tensors(args[1:] if called.endswith("_") and name in FILLING else args)
        written = _tensors(made)
        moves = not func.is_view and name not in UNFILLED
        if moves and any(x.numel() > 1 for x in (*given, *written)):
            self.rows.append((name, *(sum(x.nbytes for x in held) for held in (given, written))))
        return made


def _tensors(held: Any) -> list[torch.Tensor]:
    return [x for x in tree_leaves(held) if isinstance(x, torch.Tensor)]


def traffic(call: Callable[[], object]) -> list[tuple[str, int, int]]:
    """(operator, bytes read, bytes written) of every operation that `call` runs eagerly."""
    with _Counting() as counted:
        call()
    return counted.rows
