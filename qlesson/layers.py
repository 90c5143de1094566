"""Quantized layers, and the layers of any model swapped for them (notebook 09).

    qmodel, report = quantize_model(model, ql.Scheme(8, "symmetric", ql.PerAxis(0)))
    print(report)

A layer is one of three:

    weight-only        W8A32, W8A16, W4 in groups: the codes become W_hat, the product runs in float
    dynamic, static    W8A8: the input is quantized too, and the product runs on integers
    integer-only       codes in, codes out: no float between (`IntegerLinear`)

The integer arithmetic is in `qlesson.integer`, and the formulas, as ever, in `qlesson.affine`.
"""

import copy
import warnings
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from qlesson import checks, kernels
from qlesson.affine import QParams, rounded
from qlesson.error import sqnr
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.integer import (
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
from qlesson.qtensor import QTensor, qparams_from_range, quantize
from qlesson.ranges import min_max
from qlesson.scheme import Scheme

# --- the layers -----------------------------------------------------------------------------------


class _KeepsScale(nn.Module):
    """`model.half()` and `.to(dtype)` leave scales as they are: a scale is never rounded.

    And `load_state_dict` casts no codes, and takes no scale and no zero point that is none.
    """

    def _load_from_state_dict(self, given, prefix, metadata, strict, missing, unexpected, errors):
        count = len(errors)
        for name, held in self._buffers.items():
            x = given.get(prefix + name)
            if held is None or not isinstance(x, Tensor):
                continue
            try:
                if not held.is_floating_point():
                    checks.codes(prefix + name, x, held.dtype, remedy="save the codes as they are")
                if name.endswith("zero_point"):
                    checks.zero_points(x, self._scheme_of(name))
                if name.endswith("scale"):
                    checks.scales(x, prefix + name)
            except (TypeError, ValueError) as error:
                errors.append(str(error))
        if len(errors) == count:
            super()._load_from_state_dict(
                given, prefix, metadata, strict, missing, unexpected, errors
            )

    def _apply(self, fn, recurse=True):
        scales = {name: x for name, x in self._buffers.items() if name.endswith("scale")}
        super()._apply(fn, recurse)
        for name, scale in scales.items():
            if self._buffers[name].dtype != scale.dtype:
                self._buffers[name] = scale.to(self._buffers[name].device)
        return self


class QuantizedWeight(_KeepsScale):
    """A QTensor as a module: it moves with the model, and tied layers share one."""

    def __init__(self, weight: QTensor, dtype=None):
        super().__init__()
        if not isinstance(weight, QTensor):
            raise TypeError(
                f"weight must be a QTensor, got {type(weight).__name__}: use "
                "ql.quantize(weight, scheme)."
            )
        self.scheme = weight.scheme
        self.register_buffer("q", weight.q)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero_point", weight.zero_point)
        # Holds nothing; its dtype follows model.half() and is that of the values given out.
        like = weight.scale.new_empty(0, dtype=dtype or weight.scale.dtype)
        self.register_buffer("like", like, persistent=False)

    @property
    def qtensor(self) -> QTensor:
        """The codes with their scale, zero point and scheme."""
        return QTensor._trusted(self.q, self.scale, self.zero_point, self.scheme)

    def values(self, dtype=None) -> Tensor:
        """W_hat = scale * (q - zero_point), in the model's dtype unless another is asked for."""
        return _values(self.q, self.scale, self.zero_point, self.scheme, dtype or self.like.dtype)

    def _scheme_of(self, name):
        return self.scheme


def _values(q, scale, zero_point, scheme, dtype) -> Tensor:
    """As `QTensor.dequantize`, whose objects torch.compile cannot follow everywhere."""
    r_hat = torch.empty_like(q, dtype=dtype)
    return kernels.dequantize(q, scale, zero_point, scheme.granularity, r_hat)


class _Layer(_KeepsScale):
    """What the layers share: the codes, a bias that stays float, and W_hat under `weight`."""

    def __init__(self, weight, bias):
        super().__init__()
        self.codes = weight if isinstance(weight, QuantizedWeight) else QuantizedWeight(weight)
        if bias is not None:
            checks.tensor("bias", bias)
            if bias.dtype not in checks.FLOATS or tuple(bias.shape) != (len(self.codes.q),):
                raise ValueError(
                    f"bias must hold one float for each of the {len(self.codes.q)} outputs, got "
                    f"{bias.dtype} of shape {tuple(bias.shape)}."
                )
        if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:
        """W_hat in float, made anew at each use, for code that reads a layer's weight itself."""
        return self.codes.values()

    def extra_repr(self):
        scheme = self.codes.scheme
        words = f"{list(self.codes.q.shape)}, {scheme.bits} bits, {scheme.mapping}"
        return f"{words}, {scheme.granularity}"


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
        if x.dtype not in checks.FLOATS:
            raise TypeError(f"input must be {checks.one_of_floats()}, got {x.dtype}.")
        if self.activations is None:
            bias = None if self.bias is None else rounded(self.bias, x.dtype)
            return F.linear(x, self.codes.values(x.dtype), bias)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but its last axis must be the layer's "
                f"in_features={self.in_features}."
            )
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        y = self.product(self.quantize_input(x.reshape(-1, x.shape[-1])))
        if self.bias is not None:
            y = y + self.bias
        return rounded(y, x.dtype).reshape(*x.shape[:-1], -1)

    @torch.no_grad()
    def quantize_input(self, x: Tensor) -> QTensor:
        """x [tokens, inputs] as codes, with the range of this x or the one given before."""
        qparams = QParams(self.input_scale, self.input_zero_point) if self.static else None
        return quantize(x, self.activations, qparams)

    @torch.no_grad()
    def product(self, x: QTensor) -> Tensor:
        """s_x s_w sum_k (x - z_x)(w - z_w), summed over the groups: float [tokens, outputs]."""
        scale = _columns(self.codes.scale)
        accumulators = enumerate(self.accumulators(x))
        return sum(acc.to(x.scale.dtype) * (x.scale * scale[:, i]) for i, acc in accumulators)

    def accumulators(self, x: QTensor):
        """One int32 sum [tokens, outputs] per group of columns; without groups there is one."""
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
        granularity, n = self.codes.scheme.granularity, self.in_features
        size = granularity.group_size if isinstance(granularity, PerGroup) else n
        return [slice(i, i + size) for i in range(0, n, size)]


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
    if not isinstance(activations, Scheme):
        raise TypeError(f"activations must be a ql.Scheme or None, got {activations!r}.")
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
    grouped = isinstance(granularity, PerGroup) and granularity.axis in (1, -1)
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
        self.padding_idx = padding_idx
        granularity = self.codes.scheme.granularity
        if isinstance(granularity, PerGroup) and granularity.axis in (0, -2):
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
        # As the float layer says it, not as its weight shows it: reading that may have effects.
        for name in CONV_SETTINGS:
            setattr(self, name, getattr(conv, name))
        self.shape = torch.Size(
            (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
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
        if self.around:
            x = F.pad(x, self.around[0], mode=self.around[1])
        return self.function(
            x, self.codes.values(x.dtype).view(self.shape), self.bias, *self.settings
        )


class IntegerLinear(_KeepsScale):
    """Codes in, codes out, integers between: what a chip without floats runs (notebook 09).

    layer    a static QuantizedLinear whose weight has one scale, or one per row
    output   the Scheme of the output, with one scale; qparams its scale s_y and zero point z_y

    q_y = z_y + round(s_x s_w / s_y * (sum x w - z_w sum x + constant)), where the constant holds
    the bias and the two terms that do not depend on the input: one int32 per output.
    """

    def __init__(self, layer: QuantizedLinear, output: Scheme, qparams: QParams):
        super().__init__()
        if not isinstance(layer, QuantizedLinear):
            raise TypeError(f"layer must be a QuantizedLinear, got {type(layer).__name__}.")
        if not layer.static or len(layer.weight_sums) > 1:
            raise ValueError(
                "IntegerLinear needs a static layer (activations and qparams given), whose weight "
                "has one scale per tensor or per row: sums of groups could not be added as integers"
            )
        if not isinstance(output, Scheme):
            raise TypeError(f"output must be a ql.Scheme, got {output!r}.")
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
        checks.codes("q", q, self.layer.activations.dtype)
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


# --- a whole model --------------------------------------------------------------------------------


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
    if not isinstance(activations, Scheme):
        raise TypeError(f"activations must be a ql.Scheme, got {activations!r}.")
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


def state(qmodel) -> dict[str, QTensor | Tensor]:
    """All that the model holds, by the names of the float model: to be saved (notebook 08).

    The weights of swapped layers are QTensors, a shared one once, under its first name.
    """
    weights = {n: m for n, m in qmodel.named_modules() if isinstance(m, QuantizedWeight)}
    tensors = {_join(n.rpartition(".")[0], "weight"): m.qtensor for n, m in weights.items()}
    kept = qmodel.state_dict()
    for name, x in [*qmodel.named_parameters(), *qmodel.named_buffers()]:
        if name in kept and name.rpartition(".")[0] not in weights:
            tensors[name] = x.detach()
    return tensors


def load_state(model, tensors, activations=None):
    """The quantized model that `state` described, from the float model's architecture.

    model        the float model; it stays as it is, and its values are not used
    tensors      what `state` gave, or `checkpoint.load` of a file with these names. A PackedTensor
                 is unpacked; a quantized tensor that is no layer's weight becomes float.
    activations  the Scheme of the inputs that `quantize_model` was given. The ranges of static
                 layers are among the tensors.
    """
    layers, made = _layers(model), {}
    codes_of = _codes_of(layers, tensors)
    for name, layer in layers.items():
        codes = codes_of.get(_key(layer))
        if codes is not None and not isinstance(tensors.get(_join(name, "weight")), Tensor):
            qparams = _static_qparams(name, tensors, activations)
            with _naming(name, remedy=""):
                _refuse(layer)
                bias = _read(layer)[1]
                made[layer] = _swapped(model, name, layer, codes, bias, activations, qparams)
    qmodel = _with_layers(model, made)
    expected = state(qmodel)
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise ValueError(
            f"The tensors do not fit the model: missing {missing}, unknown {unknown}. Build the "
            "model with the settings of the one that was saved."
        )
    plain = {name: tensors[name] for name, x in expected.items() if isinstance(x, Tensor)}
    for name, x in plain.items():
        if not isinstance(x, Tensor):  # rounded once, to what will hold it
            dtype = expected[name].dtype if expected[name].dtype in checks.FLOATS else None
            plain[name] = _unpacked(x).dequantize(dtype)
        elif x.is_complex() and not expected[name].is_complex():
            with _naming(name, remedy=""):
                checks.real("the tensor", x)
    qmodel.load_state_dict(plain, strict=False)
    return qmodel


# What quantize_model and load_state share

SWAPPED = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _layers(model) -> dict[str, nn.Module]:
    """{first name: layer} of what can be swapped; the model itself has the name ""."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise TypeError(
            "model is traced or scripted by torch.jit, which has put its layers into a program of "
            "its own: quantize the model before."
        )
    return {n: m for n, m in model.named_modules() if type(m).forward in _FORWARDS}


_FORWARDS = {kind.forward for kind in SWAPPED}


def _plan(model, layers, scheme, skip) -> dict[str, Scheme]:
    """The Scheme of each layer that will be swapped, or a sentence about what fits nothing."""
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    wanted = scheme if isinstance(scheme, dict) else {"*": scheme}
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


def _codes_of(layers, tensors):
    """{weight: its codes} from saved tensors, for the layers that have one there."""
    found = {}
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
        found[_key(layer)] = QuantizedWeight(x.to(weight.device), weight.dtype)
    return found


def _unpacked(x) -> QTensor:
    return x if isinstance(x, QTensor) else x.unpack()


def _static_qparams(name, tensors, activations):
    """{name: QParams} where the tensors hold an input range, else None."""
    scale = tensors.get(_join(name, "input_scale"))
    if scale is None:
        return None
    if activations is None:
        raise ValueError(
            "The tensors hold input ranges: pass the Scheme of the inputs as activations."
        )
    return {name: QParams(scale, tensors[_join(name, "input_zero_point")])}


def _join(name, leaf) -> str:
    return f"{name}.{leaf}" if name else leaf


# --- another runtime ------------------------------------------------------------------------------


def to_onnx_qdq(layer: IntegerLinear, path):
    """Write the layer as an ONNX file in QDQ form: float x [rows, inputs] -> codes of y.

    x -> QuantizeLinear -> DequantizeLinear -> Gemm with W and b, each behind a DequantizeLinear ->
    QuantizeLinear. A runtime may fuse these into one integer operator, as onnxruntime does.

    The input and the output must be asymmetric with 8 bits, since ONNX clips at the ends of the
    type. Give the input's scheme rounding="outside", ONNX's order. Needs the package onnx.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise ImportError("to_onnx_qdq needs the package onnx: pip install onnx.") from None
    inner = layer.layer
    for name, scheme in (("input", inner.activations), ("output", layer.output)):
        if scheme.bits != 8 or scheme.mapping != "asymmetric":
            raise ValueError(
                f"The {name} has {scheme}: ONNX clips at the ends of its 8-bit types, so only "
                "8 bits, asymmetric, keep the same codes."
            )
    codes = inner.codes
    w_scale, w_zero = codes.scale.flatten(), codes.zero_point.flatten()
    if codes.scale.ndim == 0:
        w_scale, w_zero = codes.scale, codes.zero_point
    constants = {
        "x_scale": inner.input_scale,
        "x_zero_point": inner.input_zero_point,
        "w_codes": codes.q,
        "w_scale": w_scale,
        "w_zero_point": w_zero,
        "b_codes": layer.bias_codes,
        "b_scale": (inner.input_scale * codes.scale.flatten()).expand_as(layer.bias_codes),
        "y_scale": layer.output_scale,
        "y_zero_point": layer.output_zero_point,
    }

    def node(kind, inputs, output, **settings):
        return helper.make_node(kind, inputs.split(), [output], **settings)

    nodes = [
        node("QuantizeLinear", "x x_scale x_zero_point", "x_codes"),
        node("DequantizeLinear", "x_codes x_scale x_zero_point", "x_hat"),
        node("DequantizeLinear", "w_codes w_scale w_zero_point", "w_hat", axis=0),
        node("DequantizeLinear", "b_codes b_scale", "b_hat", axis=0),
        node("Gemm", "x_hat w_hat b_hat", "y", transB=1),
        node("QuantizeLinear", "y y_scale y_zero_point", "y_codes"),
    ]
    kind = TensorProto.INT8 if layer.output.signed else TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "quantized_linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inner.in_features])],
        [helper.make_tensor_value_info("y_codes", kind, ["rows", inner.out_features])],
        [numpy_helper.from_array(x.cpu().contiguous().numpy(), n) for n, x in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
