"""Headers, indices and notes that lie: a sentence, and no more memory than they have."""

import json
import struct

import built
import pytest
import torch
from safetensors.torch import load_file, save_file

import qlesson as ql
from qlesson.files import checkpoint, formats, inspect
from qlesson.files.checkpoint import format as checkpoint_format
from qlesson.files.formats import gguf

DEEP = "[" * 100_000


def header(said, data=b""):
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(shape=(1,), nbytes=4, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]}


def twice(first, second):
    return f'{{"a": {json.dumps(first)}, "a": {json.dumps(second)}}}'.encode()


def refusal(path):
    with pytest.raises(ValueError) as told:
        formats.open(path)
    text = str(told.value)
    assert text.endswith(".") and text.isprintable() and len(text) < 700
    return text


LIES = {
    "a name twice": (header(twice(one(), one((2,), 8)), bytes(8)), "its header has a name twice"),
    "no bytes, and too long": (header({"a": one((0, 2**63), 0)}), "'a' has the shape (0, 9223"),
    "a product too long": (header({"a": one((0, 2**40, 2**40), 0)}), "'a' has the shape (0, 1099"),
    "axes": (header({"a": one((1,) * 65)}, bytes(4)), "'a' has the shape (1, 1, "),
    "no such dtype": (header({"a": one(dtype="F33")}, bytes(4)), "unknown variant `F33`"),
    "a hole": (header({"a": one() | {"data_offsets": [4, 8]}}, bytes(8)), "invalid offset"),
    "before the file": (header({"a": one() | {"data_offsets": [-4, 0]}}, bytes(4)), "-4"),
    "a half": (header({"a": one() | {"data_offsets": [0.0, 4.0]}}, bytes(4)), "floating point"),
    "a long header": (struct.pack("<Q", 2**63) + b"{}", "header too large"),
    "deep notes": (
        header({"__metadata__": {"qlesson": DEEP}, "a": one()}, bytes(4)), "cannot be read"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused(name, tmp_path):
    data, words = LIES[name]
    (tmp_path / "x.safetensors").write_bytes(data)
    assert words in refusal(tmp_path / "x.safetensors")


def test_metadata_of_nothing_are_none(tmp_path):
    """So safetensors reads them."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(header({"__metadata__": None, "a": one()}, bytes(4)))
    assert load_file(path)["a"].item() == formats.open(path)["a"].item() == 0
    checkpoint.quantize_file(path, tmp_path / "y.safetensors", ql.Scheme())


def test_what_nobody_can_read_is_no_description_of_torchao(tmp_path):
    data = header({"__metadata__": {"l.weight": DEEP}, "l._weight_qdata": one()}, bytes(4))
    (tmp_path / "x.safetensors").write_bytes(data)
    assert list(formats.open(tmp_path / "x.safetensors")) == ["l._weight_qdata"]


def test_a_deep_state_of_bitsandbytes_is_refused(tmp_path):
    state = torch.full((60_000,), ord("["), dtype=torch.uint8)
    tensors = {"l.weight": torch.zeros(2, 1, dtype=torch.uint8), "l.weight.absmax": torch.ones(1),
               "l.weight.quant_map": torch.ones(16),
               "l.weight.quant_state.bitsandbytes__nf4": state}  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    assert "is no JSON that names a shape" in refusal(tmp_path / "x.safetensors")


# --- the index ---


@pytest.mark.parametrize("name", [
    "..", "../x.safetensors", "/etc/passwd", "", ".", "a\0b", "a\nb", "\ud800", "a" * 5000,
    "a/x.safetensors",
])  # fmt: skip
def test_an_index_names_files_beside_itself(name, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "shards lie beside their index" in refusal(tmp_path)


@pytest.mark.parametrize("text", [DEEP, '{"weight_map": {"a": "x"}, "metadata": ' + DEEP, "\xff"])
def test_an_index_that_is_none(text, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("latin1"))
    assert "is no index of a sharded checkpoint" in refusal(tmp_path)


def test_a_file_that_takes_no_disk_takes_no_memory(tmp_path):
    """A sparse file can say that it has any size, and its zeros are read like any others."""
    for name in ("model.safetensors.index.json", "config.json"):
        save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**40)
        refusal(tmp_path)
        (tmp_path / name).unlink()
    starts = built.text("a") + struct.pack("<I", 9)
    for said in (struct.pack("<Q", 2**35), starts + struct.pack("<IQ", 0, 2**33),
                 starts + struct.pack("<IQ", 8, 2**31)):  # fmt: skip
        with open(tmp_path / "x.gguf", "wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + said)
            file.truncate(2**40)
        assert f"its header has more than {gguf.LONGEST:,} bytes" in refusal(tmp_path / "x.gguf")


# --- what this package notes itself ---


GOOD = {
    "scheme": {"bits": 4, "mapping": "symmetric", "granularity": {"kind": "PerTensor"}},
    "shape": [2, 4], "order": "low_first",
}  # fmt: skip
BLOCKS = {"bits": 4, "group_size": 4, "signed": False, "minimum": False}


def noted(path, quantized, crc32=None):
    """A file with the package's own notes, whose checksum of the header is right."""
    stored = {"w.codes": one((4,), 4, "U8"), "w.scale": one((), 4) | {"data_offsets": [4, 8]}}
    info = {"header_crc32": checkpoint_format.NO_CRC, "version": 2, "quantized": quantized}
    notes = {"qlesson": json.dumps(info | {"crc32": {} if crc32 is None else crc32})}
    text = json.dumps({"__metadata__": notes} | stored).encode()
    text = checkpoint_format._with_crc(text, checkpoint_format._crc_of_header(text))
    path.write_bytes(header(text, bytes(4) + struct.pack("<f", 1)))
    return path


def test_good_notes_are_read(tmp_path):
    path = noted(tmp_path / "x.safetensors", {"w": GOOD})
    assert formats.open(path)["w"].shape == (2, 4)
    checkpoint.dequantize_file(path, tmp_path / "y.safetensors")  # it names no dtype
    assert formats.open(tmp_path / "y.safetensors")["w"].dtype == torch.float32


@pytest.mark.parametrize("quantized", [
    [1], "x", {"w": {}}, {"w": 1}, {"w": []}, {"v": GOOD}, {"w": GOOD | {"shape": 3}},
    {"w": GOOD | {"scheme": {}}}, {"w": GOOD | {"scheme": []}}, {"w": {"scheme": GOOD["scheme"]}},
    {"w": GOOD | {"blocks": {}}}, {"w": GOOD | {"blocks": {"minimum": False}}},
    {"w": GOOD | {"blocks": BLOCKS | {"minimum": True}}},
    {"w": GOOD | {"scheme": GOOD["scheme"] | {"mapping": "asymmetric"}}},
    {"w": GOOD | {"scheme": GOOD["scheme"] | {"granularity": {"kind": "x"}}}},
    {"w": GOOD | {"dtype": "XX"}}, {"w": GOOD | {"dtype": "I8"}}, {"w": GOOD | {"dtype": []}},
    {"w": GOOD | {"shape": ["a", 2]}}, {"w": GOOD | {"shape": [2, -4]}},
])  # fmt: skip
def test_notes_that_lie_are_refused_and_not_run(quantized, tmp_path):
    path = noted(tmp_path / "x.safetensors", quantized)
    assert "is damaged: its" in refusal(path)
    with pytest.raises(ValueError, match="is damaged: its"):
        checkpoint.load(path)


def test_checksums_that_are_none(tmp_path):
    assert "metadata cannot be read" in refusal(noted(tmp_path / "x.safetensors", {}, [1]))


# --- the table ---


def test_no_name_in_a_file_writes_to_the_terminal(tmp_path):
    name = "a\x1b[31m\u202e\nb"
    (tmp_path / "x.safetensors").write_bytes(header({name: one()}, bytes(4)))
    shown = r"a\x1b[31m\u202e\nb"
    for text in (inspect.report(tmp_path / "x.safetensors"),
                 inspect.histogram(tmp_path / "x.safetensors", name)):  # fmt: skip
        assert shown in text and all(line.isprintable() for line in text.split("\n"))
    with pytest.raises(ValueError, match=r"no tensor .*such as a.x1b") as told:
        inspect.histogram(tmp_path / "x.safetensors", "b")
    assert str(told.value).isprintable()
