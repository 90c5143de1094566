"""A tensor in pieces of whole blocks, of a size that suits who runs them (notebook 13)."""

import itertools
from collections.abc import Iterator

from torch import Tensor

from qlesson.granularity import Granularity, is_known

# Values that eager takes at a time on a CPU. Measured on two cores, 2^25 float32 values with given
# scale: 30, 17, 13 and 11 ms in pieces of 2^15 to 2^18, and 143 ms all in one piece: its
# intermediates leave the cache, and each is written into fresh pages (bench/results/cpu.json).
EAGER_PIECE = 2**17
# On a GPU each operation is a launch: few large pieces.
EAGER_PIECE_CUDA = 2**24
# A compiled loop takes up to 2^30 values at once, so that an index fits into 32 bits; what is not
# contiguous goes through a copy that stays in the cache.
COMPILED_PIECE = 2**30
COPIED_PIECE = 2**18


def _eager_piece(x: Tensor) -> int:
    return EAGER_PIECE_CUDA if x.is_cuda else EAGER_PIECE


def cut(
    x: Tensor, granularity: Granularity, size: int
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Cut x into pieces of at most `size` values: yields (slices of x, slices of the scale).

    The pieces follow each other in memory. Each holds whole blocks, or lies within one; a short
    last group is a piece of its own. Blocks of a granularity of the reader's own stay whole.
    """
    block = granularity.block_shape(x.shape)
    steps, count = list(x.shape), x.numel()
    for axis in sorted(range(x.ndim), key=x.stride, reverse=True):
        if count > size:
            others = count // steps[axis]
            steps[axis] = max(1 if is_known(granularity) else block[axis], size // others)
            count = others * steps[axis]
    scales = len(granularity.scale_shape(x.shape))
    cuts = list(map(_cuts, x.shape, steps, block))
    if not is_known(granularity):  # its scales need not follow each other as its blocks do
        whole = slice(None), slice(None)
        cuts = [iter([whole]) if steps[i] == n else cuts[i] for i, n in enumerate(x.shape)]
    for piece in itertools.product(*cuts):
        yield tuple(c[0] for c in piece), tuple(c[1] for c in piece)[:scales]


def _cuts(n: int, step: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Cut n values of an axis with a scale for each `block`: (slice of values, slice of scales)."""
    if step < block:
        for start in range(0, n, block):
            end, home = min(start + block, n), slice(start // block, start // block + 1)
            for first in range(start, end, step):
                yield slice(first, min(first + step, end)), home
        return
    step -= step % block
    whole = n - n % block
    for first in range(0, whole, step):
        last = min(first + step, whole)
        yield slice(first, last), slice(first // block, last // block)
    if whole < n:
        yield slice(whole, n), slice(whole // block, whole // block + 1)
