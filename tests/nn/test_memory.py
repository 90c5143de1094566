"""How much memory quantize_model takes, in a process of its own."""

import os
import subprocess
import sys

import pytest

PEAK = """
import ctypes, pathlib, re, torch, qlesson as ql
from torch import nn
from qlesson.nn import quantize_model
def status(key):
    lines = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(key + r":\\s+(\\d+) kB", lines)[1]) * 1024
def layers(n):
    return nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(n)])
inputs = ql.Scheme(granularity=ql.PerAxis(0))
for scheme in (ql.Scheme(8, "symmetric", ql.PerAxis(0)), ql.Scheme(4, granularity=ql.PerGroup(32))):
    quantize_model(layers(2), scheme, activations=inputs)
    model = layers(30)
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    qmodel, report = quantize_model(model, scheme, activations=inputs)
    print((status("VmHWM") - before - report.bytes_after) / 2**22)
    del qmodel, model
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_quantize_model_takes_the_new_model_and_little_more():
    """30 layers of 4 MB: beyond both models the peak is a few of them, and no float copy of all."""
    asked = [sys.executable, "-c", PEAK]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    layers = list(map(float, said.split()))
    print(layers)
    assert len(layers) == 2 and max(layers) < 6
