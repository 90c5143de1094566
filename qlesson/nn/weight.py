"""Codes as a module, and what the quantized layers share (notebook 09)."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from qlesson import checks, kernels
from qlesson.affine import computing
from qlesson.qtensor import QTensor
from qlesson.scheme import Scheme


class _KeepsScale(nn.Module):
    """`model.half()` and `.to(dtype)` leave scales and factors as they are: none is ever rounded.

    And `load_state_dict` casts no codes, and takes no scale and no zero point that is none.
    """

    def _scheme_of(self, name: str) -> Scheme:
        """The scheme of the codes, or of the zero point, in the buffer of this name."""
        raise NotImplementedError

    def _load_from_state_dict(
        self,
        given: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        count = len(errors)
        for name, held in self._buffers.items():
            x = given.get(prefix + name)
            if held is None or not isinstance(x, Tensor):
                continue
            try:
                self._check_buffer(name, prefix + name, x, held.dtype)
            except (TypeError, ValueError) as error:
                errors.append(str(error))
        if len(errors) == count:
            super()._load_from_state_dict(
                given, prefix, metadata, strict, missing, unexpected, errors
            )

    def _check_buffer(self, name: str, full_name: str, x: Tensor, dtype: torch.dtype) -> None:
        """What is to fill the buffer of this name and dtype."""
        remedy = "save the codes as they are"
        if not dtype.is_floating_point:
            checks.codes(full_name, x, dtype, remedy=remedy)
        if name == "q":
            scheme = self._scheme_of(name)
            checks.code_values(full_name, x, scheme.quant_min, scheme.quant_max, remedy)
        if name.endswith("zero_point"):
            checks.zero_points("zero_point", x, self._scheme_of(name))
        if name.endswith("scale"):
            checks.scales(full_name, x)
            checks.stored_as(x, self._scheme_of(name))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = ("scale", "factor")
        kept = {n: x for n, x in self._buffers.items() if x is not None and n.endswith(exact)}
        super()._apply(fn, recurse)
        for name, held in kept.items():
            moved = self.get_buffer(name)
            if moved.dtype != held.dtype:
                self._buffers[name] = held.to(moved.device)
        return self


class QuantizedWeight(_KeepsScale):
    """A QTensor as a module: it moves with the model, and tied layers share one."""

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    like: Tensor

    def __init__(self, weight: QTensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        checks.of_type("weight", weight, QTensor, "use ql.quantize(weight, scheme)")
        if dtype is not None:
            checks.float_dtype("dtype", dtype)
        self.scheme = weight.scheme
        self.register_buffer("q", weight.q)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero_point", weight.zero_point)
        # Holds nothing; its dtype follows model.half() and is that of the values given out.
        like = weight.scale.new_empty(0, dtype=dtype or computing(weight.scale.dtype))
        self.register_buffer("like", like, persistent=False)

    @property
    def qtensor(self) -> QTensor:
        """The codes with their scale, zero point and scheme."""
        return QTensor._trusted(self.q, self.scale, self.zero_point, self.scheme)

    def values(self, dtype: torch.dtype | None = None) -> Tensor:
        """W_hat = scale * (q - zero_point), in the model's dtype unless another is asked for."""
        dtype = self.like.dtype if dtype is None else dtype
        checks.float_dtype("dtype", dtype)
        return _values(self.q, self.scale, self.zero_point, self.scheme, dtype)

    def _scheme_of(self, name: str) -> Scheme:
        return self.scheme


def _values(
    q: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme, dtype: torch.dtype
) -> Tensor:
    """As `QTensor.dequantize`, whose objects torch.compile cannot follow everywhere."""
    r_hat = torch.empty_like(q, dtype=dtype)
    return kernels.run(kernels.dequantize, (), q, scale, zero_point, scheme.granularity, r_hat)


class _Layer(_KeepsScale):
    """What the layers share: the codes, a bias that stays float, and W_hat under `weight`."""

    bias: nn.Parameter | None

    def __init__(self, weight: QTensor | QuantizedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.codes = weight if isinstance(weight, QuantizedWeight) else QuantizedWeight(weight)
        if bias is not None:
            checks.tensor("bias", bias)
            if bias.dtype not in checks.FLOATS or tuple(bias.shape) != (len(self.codes.q),):
                raise ValueError(
                    f"bias must hold one float for each of the {len(self.codes.q)} outputs, got "
                    f"{bias.dtype} of shape {tuple(bias.shape)}."
                )
            checks.finite("bias", checks.float_tensor("bias", bias))
        if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(checks.plain(bias).clone(), requires_grad=False)
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:
        """W_hat in float, made anew at each use, for code that reads a layer's weight itself."""
        return self.codes.values()

    def extra_repr(self) -> str:
        scheme = self.codes.scheme
        words = f"{list(self.codes.q.shape)}, {scheme.bits} bits, {scheme.mapping}"
        return f"{words}, {scheme.granularity}"
