"""A checkpoint in one file, or in shards beside an index."""

import os
from pathlib import Path
from typing import Any

from qlesson import checks
from qlesson.files import written
from qlesson.files.checkpoint.format import File

LONGEST = 255  # bytes of a file's name
INDEX = ".safetensors.index.json"  # the end of the name of a sharded checkpoint's index
FIRST = ("model" + INDEX, "model.safetensors")  # what others read of a folder that holds more


def _index_of(source: str | Path) -> Path | None:
    """The index of a sharded checkpoint, or None for a single file."""
    source = _named(source)
    return source if source.name.endswith(INDEX) else None


def _named(source: str | Path) -> Path:
    """The file or the index that the source names; of a folder, the one that it holds."""
    source = checks.path("source", source)
    if not source.is_dir():
        return source
    names = sorted(os.listdir(source))  # which, unlike glob, says that a folder may not be read
    indices, single = (
        [source / name for name in names if name.endswith(end)] for end in (INDEX, ".safetensors")
    )
    named = indices or single
    named = [x for x in named if x.name in FIRST] or named
    if len(named) != 1:
        raise ValueError(
            f"{source} is a folder with {len(indices)} files *{INDEX} and {len(single)} files "
            "*.safetensors: name the one to read."
        )
    return named[0]


def open_all(source: str | Path) -> list[File]:
    """The file, or all shards that the index names, if together they hold what it says."""
    index = _index_of(source)
    if index is None:
        return [File(_named(source))]
    weight_map = _read_index(index)["weight_map"]
    shards = sorted(set(weight_map.values()))
    for name in shards:
        if not _is_a_name(name):
            raise ValueError(f"{index} names {checks.shown(name)}: shards lie beside their index.")
    files = [File(index.parent / name) for name in shards]
    held = [(name, file.path.name) for file in files for name in file.entries]
    wrong = sorted(set(held) ^ set(weight_map.items()))
    if wrong:
        name, shard = wrong[0]
        raise ValueError(
            f"{index} and its shards differ: {checks.shown(name)} in {shard} is only in one."
        )
    return files


def _is_a_name(text: str) -> bool:
    """Whether it can be that of a file beside another."""
    plain = text.isprintable() and Path(text).name == text and text not in ("", "..")
    return plain and len(os.fsencode(text)) <= LONGEST


def _read_index(index: Path) -> dict[str, Any]:
    """What the index holds: its weight_map, {stored name: shard}, and often metadata."""
    try:
        content = written.read(index)
        shards = content["weight_map"].values()
        right = shards and all(isinstance(name, str) for name in shards)
        right = right and isinstance(content.get("metadata") or {}, dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        right = False
    if not right:
        raise ValueError(
            f"{index} is no index of a sharded checkpoint: it needs a weight_map of names to "
            "shards, and its metadata, if any, is a JSON object."
        )
    return content
