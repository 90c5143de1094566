"""Quantized layers (notebook 09). A layer is one of three:

    weight-only        W8A32, W8A16, W4 in groups: the codes become W_hat, the product runs in float
    dynamic, static    W8A8: the input is quantized too, and the product runs on integers
    integer-only       codes in, codes out: no float between (`IntegerLinear`)

The integer arithmetic is in `qlesson.nn.integer`, and the formulas, as ever, in `qlesson.affine`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import QParams, rounded
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.nn.integer import (
    INT32_MAX,
    FixedPoint,
    fixed_point,
    four_terms,
    int8_codes,
    integer_bias,
    reach,
    requantize,
    safe_length,
)
from qlesson.nn.weight import _KeepsScale, _Layer, _values
from qlesson.qtensor import QTensor, quantize
from qlesson.scheme import Scheme


class QuantizedLinear(_Layer):
    """y = x W_hat^T + b, with x in float (weight-only) or quantized as well (notebook 09).

    weight       QTensor [outputs, inputs]
    bias         float [outputs], or None
    activations  None: weight-only. A Scheme of at most 8 bits: quantize the input, PerTensor(), or
                 PerAxis(0) for one scale per token: x is seen as [tokens, inputs]. The weight's
                 granularity is then PerTensor(), PerAxis(0) or PerGroup(size).
    qparams      None: from each input (dynamic). Given, one scale and zero point: static.

    The product of codes is exact, so it is the same on every device; it has no gradient. With
    activations y has x's dtype, under torch.autocast too: there is no float product to cast.
    """

    def __init__(self, weight, bias=None, activations=None, qparams=None):
        super().__init__(weight, bias)
        _check_matrix(self.codes)
        self.activations = activations
        self.static = qparams is not None
        if activations is None:
            if self.static:
                raise ValueError("qparams are given without activations: pass their Scheme too.")
            return
        _check_product(self.codes, activations, self.static)
        self.register_buffer("weight_sums", self._sums(), persistent=False)
        self.register_load_state_dict_post_hook(_sum_again)
        if self.static:
            about = (activations, (), self.codes.scale.dtype, self.codes.q.device)
            scale, zero_point = checks.qparams(qparams, *about, move=True)
            self.register_buffer("input_scale", scale.clone())
            self.register_buffer("input_zero_point", zero_point.clone())

    @property
    def in_features(self) -> int:
        return self.codes.q.shape[1]

    @property
    def out_features(self) -> int:
        return self.codes.q.shape[0]

    def extra_repr(self):
        how = "static" if self.static else "dynamic"
        inputs = f", inputs {self.activations.bits} bits, {how}" if self.activations else ""
        return super().extra_repr() + inputs

    def _scheme_of(self, name):
        return self.activations

    def forward(self, input: Tensor) -> Tensor:
        x = input  # the name that nn.Linear gives it
        checks.layer_input("input", x, self.codes.q.device)
        checks.last_axis("input", x, self.in_features)
        if self.activations is None:
            bias = None if self.bias is None else rounded(self.bias, x.dtype)
            return F.linear(x, self.codes.values(x.dtype), bias)
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        y = self.product(self.quantize_input(x.reshape(-1, x.shape[-1])))
        if self.bias is not None:
            y = y + self.bias
        return rounded(y, x.dtype).reshape(*x.shape[:-1], -1)

    @torch.no_grad()
    def quantize_input(self, r: Tensor) -> QTensor:
        """r [tokens, inputs] as codes, with the range of this r or the one given before."""
        if self.activations is None:
            raise ValueError("This layer is weight-only: give it activations, a Scheme.")
        qparams = QParams(self.input_scale, self.input_zero_point) if self.static else None
        x = quantize(r, self.activations, qparams)
        checks.matrix("r", x, "[tokens, inputs]")
        checks.last_axis("r", x, self.in_features)
        return x

    @torch.no_grad()
    def product(self, x: QTensor) -> Tensor:
        """s_x s_w sum_k (x - z_x)(w - z_w), summed over the groups: float [tokens, outputs]."""
        scale = _columns(self.codes.scale)
        accumulators = enumerate(self.accumulators(x))
        return sum(acc.to(x.scale.dtype) * (x.scale * scale[:, i]) for i, acc in accumulators)

    def accumulators(self, x: QTensor):
        """One int32 sum [tokens, outputs] per group of columns; without groups there is one."""
        checks.of_type("x", x, QTensor, "layer.quantize_input(r) makes it")
        if x.scheme != self.activations:
            raise ValueError(
                f"x has {x.scheme}, and the layer's inputs have {self.activations}: use "
                "layer.quantize_input(r)."
            )
        checks.matrix("x", x, "[tokens, inputs]")
        checks.last_axis("x", x, self.in_features)
        q_x, z_x = int8_codes(x.q, x.zero_point)
        q_w, z_w = int8_codes(self.codes.q, _columns(self.codes.zero_point))
        for i, columns in enumerate(self._groups()):
            parts = q_x[:, columns], z_x, q_w[:, columns], z_w[:, i]
            yield four_terms(*parts, self.weight_sums[i]).total()

    def _sums(self) -> Tensor:
        """Known before any input: the sum of each row, or of each group in it, int32."""
        q, _ = int8_codes(self.codes.q, self.codes.zero_point)
        return torch.stack([q[:, part].sum(1, dtype=torch.int32) for part in self._groups()])

    def _groups(self):
        """The columns that share a scale in each row."""
        _, size = self.codes.scheme.granularity.block_shape(self.codes.q.shape)
        return [slice(i, i + size) for i in range(0, self.in_features, size)]


def _sum_again(layer, _keys):
    """After load_state_dict, which brought other codes. At module level, to be pickled."""
    layer.weight_sums = layer._sums()


def _check_matrix(weight):
    if weight.q.ndim != 2:
        raise ValueError(
            f"weight must be a matrix, got codes of shape {tuple(weight.q.shape)}: quantize "
            "weight.flatten(1)."
        )


def _columns(p) -> Tensor:
    """Scales or zero points as [outputs, groups], or [1, 1] where there is one."""
    return p.reshape(1, 1) if p.ndim == 0 else p


def _check_product(weight, activations, static):
    """A sentence about why no integer product exists for these schemes."""
    checks.scheme("activations", activations)
    if max(activations.bits, weight.scheme.bits) > 8:
        raise ValueError(
            "The integer product takes codes of at most 8 bits. For 16-bit inputs use "
            "activations=None, and give the model float16 or bfloat16."
        )
    if activations.granularity not in (PerTensor(), PerAxis(0)) or (
        static and activations.granularity != PerTensor()
    ):
        raise ValueError(
            f"activations have granularity {activations.granularity}: use ql.PerTensor(), or, "
            "without qparams, ql.PerAxis(0) for one scale per token. A scale inside the sum over "
            "the inputs could not be taken out of it."
        )
    by_row = [PerTensor(), PerAxis(0), PerAxis(-2)]
    granularity = weight.scheme.granularity
    grouped = type(granularity) is PerGroup and granularity.axis in (1, -1)
    if granularity not in by_row and not grouped:
        raise ValueError(
            f"The weight has granularity {granularity}, a scale inside the sum over the inputs: "
            "use ql.PerTensor(), ql.PerAxis(0) or ql.PerGroup(size), or activations=None."
        )
    n, limit = weight.q.shape[1], safe_length(activations, weight.scheme)
    if (min(n, granularity.group_size) if grouped else n) > limit:
        raise ValueError(
            f"{n} inputs could overflow the 32-bit sum, which is safe up to {limit}: use "
            "ql.PerGroup(size), which sums each group by itself, or a symmetric scheme."
        )


class QuantizedEmbedding(_Layer):
    """W_hat[input]: only the rows asked for are dequantized. weight is a QTensor [rows, width].

    input        row numbers in int64 or int32, from 0, as nn.Embedding takes them
    padding_idx  kept for who asks: it matters for gradients alone, and codes have none
    """

    max_norm, norm_type, scale_grad_by_freq, sparse = None, 2.0, False, False  # as nn.Embedding

    def __init__(self, weight, bias=None, padding_idx=None):
        super().__init__(weight, bias)
        _check_matrix(self.codes)
        if padding_idx is not None:
            checks.whole("padding_idx", padding_idx, -len(self.codes.q), len(self.codes.q) - 1)
        self.padding_idx = padding_idx
        granularity = self.codes.scheme.granularity
        by_row = type(granularity) is PerGroup and granularity.axis in (1, -1)
        if not (by_row or type(granularity) in (PerTensor, PerAxis)):
            raise ValueError(
                f"{granularity} groups several rows, and an embedding reads single ones: use "
                "ql.PerGroup(size), ql.PerAxis(0) or ql.PerTensor()."
            )

    @property
    def num_embeddings(self) -> int:
        return self.codes.q.shape[0]

    @property
    def embedding_dim(self) -> int:
        return self.codes.q.shape[1]

    def forward(self, input: Tensor) -> Tensor:
        checks.ids("input", input, self.num_embeddings)
        checks.same_device("input", input, "the layer", self.codes.q)
        q, scale, zero_point, scheme = (
            getattr(self.codes, n) for n in ("q", "scale", "zero_point", "scheme")
        )
        shape, dtype = (*input.shape, self.embedding_dim), self.codes.like.dtype
        if input.numel() == 0:
            return scale.new_empty(shape, dtype=dtype)
        rows = input.flatten()
        if scheme.granularity not in (PerTensor(), PerAxis(1), PerAxis(-1)):
            scale, zero_point = (p.index_select(0, rows) for p in (scale, zero_point))
        return _values(q.index_select(0, rows), scale, zero_point, scheme, dtype).view(shape)


CONV_SETTINGS = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed",
    "output_padding", "groups", "padding_mode",
)  # fmt: skip


class QuantizedConv(_Layer):
    """A convolution with W_hat, weight-only; `conv` gives stride, padding and the rest.

    The weight [outputs, inputs, ...] is quantized as the matrix [outputs, inputs * window].
    """

    def __init__(self, conv, weight, bias=None):
        super().__init__(weight, bias)
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        checks.of_type("conv", conv, kinds, "pass the float layer")
        # As the float layer says it, not as its weight shows it: reading that may have effects.
        for name in CONV_SETTINGS:
            setattr(self, name, getattr(conv, name))
        self.shape = torch.Size(
            (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
        )
        if tuple(self.codes.q.flatten(1).shape) != (self.shape[0], self.shape[1:].numel()):
            raise ValueError(
                f"weight has shape {tuple(self.codes.q.shape)}, and conv's is {tuple(self.shape)}: "
                "quantize conv.weight.flatten(1)."
            )
        self.function = (F.conv1d, F.conv2d, F.conv3d)[len(self.shape) - 3]
        self.around = None
        padding = conv.padding
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
        checks.layer_input("input", x, self.codes.q.device)
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


class IntegerLinear(_KeepsScale):
    """Codes in, codes out, integers between: what a chip without floats runs (notebook 09).

    layer    a static QuantizedLinear whose weight has one scale, or one per row
    output   the Scheme of the output, with one scale; qparams its scale s_y and zero point z_y

    q_y = z_y + round(s_x s_w / s_y * (sum x w - z_w sum x + constant)), where the constant holds
    the bias and the two terms that do not depend on the input: one int32 per output.
    """

    def __init__(self, layer: QuantizedLinear, output: Scheme, qparams: QParams):
        super().__init__()
        checks.of_type("layer", layer, QuantizedLinear, "pass a static one")
        if not layer.static or len(layer.weight_sums) > 1:
            raise ValueError(
                "layer must be static (activations and qparams given), and its weight have one "
                "scale per tensor or per row: sums of groups could not be added as integers."
            )
        checks.scheme("output", output)
        if output.granularity != PerTensor():
            raise ValueError(
                f"The output needs one scale: ql.PerTensor(), not {output.granularity}."
            )
        self.layer, self.output = layer, output
        about = (output, (), layer.input_scale.dtype, layer.input_scale.device)
        s_y, z_y = checks.qparams(qparams, *about, move=True)
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
        inputs = self.layer.activations
        checks.codes("q", q, inputs.dtype)
        checks.matrix("q", q, "[rows, inputs]")
        checks.last_axis("q", q, self.layer.in_features)
        checks.same_device("q", q, "the layer", self.layer.codes.q)
        if not q.is_cuda:  # where reading them would wait
            made = "quantize them with the input's scheme"
            checks.code_values("q", q, inputs.quant_min, inputs.quant_max, made)
        q, _ = int8_codes(q, self.layer.input_zero_point)
        w, z_w = self._weight()
        terms = four_terms(q, 0, w, z_w, self.layer.weight_sums[0])
        return terms.products - terms.input_sums + self.constant

    def _scheme_of(self, name):
        return self.output

    def _weight(self):
        codes = self.layer.codes
        w, z_w = int8_codes(codes.q, codes.zero_point)
        return w, z_w.flatten()

    def _bias_codes(self) -> Tensor:
        """The bias in int32, and a sentence where the sum with it could leave 32 bits."""
        layer, scheme = self.layer, self.layer.codes.scheme
        if layer.bias is None:
            return torch.zeros_like(layer.weight_sums[0])
        codes = integer_bias(layer.bias, layer.input_scale, layer.codes.scale)
        most = layer.in_features * reach(layer.activations) * reach(scheme)
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
