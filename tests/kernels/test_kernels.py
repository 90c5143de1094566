"""Which device, which kernels, in which pieces and memory, and what `import qlesson` costs."""

import functools
import os
import subprocess
import sys
import threading
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given
from strategies import problems

import qlesson as ql
from qlesson import kernels
from qlesson.kernels import compilers, pieces


def test_the_best_device_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.delenv("QLESSON_DEVICE", raising=False)
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert ql.best_device() == torch.device(expected)
    monkeypatch.setenv("QLESSON_DEVICE", "")
    assert ql.best_device() == torch.device(expected)


def test_cuda_is_taken_when_torch_reports_it(monkeypatch):
    monkeypatch.delenv("QLESSON_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: torch.ones(*size))
    assert ql.best_device() == torch.device("cuda")


def test_a_gpu_that_torch_cannot_use_gives_the_cpu_and_a_warning(monkeypatch):
    def fails(*size, device):
        raise RuntimeError("CUDA error: no kernel image is available\nmore lines")

    monkeypatch.delenv("QLESSON_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", fails)
    with pytest.warns(
        RuntimeWarning, match=r"reports \(CUDA error: no kernel image is available\)"
    ):
        assert ql.best_device() == torch.device("cpu")


def test_triton_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    with pytest.warns(RuntimeWarning, match=r"Install Triton for this torch and start again"):
        with kernels.modes.or_eagerly():
            raise RuntimeError("Cannot find a working triton installation.")


def test_the_environment_variable_overrides(monkeypatch):
    monkeypatch.setenv("QLESSON_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ql.best_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu", "cpu:x", "xpu", "meta"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setenv("QLESSON_DEVICE", name)
    with pytest.raises(ValueError, match=f"QLESSON_DEVICE='{name}' cannot be used") as error:
        ql.best_device()
    assert 'use "cpu", or leave it unset.' in str(error.value)
    assert "\n" not in str(error.value)


def run(code):
    """What a fresh interpreter prints; the package is found as it is found here."""
    path = os.pathsep.join(
        filter(None, [os.path.dirname(os.path.dirname(ql.__file__)), os.environ.get("PYTHONPATH")])
    )
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_import_loads_neither_the_teachers_nor_the_authors_side():
    loaded = run("import sys, qlesson; print(*sys.modules)").split()
    heavy = ("matplotlib", "ipywidgets", "IPython", "onnx", "onnxruntime", "torchao", "safetensors")
    upper = ("tinygpt", "teach", "authoring", "bench", "layers", "checkpoint", "methods")
    assert not set(heavy) & set(loaded)
    assert not {f"qlesson.{name}" for name in upper} & set(loaded)


def test_import_and_small_tensors_load_no_compiler():
    code = "import sys, torch, qlesson as ql; ql.quantize(torch.randn(300, 300)).dequantize(); "
    loaded = run(code + "print(*sys.modules)").split()
    assert "torch._inductor.compile_fx" not in loaded


def test_import_adds_at_most_50_ms_to_torch():
    """Processor time, the least of up to five fresh interpreters: a busy machine does not count."""
    code = (
        "import time, torch; start = time.process_time(); import qlesson; "
        "print(time.process_time() - start)"
    )
    milliseconds = []
    for _ in range(5):
        milliseconds.append(1000 * float(run(code)))
        if milliseconds[-1] <= 50:
            return
    pytest.fail(f"import qlesson took {min(milliseconds):.0f} ms at best")


def test_the_public_face():
    assert set(ql.__all__) >= {
        "asymmetric_qparams",
        "symmetric_qparams",
        "quantize_affine",
        "dequantize_affine",
        "PerTensor",
        "PerAxis",
        "PerGroup",
        "Scheme",
        "QParams",
        "choose_qparams",
        "quantize",
        "fake_quantize",
        "QTensor",
        "mse",
        "sqnr",
        "max_abs_error",
        "ZeroPointClipped",
        "best_device",
        "use_kernels",
    }
    assert all(getattr(ql, name).__doc__ for name in ql.__all__)
    assert issubclass(ql.ZeroPointClipped, UserWarning)


# --- which kernels ---


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch):
    for key, value in {"mode": "auto", "broken": False}.items():
        monkeypatch.setitem(kernels.modes._state, key, value)
    kernels.modes._seen.clear()


class Compiler:
    """Stands for torch.compile: it runs the formula eagerly and counts, or it fails."""

    def __init__(self, fails=False):
        self.fails, self.calls = fails, 0

    def __call__(self, formula, constants, kinds, device):
        self.calls += 1
        if self.fails:
            raise RuntimeError("no g++ here\nand a second line")
        return lambda *tensors: formula(*tensors, *constants)


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setattr(kernels, "_compiled", Compiler())
    return kernels._compiled


R = torch.randn(100, 300, generator=torch.Generator().manual_seed(0))
ROWS = ql.Scheme(granularity=ql.PerAxis(0))
GROUPS = ql.Scheme(granularity=ql.PerGroup(30))


def mode():
    return kernels.modes._state["mode"]


@pytest.mark.parametrize(
    "r, granularity",
    [(torch.randn(2, 64, 40), ql.PerGroup(3, 1)), (R[:1].expand(300, 300), ql.PerGroup(1))],
    ids=["ragged groups before another axis", "expanded"],
)
def test_scales_that_are_not_contiguous(compiler, r, granularity):
    scheme = ql.Scheme(granularity=granularity)
    with ql.use_kernels("eager"):
        expected = ql.quantize(r, scheme)
    with ql.use_kernels("compiled"):
        found = ql.quantize(r, scheme, ql.QParams(expected.scale, expected.zero_point))
        assert torch.equal(found.q, expected.q)
        assert torch.equal(found.dequantize(), expected.dequantize())
    assert compiler.calls


def test_use_kernels_made_before_and_entered_later():
    later = ql.use_kernels("eager")
    ql.use_kernels("compiled")
    with later:
        assert mode() == "eager"
    assert mode() == "compiled"


def test_use_kernels_as_a_function_and_as_a_context():
    ql.use_kernels("eager")
    assert mode() == "eager"
    with ql.use_kernels("compiled"):
        assert mode() == "compiled"
        with ql.use_kernels("auto"):
            assert mode() == "auto"
        assert mode() == "compiled"
    assert mode() == "eager"
    with pytest.raises(KeyError), ql.use_kernels("compiled"):
        raise KeyError
    assert mode() == "eager"


@pytest.mark.parametrize("word", ["fast", None, 3, "Eager"])
def test_another_mode_is_refused_and_changes_nothing(word):
    with pytest.raises(ValueError, match="mode must be one of 'auto', 'eager', 'compiled', got"):
        ql.use_kernels(word)
    assert mode() == "auto"


def test_auto_is_eager_until_compiling_pays(compiler, monkeypatch):
    monkeypatch.setattr(kernels.modes, "PAYS_OFF", {"cpu": 3 * R.numel()})
    qparams = ql.choose_qparams(R)
    counts = []
    for _ in range(5):
        ql.quantize(R, ql.Scheme(), qparams)
        counts.append(compiler.calls)
    assert counts == [0, 0, 0, 1, 2]
    ql.quantize(R, ql.Scheme(4), (0.1, 0))  # another formula counts for itself
    assert compiler.calls == 2


def test_the_real_threshold_spares_a_reader_the_compiler(compiler):
    ql.quantize(torch.randn(3000, 3000), ROWS).dequantize()
    assert compiler.calls == 0
    assert kernels.modes.PAYS_OFF["cpu"] * 0.3e-9 > 4  # seconds saved, against 5 s of compiling


def test_eager_never_compiles_and_compiled_does(compiler):
    with ql.use_kernels("eager"):
        ql.quantize(R)
    assert compiler.calls == 0
    with ql.use_kernels("compiled"):
        ql.quantize(R, GROUPS)
        assert compiler.calls == 1  # range, scale and codes in one call
        ql.quantize(R.double(), ROWS)
        ql.quantize(R[:3, :3])
    assert compiler.calls == 1


def test_without_a_compiler_one_warning_and_the_same_result(monkeypatch):
    failing = Compiler(fails=True)
    monkeypatch.setattr(kernels, "_compiled", failing)
    for scheme in (ql.Scheme(), ROWS, ql.Scheme(granularity=ql.PerGroup(32))):
        kernels.modes._state["broken"] = False
        expected = ql.quantize(R, scheme)
        with ql.use_kernels("compiled"), pytest.warns(RuntimeWarning) as record:
            x, again = ql.quantize(R, scheme), ql.quantize(R, scheme)
            assert torch.equal(x.dequantize(), expected.dequantize())
        assert len(record) == 1 and record[0].filename == __file__
        message = str(record[0].message)
        assert "(no g++ here)" in message and "\n" not in message
        assert 'ql.use_kernels("eager")' in message and "Install a C++ compiler" in message
        assert torch.equal(x.q, expected.q) and torch.equal(again.q, expected.q)


@pytest.mark.slow
def test_a_machine_without_a_compiler(tmp_path):
    """The real thing: no g++ to be found, and nothing compiled before."""
    code = (
        "import warnings, torch, qlesson as ql; warnings.simplefilter('always'); "
        "r = torch.randn(100, 300); x = ql.quantize(r); ql.use_kernels('compiled'); "
        "y = ql.quantize(r); ql.quantize(r); print(torch.equal(x.q, y.q))"
    )
    root = os.path.dirname(os.path.dirname(ql.__file__))
    hidden = {"PATH": str(tmp_path), "CXX": "no-such-compiler", "PYTHONPATH": root}
    hidden |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | hidden
    )
    assert made.stdout == "True\n", made.stderr
    ours = [
        line for line in made.stderr.splitlines() if "RuntimeWarning: torch.compile fails" in line
    ]
    assert len(ours) == 1, made.stderr


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    """The first cause, not what torch says when it is imported a second time."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file"))
    code = "import warnings, torch, qlesson as ql; "
    code += "ql.use_kernels('compiled'); r = torch.randn(100, 300); "
    code += "record = warnings.catch_warnings(record=True).__enter__(); "
    code += "warnings.simplefilter('always'); ql.quantize(r); "
    code += "print(*(w.message for w in record if w.category is RuntimeWarning))"
    assert "File exists" in run(code)


def test_a_warning_from_torch_is_no_failure():
    """Under `-W error` too the compiled path is taken."""
    with warnings.catch_warnings(), ql.use_kernels("compiled"):
        warnings.simplefilter("error")
        ql.quantize(R, ql.Scheme(), (0.05, 3), check=False)
    assert not kernels.modes._state["broken"]


def in_threads(work, count=4):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


LONG = torch.randn(4096, generator=torch.Generator().manual_seed(1))
APART = torch.empty(8192)[::2]  # its elements do not follow each other


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("out", [torch.empty(4096), torch.empty(8192)[:4096], APART])
def test_autograd_knows_that_out_was_filled(mode, out):
    """Without a word from a loop, the gradient of w would be what out holds later."""
    w = torch.ones(4096, requires_grad=True)
    with ql.use_kernels(mode):
        ql.quantize(LONG).dequantize(out=out)
        loss = (w * out).sum()
        ql.quantize(-LONG).dequantize(out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("scheme", [ql.Scheme(), ROWS, GROUPS], ids=str)
def test_a_filled_out_has_another_version(mode, scheme):
    q = torch.empty_like(R, dtype=torch.int8)
    for qparams in (None, ql.choose_qparams(R, scheme)):
        before = q._version
        with ql.use_kernels(mode):
            ql.quantize(R, scheme, qparams, out=q)
        assert q._version > before
    assert not kernels.modes._state["broken"]


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_an_out_of_inference_mode_is_filled_there_alone(mode):
    with torch.inference_mode():
        codes, values = torch.empty_like(R, dtype=torch.int8), torch.empty_like(R)
        with ql.use_kernels(mode):
            x = ql.quantize(R, ROWS, out=codes)
            assert x.dequantize(out=values) is values
            ql.quantize(R, ROWS, ql.QParams(x.scale, x.zero_point), out=codes)
            ql.quantize(R, ROWS, out=torch.empty_like(R, dtype=torch.int8))
    with ql.use_kernels(mode):
        for fill in (lambda: ql.quantize(R, ROWS, out=codes), lambda: x.dequantize(out=values)):
            with pytest.raises(ValueError, match="out was made in torch.inference_mode"):
                fill()
    assert not kernels.modes._state["broken"]


def test_threads_share_the_kernels_and_leave_the_warnings_alone():
    """Each thread silenced torch for itself, and what one put back had been another's silence."""
    expected, before, same = ql.quantize(R, GROUPS), list(warnings.filters), []

    def work():
        for _ in range(50):
            x = ql.quantize(R, GROUPS)
            values = torch.equal(x.dequantize(), expected.dequantize())
            same.append(torch.equal(x.q, expected.q) and values)

    with ql.use_kernels("compiled"):
        in_threads(work)
    assert same == 200 * [True]
    assert warnings.filters == before
    assert not kernels.modes._state["broken"]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's /proc")
def test_a_new_thread_of_python_keeps_to_torchs_number_of_threads():
    code = """
import os
os.environ["OMP_NUM_THREADS"] = "4"
import threading, torch, qlesson as ql
torch.set_num_threads(1)
ql.use_kernels("compiled")
r, groups, counts = torch.randn(256, 256), ql.Scheme(granularity=ql.PerGroup(32)), []
count = lambda: counts.append(len(os.listdir("/proc/self/task")))
def work():
    count()
    ql.quantize(r, groups)
    count()
ql.quantize(r, groups)  # compiles
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(counts[1] - counts[0])
"""
    assert run(code) == "0\n"


# --- pieces ---


@given(problems())
def test_pieces_change_nothing(problem):
    r, scheme = problem
    whole = ql.quantize(r, scheme)
    before, pieces.EAGER_PIECE = pieces.EAGER_PIECE, 5
    try:
        x = ql.quantize(r, scheme)
        assert torch.equal(x.q, whole.q)
        assert torch.equal(x.dequantize(), whole.dequantize())
    finally:
        pieces.EAGER_PIECE = before


@given(problems())
def test_pieces_hold_every_value_once_and_its_own_scale(problem):
    r, scheme = problem
    g = scheme.granularity
    home = torch.arange(max(1, torch.tensor(g.scale_shape(r.shape)).prod().item()))
    home = home.view(g.scale_shape(r.shape)).double()
    expected = g.join((g.split(r) * 0).double() + g.align(home), r.shape)
    for size in (1, 3, 7, 1000):
        seen = torch.zeros(r.shape)
        for where, at in pieces.cut(r, g, size):
            seen[where] += 1
            assert r[where].numel() <= size
            piece = g.split(r[where]) * 0 + g.align(home[at])
            assert torch.equal(g.join(piece, r[where].shape).double(), expected[where])
        assert (seen == 1).all()


def test_pieces_of_more_values_than_an_int32_counts():
    huge = torch.empty(2**17, 2**15 + 1, device="meta")
    for g in (ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(32)):
        cut = [w for w, _ in pieces.cut(huge, g, pieces.COMPILED_PIECE)]
        sizes = [(w[0].stop - w[0].start) * (w[1].stop - w[1].start) for w in cut]
        assert sum(sizes) == huge.numel() and max(sizes) <= 2**30


@pytest.mark.skipif(
    os.environ.get("QLESSON_LARGE") != "1", reason="needs 8 GB: QLESSON_LARGE=1 runs it"
)
@pytest.mark.parametrize("kernel", ["eager", "compiled"])
def test_a_tensor_past_2_to_the_31_elements(kernel):
    r = torch.zeros(2**16 + 1, 2**15, dtype=torch.bfloat16)
    r[-1, -5:] = torch.tensor([1.0, 2.0, 3.0, -4.0, 4.0])
    with ql.use_kernels(kernel):
        q = ql.quantize(r, ql.Scheme(), (0.5, 7), check=False).q
    assert q[-1, -6:].tolist() == [7, 9, 11, 13, -1, 15]
    assert (q[: 2**16] == 7).all()


# --- compiling once ---


def compiled_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("path", ["by hand", "by torch.compile"])
def test_a_hundred_shapes_compile_a_handful_of_kernels(path, monkeypatch):
    """torch's compiler is asked for its graphs alone, which takes a hundredth of the time."""
    kept = functools.cache(kernels._compiled.__wrapped__)
    monkeypatch.setattr(kernels, "_compiled", kept)
    if path == "by torch.compile":
        monkeypatch.setattr(compilers, "by_hand", lambda *a: None)
        graphs = partial(torch.compile, backend="eager", fullgraph=True, dynamic=True)
        monkeypatch.setattr(torch, "compile", lambda f, **how: graphs(f))
    g = torch.Generator().manual_seed(0)
    sizes = torch.randint(2, 400, (100, 2), generator=g).tolist()
    before = compiled_graphs()
    with ql.use_kernels("compiled"):
        for i, (m, n) in enumerate(sizes):
            granularity = (ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(2 + i % 40))[i % 3]
            r, scheme = torch.randn(8 * m, 8 * n), ql.Scheme(granularity=granularity)
            ql.quantize(r, scheme, ql.choose_qparams(r, scheme))
    assert kept.cache_info().misses <= 4
    graphs = compiled_graphs() - before  # codes and ranges of rows; one more where a length is 1
    assert graphs == 0 if path == "by hand" else 1 <= graphs <= 4
    assert not kernels.modes._state["broken"]


# --- memory ---

# One process for all granularities, since it takes long to start; what one leaves free is returned.
PEAK = """
import ctypes, pathlib, re, torch, qlesson as ql
def status(key):
    lines = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(key + r":\\s+(\\d+) kB", lines)[1]) * 1024
ql.use_kernels({mode!r})
for granularity in (ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(128)):
    scheme = ql.Scheme(granularity=granularity)
    small = torch.randn(2000, 1024)
    ql.quantize(small, scheme).dequantize()
    r = torch.zeros(48 * 1024, 1024) + torch.arange(1024.0)
    del small
    for work in ("quantize", "dequantize"):
        x = ql.quantize(r[:2048], scheme) if work == "quantize" else x
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        made = ql.quantize(r, scheme) if work == "quantize" else x.dequantize()
        print((status("VmHWM") - before - made.nbytes) / r.nbytes)
        x = made
    del made, x, r
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
@pytest.mark.parametrize("mode, most", [("eager", 0.15), ("compiled", 0.10)])
def test_memory_beyond_the_output(mode, most):
    """As a share of the input, 200 MB of float32: quantizing and dequantizing, per granularity.

    One copy of the codes would be 0.25. What is needed: pieces, and for groups of 128 about ten
    arrays of a value for each group, at most 0.08; the rest is what the allocator keeps.
    """
    shares = list(map(float, run(PEAK.format(mode=mode)).split()))
    print(shares)
    assert len(shares) == 8 and max(shares) <= most


def test_a_piece_ends_where_a_group_ends():
    cut = list(pieces.cut(torch.zeros(8), ql.PerGroup(2), 3))
    assert [(w[0].start, w[0].stop, h[0].start, h[0].stop) for w, h in cut] == [
        (0, 2, 0, 1),
        (2, 4, 1, 2),
        (4, 6, 2, 3),
        (6, 8, 3, 4),
    ]
