"""What is no tensor: words, names, paths, numbers, schemes, models and devices."""

import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

Shape = Sequence[int]
INFINITY = float("inf")
LONGEST = 255  # bytes of a file's name


def shown(x: Any) -> str:
    """x as a sentence shows it: in one line, and not a long one."""
    if isinstance(x, torch.Tensor):
        return f"a tensor of {x.dtype} and shape {tuple(x.shape)}"
    text = " ".join(repr(x).split())
    return text if len(text) <= 120 else f"{text[:100]} ..."


def batches(name: str, x: Any) -> None:
    """Several; not one of them, whose rows, or names, would be taken for batches."""
    if isinstance(x, torch.Tensor | str | Mapping) or not isinstance(x, Iterable):
        raise TypeError(
            f"{name} must be a list of batches, got {shown(x)}: for one batch pass [batch]."
        )


# --- numbers and words ---


def whole(name: str, x: Any, low: float = -INFINITY, high: float = INFINITY) -> int:
    """A whole number from low to high."""
    try:
        if isinstance(x, bool):
            raise TypeError
        value = operator.index(x)
        if low <= value <= high:
            return value
    except TypeError:
        pass
    ends = f" from {low} to {high}" if high < INFINITY else f" of at least {low}"
    wanted = f"an integer{ends if low > -INFINITY else ''}"
    raise ValueError(f"{name} must be {wanted}, got {shown(x)}.")


def bits(name: str, x: Any) -> None:
    """2 to 8 bits, or 16."""
    if not isinstance(x, Integral) or isinstance(x, bool) or x not in (*range(2, 9), 16):
        raise ValueError(f"{name} must be an integer from 2 to 8, or 16, got {shown(x)}.")


def number(
    name: str,
    x: Any,
    wanted: str = "a finite number",
    fits: Callable[[Any], bool] = lambda x: True,
    remedy: str = "",
) -> None:
    """A finite real number that fits; `wanted` says so in words."""
    real = isinstance(x, Real) and not isinstance(x, bool)
    if not real or not (-INFINITY < x < INFINITY and fits(x)):
        raise ValueError(f"{name} must be {wanted}, got {shown(x)}{remedy}.")


def share(name: str, x: Any) -> None:
    """A part of a whole."""
    number(name, x, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def one_of(name: str, x: Any, allowed: Iterable[Any]) -> None:
    """One of a few words, or of True and False."""
    if not any(x is a or (isinstance(x, str) and x == a) for a in allowed):
        choices = " or ".join(repr(a) for a in allowed)
        raise ValueError(f"{name} must be {choices}, got {shown(x)}.")


def text(name: str, x: Any) -> None:
    """Text with something in it."""
    if not isinstance(x, str):
        raise TypeError(f"{name} must be text, got {shown(x)}: pass a str.")
    if not x:
        raise ValueError(f"{name} is empty: give at least one character.")


# --- schemes, models, devices: known by what they can do, since they stand above ---


def scheme(name: str, x: Any) -> None:
    """What says which codes there are."""
    if isinstance(x, type) or not (hasattr(x, "quant_min") and hasattr(x, "granularity")):
        raise TypeError(
            f"{name} must be a ql.Scheme, got {shown(x)}: for 8 bits, use ql.Scheme(bits=8)."
        )


def granularity(name: str, x: Any) -> None:
    """What says who shares a scale."""
    needed = ("scale_shape", "block_shape", "split", "join", "align", "reduce")
    if isinstance(x, type) or not all(hasattr(x, method) for method in needed):
        raise TypeError(
            f"{name} must be ql.PerTensor(), ql.PerAxis(axis) or ql.PerGroup(group_size), or have "
            f"{', '.join(needed)}, as qlesson.granularity.Granularity does, got {shown(x)}."
        )


def fits_shape(given: Any, shape: Shape) -> None:
    """A granularity that has scales for a tensor of this shape."""
    granularity("granularity", given)
    scales_for(given, shape)


def scales_for(given: Any, shape: Shape) -> None:
    """The same of what is a granularity: it names an axis out of range."""
    scales = given.scale_shape(shape)
    if len(scales) not in (0, len(shape)):
        raise ValueError(
            f"{type(given).__name__}.scale_shape gives {tuple(scales)} for a tensor of shape "
            f"{tuple(shape)}: give as many axes, each with its number of scales, or () for one."
        )


def of_type(name: str, x: Any, kind: Any, remedy: str) -> None:
    """An instance of a class, or of one of several."""
    if not isinstance(x, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        a = "an" if wanted[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {a} {wanted}, got {type(x).__name__}: {remedy}.")


def model(name: str, x: Any) -> None:
    """A model of torch."""
    if not isinstance(x, torch.nn.Module):
        raise TypeError(
            f"{name} must be a torch.nn.Module, got {type(x).__name__}: pass the model itself."
        )


def running_model(name: str, x: Any) -> None:
    """A model that runs module by module, in a mode and with buffers that a run may change."""
    model(name, x)
    what = None
    if isinstance(x, torch.nn.DataParallel):
        what, remedy = "nn.DataParallel", f"pass {name}.module"
    elif isinstance(x, torch.jit.ScriptModule):
        what, remedy = "traced or scripted by torch.jit", "pass the module that it was made from"
    elif isinstance(x, torch.fx.GraphModule) and "train" in vars(x):  # which then only refuses
        what, remedy = "exported by torch.export", "pass the module that it was made from"
    if what:
        raise TypeError(f"{name} is {what}, and does not run module by module: {remedy}.")


def function(name: str, x: Any, of: str) -> None:
    """What can be called; `of` says with what."""
    if not callable(x):
        raise TypeError(f"{name} must be a function of {of}, got {shown(x)}.")


def dictionary(name: str, x: Any, holds: str) -> None:
    """A dictionary; `holds` says what it maps, as in "{name: tensor}"."""
    if not hasattr(x, "keys") or isinstance(x, type):
        raise TypeError(f"{name} must be a dictionary {holds}, got {shown(x)}.")


def device(name: str, x: Any, computes: bool = True) -> torch.device:
    """A device that is here, and can compute: meta holds no values."""
    try:
        found = torch.device(x)
        if found.type == "meta" and not computes:
            return found
        torch.zeros(1, device=found).item()  # fails on meta
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f'{name}={shown(x)} cannot be used here ({why}): use "cpu", or leave it unset.'
        ) from None
    return found


# --- names ---


def patterns(name: str, given: Any) -> tuple[str, ...]:
    """One pattern, or several, of names."""
    several = (given,) if isinstance(given, str) or not hasattr(given, "__iter__") else tuple(given)
    if not all(isinstance(pattern, str) for pattern in several):
        raise TypeError(f"{name} must be a pattern or several, got {shown(given)}: pass text.")
    return several


# --- paths ---


def path(name: str, x: Any) -> Path:
    """What names a file or a folder."""
    if not isinstance(x, str | os.PathLike) or not isinstance(os.fspath(x), str):
        raise TypeError(f"{name} must be a path, got {shown(x)}: pass text or a pathlib.Path.")
    given = os.fspath(x)
    if not given or "\0" in given or not _has_bytes(given):
        raise ValueError(f"{name} must be the name of a file or a folder, got {shown(given)}.")
    return Path(given)


def _has_bytes(path: str) -> bool:
    """Whether a file can have the name: half a surrogate pair has no bytes."""
    try:
        return len(os.path.basename(os.fsencode(path))) <= LONGEST
    except UnicodeEncodeError:
        return False


def file(name: str, x: Any) -> Path:
    """A file that is there."""
    found = path(name, x)
    if found.is_dir():
        raise ValueError(f"{name} must be a file, and {found} is a folder: name a file in it.")
    if not found.is_file():
        raise FileNotFoundError(f"{name} must be a file, and {found} does not exist, or is none.")
    return found


def new_file(name: str, x: Any) -> Path:
    """A file that can be made, or written over."""
    found = path(name, x)
    if found.is_dir():
        raise ValueError(f"{found} is a folder: name the file to write.")
    if found.exists() and not found.is_file():  # it would be replaced by one
        raise ValueError(f"{found} is a device or a pipe: name the file to write.")
    in_a_folder(name, found)
    return found


def no_source(x: Path, sources: Iterable[Path]) -> None:
    """A file to write that is none of those that are read, under whatever name."""
    for source in sources if x.exists() else ():
        if source.exists() and x.samefile(source):
            raise ValueError(f"{x} belongs to the source: write to another file.")


def in_a_folder(name: str, x: Path) -> None:
    """A path in a folder that is there."""
    if not x.parent.is_dir():
        raise FileNotFoundError(f"{name}: the folder {x.parent} does not exist: make it first.")


# --- warnings ---


def levels_to_caller() -> int:
    """The stacklevel that makes a warning point at the first line outside qlesson and torch."""
    frame, level = sys._getframe(1), 1
    inside = ("qlesson", "torch")
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    return level
