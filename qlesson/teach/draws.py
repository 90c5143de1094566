"""Random numbers for the notebooks, the same on every machine."""

import math
from typing import Any

import torch
from torch import Tensor


def randn(*shape: int, generator: torch.Generator) -> Tensor:
    """What torch.randn(*shape, generator=generator) draws, rounded to float32 once.

    torch computes the logarithm and the cosine of a normal value in float32, and how depends on
    the processor: the last bit differs. Here the same uniform values go through the same formula
    (Box and Muller 1958) in float64:

        sqrt(-2 log(1 - u)) cos(2 pi v)   and   sqrt(-2 log(1 - u)) sin(2 pi v)

    u and v, and then the two results, lie 8 places apart in each 16 values. Fewer than 16 values
    torch computes in float64 itself; where 16 do not divide them, the last 16 are drawn anew.
    """
    how: dict[str, Any] = {
        "generator": generator,
        "dtype": torch.float32,
        "device": generator.device,
    }
    n = math.prod(shape)
    if n < 16:
        return torch.randn(shape, **how)
    drawn = _pairs(torch.rand(n, **how)[: n // 16 * 16])
    if n % 16:
        drawn = torch.cat([drawn[: n - 16], _pairs(torch.rand(16, **how))])
    return drawn.reshape(shape)


def _pairs(uniform: Tensor) -> Tensor:
    u, v = uniform.double().view(-1, 2, 8).unbind(1)
    radius, angle = (-2 * torch.log(1 - u)).sqrt(), 2 * math.pi * v
    both = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both.flatten().float()
