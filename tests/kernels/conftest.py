"""What the tests of products and of kernels for a GPU are run by."""

import subprocess
import sys

import pytest
import torch

from qlesson.kernels import modes, product


@pytest.fixture
def by_the_kernel(monkeypatch):
    """Fails where nothing was compiled; two threads, so that their parts must meet."""
    before, calls = torch.get_num_threads(), []
    torch.set_num_threads(2)
    monkeypatch.setattr(product, "THREAD", 1)
    for name in ("linear", "int_linear", "quantized_linear", "rows"):
        call = getattr(product, name)
        monkeypatch.setattr(
            product, name, lambda *a, n=name, call=call: calls.append(n) or call(*a)
        )
    monkeypatch.setitem(modes._state, "broken", False)
    yield calls
    torch.set_num_threads(before)
    assert not modes._state["broken"]


@pytest.fixture
def said_by(monkeypatch):
    """What a program prints that compiles kernels for a GPU: the interpreter takes more than the
    compiler, which needs no GPU."""
    pytest.importorskip("triton.backends.nvidia", reason="needs Triton's backend for NVIDIA")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def run(program):
        asked = [sys.executable, "-c", program]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout

    return run
