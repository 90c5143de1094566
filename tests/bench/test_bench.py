"""The bench: what it counts and reports, and that notebook 13 says what is stored."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import T

import qlesson as ql
from qlesson import bench
from qlesson.bench import cells, measure
from qlesson.bench.__main__ import main
from qlesson.kernels import compilers

ROOT = Path(__file__).parents[2]
CPU = bench.stored("cpu")
CELL = {"work": "given scale", "granularity": "tensor", "dtype": "float32"}


def test_the_traffic_of_the_formula():
    r, s, z = torch.randn(1000), torch.tensor(0.1), torch.tensor(3)
    rows = bench.traffic(lambda: ql.quantize_affine(r, s, z, -128, 127))
    assert [name for name, _, _ in rows] == ["div", "add", "round", "clamp", "to_copy"]
    assert [round(a / 1000) for _, a, _ in rows] == [4] * 5
    assert [b for _, _, b in rows] == [4000] * 4 + [1000]


def test_measure_takes_turns_and_gives_median_and_quartiles(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 0)
    order = []
    found = measure.measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert "".join(order) == "ab" + 3 * "aaabbb"
    assert all(low <= ms <= high for ms, low, high in found.values())


@pytest.mark.parametrize("work", bench.WORKS)
@pytest.mark.parametrize("granularity", bench.GRANULARITIES)
def test_every_contestant_does_the_same_work(work, granularity):
    job = bench.Job(work, granularity, "float32", 2**16)
    expected = job.x.dequantize() if work == "dequantize" else job.codes.clone()
    for name, call in job.contestants().items():
        if name == bench.FLOOR or name == "torchao compiled":
            continue
        job.codes.copy_(job.codes if work == "dequantize" else torch.zeros_like(job.codes))
        made = call()
        if not isinstance(made, torch.Tensor | np.ndarray):
            made = job.r_hat if work == "dequantize" else job.codes
        made = torch.as_tensor(made.int_repr() if getattr(made, "is_quantized", 0) else made)
        made = made.reshape(expected.shape)
        off = (made.double() - expected.double()).abs().max().item()
        step = job.x.scale.max().item() if work == "dequantize" else 1
        assert off <= 1.01 * step, name  # some multiply by the reciprocal, or round outside
    if work != "choose":
        assert {"numpy", "onnxruntime", "torchao eager", "eager", "compiled"} <= set(
            job.contestants()
        )


def test_each_step_to_the_loop_by_hand_does_the_same_work(monkeypatch):
    calls, jobs = {}, []
    once = lambda found: calls.update(found) or dict.fromkeys(found, (1, 1, 1))  # noqa: E731
    monkeypatch.setattr(cells, "measure", once)
    monkeypatch.setattr(bench.Job, "floor", lambda job: jobs.append(job))
    assert [row["contestant"] for row in cells.run_steps(2**16)] == list(calls)
    (job,) = jobs
    assert calls.pop(bench.FLOOR) is None
    expected = job.codes.clone()
    assert list(calls) == [s["contestant"] for s in CPU["steps"][:3]]
    for call in calls.values():
        job.codes.zero_()
        call()
        assert torch.equal(job.codes, expected)


def test_a_step_whose_loop_cannot_be_built_is_left_out(monkeypatch):
    once = lambda found: dict.fromkeys(found, (1, 1, 1))  # noqa: E731
    monkeypatch.setattr(cells, "measure", once)
    monkeypatch.setattr(compilers, "_by_hand", lambda *a, **k: None)
    names = [row["contestant"] for row in cells.run_steps(2**16)]
    assert names == ["torch.compile", bench.FLOOR]


def test_the_floor_counts_bytes():
    assert bench.Job("given scale", "tensor", "float32", 4000).bytes_moved == 4000 + 1000 + 5
    assert bench.Job("choose", "tensor", "float32", 4000).bytes_moved == 8000 + 1000 + 5
    assert bench.Job("choose", "row", "bfloat16", 2**16).bytes_moved == 2**16 + 2**15 + 8 * 5


def test_a_report_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(cells, "cells", lambda device: [("given scale", "row", "float32", True)])
    monkeypatch.setattr(cells, "SIZES", [2**12])
    target, picture = tmp_path / "a.json", tmp_path / "a.png"
    assert main(["--mb", "1", "--json", str(target), "--plot", str(picture)]) == 0
    found = json.loads(target.read_text())
    assert {"device", "date", "versions", "absent", "copy", "rows", "product"} <= set(found)
    said = capsys.readouterr().out
    assert "given scale, per row, float32" in said and "one pass" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    for peer in found["absent"]:
        assert peer in said


def test_quick_says_this_machine():
    assert len(bench.quick(2**16).splitlines()) == 5


@pytest.mark.parametrize("name", ["cpu", "h100_trial"])
def test_stored_results_have_device_date_and_versions(name):
    found = bench.stored(name)
    assert (
        found["device"] and re.match(r"20\d\d-\d\d", found["date"]) and found["versions"]["torch"]
    )
    assert "cpu" not in name or re.fullmatch(r"[\w()., ]+ cores", found["device"])
    if name == "h100_trial":
        assert "not a measurement of its present code" in found["note"]


def text_of(notebook):
    cells = json.loads((ROOT / "notebooks" / notebook).read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return "\n".join(texts).partition("## Exercises")[0]


def test_every_time_in_the_text_of_notebook_12_is_stored():
    ms = bench.ms_of(CPU["rows"], **CELL)
    copy, product = CPU["copy"][0], {p["contestant"]: p["ms"] for p in CPU["product"]}
    memory = {m["contestant"]: m for m in CPU["memory"]}
    pieces = {p["values"]: p["ms"] for p in CPU["pieces"]}
    bandwidth = copy["moved"] / copy["ms"] / 1e6
    whole, floor, compiled = ms["formula, whole"], ms["one pass"], ms["compiled"]
    steps = [s["ms"] for s in CPU["steps"]]
    text = text_of("13_fast_kernels.ipynb")
    for words in (
        f"a factor of {whole / floor:.0f}:",
        f"The bytes explain {37 / 5:.0f}.",
        f"the system must find {memory['formula, whole']['fresh_pages']:,} pages",
        f"{memory['formula, memory reused']['ms']:.0f} of {memory['formula, whole']['ms']:.0f} ms "
        f"are left, about {memory['formula, memory reused']['ms'] / floor:.0f} passes",
        f"37 bytes predict {37 * 2**25 / bandwidth / 1e6:.0f} ms, and {whole:.0f} ms were",
        f"{memory['formula, memory reused']['ms']:.0f} ms are left of "
        f"{memory['formula, whole']['ms']:.0f}.",
        f"a valley, at {pieces[2**17]:.0f} ms, more than "
        f"{pieces[2**25] // pieces[2**17]:.0f} times",
        "The package's loop is at the floor, and ONNX Runtime's, written by hand too, within a ",
        f"That saves {steps[0] - steps[1]:.1f} ms. The rest",
        f"That saves {steps[1] - steps[2]:.1f} ms, and the loop is as fast as one pass.",
        f"alone {product['float32'] / product['torch._int_mm alone']:.1f} times as fast",
        f"and {product['float32'] / product['W8A8']:.1f} times with",
        f"reaches {product['float32'] / product['bfloat16']:.1f} times",
        f"{2**27 // 4096:,} such stops",
        f"Four intermediates and the codes have {(4 * 2**27 + 2**25) // 4096:,} pages.",
        "near the floor of 9 bytes a value, but not in groups of 32",
    ):
        assert words in text, words
    checked = {"0", "21", "37", "47", "144", "29", "139", "22", "1.5", "3.1"}
    for number in re.findall(r"(\d[\d.,]*\d|\d) (?:ms|floors)\b", text):
        assert number in checked, number
    assert compiled / floor < 1.05 and ms["onnxruntime"] / floor < 1.1 and steps[2] <= steps[3]
    back = bench.ms_of(CPU["rows"], **CELL | {"work": "dequantize"})
    assert back["compiled"] / back["one pass"] < 1.05
    assert abs(memory["formula, whole"]["fresh_pages"] - 139_264) < 100
    for granularity in bench.GRANULARITIES:
        wanted = CELL | {"work": "choose", "granularity": granularity}
        two_readings = bench.ms_of(CPU["rows"], **wanted)["compiled"] / (
            9 * 2**25 / bandwidth / 1e6
        )
        assert (two_readings < 1.2) == (granularity != "group 32")
    assert whole / floor > 20 and abs(5 * 2**25 / bandwidth / 1e6 / floor - 1) < 0.1
    assert min(pieces, key=pieces.get) == 2**17
    trial = bench.stored("h100_trial")
    assert trial["copy_tb_per_s"] * 1000 > 100 * bandwidth
    low, high = trial["compiled_dynamic_shapes_share"]
    shares = {
        (s["contestant"], s["dtype"]): s["share"]
        for s in trial["floor_share"]
        if s["granularity"] == "group 128"
    }
    assert shares["compiled, static shape", "float32"] >= 1
    assert "rows of up to 16,384 values" in text
    assert "WIDEST = 16384 " in (ROOT / "qlesson/kernels/loops_triton.py").read_text()
    assert f"and {shares['compiled, static shape', 'bfloat16']} of it for bfloat16." in text
    assert f"such kernels reached only {low} to {high} in the same trials" in text
    assert max(pieces[2**25], whole) / memory["formula, whole"]["ms"] < 1.3
    assert trial["bits"]["differ_divided_by_a_python_number"] == 12_000_000


def test_on_T_the_bench_changes_no_mode():
    before = ql.kernels.modes._state["mode"]
    ql.quantize(T)
    bench.Job("given scale", "tensor", "float32", 4000).ours()["eager"]()
    assert ql.kernels.modes._state["mode"] == before
