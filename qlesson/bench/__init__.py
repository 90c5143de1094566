"""The kernels beside their peers and the limit of memory (notebooks 13, 14).

Each contestant runs in blocks of its own, in turn with the others, with a pause before each block:
threads of ONNX Runtime keep spinning after a call and would double the time of whoever is next.
"""

from qlesson.bench.cells import DTYPES, FLOOR, GRANULARITIES, SIZES, WORKS, Job
from qlesson.bench.counting import traffic
from qlesson.bench.product import READ_ONCE, Matrix
from qlesson.bench.report import ms_of, quick, share, stored

__all__ = [
    "DTYPES",
    "FLOOR",
    "GRANULARITIES",
    "Job",
    "Matrix",
    "READ_ONCE",
    "SIZES",
    "WORKS",
    "ms_of",
    "quick",
    "share",
    "stored",
    "traffic",
]
