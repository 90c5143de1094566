"""A factor taken over by the layer before, so that nothing is left to multiply."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qlesson import checks
from qlesson.affine import rounded
from qlesson.nn.inputs import in_float64, naming_float64
from qlesson.nn.layers import QuantizedLinear
from qlesson.nn.record import Batch, all_batches, arguments
from qlesson.nn.swap import Model


@torch.no_grad()
def fold(qmodel: Model, before: str, layers: str | Sequence[str], inputs: Iterable[Batch]) -> Model:
    """A copy of the model in which `before` gives out what `layers` multiply their input to.

    before   the name of a float layer with a weight, and perhaps a bias, for each of its outputs,
             such as nn.LayerNorm, nn.RMSNorm or nn.Linear: both are multiplied by the factor
    layers   the names of all the quantized layers that take its output: they have one factor [in],
             and lose it. The ranges of static layers stay: they are those of the multiplied input.
    inputs   batches of the model. On each the folded model must give out what the model gives, to
             float64's rounding: whether something else takes the output of `before`, such as a
             residual connection, is told by that alone.

    A rotation cannot be folded into such a layer. Raises ValueError where the outputs change.
    """
    checks.model("qmodel", qmodel)
    batches = all_batches("inputs", inputs)
    names = checks.patterns("layers", layers)
    factor = _common_factor([_module(qmodel, "layers", name) for name in names], names)
    _check_weight(_module(qmodel, "before", before), before, len(factor))
    plain, batches = in_float64(qmodel, batches)
    wanted = [_outputs(plain, batch) for batch in batches]
    _fold(plain, before, names, factor)
    for batch, outputs in zip(batches, wanted, strict=True):
        _check_same(outputs, _outputs(plain, batch), before)
    folded = copy.deepcopy(qmodel)
    _fold(folded, before, names, factor)
    return folded


def _fold(model: nn.Module, before: str, names: Iterable[str], factor: Tensor) -> None:
    for parameter in model.get_submodule(before).parameters():
        by = factor.double().view(-1, *[1] * (parameter.ndim - 1))
        new = rounded(parameter.double() * by, parameter.dtype)
        if not new.isfinite().all():
            raise ValueError(
                f"{before!r} cannot hold weight times factor in {parameter.dtype}: fold it "
                "in float32, or leave the factor in the layers."
            )
        parameter.copy_(new)
    for name in names:
        layer: Any = model.get_submodule(name)
        layer.input_factor = None


def _module(model: nn.Module, argument: str, name: Any) -> nn.Module:
    checks.text(argument, name)
    found = dict(model.named_modules(remove_duplicate=False)).get(name)
    if found is None:
        raise ValueError(f"{argument} must name a module, and the model has none named {name!r}.")
    return found


def _common_factor(layers: Sequence[nn.Module], names: Sequence[str]) -> Tensor:
    """The factor that all of them have."""
    factors = [layer.factor for layer in layers if isinstance(layer, QuantizedLinear)]
    held = [x for x in factors if isinstance(x, Tensor)]
    if not held or len(held) < len(layers):
        raise ValueError(
            f"layers must be quantized ones that have a factor [in], and of {list(names)} not all "
            "have one: a rotation, or what has no factor, cannot be folded."
        )
    if not all(x.shape == held[0].shape and torch.equal(x, held[0]) for x in held):
        raise ValueError(
            f"layers must share one factor, and {list(names)} have several: what is before them "
            "could give out one alone."
        )
    return held[0]


def _check_weight(layer: nn.Module, name: str, outputs: int) -> None:
    own = dict(layer.named_parameters(recurse=False))
    fits = all(x.is_floating_point() and x.shape[:1] == (outputs,) for x in own.values())
    if "weight" not in own or not fits or any(True for _ in layer.children()):
        raise ValueError(
            f"before must be a float layer with a weight for each of its {outputs} outputs, such "
            f"as nn.LayerNorm or nn.Linear, and {name!r} is {type(layer).__name__}."
        )


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    args, kwargs = arguments(batch)
    with naming_float64():
        outputs = model(*args, **kwargs)
    if not (found := _floats(outputs)):
        raise ValueError(
            f"The model gives out no float tensor, by which a fold is checked, but "
            f"{checks.shown(outputs)}: pass the part of it that gives out floats, such as logits."
        )
    return found


def _floats(outputs: Any) -> list[Tensor]:
    """The float tensors in what a model gives out, in dataclasses too."""
    found = []
    for x in tree_leaves(outputs):
        if is_dataclass(x) and not isinstance(x, type):
            found += _floats([getattr(x, field.name) for field in fields(x)])
        elif isinstance(x, Tensor) and x.is_floating_point():
            found.append(x)
    return found


def _check_same(wanted: Iterable[Tensor], got: Iterable[Tensor], before: str) -> None:
    """To float64's rounding: a factor that is lost or met twice changes more by far. What is not
    finite has to stay as it is, and what is large, such as the logits of masked ids, makes no
    other output's rounding larger."""
    for x, y in zip(wanted, got, strict=True):
        apart = x[(x != y) & x.isfinite()].abs()
        near = 1e-9 * float(apart.median()) if apart.numel() else 0.0
        if not torch.allclose(x, y, rtol=1e-9, atol=near, equal_nan=True):
            raise ValueError(
                f"before must give its output to these layers alone: folded into {before!r}, the "
                "factor changes what the model gives out. Leave it in the layers."
            )
