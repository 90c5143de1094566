"""The layers of any model swapped for quantized ones (notebook 09).

    qmodel, report = quantize_model(model, ql.Scheme(8, "symmetric", ql.PerAxis(0)))
    print(report)

Which layers, which scheme for each, what became of it, and the input ranges of static layers.
"""

import copy
import warnings
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from qlesson import checks
from qlesson.affine import QParams
from qlesson.error import sqnr
from qlesson.granularity import PerTensor
from qlesson.nn.layers import QuantizedConv, QuantizedEmbedding, QuantizedLinear
from qlesson.nn.weight import QuantizedWeight
from qlesson.qtensor import qparams_from_range, quantize
from qlesson.ranges import min_max
from qlesson.scheme import Scheme


class Row(NamedTuple):
    """What became of one layer."""

    name: str
    shape: tuple
    bits: int
    bytes_before: int  # of the weight
    bytes_after: int  # of all that replaces it: codes, scales, zero points, sums
    sqnr: float  # of W_hat, in dB
    note: str = ""


class Stayed(NamedTuple):
    """A parameter of two axes or more that stayed float; `reason` says why."""

    name: str
    shape: tuple
    nbytes: int
    reason: str
    chosen: bool  # by `skip`, or by schemes that fit other layers


class Report(list):
    """A Row for each layer, in the model's order; prints as a table with totals in bytes.

    The totals count every parameter and buffer once, those left in float too.

    stayed  a `Stayed` for each float parameter of two axes or more that is left. Those that nobody
            chose to leave are printed below the table.
    """

    def __init__(self, rows, bytes_before, bytes_after, stayed=()):
        super().__init__(rows)
        self.bytes_before, self.bytes_after = bytes_before, bytes_after
        self.stayed = list(stayed)

    def __str__(self):
        replaced = sum(row.bytes_before for row in self), sum(row.bytes_after for row in self)
        width = max([len(row.name) for row in self] + [len("the rest, unchanged")])
        lines = [f"{'':{width}}  {'shape':>14}  bits  {'before':>12}  {'after':>12}  SQNR dB"]
        for row in self:
            shape = "x".join(map(str, row.shape))
            lines.append(
                f"{row.name:{width}}  {shape:>14}  {row.bits:4d}  {row.bytes_before:12,}  "
                f"{row.bytes_after:12,}  {row.sqnr:7.2f}  {row.note}".rstrip()
            )
        rest = self.bytes_before - replaced[0], self.bytes_after - replaced[1]
        for name, (before, after) in {
            "the rest, unchanged": rest,
            "bytes in all": (self.bytes_before, self.bytes_after),
        }.items():
            lines.append(f"{name:{width}}  {'':14}  {'':4}  {before:12,}  {after:12,}")
        for name, shape, nbytes, reason, chosen in self.stayed:
            if not chosen:
                shape = "x".join(map(str, shape))
                lines.append(f"stays float: {name} ({shape}, {nbytes:,} bytes): {reason}")
        return "\n".join(lines)


def quantize_model(model, scheme, skip=(), activations=None, qparams=None):
    """A copy of the model with quantized layers, and a Report of what that did (notebook 09).

    scheme       a Scheme for every layer, or {pattern: Scheme}: the layer's own name decides, else
                 the first pattern that fits it, and a layer that none fits stays as it is
    skip         a pattern or several, as in fnmatch ("*.head"), of layers to leave as they are; a
                 pattern that fits a module leaves all layers inside it, and one that is a name
                 ("h[0]") means that name alone
    activations  None: weight-only. A Scheme: linear layers quantize their inputs too.
    qparams      {layer name: QParams} from `calibrate`: static instead of dynamic ranges

    Swapped are nn.Linear, nn.Embedding and nn.Conv1d to 3d (these weight-only), wherever the model
    refers to them, but no subclass with a forward of its own. A weight that layers share is
    quantized once and stays shared; one that a parametrization computes is quantized as a copy of
    the layer computes it, once, in the layer's own mode: call model.eval() first. What is swapped
    for nothing, such as nn.LSTM, is listed in the report, and where nothing was swapped at all
    there is a warning.
    nn.MultiheadAttention reads the weight of its out_proj itself, which so becomes weight-only; its
    in_proj_weight is no layer and stays float.

    The original stays as it is. Memory: the new model beside it, without a second float copy of
    the swapped weights, and for one layer at a time about eight times its size.
    Raises ValueError, with the layer's name, for one that cannot be swapped, and for a pattern
    that fits nothing.
    """
    layers = _layers(model)
    _check_qparams(layers, activations, qparams)
    schemes = _plan(model, layers, scheme, skip)
    made, codes_of, rows = {}, {}, []
    for name in tqdm(schemes, "quantize", disable=None):
        layer = layers[name]
        with _naming(name):
            _refuse(layer)
            weight, bias = _read(layer)
            first, codes = codes_of.get(_key(layer), (None, None))
            codes = codes or _quantized(weight, schemes[name])
            made[name] = _swapped(model, name, layer, codes, bias, activations, qparams)
            rows.append(_row(name, weight, made[name], first, activations))
            codes_of.setdefault(_key(layer), (name, codes))
    qmodel = _with_layers(model, {layers[name]: new for name, new in made.items()})
    report = Report(rows, _nbytes(model), _nbytes(qmodel), _stayed(model, qmodel, layers))
    if not rows:
        _warn_of_nothing(report)
    return qmodel, report


@torch.no_grad()
def calibrate(model, batches, activations: Scheme) -> dict[str, QParams]:
    """Scale and zero point of each linear layer's input, from its smallest and largest value.

    batches      inputs of the model: tensors, tuples of arguments, or dicts of named ones. The
                 model runs on each as it is: call model.eval() first.
    activations  the Scheme that the layers will use; one scale each

    Returns {layer name: QParams} for the layers that ran. Notebook 07 has better ranges: any such
    dict will do.
    """
    checks.scheme("activations", activations)
    if activations.granularity != PerTensor():
        raise ValueError(f"One range per layer is fixed: ql.PerTensor(), not {activations}.")
    ranges = {}

    def watch(name):
        def before(layer, args, kwargs):
            x = args[0] if args else kwargs["input"]
            if x.numel() == 0:
                return
            low, high = min_max(x, PerTensor())
            if not checks.all_finite(low, high):
                raise ValueError(f"The input of layer {name!r} holds NaN or infinity.")
            a, b = ranges.get(name, (low, high))
            ranges[name] = torch.minimum(a, low), torch.maximum(b, high)

        return before

    linear = {name: m for name, m in _layers(model).items() if isinstance(m, nn.Linear)}
    hooks = [m.register_forward_pre_hook(watch(n), with_kwargs=True) for n, m in linear.items()]
    try:
        for batch in batches:
            args = () if isinstance(batch, dict) else batch
            kwargs = batch if isinstance(batch, dict) else {}
            model(*((args,) if isinstance(args, Tensor) else args), **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: qparams_from_range(*ends, activations) for name, ends in ranges.items()}


# What quantize_model and load_state share
SWAPPED = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _layers(model) -> dict[str, nn.Module]:
    """{first name: layer} of what can be swapped; the model itself has the name ""."""
    checks.model("model", model)
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise TypeError(
            "model is traced or scripted by torch.jit, which has put its layers into a program of "
            "its own: quantize the model before."
        )
    return {n: m for n, m in model.named_modules() if type(m).forward in _FORWARDS}


_FORWARDS = {kind.forward for kind in SWAPPED}


def _plan(model, layers, scheme, skip) -> dict[str, Scheme]:
    """The Scheme of each layer that will be swapped, or a sentence about what fits nothing."""
    skip = checks.patterns("skip", skip)
    wanted = scheme if isinstance(scheme, dict) else {"*": scheme}
    checks.patterns("scheme", list(wanted))
    names = {}  # a module used twice has two names
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    every = {name for several in names.values() for name in several}

    def fits(pattern, name):
        return any(_fits(pattern, n, every) for n in names[layers[name]])

    for pattern in (*skip, *wanted):
        if not any(fits(pattern, name) for name in layers) and (layers or pattern != "*"):
            raise ValueError(
                f"{pattern!r} fits none of the layers that could be quantized: "
                f"{', '.join(map(repr, layers)) or 'there are none'}."
            )
    plan = {}
    for name in layers:
        found = [s for pattern, s in wanted.items() if fits(pattern, name)]
        found = [wanted[n] for n in names[layers[name]] if n in wanted] + found
        if found and not any(fits(pattern, name) for pattern in skip):
            plan[name] = found[0]
    return plan


def _check_qparams(layers, activations, qparams):
    if activations is not None:
        checks.scheme("activations", activations)
    if qparams is not None:
        checks.dictionary("qparams", qparams, "{name: QParams}")
    if qparams is not None and activations is None:
        raise ValueError("qparams are given without activations: pass their Scheme too.")
    unknown = sorted(set(qparams or ()) - set(layers))
    if unknown:
        raise ValueError(f"qparams name {unknown}, which are no layers that could be quantized.")


def _fits(pattern, name, names) -> bool:
    """Whether the pattern fits the name, or that of a module around it."""
    parts = name.split(".")
    around = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return any(checks.fits(pattern, n, names) for n in around)


def _read(layer) -> tuple[Tensor, Tensor | None]:
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


def _quantized(weight, scheme) -> QuantizedWeight:
    """The codes of a layer's weight, seen as a matrix [outputs, everything else]."""
    return QuantizedWeight(quantize(weight.flatten(1), scheme), weight.dtype)


def _refuse(layer):
    """A sentence about why this layer cannot be swapped."""
    if nn.parameter.is_lazy(layer._parameters.get("weight")):
        raise ValueError("its weight does not exist yet: run the model once first.")
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    hooks += (layer._backward_hooks, layer._backward_pre_hooks)
    if any(hooks) or "forward" in vars(layer):
        raise ValueError("it has hooks, which a new layer would lose: remove them first.")
    if getattr(layer, "max_norm", None) is not None:
        raise ValueError("its max_norm changes the weight at every use, which codes cannot follow.")


def _swapped(model, name, layer, codes, bias, activations, qparams) -> nn.Module:
    """The quantized layer in the place of `layer`, in the same mode."""
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


def _read_directly(model, layer) -> bool:
    """nn.MultiheadAttention uses the weight of its out_proj without calling that layer."""
    users = (m for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    return any(layer is user.out_proj for user in users)


def _with_layers(model, made) -> nn.Module:
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


def _key(layer):
    """What layers that share a weight have in common."""
    weight = layer._parameters.get("weight")
    return id(layer if weight is None else weight)


def _stayed(model, qmodel, layers) -> list[Stayed]:
    """What is left in float, and why."""
    modules = dict(model.named_modules())
    found = []
    for full, x in qmodel.named_parameters():
        if x.ndim < 2 or not x.is_floating_point():
            continue
        name = full.partition("parametrizations.")[0].removesuffix(".")
        if name == full:
            name = full.rpartition(".")[0]
        owner, chosen = modules[name], name in layers
        kind = type(owner).__name__
        standard = type(owner).__module__.startswith("torch.nn.")
        if chosen:
            reason = "left out by skip, or by the patterns of the schemes"
        elif isinstance(owner, SWAPPED):
            reason = f"{kind} has a forward of its own"
        elif isinstance(owner, nn.MultiheadAttention):
            reason = "nn.MultiheadAttention reads it itself, and has no layer for it"
        elif standard:
            reason = f"nn.{kind} is none of the layers that are swapped"
        else:
            reason = f"a parameter of {kind}'s own, in no layer"
        found.append(Stayed(full, tuple(x.shape), x.nbytes, reason, chosen))
    return found


def _warn_of_nothing(report):
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


def _row(name, weight, new, first, activations) -> Row:
    """The bytes and the error of one layer; a weight that is shared counts where it is first."""
    shared = first is not None
    after = sum(b.nbytes for b in new.buffers() if not shared or b not in set(new.codes.buffers()))
    return Row(
        name or "(the model)",
        tuple(weight.shape),
        new.codes.scheme.bits,
        0 if shared else weight.nbytes,
        after,
        float(sqnr(weight, new.weight)),
        _note(new, first, activations),
    )


def _note(new, first, activations) -> str:
    notes = [f"shares the codes of {first}"] if first is not None else []
    if isinstance(new, QuantizedLinear) and new.activations is not activations:
        notes.append("inputs stay float")
    return ", ".join(notes)


def _nbytes(model) -> int:
    """Bytes of parameters and buffers, each once."""
    return sum(x.nbytes for x in [*model.parameters(), *model.buffers()])


@contextmanager
def _naming(name, remedy="To leave this layer as it is: skip={!r}."):
    """An error inside gets the layer's name in front and a remedy behind."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if not name:
            raise
        raise type(error)(f"Layer {name!r}: {error} {remedy.format(name)}".rstrip()) from error
