"""Who shares a scale: the whole tensor, each channel, or each group (notebook 06).

A granularity cuts a tensor into blocks, one scale per block, and joins the blocks again.
`scale_shape` is the shape of ONNX's blocked form, so a scale says by its shape what it covers:

    PerTensor()           ()
    PerAxis(axis)         1 on every axis but `axis`
    PerGroup(size, axis)  ceil(n / size) on `axis`, r's length on every other axis
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qlesson import checks


class Granularity:
    """What the three have in common; the methods are written for one block per scale."""

    def scale_shape(self, shape) -> tuple[int, ...]:
        """The shape of scale and zero point for a tensor of this shape."""
        raise NotImplementedError

    def block_shape(self, shape) -> tuple[int, ...]:
        """How many values along each axis share a scale."""
        return tuple(shape)

    def reduce(self, function, r: Tensor) -> Tensor:
        """`function` (torch.amin, torch.amax) over each block, in `scale_shape`."""
        raise NotImplementedError

    def split(self, r: Tensor) -> Tensor:
        """r cut so that `align(scale)` broadcasts against it."""
        return r

    def join(self, blocks: Tensor, shape) -> Tensor:
        """The inverse of `split`."""
        return blocks

    def align(self, scale: Tensor) -> Tensor:
        """A view of scale (or zero point) that broadcasts against `split(r)`."""
        return scale


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One scale for the whole tensor."""

    def scale_shape(self, shape) -> tuple[int, ...]:
        """(), the shape of a single number."""
        return ()

    def reduce(self, function, r: Tensor) -> Tensor:
        """`function` over all of r."""
        return function(r, dim=tuple(range(r.ndim)))


@dataclass(frozen=True)
class PerAxis(Granularity):
    """One scale for each index of `axis`: PerAxis(0) is one scale per row of a matrix.

    Negative axes count from the end. The same as ONNX's `axis` with a 1-D scale, and as
    torch's per-channel `ch_axis`.
    """

    axis: int

    def __post_init__(self):
        object.__setattr__(self, "axis", checks.whole("axis", self.axis))

    def scale_shape(self, shape) -> tuple[int, ...]:
        """r's length on the kept axis, 1 on every other."""
        axis = _index("axis", self.axis, shape)
        return tuple(n if i == axis else 1 for i, n in enumerate(shape))

    def block_shape(self, shape) -> tuple[int, ...]:
        """1 on the kept axis, r's length on every other."""
        axis = _index("axis", self.axis, shape)
        return tuple(1 if i == axis else n for i, n in enumerate(shape))

    def reduce(self, function, r: Tensor) -> Tensor:
        """`function` over all axes but the kept one, in `scale_shape`."""
        axis = _index("axis", self.axis, r.shape)
        others = tuple(i for i in range(r.ndim) if i != axis)
        return function(r, dim=others, keepdim=True) if others else r.clone()


@dataclass(frozen=True)
class PerGroup(Granularity):
    """One scale for each run of `group_size` neighbours along `axis` (the last by default).

    The last group may be shorter. The same as ONNX's `block_size`.
    """

    group_size: int
    axis: int = -1

    def __post_init__(self):
        object.__setattr__(self, "group_size", checks.whole("group_size", self.group_size, low=1))
        object.__setattr__(self, "axis", checks.whole("axis", self.axis))

    def scale_shape(self, shape) -> tuple[int, ...]:
        """ceil(n / group_size) on the grouped axis, r's length on every other."""
        axis = _index("axis", self.axis, shape)
        return tuple(-(-n // self.group_size) if i == axis else n for i, n in enumerate(shape))

    def block_shape(self, shape) -> tuple[int, ...]:
        """group_size on the grouped axis (r's length if that is shorter), 1 on every other."""
        axis = _index("axis", self.axis, shape)
        return tuple(min(self.group_size, n) if i == axis else 1 for i, n in enumerate(shape))

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

    def join(self, blocks: Tensor, shape) -> Tensor:
        """[..., groups, group_size, ...] -> [..., n, ...], the filling dropped."""
        axis = _index("axis", self.axis, shape)
        return blocks.flatten(axis, axis + 1).narrow(axis, 0, shape[axis]).contiguous()

    def align(self, scale: Tensor) -> Tensor:
        """[..., groups, ...] -> [..., groups, 1, ...]."""
        return scale.unsqueeze(_index("axis", self.axis, scale.shape) + 1)

    def reduce(self, function, r: Tensor) -> Tensor:
        """`function` over each group, in `scale_shape`."""
        axis = _index("axis", self.axis, r.shape)
        n = r.shape[axis]
        short = n % min(self.group_size, n)
        whole = function(self.split(r.narrow(axis, 0, n - short)), dim=axis + 1)
        if not short:
            return whole
        last = function(r.narrow(axis, n - short, short), dim=axis, keepdim=True)
        return torch.cat([whole, last], axis)


def _index(name, axis, shape) -> int:
    """The axis counted from the front, or a sentence about why there is none."""
    ndim = len(shape)
    if not -ndim <= axis < ndim:
        choice = f"choose {name} from {-ndim} to {ndim - 1}" if ndim else "use ql.PerTensor()"
        raise ValueError(
            f"{name}={axis} is out of range for a tensor of shape {tuple(shape)}: {choice}."
        )
    return axis % ndim
