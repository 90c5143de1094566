"""The layers of any model swapped for quantized ones (notebook 09).

    qmodel, report = quantize_model(model, ql.Scheme(8, "symmetric", ql.PerAxis(0)))
    print(report)

Which layers, which scheme for each, and what became of it.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from qlesson import checks
from qlesson.affine import QParams, rounded
from qlesson.error import sqnr
from qlesson.nn.layers import QuantizedConv, QuantizedEmbedding, QuantizedLinear
from qlesson.nn.weight import QuantizedWeight, _Layer
from qlesson.plan import Patterns, make_plan
from qlesson.qtensor import FindRange, quantize_by
from qlesson.report import Report, Row, Stayed, naming
from qlesson.scheme import Scheme

# A copy has the class of the model; but of a model that is itself a layer, that of the new layer.
Model = TypeVar("Model", bound=nn.Module)
Swappable = nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d
SWAPPED: tuple[type[nn.Module], ...] = get_args(Swappable)


def quantize_model(
    model: Model,
    scheme: Scheme | dict[str, Scheme],
    skip: Patterns = (),
    activations: Scheme | None = None,
    qparams: Mapping[str, QParams] | None = None,
    find_range: FindRange | None = None,
) -> tuple[Model, Report]:
    """A copy of the model with quantized layers, and a Report of what that did (notebook 09).

    scheme       a Scheme for every layer, or {pattern: Scheme}: the layer's own name decides, else
                 the first pattern that fits it, and a layer that none fits stays as it is
    skip         a pattern or several, as in fnmatch ("*.head"), of layers to leave as they are; a
                 pattern that fits a module leaves all layers inside it, and one that is a name
                 ("h[0]") means that name alone
    activations  None: weight-only. A Scheme: linear layers quantize their inputs too.
    qparams      {layer name: QParams} from `calibrate`: static instead of dynamic ranges
    find_range   where the ranges of the weights come from, as in `ql.choose_qparams`

    Swapped are nn.Linear, nn.Embedding and nn.Conv1d to 3d (these weight-only), wherever the model
    refers to them, but no subclass with a forward of its own. A weight that layers share is
    quantized once and stays shared; one that a parametrization computes is quantized as a copy of
    the layer computes it, once, in the layer's own mode: call model.eval() first. What is swapped
    for nothing, such as nn.LSTM, is listed in the report, and where nothing was swapped at all
    there is a warning.
    nn.MultiheadAttention reads the weight of its out_proj itself, which so becomes weight-only; its
    in_proj_weight is no layer and stays float.

    The original stays as it is. Memory: the new model beside it, without a second float copy of
    the swapped weights, and for one layer at a time about its size and 10 MB.
    Raises ValueError, with the layer's name, for one that cannot be swapped, and for a pattern
    that fits nothing.
    """
    layers = swappable(model)
    _check_qparams(layers, activations, qparams)
    plan = make_plan(layers, scheme, skip, _names(model))
    made: dict[str, _Layer] = {}
    codes_of: dict[int, tuple[str, QuantizedWeight]] = {}  # and whose they were first
    rows: list[Row] = []
    for name in tqdm(plan, "quantize", disable=None):
        layer = layers[name]
        with naming_layer(name, f"To leave this layer as it is: skip={name!r}."):
            _refuse(layer)
            weight, bias = _read(layer)
            first, codes = codes_of.get(_key(layer)) or (
                None,
                _coded(weight, plan[name], find_range),
            )
            made[name] = _swapped(model, name, layer, codes, bias, activations, qparams)
            rows.append(_row(name, weight, made[name], first, activations))
            codes_of.setdefault(_key(layer), (name, codes))
    qmodel = _with_layers(model, {layers[name]: new for name, new in made.items()})
    report = Report(rows, _nbytes(model), _nbytes(qmodel), _stayed(model, qmodel, layers))
    if not rows:
        _warn_of_nothing(report)
    return qmodel, report


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


def swappable(model: nn.Module) -> dict[str, Swappable]:
    """{first name: layer} of what can be swapped; the model itself has the name ""."""
    checks.model("model", model)
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise TypeError(
            "model is traced or scripted by torch.jit, which has put its layers into a program of "
            "its own: quantize the model before."
        )
    forwards = {kind.forward for kind in SWAPPED}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Swappable) and type(module).forward in forwards
    }


def _names(model: nn.Module) -> dict[str, list[str]]:
    """{first name: every name} of each module: one that is used twice has two."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return {same[0]: same for same in names.values()}


def _check_qparams(
    layers: Iterable[str], activations: Scheme | None, qparams: Mapping[str, QParams] | None
) -> None:
    if activations is not None:
        checks.scheme("activations", activations)
    if qparams is not None:
        checks.dictionary("qparams", qparams, "{name: QParams}")
    if qparams is not None and activations is None:
        raise ValueError("qparams are given without activations: pass their Scheme too.")
    unknown = sorted(set(qparams or ()) - set(layers))
    if unknown:
        raise ValueError(f"qparams name {unknown}, which are no layers that could be quantized.")


def _read(layer: Swappable) -> tuple[Tensor, Tensor | None]:
    """A layer's weight and bias, without effects on the layer.

    A parametrization computes them at every reading, and may change its state and draw random
    numbers in that: so a copy of the layer is read.
    """
    if nn.utils.parametrize.is_parametrized(layer):
        devices = {x.device for x in layer.parameters() if x.is_cuda}
        with torch.random.fork_rng(devices):
            layer = copy.deepcopy(layer)
            return layer.weight.detach(), getattr(layer, "bias", None)
    return layer.weight.detach(), getattr(layer, "bias", None)


def _coded(weight: Tensor, scheme: Scheme, find_range: FindRange | None) -> QuantizedWeight:
    """The codes of a layer's weight, seen as a matrix [outputs, everything else]."""
    return QuantizedWeight(quantize_by(find_range, weight.flatten(1), scheme), weight.dtype)


def _refuse(layer: Swappable) -> None:
    """Raises ValueError for a layer that cannot be swapped."""
    weight = layer._parameters.get("weight")
    if weight is not None and nn.parameter.is_lazy(weight):
        raise ValueError("its weight does not exist yet: run the model once first.")
    forward = layer._forward_hooks, layer._forward_pre_hooks
    backward = layer._backward_hooks, layer._backward_pre_hooks
    if any(forward) or any(backward) or "forward" in vars(layer):
        raise ValueError("it has hooks, which a new layer would lose: remove them first.")
    if getattr(layer, "max_norm", None) is not None:
        raise ValueError("its max_norm changes the weight at every use, which codes cannot follow.")


def _swapped(
    model: nn.Module,
    name: str,
    layer: Swappable,
    codes: QuantizedWeight,
    bias: Tensor | None,
    activations: Scheme | None,
    qparams: Mapping[str, QParams] | None,
) -> _Layer:
    """The quantized layer in the place of `layer`, in the same mode."""
    new: _Layer
    if isinstance(bias, Tensor):
        bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    if isinstance(layer, nn.Embedding):
        new = QuantizedEmbedding(codes, padding_idx=layer.padding_idx)
    elif not isinstance(layer, nn.Linear):
        new = QuantizedConv(layer, codes, bias)
    elif activations is None or _read_directly(model, layer):
        new = QuantizedLinear(codes, bias)
    else:
        if qparams is not None and name not in qparams:
            raise ValueError("qparams have no range for it: run it in `calibrate`.")
        new = QuantizedLinear(codes, bias, activations, None if qparams is None else qparams[name])
    return new.train(layer.training)


def _read_directly(model: nn.Module, layer: nn.Linear) -> bool:
    """nn.MultiheadAttention uses the weight of its out_proj without calling that layer."""
    users = (m for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    return any(layer is user.out_proj for user in users)


def _with_layers(model: Model, made: Mapping[Swappable, _Layer]) -> Model:
    """A deep copy of the model in which the new layers take the places of the old.

    The copy starts with the new layers as already copied, so the old ones never are.
    """
    qmodel = copy.deepcopy(model, {id(old): new for old, new in made.items()})
    if any(getattr(new, "activations", None) for new in made.values()):
        for module in qmodel.modules():
            # torch's fast paths read the weights of layers that they do not call
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
    return qmodel


def naming_layer(name: str, remedy: str = "") -> AbstractContextManager[None]:
    """An error inside names the layer; the model itself has no name."""
    return naming(f"Layer {name!r}", remedy) if name else nullcontext()


def _key(layer: Swappable) -> int:
    """What layers that share a weight have in common."""
    weight = layer._parameters.get("weight")
    return id(layer if weight is None else weight)


def _stayed(model: nn.Module, qmodel: nn.Module, layers: Mapping[str, Swappable]) -> list[Stayed]:
    """What is left in float, and why."""
    modules = dict(model.named_modules())
    stayed = []
    for full, x in qmodel.named_parameters():
        if x.ndim < 2 or not x.is_floating_point():
            continue
        name = full.partition("parametrizations.")[0].removesuffix(".")
        if name == full:
            name = full.rpartition(".")[0]
        chosen = name in layers
        reason = _why_it_stays(modules[name], chosen)
        stayed.append(Stayed(full, tuple(x.shape), x.nbytes, reason, chosen))
    return stayed


def _why_it_stays(owner: nn.Module, chosen: bool) -> str:
    kind = type(owner).__name__
    if chosen:
        return "left out by skip, or by the patterns of the schemes"
    if isinstance(owner, Swappable):
        return f"{kind} has a forward of its own"
    if isinstance(owner, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads it itself, and has no layer for it"
    if type(owner).__module__.startswith("torch.nn."):
        return f"nn.{kind} is none of the layers that are swapped"
    return f"a parameter of {kind}'s own, in no layer"


def _warn_of_nothing(report: Report) -> None:
    """A model without a layer to swap comes back as a plain copy, which must not go unnoticed."""
    left = [f"{x.name} ({x.reason})" for x in report.stayed]
    more = f", and {len(left) - 3} more" if len(left) > 3 else ""
    why = (
        f"what stays float: {', '.join(left[:3])}{more}"
        if left
        else "it has no weights to quantize"
    )
    warnings.warn(
        f"quantize_model swapped nothing, and gave back a copy of the float model; {why}. Swapped "
        "are nn.Linear, nn.Embedding and nn.Conv1d to 3d.",
        stacklevel=checks.levels_to_caller(),
    )


def _row(
    name: str, weight: Tensor, new: _Layer, first: str | None, activations: Scheme | None
) -> Row:
    """The bytes and the error of one layer; a weight that is shared counts where it is first."""
    shared = first is not None
    after = sum(b.nbytes for b in new.buffers() if not shared or b not in set(new.codes.buffers()))
    return Row(
        name or "(the model)",
        tuple(weight.shape),
        0 if shared else weight.nbytes,
        after,
        float(sqnr(weight, new.weight)),
        new.codes.bits,
        _note(new, first, activations),
    )


def _note(new: _Layer, first: str | None, activations: Scheme | None) -> str:
    notes = [f"shares the codes of {first}"] if first is not None else []
    if isinstance(new, QuantizedLinear) and new.activations is not activations:
        notes.append("inputs stay float")
    return ", ".join(notes)


def _nbytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, each once."""
    return sum(x.nbytes for x in [*model.parameters(), *model.buffers()])
