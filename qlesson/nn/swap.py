"""Which layers of a model can be swapped, and how one is: without effects on the model."""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import QParams, rounded
from qlesson.nn.factor import Factor
from qlesson.nn.layers import QuantizedConv, QuantizedEmbedding, QuantizedLinear
from qlesson.nn.weight import QuantizedWeight, _Layer
from qlesson.report import naming
from qlesson.scheme import Scheme

# A copy has the class of the model; but of a model that is itself a layer, that of the new layer.
Model = TypeVar("Model", bound=nn.Module)
Swappable = nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d
SWAPPED: tuple[type[nn.Module], ...] = get_args(Swappable)
COMPUTE = ("forward", "_conv_forward", "__call__")  # what decides what a layer gives out


def swappable(model: nn.Module) -> dict[str, Swappable]:
    """{first name: layer} of what can be swapped; the model itself has the name ""."""
    checks.model("model", model)
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise TypeError(
            "model is traced or scripted by torch.jit, which has put its layers into a program of "
            "its own: quantize the model before."
        )
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Swappable) and _of_its_own(module) is None
    }


def _of_its_own(layer: nn.Module) -> str | None:
    """What the layer's class computes in another way than torch's; None where that is nothing."""
    kind, torchs = type(layer), next(kind for kind in SWAPPED if isinstance(layer, kind))
    own = (n for n in COMPUTE if getattr(kind, n, None) is not getattr(torchs, n, None))
    return next(own, None)


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """{first name: every name} of each module: one that is used twice has two."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return {same[0]: same for same in names.values()}


def _read(layer: Swappable) -> tuple[Tensor, Tensor | None]:
    """A layer's weight and bias, without effects on the layer; the bias itself where it holds one.

    A parametrization computes them at every reading, and may change its state and draw random
    numbers in that: so a copy of the layer is read.
    """
    if nn.utils.parametrize.is_parametrized(layer):
        devices = {x.device for x in layer.parameters() if x.is_cuda}
        with torch.random.fork_rng(devices):
            copied = copy.deepcopy(layer)
            bias = layer._parameters.get("bias")
            return copied.weight.detach(), getattr(copied, "bias", None) if bias is None else bias
    return layer.weight.detach(), getattr(layer, "bias", None)


def _refuse(layer: Swappable) -> None:
    """Raises ValueError for a layer that cannot be swapped."""
    weight = layer._parameters.get("weight")
    if weight is not None and nn.parameter.is_lazy(weight):
        raise ValueError("its weight does not exist yet: run the model once first.")
    for name in {"weight", "bias"} - layer._parameters.keys() - layer._buffers.keys():
        parametrized = nn.utils.parametrize.is_parametrized(layer, name)  # to ask would compute it
        if not parametrized and hasattr(layer, name):
            raise ValueError(
                f"a hook computes its {name} before each call, as prune, weight_norm and "
                f"spectral_norm of torch.nn.utils do: call prune.remove(layer, {name!r}), "
                "remove_weight_norm(layer) or remove_spectral_norm(layer) first."
            )
    if _has_hooks(layer) or not vars(layer).keys().isdisjoint(COMPUTE):
        raise ValueError("it has hooks, which a new layer would lose: remove them first.")
    held = {**layer._parameters, **layer._buffers, **layer._modules}
    more = next((n for n in held if n not in ("weight", "bias", "parametrizations")), None)
    if more is not None:
        raise ValueError(
            f"it holds {more}, which a new layer would lose: keep that in another module."
        )
    if getattr(layer, "max_norm", None) is not None:
        raise ValueError("its max_norm changes the weight at every use, which codes cannot follow.")


def _has_hooks(layer: Swappable) -> bool:
    """Of its calls, of its gradients, of what it saves and loads; but for those by which torch's
    weight_norm reads older files, and that a removed spectral_norm leaves."""
    harmless = "torch.nn.utils.parametrizations", "torch.nn.utils.spectral_norm"
    held = [
        x for name, hooks in vars(layer).items() if name.endswith("_hooks") for x in hooks.values()
    ]
    return any(getattr(x, "__module__", "") not in harmless for x in held)


def _key(layer: Swappable) -> int:
    """What layers that share a weight have in common."""
    weight = layer._parameters.get("weight")
    return id(layer if weight is None else weight)


def _swapped(
    model: nn.Module,
    name: str,
    layer: Swappable,
    codes: QuantizedWeight,
    bias: Tensor | None,
    activations: Scheme | None,
    qparams: Mapping[str, QParams] | None,
    factor: Factor | None,
) -> _Layer:
    """The quantized layer in the place of `layer`, in the same mode. A bias that is a parameter is
    still that of `layer`: `_with_layers` copies it."""
    new: _Layer
    if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter):
        bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    if isinstance(layer, nn.Embedding):
        new = QuantizedEmbedding(codes, padding_idx=layer.padding_idx)
    elif not isinstance(layer, nn.Linear):
        new = QuantizedConv(layer, codes, bias)
    elif activations is None or _read_directly(model, layer):
        new = QuantizedLinear(codes, bias, factor=factor)
    else:
        if qparams is not None and name not in qparams:
            raise ValueError("qparams have no range for it: run it in `calibrate`.")
        ranges = None if qparams is None else qparams[name]
        new = QuantizedLinear(codes, bias, activations, ranges, factor)
    return new.train(layer.training)


def _read_directly(model: nn.Module, layer: nn.Linear) -> bool:
    """nn.MultiheadAttention uses the weight of its out_proj without calling that layer."""
    users = (m for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    return any(layer is user.out_proj for user in users)


def _with_layers(
    model: Model, made: Mapping[Swappable, _Layer], shared: Mapping[int, Tensor] | None = None
) -> Model:
    """A deep copy of the model in which the new layers take the places of the old.

    The copy starts with the new layers as already copied, so the old ones never are; nor are the
    tensors in `shared`, {id: tensor}, which both models then hold.
    """
    memo: dict[int, Any] = {id(old): new for old, new in made.items()} | dict(shared or {})
    qmodel = copy.deepcopy(model, memo)
    for new in made.values():  # one that is used elsewhere too is copied already
        new.bias = copy.deepcopy(new.bias, memo)
    quantizes = any(getattr(new, "activations", None) for new in made.values())
    for module in qmodel.modules():
        # torch's fast path reads the weights of layers that it does not call
        if quantizes and isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        # and layers off it, as those with other weights may be, take no nested tensors
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return qmodel


def naming_layer(name: str, remedy: str = "") -> AbstractContextManager[None]:
    """An error inside names the layer; the model itself has no name."""
    return naming(f"Layer {name!r}", remedy) if name else nullcontext()


@torch.no_grad()
def with_weights(model: Model, names: Iterable[str], new: Callable[[str, Tensor], Tensor]) -> Model:
    """A copy of the model, still in float, in which each layer named has the weight that
    new(name, weight) gives, rounded to its dtype.

    Raises ValueError, with the layer's name, where a parametrization computes the weight.
    """
    model = copy.deepcopy(model)
    for name in names:
        layer: Any = model.get_submodule(name)
        with naming_layer(name):
            if nn.utils.parametrize.is_parametrized(layer, "weight"):
                raise ValueError(
                    "a parametrization computes its weight, and would compute it anew: call "
                    "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') first."
                )
            weight = layer.weight.detach()
            weight.copy_(rounded(new(name, weight), weight.dtype))
    return model
