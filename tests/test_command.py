"""The command `qlesson`: its doors, what it needs, and that errors are one sentence."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import qlesson as ql
from qlesson.__main__ import main
from qlesson.files import checkpoint, formats, inspect

ROOT = Path(__file__).parents[1]


@pytest.fixture
def file(tmp_path):
    w = torch.linspace(-1, 1, 128).view(2, 64)
    formats.gguf.write(tmp_path / "x.gguf", {"w": formats.gguf.quantize(w, "Q4_1")}, {})
    return tmp_path / "x.gguf"


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["quantize", "--help"], ["lab", "--help"], ["preflight"]]
)
def test_what_asks_for_no_tensor_runs_without_torch(words):
    """-I -S: a Python on which nothing is installed."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from qlesson.__main__ import main; "
    code += f"sys.argv[1:] = {words!r}; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stderr == "" and run.returncode == (words == ["preflight"])
    first = run.stdout.splitlines()[0]
    assert first.startswith((f"qlesson {ql.__version__}", "usage: qlesson", "OK   Python"))


def test_it_is_installed_under_its_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["qlesson"] == "qlesson.__main__:main"


def test_inspect_prints_the_table_or_a_tensor(file, capsys):
    assert main(["inspect", str(file)]) == 0
    assert "4 bits, float minimum, groups of 32, scale float16  (Q4_1)" in capsys.readouterr().out
    assert main(["inspect", str(file), "--tensor", "w"]) == 0
    assert capsys.readouterr().out.startswith("w: 2x64, 4 bits, float minimum")


def test_errors_are_one_sentence(file, capsys):
    for words in ([str(file), "--tensor", "v"], [str(file) + "x"], [str(file.parent)]):
        assert main(["inspect", *words]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_no_path_is_not_the_current_folder(file, capsys):
    for words in (["inspect", ""], ["quantize", "", "x"], ["quantize", str(file), ""]):
        assert main(words) == 1
        assert "must be the name of a file or a folder, got" in capsys.readouterr().err


def test_what_is_turned_back_takes_no_scheme(tmp_path, capsys):
    source, q, back = (tmp_path / f"{name}.safetensors" for name in ("in", "q", "back"))
    checkpoint.save(source, {"w": torch.linspace(-1, 1, 128).view(2, 64)})
    assert main(["quantize", str(source), str(q)]) == 0
    for more in ("--bits=4", "--skip=w", "--per-row", "--mapping=symmetric", "--group-size=32"):
        assert main(["quantize", str(q), str(back), "--dequantize", more]) == 1
        assert "error: --dequantize turns back what there is" in capsys.readouterr().err
    assert main(["quantize", str(q), str(back), "--dequantize"]) == 0


def test_an_ending_in_capitals_is_the_same_ending(tmp_path, capsys):
    source, target = tmp_path / "in.safetensors", tmp_path / "q.GGUF"
    checkpoint.save(source, {"w": torch.ones(2, 64)})
    assert main(["quantize", str(source), str(target), "--bits", "4"]) == 1
    assert "--type is for a target that ends in .gguf" in capsys.readouterr().err
    target.write_bytes(bytes(16))
    assert main(["inspect", str(target)]) == 1
    assert "is no GGUF file: it must begin with" in capsys.readouterr().err


@pytest.mark.parametrize("error, words", [
    (RuntimeError("can't allocate memory:\nyou tried"), r"can't allocate memory:\nyou tried"),
    (OverflowError("too large"), "too large"), (MemoryError(), "MemoryError"),
])  # fmt: skip
def test_what_the_machine_cannot_do_is_one_line_too(error, words, file, capsys, monkeypatch):
    def fails(path):
        raise error

    monkeypatch.setattr(inspect, "report", fails)
    assert main(["inspect", str(file)]) == 1
    assert capsys.readouterr().err == f"error: {words}\n"


def test_a_reader_who_has_seen_enough_is_no_error(file):
    run = subprocess.run(
        f"{sys.executable} -m qlesson inspect {file} | true", shell=True, capture_output=True,
        text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.stderr == ""


def test_a_command_must_be_named(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "COMMAND" in capsys.readouterr().err
