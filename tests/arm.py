"""The loops of a processor on 64-bit Arm, bit for bit, in an emulator: python tests/arm.py

Needs a cross compiler and qemu: apt-get install g++-aarch64-linux-gnu qemu-user. The loops are
compiled for Arm, run on values with ties, NaN and infinity among them, and give what eager gives.
CXX and RUN name another compiler and emulator (RUN= runs the program here).
"""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).with_name("kernels")))  # as pytest does
from kernels.test_bits import values

import qlesson as ql
from qlesson import kernels
from qlesson.kernels import cpp
from qlesson.kernels.compilers import TYPES

CXX = os.environ.get("CXX", "aarch64-linux-gnu-g++")
RUN = os.environ.get("RUN", "qemu-aarch64").split()
LOOPS = Path(kernels.__file__).with_name("loops.cpp")
M, N = 48, 107  # blocks of 32 and of 8, and single values
MAIN = """
#include LOOPS
#include <cstdio>
constexpr int64_t M = 48, N = 107;
#define HOW 8192, 1 << 25, 2
R r[M * N], r_hat[M * N];
Q q[M * N], z[M * N];
float s[M * N], r_min[M * N], r_max[M * N];
template <typename T> void get(T* x, size_t n) {
  if (fread(x, sizeof(T), n, stdin) != n) throw 1;
}
template <typename T> void put(T* x, int64_t n) { fwrite(x, sizeof(T), n, stdout); }
int main(int, char** argv) {
  const bool columns = argv[1][0] == 'c', symmetric = argv[2][0] == 's';
  const int64_t m = columns ? 1 : M, n = columns ? M : N, c = columns ? N : 1, scales = m * c;
  get(r, M * N); get(s, scales); get(z, scales);
  quantize(r, s, z, q, m, n, c, HOW, FLOAT32, INT8, -128 + symmetric, 127);
  put(q, M * N);
#if INSIDE
  dequantize(q, s, z, r_hat, m, n, c, HOW, FLOAT32, INT8);
  put(r_hat, M * N);
  min_max(r, r_min, r_max, m, n, c, HOW);
  put(r_min, scales); put(r_max, scales);
#endif
  choose_and_quantize(r, s, z, q, m, n, c, HOW, FLOAT32, -128 + symmetric, 127, symmetric);
  put(s, scales); put(z, scales); put(q, M * N);
}
"""


def program(dtype, rounding, folder):
    source, made = Path(folder, "main.cpp"), Path(folder, f"main-{TYPES[dtype]}-{rounding}")
    source.write_text(MAIN, encoding="utf-8")
    flags = [flag for flag in cpp.FLAGS if flag not in ("-shared", "-fPIC")]
    types = ["-DCODE=int8_t", f"-DREAL={TYPES[dtype]}"]
    types += [f'-DLOOPS="{LOOPS}"', f"-DINSIDE={int(rounding == 'inside')}"]
    command = [CXX, *flags, "-fopenmp-simd", "-static", *types, str(source), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def bytes_of(x):
    return x.contiguous().view(torch.uint8).numpy().tobytes()


def same(x, y):
    """Equal, NaN where NaN is."""
    return torch.equal(x.double().nan_to_num(7e40), y.double().nan_to_num(7e40))


def check(made, dtype, layout, rounding, mapping, planted):
    """Whether the program gives what eager gives: codes, values, ends, scales."""
    granularity = ql.PerAxis(int(layout == "columns"))
    scheme = ql.Scheme(8, mapping, granularity, rounding=rounding)
    r = values((M, N), dtype)
    with ql.use_kernels("eager"):
        given = ql.choose_qparams(r, scheme)
        if planted:
            nothing = torch.tensor([float("nan"), -float("nan"), float("inf"), -float("inf")])
            r.view(-1)[3:99:7] = nothing.repeat(4)[:14].to(dtype)
        x = ql.quantize(r, scheme, given, check=False)
        expected = [x.q]
        if rounding == "inside":  # the library of the other has no more than codes
            ends = granularity.reduce(torch.amin, r), granularity.reduce(torch.amax, r)
            expected += [x.dequantize(dtype), ends[0].float(), ends[1].float()]
        if not planted:
            chosen = ql.quantize(r, scheme)
            expected += [chosen.scale, chosen.zero_point, chosen.q]
    command = [*RUN, str(made), layout, mapping]
    fed = bytes_of(r) + bytes_of(given.scale) + bytes_of(given.zero_point)
    out = subprocess.run(command, input=fed, capture_output=True, check=True).stdout
    for x in expected:
        found = torch.frombuffer(bytearray(out[: x.nbytes]), dtype=x.dtype).view(x.shape)
        if not same(found, x):
            return False
        out = out[x.nbytes :]
    return True


def main():
    bad = count = 0
    kinds = (torch.float32, torch.bfloat16, torch.float16), ("inside", "outside")
    ways = ("rows", "columns"), ("asymmetric", "symmetric"), (False, True)
    with tempfile.TemporaryDirectory() as folder:
        for dtype, rounding in itertools.product(*kinds):
            made = program(dtype, rounding, folder)
            for layout, *way in itertools.product(*ways):
                count += 1
                if not check(made, dtype, layout, rounding, *way):
                    bad += 1
                    print("differs:", dtype, layout, rounding, *way)
    print(f"{count - bad} of {count} are equal, bit for bit, by {CXX}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
