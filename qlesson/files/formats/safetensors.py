"""safetensors files and folders: plain, quantized by this package, or by other people.

What stands for one tensor is known by the names behind its own (x.qweight, x.scales), which dtypes
and shapes then tell apart, and by quantization_config in the config.json beside the file. A tensor
keeps the name of the float one: x.weight.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from qlesson import checks
from qlesson.files import written
from qlesson.files.checkpoint.format import File
from qlesson.files.checkpoint.shards import open_all
from qlesson.files.formats import bitsandbytes, compressed_tensors, floats, gptq, torchao
from qlesson.files.formats.opened import Opened, Stored, Value
from qlesson.files.formats.parts import Config, Found, Part, Parts, listed, not_read
from qlesson.report import naming

CONFIGS = ("config.json", "quantize_config.json", "quant_config.json")
Reader = Callable[[Parts, Config], Found | None]

# What the name of a stored tensor ends in, and then: what the tensor's name has in its place, the
# parts that may belong to it, and what makes the tensor of them, if it is one.
COMPRESSED = (
    "weight_packed weight weight_scale weight_shape weight_zero_point weight_g_idx "
    "weight_global_scale weight_scale_2 weight_scale_inv"
)
BITSANDBYTES = (
    "weight weight.absmax weight.quant_map weight.nested_absmax weight.nested_quant_map "
    f"{bitsandbytes.STATE}nf4 {bitsandbytes.STATE}fp4"
)


def _packed(parts: Parts, config: Config) -> Found:
    if "weight_scale" not in parts:
        return not_read(
            parts, "weight_packed", "weight_packed", "comes without weight_scale, as in marlin-24"
        )
    words = parts["weight_packed"].entry.dtype != "U8"
    return (compressed_tensors.packed if words else floats.packed_floats)(parts, config)


MARKS: tuple[tuple[str, str, str, Reader], ...] = (
    ("qweight", "weight", "qweight qzeros scales g_idx", gptq.qweight),
    ("weight_packed", "weight", COMPRESSED, _packed),
    ("weight_scale", "weight", COMPRESSED, floats.scaled),
    ("weight_scale_inv", "weight", COMPRESSED, floats.scaled),
    ("weight.absmax", "weight", BITSANDBYTES, bitsandbytes.four_bits),
    ("SCB", "weight", "weight SCB weight_format", bitsandbytes.eight_bits),
    ("_blocks", "", "_blocks _scales", floats.blocks_and_scales),
)


class Safetensors(Opened):
    """An open safetensors file, or the shards of a folder."""

    format = "safetensors"

    def __init__(self, path: str | Path) -> None:
        self.path = checks.path("path", path)
        files = open_all(self.path)
        config = _config(files[0].path.parent)
        self.metadata = {key: x for file in files for key, x in file.others.items()}
        if config:
            self.metadata["quantization_config"] = config
        self._found: dict[str, Found] = {}
        for name, found in _all_found(files, config):
            if name in self._found:
                raise ValueError(
                    f"{self.path} is damaged: {checks.shown(name)} is in it in two forms."
                )
            self._found[name] = found
        self.stored = {name: found.stored for name, found in self._found.items()}

    def _read(self, name: str) -> Value:
        with naming(f"{checks.shown(name)} in {self.path}"):
            return self._found[name].read()


def stored_in(files: list[File]) -> Iterator[tuple[str, Stored]]:
    """How tensors are held in open files; a configuration that cannot be read says nothing."""
    try:
        config = _config(files[0].path.parent)
    except ValueError:
        config = {}
    return ((name, found.stored) for name, found in _all_found(files, config))


def _all_found(files: list[File], config: Config) -> Iterator[tuple[str, Found]]:
    """(name, what it is) of all tensors."""
    for file in files:
        for name in file.quantized:
            yield name, _ours(file, name)
    entries = {n: Part(n, f.entries[n], f) for f in files for n in f.plain_names()}
    metadata = {key: x for file in files for key, x in file.others.items()}
    used: set[str] = set()
    for name in entries:
        if name in used:
            continue
        found = _of_torchao(name, entries, metadata) or _of_others(name, entries, config, used)
        if found:
            whole, parts, tensor = found
            used |= {part.name for part in parts.values()}
            yield whole, tensor
    for name, part in entries.items():
        if name not in used:
            yield name, _plain(part)


def _of_others(
    name: str, entries: dict[str, Part], config: Config, used: set[str]
) -> tuple[str, Parts, Found] | None:
    for mark, becomes, endings, reader in MARKS:
        if not name.endswith(mark):
            continue
        base = name.removesuffix(mark)
        if base and mark[0] != "_" and not base.endswith("."):
            continue
        parts = {x: entries[base + x] for x in endings.split() if base + x in entries}
        if base + mark in used:
            continue
        main = "weight" if "weight" in parts else mark
        found = listed(partial(reader, parts, config), parts, main)
        if found:
            return base + becomes, parts, found
    return None


def _of_torchao(
    name: str, entries: dict[str, Part], metadata: dict[str, str]
) -> tuple[str, Parts, Found] | None:
    base, middle, _ = name.rpartition("_qdata")
    module, dot, weight = base.rpartition("._")
    whole = f"{module}.{weight}"
    said = torchao.description(metadata.get(whole)) if middle and dot else None
    if said is None:
        return None
    endings = ("qdata", "scale", "zero_point")
    parts = {x: entries[f"{base}_{x}"] for x in endings if f"{base}_{x}" in entries}
    found = listed(partial(torchao.plain, parts, said), parts, "qdata")
    return (whole, parts, found) if found else None


def _plain(part: Part) -> Found:
    stored = Stored(part.entry.dtype, part.shape, part.entry.nbytes)
    return Found(stored, lambda: part.file.tensor(part.name))


def _ours(file: File, name: str) -> Found:
    nbytes = sum(file.entries[part].nbytes for part in file.part_names(name))
    stored = Stored("qlesson", tuple(file.quantized[name]["shape"]), nbytes)
    return Found(stored, lambda: file.packed(name, None).unpack())


def _config(folder: Path) -> dict[str, Any]:
    """How the folder says it was quantized, or nothing."""
    for file in (folder / name for name in CONFIGS):
        if not file.is_file():
            continue
        try:
            said = written.read(file)
        except ValueError:
            raise ValueError(f"{file} is no JSON: it is damaged.") from None
        if file.name == CONFIGS[0] and isinstance(said, dict):
            said = said.get("quantization_config") or said.get("compression_config")
        if isinstance(said, dict):
            return said
    return {}
