"""The layer that has no float between its codes (notebook 09)."""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import QParams, computing
from qlesson.granularity import PerTensor
from qlesson.nn.integer import (
    INT32_MAX,
    FixedPoint,
    fixed_point,
    four_terms,
    int8_codes,
    integer_bias,
    requantize,
)
from qlesson.nn.layers import QuantizedLinear
from qlesson.nn.product import groups
from qlesson.nn.weight import _KeepsScale
from qlesson.scheme import Scheme


class IntegerLinear(_KeepsScale):
    """Codes in, codes out, integers between: what a chip without floats runs (notebook 09).

    layer    a static QuantizedLinear whose weight has one scale, or one per row
    output   the Scheme of the output, with one scale; qparams its scale s_y and zero point z_y

    q_y = z_y + round(s_x s_w / s_y * (sum x w - z_w sum x + constant)), where the constant holds
    the bias and the two terms that do not depend on the input: one int32 per output.
    """

    output_scale: Tensor
    output_zero_point: Tensor
    bias_codes: Tensor
    constant: Tensor
    multiplier: Tensor
    shift: Tensor

    def __init__(self, layer: QuantizedLinear, output: Scheme, qparams: QParams) -> None:
        super().__init__()
        checks.of_type("layer", layer, QuantizedLinear, "pass a static one")
        if not layer.static or len(groups(layer.codes)) > 1:
            raise ValueError(
                "layer must be static (activations and qparams given), and its weight have one "
                "scale per tensor or per row: sums of groups could not be added as integers."
            )
        if layer.factor is not None:
            raise ValueError(
                "layer multiplies its float input by a factor, and here codes come in: fold the "
                "factor into the layer before (qlesson.nn.fold), or quantize without one."
            )
        checks.scheme("output", output)
        if output.granularity != PerTensor():
            raise ValueError(
                f"The output needs one scale: ql.PerTensor(), not {output.granularity}."
            )
        self.layer, self.output = layer, output
        stored = (output, (), computing(layer.input_scale.dtype), layer.input_scale.device)
        s_y, z_y = checks.qparams(qparams, *stored, move=True)
        s_x, s_w = layer.input_scale.double(), layer.codes.scale.double().flatten()
        factor = fixed_point(s_x * s_w / s_y.double())
        self.register_buffer("output_scale", s_y.clone())
        self.register_buffer("output_zero_point", z_y.clone())
        self.register_buffer("bias_codes", self._bias_codes())
        self.register_buffer("constant", self._constant())
        self.register_buffer("multiplier", factor.multiplier)
        self.register_buffer("shift", factor.shift)

    def forward(self, q: Tensor) -> Tensor:
        """Codes [m, inputs] of the layer's input scheme -> codes [m, outputs]."""
        factor = FixedPoint(self.multiplier, self.shift)
        return requantize(self.accumulator(q), factor, self.output_zero_point, self.output)

    def accumulator(self, q: Tensor) -> Tensor:
        """sum (q_x - z_x)(q_w - z_w) + bias / (s_x s_w), in int32: [m, outputs]."""
        inputs = self.layer._input_scheme()
        checks.codes("q", q, inputs.dtype)
        checks.matrix("q", q, "[rows, inputs]")
        checks.last_axis("q", q, self.layer.in_features)
        checks.same_device("q", q, "the layer", self.layer.codes.packed)
        if not q.is_cuda:  # where reading them would wait
            made = "quantize them with the input's scheme"
            checks.code_values("q", q, inputs.quant_min, inputs.quant_max, made)
        q, _ = int8_codes(q, self.layer.input_zero_point)
        w, z_w = self._weight()
        terms = four_terms(q, 0, w, z_w, self.layer.weight_sums[0])
        return terms.products - terms.input_sums + self.constant

    def _scheme_of(self, name: str) -> Scheme:
        return self.output

    def _check_buffer(self, name: str, full_name: str, x: Tensor, dtype: torch.dtype) -> None:
        super()._check_buffer(name, full_name, x, dtype)
        ends = {"multiplier": (0, 2**31 - 1), "shift": (1, 62)}.get(name)
        if ends:
            checks.code_values(full_name, x, *ends, "save the layer as it is")

    def _weight(self) -> tuple[Tensor, Tensor]:
        codes = self.layer.codes
        w, z_w = int8_codes(codes.q, codes.zero_points)
        return w, z_w.flatten()

    def _bias_codes(self) -> Tensor:
        """The bias in int32. Raises ValueError where the sum with it could leave 32 bits."""
        layer = self.layer
        if layer.bias is None:
            return torch.zeros_like(layer.weight_sums[0])
        codes = integer_bias(layer.bias, layer.input_scale, layer.codes.scale)
        most = layer.in_features * layer._input_scheme().reach * layer.codes.scheme.reach
        if int(codes.abs().max()) > INT32_MAX - most:
            raise ValueError(
                f"The bias, up to {int(codes.abs().max())} in units of s_x s_w, could overflow the "
                "32-bit sum: use a larger scale, or keep the layer in float."
            )
        return codes

    def _constant(self) -> Tensor:
        """bias - z_x sum w + n z_x z_w, int32 [outputs]: known before any input."""
        layer, (_, z_w) = self.layer, self._weight()
        _, z_x = int8_codes(layer.input_zero_point, layer.input_zero_point)
        return self.bias_codes - z_x * layer.weight_sums[0] + layer.in_features * z_x * z_w
