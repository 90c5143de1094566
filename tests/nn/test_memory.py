"""How much memory quantize_model takes, in a process of its own."""

import os
import subprocess
import sys

import pytest

START = """
import ctypes, pathlib, re, torch, qlesson as ql
from torch import nn
from qlesson.nn import quantize_model
def status(key):
    lines = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(key + r":\\s+(\\d+) kB", lines)[1]) * 1024
def layers(n):
    return nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(n)])
def start():
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")
"""

PEAK = """
inputs = ql.Scheme(granularity=ql.PerAxis(0))
for scheme in (ql.Scheme(8, "symmetric", ql.PerAxis(0)), ql.Scheme(4, granularity=ql.PerGroup(32))):
    quantize_model(layers(2), scheme, activations=inputs)
    model = layers(30)
    before = start()
    qmodel, report = quantize_model(model, scheme, activations=inputs)
    print((status("VmHWM") - before - report.bytes_after) / 2**22)
    del qmodel, model
"""

BY_METHOD = """
from types import SimpleNamespace
from qlesson.nn import inputs
inputs.ROWS = 512
def seen(weight, x, scheme):
    assert len(x) == 512
    return SimpleNamespace(weight=ql.quantize(weight, scheme), factor=None)
def wide(n):
    return nn.Sequential(*[nn.Linear(*s) for _ in range(n) for s in ((8, 8192), (8192, 8))])
batches, scheme = [torch.randn(160, 8) for _ in range(4)], ql.Scheme(granularity=ql.PerAxis(0))
for sequential in (False, True):
    how = dict(method=seen, inputs=batches, sequential=sequential)
    quantize_model(wide(1), scheme, **how)
    model = wide(12)
    before = start()
    qmodel, report = quantize_model(model, scheme, **how)
    print((status("VmHWM") - before) / 2**20)
    del model, qmodel
"""

RECORD = """
from qlesson.nn import record
scheme = ql.Scheme(16, "symmetric", ql.PerAxis(0))
x, take = torch.randn(1, 1024), lambda name, x: None
qmodel, _ = quantize_model(layers(30), scheme)
listened = dict(qmodel.named_children())
record(qmodel, [x], take, listened)
before = start()
record(qmodel, [x], take, listened)
print((status("VmHWM") - before) / 2**20)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc"
    ),
]


def measured(code):
    """The numbers that a process of its own prints; it gives back at once what it frees."""
    asked, env = (
        [sys.executable, "-c", START + code],
        os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"},
    )
    said = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout
    print(said)
    return list(map(float, said.split()))


def test_quantize_model_takes_the_new_model_and_little_more():
    """30 layers of 4 MB: beyond both models the peak is a few of them, and no float copy of all."""
    layers = measured(PEAK)
    assert len(layers) == 2 and max(layers) < 6


def test_a_method_is_shown_a_few_layers_inputs_at_a_time():
    """What 12 layers of 8192 inputs met is 200 MB; the peak is 64 MB of it, or one layer's 16 MB,
    and about as much again for a small model, its copy and what a run computes."""
    at_once, one_by_one = measured(BY_METHOD)
    assert at_once < 160 and one_by_one < 110


def test_a_run_clones_no_codes():
    """60 MB of them, of which each layer makes 8 MB of floats in its turn."""
    (extra,) = measured(RECORD)
    assert extra < 30
