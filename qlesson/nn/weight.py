"""Codes as a module, and what the quantized layers share (notebook 09)."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import computing
from qlesson.blocks import Blocks, code_ends
from qlesson.granularity import PerAxis, PerTensor
from qlesson.qtensor import Parts, QTensor
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
        exact = ("scale", "minimum", "factor")
        kept = {n: x for n, x in self._buffers.items() if x is not None and n.endswith(exact)}
        super()._apply(fn, recurse)
        for name, held in kept.items():
            moved = self.get_buffer(name)
            if moved.dtype != held.dtype:
                self._buffers[name] = held.to(moved.device)
        return self


class QuantizedWeight(_KeepsScale):
    """A QTensor or Blocks as a module: it moves with the model, and tied layers share one.

    Its buffers have the names of the parts: q, scale, and zero_point or minimum.
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    like: Tensor

    def __init__(self, weight: QTensor | Blocks, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        kinds = (QTensor, Blocks)
        checks.of_type("weight", weight, kinds, "use ql.quantize(weight, scheme)")
        if dtype is not None:
            checks.float_dtype("dtype", dtype)
        self.kind = type(weight)
        self.has_scheme = isinstance(weight, QTensor)
        owner: Any = weight.scheme if isinstance(weight, QTensor) else weight
        self.granularity, self.bits = owner.granularity, owner.bits
        self.settings = {name: x for name, x in vars(weight).items() if not _is_part(x)}
        for name, x in vars(weight).items():
            if _is_part(x):
                self.register_buffer(name, x)
        # Holds nothing; its dtype follows model.half() and is that of the values given out.
        like = weight.scale.new_empty(0, dtype=dtype or computing(weight.scale.dtype))
        self.register_buffer("like", like, persistent=False)

    @property
    def scheme(self) -> Scheme:
        """Of a QTensor's codes. Raises ValueError for Blocks, which have none."""
        if not self.has_scheme:
            raise ValueError(
                f"The weight is {self.kind.__name__}, with a float minimum, and an integer product "
                "needs zero points that are codes: use activations=None, or quantize the weight "
                "with ql.quantize."
            )
        return self.settings["scheme"]

    @property
    def held(self) -> QTensor | Blocks:
        """The codes with all that gives them meaning, as they came in."""
        parts: dict[str, Any] = self._parts() | self.settings
        return self.kind._trusted(**parts)

    def values(self, dtype: torch.dtype | None = None) -> Tensor:
        """W_hat as `dequantize` gives it, in the model's dtype unless another is asked for."""
        return self._values(self._parts(), dtype)

    def rows(self, rows: Tensor) -> Tensor:
        """W_hat[rows] for row numbers [n] that were checked: only these are dequantized."""
        shared = self.granularity in (PerTensor(), PerAxis(1), PerAxis(-1))
        parts = {
            name: x if x is None or (shared and name != "q") else x.index_select(0, rows)
            for name, x in self._parts().items()
        }
        return self._values(parts, None)

    def _parts(self) -> dict[str, Tensor | None]:
        return {name: x for name, x in self._buffers.items() if name != "like"}

    def _values(self, parts: Parts, dtype: torch.dtype | None) -> Tensor:
        """As `dequantize`, without the object, which torch.compile cannot follow everywhere."""
        dtype = self.like.dtype if dtype is None else dtype
        checks.float_dtype("dtype", dtype)
        r_hat = torch.empty_like(parts["q"], dtype=dtype)
        return self.kind._fill(parts, self.granularity, r_hat)

    def _scheme_of(self, name: str) -> Scheme:
        return self.scheme

    def _check_buffer(self, name: str, full_name: str, x: Tensor, dtype: torch.dtype) -> None:
        if self.has_scheme:
            return super()._check_buffer(name, full_name, x, dtype)
        remedy = "save the weight as it is"
        if name == "q":
            checks.codes(full_name, x, dtype, remedy=remedy)
            ends = code_ends(self.bits, dtype.is_signed)
            checks.code_values(full_name, x, *ends, remedy)
        elif x.dtype != dtype:  # of any value, but not rounded
            raise TypeError(f"{full_name} is in {x.dtype}, and is stored in {dtype}: {remedy}.")

    @property
    def described(self) -> str:
        """In a line: shape, bits, mapping and granularity."""
        kind = self.scheme.mapping if self.has_scheme else self.kind.__name__
        return f"{list(self.q.shape)}, {self.bits} bits, {kind}, {self.granularity}"


def _is_part(x: Any) -> bool:
    """Whether it becomes a buffer: a tensor, or the place of one that may be missing."""
    return x is None or isinstance(x, Tensor)


class _Layer(_KeepsScale):
    """What the layers share: the codes, a bias that stays float, and W_hat under `weight`."""

    bias: nn.Parameter | None

    def __init__(self, weight: QTensor | Blocks | QuantizedWeight, bias: Tensor | None) -> None:
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
        return self.codes.described
