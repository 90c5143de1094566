"""The live figure of notebook 13: which roof is the lower one."""

from functools import cache, partial

import torch

import qlesson as ql
from qlesson.affine import narrowed
from qlesson.bench import traffic
from qlesson.teach import figures
from qlesson.teach.widgets import Choice, Decades, Shown, declare

_WORKS, _DTYPES = ("quantize", "dequantize"), ("float32", "float16")
_VALUES = 1000


@cache
def _bytes(work: str, dtype: str) -> dict[str, int]:
    """Bytes for each value, counted: the operations one by one, and in one pass."""
    scale, zero_point = torch.tensor(0.03), torch.tensor(3)
    real = torch.linspace(-3, 3, _VALUES).to(getattr(torch, dtype))
    codes = ql.quantize_affine(real, scale, zero_point, -128, 127)
    if work == "quantize":
        rows = traffic(lambda: ql.quantize_affine(real, scale, zero_point, -128, 127))
    else:
        rows = traffic(lambda: narrowed(ql.dequantize_affine(codes, scale, zero_point), real.dtype))
    apart = sum(read + written for _, read, written in rows)
    return {
        "one by one": round(apart / _VALUES),
        "in one pass": real.element_size() + codes.element_size(),
    }


def _notches(low: int, high: int) -> tuple[int, ...]:
    """Ten whole numbers in each decade, but for those below 10."""
    tenths = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
    every = sorted({tenth * 10**k // 10 for k in range(4) for tenth in tenths})
    return tuple(n for n in every if low <= n <= high)


@declare(
    "Billion values per second against bytes per value, below the roofs of memory and arithmetic.",
    work=Choice("work", _WORKS, "quantize"),
    dtype=Choice("real values", _DTYPES, "float32"),
    bandwidth=Decades("memory, GB/s", _notches(5, 3000), 25),
    arithmetic=Decades("arithmetic, 10^9/s", _notches(1, 1000), 8),
)
def _roofs(work: str, dtype: str, bandwidth: int, arithmetic: int) -> Shown:
    points, ms = {}, []
    sentences = [f"Roofs, in billion values a second: arithmetic {arithmetic}."]
    for way, moved in _bytes(work, dtype).items():
        memory = bandwidth / moved
        limit = "memory" if memory < arithmetic else "arithmetic"
        limit = "both" if memory == arithmetic else limit
        points[way] = (moved, 1e9 * min(memory, arithmetic))
        ms.append(f"{100 / min(memory, arithmetic):.4g} ms {way}")
        rate = f"{float(f'{memory:.3g}'):g}"
        sentences.append(
            f"{way.capitalize()}, {moved} bytes a value: memory {rate}; the limit is {limit}."
        )
    sentences.append(f"100 million values take {' and '.join(ms)}.")
    title = f"{work}, {dtype}"
    return sentences, partial(figures.roofline, points, bandwidth, arithmetic, title)
