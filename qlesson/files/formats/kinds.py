"""Blocks that hold more: scales of scales, and a book in the place of even steps."""

from dataclasses import dataclass

from torch import Tensor

from qlesson.blocks import Blocks
from qlesson.granularity import Granularity, PerGroup
from qlesson.qtensor import Parts


@dataclass(frozen=True, eq=False)
class SuperBlocks(Blocks):
    """Blocks of blocks, as ggml's K-quants: the scales of the small ones are codes themselves.

        r_hat = (scale * scale_codes) * q + minimum * minimum_codes

    q, bits         as in Blocks
    group_size      values in a large block, 256 in ggml
    scale, minimum  float16 [..., n / group_size], of the large blocks; the minimum may be None
    scale_codes     uint8 or int8 [..., n / small], one for each small block of a large one
    minimum_codes   the same for the minimum, or None
    code_bits       bits of each of these as they are stored
    """

    scale_codes: Tensor
    minimum_codes: Tensor | None
    code_bits: int

    @property
    def bits_per_value(self) -> float:
        """bits + (code_bits * small blocks + 16 * large blocks) / values, twice with minima."""
        steps = self.code_bits * self.scale_codes.numel() + 16 * self.scale.numel()
        return self.bits + steps * (1 if self.minimum is None else 2) / self.q.numel()

    def plain(self) -> Blocks:
        """The same values as Blocks, with scale and minimum multiplied out, in float32.

        These are what the product of packed codes takes.
        """
        scale, minimum = _multiplied_out(vars(self))
        size = self.q.shape[-1] // scale.shape[-1]
        return Blocks._trusted(
            q=self.q, scale=scale, minimum=minimum, bits=self.bits, group_size=size
        )

    @staticmethod
    def _fill(parts: Parts, granularity: Granularity, r_hat: Tensor) -> Tensor:
        scale, minimum = _multiplied_out(parts)
        small = PerGroup(parts["q"].shape[-1] // scale.shape[-1])
        plain = {"q": parts["q"], "scale": scale, "minimum": minimum}
        return Blocks._fill(plain, small, r_hat)


def _multiplied_out(parts: Parts) -> tuple[Tensor, Tensor | None]:
    """Scale and minimum of the small blocks, each product rounded to float32."""
    scale = _product(parts["scale"], parts["scale_codes"])
    if parts["minimum"] is None:
        return scale, None
    return scale, _product(parts["minimum"], parts["minimum_codes"])


def _product(of_large: Tensor, codes: Tensor) -> Tensor:
    small = codes.float().unflatten(-1, (of_large.shape[-1], -1))
    return (of_large.float().unsqueeze(-1) * small).flatten(-2)


@dataclass(frozen=True, eq=False)
class BookBlocks(Blocks):
    """Codes that are places in a book: NF4, FP8, MXFP4.

        r_hat = scale * book[q]

    q           uint8, from 0 to 2^bits - 1
    scale       float [..., ceil(n / group_size)]
    minimum     None
    book        float [2^bits], what each code stands for, before the scale
    scale_bits  bits of each scale as it is stored; a mean, where scales have scales
    """

    book: Tensor
    scale_bits: float

    @property
    def bits_per_value(self) -> float:
        """bits + scale_bits * number of scales / number of values."""
        return self.bits + self.scale_bits * self.scale.numel() / self.q.numel()

    @staticmethod
    def _fill(parts: Parts, granularity: Granularity, r_hat: Tensor) -> Tensor:
        values = parts["book"][parts["q"].int()]
        plain = {"q": values, "scale": parts["scale"], "minimum": None}
        return Blocks._fill(plain, granularity, r_hat)
