"""What the linear layers of a model are given, kept for a method: in float64, few rows, few layers
at a time."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qlesson.nn.record import Batch, record
from qlesson.nn.swap import _with_layers
from qlesson.nn.weight import _Layer

ROWS = 4096  # of the inputs of a layer, at most
TOGETHER = 2**26  # bytes recorded in one run, at most, unless one block of the model needs more


def in_float64(model: nn.Module, batches: Iterable[Batch]) -> tuple[nn.Module, list[Any]]:
    """A copy of the model, and its batches, in float64 and eval mode: rounded to float32 at the
    end, what is recorded is the same on every machine, whatever the order of its sums.

    A model may make floats of its own: its layers take them in float64 too. Of what computes
    between the layers and does not, `naming_float64` tells."""
    copied = copy.deepcopy(model).double().eval()
    for module in copied.modules():
        _take_in_float64(module)
    return copied, tree_map(_doubled, [dict(b) if isinstance(b, Mapping) else b for b in batches])


def _take_in_float64(module: nn.Module) -> None:
    """What has weights takes no floats of another dtype."""
    if isinstance(module, _Layer) or module._parameters:
        module.register_forward_pre_hook(_double_arguments, with_kwargs=True)


def _double_arguments(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_doubled, args)), {name: _doubled(x) for name, x in kwargs.items()}


def _doubled(x: Any) -> Any:
    """A float tensor in float64, as the model then is; ids and all else as they are."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@contextmanager
def naming_float64() -> Iterator[None]:
    """Where two dtypes do not go together, torch does not say why one of them is float64."""
    try:
        yield
    except RuntimeError as error:
        if "type" not in str(error):
            raise
        raise TypeError(
            "The model does not run in float64, in which its layers are shown their inputs "
            f"({str(error).rstrip('.')}): what it makes itself must have the dtype of what it is "
            "given, as x.new_zeros and .to(x.dtype) give it."
        ) from error


class Inputs:
    """Runs a float64 copy of the model on the batches, as often as asked."""

    def __init__(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        self.model, self.batches = in_float64(model, batches)
        self.calls: list[Counter[str]] = [Counter() for _ in self.batches]  # as far as counted

    def of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """{name: float32 [samples, in]} of these layers, at most ROWS each; in the order in which
        they first run, without those that never do."""
        kept: dict[str, _Rows] = {}
        layers = {name: self.model.get_submodule(name) for name in names}
        for batch, calls in zip(self.batches, self.calls, strict=True):
            left = Counter({name: calls[name] for name in layers})
            if not layers or (calls and not left.total()):
                continue  # nothing to be heard

            def take(name: str, x: Tensor, left: Counter[str] = left) -> None:
                kept.setdefault(name, _Rows()).take(x)
                left[name] -= 1
                if left.total() == 0:
                    raise _AllMet

            with suppress(_AllMet), naming_float64():
                record(self.model, [batch], take, layers)
        return {name: kept.pop(name).rows() for name in list(kept) if len(kept[name].drawn)}

    def order(self, names: Sequence[str]) -> list[str]:
        """The names in the order in which the layers first run; then those that never do. Their
        calls are counted: `of` then runs the model no further than it must."""
        layers = {name: self.model.get_submodule(name) for name in names}
        for batch, calls in zip(self.batches, self.calls, strict=True):
            with naming_float64():
                record(self.model, [batch], _counting(calls), layers)
        return list(dict.fromkeys([*chain(*self.calls), *names]))

    def replace(self, name: str, new: _Layer) -> None:
        """From now on the copy runs with this layer, in float64 as the rest."""
        old: Any = self.model.get_submodule(name)
        tensors = [*self.model.parameters(), *self.model.buffers()]
        made = {old: copy.deepcopy(new).double().eval()}
        _take_in_float64(made[old])
        self.model = _with_layers(self.model, made, {id(x): x for x in tensors})


def _counting(calls: Counter[str]) -> Callable[[str, Tensor], None]:
    return lambda name, x: calls.update([name])


class _AllMet(Exception):
    """The layers have met all that this batch has for them."""


class _Rows:
    """At most ROWS of all rows handed over, each as likely as any other, in their order.

    Every row draws a number, and the smallest numbers stay: the seed is one for all layers, so
    layers that meet the same rows keep the same.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.drawn = torch.empty(0, dtype=torch.int64, device="cpu")
        self.parts: list[Tensor] = []

    def take(self, x: Tensor) -> None:
        new = torch.randint(2**62, (len(x),), generator=self.generator, device="cpu")
        self.drawn = torch.cat([self.drawn, new])
        self.parts.append(x.float())
        if len(self.drawn) > ROWS:
            stay = self.drawn.argsort()[:ROWS].sort().values
            self.drawn, self.parts = self.drawn[stay], [self.rows()[stay.to(x.device)]]

    def rows(self) -> Tensor:
        return torch.cat(self.parts)


def in_groups(widths: Mapping[str, int]) -> list[list[str]]:
    """The names, grouped: those recorded in one run, from the number of inputs of each layer.

    A block of the model ("blocks.3") stays whole. Blocks come together as long as they take no
    more than TOGETHER bytes.
    """
    groups: list[list[str]] = []
    space = 0
    for _, block in groupby(widths, _block):
        names = list(block)
        size = 4 * ROWS * sum(widths[name] for name in names)
        if not groups or size > space:
            groups.append([])
            space = TOGETHER
        groups[-1] += names
        space -= size
    return groups


def _block(name: str) -> str:
    """ "blocks.3.mlp.up" -> "blocks.3": the name up to the first number in it."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else name
