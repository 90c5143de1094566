"""Files that come back exactly, are refused when damaged, and are never half-written."""

import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from strategies import problems

import qlesson as ql
from qlesson.__main__ import main
from qlesson.files import checkpoint, inspect
from qlesson.files.checkpoint import format as file_format
from qlesson.files.packing import PackedTensor

FOUR = ql.Scheme(4, "asymmetric", ql.PerGroup(16))
PLAIN = {
    **{str(d).removeprefix("torch."): torch.arange(6).view(2, 3).to(d) for d in file_format.NAMES},
    "number": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "not contiguous": torch.arange(12.0).view(3, 4).T,
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "one of a column": torch.arange(5.0).view(1, 5)[:, 3],
    "one of two": torch.arange(2, dtype=torch.int16)[1::2],
    "none of four": torch.ones(4)[::2][:0],
    "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negative": torch.tensor([3 - 1j]).conj().imag,
    "": torch.ones(1),
    '\0 \n " \U0001f600': torch.ones(1),
}


def weights(seed=0, dtype=torch.float32):
    """A small checkpoint: two matrices to quantize, and what is carried over."""
    g = torch.Generator().manual_seed(seed)
    return {
        "up.weight": torch.randn(24, 40, generator=g).to(dtype),
        "up.bias": torch.randn(24, generator=g).to(dtype),
        "conv.weight": torch.randn(6, 4, 3, 3, generator=g).to(dtype),
        "ids": torch.arange(20).view(4, 5),
        "mask": torch.ones(3, 3, dtype=torch.bool),
    }


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def raw(x):
    x = x.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return bytes(x.untyped_storage())


def equal(x, y):
    if isinstance(x, PackedTensor):
        zero_points = [v.zero_point for v in (x, y) if v.zero_point is not None]
        assert len(zero_points) != 1 and (not zero_points or same(*zero_points))
        assert (x.shape, x.scheme, x.order) == (y.shape, y.scheme, y.order)
        return same(x.data, y.data) and same(x.scale, y.scale)
    return x.scheme == y.scheme and all(
        same(getattr(x, part), getattr(y, part)) for part in ("q", "scale", "zero_point")
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.safetensors"
    save_file(weights(), path, metadata={"format": "pt", "made by": "a test"})
    return path


@pytest.fixture
def shards(tmp_path):
    """Two shards and their index."""
    folder = tmp_path / "in"
    folder.mkdir()
    weight_map = {}
    for i in (1, 2):
        part = {f"{i}.{name}": x for name, x in weights(i).items()}
        save_file(part, folder / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{i}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def files(folder):
    return sorted(p.name for p in folder.iterdir())


# --- save and load ---


@given(st.lists(problems(), min_size=1, max_size=3), st.booleans())
@settings(max_examples=60)
def test_what_is_saved_is_loaded(tmp_path_factory, drawn, packed):
    path = tmp_path_factory.mktemp("saved") / "x.safetensors"
    wanted = {f"x{i}": ql.quantize(r, scheme) for i, (r, scheme) in enumerate(drawn)}
    if packed:
        wanted = {name: PackedTensor.pack(x) for name, x in wanted.items()}
    checkpoint.save(path, wanted)
    found = checkpoint.load(path, packed=packed)
    assert found.keys() == wanted.keys()
    assert all(type(found[n]) is type(x) and equal(found[n], x) for n, x in wanted.items())


def test_plain_tensors_of_every_dtype_come_back(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, PLAIN)
    found = checkpoint.load(path)
    assert found.keys() == PLAIN.keys()
    for name, x in PLAIN.items():
        assert type(found[name]) is torch.Tensor and same(found[name], x.detach()), name
    by_safetensors = load_file(path)
    assert all(same(by_safetensors[name], x.detach()) for name, x in PLAIN.items())


@pytest.mark.parametrize("order", ["low_first", "high_first", "halves"])
def test_the_order_of_the_codes_is_kept(tmp_path, order):
    path = tmp_path / "x.safetensors"
    x = ql.quantize(weights()["up.weight"], FOUR)
    checkpoint.save(path, {"w": PackedTensor.pack(x, order)})
    assert checkpoint.load(path, packed=True)["w"].order == order
    assert equal(checkpoint.load(path)["w"], x)


@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_the_file_is_its_header_and_nbytes(tmp_path, bits, mapping):
    """Every tensor starts at a multiple of its width, and safetensors itself reads the parts."""
    path = tmp_path / "x.safetensors"
    r = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    x = PackedTensor.pack(ql.quantize(r, ql.Scheme(bits, mapping, ql.PerAxis(0))))
    extra = {"half": torch.ones(3, dtype=torch.bfloat16), "wide": torch.ones(1).double()}
    checkpoint.save(path, {"w": x} | extra)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    entries = json.loads(path.read_bytes()[8:header])
    for name, width in (("wide", 8), ("w.scale", 4), ("half", 2)):
        assert (header + entries[name]["data_offsets"][0]) % width == 0
    assert path.stat().st_size == header + x.nbytes + 6 + 8
    parts = load_file(path)
    assert same(parts["w.codes"], x.data) and same(parts["w.scale"], x.scale)
    assert ("w.zero_point" in parts) == (mapping == "asymmetric")


class RowsOfMine(ql.PerAxis):
    pass


class SchemeOfMine(ql.Scheme):
    pass


MINE = ql.quantize(torch.ones(2, 2), ql.Scheme(granularity=RowsOfMine(0)))


def test_tied_tensors_are_written_for_each_name(tmp_path):
    tied = torch.ones(4, 4)
    checkpoint.save(tmp_path / "x.safetensors", {"a": tied, "b": tied})
    assert (tmp_path / "x.safetensors").stat().st_size > 128
    assert same(checkpoint.load(tmp_path / "x.safetensors")["b"], tied)


@pytest.mark.parametrize(
    ("tensors", "error", "words"),
    [
        ({"a": 3}, TypeError, "a is a int: a file holds QTensors"),
        ({"a": [1.0]}, TypeError, "a is a list"),
        ({"a": torch.zeros(2, device="meta")}, TypeError, "a is a torch.float32 on meta"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, TypeError, "a is a torch.complex128 on"),
        ({"a": torch.eye(2).to_sparse()}, TypeError, "a is a torch.sparse_coo: a file holds"),
        ({"a": torch.nested.nested_tensor([torch.ones(2)])}, TypeError, "a is a nested Tensor"),
        (
            {"a": torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged)},
            TypeError,
            "a is a nested NestedTensor",
        ),
        ({3: torch.ones(1)}, TypeError, "tensors has the name 3: names must be text"),
        (
            {b"a": ql.quantize(torch.ones(2))},
            TypeError,
            "the name b'a': names must be",
        ),
        ({"__metadata__": torch.ones(1)}, ValueError, "'__metadata__' is no name that a safet"),
        ({"__metadata__": ql.quantize(torch.ones(2))}, ValueError, "it keeps __metadata__ for"),
        ({"a\ud800": torch.ones(1)}, ValueError, r"'a\\ud800' is no name .* Rename the tensor"),
        ({"\ud83d\ude00": ql.quantize(torch.ones(2))}, ValueError, "is no name that a safetensors"),
        ({"w": MINE}, ValueError, r"RowsOfMine.*not a subclass of them"),
        ({"w": PackedTensor.pack(MINE)}, ValueError, r"RowsOfMine.*not a subclass of them"),
        ({"w": ql.quantize(torch.ones(2), SchemeOfMine())}, ValueError, "not a subclass of them"),
        (
            {"w": ql.quantize(torch.ones(2)), "w.scale": torch.ones(1)},
            ValueError,
            "w.scale would be stored twice.*rename one of the two, or skip w",
        ),
    ],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, tensors, error, words):
    with pytest.raises(error, match=words):
        checkpoint.save(tmp_path / "x.safetensors", tensors)
    assert files(tmp_path) == []


# --- damaged and foreign files ---


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "x.safetensors"
    r = torch.linspace(-1, 1, 15).view(3, 5)
    checkpoint.save(path, {"w": ql.quantize(r, ql.Scheme(3)), "b": torch.arange(3)})
    return path.read_bytes()


def refused(tmp_path, data, words="is damaged|is no safetensors file"):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words) as error:
        checkpoint.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("change", [1, 128, "random"])
def test_any_changed_byte_is_refused(tmp_path, small, change):
    g = torch.Generator().manual_seed(0)
    for i in range(len(small)):
        by = int(torch.randint(1, 256, (), generator=g)) if change == "random" else change
        changed = small[:i] + bytes([small[i] ^ by]) + small[i + 1 :]
        refused(tmp_path, changed, "is damaged|is no safetensors file|was not written by")


def test_a_file_cut_short_or_made_longer_is_refused(tmp_path, small):
    for n in range(len(small)):
        refused(tmp_path, small[:n])
    refused(tmp_path, small + b"\0")


def test_foreign_files_are_refused(tmp_path):
    refused(tmp_path, b"")
    refused(tmp_path, b"once upon a time there was a file of text")
    refused(tmp_path, pickle.dumps({"w": [1.0] * 100}))
    saved = io.BytesIO()
    torch.save({"w": torch.ones(3)}, saved)
    refused(tmp_path, saved.getvalue())
    save_file({"w": torch.ones(3)}, tmp_path / "y.safetensors")
    data = (tmp_path / "y.safetensors").read_bytes()
    refused(
        tmp_path,
        data,
        "was not written by qlesson.files.checkpoint: read it with qlesson.files.formats",
    )
    save_file({"w": torch.ones(3)}, tmp_path / "y.safetensors", metadata={"qlesson": "[]"})
    data = (tmp_path / "y.safetensors").read_bytes()
    refused(tmp_path, data, "its qlesson metadata cannot be read")
    with pytest.raises(FileNotFoundError, match="z.safetensors does not exist"):
        checkpoint.load(tmp_path / "z.safetensors")


def test_a_later_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    monkeypatch.setattr(file_format, "_version_of", lambda quantized: 3)
    checkpoint.save(path, {"b": torch.ones(2)})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has version 3 of the .* reads versions 1 to 2: install"):
        checkpoint.load(path)


# --- a checkpoint, tensor by tensor ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
@pytest.mark.parametrize(
    "granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(16)], ids=["tensor", "row", "group"]
)
def test_each_tensor_is_quantized_as_it_would_be_alone(tmp_path, dtype, mapping, granularity):
    wanted, scheme = weights(dtype=dtype), ql.Scheme(3, mapping, granularity)
    save_file(wanted, tmp_path / "in.safetensors")
    rows = checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", scheme)
    found = checkpoint.load(tmp_path / "q")
    assert found.keys() == wanted.keys() == {row.name for row in rows}
    for row in rows:
        r, x = wanted[row.name], found[row.name]
        assert row.shape == tuple(r.shape) and row.bytes_before == r.nbytes
        if row.sqnr is None:
            assert same(x, r) and row.bytes_after == r.nbytes
        else:
            alone = ql.quantize(r, scheme)
            assert equal(x, alone)
            assert row.bytes_after == PackedTensor.pack(alone).nbytes < r.nbytes
            error = ql.sqnr(r, alone.dequantize(r.dtype)).item()
            assert row.sqnr == pytest.approx(error, rel=1e-9)
    quantized = {row.name for row in rows if row.sqnr is not None}
    assert "up.weight" in quantized <= {"up.weight", "conv.weight"}

    rows = checkpoint.dequantize_file(tmp_path / "q", tmp_path / "back")
    back = load_file(tmp_path / "back")
    assert back.keys() == wanted.keys() == {row.name for row in rows}
    for name, r in wanted.items():
        r_hat = ql.quantize(r, scheme).dequantize(dtype) if name in quantized else r
        assert same(back[name], r_hat), name


def test_metadata_is_carried_over(source, tmp_path):
    from safetensors import safe_open

    checkpoint.quantize_file(source, tmp_path / "q", FOUR)
    checkpoint.dequantize_file(tmp_path / "q", tmp_path / "back")
    for name, notes in (("q", {"qlesson"}), ("back", set())):
        with safe_open(tmp_path / name, "pt") as file:
            metadata = file.metadata()
        assert metadata["made by"] == "a test" and metadata.keys() == {"format", "made by"} | notes


GPTQ = {"l.qweight": (8, 32), "l.qzeros": (2, 4)}
GPTQ = {name: torch.zeros(shape, dtype=torch.int32) for name, shape in GPTQ.items()}
FP8 = {"l.weight": torch.ones(64, 64).to(torch.float8_e4m3fn)}


@pytest.mark.parametrize(
    "parts",
    [
        GPTQ | {"l.scales": torch.ones(2, 32).half()},
        FP8 | {"l.weight_scale_inv": torch.ones(1, 1)},
        {
            "l.weight": torch.ones(2, 128, 128).to(torch.float8_e4m3fn),
            "l.weight_scale_inv": torch.ones(2, 1, 1),
        },  # of a shape that nothing here reads
    ],
)
def test_scales_of_others_codes_are_no_weights(parts, tmp_path):
    """GPTQ, and DeepSeek's FP8; a plain float8 is carried over."""
    save_file({**parts, "up.weight": torch.ones(64, 64)}, tmp_path / "s.safetensors")
    with pytest.raises(
        ValueError, match="is quantized already, l.weight as .*: quantize the file of"
    ):
        checkpoint.quantize_file(tmp_path / "s.safetensors", tmp_path / "q", FOUR)
    assert not (tmp_path / "q").exists()


def test_codes_that_need_their_configuration_are_known_by_it(tmp_path):
    """3 bits of compressed-tensors: 9 words of 96 codes, which without it would be of no bits."""
    parts = {"l.weight_packed": torch.zeros(20, 9, dtype=torch.int32)}
    parts |= {"l.weight_scale": torch.ones(20, 3), "l.weight_shape": torch.tensor([20, 96])}
    args = {"num_bits": 3, "strategy": "group", "group_size": 32}
    said = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": args}}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said}))
    save_file(parts, tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="is quantized already, l.weight as compressed-tensors 3"):
        checkpoint.quantize_file(tmp_path / "s.safetensors", tmp_path / "q", FOUR)


def test_floats_that_have_a_name_of_codes_are_quantized(tmp_path):
    """Whatever a configuration beside them says."""
    (tmp_path / "config.json").write_text("no // JSON")
    tensors = {"a.qweight": torch.randn(64, 64), "a.weight": torch.randn(64, 64)}
    tensors["b.qweight"] = torch.randn(64, 64).double()
    save_file(tensors | {"b.scales": torch.ones(4)}, tmp_path / "s.safetensors")
    rows = checkpoint.quantize_file(tmp_path / "s.safetensors", tmp_path / "q", FOUR)
    assert {row.name for row in rows if row.sqnr is not None} == set(tensors)


def test_skip_leaves_tensors_as_they_are(source, tmp_path):
    rows = checkpoint.quantize_file(source, tmp_path / "q", FOUR, skip=["conv.*", "*.weight"])
    assert all(row.sqnr is None for row in rows)
    rows = checkpoint.quantize_file(source, tmp_path / "q", FOUR, skip=["conv.*"])
    assert [row.name for row in rows if row.sqnr is not None] == ["up.weight"]
    with pytest.raises(ValueError, match=r"'cnv.\*' fits none of the tensors: .*'conv.weight'"):
        checkpoint.quantize_file(source, tmp_path / "q2", FOUR, skip=["up.*", "cnv.*"])
    assert not (tmp_path / "q2").exists()


def test_skip_may_be_one_pattern_or_an_iterator(source, tmp_path):
    for skip in ("conv.*", iter(["conv.*"])):
        rows = checkpoint.quantize_file(source, tmp_path / "q", FOUR, skip=skip)
        assert [row.name for row in rows if row.sqnr is not None] == ["up.weight"]


def test_a_tensor_that_would_not_become_smaller_is_carried_over(tmp_path):
    narrow = {"narrow": torch.ones(8, 1), "wide": torch.ones(8, 100), "none": torch.ones(0, 5)}
    save_file(narrow, tmp_path / "in.safetensors")
    scheme = ql.Scheme(8, "symmetric", ql.PerAxis(0))
    rows = checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", scheme)
    assert {row.name for row in rows if row.sqnr is not None} == {"wide"}
    assert same(checkpoint.load(tmp_path / "q")["narrow"], narrow["narrow"])


def test_dtypes_that_torch_cannot_compute_with_are_carried_over(tmp_path):
    """float8, 4-bit floats of which torch has two in an element, and 6-bit ones that it lacks."""
    eight = torch.randn(4, 6).to(torch.float8_e4m3fn)
    header = {
        "eight": {"dtype": "F8_E4M3", "shape": [4, 6], "data_offsets": [0, 24]},
        "four": {"dtype": "F4", "shape": [2, 6], "data_offsets": [24, 30]},
        "scale": {"dtype": "F8_E8M0", "shape": [3], "data_offsets": [30, 33]},
        "fnuz": {"dtype": "F8_E4M3FNUZ", "shape": [3], "data_offsets": [33, 36]},
        "six": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [36, 39]},
        "odd": {"dtype": "F4", "shape": [2, 1], "data_offsets": [39, 40]},
    }
    text = json.dumps(header).encode()
    data = raw(eight) + bytes(range(16))
    (tmp_path / "in.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", FOUR)
    with pytest.warns(
        UserWarning, match="(six|odd) in .* has dtype F.*: it comes as its bytes"
    ) as w:
        found = checkpoint.load(tmp_path / "q")
    assert len(w) == 2 and w[0].filename == __file__
    dtypes = {name: (x.dtype, tuple(x.shape)) for name, x in found.items()}
    assert dtypes == {
        "eight": (torch.float8_e4m3fn, (4, 6)),
        "four": (torch.float4_e2m1fn_x2, (2, 3)),
        "scale": (torch.float8_e8m0fnu, (3,)),
        "fnuz": (torch.float8_e4m3fnuz, (3,)),
        "six": (torch.uint8, (3,)),
        "odd": (torch.uint8, (1,)),
    }
    for name, x in found.items():
        begin, end = header[name]["data_offsets"]
        assert bytes(x.view(torch.uint8).flatten().tolist()) == data[begin:end]
    found = {name: found[name] for name in ("eight", "four", "scale", "fnuz")}
    checkpoint.save(tmp_path / "again", found)
    by_safetensors = load_file(tmp_path / "again")
    for name, x in checkpoint.load(tmp_path / "again").items():
        for other in (found[name], by_safetensors[name]):
            assert x.dtype == other.dtype and x.shape == other.shape
            assert torch.equal(x.view(torch.uint8), other.view(torch.uint8))


def test_a_folder_with_one_file_is_read(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(weights(), folder / "model.safetensors")
    rows = checkpoint.quantize_file(folder, tmp_path / "q", FOUR)
    assert {row.name for row in rows if row.sqnr is not None} == {"up.weight", "conv.weight"}
    (tmp_path / "done").mkdir()
    (tmp_path / "q").rename(tmp_path / "done" / "model.safetensors")
    assert checkpoint.load(tmp_path / "done").keys() == weights().keys()
    checkpoint.dequantize_file(tmp_path / "done", tmp_path / "back.safetensors")
    assert load_file(tmp_path / "back.safetensors").keys() == weights().keys()
    save_file({}, folder / "consolidated.safetensors")  # as Mistral's folders have
    assert checkpoint.quantize_file(folder, tmp_path / "r", FOUR) == rows
    (folder / "model.safetensors").rename(folder / "another.safetensors")
    with pytest.raises(ValueError, match="0 files .*index.json and 2 files .*: name the one to"):
        checkpoint.quantize_file(folder, tmp_path / "q", FOUR)
    with pytest.raises(ValueError, match="belongs to the source: write to another file"):
        single = tmp_path / "done"
        checkpoint.dequantize_file(single, single / "model.safetensors")


@pytest.mark.parametrize("name", ["a" * 241, "a" * 255, "\u00e9" * 127])
def test_a_long_name_is_written(tmp_path, source, name):
    checkpoint.save(tmp_path / name, {"a": torch.ones(2)})
    assert checkpoint.load(tmp_path / name)["a"].tolist() == [1, 1]
    checkpoint.quantize_file(source, tmp_path / name, FOUR)
    assert set(files(tmp_path)) == {source.name, name}


def test_a_long_name_of_a_folder_is_written(tmp_path):
    shard = {"a.weight": torch.ones(4, 64)}
    save_file(shard, tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "model-1.safetensors"}}))
    checkpoint.quantize_file(index, tmp_path / ("b" * 255), FOUR)
    assert checkpoint.load(tmp_path / ("b" * 255))["a.weight"].shape == (4, 64)


def test_a_name_with_brackets_is_a_name(tmp_path):
    """As a pattern, h[0].weight fits h0.weight and not itself."""
    both = {name: torch.randn(8, 64) for name in ("h[0].weight", "h0.weight")}
    save_file(both, tmp_path / "in.safetensors")
    rows = checkpoint.quantize_file(
        tmp_path / "in.safetensors", tmp_path / "q", FOUR, skip="h[0].weight"
    )
    assert {row.name for row in rows if row.sqnr is not None} == {"h0.weight"}
    rows = checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", FOUR, skip="h[[]*")
    assert {row.name for row in rows if row.sqnr is not None} == {"h0.weight"}
    with pytest.raises(TypeError, match="scheme must be a ql.Scheme, got 4"):
        checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", 4)


def test_a_tensor_with_nan_is_named_and_nothing_is_written(tmp_path):
    bad = weights() | {"z.weight": torch.full((4, 40), torch.nan)}
    save_file(bad, tmp_path / "in.safetensors")
    (tmp_path / "q").write_bytes(b"an older file")
    with pytest.raises(ValueError, match="z.weight in .*: r holds 160 NaN"):
        checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", FOUR)
    assert files(tmp_path) == ["in.safetensors", "q"]
    assert (tmp_path / "q").read_bytes() == b"an older file"
    checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", FOUR, skip=["z.*"])
    assert checkpoint.load(tmp_path / "q")["z.weight"].isnan().all()


def test_a_tensor_without_the_axis_of_the_scheme_is_named(source, tmp_path):
    scheme = ql.Scheme(granularity=ql.PerAxis(2))
    with pytest.raises(ValueError, match="up.weight in .*in.safetensors: axis=2 is out of range"):
        checkpoint.quantize_file(source, tmp_path / "q", scheme)
    checkpoint.quantize_file(source, tmp_path / "q", scheme, skip="up.*")
    assert checkpoint.load(tmp_path / "q")["conv.weight"].scheme == scheme


def test_names_that_would_meet_are_refused(tmp_path):
    save_file({"w": torch.ones(8, 64), "w.scale": torch.ones(1)}, tmp_path / "in.safetensors")
    with pytest.raises(ValueError, match="w.scale would be stored twice"):
        checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", FOUR)


def test_a_symmetric_tensor_beside_one_called_zero_point(tmp_path):
    tensors = {"w": torch.ones(8, 64), "w.zero_point": torch.ones(1)}
    save_file(tensors, tmp_path / "in.safetensors")
    checkpoint.quantize_file(tmp_path / "in.safetensors", tmp_path / "q", ql.Scheme(8, "symmetric"))
    assert same(checkpoint.load(tmp_path / "q")["w.zero_point"], torch.ones(1))


def test_twice_quantized_and_never_quantized_are_refused(source, tmp_path):
    checkpoint.quantize_file(source, tmp_path / "q", FOUR)
    with pytest.raises(ValueError, match="q is quantized already: dequantize it first"):
        checkpoint.quantize_file(tmp_path / "q", tmp_path / "qq", FOUR)
    with pytest.raises(ValueError, match="in.safetensors holds no tensor that qlesson.files.ch"):
        checkpoint.dequantize_file(source, tmp_path / "qq")


def test_where_it_can_write(source, tmp_path):
    with pytest.raises(ValueError, match="belongs to the source: write to another file"):
        checkpoint.quantize_file(source, tmp_path / "." / "in.safetensors", FOUR)
    with pytest.raises(ValueError, match="is a folder: name the file to write"):
        checkpoint.quantize_file(source, tmp_path, FOUR)
    with pytest.raises(FileNotFoundError, match="no such place does not exist: make it first"):
        checkpoint.quantize_file(source, tmp_path / "no such place" / "q", FOUR)
    assert files(tmp_path) == ["in.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="no such files")
def test_a_device_or_a_pipe_is_not_replaced(source, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (
        lambda to: checkpoint.quantize_file(source, to, FOUR),
        lambda to: checkpoint.save(to, {"a": torch.ones(1)}),
    ):
        with pytest.raises(ValueError, match="is a device or a pipe: name the file to write"):
            write(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo() and files(tmp_path) == ["in.safetensors", "pipe"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "chat_template.jinja"])
def test_no_file_of_the_source_is_written_over(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(weights(), folder / "model.safetensors")
    for other in ("config.json", "chat_template.jinja"):
        (folder / other).write_text("{}")
    before = (folder / name).read_bytes()
    os.link(folder / name, tmp_path / "link")
    for target in (folder / name, tmp_path / "link"):
        with pytest.raises(ValueError, match="belongs to the source: write to another file"):
            checkpoint.quantize_file(folder, target, FOUR)
    assert (folder / name).read_bytes() == before
    checkpoint.quantize_file(folder, folder / "small.safetensors", FOUR)


@pytest.mark.parametrize("single", [True, False])
def test_a_full_disk_names_the_target(source, shards, tmp_path, monkeypatch, single):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="q was not written, .*: make room, or name a target") as e:
        checkpoint.quantize_file(source if single else shards, tmp_path / "q", FOUR)
    assert e.value.errno == errno.ENOSPC and str(e.value).count("make room") == 1
    assert files(tmp_path) == ["in", "in.safetensors"]


@pytest.mark.parametrize("single", [True, False])
def test_a_folder_without_the_right_to_write_names_the_target(
    source, shards, tmp_path, monkeypatch, single
):
    def refused(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "replace" if single else "rename", refused)
    with pytest.raises(PermissionError, match="q was not written, .*: name a target in a folder"):
        checkpoint.quantize_file(source if single else shards, tmp_path / "q", FOUR)
    monkeypatch.setattr(checkpoint.convert, "sqnr", lambda *_: refused(source))
    with pytest.raises(PermissionError, match="Permission denied: .*in.safetensors"):
        checkpoint.quantize_file(source if single else shards, tmp_path / "q", FOUR)
    assert files(tmp_path) == ["in", "in.safetensors"]


def test_a_folder_that_may_not_be_read_is_not_called_empty(shards, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(PermissionError, match="Permission denied: .*in"):
        checkpoint.load(shards)


def test_half_a_surrogate_pair_is_no_name(source):
    for name in ("\ud800", "\ud800/q"):
        for ask in (checkpoint.load, lambda x: checkpoint.quantize_file(source, x, FOUR)):
            with pytest.raises(ValueError, match="must be the name of a file or a folder, got"):
                ask(name)


def test_a_program_without_a_console_has_no_bar(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    checkpoint.quantize_file(source, tmp_path / "q", FOUR)
    assert "up.weight" in inspect.report(tmp_path / "q")


def test_what_save_wrote_goes_back_to_floats_too(tmp_path):
    x = ql.quantize(weights()["up.weight"].double(), FOUR)
    checkpoint.save(tmp_path / "q", {"w": PackedTensor.pack(x, "halves"), "b": torch.ones(2)})
    checkpoint.dequantize_file(tmp_path / "q", tmp_path / "back")
    assert same(load_file(tmp_path / "back")["w"], x.dequantize())


def test_damage_is_noticed_on_the_way_back_too(source, tmp_path):
    checkpoint.quantize_file(source, tmp_path / "q", FOUR)
    data = bytearray((tmp_path / "q").read_bytes())
    data[-1] ^= 1
    (tmp_path / "q").write_bytes(data)
    with pytest.raises(ValueError, match="the bytes of .* are not those that were written"):
        checkpoint.dequantize_file(tmp_path / "q", tmp_path / "back")
    assert not (tmp_path / "back").exists()


# --- shards ---


def test_shards_go_there_and_back(shards, tmp_path):
    index = shards / "model.safetensors.index.json"
    rows = checkpoint.quantize_file(index, tmp_path / "q", FOUR)
    assert files(tmp_path / "q") == files(shards)
    assert len(rows) == 10
    content = json.loads((tmp_path / "q" / index.name).read_text())
    assert content["metadata"]["total_size"] == sum(row.bytes_after for row in rows)
    assert content["weight_map"]["2.up.weight.codes"] == "model-2.safetensors"
    found = checkpoint.load(tmp_path / "q")
    assert len(found) == 10
    assert equal(found["1.up.weight"], ql.quantize(weights(1)["up.weight"], FOUR))
    rows = checkpoint.dequantize_file(tmp_path / "q", tmp_path / "back")
    assert (
        json.loads((tmp_path / "back" / index.name).read_text())["weight_map"]
        == (json.loads(index.read_text())["weight_map"])
    )
    back = load_file(tmp_path / "back" / "model-2.safetensors")
    r_hat = ql.quantize(weights(2)["up.weight"], FOUR).dequantize()
    assert same(back["2.up.weight"], r_hat)


@pytest.mark.parametrize("metadata", [{"total_size": 1, "extra": "keep"}, {"extra": "keep"}])
def test_the_indexs_own_metadata_is_carried_over(shards, tmp_path, metadata):
    content = json.loads((shards / INDEX).read_text())
    (shards / INDEX).write_text(json.dumps(content | {"metadata": metadata, "more": [1]}))
    rows = checkpoint.quantize_file(shards, tmp_path / "q", FOUR)
    checkpoint.dequantize_file(tmp_path / "q", tmp_path / "back")
    found = [json.loads((tmp_path / name / INDEX).read_text()) for name in ("q", "back")]
    sizes = [sum(row.bytes_after for row in rows), sum(row.bytes_before for row in rows)]
    assert [x["metadata"] for x in found] == [{"extra": "keep", "total_size": n} for n in sizes]
    assert [x["more"] for x in found] == [[1], [1]]


@pytest.mark.parametrize("metadata", [{}, {"metadata": None}])
def test_an_index_needs_no_metadata(shards, tmp_path, metadata):
    content = json.loads((shards / INDEX).read_text())
    (shards / INDEX).write_text(json.dumps({"weight_map": content["weight_map"]} | metadata))
    checkpoint.quantize_file(shards, tmp_path / "q", FOUR)
    written = json.loads((tmp_path / "q" / INDEX).read_text())["metadata"]
    assert written.keys() == {"total_size"}


def test_names_that_would_meet_in_two_shards_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for name, x in {"w": torch.ones(8, 64), "w.scale": torch.ones(1)}.items():
        save_file({name: x}, tmp_path / "in" / f"{name}.safetensors")
    weight_map = {name: f"{name}.safetensors" for name in ("w", "w.scale")}
    (tmp_path / "in" / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="w.scale would be stored twice"):
        checkpoint.quantize_file(tmp_path / "in", tmp_path / "q", FOUR)
    assert files(tmp_path) == ["in"]
    checkpoint.quantize_file(tmp_path / "in", tmp_path / "q", FOUR, skip="w")
    assert checkpoint.load(tmp_path / "q").keys() == {"w", "w.scale"}


def test_no_shard_is_left_when_one_fails(shards, tmp_path):
    bad = {f"2.{name}": x for name, x in weights(2).items()}
    bad["2.up.weight"][3, 4] = torch.inf
    save_file(bad, shards / "model-2.safetensors")
    with pytest.raises(ValueError, match="2.up.weight in .*model-2.safetensors: r holds 0 NaN and"):
        checkpoint.quantize_file(shards, tmp_path / "q", FOUR)
    assert files(tmp_path) == ["in"]
    (tmp_path / "q").mkdir()
    with pytest.raises(ValueError, match="q exists: the shards go into a folder of their own"):
        checkpoint.quantize_file(shards, tmp_path / "q", FOUR)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda f: (f / "model-1.safetensors").unlink(), FileNotFoundError, "model-1.* not exist"),
        (lambda f: rewrite(f, lambda m: m.pop("1.ids")), ValueError, "differ: '1.ids' in model-1"),
        (
            lambda f: rewrite(f, lambda m: m.update(x="model-1.safetensors")),
            ValueError,
            "differ: 'x'",
        ),
        (
            lambda f: rewrite(f, lambda m: m.update(x="../y")),
            ValueError,
            "names '../y': shards",
        ),
        (lambda f: rewrite(f, lambda m: m.update(x=3)), ValueError, "is no index"),
        (lambda f: (f / INDEX).write_text("["), ValueError, "is no index of a sharded checkpoint"),
        (lambda f: rewrite(f, lambda m: m.clear()), ValueError, "needs a weight_map of names to"),
        (
            lambda f: (f / INDEX).write_text('{"metadata": [1], "weight_map": {"a": "b"}}'),
            ValueError,
            "its metadata, if any, is a JSON object",
        ),
        (lambda f: (f / INDEX).write_text("[]"), ValueError, "is no index of a sharded checkpoint"),
        (lambda f: (f / INDEX).unlink(), ValueError, "is a folder with 0 files"),
        (
            lambda f: (f / INDEX).rename(f / f"a{INDEX}").with_name(f"b{INDEX}").write_text(""),
            ValueError,
            "is a folder with 2 files",
        ),
    ],
)
def test_a_wrong_index_is_refused(shards, tmp_path, change, error, words):
    change(shards)
    with pytest.raises(error, match=words):
        checkpoint.quantize_file(shards, tmp_path / "q", FOUR)
    assert files(tmp_path) == ["in"]


INDEX = "model.safetensors.index.json"


def rewrite(folder, change):
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


# --- the command ---


def test_the_command(source, tmp_path, capsys):
    target = tmp_path / "q.safetensors"
    asked = [
        "quantize",
        str(source),
        str(target),
        "--bits",
        "4",
        "--group-size",
        "16",
        "--skip",
        "conv.*",
    ]
    assert main(asked) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == "tensor shape before after SQNR in dB".split()
    assert len(lines) == 7 and len(set(map(len, lines))) == 1
    (up,) = [line.split() for line in lines if line.startswith("up.weight")]
    x = ql.quantize(weights()["up.weight"], FOUR)
    db = ql.sqnr(weights()["up.weight"], x.dequantize()).item()
    size = PackedTensor.pack(x).nbytes
    assert up == ["up.weight", "24x40", "3,840", str(size), f"{db:.2f}"]
    assert [line.split()[-1] for line in lines if line.startswith("conv.")] == ["-"]
    before = sum(w.nbytes for w in weights().values())
    after = before - 3840 + size
    ratio = f"{before / after:.2f}"
    assert lines[-1].split() == ["sum", f"{before:,}", f"{after:,}", ratio, "to", "1"]
    assert said.err == ""  # no bar without a terminal
    assert equal(checkpoint.load(target)["up.weight"], x)
    assert main(["quantize", str(target), str(tmp_path / "back"), "--dequantize"]) == 0
    assert same(load_file(tmp_path / "back")["up.weight"], x.dequantize())


@pytest.mark.parametrize(
    ("words", "scheme"),
    [
        ([], ql.Scheme(8, "asymmetric", ql.PerAxis(0))),
        (["--per-row", "--bits", "3"], ql.Scheme(3, "asymmetric", ql.PerAxis(0))),
        (["--per-tensor", "--mapping", "symmetric"], ql.Scheme(8, "symmetric")),
        (["--group-size", "8", "--bits", "2"], ql.Scheme(2, "asymmetric", ql.PerGroup(8))),
    ],
)
def test_what_the_options_mean(source, tmp_path, words, scheme):
    assert main(["quantize", str(source), str(tmp_path / "q"), *words]) == 0
    assert checkpoint.load(tmp_path / "q")["up.weight"].scheme == scheme


def test_an_error_is_one_sentence(source, tmp_path, capsys):
    for words in (["--bits", "9"], ["--group-size", "0"], ["--skip", "x"], ["--dequantize"]):
        assert main(["quantize", str(source), str(tmp_path / "q"), *words]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert main(["quantize", str(tmp_path / "no"), str(tmp_path / "q")]) == 1
    with pytest.raises(SystemExit):
        main(["quantize", str(source), str(tmp_path / "q"), "--per-row", "--per-tensor"])
    assert files(tmp_path) == ["in.safetensors"]


def test_a_name_tells_a_terminal_nothing(tmp_path, capsys):
    name, path = "a\x1b[2J\nb", str(tmp_path / "in.safetensors")
    for w in (torch.ones(8, 64), torch.full((8, 64), torch.nan)):
        save_file({name: w}, path)
        main(["quantize", path, str(tmp_path / "q"), "--bits", "4"])
        said = "".join(capsys.readouterr())
        assert r"a\x1b[2J\nb" in said and said.replace("\n", "").isprintable()


def test_the_bar_counts_the_bytes_where_there_is_a_terminal(source, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    checkpoint.quantize_file(source, tmp_path / "q", FOUR)
    total = sum(w.nbytes for w in weights().values())
    assert "100%" in sys.stderr.getvalue() and f"{total / 1000:.2f}k" in sys.stderr.getvalue()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """20 tensors of 16 MB."""
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    one = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))
    entries = [
        (f"{i}.weight", file_format.Entry("F32", (2048, 2048), one.nbytes)) for i in range(20)
    ]
    with file_format._writing(path, entries, {}, None) as put:
        for name, _ in entries:
            put(name, file_format._bytes(one))
    return path


SLOWLY = """
import runpy, signal, time
from qlesson import qtensor
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one behind nohup ignores this
qtensor.quantize = lambda *a, **k: time.sleep(900)
runpy.run_module("qlesson", run_name="__main__")
"""


def interrupted(source, target, number):
    """The command, which stays at its first tensor; it gets the signal when it has begun."""
    words = [sys.executable, "-c", SLOWLY, "quantize", str(source), str(target), "--bits", "4"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 900
    while not list(target.parent.glob(f".{target.name}.*.part")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(900)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupt_leaves_nothing_under_the_name(large, tmp_path, number):
    target = tmp_path / "q.safetensors"
    target.write_bytes(b"an older file")
    process = interrupted(large, target, number)
    assert target.read_bytes() == b"an older file"
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert [p.suffix for p in tmp_path.iterdir() if p != target] == [".part"]
    else:
        assert process.returncode == 130
        assert files(tmp_path) == ["q.safetensors"]
        assert process.stderr.read() == f"Interrupted: {target} was not written.\n"


@pytest.mark.slow
def test_the_memory_needed_follows_the_largest_tensor(large, tmp_path):
    """The file is 20 tensors of 16 MB; the peak grows by less than 6 of them, there and back."""
    code = (
        "import resource, sys, torch, qlesson as ql\n"
        "from pathlib import Path\n"
        "from qlesson.files import checkpoint\n"
        "import tqdm\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "source, q, back = map(Path, sys.argv[1:])\n"
        "ql.quantize(torch.ones(64, 64), ql.Scheme(4)).dequantize()\n"
        "start = peak()\n"
        "checkpoint.quantize_file(source, q, ql.Scheme(4, granularity=ql.PerGroup(64)))\n"
        "there = peak()\n"
        "checkpoint.dequantize_file(q, back)\n"
        "print(there - start, peak() - start, q.stat().st_size, back.stat().st_size)"
    )
    paths = [large, tmp_path / "q", tmp_path / "back"]
    made = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True
    )
    there, all_of_it, q_size, back_size = map(float, made.stdout.split())
    assert q_size < large.stat().st_size / 7 and back_size > 20 * 2**24
    assert there < 6 * 16 and all_of_it < 6 * 16
    print(there, all_of_it)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_writes_the_same_file(source, tmp_path):
    for device in ("cpu", "cuda"):
        checkpoint.quantize_file(source, tmp_path / device, FOUR, device=device)
        checkpoint.dequantize_file(tmp_path / device, tmp_path / f"{device} back", device=device)
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()
    assert (tmp_path / "cpu back").read_bytes() == (tmp_path / "cuda back").read_bytes()
    assert checkpoint.load(tmp_path / "cpu", device="cuda")["up.weight"].device.type == "cuda"
