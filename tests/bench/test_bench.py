"""The bench: what it counts and reports, and that notebook 13 says what is stored."""

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import T

import qlesson as ql
from qlesson import bench, kernels
from qlesson.bench import cells, measure, peers, product, report
from qlesson.bench.__main__ import main
from qlesson.kernels import compilers

ROOT = Path(__file__).parents[2]
CPU, GPU = bench.stored("cpu"), bench.stored("h200")
CELL = {"work": "given scale", "granularity": "tensor", "dtype": "float32"}
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def test_the_traffic_of_the_formula():
    r, s, z = torch.randn(1000), torch.tensor(0.1), torch.tensor(3)
    rows = bench.traffic(lambda: ql.quantize_affine(r, s, z, -128, 127))
    assert [name for name, _, _ in rows] == ["div", "add", "round", "clamp", "to_copy"]
    assert [round(a / 1000) for _, a, _ in rows] == [4] * 5
    assert [b for _, _, b in rows] == [4000] * 4 + [1000]


def test_the_traffic_of_what_fills_gives_several_or_one_number_or_nothing():
    r, codes = torch.randn(10, 100), torch.empty(10, 100, dtype=torch.int8)
    wanted = {
        "copy": (lambda: codes.copy_(r), 4000, 1000),  # what is filled is not read
        "fill": (lambda: codes.fill_(1), 0, 1000),
        "add": (lambda: r.add_(1), 4000, 4000),
        "sum": (r.sum, 4000, 4),
        "aminmax": (r.aminmax, 4000, 8),
        "max": (lambda: r.max(1), 4000, 10 * (4 + 8)),
    }
    for name, (call, read, written) in wanted.items():
        assert bench.traffic(call) == [(name, read, written)]
    for call in (lambda: torch.empty(1000), lambda: torch.empty_like(r), lambda: r.sum().sum()):
        assert len(bench.traffic(call)) <= 1
    for scheme in (ql.Scheme(), ql.Scheme(granularity=ql.PerAxis(0))):
        with ql.use_kernels("eager"):
            assert bench.traffic(lambda s=scheme: ql.fake_quantize(r, s))


def test_a_share_compares_what_met_the_same_state_of_memory():
    rows = [
        {"contestant": "limit", "bits": 4, "rounds": [1.0, 2.0, 1.0]},
        {"contestant": "other", "bits": 4, "rounds": [2.0, 2.5, 1.25]},
        {"contestant": "other", "bits": 8, "rounds": [1.0, 1.0, 1.0]},
    ]
    assert bench.share(rows, "limit", "other", bits=4) == 0.8
    for limit, name, said in (
        ("none", "other", "limit must be"),
        ("limit", "none", "name must be"),
    ):
        with pytest.raises(ValueError, match=said):
            bench.share(rows, limit, name, bits=4)


def test_torchao_is_compiled_for_its_own_sizes(monkeypatch):
    """Compiled for any, as a second size in one process would have it, it is slower than eager."""
    pytest.importorskip("torchao")
    asked = []
    monkeypatch.setattr(torch, "compile", lambda f, **how: asked.append(how) or f)
    peers.torchao_(bench.Job("given scale", "group 128", "float32", 2**14))
    assert asked == [{"dynamic": False}]


def test_measure_takes_turns_and_gives_median_and_quartiles(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 0)
    order = []
    found = measure.measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert "".join(order) == "ab" + 3 * "aabb"
    assert all(low <= ms <= high for ms, low, high in found.values())


def test_what_runs_before_a_call_runs_before_each_and_takes_no_time_of_it(monkeypatch):
    """By a clock that goes on by what each of them takes."""
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 0)
    order, now = [], [0.0]
    monkeypatch.setitem(measure._clock, "now", lambda: now[0])

    def takes(seconds, name):
        now[0] += seconds
        order.append(name)

    found = measure.measure({"a": lambda: takes(1e-3, "a")}, before=lambda name: takes(1.0, "-"))
    assert "".join(order) == "a" + 3 * "-a-a"
    assert found["a"] == pytest.approx((1, 1, 1))


def test_on_one_core_other_programs_do_not_count(monkeypatch):
    threads, asleep = torch.get_num_threads(), lambda: time.sleep(0.3)
    monkeypatch.setitem(measure._clock, "now", measure._clock["now"])
    measure.on_one_core()
    try:
        assert torch.get_num_threads() == 1 and measure.clock() == "of one thread"
        assert measure._timed(asleep, "cpu", lambda: None) < 100
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("work", bench.WORKS)
@pytest.mark.parametrize("granularity", bench.GRANULARITIES)
def test_every_contestant_does_the_same_work(work, granularity):
    job = bench.Job(work, granularity, "float32", 2**16)
    expected = job.x.dequantize() if work == "dequantize" else job.codes.clone()
    for name, call in job.contestants().items():
        if name == bench.FLOOR or name == "torchao compiled":
            continue
        job.r_hat.fill_(torch.nan)
        if work != "dequantize":
            job.codes.zero_()
        with ql.use_kernels("compiled"):
            made = call()
        if not isinstance(made, torch.Tensor | np.ndarray):
            made = job.r_hat if work == "dequantize" else job.codes
        made = torch.as_tensor(made.int_repr() if getattr(made, "is_quantized", 0) else made)
        made = made.reshape(expected.shape)
        off = (made.double() - expected.double()).abs()
        if work == "dequantize":
            assert off.max() <= 1e-6 * expected.abs().max(), name
        else:  # some multiply by the reciprocal, or round outside: that shows in ties
            assert off.max() <= 1 and (off > 0).double().mean() < 0.01, name
    if work != "choose":
        assert {"numpy", "onnxruntime", "torchao eager", "eager", "compiled"} <= set(
            job.contestants()
        )


def test_a_cell_times_the_loop_that_is_compiled(monkeypatch):
    met, ours = [], bench.Job.ours

    def watched(job):
        call = ours(job)["compiled"]
        return {"compiled": lambda: met.append(kernels.modes._state["mode"]) or call()}

    monkeypatch.setattr(bench.Job, "ours", watched)
    cells.run_cell("given scale", "row", "float32", True, 2**16)
    assert set(met) == {"compiled"}


def test_one_slow_call_is_its_own_spread():
    times = measure.measure({"asleep": lambda: time.sleep(0.11)}, rounds=1)
    middle, low, high = times["asleep"]
    assert low == middle == high > 100


def test_each_step_to_the_loop_by_hand_does_the_same_work(monkeypatch):
    calls, jobs = {}, []
    once = lambda found: calls.update(found) or dict.fromkeys(found, (1, 1, 1))  # noqa: E731
    monkeypatch.setattr(cells, "measure", once)
    monkeypatch.setattr(bench.Job, "floor", lambda job: jobs.append(job))
    assert [row["contestant"] for row in cells.run_steps(2**16)] == list(calls)
    (job,) = jobs
    assert calls.pop(bench.FLOOR) is None
    expected = job.codes.clone()
    assert list(calls) == [s["contestant"] for s in CPU["steps"][:-1]]  # and the floor
    for call in calls.values():
        job.codes.zero_()
        call()
        assert torch.equal(job.codes, expected)


def test_a_step_whose_loop_cannot_be_built_is_left_out(monkeypatch):
    once = lambda found: dict.fromkeys(found, (1, 1, 1))  # noqa: E731
    monkeypatch.setattr(cells, "measure", once)
    monkeypatch.setattr(compilers, "by_hand", lambda *a, **k: None)
    names = [row["contestant"] for row in cells.run_steps(2**16)]
    assert names == ["torch.compile", bench.FLOOR]


def test_the_floor_counts_bytes():
    assert bench.Job("given scale", "tensor", "float32", 4000).bytes_moved == 4000 + 1000 + 5
    assert bench.Job("choose", "tensor", "float32", 4000).bytes_moved == 8000 + 1000 + 5
    assert bench.Job("choose", "column", "float32", 4000).bytes_moved == 8000 + 1000 + 1000 * 5
    assert bench.Job("choose", "row", "bfloat16", 2**16).bytes_moved == 2**16 + 2**15 + 8 * 5


def test_a_report_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(cells, "cells", lambda device: [("given scale", "row", "float32", True)])
    target, picture = tmp_path / "a.json", tmp_path / "a.png"
    assert main(["--mb", "1", "--json", str(target), "--plot", str(picture)]) == 0
    found = json.loads(target.read_text())
    assert {"device", "vectors", "date", "versions", "absent", "bandwidth", "rows"} <= set(found)
    said = capsys.readouterr().out
    for row in found["product"]:
        assert row["moved"] == 128 * 4096 * (row["bits"] / 8 + 2 / 32)
    assert {(r["bits"], r["tokens"]) for r in found["product"]} == {
        (bits, tokens) for bits in (8, 4) for tokens in (1, 8, 64, 256)
    }
    assert "256 tokens times 128x4096 weights of 4 bits" in said and "codes read once" in said
    assert [row["contestant"] for row in found["writing"]] == ["float32", "8 bits", "4 bits"]
    assert "characters a second" in said
    assert [row["contestant"] for row in found["encoding"]] in ([], ["float32", "8 bits", "4 bits"])
    assert "given scale, per row, float32" in said and "one pass" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    for peer, why in found["absent"].items():
        assert f"absent: {peer} ({why})" in said


def test_every_part_of_a_report_has_as_many_bytes_as_were_asked_for(monkeypatch):
    asked = {}
    for name in ("run_bandwidth", "run", "run_pieces", "run_memory", "run_steps"):
        monkeypatch.setattr(
            report, name, lambda nbytes, *_, name=name: asked.update({name: nbytes})
        )
    for name in ("run_product", "run_writing", "run_encoding", "run_sizes"):
        monkeypatch.setattr(report, name, lambda *_, **__: [])
    report.report(2**16, sizes=True)
    assert len(asked) == 5 and set(asked.values()) == {2**16}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tokens", [1, 8, 64])
@pytest.mark.parametrize("device", DEVICES)
def test_every_contestant_multiplies_the_same_matrix(bits, tokens, device):
    """Off by no more than its codes are from the weights, and bfloat16 or 8-bit inputs from x."""
    matrix = bench.Matrix(bits, 64, device)
    calls = matrix.contestants(tokens)
    wanted = calls["float32"]().cpu()
    for name, call in calls.items():
        with torch.no_grad(), ql.use_kernels("compiled"):
            y = call()
        if name == bench.READ_ONCE:
            assert y == matrix.read.numel() and matrix.read.nbytes == matrix.nbytes
            continue
        y = torch.as_tensor(y[0] if isinstance(y, list) else y).float().cpu()
        off = (y - wanted).norm() / wanted.norm()
        coded = not name.endswith("float32") and name != "bfloat16"
        assert off < (0.02 if bits == 8 or not coded else 0.12), name
        assert (off > 0.05) == (bits == 4 and coded), name
    ours = {"qlesson", "qlesson, bfloat16", "qlesson, 8-bit inputs"}
    others = {"onnxruntime", "onnxruntime, 8-bit inputs"} if device == "cpu" else set()
    assert ours | others < set(calls)
    assert ("qlesson, eager" in calls) == (tokens == 1)


def test_a_peer_that_is_not_there_is_left_out_and_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delattr(torch, "_weight_int4pack_mm_for_cpu")
    matrix = bench.Matrix(4, 64)
    assert set(matrix.contestants(1)) == {
        bench.READ_ONCE, "float32", "bfloat16",
        "qlesson", "qlesson, bfloat16", "qlesson, 8-bit inputs", "qlesson, eager",
    }  # fmt: skip
    assert set(matrix.absent) == {"onnxruntime", "torch int4pack"}
    assert "has no attribute '_weight_int4pack_mm_for_cpu'" in matrix.absent["torch int4pack"]


def test_a_report_names_who_is_absent_and_why(monkeypatch):
    """Peers of loops and of products, a model, and our own loops where nothing compiles."""
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(cells, "cells", lambda device: [("given scale", "row", "float32", False)])
    monkeypatch.setattr(product, "TOKENS", (1,))
    for name in ("run_writing", "run_encoding"):
        monkeypatch.setattr(report, name, lambda *a, **how: [])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.delattr(torch, "_weight_int4pack_mm_for_cpu")
    monkeypatch.setitem(ql.kernels.modes._state, "broken", True)
    found = report.report(2**16)
    absent = found["absent"]
    assert set(absent) == {"onnxruntime", "torchao", "torch int4pack", "MiniLM", "the loops"}
    assert absent["onnxruntime"].startswith("ModuleNotFoundError: import of onnxruntime")
    said = report.table(json.loads(report.as_json(found)))
    for name, why in absent.items():
        assert f"absent: {name} ({why})" in said


LOOPS = {
    "given scale": {"torch.compile", "numpy", "onnxruntime", "torchao eager"},
    "choose": {"torchao eager"},
    "dequantize": {"numpy", "onnxruntime", "torchao eager"},
}
PRODUCTS = {"onnxruntime", "onnxruntime, 8-bit inputs"}


@pytest.mark.parametrize("name", ["cpu", "cpu_avx2", "xeon"])
def test_the_stored_results_name_every_peer(name):
    found = bench.stored(name)
    assert found["absent"] == {}
    for work, peers_of in LOOPS.items():
        for granularity in bench.GRANULARITIES:
            cell = {"work": work, "granularity": granularity, "dtype": "float32"}
            assert peers_of < set(bench.ms_of(found["rows"], **cell)), cell
    for bits in (8, 4):
        for tokens in product.TOKENS:
            named = set(bench.ms_of(found["product"], bits=bits, tokens=tokens))
            assert PRODUCTS | {f"torch int{bits}pack, bfloat16"} < named
            assert ("torchao eager" in named) == (bits == 8 and tokens == 1)
    assert all(found[part] for part in ("writing", "encoding", "sizes", "pieces", "memory"))
    assert len(found["steps"]) == 5


def test_quick_says_this_machine():
    assert len(bench.quick(2**16).splitlines()) == 5


@pytest.mark.parametrize("name", ["cpu", "cpu_avx2", "xeon", "h200"])
def test_stored_results_have_device_date_and_versions(name):
    found = bench.stored(name)
    assert (
        found["device"] and re.match(r"20\d\d-\d\d", found["date"]) and found["versions"]["torch"]
    )
    assert name == "h200" or re.fullmatch(r"[\w()., ]+ cores?", found["device"])
    if name == "h200":
        assert "Left out: the package's rows whose code has changed since" in found["note"]


BUILDS = CPU, bench.stored("cpu_avx2")
XEON = bench.stored("xeon")


def test_the_two_builds_are_of_one_processor():
    native, avx2 = BUILDS
    assert native["device"] == avx2["device"] and native["threads"] == avx2["threads"]
    assert [build["vectors"] for build in (native, avx2)] == ["AVX512", "AVX2"]


def text_of(notebook):
    cells = json.loads((ROOT / "notebooks" / notebook).read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return "\n".join(texts).partition("## Exercises")[0]


def test_what_notebook_13_says_of_times_is_stored():
    """It prints the times, and its sentences compare them."""
    ms = bench.ms_of(CPU["rows"], **CELL)
    whole, floor = ms["formula, whole"], ms[bench.FLOOR]
    text = text_of("13_fast_kernels.ipynb")
    assert not re.search(r"\d ms\b", text)
    assert "Answer D" in text and "**D** far more than that" in text and whole > 14 * floor
    (read,) = CPU["bandwidth"]
    bandwidth = read["moved"] / read["ms"] / 1e6
    predicted = 37 * 2**25 / bandwidth / 1e6
    assert "For one pass the count is about right" in text
    assert abs(5 * 2**25 / bandwidth / 1e6 / floor - 1) < 0.25
    assert "takes far longer than its 37 bytes predict" in text and whole > 2 * predicted
    fresh, reused = (row["fresh_pages"] for row in CPU["memory"][:2])
    assert f"have {4 * 2**27 // 4096 + 2**25 // 4096:,} pages" in text
    assert abs(fresh - 139_264) < 100 and reused < 100
    left = ms["formula, memory reused"]
    assert "The bytes explain less than 7, and fresh memory nearly all the rest" in text
    assert 5 < left / floor < 7 and left < whole / 6
    assert "Without them less time is left than 37 bytes predict" in text and left < predicted
    assert "a loop that asks for values ahead can stand a little above it" in text
    assert 5 * 2**25 / 1e6 / ms["compiled"] < 1.2 * bandwidth
    pieces = {p["values"]: p["ms"] for p in CPU["pieces"]}
    assert "a valley, several times as fast as the whole tensor" in text
    assert "The package cuts at its left end" in text
    assert pieces[2**25] > 3 * pieces[2**17] and pieces[2**16] > 1.5 * min(pieces.values())
    assert max(pieces[2**power] for power in range(17, 21)) < 2 * min(pieces.values())
    steps = [s["ms"] for s in CPU["steps"]]
    assert steps[0] > steps[1] and CPU["steps"][-1]["contestant"] == bench.FLOOR
    assert "Their measure is the pass that stands for the floor, timed beside them" in text
    wanted = [CELL | {"work": "choose", "granularity": g} for g in bench.GRANULARITIES]
    chosen = (bench.ms_of(CPU["rows"], **w) for w in wanted)
    tensor, row, column, *groups = (t["compiled"] / t[bench.FLOOR] for t in chosen)
    assert "Rows and groups stay near one floor" in text and max(row, *groups) < 1.4
    assert "a whole tensor and columns need a second reading, about two floors" in text
    assert 1.7 < tensor < 2.2 and 1.7 < column < 2.5


def test_what_notebooks_13_and_14_say_of_a_gpu_is_stored():
    text = text_of("13_fast_kernels.ipynb")
    (read,), (cpu,) = GPU["bandwidth"], CPU["bandwidth"]
    per_ms = read["moved"] / read["ms"]
    assert "dozens of times as fast" in text
    assert per_ms > 24 * cpu["moved"] / cpu["ms"]

    def shares(work, granularity):
        least = (2**27 + 2**25) / per_ms
        wanted = {"work": work, "granularity": granularity, "dtype": "float32"}
        return {name: least / ms for name, ms in bench.ms_of(GPU["rows"], **wanted).items()}

    given = [shares("given scale", g) for g in ("tensor", "group 128")]
    back, chosen = shares("dequantize", "group 128"), shares("choose", "group 128")
    known = [*given, back]
    assert "On a GPU fresh memory costs nothing" in text
    for granularity in ("tensor", "group 32", "group 128"):
        wanted = {"work": "given scale", "granularity": granularity, "dtype": "float32"}
        ms = bench.ms_of(GPU["rows"], **wanted)
        assert ms["formula, whole"] < 1.05 * ms["formula, memory reused"]
    assert "reaches a tenth at most, the formula in one piece an eighth" in text
    assert all(0.07 < s["eager"] < 0.11 for s in known) and chosen["eager"] < 0.1
    assert 0.115 < back["formula, whole"] < 0.135
    assert "it makes less than half of the bandwidth" in text
    assert all(s[bench.FLOOR] < 0.5 for s in known)
    assert "with given scales nine tenths of it for groups, eight for one scale" in text
    assert all(0.85 < s["compiled"] < 0.95 for s in known[1:])
    assert 0.75 < given[0]["compiled"] < 0.85
    assert "are as fast for groups, or a little faster" in text
    assert 0.9 < given[1]["compiled"] / given[1]["torchao compiled"] < 1
    assert "Choosing takes more than twice as long" in text
    assert 2 < given[1]["compiled"] / chosen["compiled"] < 2.6
    assert "take twice as long too, and are a quarter faster there" in text
    assert 1.8 < given[1]["torchao compiled"] / chosen["torchao compiled"] < 2.2
    assert 1.2 < chosen["torchao compiled"] / chosen["compiled"] < 1.35
    assert "they take half the time of torch.compile's" in compilers._by_triton.__doc__
    assert 1.7 < given[0]["compiled"] / given[0]["torch.compile"] < 2.4
    assert GPU["division"]["differ"] > 0.7 * GPU["division"]["values"]

    text = text_of("14_writing_fast.ipynb")
    one, few = (bench.ms_of(GPU["product"], bits=4, tokens=n) for n in (1, 8))
    assert "the product takes a third of float32's time" in text
    assert 2.7 < one["float32"] / one["qlesson"] < 3.6
    assert "with inputs in bfloat16 as long as torch's own of 4-bit codes" in text
    assert 0.95 < one["qlesson, bfloat16"] / one["torch int4pack, bfloat16"] < 1.05
    assert "it is arithmetic that counts, and torch's is twice as fast" in text
    assert 1.8 < few["qlesson, bfloat16"] / few["torch int4pack, bfloat16"] < 2.2
    assert "For 256 tokens codes are slower than float32 by either, and ours slowest" in text
    many = bench.ms_of(GPU["product"], bits=4, tokens=256)
    slow = many["torch int4pack, bfloat16"]
    assert many["float32"] < slow < min(many["qlesson"], many["qlesson, bfloat16"])
    assert bench.share(GPU["product"], bench.READ_ONCE, "qlesson", bits=4, tokens=1) > 0.7
    assert "So short a reading reaches half of the speed of a long one" in text
    moved = next(r["moved"] for r in GPU["product"] if r["bits"] == 4)
    assert 0.4 < moved / one[bench.READ_ONCE] / per_ms < 0.6
    assert "bfloat16's layer has **tensor cores**" in text
    assert few["bfloat16"] < few["qlesson"] < few["float32"]
    assert "writes more slowly with codes than without on this GPU" in text
    assert GPU["writing"][-1]["ms"] > 2 * GPU["writing"][0]["ms"]


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build["vectors"])
@pytest.mark.parametrize("work", ["given scale", "dequantize"])
def test_the_loops_of_notebook_13_are_near_the_floor_on_both_builds(build, work):
    wanted = build["rows"], bench.FLOOR
    text = text_of("13_fast_kernels.ipynb")
    assert "the package's loops take at most a tenth more than the pass" in text
    assert bench.share(*wanted, "compiled", **CELL | {"work": work}) > 1 / 1.1
    assert "So do ONNX Runtime's for codes" in text and "they take about a fifth more" in text
    peer = bench.share(*wanted, "onnxruntime", **CELL | {"work": work})
    assert peer > 1 / 1.1 if work == "given scale" else 1.1 < 1 / peer < 1.3


def test_what_notebook_14_says_of_times_is_stored():
    """It prints the times, and its sentences compare them."""
    rows, text = CPU["product"], text_of("14_writing_fast.ipynb")
    assert not re.search(r"\d ms\b", text)
    four, eight = (
        {n: bench.ms_of(rows, bits=bits, tokens=n) for n in (1, 8, 64, 256)} for bits in (4, 8)
    )
    assert "Answer B" in text and 1.35 < eight[1]["qlesson"] / four[1]["qlesson"] < 2.2
    assert 0.8 < eight[256]["qlesson"] / four[256]["qlesson"] < 1.25
    read = next(r for r in rows if (r["bits"], r["tokens"]) == (8, 1))
    assert "It is not half the time for one" in text
    assert f"the layer waits for {read['moved'] / 1e6:.0f} MB" in text
    assert "is slower than float32 all the same" in text
    one = four[1]
    assert one["qlesson, eager"] > one["float32"]
    assert "by its bytes `first_try` would take a fifth of that time" in text
    by_bytes = 17.1 * 16384 * 4096 / read["moved"] * eight[1][bench.READ_ONCE]
    assert 0.18 < by_bytes / one["qlesson, eager"] < 0.23
    assert "All that read 4-bit codes once are faster than the float weights" in text
    whole = ("float32", "bfloat16", "qlesson, eager")
    assert max(t for name, t in one.items() if name not in whole) < one["bfloat16"]
    assert "takes less than half the time is its kernel, not its codes" in text
    assert four[256]["qlesson"] < 0.5 * four[256]["float32"]
    assert "8-bit inputs make it twice as fast. bfloat16 weights" in text
    many = four[256]
    assert 1.6 < many["qlesson"] / many["qlesson, 8-bit inputs"] < 2.5
    assert 0.8 < many["bfloat16"] / many["qlesson, 8-bit inputs"] < 1.25
    assert "With inputs in bfloat16 ours uses that instruction too" in text
    assert many["qlesson, bfloat16"] < 0.8 * many["qlesson"]
    assert "It takes a quarter longer than with weights that are bfloat16 already" in text
    assert 1.15 < many["qlesson, bfloat16"] / many["bfloat16"] < 1.35
    assert "ONNX Runtime's have 5 bits a weight with their scales, ours 4.5" in text
    assert read["moved"] * 8 / (16384 * 4096) == 8.5
    assert "The GPT is near no limit" in text
    gb_per_s = read["moved"] / eight[1][bench.READ_ONCE]
    (plain,) = CPU["bandwidth"]
    for row in CPU["writing"]:
        assert row["ms"] > 1.5 * row["nbytes"] / gb_per_s
    assert "more than a hundred thousand characters a second with 4 bits" in text
    assert 1.1e5 < 1e3 * plain["moved"] / plain["ms"] / CPU["writing"][-1]["nbytes"] < 1.3e5
    assert "which its product reads at less than half of memory's speed" in text
    assert 0.4 < 4 * 16384 * 4096 / one["float32"] / (plain["moved"] / plain["ms"]) < 0.5
    assert "So a seventh of the bytes writes hardly more characters" in text
    assert 1 < CPU["writing"][0]["ms"] / CPU["writing"][-1]["ms"] < 1.1
    assert "MiniLM's 43 MB are more than the caches hold" in text
    assert CPU["encoding"][0]["nbytes"] == pytest.approx(43e6, rel=0.01)
    assert "about four times as many texts" in text
    assert 3.3 < CPU["encoding"][0]["ms"] / CPU["encoding"][-1]["ms"] < 4.7
    assert "4 bits are hardly faster than 8" in text
    _, bytes_, nibbles = (row["ms"] for row in CPU["encoding"])
    assert 1 < bytes_ / nibbles < 1.15
    assert "float32's product reaches about half of its own floor" in text
    assert 0.4 < 4 * 16384 * 4096 / gb_per_s / one["float32"] < 0.6
    assert "and bfloat16's two thirds" in text
    assert 0.6 < 2 * 16384 * 4096 / gb_per_s / one["bfloat16"] < 0.72
    assert "at nearly its floor, and codes are three times as fast, not four" in text
    gb_per_s_there, rows = gb_per_s, BUILDS[1]["product"]
    read = next(r for r in rows if (r["bits"], r["tokens"]) == (8, 1))
    least, without = (bench.ms_of(rows, bits=b, tokens=1) for b in (8, 4))
    gb_per_s = read["moved"] / least[bench.READ_ONCE]
    assert 2 * 16384 * 4096 / gb_per_s / without["bfloat16"] > 0.9
    assert 2.7 < without["bfloat16"] / without["qlesson"] < 3.4
    assert 3.7 < one["bfloat16"] / one["qlesson"] < 4.3
    assert "turn at twenty tokens and come near: eight take 7 % longer than one, though" in text
    assert 1.4 < one["bfloat16"] * gb_per_s_there / (2 * 16384 * 4096) < 1.6
    assert four[8]["bfloat16"] / one["bfloat16"] == pytest.approx(1.07, abs=0.02)
    per_token = four[256]["bfloat16"] / 256  # of arithmetic
    assert 17 < 2 * 16384 * 4096 / gb_per_s_there / per_token < 23
    assert "they take 1.9 times as long as one with codes of 8 bits, and 2.7 times with 4" in text
    for by, times in ((four, 2.7), (eight, 1.9)):
        assert by[8]["qlesson"] / by[1]["qlesson"] == pytest.approx(times, abs=0.05)


def test_what_stands_below_the_pictures_of_13_and_14_is_stored():
    ms = bench.ms_of(CPU["rows"], **CELL)
    floor, code = (
        ms.pop(bench.FLOOR),
        (ROOT / "notebooks/13_fast_kernels.ipynb").read_text(encoding="utf-8"),
    )
    assert "Loops that fill given memory are near the floor, the formula is far." in code
    into_given = {name: ms.pop(name) for name in ("compiled", "torch.compile", "onnxruntime")}
    assert max(into_given.values()) < 1.3 * floor and min(ms.values()) > 3 * floor
    code = (ROOT / "notebooks/14_writing_fast.ipynb").read_text(encoding="utf-8")
    assert "At one token 4-bit codes are above 8-bit ones; from 64 on they meet." in code
    more = {}
    for tokens in (1, 8, 64, 256):
        each = (bench.ms_of(CPU["product"], bits=bits, tokens=tokens) for bits in (8, 4))
        eight, four = (found["qlesson"] for found in each)
        more[tokens] = eight / four
    assert more[1] > 1.35 and more[8] > 1.1 and 0.95 < min(more[64], more[256])
    assert max(more[64], more[256]) < 1.05


def test_what_notebooks_13_and_14_say_of_another_processor_is_stored():
    text = text_of("13_fast_kernels.ipynb")
    assert "Here are the same loops on a processor of another maker" in text
    assert "AMD" in CPU["device"] and "Intel" in XEON["device"]
    for granularity in bench.GRANULARITIES:
        wanted = CELL | {"granularity": granularity}
        assert bench.share(XEON["rows"], bench.FLOOR, "compiled", **wanted) > 0.9, granularity
    assert "the pass itself takes 1.6 times as long as 5 bytes a value would" in text
    (read,), wanted = XEON["bandwidth"], CELL | {"granularity": "group 32"}
    per_ms = read["moved"] / read["ms"]
    t = bench.ms_of(XEON["rows"], **wanted)[bench.FLOOR]
    assert 1.55 < t / (5 * 2**25 / per_ms) < 1.65
    text = text_of("14_writing_fast.ipynb")
    assert "float32 itself takes one and a half times as long on the EPYC" in text
    assert "Ours are, of float32 inputs too, and those lose nothing" in text
    assert "the others' products of codes are no faster than float32" in text
    assert "so three of them still take less" in text
    many = bench.ms_of(XEON["product"], bits=4, tokens=256)
    assert many["qlesson"] < 0.6 * many["float32"]
    first = bench.ms_of(CPU["product"], bits=4, tokens=256)["float32"]
    assert 1.4 < first / many["float32"] < 1.6
    codes = {n: t for n, t in many.items() if n not in (bench.READ_ONCE, "float32", "bfloat16")}
    others = [t for name, t in codes.items() if not name.startswith("qlesson")]
    assert min(others) > 0.95 * many["float32"]


def test_on_T_the_bench_changes_no_mode():
    before = ql.kernels.modes._state["mode"]
    ql.quantize(T)
    bench.Job("given scale", "tensor", "float32", 4000).ours()["eager"]()
    assert ql.kernels.modes._state["mode"] == before
