"""Eager or compiled: what the reader chose, and when compiling pays off (notebook 13)."""

import warnings
from collections import Counter
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from qlesson.checks import levels_to_caller
from qlesson.kernels.compilers import Constants, Formula, is_followed, lies_in_memory
from qlesson.kernels.cpp import NoCompiler

# One scale for all is repeated for rows of this many values, so that every core has some rows; a
# tensor of less than two rows costs less than a compiled call does, and runs eagerly.
ROW = 1024
# "auto" runs eagerly until so many values went through one formula. On two cores compiling takes
# 5 to 10 s and saves 0.5 ns a value; on an H200 a second or two, and about 0.012 ns.
PAYS_OFF = {"cpu": 2**34, "cuda": 2**38}

MODES = ("auto", "eager", "compiled")

_state: dict[str, Any] = {"mode": "auto", "broken": False}
_seen: Counter[tuple] = Counter()  # how many values "auto" sent through each formula


class use_kernels:
    """Choose how the formulas run: from now on, or inside a `with` block (notebook 13).

    "eager"     one operation of torch at a time, in pieces that stay in the cache
    "compiled"  the same formula as one loop; the first call of each kind waits some seconds for a
                C++ compiler (a CPU) or for Triton (CUDA)
    "auto"      eager, until so many values went through one formula that compiling pays off;
                the products of layers on a GPU are compiled from the first on

    The mode is one for the whole process: `with` blocks in several threads at once mix it up, and
    change nothing but the time. The results are the same, bit for bit. float64 runs eagerly in
    every mode, and so does everything, after one warning, where there is no compiler.

    Raises ValueError for another word.
    """

    def __init__(self, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}.")
        self.mode = mode
        self._before, _state["mode"] = _state["mode"], mode

    def __enter__(self) -> "use_kernels":
        if _state["mode"] != self.mode:  # another was chosen since this one was made
            self._before, _state["mode"] = _state["mode"], self.mode
        return self

    def __exit__(self, *error: object) -> None:
        _state["mode"] = self._before


def broken() -> bool:
    """Whether compiling has failed, so that all runs eagerly from then on."""
    return bool(_state["broken"])


def _compiles(
    formula: Formula, constants: Constants, *tensors: Tensor, pays_off: dict[str, int] | None = None
) -> bool:
    """Whether these tensors go through the compiled formula.

    pays_off  after how many values compiling does, of each type of device that has it
    """
    x, pays_off = tensors[0], pays_off or PAYS_OFF
    if _state["mode"] == "eager" or _state["broken"] or torch.compiler.is_compiling():
        return False
    if x.device.type not in pays_off or is_followed() or not lies_in_memory(x.new_empty(1)):
        return False
    for t in tensors:  # the caches are cold where one is large, so few questions are asked
        if t.dtype is torch.float64 or not lies_in_memory(t):
            return False
    if _state["mode"] == "compiled":
        return x.numel() >= 2 * ROW
    key = (formula, constants, x.device.type, x.dtype)
    _seen[key] += x.numel()
    return _seen[key] > pays_off[x.device.type]


class or_eagerly:
    """What fails inside is left, with one warning; from then on everything runs eagerly."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, torch.OutOfMemoryError):
            return False
        _state["broken"] = True
        what = "Nothing can be compiled" if isinstance(error, NoCompiler) else "torch.compile fails"
        on_a_gpu = "triton" in f"{type(error)} {error}".lower()
        missing = "Triton for this torch" if on_a_gpu else "a C++ compiler such as g++"
        warn(f"{what} here", error, f"Install {missing}")
        return True


def warn(what: str, error: Exception, remedy: str) -> None:
    """That something runs eagerly, why, and what helps."""
    cause = error.__cause__ or error
    first = next(filter(None, map(str.strip, str(cause).splitlines())), type(cause).__name__)
    warnings.warn(
        f"{what} ({first[:100]}). The formulas run eagerly: the results are the same, and large "
        f'tensors take longer. {remedy} and start again, or choose ql.use_kernels("eager").',
        RuntimeWarning,
        stacklevel=levels_to_caller(),
    )
