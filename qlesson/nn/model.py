"""The layers of any model swapped for quantized ones (notebook 09).

    qmodel, report = quantize_model(model, ql.Scheme(8, "symmetric", ql.PerAxis(0)))
    print(report)

Which layers, which scheme for each, and what became of it.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from tqdm import tqdm

from qlesson import checks
from qlesson.affine import QParams
from qlesson.error import sqnr
from qlesson.nn.factor import Factor
from qlesson.nn.inputs import Inputs, in_groups
from qlesson.nn.layers import QuantizedLinear
from qlesson.nn.record import Batch, all_batches
from qlesson.nn.swap import (
    Model,
    Swappable,
    _key,
    _of_its_own,
    _read,
    _read_directly,
    _refuse,
    _swapped,
    _with_layers,
    names_of,
    naming_layer,
    swappable,
)
from qlesson.nn.weight import QuantizedWeight, _Layer
from qlesson.plan import Patterns, make_plan, refuse_two_schemes
from qlesson.qtensor import FindRange, QTensor, quantize_by
from qlesson.report import Report, Row, Stayed, naming, no_bar
from qlesson.scheme import Scheme


class Made(Protocol):
    """What a method gives for a layer, such as `qlesson.methods.Result`."""

    @property
    def weight(self) -> QTensor: ...
    @property
    def factor(self) -> Factor | None: ...


Method = Callable[..., Made]  # f(weight [out, in], inputs [samples, in], scheme, find_range=None)


def quantize_model(
    model: Model,
    scheme: Scheme | dict[str, Scheme],
    skip: Patterns = (),
    activations: Scheme | None = None,
    qparams: Mapping[str, QParams] | None = None,
    find_range: FindRange | None = None,
    method: Method | None = None,
    inputs: Iterable[Batch] | None = None,
    sequential: bool = False,
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
    method       None: every weight goes to its nearest code. A function (weight, inputs, scheme,
                 find_range=None) that gives codes and a factor, such as `qlesson.methods.gptq`,
                 decides for each nn.Linear; an embedding, a convolution and a weight that layers
                 share are rounded, as their notes in the report say.
    inputs       batches of the model, as `calibrate` takes them, for a method that looks at what a
                 layer meets: up to ROWS rows of it, drawn with a seed (`qlesson.nn.inputs`)
    sequential   each layer meets what comes out of the layers before it as they now are, quantized;
                 False: what the float model gives it

    Swapped are nn.Linear, nn.Embedding and nn.Conv1d to 3d (these weight-only), wherever the model
    refers to them, but no subclass that computes in a way of its own. A weight that layers share is
    quantized once, in one scheme, and stays shared; one that a parametrization computes is
    quantized as a copy of the layer computes it, once, in the layer's own mode: call model.eval()
    first. What is swapped for nothing, such as nn.LSTM, is listed in the report, and where nothing
    was swapped at all there is a warning.
    nn.MultiheadAttention reads the weight of its out_proj itself, which so becomes weight-only; its
    in_proj_weight is no layer and stays float.

    The original stays as it is. Memory: the new model beside it, without a second float copy of
    the swapped weights, and for one layer at a time about its size and 10 MB; with inputs a float64
    copy of the model, which runs on them, and 64 MB of recorded rows, or one block of the model.
    Raises ValueError, with the layer's name, for one that cannot be swapped, for a weight that is
    to be in two schemes, and for a pattern that fits nothing, or stands after a wider one that
    decides all it fits.
    """
    layers = swappable(model)
    _check_qparams(layers, activations, qparams)
    met = _inputs_of(model, method, inputs, sequential)
    plan = make_plan(layers, scheme, skip, names_of(model))
    refuse_two_schemes(plan, {name: _key(layers[name]) for name in plan})
    remedies = {name: f"To leave this layer as it is: skip={name!r}." for name in plan}
    for name, remedy in remedies.items():
        with naming_layer(name, remedy):
            _refuse(layers[name])
    why = {} if method is None else _why_rounded(model, {name: layers[name] for name in plan})
    order = _with_inputs(plan, layers, why, met, sequential)
    made: dict[str, _Layer] = {}
    codes_of: dict[int, tuple[str, QuantizedWeight, Factor | None]] = {}  # and whose they were
    rows: dict[str, Row] = {}
    for name, x in tqdm(order, "quantize", len(plan), disable=no_bar()):
        layer, by = layers[name], None if name in why else method
        with naming_layer(name, remedies[name]):
            weight, bias = _read(layer)
            if _key(layer) not in codes_of:
                coded = _codes_and_factor(weight, x, plan[name], find_range, by)
                codes_of[_key(layer)] = name, *coded
            first, codes, factor = codes_of[_key(layer)]
            new = _swapped(model, name, layer, codes, bias, activations, qparams, factor)
            note = _note(new, None if first == name else first, activations, why.get(name))
            before = 0 if first != name else _nbytes_of_weight(layer)
            rows[name], made[name] = _row(name, weight, new, before, note), new
        if met is not None and sequential:
            met.replace(name, new)
    qmodel = _with_layers(model, {layers[name]: new for name, new in made.items()})
    in_order = [rows[name] for name in plan]
    report = Report(in_order, _nbytes(model), _nbytes(qmodel), _stayed(model, qmodel, layers))
    if not rows:
        _warn_of_nothing(qmodel, report)
    return qmodel, report


def _inputs_of(
    model: nn.Module, method: Method | None, inputs: Iterable[Batch] | None, sequential: bool
) -> Inputs | None:
    if method is not None:
        checks.function("method", method, "(weight, inputs, scheme), such as methods.gptq")
    if inputs is None:
        if sequential:
            raise ValueError("sequential=True is given without inputs: pass batches of the model.")
        return None
    if method is None:
        raise ValueError("inputs are given without a method: pass one, such as methods.gptq.")
    return Inputs(model, all_batches("inputs", inputs))


def _why_rounded(model: nn.Module, layers: Mapping[str, Swappable]) -> dict[str, str]:
    """{name: reason} of the layers that are rounded, whatever the method."""
    users = Counter(map(_key, layers.values()))
    why = {}
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear):
            why[name] = "rounded: the method is for nn.Linear"
        elif users[_key(layer)] > 1:
            why[name] = "rounded: layers share the weight"
        elif _read_directly(model, layer):
            why[name] = "rounded: nn.MultiheadAttention reads the weight itself"
    return why


def _with_inputs(
    plan: Mapping[str, Scheme],
    layers: Mapping[str, Swappable],
    why: Mapping[str, str],
    met: Inputs | None,
    sequential: bool,
) -> Iterator[tuple[str, Tensor | None]]:
    """The layers in the order in which they are quantized, each with what it met."""
    if met is None:
        yield from ((name, None) for name in plan)
        return
    linear = {n: x for n, x in layers.items() if isinstance(x, nn.Linear) and n not in why}
    widths = {n: linear[n].in_features if n in linear else 0 for n in plan}
    groups = [[name] for name in met.order(list(plan))] if sequential else in_groups(widths)
    for group in groups:
        found = met.of(name for name in group if name not in why)
        for name in group:
            if name not in why and name not in found:
                raise ValueError(
                    f"Layer {name!r} did not run on any of the inputs: pass inputs that reach it, "
                    f"or leave it as it is with skip={name!r}."
                )
            yield name, found.pop(name, None)


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


def _codes_and_factor(
    weight: Tensor,
    x: Tensor | None,
    scheme: Scheme,
    find_range: FindRange | None,
    method: Method | None,
) -> tuple[QuantizedWeight, Factor | None]:
    """The codes of a layer's weight, seen as a matrix [outputs, everything else]."""
    if method is None:
        nearest = quantize_by(find_range, weight.flatten(1), scheme)
        return QuantizedWeight(nearest, weight.dtype), None
    how = {} if find_range is None else {"find_range": find_range}
    with naming("method", "" if x is not None else "If it needs inputs, pass inputs=batches."):
        found = method(weight, x, scheme, **how)
    if not hasattr(found, "weight") or not hasattr(found, "factor"):
        raise TypeError(
            f"method must give a Result, with weight and factor, got {checks.shown(found)}: see "
            "qlesson.methods.Result."
        )
    codes = QuantizedWeight(found.weight, weight.dtype)
    if codes.shape != weight.shape:
        raise ValueError(
            f"method must give codes of the weight's shape {tuple(weight.shape)}, got "
            f"{tuple(codes.shape)}."
        )
    return codes, found.factor


def _stayed(model: nn.Module, qmodel: nn.Module, layers: Mapping[str, Swappable]) -> list[Stayed]:
    """What is left in float, and why."""
    modules = dict(model.named_modules())
    stayed = []
    for full, x in qmodel.named_parameters():
        if x.ndim < 2 or not x.is_floating_point():
            continue
        *parts, _ = full.split(".")
        if "parametrizations" in parts:
            parts = parts[: parts.index("parametrizations")]
        name = ".".join(parts)
        chosen = name in layers
        reason = _why_it_stays(modules[name], chosen)
        stayed.append(Stayed(full, tuple(x.shape), x.nbytes, reason, chosen))
    return stayed


def _why_it_stays(owner: nn.Module, chosen: bool) -> str:
    kind = type(owner).__name__
    if chosen:
        return "left out by skip, or by the patterns of the schemes"
    if isinstance(owner, Swappable):
        return f"{kind} has a {_of_its_own(owner)} of its own"
    if isinstance(owner, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads it itself, and has no layer for it"
    if type(owner).__module__.startswith("torch.nn."):
        return f"nn.{kind} is none of the layers that are swapped"
    return f"a parameter of {kind}'s own, in no layer"


def _warn_of_nothing(qmodel: nn.Module, report: Report) -> None:
    """A model without a layer to swap comes back as a plain copy, which must not go unnoticed."""
    left = [f"{x.name} ({x.reason})" for x in report.stayed]
    more = f", and {len(left) - 3} more" if len(left) > 3 else ""
    if any(isinstance(module, QuantizedWeight) for module in qmodel.modules()):
        why = "its layers hold codes already: quantize the float model"
    elif left:
        why = f"what stays float: {', '.join(left[:3])}{more}"
    else:
        why = "it has no weights to quantize"
    warnings.warn(
        f"quantize_model swapped nothing, and gave back a copy of the model; {why}. Swapped "
        "are nn.Linear, nn.Embedding and nn.Conv1d to 3d.",
        stacklevel=checks.levels_to_caller(),
    )


def _nbytes_of_weight(layer: Swappable) -> int:
    """Of what holds it: a parametrization may make it of less, or of more."""
    if nn.utils.parametrize.is_parametrized(layer, "weight"):
        parts: Any = layer.parametrizations
        return _nbytes(parts["weight"])
    return layer.weight.nbytes


def _row(name: str, weight: Tensor, new: _Layer, before: int, note: str) -> Row:
    """The bytes and the error of one layer. A weight that is shared counts where it is first:
    elsewhere `before` is 0."""
    held = new.buffers() if before else set(new.buffers()) - set(new.codes.buffers())
    after = sum(x.nbytes for x in held)
    return Row(
        name or "(the model)",
        tuple(weight.shape),
        before,
        after,
        float(sqnr(weight, new.weight)),
        new.codes.bits,
        note,
    )


def _note(
    new: _Layer, first: str | None, activations: Scheme | None, rounded_why: str | None
) -> str:
    notes = [f"shares the codes of {first}"] if first is not None else []
    if isinstance(new, QuantizedLinear):
        if new.activations is not activations:
            notes.append("inputs stay float")
        if new.rotation is not None:
            notes.append(f"inputs rotated in blocks of {new.rotation.block}")
        elif new.factor is not None:
            notes.append("inputs times a factor")
    return ", ".join(notes + ([rounded_why] if rounded_why else []))


def _nbytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, each once."""
    return sum(x.nbytes for x in [*model.parameters(), *model.buffers()])
