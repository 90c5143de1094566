"""Who shares a scale: the whole tensor, each channel, or each group (notebook 06).

A granularity cuts a tensor into blocks, one scale per block, and joins the blocks again. How blocks
lie in a tensor is known here alone: `split` and `align` are for what broadcasts, `rows` for what
goes from block to block, `in_memory` for a loop.

`scale_shape` is the shape of ONNX's blocked form, so a scale says by its shape what it covers:

    PerTensor()           ()
    PerAxis(axis)         1 on every axis but `axis`
    PerGroup(size, axis)  ceil(n / size) on `axis`, r's length on every other axis
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qlesson import checks
from qlesson.checks import Shape


class Granularity:
    """What the three have in common.

    One of the reader's own needs `scale_shape` and `reduce`; and `block_shape`, `split`, `join` and
    `align` where a block is not the whole tensor. Its scale has as many axes as r, or none. It
    works on every path: what runs as a loop for the three runs eagerly for it.
    """

    def scale_shape(self, shape: Shape) -> tuple[int, ...]:
        """The shape of scale and zero point for a tensor of this shape."""
        raise NotImplementedError

    def block_shape(self, shape: Shape) -> tuple[int, ...]:
        """How many values along each axis share a scale."""
        return tuple(shape)

    def reduce(self, function: Callable[..., Tensor], r: Tensor) -> Tensor:
        """`function` (torch.amin, torch.amax) over each block, in `scale_shape`."""
        raise NotImplementedError

    def split(self, r: Tensor) -> Tensor:
        """r cut so that `align(scale)` broadcasts against it."""
        return r

    def join(self, blocks: Tensor, shape: Shape) -> Tensor:
        """The inverse of `split`."""
        return blocks

    def align(self, scale: Tensor) -> Tensor:
        """A view of scale (or zero point) that broadcasts against `split(r)`."""
        return scale

    def _view(self, x: Tensor) -> Tensor | None:
        """What `in_memory` gives, of the three alone."""
        raise NotImplementedError


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One scale for the whole tensor."""

    def scale_shape(self, shape: Shape) -> tuple[int, ...]:
        """(), the shape of a single number."""
        return ()

    def reduce(self, function: Callable[..., Tensor], r: Tensor) -> Tensor:
        """`function` over all of r."""
        return function(r, dim=tuple(range(r.ndim)))

    def _view(self, x: Tensor) -> Tensor | None:
        return x.view(1, -1)


@dataclass(frozen=True)
class PerAxis(Granularity):
    """One scale for each index of `axis`: PerAxis(0) is one scale per row of a matrix.

    Negative axes count from the end. The same as ONNX's `axis` with a 1-D scale, and as
    torch's per-channel `ch_axis`.
    """

    axis: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", checks.whole("axis", self.axis))

    def scale_shape(self, shape: Shape) -> tuple[int, ...]:
        """r's length on the kept axis, 1 on every other."""
        axis = _index("axis", self.axis, shape)
        return (*(1,) * axis, shape[axis], *(1,) * (len(shape) - axis - 1))

    def block_shape(self, shape: Shape) -> tuple[int, ...]:
        """1 on the kept axis, r's length on every other."""
        axis = _index("axis", self.axis, shape)
        return (*shape[:axis], 1, *shape[axis + 1 :])

    def reduce(self, function: Callable[..., Tensor], r: Tensor) -> Tensor:
        """`function` over all axes but the kept one, in `scale_shape`."""
        axis = _index("axis", self.axis, r.shape)
        others = tuple(i for i in range(r.ndim) if i != axis)
        return function(r, dim=others, keepdim=True) if others else r.clone()

    def _view(self, x: Tensor) -> Tensor | None:
        axis = _index("axis", self.axis, x.shape)
        inner = math.prod(x.shape[axis + 1 :])
        return x.view(-1, inner) if inner > 1 else x.view(1, -1, x.shape[axis])


@dataclass(frozen=True)
class PerGroup(Granularity):
    """One scale for each run of `group_size` neighbours along `axis` (the last by default).

    The last group may be shorter. The same as ONNX's `block_size`.
    """

    group_size: int
    axis: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "group_size", checks.whole("group_size", self.group_size, low=1))
        object.__setattr__(self, "axis", checks.whole("axis", self.axis))

    def scale_shape(self, shape: Shape) -> tuple[int, ...]:
        """ceil(n / group_size) on the grouped axis, r's length on every other."""
        axis = _index("axis", self.axis, shape)
        return (*shape[:axis], -(-shape[axis] // self.group_size), *shape[axis + 1 :])

    def block_shape(self, shape: Shape) -> tuple[int, ...]:
        """group_size on the grouped axis (r's length if that is shorter), 1 on every other."""
        axis = _index("axis", self.axis, shape)
        size = min(self.group_size, shape[axis])
        return (*(1,) * axis, size, *(1,) * (len(shape) - axis - 1))

    def split(self, r: Tensor) -> Tensor:
        """[..., n, ...] -> [..., groups, group_size, ...]; a short last group is filled up
        with copies of its last value, which change neither its minimum nor its maximum."""
        axis = _index("axis", self.axis, r.shape)
        n = r.shape[axis]
        size = min(self.group_size, n)
        missing = -n % size
        if missing:
            # Not by cat: torch.compile 2.13 on a CPU gets a cat in this place wrong.
            index = torch.arange(n + missing, device=r.device).clamp(max=n - 1)
            r = r.index_select(axis, index)
        return r.unflatten(axis, (-1, size))

    def join(self, blocks: Tensor, shape: Shape) -> Tensor:
        """[..., groups, group_size, ...] -> [..., n, ...], the filling dropped."""
        axis = _index("axis", self.axis, shape)
        return blocks.flatten(axis, axis + 1).narrow(axis, 0, shape[axis]).contiguous()

    def align(self, scale: Tensor) -> Tensor:
        """[..., groups, ...] -> [..., groups, 1, ...]."""
        return scale.unsqueeze(_index("axis", self.axis, scale.shape) + 1)

    def reduce(self, function: Callable[..., Tensor], r: Tensor) -> Tensor:
        """`function` over each group, in `scale_shape`."""
        axis = _index("axis", self.axis, r.shape)
        n = r.shape[axis]
        short = n % min(self.group_size, n)
        whole = function(self.split(r.narrow(axis, 0, n - short)), dim=axis + 1)
        if not short:
            return whole
        last = function(r.narrow(axis, n - short, short), dim=axis, keepdim=True)
        return torch.cat([whole, last], axis)

    def _view(self, x: Tensor) -> Tensor | None:
        axis = _index("axis", self.axis, x.shape)
        inner, size = math.prod(x.shape[axis + 1 :]), min(self.group_size, x.shape[axis])
        if x.shape[axis] % size:
            return None
        if size == inner == 1:
            return x.view(1, 1, -1)
        return x.view(-1, size) if inner == 1 else x.view(-1, size, inner)


def rows(granularity: Granularity, r: Tensor) -> tuple[Tensor, Tensor]:
    """r as [blocks, values], in the order of the scales, and a weight for each value in float64: 1,
    or 0 for what fills a short block up: zeros, or what stands there already."""
    values = _rows(granularity, r)
    weights = torch.ones_like(values, dtype=torch.float64)
    if values.numel() > r.numel():
        numbers = torch.arange(1, r.numel() + 1, device=r.device).reshape(r.shape)
        numbers, order = _rows(granularity, numbers).sort(dim=1, stable=True)
        weights[:, 1:] = (numbers[:, 1:] != numbers[:, :-1]).double()
        weights = (weights * (numbers > 0)).gather(1, order.argsort(dim=1))
    return values, weights


def _rows(granularity: Granularity, r: Tensor) -> Tensor:
    shape, blocks = granularity.scale_shape(r.shape), granularity.split(r)
    count = math.prod(shape)
    if not is_known(granularity):
        return _gathered(
            blocks, granularity.align(torch.arange(count, device=r.device).view(shape)), count
        )
    shared = granularity.align(r.new_empty(shape)).shape or (1,) * blocks.ndim
    within = [axis for axis, n in enumerate(shared) if n == 1]
    kept = [axis for axis, n in enumerate(shared) if n > 1]
    return blocks.permute((*kept, *within)).reshape(count, -1)


def _gathered(blocks: Tensor, scale_of: Tensor, count: int) -> Tensor:
    """The values of each of `count` scales in a row, filled up with zeros; scale_of says whose."""
    scale_of, order = scale_of.expand_as(blocks).reshape(-1).sort(stable=True)
    first = torch.searchsorted(scale_of, torch.arange(count, device=order.device))
    within = torch.arange(len(order), device=order.device) - first[scale_of]
    width = int(within.max()) + 1
    source = torch.full((count * width,), len(order), device=order.device)
    source[scale_of * width + within] = order
    return torch.cat([blocks.reshape(-1), blocks.new_zeros(1)])[source].view(count, width)


def is_known(granularity: Granularity) -> bool:
    """Whether it is one of the three: a class of the reader's own, even one that inherits from
    them, may cut its blocks otherwise."""
    return type(granularity) in (PerTensor, PerAxis, PerGroup)


def in_memory(granularity: Granularity, x: Tensor) -> Tensor | None:
    """x as a view [m, n] with a scale for each m, or [m, n, c] with one for each (m, c).

    Where there are fewer scales than m, they come again and again in their order. None where x or
    its blocks do not lie in memory like that, or a class of the reader's own cuts them.
    """
    return granularity._view(x) if is_known(granularity) and x.is_contiguous() else None


def _index(name: str, axis: int, shape: Shape) -> int:
    """The axis counted from the front. Raises ValueError where r has no such axis."""
    ndim = len(shape)
    if not -ndim <= axis < ndim:
        choice = f"choose {name} from {-ndim} to {ndim - 1}" if ndim else "use ql.PerTensor()"
        raise ValueError(
            f"{name}={axis} is out of range for a tensor of shape {tuple(shape)}: {choice}."
        )
    return axis % ndim
