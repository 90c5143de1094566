"""What somebody else wrote: JSON, text, and files that may be written again while they are open."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

MOST = 2**28  # bytes; the index of the largest models has a hundredth of them
Stamp = tuple[int, ...]


def parsed(text: str | bytes) -> Any:
    """What the text says.

    Raises ValueError for text that is no JSON, has a name twice, or is nested deeper than Python
    reads.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("lists in lists in lists") from None


def read(path: Path) -> Any:
    """What the file says. Raises ValueError for one that is no JSON, or longer than MOST."""
    if path.stat().st_size > MOST:
        raise ValueError("too long")
    return parsed(path.read_text(encoding="utf-8"))


def text(path: Path) -> str:
    """The text of a file. Raises ValueError for one that is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: it is damaged.") from None


def stamp(file: BinaryIO) -> Stamp:
    """What tells this file from another of its name, and from itself with other bytes."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def refuse_changed(file: BinaryIO, path: Path, before: Stamp) -> None:
    """A file whose header no longer says where its tensors are."""
    if stamp(file) != before:
        raise ValueError(f"{path} was written again since it was opened: open it again.")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found
