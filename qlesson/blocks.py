"""What a QTensor cannot be: blocks with a float minimum, and scales as a file has them.

A zero point is a code, so a QTensor's blocks begin at whole steps, and its scales are positive.
Files and some methods have more: a minimum, or a zero point that is a real number (minimum =
-scale * zero_point), and scales that are zero, negative, or not even finite.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from qlesson import checks, kernels
from qlesson.affine import asymmetric_qparams, computing, rounded, stored, too_small
from qlesson.granularity import Granularity, PerAxis, PerGroup, Shape
from qlesson.qtensor import FindRange, Parts, range_ends, refuse_too_wide
from qlesson.scheme import Scheme


@dataclass(frozen=True, eq=False)
class Blocks:
    """Codes with a scale and a minimum for each block of neighbours along the last axis.

        r_hat = scale * q + minimum

    q           codes, in the shape of r: uint8 from 0 to 2^bits - 1, or int8 from -2^(bits-1) to
                2^(bits-1) - 1
    scale       float [..., ceil(n / group_size)] where q is [..., n], in units of r per code
    minimum     float, in the scale's shape and dtype, in units of r: what the code 0 stands for.
                None where nothing is added, as in ggml's Q4_0 and Q8_0
    bits        2 to 8
    group_size  neighbours in a block; the last block of a row may be shorter. The row's length
                gives one block to each row

    Scale and minimum are taken as they are: zero, negative and non-finite ones too. ggml's Q4_1 is
    Blocks of 32 with both in float16.

    Raises TypeError or ValueError for parts that do not fit together and for values that are no
    codes of these bits.
    """

    q: Tensor
    scale: Tensor
    minimum: Tensor | None
    bits: int
    group_size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", checks.whole("bits", self.bits, 2, 8))
        group_size = checks.whole("group_size", self.group_size, low=1)
        object.__setattr__(self, "group_size", group_size)
        q, scale, minimum = self.q, self.scale, self.minimum
        checks.tensor("q", q)
        checks.strided("q", q)
        if q.dtype not in (torch.uint8, torch.int8):
            raise TypeError(f"q must hold codes in torch.uint8 or torch.int8, got {q.dtype}.")
        check_steps(q.shape, q.device, scale, minimum, group_size)
        if not q.is_meta:
            ends = code_ends(self.bits, q.dtype.is_signed)
            checks.code_values("q", q, *ends, "pass the bits that they were made with")
        for name, x in self._tensors().items():
            object.__setattr__(self, name, checks.held(x))

    @classmethod
    def _trusted(cls, **parts: Any) -> Self:
        """Of parts that the package has made or checked, by name."""
        x = object.__new__(cls)
        x.__dict__.update(parts)
        return x

    @property
    def shape(self) -> torch.Size:
        """The shape of r and of q."""
        return self.q.shape

    @property
    def device(self) -> torch.device:
        """The device that holds the codes."""
        return self.q.device

    @property
    def granularity(self) -> Granularity:
        """How the blocks lie: PerGroup(group_size)."""
        return PerGroup(self.group_size)

    def _tensors(self) -> dict[str, Tensor]:
        """What is held, by name; a subclass may hold more."""
        return {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held: q, scale and minimum."""
        return sum(x.nbytes for x in self._tensors().values())

    @property
    def bits_per_value(self) -> float:
        """bits + (scale bits + minimum bits) * number of blocks / number of values.

        What a value costs when the codes are packed.
        """
        steps = self.nbytes - self.q.nbytes
        return self.bits + 8 * steps / self.q.numel()

    @property
    def packed_nbytes(self) -> float:
        """The same in bytes, of all values: codes packed, with their scales and minima."""
        return self.bits_per_value * self.q.numel() / 8

    def to(self, device: torch.device | str) -> Self:
        """The same blocks on another device."""
        device = checks.device("device", device, computes=False)
        moved = {name: x.to(device) for name, x in self._tensors().items()}
        return self._trusted(**vars(self) | moved)

    @torch.no_grad()
    def dequantize(self, dtype: torch.dtype | None = None, *, out: Tensor | None = None) -> Tensor:
        """r_hat = scale * q + minimum, in units of r: the product is rounded, then the sum.

        dtype  the result's float dtype, rounded to once at the end; None is float32, or float64
               for float64 scales. What is finite as it is computed, and too large for it, becomes
               its largest number (float16: 65504)
        out    the float tensor to fill: q's shape, that dtype, q's device
        """
        dtype = computing(self.scale.dtype) if dtype is None else dtype
        checks.float_dtype("dtype", dtype)
        if out is not None:
            checks.out(out, self.shape, dtype, self.device, self._tensors())
        r_hat = torch.empty_like(self.q, dtype=dtype) if out is None else out
        return self._fill(vars(self), self.granularity, r_hat)

    @staticmethod
    def _fill(parts: Parts, granularity: Granularity, r_hat: Tensor) -> Tensor:
        """The formula, on parts by name: a layer that holds them as its own calls it too."""
        q, scale, minimum = parts["q"], parts["scale"], parts["minimum"]
        if minimum is None:  # -0.0 is what changes no number, not even -0.0
            minimum = torch.full_like(scale, -0.0)
        return kernels.run(kernels.dequantize_blocks, (), q, scale, minimum, granularity, r_hat)


@torch.no_grad()
def choose_steps(
    r: Tensor, scheme: Scheme, find_range: FindRange | None = None
) -> tuple[Tensor, Tensor]:
    """scale = (r_max - r_min) / (2^bits - 1), minimum = r_min: of the range of each block.

    Stored in the scheme's scale_dtype, or as computed. The range is that of the values even with
    include_zero, since 0.0 has no code of its own; one that is too narrow for a scale gets 1.

    scheme      asymmetric, of at most 8 bits, with blocks along the last axis
    find_range  where the range comes from, as in `ql.choose_qparams`; its ends are taken as they
                are

    Raises ValueError as `block_size` and `ql.choose_qparams`.
    """
    checks.scheme("scheme", scheme)
    r = checks.float_tensor("r", r)
    block_size(scheme, r.shape)
    r_min, r_max = range_ends(r, scheme, find_range)
    scale = stored(asymmetric_qparams(r_min, r_max, 0, scheme.reach).scale, scheme.scale_dtype)
    minimum = rounded(r_min.to(computing(r.dtype)), scale.dtype)
    refuse_too_wide(r_min, r_max, scheme, scale, minimum)
    return torch.where(too_small(scale), 1, scale), minimum


def block_size(scheme: Scheme, shape: Shape) -> int:
    """The group_size of Blocks in this scheme. Raises ValueError where they have none."""
    if scheme.mapping != "asymmetric" or scheme.bits > 8:
        raise ValueError(
            f"Blocks with a minimum have at most 8 bits, and the scheme is {scheme.mapping} with "
            f'{scheme.bits}: use mapping="asymmetric" and at most 8 bits.'
        )
    granularity = scheme.granularity
    steps, last = granularity.scale_shape(shape), tuple(shape)[-1:]
    if type(granularity) is PerGroup and granularity.axis in (-1, len(shape) - 1):
        return granularity.group_size
    if type(granularity) is PerAxis and last and steps == (*shape[:-1], 1):
        return last[0]
    raise ValueError(
        f"Blocks are neighbours on the last axis, and the scheme of a tensor of shape "
        f"{tuple(shape)} has {granularity}: use ql.PerGroup(size), or ql.PerAxis(0) on a matrix."
    )


@torch.no_grad()
def quantize_blocks(
    r: Tensor, scale: Tensor, minimum: Tensor, bits: int, group_size: int
) -> Blocks:
    """q = clip(round((r - minimum) / scale), 0, 2^bits - 1), as Blocks.

    Computed in float64, so the codes are the nearest for the scale and the minimum as they are
    stored. A block whose scale is 0 or NaN gets the code 0 where the quotient is no number.

    r  float32, float64, float16 or bfloat16, finite, with at least one axis; the rest as in Blocks
    """
    r = checks.float_tensor("r", r)
    checks.finite("r", r)
    checks.tensor("minimum", minimum)
    x = Blocks(torch.zeros_like(r, dtype=torch.uint8), scale, minimum, bits, group_size)
    steps = x.scale, minimum
    kernels.in_pieces(kernels.quantize_blocks, (2**x.bits - 1,), r, *steps, x.granularity, x.q)
    return x


def check_steps(
    shape: torch.Size,
    device: torch.device,
    scale: Any,
    minimum: Any,
    group_size: int,
    codes: str = "q",
) -> None:
    """Scale and minimum for codes of this shape: floats of any value, one for each block."""
    if 0 in shape or not shape:
        raise ValueError(
            f"q has shape {tuple(shape)}: blocks lie along the last axis, and there must be at "
            "least one code."
        )
    expected = PerGroup(group_size).scale_shape(shape)
    for name, x in (("scale", scale), ("minimum", minimum)):
        if x is None and name == "minimum":
            return
        checks.tensor(name, x)
        checks.strided(name, x)
        if x.dtype not in checks.FLOATS:
            raise TypeError(f"{name} must be {checks.one_of_floats()}, got {x.dtype}.")
        if tuple(x.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but blocks of {group_size} in codes of shape "
                f"{tuple(shape)} need {expected}: reshape it."
            )
        if x.device != device:
            raise ValueError(f"{name} is on {x.device}, and {codes} on {device}: move one of them.")
    if minimum.dtype != scale.dtype:
        raise TypeError(
            f"minimum is in {minimum.dtype} and scale in {scale.dtype}: store both in one dtype."
        )


def code_ends(bits: int, signed: bool) -> tuple[int, int]:
    """The smallest and the largest code of these bits, by whether they are signed."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
