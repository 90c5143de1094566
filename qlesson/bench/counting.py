"""The bytes that a call reads and writes, operator by operator (notebook 13)."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counting(TorchDispatchMode):
    """Counts, for every operator that runs, the bytes of the tensors it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, int, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        if not func.is_view and made.numel() > 1:
            read = sum(x.nbytes for x in tree_leaves(args) if isinstance(x, torch.Tensor))
            self.rows.append((name, read, made.nbytes))
        return made


def traffic(call: Callable[[], object]) -> list[tuple[str, int, int]]:
    """(operator, bytes read, bytes written) of every operation that `call` runs eagerly."""
    with _Counting() as counted:
        call()
    return counted.rows
