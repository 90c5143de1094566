"""Quantized layers (notebook 09). A layer is one of three:

    weight-only        W8A32, W8A16, W4 in groups: the codes become W_hat, the product runs in float
    dynamic, static    W8A8: the input is quantized too, and the product runs on integers
    integer-only       codes in, codes out: no float between (`qlesson.nn.integer_linear`)

The integer arithmetic is in `qlesson.nn.integer`, and the formulas, as ever, in `qlesson.affine`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import QParams, computing, rounded
from qlesson.blocks import Blocks
from qlesson.granularity import Granularity, PerAxis, PerGroup, PerTensor
from qlesson.nn.factor import Factor, _Factored
from qlesson.nn.integer import int8_codes, safe_length
from qlesson.nn.product import (
    accumulators,
    at_once,
    groups,
    int_linear,
    linear,
    quantized_linear,
    rows,
    rows_at_once,
)
from qlesson.nn.weight import QuantizedWeight, _Layer, _refuse_learned
from qlesson.qtensor import QTensor, quantize
from qlesson.scheme import Scheme


class QuantizedLinear(_Factored):
    """y = x W_hat^T + b, with x in float (weight-only) or quantized as well (notebook 09).

    weight       QTensor or Blocks [outputs, inputs]; Blocks are weight-only
    bias         float [outputs], or None
    activations  None: weight-only. A Scheme of at most 8 bits: quantize the input, PerTensor(), or
                 PerAxis(0) for one scale per token: x is seen as [tokens, inputs]. The weight's
                 granularity is then PerTensor(), PerAxis(0) or PerGroup(size).
    qparams      None: from each input (dynamic). Given, one scale and zero point: static.
    factor       M, [inputs] or a `Rotation`: x is multiplied by it first, and then quantized; so
                 codes are those of W M^-T, and qparams those of x M. `.weight` is for x itself.

    The product of codes is exact, so it is the same on every device. With activations y has x's
    dtype, under torch.autocast too: there is no float product to cast.

    Gradients go to the bias, and of a weight-only layer to x. The product of codes has none; scales
    and minima have none, and one that requires it is refused.
    """

    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(
        self,
        weight: QTensor | Blocks | QuantizedWeight,
        bias: Tensor | None = None,
        activations: Scheme | None = None,
        qparams: QParams | None = None,
        factor: Factor | None = None,
    ) -> None:
        super().__init__(weight, bias)
        _check_matrix(self.codes)
        self._take_factor(factor)
        self.activations = activations
        self.static = qparams is not None
        if activations is None:
            if self.static:
                raise ValueError("qparams are given without activations: pass their Scheme too.")
            return
        _check_product(self.codes, activations, self.static)
        if self.static:
            stored = (activations, (), computing(self.codes.scale.dtype), self.codes.device)
            scale, zero_point = checks.qparams(qparams, *stored, move=True)
            self.register_buffer("input_scale", scale.clone())
            self.register_buffer("input_zero_point", zero_point.clone())

    @property
    def in_features(self) -> int:
        return self.codes.shape[1]

    @property
    def out_features(self) -> int:
        return self.codes.shape[0]

    def _input_scheme(self) -> Scheme:
        """Raises ValueError where the layer does not quantize its input."""
        if self.activations is None:
            raise ValueError("This layer is weight-only: give it activations, a Scheme.")
        return self.activations

    def extra_repr(self) -> str:
        how = "static" if self.static else "dynamic"
        inputs = f", inputs {self.activations.bits} bits, {how}" if self.activations else ""
        factor = "" if self.factor is None else f", inputs times {self.rotation or 'a factor'}"
        return super().extra_repr() + inputs + factor

    def _scheme_of(self, name: str) -> Scheme:
        return self._input_scheme()

    def forward(self, input: Tensor) -> Tensor:
        # read as dicts: nn.Module finds `self.bias` only after all that it looks at before
        modules, parameters, buffers = self._modules, self._parameters, self._buffers
        if not self.static and "bias" in parameters and buffers["input_factor"] is None:
            held: Any = modules["codes"]
            done = at_once(input, held, parameters["bias"], self.activations)
            if done is not None:
                return done
        x, codes = input, self.codes  # the name that nn.Linear gives it
        checks.layer_input("input", x, codes.device)
        checks.last_axis("input", x, codes.shape[1])
        if self.bias is not None:
            self._check_bias(self.bias)
            checks.same_device("bias", self.bias, "the layer", codes.packed)
        _refuse_learned(codes._buffers, self._buffers)
        if self.activations is None:
            return linear(self._multiplied(x), codes, self.bias)
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        if not self.static:
            done = quantized_linear(self._multiplied(x), codes, self._input_scheme(), self.bias)
            if done is not None:
                return done
        y = self.product(self.quantize_input(x.reshape(-1, x.shape[-1])))
        if self.bias is not None:
            y = y + self.bias
        return rounded(y, x.dtype).reshape(*x.shape[:-1], -1)

    @torch.no_grad()
    def quantize_input(self, r: Tensor) -> QTensor:
        """The layer's input r [tokens, inputs], times the factor, as codes: with the range of this
        r or the one given before."""
        scheme = self._input_scheme()
        qparams = QParams(self.input_scale, self.input_zero_point) if self.static else None
        x = quantize(r if self.factor is None else self.prepare(r), scheme, qparams)
        checks.matrix("r", x.q, "[tokens, inputs]")
        checks.last_axis("r", x.q, self.in_features)
        return x

    @torch.no_grad()
    def product(self, x: QTensor) -> Tensor:
        """s_x s_w sum_k (x - z_x)(w - z_w), summed over the groups: float [tokens, outputs]."""
        self._check_input_codes(x)
        return int_linear(x, self.codes)

    def accumulators(self, x: QTensor) -> Iterator[Tensor]:
        """One int32 sum [tokens, outputs] per group of columns; without groups there is one."""
        self._check_input_codes(x)
        return accumulators(x, self.codes)

    @property
    def weight_sums(self) -> Tensor:
        """The sum of each row, or of each group in it, int32 [groups, outputs]: they depend on no
        input, and none is held, since whoever reads the codes can add them up. Of codes of 16 bits
        there are none."""
        if self.codes.bits > 8:  # so that hasattr says no
            raise AttributeError("weight_sums are of codes of at most 8 bits.")
        q, _ = int8_codes(self.codes.q, self.codes.zero_points)
        return torch.stack([q[:, part].sum(1, dtype=torch.int32) for part in groups(self.codes)])

    def _check_input_codes(self, x: QTensor) -> None:
        checks.of_type("x", x, QTensor, "layer.quantize_input(r) makes it")
        if x.scheme != self.activations:
            raise ValueError(
                f"x has {x.scheme}, and the layer's inputs have {self.activations}: use "
                "layer.quantize_input(r)."
            )
        checks.matrix("x", x.q, "[tokens, inputs]")
        checks.last_axis("x", x.q, self.in_features)
        checks.same_device("x", x.q, "the layer", self.codes.packed)


def _check_matrix(weight: QuantizedWeight) -> None:
    if len(weight.shape) != 2:
        raise ValueError(
            f"weight must be a matrix, got codes of shape {tuple(weight.shape)}: quantize "
            "weight.flatten(1)."
        )


def _check_product(weight: QuantizedWeight, activations: Scheme, static: bool) -> None:
    """Raises ValueError where no integer product exists for these schemes."""
    checks.scheme("activations", activations)
    scheme = weight.needed_scheme()
    if max(activations.bits, scheme.bits) > 8:
        raise ValueError(
            "The integer product takes codes of at most 8 bits. For 16-bit inputs use "
            "activations=None, and give the model float16 or bfloat16."
        )
    _check_scales_leave_the_sum(scheme.granularity, activations.granularity, static)
    limit = safe_length(activations, scheme)
    _, summed = scheme.granularity.block_shape(weight.shape)
    if summed > limit:
        raise ValueError(
            f"{weight.shape[1]} inputs could overflow the 32-bit sum, which is safe up to "
            f"{limit}: use ql.PerGroup(size), which sums each group by itself, or a symmetric "
            "scheme."
        )


def _check_scales_leave_the_sum(weight: Granularity, inputs: Granularity, static: bool) -> None:
    """A scale inside the sum over the inputs could not be taken out of it."""
    if inputs not in (PerTensor(), PerAxis(0)) or (static and inputs != PerTensor()):
        raise ValueError(
            f"activations have granularity {inputs}: use ql.PerTensor(), or, without qparams, "
            "ql.PerAxis(0) for one scale per token. A scale inside the sum over the inputs could "
            "not be taken out of it."
        )
    grouped = type(weight) is PerGroup and weight.axis in (1, -1)
    if weight not in (PerTensor(), PerAxis(0), PerAxis(-2)) and not grouped:
        raise ValueError(
            f"The weight has granularity {weight}, a scale inside the sum over the inputs: "
            "use ql.PerTensor(), ql.PerAxis(0) or ql.PerGroup(size), or activations=None."
        )


class QuantizedEmbedding(_Layer):
    """W_hat[input]: only the rows asked for are dequantized.

    weight       QTensor or Blocks [rows, width]

    input        row numbers in int64 or int32, from 0, as nn.Embedding takes them
    padding_idx  kept for who asks: it matters for gradients alone, and codes have none
    """

    max_norm, norm_type, scale_grad_by_freq, sparse = None, 2.0, False, False  # as nn.Embedding

    def __init__(
        self,
        weight: QTensor | Blocks | QuantizedWeight,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(weight, None)
        _check_matrix(self.codes)
        if padding_idx is not None:
            checks.whole("padding_idx", padding_idx, -self.codes.shape[0], self.codes.shape[0] - 1)
        self.padding_idx = padding_idx
        if not self.codes.by_rows:
            raise ValueError(
                f"{self.codes.granularity} groups several rows, and an embedding reads single "
                "ones: use ql.PerGroup(size), ql.PerAxis(0) or ql.PerTensor()."
            )

    @property
    def num_embeddings(self) -> int:
        return self.codes.shape[0]

    @property
    def embedding_dim(self) -> int:
        return self.codes.shape[1]

    def forward(self, input: Tensor) -> Tensor:
        codes: Any = self._modules["codes"]
        done = rows_at_once(input, codes)
        if done is not None:
            return done
        checks.ids("input", input, self.num_embeddings)
        checks.same_device("input", input, "the layer", self.codes.packed)
        _refuse_learned(codes._buffers)
        shape = (*input.shape, self.embedding_dim)
        if input.numel() == 0:
            return self.codes.like.new_empty(shape)
        return rows(input.flatten(), self.codes).view(shape)

    def project(self, input: Tensor) -> Tensor:
        """input W_hat^T: what a tied head computes, float [..., width] -> [..., rows]."""
        codes: Any = self._modules["codes"]
        done = at_once(input, codes, None, None)
        if done is not None:
            return done
        checks.layer_input("input", input, self.codes.device)
        checks.last_axis("input", input, self.embedding_dim)
        _refuse_learned(codes._buffers)
        return linear(input, self.codes, None)


CONV_SETTINGS = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed",
    "output_padding", "groups", "padding_mode",
)  # fmt: skip


class QuantizedConv(_Layer):
    """A convolution with W_hat, weight-only; `conv` gives stride, padding and the rest.

    The weight [outputs, inputs, ...] is quantized as the matrix [outputs, inputs * window].
    """

    in_channels: int

    def __init__(
        self,
        conv: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        weight: QTensor | Blocks | QuantizedWeight,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__(weight, bias)
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        checks.of_type("conv", conv, kinds, "pass the float layer")
        # As the float layer says it, not as its weight shows it: reading that may have effects.
        for name in CONV_SETTINGS:
            setattr(self, name, getattr(conv, name))
        self.shape = torch.Size(
            (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
        )
        if (self.codes.shape[0], self.codes.shape[1:].numel()) != (
            self.shape[0],
            self.shape[1:].numel(),
        ):
            raise ValueError(
                f"weight has shape {tuple(self.codes.shape)}, and conv's is {tuple(self.shape)}: "
                "quantize conv.weight.flatten(1)."
            )
        functions: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
        self.function = functions[len(self.shape) - 3]
        self.around: tuple[list[int], str] | None = None
        padding: str | int | tuple[int, ...] = conv.padding
        if conv.padding_mode != "zeros":
            self.around = conv._reversed_padding_repeated_twice, conv.padding_mode
            padding = 0
        self.settings = conv.stride, padding, conv.dilation, conv.groups

    @property
    def weight(self) -> Tensor:
        """W_hat in the convolution's own shape."""
        return self.codes.values().view(self.shape)

    def forward(self, input: Tensor) -> Tensor:
        x = input  # the name that nn.Conv2d gives it
        checks.layer_input("input", x, self.codes.device)
        axes = len(self.shape)  # [batch, channels, ...], or without the batch
        if x.ndim not in (axes - 1, axes) or x.shape[1 - axes] != self.in_channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}, but needs {self.in_channels} channels and "
                f"{axes - 2} axes behind them: reshape it."
            )
        if self.around:
            x = F.pad(x, self.around[0], mode=self.around[1])
        bias = None if self.bias is None else rounded(self.bias, x.dtype)
        return self.function(x, self.codes.values(x.dtype).view(self.shape), bias, *self.settings)
