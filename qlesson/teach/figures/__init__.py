"""The pictures of the course: plain functions from data to a matplotlib Figure.

Tensors on any device, or lists, go in; nothing is shown (`qlesson.teach.show` does that) and no
global state is touched. Every code and every value that comes back is computed by qlesson.

f02.py holds what notebook 02 shows first, and so on; `drawing` what they share. Colours have
roles, and each role also has a marker, a line style or a hatch of its own.
"""

from qlesson.teach.figures.drawing import drawing_into
from qlesson.teach.figures.f00 import memory, perplexity_by_bits
from qlesson.teach.figures.f01 import (
    clip_or_wrap,
    guess,
    number_lines,
    number_to_code,
    round_half_even,
)
from qlesson.teach.figures.f02 import code_counts, pile_up, range_map, two_ranges
from qlesson.teach.figures.f04 import grey_picture, pictures, staircase, staircase_and_picture
from qlesson.teach.figures.f05 import clip_sweep, error_histogram, heatmaps, sqnr_by_bits
from qlesson.teach.figures.f06 import error_by_price, shared_scales
from qlesson.teach.figures.f07 import histogram_and_ranges, losses_by_limit, running_ranges
from qlesson.teach.figures.f08 import bit_owners, bits_in_bytes, codebook_lines
from qlesson.teach.figures.f09 import bits_used, four_areas, noise_split, pipelines
from qlesson.teach.figures.f10 import damage_by_matrix, size_and_perplexity, written
from qlesson.teach.figures.f11 import (
    channels,
    column_errors,
    side_by_side,
    smoothing,
    straight_through,
)
from qlesson.teach.figures.f12 import pieces, roofline, times, traffic

__all__ = [
    "bit_owners",
    "bits_in_bytes",
    "bits_used",
    "channels",
    "clip_or_wrap",
    "clip_sweep",
    "code_counts",
    "codebook_lines",
    "column_errors",
    "damage_by_matrix",
    "drawing_into",
    "error_by_price",
    "error_histogram",
    "four_areas",
    "grey_picture",
    "guess",
    "heatmaps",
    "histogram_and_ranges",
    "losses_by_limit",
    "memory",
    "noise_split",
    "number_lines",
    "number_to_code",
    "perplexity_by_bits",
    "pictures",
    "pieces",
    "pile_up",
    "pipelines",
    "range_map",
    "roofline",
    "round_half_even",
    "running_ranges",
    "shared_scales",
    "side_by_side",
    "size_and_perplexity",
    "smoothing",
    "sqnr_by_bits",
    "staircase",
    "staircase_and_picture",
    "straight_through",
    "times",
    "traffic",
    "two_ranges",
    "written",
]
