"""A quantized model as a dictionary of tensors, to be saved, and back (notebook 09)."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import QParams
from qlesson.blocks import Blocks
from qlesson.nn.factor import factor_as_saved
from qlesson.nn.swap import (
    Model,
    Swappable,
    _key,
    _read,
    _refuse,
    _swapped,
    _with_layers,
    naming_layer,
    swappable,
)
from qlesson.nn.weight import QuantizedWeight
from qlesson.qtensor import QTensor
from qlesson.scheme import Scheme


class _Packed(Protocol):
    """What becomes a QTensor or Blocks, such as a PackedTensor."""

    @property
    def shape(self) -> torch.Size: ...

    def unpack(self) -> QTensor | Blocks: ...


Saved = Mapping[str, Tensor | QTensor | Blocks | _Packed]


def state(qmodel: nn.Module) -> dict[str, QTensor | Blocks | Tensor]:
    """All that the model holds, by the names of the float model: to be saved (notebook 09).

    The weights of swapped layers are QTensors or Blocks, a shared one once, under its first name. A
    layer's factor is `<name>.input_factor`: floats [in], or int64, a rotation's width, block and
    seed. A float weight of a shape that codes have too has all its names, since the layers that
    share it may have shared it with layers whose weight is codes now.
    """
    checks.model("qmodel", qmodel)
    return {n: x.detach() if isinstance(x, Tensor) else x for n, x in _held(qmodel).items()}


def _held(qmodel: nn.Module) -> dict[str, QTensor | Blocks | Tensor]:
    """What `state` gives, with the tensors that the model itself holds."""
    weights = {n: m for n, m in qmodel.named_modules() if isinstance(m, QuantizedWeight)}
    tensors: dict[str, QTensor | Blocks | Tensor] = {
        _join(name.rpartition(".")[0], "weight"): codes.held for name, codes in weights.items()
    }
    shapes = {codes.shape for codes in weights.values()}
    kept, seen = qmodel.state_dict(), set()
    for name, x in [*_parameters(qmodel), *qmodel.named_buffers()]:
        again = id(x) in seen and (x.ndim < 2 or x.flatten(1).shape not in shapes)
        if name in kept and name.rpartition(".")[0] not in weights and not again:
            tensors[name] = x
            seen.add(id(x))
    return tensors | {name: _extra(name, x) for name, x in kept.items() if _is_extra(name)}


def _is_extra(name: str) -> bool:
    """Whether it is what a module's own get_extra_state gives."""
    return name.rpartition(".")[2] == "_extra_state"


def _extra(name: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name!r} is {checks.shown(x)}, and a state holds tensors alone: let get_extra_state "
            "give a tensor, or save qmodel.state_dict()."
        )
    return x


def _parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that modules share under all their names, but a module used twice once."""
    for name, module in model.named_modules():
        for leaf, x in module.named_parameters(recurse=False):
            yield _join(name, leaf), x


def load_state(model: Model, tensors: Saved, activations: Scheme | None = None) -> Model:
    """The quantized model that `state` described, from the float model's architecture.

    model        the float model; it stays as it is, and its values are not used
    tensors      what `state` gave, or `checkpoint.load` of a file with these names. A PackedTensor
                 is unpacked; a quantized tensor that is no layer's weight becomes float.
    activations  the Scheme of the inputs that `quantize_model` was given. The ranges of static
                 layers are among the tensors. All linear layers get it, so a model of
                 `llama.requantized` with activations, whose head has none, does not come back so.
    """
    layers = swappable(model)
    _check_kinds(tensors)
    if activations is not None:
        checks.scheme("activations", activations)
    made, codes_of = {}, _codes_of(layers, tensors)
    for name, layer in layers.items():
        codes = codes_of.get(_key(layer))
        if codes is not None and not isinstance(tensors.get(_join(name, "weight")), Tensor):
            qparams = _static_qparams(name, tensors, activations)
            with naming_layer(name):
                _refuse(layer)
                weight, bias = _read(layer)
                given = tensors.get(_join(name, "input_factor"))
                factor = None if given is None else factor_as_saved(given)
                if isinstance(factor, Tensor):
                    factor = factor.to(weight.device)
                settings = activations, qparams, factor
                made[layer] = _swapped(model, name, layer, codes, bias, *settings)
    qmodel = _with_layers(model, made)
    qmodel.load_state_dict(_in_float(tensors, qmodel), strict=False)
    return qmodel


def _in_float(tensors: Saved, qmodel: nn.Module) -> dict[str, Tensor]:
    """Those of the tensors that are the codes of no layer, if all are what is expected; what is
    shared may come under one of its names, or under all."""
    expected = _held(qmodel)
    every = expected | _by_all_names(qmodel)
    given = {id(x) for name, x in every.items() if name in tensors}
    missing = sorted(name for name in expected if id(every[name]) not in given)
    unknown = sorted(set(tensors) - set(every))
    if missing or unknown:
        raise ValueError(
            f"The tensors do not fit the model: missing {missing}, unknown {unknown}. Build the "
            "model with the settings of the one that was saved."
        )
    first = {id(x) for name, x in expected.items() if name in tensors}
    held = {n: x for n, x in every.items() if isinstance(x, Tensor) and n in tensors}
    return {
        name: _as_held(name, tensors[name], x)
        for name, x in held.items()
        if name in expected or id(x) not in first
    }


def _by_all_names(qmodel: nn.Module) -> dict[str, Any]:
    """Parameters, buffers that are saved, and the codes of layers, each under all its names."""
    kept, found = qmodel.state_dict(), dict[str, Any](_parameters(qmodel))
    for name, module in qmodel.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizedWeight):
            found[_join(name.rpartition(".")[0], "weight")] = module
            continue
        for leaf, x in module.named_buffers(recurse=False):
            if _join(name, leaf) in kept:
                found[_join(name, leaf)] = x
    return found


def _as_held(name: str, x: Tensor | QTensor | Blocks | _Packed, held: Tensor) -> Tensor:
    """x as the model's tensor of this name can take it."""
    if _is_extra(name) and isinstance(x, Tensor):
        return x
    if tuple(x.shape) != tuple(held.shape):
        raise ValueError(
            f"{name!r} has shape {tuple(x.shape)}, the model's is {tuple(held.shape)}."
        )
    if not isinstance(x, Tensor):  # rounded once, to what will hold it
        return _unpacked(x).dequantize(held.dtype if held.dtype in checks.FLOATS else None)
    if x.is_complex() and not held.is_complex():
        with naming_layer(name):
            checks.real("the tensor", x)
    return x


def _codes_of(layers: Mapping[str, Swappable], tensors: Saved) -> dict[int, QuantizedWeight]:
    """{weight: its codes} from saved tensors, for the layers that have one there."""
    codes = {}
    for name, layer in layers.items():
        x = tensors.get(_join(name, "weight"))
        if x is None or isinstance(x, Tensor):
            continue
        x, weight = _unpacked(x), _read(layer)[0]
        if x.shape not in (weight.shape, weight.flatten(1).shape):
            raise ValueError(
                f"{_join(name, 'weight')!r} has shape {tuple(x.shape)}, the model's is "
                f"{tuple(weight.shape)}."
            )
        codes[_key(layer)] = QuantizedWeight(x.to(weight.device), weight.dtype)
    return codes


def _unpacked(x: QTensor | Blocks | _Packed) -> QTensor | Blocks:
    return x if isinstance(x, QTensor | Blocks) else x.unpack()


def _check_kinds(tensors: Saved) -> None:
    """Tensors, codes, and what becomes codes: a PackedTensor is known by what it can do."""
    checks.dictionary("tensors", tensors, "{name: tensor}")
    for name, x in tensors.items():
        if not isinstance(x, Tensor | QTensor | Blocks) and not hasattr(x, "unpack"):
            raise TypeError(
                f"tensors[{name!r}] must be a tensor, a QTensor or Blocks, got {checks.shown(x)}: "
                "use state(qmodel)."
            )


def _static_qparams(
    name: str, tensors: Saved, activations: Scheme | None
) -> dict[str, QParams] | None:
    """{name: QParams} where the tensors hold an input range, else None."""
    scale: Any = tensors.get(_join(name, "input_scale"))  # the layer refuses what is no tensor
    if scale is None:
        return None
    if activations is None:
        raise ValueError(
            "The tensors hold input ranges: pass the Scheme of the inputs as activations."
        )
    zero_point: Any = tensors.get(_join(name, "input_zero_point"))
    if zero_point is None:
        raise ValueError(
            f"tensors have {_join(name, 'input_scale')!r} and no "
            f"{_join(name, 'input_zero_point')!r}: pass both, as state(qmodel) gives them."
        )
    return {name: QParams(scale, zero_point)}


def _join(name: str, leaf: str) -> str:
    return f"{name}.{leaf}" if name else leaf
