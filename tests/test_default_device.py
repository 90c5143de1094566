"""Results do not depend on torch's default device: what has a place says so."""

import operator
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import qlesson as ql
from qlesson import evaluate, methods
from qlesson.files import formats
from qlesson.files.formats import gguf
from qlesson.models import tinygpt
from qlesson.models.llama.model import turns
from qlesson.nn import Rotation, load_state, quantize_model, state
from qlesson.nn import inputs as recorded

GROUP = ql.Scheme(4, granularity=ql.PerGroup(32))


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def words():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 64), nn.Linear(64, 20))


W, X, IDS = drawn(16, 64), drawn(100, 64), torch.arange(20).view(4, 5)
WORDS = words()
TURNED, _ = quantize_model(WORDS, GROUP, method=methods.rotate)
GPT = tinygpt.load("cpu")


def codes_by_method(sequential):
    how = {"method": methods.gptq, "inputs": [IDS], "sequential": sequential}
    return state(quantize_model(WORDS, GROUP, **how)[0])["1.weight"].q


def all_kinds_of_gguf():
    """Every kind that is written, and those of 5 bits among them."""
    kinds = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gguf")
        with torch.device("cpu"):
            gguf.write(path, {"w": W} | {k: gguf.quantize(W, k) for k in kinds}, {})
        file = formats.open(path)
        held = [file[name] for name in ("w", *kinds)]
        return torch.stack([x if isinstance(x, torch.Tensor) else x.dequantize() for x in held])


CASES = {
    "gguf": all_kinds_of_gguf,
    "gptq": lambda: methods.gptq(W, X, GROUP).weight.q,
    "gptq by activation": lambda: methods.gptq(W, X, GROUP, order="activation").weight.q,
    "awq": lambda: methods.awq(W, X, GROUP).weight.q,
    "rotate": lambda: methods.rotate(W, None, GROUP).weight.q,
    "hadamard": lambda: methods.rotation.hadamard(8),
    "rotation": lambda: Rotation(8, 8).signs(),
    "by a method": lambda: codes_by_method(False),
    "sequential": lambda: codes_by_method(True),
    "loaded": lambda: load_state(WORDS, state(TURNED))(IDS),
    "compare": lambda: evaluate.compare(WORDS, TURNED, [IDS]),
    "losses": lambda: evaluate.window_losses(WORDS, [IDS]),
    "choices": lambda: evaluate.choice_accuracy(WORDS, [([1, 2], [[3], [4]], 0)]).right,
    "text": lambda: GPT.generate("def", 4),
    "likeliest text": lambda: GPT.generate("def", 4, temperature=0, new_cache=None),
    "turns": lambda: turns(0, 3, 8, 10000.0, (1.0, 2.0, 3.0, 4.0)),
}


@pytest.mark.parametrize("run", CASES.values(), ids=CASES)
def test_the_default_device_changes_nothing(run, monkeypatch):
    monkeypatch.setattr(recorded, "ROWS", 10)
    wanted = run()
    with torch.device("meta"):
        found = run()
    same = torch.equal if isinstance(wanted, torch.Tensor) else operator.eq
    assert same(found, wanted)
