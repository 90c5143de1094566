"""What every method takes and gives: a linear layer y = x W^T in, a `Result` out (notebook 11)."""

from typing import NamedTuple

import torch
from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.nn.factor import Factor, multiplied, untouched
from qlesson.qtensor import FindRange, QTensor, quantize_by
from qlesson.scheme import Scheme


class Result(NamedTuple):
    """A quantized weight, and what the layer's inputs are to be multiplied by first.

    For any invertible M: x W^T = (x M) (W M^-T)^T. A method chooses M, and quantizes W M^-T.

    weight  QTensor [out, in] of W M^-T, or Blocks
    factor  M: None for the identity, [in] for a diagonal (one factor for each input channel), or a
            `qlesson.nn.Rotation`
    """

    weight: QTensor | Blocks
    factor: Factor | None = None

    def prepare(self, x: Tensor) -> Tensor:
        """x M: the inputs [..., in] that the quantized weight expects."""
        checks.layer_input("x", x, self.weight.device)
        checks.last_axis("x", x, self.weight.shape[1])
        return multiplied(x, self.factor)

    def float_weight(self) -> Tensor:
        """W_hat [out, in] with x W_hat^T = prepare(x) weight^T: it takes untouched inputs."""
        return untouched(self.weight.dequantize(), self.factor)


def round_to_nearest(
    weight: Tensor, inputs: Tensor | None, scheme: Scheme, find_range: FindRange | None = None
) -> Result:
    """Plain quantization, which every method must beat. The inputs are not used."""
    return Result(quantize_by(find_range, _checked_weight(weight, inputs), scheme))


def _checked_weight(weight: Tensor, inputs: Tensor | None) -> Tensor:
    """For a method that needs no inputs: what it is given is checked all the same."""
    return checks.layer_weight(weight) if inputs is None else checks.layer(weight, inputs)[0]


@torch.no_grad()
def output_error(weight: Tensor, weight_hat: Tensor, inputs: Tensor) -> Tensor:
    """mean((x W^T - x W_hat^T)^2) over samples and outputs, in units of y squared.

    Summed in float64, so it agrees between devices to about twelve digits.
    """
    checks.known("weight_hat", weight_hat)
    weight, inputs = checks.layer(weight, inputs)
    weight_hat = checks.numbers("weight_hat", weight_hat)
    checks.finite("weight_hat", weight_hat)
    why = "an error needs equal shapes"
    checks.same_shape("weight", weight, "weight_hat", weight_hat, why)
    checks.same_device("weight", weight, "weight_hat", weight_hat)
    difference = weight.double() - weight_hat.double()
    return (inputs.double() @ difference.T).square().mean()
