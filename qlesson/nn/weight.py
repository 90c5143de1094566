"""Codes as a module, and what the quantized layers share (notebook 09)."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import computing
from qlesson.blocks import Blocks, code_ends
from qlesson.checks import Shape
from qlesson.granularity import PerAxis, PerGroup, PerTensor
from qlesson.kernels.packed import pack_rows, refuse_a_trace, unpack_rows
from qlesson.qtensor import Parts, QTensor
from qlesson.scheme import Scheme

NOT_LEARNED = (
    "{} requires a gradient, and a quantized layer gives it none: train the float model through "
    "ql.fake_quantize, and quantize it then."
)


class _KeepsScale(nn.Module):
    """`model.half()` and `.to(dtype)` leave scales and factors as they are: none is ever rounded.

    And `load_state_dict` casts no codes, and takes no scale and no zero point that is none.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter) and name in self.__dict__.get("_buffers", ()):
            raise ValueError(NOT_LEARNED.format(name))
        super().__setattr__(name, value)

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
        if name.endswith("zero_point"):
            checks.zero_points("zero_point", x, self._scheme_of(name))
        if name.endswith("scale"):
            checks.scales(full_name, x)
            checks.stored_as(x, self._scheme_of(name))
            checks.scales_in(full_name, x, dtype, self._scheme_of(name))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact, held = ("scale", "minimum", "factor", "book"), self._buffers.items()
        kept = {n: x for n, x in held if x is not None}
        # model.type(dtype) casts whole numbers too: codes, zero points, shifts.
        kept = {n: x for n, x in kept.items() if n.endswith(exact) or not x.is_floating_point()}
        super()._apply(fn, recurse)
        for name, x in kept.items():
            moved = self.get_buffer(name)
            if moved.dtype != x.dtype:
                self._buffers[name] = x.to(moved.device)
        return self


class QuantizedWeight(_KeepsScale):
    """A QTensor or Blocks as a module: it moves with the model, and tied layers share one.

    Its buffers are `packed`, scale, and zero_point or minimum. Codes of 2 to 8 bits are packed as
    `qlesson.kernels.packed` says, so 4 bits are 4 bits in memory; codes of 16 are as they were. In
    a symmetric scheme no zero points are held. `q` and `held` unpack.
    """

    packed: Tensor
    scale: Tensor
    zero_point: Tensor | None
    minimum: Tensor | None
    like: Tensor

    def __init__(self, weight: QTensor | Blocks, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        kinds = (QTensor, Blocks)
        checks.of_type("weight", weight, kinds, "use ql.quantize(weight, scheme)")
        if dtype is not None:
            checks.float_dtype("dtype", dtype)
        self.kind, self.shape = type(weight), weight.shape
        self.has_scheme = isinstance(weight, QTensor)
        owner: Any = weight.scheme if isinstance(weight, QTensor) else weight
        self.granularity, self.bits = owner.granularity, owner.bits
        self.signed = weight.q.dtype.is_signed
        self.settings = {name: x for name, x in vars(weight).items() if not _is_part(x)}
        parts = {name: x for name, x in vars(weight).items() if _is_part(x)}
        if self.has_scheme and self.scheme.mapping == "symmetric":
            parts["zero_point"] = None
        q = parts.pop("q")
        packed = _own(q) if self.bits > 8 else pack_rows(_matrix(q), self.bits)
        self.register_buffer("packed", packed)
        for name, x in parts.items():
            self.register_buffer(name, _own(x))
        # Holds nothing; its dtype follows model.half() and is that of the values given out.
        like = weight.scale.new_empty(0, dtype=dtype or computing(weight.scale.dtype))
        self.register_buffer("like", like, persistent=False)

    @property
    def scheme(self) -> Any:
        """The Scheme of a QTensor's codes; None for Blocks, which have none."""
        return self.settings.get("scheme")

    def needed_scheme(self) -> Scheme:
        """The Scheme. Raises ValueError for Blocks."""
        if not self.has_scheme:
            raise ValueError(
                f"The weight is {self.kind.__name__}, with a float minimum, and an integer product "
                "needs zero points that are codes: use activations=None, or quantize the weight "
                "with ql.quantize."
            )
        return self.scheme

    @property
    def device(self) -> torch.device:
        return self.packed.device

    @property
    def q(self) -> Tensor:
        """The codes as they came in, unpacked at each use."""
        return self._unpacked(self.packed, self.shape)

    @property
    def zero_points(self) -> Tensor:
        """Of a QTensor's codes, in the scale's shape: zeros where none are held."""
        if self.zero_point is not None:
            return self.zero_point
        return torch.zeros_like(self.scale, dtype=self.scheme.dtype)

    @property
    def held(self) -> QTensor | Blocks:
        """The codes with all that gives them meaning, as they came in: unpacked."""
        parts: dict[str, Any] = self._parts() | self.settings
        return self.kind._trusted(**parts)

    @property
    def by_rows(self) -> bool:
        """Whether a row of a matrix has a scale of its own, or scales that all rows share, so that
        rows have values without the others."""
        granularity = self.granularity
        by_row = type(granularity) is PerGroup and granularity.axis in (1, -1)
        return len(self.shape) == 2 and (by_row or type(granularity) in (PerTensor, PerAxis))

    def values(self, dtype: torch.dtype | None = None) -> Tensor:
        """W_hat as `dequantize` gives it, in the model's dtype unless another is asked for."""
        return self._values(self._parts(), dtype)

    def rows(self, rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """W_hat[rows] for row numbers [n] that were checked: only these are unpacked and
        dequantized."""
        shared = self.granularity in (PerTensor(), PerAxis(1), PerAxis(-1))
        # F.embedding, since a compiler lets other indices count from the end
        parts, packed = self._steps(), F.embedding(rows, self.packed)
        for name, x in parts.items():
            if x is not None and x.ndim == 2 and x.shape[0] == self.shape[0] and not shared:
                parts[name] = F.embedding(rows, x)
        q = self._unpacked(packed, (packed.shape[0], self.shape[1]))
        if shared and torch.compiler.is_compiling():
            # torch's loops for a CPU lose the check of a lookup that unpacking follows: this keeps
            # one, as that of a scale for each row does
            q = q + F.embedding(rows, q.new_zeros(self.shape[0], 1))
        parts["q"] = q
        return self._values(parts, dtype)

    def _unpacked(self, packed: Tensor, shape: Shape) -> Tensor:
        if self.bits > 8:
            return packed
        width = shape[-1] if shape else 1
        return unpack_rows(packed, self.bits, width, self.signed).view(shape)

    def _steps(self) -> dict[str, Tensor | None]:
        """All parts but the codes."""
        own = {name: x for name, x in self._buffers.items() if name not in ("packed", "like")}
        return own | ({"zero_point": self.zero_points} if self.has_scheme else {})

    def _parts(self) -> dict[str, Tensor | None]:
        return {"q": self.q, **self._steps()}

    def _values(self, parts: Parts, dtype: torch.dtype | None) -> Tensor:
        """As `dequantize`, without the object, which torch.compile cannot follow everywhere."""
        dtype = self.like.dtype if dtype is None else dtype
        checks.float_dtype("dtype", dtype)
        refuse_a_trace()
        _refuse_learned(parts)
        r_hat = torch.empty_like(parts["q"], dtype=dtype)
        return self.kind._fill(parts, self.granularity, r_hat)

    def _scheme_of(self, name: str) -> Scheme:
        return self.scheme

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if self.like.device != self.packed.device:  # assigned, and no file holds what holds nothing
            self.like = torch.empty_like(self.like, device=self.packed.device)

    def _check_buffer(self, name: str, full_name: str, x: Tensor, dtype: torch.dtype) -> None:
        remedy = "save the codes as they are"
        if name == "packed":
            checks.codes(full_name, x, dtype, remedy=remedy)
            if x.shape == self.packed.shape:
                ends = code_ends(self.bits, self.signed)
                if self.has_scheme:
                    ends = self.scheme.quant_min, self.scheme.quant_max
                checks.code_values(full_name, self._unpacked(x, self.shape), *ends, remedy)
        elif self.has_scheme:
            super()._check_buffer(name, full_name, x, dtype)
        elif x.dtype != dtype:  # of any value, but not rounded
            remedy = "save the weight as it is"
            raise TypeError(f"{full_name} is in {x.dtype}, and is stored in {dtype}: {remedy}.")

    @property
    def described(self) -> str:
        """In a line: shape, bits, mapping and granularity."""
        kind = self.scheme.mapping if self.has_scheme else self.kind.__name__
        return f"{list(self.shape)}, {self.bits} bits, {kind}, {self.granularity}"


def _refuse_learned(*held: Mapping[str, Tensor | None]) -> None:
    """A scale that learns would be left without its gradient, and nobody would be told."""
    if not torch.is_grad_enabled():
        return
    for name, x in (item for parts in held for item in parts.items()):
        if x is not None and x.requires_grad and name.endswith(("scale", "minimum")):
            raise ValueError(NOT_LEARNED.format(name))


def _is_part(x: Any) -> bool:
    """Whether it becomes a buffer: a tensor, or the place of one that may be missing."""
    return x is None or isinstance(x, Tensor)


def _own(x: Tensor | None) -> Tensor | None:
    """A copy, which load_state_dict may fill, in the order in which the kernel reads it."""
    return None if x is None else x.clone(memory_format=torch.contiguous_format)


def _matrix(q: Tensor) -> Tensor:
    """The codes as rows along the last axis."""
    return q.reshape(-1, q.shape[-1] if q.ndim else 1)


class _Layer(_KeepsScale):
    """What the layers share: the codes, a bias that stays float, and W_hat under `weight`."""

    bias: nn.Parameter | None

    def __init__(self, weight: QTensor | Blocks | QuantizedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.codes = weight if isinstance(weight, QuantizedWeight) else QuantizedWeight(weight)
        if bias is not None:
            checks.tensor("bias", bias)
            self._check_bias(bias)
            checks.finite("bias", checks.float_tensor("bias", bias))
        if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(checks.plain(bias).clone(), requires_grad=False)
        self.register_parameter("bias", bias)

    def _check_bias(self, bias: Tensor) -> None:
        """One that was set later too: a kernel reads as many numbers as there are outputs."""
        if bias.dtype not in checks.FLOATS or tuple(bias.shape) != tuple(self.codes.shape[:1]):
            raise ValueError(
                f"bias must hold one float for each of the {self.codes.shape[0]} outputs, got "
                f"{bias.dtype} of shape {tuple(bias.shape)}."
            )

    @property
    def weight(self) -> Tensor:
        """W_hat in float, made anew at each use, for code that reads a layer's weight itself."""
        return self.codes.values()

    def extra_repr(self) -> str:
        return self.codes.described
