"""A Scheme says which codes there are and how real values map to them (notebooks 01-06)."""

from dataclasses import dataclass
from numbers import Integral

import torch

from qlesson.granularity import Granularity, PerTensor


@dataclass(frozen=True)
class Scheme:
    """How to quantize: everything that is decided before a tensor is seen.

    bits          2 to 8, or 16; one code takes this many bits (notebook 01)
    mapping       "asymmetric": codes cover [r_min, r_max] (notebook 02);
                  "symmetric": codes cover [-max|r|, max|r|] and z = 0 (notebook 03)
    granularity   who shares a scale: PerTensor(), PerAxis(axis), PerGroup(size) (notebook 06)
    signed        codes from -2^(bits-1), or unsigned codes from 0 (notebook 02)
    include_zero  widen the range to hold 0, so that 0.0 comes back exactly (notebook 02);
                  torchao calls it preserve_zero. False is the literal formula.
    rounding      "inside": round(r/s + z); "outside": round(r/s) + z, ONNX's order (notebook 01)

    Raises ValueError for a value outside these, and for symmetric or 16 bits with signed=False.
    """

    bits: int = 8
    mapping: str = "asymmetric"
    granularity: Granularity = PerTensor()
    signed: bool = True
    include_zero: bool = True
    rounding: str = "inside"

    def __post_init__(self):
        is_integer = isinstance(self.bits, Integral) and not isinstance(self.bits, bool)
        if not is_integer or self.bits not in (2, 3, 4, 5, 6, 7, 8, 16):
            raise ValueError(f"bits must be an integer from 2 to 8, or 16, got {self.bits!r}.")
        object.__setattr__(self, "bits", int(self.bits))
        _one_of("mapping", self.mapping, ("asymmetric", "symmetric"))
        _one_of("rounding", self.rounding, ("inside", "outside"))
        _one_of("signed", self.signed, (True, False))
        _one_of("include_zero", self.include_zero, (True, False))
        if not isinstance(self.granularity, Granularity):
            raise TypeError(
                "granularity must be ql.PerTensor(), ql.PerAxis(axis) or "
                f"ql.PerGroup(group_size), got {self.granularity!r}."
            )
        if not self.signed and self.mapping == "symmetric":
            raise ValueError(
                "A symmetric scheme has codes on both sides of 0: use signed=True, "
                'or mapping="asymmetric" for unsigned codes.'
            )
        if not self.signed and self.bits == 16:
            raise ValueError("16 bits are signed only: use signed=True, or at most 8 bits.")

    @property
    def quant_max(self) -> int:
        """The largest code: 2^(bits-1) - 1 signed, 2^bits - 1 unsigned."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def quant_min(self) -> int:
        """The smallest code: -2^(bits-1) signed, 0 unsigned, -quant_max symmetric."""
        if self.mapping == "symmetric":
            return -self.quant_max
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds a code: int16 for 16 bits, else int8 or uint8."""
        if self.bits == 16:
            return torch.int16
        return torch.int8 if self.signed else torch.uint8


def _one_of(name, value, allowed):
    if not any(value is a or (isinstance(a, str) and value == a) for a in allowed):
        choices = " or ".join(repr(a) for a in allowed)
        raise ValueError(f"{name} must be {choices}, got {value!r}.")
