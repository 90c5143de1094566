"""One hypothesis profile for all: the same examples every time, so that a run can be repeated.

HYPOTHESIS_PROFILE=thorough draws 3000, new ones each time.
"""

import os

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
