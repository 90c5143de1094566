"""What every method takes and gives: a linear layer y = x W^T in, a `Result` out (notebook 11)."""

from typing import NamedTuple

import torch
from torch import Tensor

from qlesson import checks
from qlesson.checks import FLOATS
from qlesson.qtensor import QTensor, quantize
from qlesson.scheme import Scheme


class Result(NamedTuple):
    """A quantized weight, and what the layer's inputs are to be multiplied by first.

    For any invertible M: x W^T = (x M) (W M^-T)^T. A method chooses M, and quantizes W M^-T.

    weight  QTensor [out, in] of W M^-T
    factor  M: None for the identity, [in] for a diagonal (one factor for each input channel), or
            [in, in]
    """

    weight: QTensor
    factor: Tensor | None = None

    def prepare(self, x: Tensor) -> Tensor:
        """x M: the inputs [..., in] that the quantized weight expects."""
        if self.factor is None:
            return x
        return x * self.factor if self.factor.ndim == 1 else x @ self.factor

    def float_weight(self) -> Tensor:
        """W_hat [out, in] with x W_hat^T = prepare(x) weight^T: it takes untouched inputs."""
        w = self.weight.dequantize()
        if self.factor is not None and self.factor.ndim == 2:
            return w @ self.factor.to(w).T
        return self.prepare(w)


def round_to_nearest(weight: Tensor, inputs: Tensor | None, scheme: Scheme) -> Result:
    """Plain quantization, which every method must beat. The inputs are not used."""
    return Result(quantize(checked(weight, inputs)[0], scheme))


@torch.no_grad()
def output_error(weight: Tensor, weight_hat: Tensor, inputs: Tensor) -> Tensor:
    """mean((x W^T - x W_hat^T)^2) over samples and outputs, in units of y squared.

    Summed in float64, so it agrees between devices to about twelve digits.
    """
    for name, x in (("weight", weight), ("weight_hat", weight_hat), ("inputs", inputs)):
        checks.tensor(name, x)
        checks.real(name, x)
    if weight.shape != weight_hat.shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and weight_hat {tuple(weight_hat.shape)}: an "
            "error needs equal shapes."
        )
    difference = weight.double() - weight_hat.double()
    return (inputs.double() @ difference.T).square().mean()


def checked(weight, inputs=None):
    """The two as plain float tensors, or a sentence about what does not fit."""
    named = [("weight", weight, "[out, in]"), ("inputs", inputs, "[samples, in]")]
    for name, x, axes in named[: 1 if inputs is None else 2]:
        if not isinstance(x, Tensor) or x.dtype not in FLOATS:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a float tensor {axes}, got {kind}.")
        if x.ndim != 2 or x.numel() == 0:
            remedy = ": use inputs.flatten(0, -2)" if name == "inputs" and x.ndim > 2 else ""
            raise ValueError(f"{name} must be {axes}, got the shape {tuple(x.shape)}{remedy}.")
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} holds NaN or infinity: remove or replace them first.")
    weight = weight.detach().as_subclass(Tensor)
    if inputs is None:
        return weight, None
    if weight.shape[1] != inputs.shape[1]:
        raise ValueError(
            f"weight has {weight.shape[1]} columns and inputs have {inputs.shape[1]}: both need "
            "one for each input of the layer. A weight stored as [in, out] needs weight.T."
        )
    if weight.device != inputs.device:
        raise ValueError(
            f"weight is on {weight.device}, inputs are on {inputs.device}: move one of them."
        )
    return weight, inputs.detach().as_subclass(Tensor)
