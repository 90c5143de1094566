"""What the linear layers of a model are given, and the ranges of it (notebook 09)."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qlesson import checks
from qlesson.affine import QParams
from qlesson.granularity import PerTensor
from qlesson.nn.layers import QuantizedLinear
from qlesson.nn.swap import swappable
from qlesson.nn.weight import _KeepsScale
from qlesson.observers import MinMaxObserver, Observer
from qlesson.qtensor import qparams_from_range
from qlesson.scheme import Scheme

Batch = Tensor | Sequence[Any] | Mapping[str, Any]  # one argument, several, or named ones


@torch.no_grad()
def record(
    model: nn.Module,
    batches: Iterable[Batch],
    take: Callable[[str, Tensor], object],
    layers: Mapping[str, nn.Module] | None = None,
) -> None:
    """Run the model on the batches, and hand over the input of each linear layer as it comes.

    batches  inputs of the model: tensors, tuples of arguments, or dicts of named ones
    take     a function of (layer name, input [samples, in]); what it does not keep is gone
    layers   {name: layer} to listen to; None is every nn.Linear

    The model runs in the mode it is in, with copies of the batch and of the buffers that a run
    could change: what it changes is forgotten. Codes and scales are none of them. What
    torch.compile has made of it does not run, since no layer is heard there. Raises ValueError,
    with the layer's name, where an input holds NaN or infinity, and where no batch comes, and
    TypeError for one batch in the place of a list.
    """
    checks.running_model("model", model)
    checks.batches("batches", batches)
    if layers is None:
        layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}

    def listening(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args or signature(layer.forward).bind(**kwargs).args  # by any name
            x = torch.atleast_2d(given[0]).flatten(0, -2)
            if x.numel() and not checks.all_finite(*torch.aminmax(x)):
                raise ValueError(f"The input of layer {name!r} holds NaN or infinity.")
            take(name, x)

        return hook

    hooks = [m.register_forward_pre_hook(listening(n), with_kwargs=True) for n, m in layers.items()]
    buffers, ran = copied_buffers(model), False
    try:
        with _eagerly(), _padded(model):
            for batch in batches:
                torch.func.functional_call(model, buffers, *arguments(batch))
                ran = True
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise ValueError(
            "batches hold no batch: pass a list of them, since a generator gives its own only once."
        )


def _eagerly() -> AbstractContextManager[object]:
    """What torch.compile has made does not run. Where it has made nothing, it takes seconds to be
    imported."""
    compiler = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiler else nullcontext()


@contextmanager
def _padded(model: nn.Module) -> Iterator[None]:
    """nn.TransformerEncoder gives its layers padded tensors, and no nested ones, which have no
    rows."""
    encoders = (m for m in model.modules() if isinstance(m, nn.TransformerEncoder))
    nested = [m for m in encoders if m.use_nested_tensor]
    for module in nested:
        module.use_nested_tensor = False
    try:
        yield
    finally:
        for module in nested:
            module.use_nested_tensor = True


def copied_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that a run could change: codes and scales are none of them."""
    fixed = {n for n, m in model.named_modules() if isinstance(m, _KeepsScale)}
    return {n: x.clone() for n, x in model.named_buffers() if n.rpartition(".")[0] not in fixed}


def all_batches(name: str, batches: Any) -> list[Batch]:
    """Batches that are run more than once."""
    checks.batches(name, batches)
    if not (held := list(batches)):
        raise ValueError(f"{name} must hold at least one batch, and is empty: pass [batch].")
    return held


def arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with for this batch: copies, since it may compute in place."""
    if isinstance(batch, Mapping):
        return (), tree_map(_copied, dict(batch))
    return tree_map(_copied, (batch,) if isinstance(batch, Tensor) else tuple(batch)), {}


def _copied(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def calibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    activations: Scheme,
    observer: Callable[[Scheme], Observer] = MinMaxObserver,
) -> dict[str, QParams]:
    """Scale and zero point of each linear layer's input, from the range over all batches.

    Of a quantized layer with a factor it is the range of the input times the factor, as the layer
    quantizes it: calibrate what `quantize_model` gives for the same method and inputs.

    batches      inputs of the model: tensors, tuples of arguments, or dicts of named ones. The
                 model runs on each as it is: call model.eval() first.
    activations  the Scheme that the layers will use; one scale each
    observer     makes what watches a layer, of the Scheme: a class of `qlesson.observers`, such as
                 MSEObserver, or `functools.partial(PercentileObserver, percent=99.99)`

    Returns {layer name: QParams} for the layers that ran.
    """
    checks.scheme("activations", activations)
    checks.function("observer", observer, "a scheme, such as observers.MinMaxObserver")
    if activations.granularity != PerTensor():
        raise ValueError(f"One range per layer is fixed: ql.PerTensor(), not {activations}.")
    watching: dict[str, Observer] = {}

    def watch(name: str, x: Tensor) -> None:
        if name not in watching:
            watching[name] = observer(activations)
            checks.of_type("observer", watching[name], Observer, "use one of qlesson.observers")
        watching[name].observe(x)

    linear = {name: m for name, m in swappable(model).items() if isinstance(m, nn.Linear)}
    swapped = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}

    def take(name: str, x: Tensor) -> None:
        if x.numel():
            watch(name, swapped[name].prepare(x) if name in swapped else x)

    record(model, batches, take, {**linear, **swapped})
    return {name: qparams_from_range(*one.range(), activations) for name, one in watching.items()}
