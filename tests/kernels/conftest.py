"""What the tests of products are run by."""

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
