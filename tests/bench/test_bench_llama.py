"""The language model beside llama.cpp: all do the same work, and it is stored."""

import json
import math
import os
from pathlib import Path

import peers
import pytest
import tiny_llama

from qlesson import bench
from qlesson.bench import llama, measure

ROOT = Path(__file__).parents[2]
WORKS = ("writing", "reading")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A model of some kilobytes in the place of the real one, and no waiting."""
    peers.peer("tokenizers")
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama.written())
    monkeypatch.setenv("QLESSON_SMOLLM2", str(path))
    for name, x in {"WRITTEN": 3, "READ": 5, "ROUNDS": 2, "_llama_cpp": lambda path: None}.items():
        monkeypatch.setattr(llama, name, x)
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(measure, "BLOCK_SECONDS", 0)
    return path


@pytest.mark.skipif(not os.access("/proc/self/status", os.R_OK), reason="needs Linux's /proc")
def test_a_report_from_end_to_end(tiny, tmp_path, capsys):
    target = tmp_path / "found.json"
    assert llama.main(["--json", str(target)]) == 0
    found, said = json.loads(target.read_text()), capsys.readouterr().out
    names = {work: [r["contestant"] for r in found[work]] for work in WORKS}
    assert names == dict.fromkeys(WORKS, ["qlesson", "float32"])
    codes, floats = (r["nbytes"] for r in found["writing"])
    weights = sum(math.prod(x) for x in tiny_llama.shapes().values() if len(x) == 2)
    norms = 4 * tiny_llama.WIDTH * (2 * tiny_llama.LAYERS + 1)
    assert floats == 4 * weights + norms and codes == weights * 5 / 8 + norms
    assert all(r["low"] <= r["ms"] <= r["high"] for work in WORKS for r in found[work])
    assert [r["contestant"] for r in found["fresh"]] == ["qlesson", "float32"]
    assert all(r["peak_mb"] > 1 and r["first_token_s"] > 0 for r in found["fresh"])
    assert "writing: tokens a second" in said and "qlesson" in said
    assert found["absent"] == {"llama.cpp": "xllamacpp is not installed"}
    assert "absent: llama.cpp (xllamacpp is not installed)" in said


def test_all_write_as_many_tokens(tiny, monkeypatch):
    counted = []
    monkeypatch.setattr(llama, "measure", lambda calls, rounds: counted.append(calls) or {})
    monkeypatch.setattr(llama, "_llama_cpp", lambda path: lambda ids, n: (len(ids), n))
    llama.run_llama(tiny)
    asked = []
    monkeypatch.setattr(llama, "list", lambda ids: asked.append(len(tuple(ids))), raising=False)
    for calls, work in zip(counted, ((1, 3), (5, 1)), strict=True):
        assert calls["llama.cpp"]() == work
        for name in llama.KEPT:
            calls[name]()
    assert asked == [3, 3, 1, 1]


def test_llama_cpp_reads_and_writes_what_it_is_asked_for():
    peers.peer("xllamacpp")
    call = llama._llama_cpp(peers.smollm2())
    for ids, n in (([5], 3), (list(range(20)), 1)):
        call(ids, n)


def test_without_the_model_the_command_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("QLESSON_SMOLLM2", str(tmp_path / "none"))
    with pytest.raises(SystemExit):
        llama.main([])
    assert "make models" in capsys.readouterr().err


def test_a_file_that_holds_no_model_is_an_error_of_the_command(tiny, capsys):
    tiny.write_text("no model")
    with pytest.raises(SystemExit):
        llama.main([])
    assert str(tiny) in capsys.readouterr().err


def test_what_notebook_14_says_of_it_is_stored():
    text = (ROOT / "notebooks/14_writing_fast.ipynb").read_text(encoding="utf-8")
    real = bench.stored("smollm2")
    assert real["absent"] == {} and all("llama.cpp" in bench.ms_of(real[work]) for work in WORKS)
    writing, reading = (bench.ms_of(real[work]) for work in WORKS)
    nbytes = {row["contestant"]: row["nbytes"] for row in real["writing"]}
    assert "97 MB in its file, and 538 MB in float32" in text
    assert [round(nbytes[name] / 1e6) for name in llama.KEPT] == [97, 538]
    assert "A fifth of the bytes writes more than four times as many tokens as float32" in text
    assert 0.17 < nbytes["qlesson"] / nbytes["float32"] < 0.22
    assert 4 < writing["float32"] / writing["qlesson"] < 5
    assert "though its package is compiled for AVX2" in text
    assert "AVX2" in real["llama.cpp"].split() and "AVX512" not in real["llama.cpp"]
    assert "llama.cpp writes faster still" in text and writing["llama.cpp"] < writing["qlesson"]
    assert "Nobody is near the bound" in text
    cpu = bench.stored("cpu")
    assert cpu["device"] == real["device"]
    one = {bits: bench.ms_of(cpu["product"], bits=bits, tokens=1) for bits in (8, 4)}
    per_ms = 16384 * 4096 * 8.5 / 8 / one[8][bench.READ_ONCE]
    assert all(ms > 2.5 * nbytes[name] / per_ms for name, ms in writing.items())
    assert "With codes, what a token needs beside the reading of its weights takes longer" in text
    assert "float32 mostly waits for its weights" in text
    for ours, name, nbits in (("qlesson", "qlesson", 4.5), ("float32", "float32", 32)):
        reading_them = nbytes[ours] * one[4][name] / (16384 * 4096 * nbits / 8) / writing[ours]
        assert (reading_them > 0.5) == (name == "float32")
    assert "A prompt of 256 tokens shares" in text
    assert all(reading[name] < 0.9 * writing[name] for name in reading)
