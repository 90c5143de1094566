"""A file or a folder that gets its name when it is whole, and is gone after an error."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file(path: Path) -> Iterator[Path]:
    """A name to write to."""
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A folder to write into."""
    temporary = _temporary(target)
    try:
        temporary.mkdir()
        yield temporary
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary(path: Path) -> Path:
    """A name beside this one, no longer than the 255 bytes that a file system takes."""
    suffix = f".{secrets.token_hex(4)}.part"
    kept = os.fsencode(path.name)[: 255 - len(suffix) - 1].decode(errors="ignore")
    return path.with_name(f".{kept}{suffix}")
