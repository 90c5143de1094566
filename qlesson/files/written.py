"""JSON that somebody else wrote."""

import json
from pathlib import Path
from typing import Any

MOST = 2**28  # bytes; the index of the largest models has a hundredth of them


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


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found
