"""The project of notebook 17: its template on two models, in processes of their own."""

import re
import subprocess
import sys
from pathlib import Path

import peers
import pytest
import tiny_llama

import qlesson as ql
from qlesson.models import tinygpt
from qlesson.teach.lessons.n17 import project

TINY = """
def my_model():
    from qlesson.models import llama
    return llama.load({path!r}, "float")[0]

def my_windows():
    return torch.arange(8 * 20).view(8, 20) % 200

def my_scheme():
    four = ql.Scheme(4, granularity=ql.PerGroup(32))
    return {{"blocks.0.mlp.down": four, "blocks.1.attention.out": four}}

"""


def run(script):
    done = subprocess.run(
        [sys.executable, script.name], cwd=script.parent, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def first_number(text):
    return float(re.search(r"\d+\.\d+", text)[0])


def test_it_runs_on_the_course_s_own_model(tmp_path):
    script = tmp_path / "my_project.py"
    script.write_text(Path(project.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    said = run(script)
    assert list(said) == list("123456")
    assert "worse" in said["2"] and "better" in said["4"]
    changes = [float(re.search(r"[+-]\d\.\d+", said[step])[0]) for step in "24"]
    losses = [first_number(re.sub("^blocks.* in 8 bits: ", "", said[step])) for step in "1246"]
    assert losses[1:3] == pytest.approx([losses[0] + changes[0], losses[1] + changes[1]], abs=2e-3)
    assert losses[2] == losses[3]
    size = int(re.search(r"[\d,]+ bytes", said["5"])[0].split()[0].replace(",", ""))
    assert (tmp_path / "my_codes.safetensors").stat().st_size == size


def test_with_three_functions_changed_it_runs_on_another(tmp_path):
    peers.peer("tokenizers")
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama.written(types={"": "F16"}))
    source = Path(project.__file__).read_text(encoding="utf-8")
    start, end = source.index("def my_model"), source.index("EIGHT =")
    script = tmp_path / "mine.py"
    script.write_text(source[:start] + TINY.format(path=str(model)) + source[end:])
    said = run(script)
    assert list(said) == list("123456") and "blocks." in said["3"]
    (four,), (repaired,) = (re.findall(r"([\d,]+) bytes", said[step]) for step in "24")
    assert four != repaired  # also where the layer that breaks has its scheme by its own name


def test_the_layer_that_breaks_is_found():
    model, broken = tinygpt.load(), "blocks.1.mlp.down"
    names = [f"blocks.{i}.{n}" for i in (0, 1) for n in ("attention.qkv", "mlp.down")]
    scheme = {name: ql.Scheme(2 if name == broken else 6) for name in names}
    windows = tinygpt.encode(tinygpt.heldout_text()[:260]).view(4, 65)
    gained = project.gains(model, scheme, names, windows)
    assert max(gained, key=gained.get) == broken and list(gained) == names
    assert gained[broken] > 0.03
