"""Where r_min and r_max come from (notebook 02; other choices in notebook 07)."""

import torch
from torch import Tensor

from qlesson.granularity import Granularity


def min_max(r: Tensor, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each block, in the granularity's scale shape.

    A NaN makes the minimum and the maximum of its block NaN, so checking these two for NaN and
    infinity checks all of r.
    """
    return granularity.reduce(torch.amin, r), granularity.reduce(torch.amax, r)
