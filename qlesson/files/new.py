"""A file or a folder that gets its name when it is whole, and is gone after an error."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST = 255  # bytes of a file's name


@contextmanager
def file(path: Path) -> Iterator[Path]:
    """A name to write to."""
    temporary = _temporary(path)
    try:
        with _naming(path, temporary):
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
        with _naming(target, temporary):
            temporary.mkdir()
            yield temporary
            os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """A disk that is full does not say for which file, and one that may not be written names a file
    that nobody has heard of."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            remedy = "make room, or name a target on another disk"
        elif error.errno in REFUSED and str(error.filename).startswith(str(temporary)):
            remedy = "name a target in a folder that you may write to"
        else:
            raise
        why = f"{target} was not written, {os.strerror(error.errno)}: {remedy}."
        raise OSError(error.errno, why) from error


def _temporary(path: Path) -> Path:
    """A name beside this one, no longer than a file system takes."""
    suffix, kept = f".{secrets.token_hex(4)}.part", path.name
    while len(os.fsencode(f".{kept}{suffix}")) > LONGEST:
        kept = kept[:-1]
    return path.with_name(f".{kept}{suffix}")
