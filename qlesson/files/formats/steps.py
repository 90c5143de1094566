"""Who shares a scale in other people's files: by the shape of the scales that they store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qlesson.blocks import Blocks
from qlesson.files.formats.parts import Part
from qlesson.granularity import Granularity, PerAxis, PerGroup, PerTensor, Shape
from qlesson.qtensor import QTensor
from qlesson.scheme import Scheme

BLOCK = 128  # rows and columns of a block of DeepSeek's FP8, and of most others


@dataclass(frozen=True)
class PerIndex(Granularity):
    """One scale for each listed set of columns in each row: GPTQ's act-order.

    index  the group of each column: 2, 0, 1, 0 is a matrix of four columns in three groups
    """

    index: tuple[int, ...]

    def scale_shape(self, shape: Shape) -> tuple[int, ...]:
        """[..., groups]."""
        if not shape or shape[-1] != len(self.index):
            raise ValueError(
                f"index lists the groups of {len(self.index)} columns, and the tensor has shape "
                f"{tuple(shape)}: pass the tensor that it was made for."
            )
        return (*shape[:-1], max(self.index) + 1)

    def block_shape(self, shape: Shape) -> tuple[int, ...]:
        """All columns, since the groups lie among each other, and 1 on every other axis."""
        return (*(1 for _ in shape[:-1]), len(self.index))

    def align(self, scale: Tensor) -> Tensor:
        """The scale of each column's group."""
        return scale[..., torch.tensor(self.index, device=scale.device)]

    def reduce(self, function: Callable[..., Tensor], r: Tensor) -> Tensor:
        """`function` over the columns of each group."""
        index = torch.tensor(self.index, device=r.device)
        groups = range(max(self.index) + 1)
        return torch.stack([function(r[..., index == g], dim=-1) for g in groups], -1)

    def __repr__(self) -> str:
        return f"PerIndex({max(self.index) + 1} groups of {len(self.index)} columns)"


def by_index(index: Tensor, groups: int, group_size: int, part: Part) -> Granularity:
    """Of the list of groups that a file has: PerGroup where it lists neighbours, or none.

    None is listed by 0 alone in GPTQ's files, and by -1 alone in those of compressed-tensors.
    """
    places = torch.arange(len(index), device=index.device)
    is_empty = any((index == x).all() for x in (0, -1))
    if is_empty or torch.equal(index.long(), places // group_size):
        return grouped(groups, group_size)
    if int(index.min()) < 0 or int(index.max()) != groups - 1:
        raise part.wrong(f"lists groups up to {int(index.max())}, and there are {groups}")
    return PerIndex(tuple(index.tolist()))


def grouped(groups: int, group_size: int) -> Granularity:
    """Groups of neighbours in a row; one group is one scale for the row."""
    return PerGroup(group_size) if groups > 1 else PerAxis(0)


def size_of_groups(
    part: Part, width: int, groups: int, said: Sequence[object], usual: int = 0
) -> int:
    """The size that the configuration says, where it gives so many groups; else width / groups.

    usual  the size that is meant where nothing is said, and it fits
    """

    def fits(size: object) -> bool:
        return isinstance(size, int) and size > 0 and -(-width // size) == groups

    found = sorted({int(size) for size in said if fits(size) and isinstance(size, int)})
    whole = [width // groups] if width % groups == 0 else []
    if len(found) > 1:
        found = [size for size in found if size in whole]
    elif not found:
        found = [usual] if fits(usual) else whole
    if not found:
        raise part.wrong(f"has {groups} scales for {width} values, and no group_size says which")
    return found[0]


def rows_of_steps(scale: Tensor, shape: Shape, part: Part, block: Sequence[object]) -> Tensor:
    """Scales [rows, groups] of stored ones: [], [1], [rows], [rows, groups], or of blocks of rows.

    block  rows and columns of a block, if the configuration has them
    """
    rows = shape[0]
    if scale.numel() == 1:
        return scale.reshape(1, 1).expand(rows, 1)
    if tuple(scale.shape) == (rows,):
        return scale.unsqueeze(1)
    if scale.ndim != 2 or len(scale) > rows:
        raise part.wrong(f"has shape {tuple(scale.shape)}, which does not fit {tuple(shape)}")
    if len(scale) == rows:
        return scale
    size = size_of_groups(part, rows, len(scale), block[:1], BLOCK)
    return scale.repeat_interleave(size, 0)[:rows]


def coded(
    q: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    granularity: Granularity,
    part: Part,
) -> QTensor | Blocks:
    """A QTensor of the codes, the scales and the zero points that a file has, as they are.

    Codes are signed or not as they come. Without zero points these are 0: a symmetric file also
    uses the code -2^(bits - 1), so the mapping is asymmetric. Scales that no QTensor has, as the
    negative ones of AutoRound's symmetric files, and 0 for a row without values, make it Blocks.
    """
    zero_point = torch.zeros_like(scale, dtype=q.dtype) if zero_point is None else zero_point
    q, scale, zero_point = (x.contiguous() for x in (q, scale, zero_point.to(q.dtype)))
    if not ((scale > 0) & scale.isfinite()).all():
        return _as_blocks(q, scale, zero_point, bits, granularity, part)
    scale_dtype = None if scale.dtype == torch.float64 else scale.dtype
    signed = q.dtype == torch.int8
    scheme = Scheme(bits, "asymmetric", granularity, signed=signed, scale_dtype=scale_dtype)
    return QTensor(q, scale, zero_point, scheme)


def _as_blocks(
    q: Tensor, scale: Tensor, z: Tensor, bits: int, granularity: Granularity, part: Part
) -> Blocks:
    """r_hat = scale * q - scale * z: codes around 0 where each z is the middle, else a minimum.

    The minimum has the scale's dtype where that holds it exactly, else both are float32. So the
    values of half scales are exact.
    """
    if isinstance(granularity, PerIndex):
        raise part.not_read(
            "holds scales of listed groups that are not positive, which qlesson does not read"
        )
    size = granularity.group_size if isinstance(granularity, PerGroup) else q.shape[1]
    rows = scale.expand(len(q), 1) if scale.ndim < 2 else scale
    middle = 0 if q.dtype == torch.int8 else 2 ** (bits - 1)
    if (z == middle).all():
        return Blocks((q - middle).view(torch.int8), rows, None, bits, size)
    minimum = (scale.double() * -z.double()).expand_as(rows)
    if not torch.equal(minimum.to(rows.dtype).double(), minimum):
        rows = rows.float()
    return Blocks(q, rows, minimum.to(rows.dtype), bits, size)


def coded_by_shape(
    q: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, part: Part, said: Sequence
) -> QTensor | Blocks:
    """The same, where the shape of the scales says who shares them. said: sizes of a block."""
    if q.ndim != 2:
        raise part.not_read(
            f"belongs to codes of shape {tuple(q.shape)}, and qlesson reads matrices alone"
        )
    if zero_point is not None and zero_point.shape != scale.shape:
        raise part.wrong(f"has shape {tuple(scale.shape)}, and the zero points another")
    if scale.numel() == 1:
        zero = None if zero_point is None else zero_point.reshape(())
        return coded(q, scale.reshape(()), zero, bits, PerTensor(), part)
    usual = BLOCK if len(scale) < len(q) else 0
    scale = rows_of_steps(scale, q.shape, part, said)
    if zero_point is not None:
        zero_point = rows_of_steps(zero_point, q.shape, part, said)
    groups = scale.shape[1]
    size = size_of_groups(part, q.shape[1], groups, said[1:], usual)
    return coded(q, scale, zero_point, bits, grouped(groups, size), part)


def whole_number(x: object, low: int, high: int) -> int | None:
    """A number that a configuration gives, or None where it gives none that can be meant."""
    good = isinstance(x, int) and not isinstance(x, bool) and low <= x <= high
    return x if good and isinstance(x, int) else None
