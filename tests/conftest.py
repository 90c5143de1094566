"""One hypothesis profile for all: the same examples every time, so that a run can be repeated.

HYPOTHESIS_PROFILE=thorough draws 3000, new ones each time. And one web book for two test files.
"""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from web_book import FRAMED

# Without a GPU the kernels for one run in Triton's interpreter, which must be asked for before
# Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Time limits would fail on a busy machine: none, and slow drawing is no failure either.
unhurried = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", max_examples=150, derandomize=True, **unhurried)
settings.register_profile("thorough", max_examples=3000, print_blob=True, **unhurried)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the built book, with the frames of some live figures."""
    pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
    from qlesson.authoring import book

    to = tmp_path_factory.mktemp("book")
    assert book.main(Path(__file__).parents[1], to, FRAMED) == 0
    return to / "html"
