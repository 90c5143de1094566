"""One hypothesis profile for all: the same examples every time, so that a run can be repeated.

HYPOTHESIS_PROFILE=thorough draws 3000, new ones each time.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# Without a GPU the kernels for one run in Triton's interpreter, which must be asked for before
# Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Time limits would fail on a busy machine: none, and slow drawing is no failure either.
unhurried = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", max_examples=150, derandomize=True, **unhurried)
settings.register_profile("thorough", max_examples=3000, print_blob=True, **unhurried)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture
def loops():
    """For what must run a compiled loop. Elsewhere such a call falls back to eager, with a warning.

    Told by this variable that a processor has no vector instructions, torch's compiler uses
    at::vec all the same and leaves out its header, so that no loop can be built.
    """
    if os.environ.get("ATEN_CPU_CAPABILITY") == "default":
        pytest.skip("torch's compiler builds no loops under ATEN_CPU_CAPABILITY=default")
