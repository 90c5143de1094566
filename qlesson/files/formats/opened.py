"""What `formats.open` gives, whatever the file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.qtensor import QTensor

Value = QTensor | Blocks | Tensor


class NotRead(ValueError):
    """A tensor in a form that this qlesson has no reader for; nothing is wrong with the file."""


class Stored(NamedTuple):
    """How a file holds one tensor: its kind in the file's own words, shape, and size in bytes, 0
    where that is not known."""

    kind: str
    shape: tuple[int, ...]
    nbytes: int


class Opened(Mapping[str, Value]):
    """{name: QTensor, Blocks or Tensor}: a tensor is read when it is asked for, and not kept.

    path      the file, or the folder
    format    "GGUF" or the like, to print
    metadata  what else the file says, by key
    stored    {name: Stored}, known without reading a tensor

    A context manager: the file is closed at its end. A tensor that this qlesson cannot read is in
    the list, and raises NotRead, a ValueError, when it is asked for.
    """

    path: Path
    format: str
    metadata: dict[str, Any]
    stored: dict[str, Stored]
    _closed = False

    def __getitem__(self, name: str) -> Value:
        if name not in self.stored:
            raise KeyError(f"{self.path} has no tensor {name!r}: its names are list(file).")
        if self._closed:
            what = checks.shown(name)
            raise ValueError(f"{self.path} is closed: read {what} inside the with block.")
        return self._read(name)

    def _read(self, name: str) -> Value:
        raise NotImplementedError

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __repr__(self) -> str:
        return f"<{self.format} {self.path}: {len(self)} tensors>"

    def close(self) -> None:
        """Close the file. Tensors that were read stay."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def damaged(path: Path, why: str) -> ValueError:
    """The error for a file that is not what it says it is."""
    return ValueError(f"{path} is damaged: {why}.")
