"""The matrices of the course's language model, and the model with them quantized."""

from functools import partial

from torch import Tensor, nn

from qlesson import checks
from qlesson.nn.swap import Model, with_weights
from qlesson.plan import make_plan
from qlesson.qtensor import fake_quantize, quantize
from qlesson.scheme import Scheme


def weight_matrices(model: nn.Module) -> dict[str, Tensor]:
    """The matrices that quantization changes, by name: all but the position embedding.

    Each is [out_features, in_features]: PerAxis(0) is one scale per row, PerGroup(32) groups along
    a row. The token embedding [94, width] has one row per character.
    """
    checks.model("model", model)
    return {
        name.removesuffix(".weight"): weights.detach()
        for name, weights in model.named_parameters()
        if weights.dim() == 2 and not name.startswith("position_embedding")
    }


def quantized(
    model: Model, scheme: Scheme | dict[str, Scheme], activations: Scheme | None = None
) -> Model:
    """A copy of the model with every matrix W of `weight_matrices` replaced by W_hat.

    W_hat = quantize(W, scheme).dequantize(): the values after the round trip, in float. A dict of
    name or pattern -> Scheme quantizes the matrices it names, each in its own way, and leaves the
    others.

    activations, a Scheme, does the same to the input of every linear layer, as it comes: it is
    seen as [characters, inputs], and PerAxis(0) is a scale per character. `quantize_model` of
    `qlesson.nn` computes such a layer on integers, up to 8 bits.
    """
    checks.model("model", model)
    if activations is not None:
        checks.scheme("activations", activations)
    plan = make_plan(weight_matrices(model), scheme)
    model = with_weights(model, plan, lambda name, w: quantize(w, plan[name]).dequantize())
    if activations:
        for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
            layer.register_forward_pre_hook(partial(_quantize_input, activations))
    return model


def _quantize_input(scheme: Scheme, layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    (x,) = inputs
    return fake_quantize(x.reshape(-1, x.shape[-1]), scheme).view_as(x)
