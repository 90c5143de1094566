"""A file of C++ becomes a library once, and loops.cpp becomes vectors on every processor."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from qlesson import kernels
from qlesson.kernels import cpp

LOOPS = Path(kernels.__file__).with_name("loops.cpp")
FILES = [LOOPS, *(LOOPS.with_name(f"loops_{name}.h") for name in ("ends", "formulas"))]
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = ["x86-64", "x86-64-v3", "x86-64-v4"] if X86 else [None]  # SSE2, AVX2, AVX-512


FAKE = """
import torch
import qlesson as ql
from qlesson.kernels import modes
r = torch.linspace(-1, 1, 2**14).view(64, 256)
scheme = ql.Scheme(granularity=ql.PerAxis(0))
with ql.use_kernels("compiled"):
    print(torch.equal(ql.fake_quantize(r, scheme), ql.quantize(r, scheme).dequantize()))
print(modes.broken())
"""


def is_gcc():
    said = subprocess.run(
        [*cpp.command(), "-dM", "-E", "-x", "c++", os.devnull], capture_output=True
    )
    return b"__GNUC__" in said.stdout and b"__clang__" not in said.stdout


def vectorized(level, real):
    """How often gcc says of each line, by (file, number), that it is a loop of vectors."""
    command = [flag for flag in cpp.command() if not (level and flag.startswith("-march"))]
    command += [f"-march={level}"] if level else []
    command += ["-DCODE=int8_t", "-DINSIDE=1", f"-DREAL={real}", "-fopt-info-vec-optimized", "-S"]
    made = subprocess.run(
        [*command, str(LOOPS), "-o", os.devnull], capture_output=True, text=True, check=True
    )
    found = re.findall(r"(loops\w*\.\w+):(\d+):\d+: optimized: loop vectorized", made.stderr)
    return Counter((file, int(number)) for file, number in found)


@pytest.mark.slow
@pytest.mark.skipif(not is_gcc(), reason="reads what gcc says of its loops")
@pytest.mark.parametrize(
    "level, real",
    [(level, "float") for level in LEVELS]
    + [(LEVELS[-1], "bfloat16"), (LEVELS[len(LEVELS) // 2], "float16")],
)
def test_every_loop_that_may_be_vectors_is(level, real):
    found = vectorized(level, real)
    marked = {}
    for file in FILES:
        lines = file.read_text().splitlines()
        marked |= {
            (file.name, i + 2): lines[i + 1] for i, line in enumerate(lines) if "omp simd" in line
        }
    assert len(marked) == 13
    for (file, number), line in marked.items():
        if level in LEVELS[1:] and "N / 2" in line:
            continue  # the processor's own words say it
        # Three run through the loop over a row and two through that over columns, each in blocks
        # of 64, of 32 and of 8; for SSE2 gcc makes straight code of some blocks of 8.
        least = 8 if "k < N;" in line else 1
        around = sum(found[file, n] for n in (number - 1, number, number + 1))
        assert around >= least, line


def test_the_program_for_arm_is_there():
    """Its cross compiler is not; without it the program says which command is missing."""
    asked = [sys.executable, str(Path(__file__).parents[1] / "arm.py")]
    made = subprocess.run(
        asked, capture_output=True, text=True, env=os.environ | {"CXX": "no-such"}
    )
    assert made.stderr.splitlines()[-1].endswith("No such file or directory: 'no-such'")


# --- compiled once ---


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kept"))
    file = tmp_path / "number.cpp"
    file.write_text('extern "C" int number() { return NUMBER; }')
    return file


@pytest.fixture
def compiled(monkeypatch):
    """How often the compiler has made a library."""
    calls, output = [], cpp._output

    def counted(*command):
        calls.extend(["made"] * ("-o" in command))
        return output(*command)

    monkeypatch.setattr(cpp, "_output", counted)
    return calls


def load(source, **macros):
    return cpp.library.__wrapped__(source, **macros)  # as another process does


def test_a_file_is_compiled_once(source, compiled):
    assert cpp.library(source, NUMBER=7) is cpp.library(source, NUMBER=7)
    assert load(source, NUMBER=7).number() == 7
    assert len(compiled) == 1
    assert [p.suffix for p in (source.parent / "kept").iterdir()] == [".so"]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9])
def test_a_damaged_library_is_made_again(share, source, compiled, monkeypatch, tmp_path):
    """To load what is cut off behind its header ends the process."""
    assert load(source, NUMBER=7).number() == 7
    (kept,) = (tmp_path / "kept").iterdir()
    elsewhere = tmp_path / "elsewhere" / kept.name  # what was loaded from one path stays loaded
    elsewhere.parent.mkdir()
    whole = kept.read_bytes()
    elsewhere.write_bytes(whole[: int(share * len(whole))])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(elsewhere.parent))
    assert load(source, NUMBER=7).number() == 7
    assert len(compiled) == 2 and elsewhere.read_bytes() == kept.read_bytes()


def test_the_folder_may_be_named_from_here(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", ".")
    assert load(source, NUMBER=7).number() == 7


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to count threads")
@pytest.mark.skipif(not shutil.which("clang++"), reason="needs clang++")
def test_loops_of_a_compiler_with_an_openmp_of_its_own_take_torchs_number_of_threads(tmp_path):
    code = """
import os, torch, qlesson as ql
torch.set_num_threads(1)
r, before = torch.randn(2048, 2048), len(os.listdir("/proc/self/task"))
with ql.use_kernels("compiled"):
    ql.quantize(r, ql.Scheme(), (0.05, 3), check=False)
    ql.choose_qparams(r, ql.Scheme(granularity=ql.PerAxis(0)))
print(len(os.listdir("/proc/self/task")) - before, ql.kernels.modes.broken())
"""
    own = {"CXX": "clang++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "4"}
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | own
    )
    assert made.stdout == "0 False\n", made.stderr


def test_what_it_depends_on_compiles_it_again(source, compiled, monkeypatch):
    assert load(source, NUMBER=7).number() == 7
    assert load(source, NUMBER=8).number() == 8
    source.write_text('extern "C" int number() { return -NUMBER; }')
    assert load(source, NUMBER=8).number() == -8
    assert len(compiled) == 3
    header = source.with_name("number.h")
    for value in (1, 2):
        header.write_text(f"#define MORE {value}")
        source.write_text('#include "number.h"\nextern "C" int number() { return NUMBER + MORE; }')
        assert load(source, NUMBER=8).number() == 8 + value
    assert len(compiled) == 5
    monkeypatch.setattr(cpp, "FLAGS", [*cpp.FLAGS, "-DOTHER"])
    load(source, NUMBER=8)
    assert len(compiled) == 6
    if X86:
        for level in ("avx2", "default"):
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", level)
            load(source, NUMBER=8)
        assert len(compiled) == 8


@pytest.mark.skipif(not X86, reason="has other instructions")
@pytest.mark.parametrize("level, has", [("avx2", "AVX2"), ("default", "SSE2")])
def test_an_older_processor_is_played(source, level, has, monkeypatch):
    source.write_text(
        "#if defined(__AVX512F__)\n#define HAS 512\n#elif defined(__AVX2__)\n#define HAS 2\n"
        '#else\n#define HAS 0\n#endif\nextern "C" int has() { return HAS; }'
    )
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", level)
    assert load(source).has() == {"AVX2": 2, "SSE2": 0}[has]


@pytest.mark.skipif(not X86, reason="has one maker")
@pytest.mark.parametrize("maker, asked", [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_the_maker_of_the_processor_is_named(maker, asked, monkeypatch):
    monkeypatch.setattr(cpp.Path, "read_text", lambda *_: f"vendor_id : {maker}")
    cpp._is_intels.cache_clear()
    assert ("-DINTEL" in cpp.command()) == asked
    monkeypatch.undo()
    cpp._is_intels.cache_clear()


def test_a_product_and_a_sum_are_rounded_apart(source):
    source.write_text('extern "C" float f(float a, float b, float c) { return a * b + c; }')
    library = load(source)
    f, real = library.f, cpp.ctypes.c_float
    f.argtypes, f.restype = [real] * 3, real
    assert f(1 + 2**-12, 1 + 2**-12, -1 - 2**-11) == 0  # 2^-24 where it is fused


def test_failures_are_named(source, monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match=r"fails: .*NUMBER"):
        load(source)
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler")
        with pytest.raises(RuntimeError, match=r"no C\+\+ compiler is named no-such-compiler"):
            load(source, NUMBER=7)
    with monkeypatch.context() as patch:
        patch.delenv("CXX", raising=False)
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(RuntimeError, match=r"^no C\+\+ compiler$"):
            load(source, NUMBER=7)


def test_cxx_may_be_a_command_with_flags(source, monkeypatch):
    compiler = cpp.command()[0]
    monkeypatch.setenv("CXX", f"{compiler} -DNUMBER=7")
    assert load(source).number() == 7
    assert cpp.of_many_words() == compiler  # which torch.compile is given
    monkeypatch.setenv("CXX", compiler)
    assert cpp.of_many_words() is None
    monkeypatch.setenv("CXX", "/opt/O'Brien/g++")
    with pytest.raises(cpp.NoCompiler, match="O'Brien"):
        load(source)


def test_torch_compiles_where_cxx_has_flags():
    """Codes in int32 have no loop by hand."""
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAKE],
        capture_output=True, text=True, env=os.environ | {"CXX": f"{cpp.command()[0]} -DFOO=1"},
    )  # fmt: skip
    assert said.stdout.split() == ["True", "False"], said.stderr


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners here")
def test_no_library_is_loaded_from_a_folder_of_somebody_else(source, monkeypatch):
    load(source, NUMBER=7)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(source).st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        load(source, NUMBER=7)
