"""The stored parts of one quantized tensor, and what they become."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from qlesson import checks
from qlesson.files.checkpoint.format import Entry, File
from qlesson.files.formats.opened import NotRead, Stored, Value

FLOATS = ("F32", "F16", "BF16")
Config = Mapping[str, Any]  # quantization_config of config.json, or empty


class Part(NamedTuple):
    """A tensor of a safetensors file that has not been read."""

    name: str
    entry: Entry
    file: File

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    def read(self, dtypes: str | Sequence[str], shape: Sequence[int] | None = None) -> Tensor:
        """The tensor, if it has one of these dtypes (as safetensors names them) and this shape."""
        dtypes = (dtypes,) if isinstance(dtypes, str) else dtypes
        wanted = self.shape if shape is None else tuple(shape)
        if self.entry.dtype not in dtypes or self.shape != wanted:
            raise self.wrong(
                f"is {self.entry.dtype} of shape {self.shape}, and must be {' or '.join(dtypes)} "
                f"of shape {wanted}"
            )
        if 0 in self.shape:
            raise self.wrong(f"has the shape {self.shape}, without a value")
        return self.file.tensor(self.name)

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"{checks.shown(self.name)} in {self.file.path} {why}: it is damaged.")

    def not_read(self, why: str) -> NotRead:
        return NotRead(f"{checks.shown(self.name)} in {self.file.path} {why}.")


Parts = Mapping[str, Part]  # by what stands behind the tensor's name


class Found(NamedTuple):
    """One tensor of a file: what to print about it, and what reads it."""

    stored: Stored
    read: Callable[[], Value]


def found(kind: str, parts: Parts, shape: Sequence[int], read: Callable[[], Value]) -> Found:
    """Of these parts, which together are the tensor."""
    nbytes = sum(part.entry.nbytes for part in parts.values())
    return Found(Stored(kind, tuple(shape), nbytes), read)


def not_read(parts: Parts, main: str, kind: str, why: str, remedy: str = "") -> Found:
    """Parts that are in the list, and that nothing here reads."""
    part = parts[main]

    def read() -> Value:
        told = f"{why}, which qlesson does not read"
        raise part.not_read(f"{told}: {remedy}" if remedy else told)

    return found(kind, parts, part.shape, read)


def listed(make: Callable[[], Found | None], parts: Parts, main: str) -> Found | None:
    """What `make` gives; a tensor that is not read stays in the list, as after `not_read`."""
    try:
        return make()
    except NotRead as error:
        why = str(error)

    def read() -> Value:
        raise NotRead(why)

    return found(parts[main].entry.dtype, parts, parts[main].shape, read)


def need(parts: Parts, *names: str) -> list[Part]:
    """These parts. Raises ValueError where the file lacks one."""
    some = next(iter(parts.values()))
    for name in names:
        if name not in parts:
            raise some.wrong(f"comes without its {name}")
    return [parts[name] for name in names]


def matrix(part: Part) -> tuple[int, int]:
    """The shape of a part with two axes, neither empty. Raises NotRead where it has others."""
    if 0 in part.shape:
        raise part.wrong(f"has the shape {part.shape}, without a value")
    if len(part.shape) != 2:
        raise part.not_read(f"has shape {part.shape}, and qlesson reads matrices alone")
    return part.shape[0], part.shape[1]
