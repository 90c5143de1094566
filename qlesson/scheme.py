"""A Scheme says which codes there are and how real values map to them (notebooks 01-06)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import QParams, safe_qparams
from qlesson.granularity import Granularity, PerTensor

SCALE_DTYPES = (None, torch.float32, torch.float16, torch.bfloat16)


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
    scale_dtype   what a scale is stored in: torch.float32, torch.float16 or torch.bfloat16. It is
                  rounded once, before zero point and codes are computed from it, so the codes are
                  the nearest for the scale that is stored; one rounded down clips the largest value
                  by up to (quant_max - quant_min) u codes, u = 2^-11 or 2^-8. None is the dtype
                  that is computed in: float32, or float64 for float64.

    Raises ValueError for a value outside these, for symmetric or 16 bits with signed=False, and for
    16 bits with half scales, whose few digits would clip whole codes.
    """

    bits: int = 8
    mapping: str = "asymmetric"
    granularity: Granularity = PerTensor()
    signed: bool = True
    include_zero: bool = True
    rounding: str = "inside"
    scale_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        checks.bits("bits", self.bits)
        object.__setattr__(self, "bits", int(self.bits))
        checks.one_of("mapping", self.mapping, ("asymmetric", "symmetric"))
        checks.one_of("rounding", self.rounding, ("inside", "outside"))
        checks.one_of("signed", self.signed, (True, False))
        checks.one_of("include_zero", self.include_zero, (True, False))
        checks.granularity("granularity", self.granularity)
        checks.one_of("scale_dtype", self.scale_dtype, SCALE_DTYPES)
        if not self.signed and self.mapping == "symmetric":
            raise ValueError(
                "A symmetric scheme has codes on both sides of 0: use signed=True, "
                'or mapping="asymmetric" for unsigned codes.'
            )
        if not self.signed and self.bits == 16:
            raise ValueError("16 bits are signed only: use signed=True, or at most 8 bits.")
        if self.bits == 16 and self.scale_dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"16 bits need a scale of more digits than {self.scale_dtype} has: use "
                "scale_dtype=torch.float32."
            )

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
    def reach(self) -> int:
        """The largest |q - z|: quant_max in symmetric mode, else quant_max - quant_min."""
        return self.quant_max - (0 if self.mapping == "symmetric" else self.quant_min)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds a code: int16 for 16 bits, else int8 or uint8."""
        if self.bits == 16:
            return torch.int16
        return torch.int8 if self.signed else torch.uint8


def qparams_of(r_min: Tensor, r_max: Tensor, scheme: Scheme) -> QParams:
    """`affine.safe_qparams` with a scheme's codes; the zero point is an int32 still."""
    return safe_qparams(
        r_min,
        r_max,
        scheme.quant_min,
        scheme.quant_max,
        scheme.mapping,
        scheme.include_zero,
        scheme.scale_dtype,
    )
