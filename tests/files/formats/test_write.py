"""GGUF files written: byte for byte what ggml's own package writes, and llama.cpp loads them."""

import hashlib
import math

import numpy as np
import peers
import pytest
import torch

from qlesson.blocks import Blocks
from qlesson.files import formats
from qlesson.files.formats.quantizers import encode

BLOCKS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
METADATA = {
    "general.architecture": "test", "text": "grüße", "yes": True, "count": 7, "less": -7,
    "much": 2**40, "share": 0.25, "wide": np.float64(0.1), "byte": np.uint8(3),
    "tokens": ["a", "", "b c"], "types": [1, -2, 3],
    "scores": [0.5, -(2.0**100), 3.4028234663852886e38],
    "truths": [True, False], "lists": [[1], [2, 3]], "none": [],
}  # fmt: skip


def hard(rows=256, seed=0):
    """Blocks with ties, zeros, equal magnitudes of both signs, and of every size."""
    made = torch.Generator().manual_seed(seed)
    r = torch.randn(rows, 32, generator=made)
    r[: rows // 4] = (r[: rows // 4] * 8).round() / 8  # many ties
    r[rows // 4 : rows // 2, 0] = -r[rows // 4 : rows // 2].abs().amax(1)
    r[3], r[4], r[5, 1:] = 0.0, 0.5, 0.0
    r[6:12] = torch.arange(-16, 16) + 0.5  # ties of Q8_0, where the largest is 127
    r[6:9, 7], r[9:12, 7] = 127.0, -127.0
    return r * 2.0 ** torch.randint(-40, 9, (rows, 1), generator=made)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("seed", range(4))
def test_blocks_are_those_of_the_reference_quantizers(name, seed):
    gguf = peers.peer("gguf")
    r = hard(seed=seed)
    wanted = gguf.quantize(r.numpy(), gguf.GGMLQuantizationType[name])
    x = formats.gguf.quantize(r, name)
    assert type(x) is Blocks and encode(x).numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_floats_are_rounded_to_float32_first(dtype):
    r = hard(8).to(dtype)
    same = formats.gguf.quantize(r.float(), "Q4_1")
    assert torch.equal(encode(formats.gguf.quantize(r, "Q4_1")), encode(same))
    assert formats.gguf.quantize(r, "F16").dtype == torch.float16


def test_what_float16_cannot_hold_is_refused():
    for name in BLOCKS:
        with pytest.raises(ValueError, match="holds values up to 1e.07, and Q.* in float16"):
            formats.gguf.quantize(torch.linspace(0, 1e7, 32), name)
    for name, large in (("F16", 65520.0), ("F16", 1e6), ("F32", 1e300)):
        with pytest.raises(ValueError, match=f"holds values up to .*, and {name} ends at"):
            formats.gguf.quantize(torch.tensor([1.0, -large], dtype=torch.float64), name)
    assert formats.gguf.quantize(torch.tensor([65519.0]), "F16").item() == 65504
    with pytest.raises(ValueError, match="whole blocks of 32"):
        formats.gguf.quantize(torch.ones(2, 33))


def tensors():
    made = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    found = {name: formats.gguf.quantize(made, name) for name in (*BLOCKS, "F16", "F32")}
    found["vector"], found["ids"] = made[0, :5], torch.arange(3)
    found["deep"] = made.bfloat16().view(2, 2, 1, 64)
    return found


def test_a_file_reads_as_it_was_written(tmp_path):
    path, given = tmp_path / "x.gguf", tensors()
    formats.gguf.write(path, given, METADATA)
    with formats.open(path) as file:
        assert file.metadata == METADATA and list(file) == list(given)
        for name, x in given.items():
            assert file[name].shape == x.shape and torch.equal(encode(file[name]), encode(x))
        formats.gguf.write(tmp_path / "again.gguf", file, file.metadata | {"wide": np.float64(0.1)})
    assert formats.open(tmp_path / "again.gguf").metadata == METADATA


def test_the_gguf_package_reads_it_and_writes_the_same_bytes(tmp_path):
    gguf = peers.peer("gguf")
    path, given = tmp_path / "x.gguf", tensors()
    names = {"general.architecture": "test", "n": 7, "t": ["a", "b"], "s": [0.5, 2.0]}
    formats.gguf.write(path, given, names)
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "test")
    writer.add_uint32("n", 7)
    writer.add_array("t", ["a", "b"])
    writer.add_array("s", [0.5, 2.0])
    for name, x in given.items():
        if name in BLOCKS:
            kind = gguf.GGMLQuantizationType[name]
            data = encode(x).numpy().reshape(4, -1)
            writer.add_tensor(name, data, raw_dtype=kind)
        elif x.dtype == torch.bfloat16:
            kind = gguf.GGMLQuantizationType.BF16
            data = encode(x).numpy().reshape(2, 2, 1, 128)
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, x.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert path.read_bytes() == (tmp_path / "y.gguf").read_bytes()
    found = {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items()}
    assert all(found[key] == x for key, x in names.items())


def test_a_real_file_is_written_as_it_is(tmp_path):
    with formats.open(peers.smollm2()) as file:
        formats.gguf.write(tmp_path / "x.gguf", file, file.metadata)
        digests = [hashlib.sha256(p.read_bytes()) for p in (file.path, tmp_path / "x.gguf")]
    assert digests[0].digest() == digests[1].digest()


@pytest.mark.parametrize("x, words", [
    ({"a": "text"}, "'a'. is str, which GGUF files are not written with: use gguf.quantize"),
    ({"a": torch.ones(2, dtype=torch.complex64)}, "complex64"),
    ({"a": torch.ones(1, 1, 1, 1, 1)}, "up to 4 axes"),
    ({"a": torch.ones(0, 3)}, "none that is empty"),
    ({"a" * 64: torch.ones(1)}, "at most 63 bytes"),
    ({"\ud800": torch.ones(1)}, "surrogate"),
    ({1: torch.ones(1)}, "must be text"),
    ({"a": Blocks(torch.zeros(4, dtype=torch.uint8), torch.ones(1), None, 4, 4)}, "is Blocks"),
    ({"a": torch.ones(2, device="meta")}, "'a'. is on the meta device and holds no values"),
    ({"a": torch.eye(2).to_sparse()}, "'a'. has layout torch.sparse_coo"),
    ({"a": torch.nested.nested_tensor([torch.ones(2)])}, "'a'. has layout nested"),
    ({"a": formats.gguf.quantize(torch.ones(32)).to("meta")}, "'a'. is on the meta device"),
])  # fmt: skip
def test_what_a_file_cannot_hold(x, words, tmp_path):
    with pytest.raises((TypeError, ValueError), match=words):
        formats.gguf.write(tmp_path / "x.gguf", x, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value", [None, 1j, {}, [1, "a"], 2**64, 1e39, [None], [[1], 2], [True, 1]]
)
def test_what_metadata_cannot_hold(value, tmp_path):
    with pytest.raises(TypeError, match=r"metadata\['k'\] must be text, a number"):
        formats.gguf.write(tmp_path / "x.gguf", {}, {"k": value})


def test_lists_in_lists_are_read_as_they_are_written_or_refused(tmp_path):
    path, deep = tmp_path / "x.gguf", [[[[1]]]]
    formats.gguf.write(path, {}, {"k": deep})
    assert formats.open(path).metadata["k"] == deep
    endless = []
    endless.append(endless)
    for value in ([deep], endless):
        with pytest.raises(ValueError, match="'k'. holds lists in lists in lists"):
            formats.gguf.write(path, {}, {"k": value})


def test_a_tensor_that_is_negated_when_it_is_read_is_written(tmp_path):
    x = torch.tensor([1 + 2j]).conj().imag
    assert x.is_neg()
    formats.gguf.write(tmp_path / "x.gguf", {"x": x}, {})
    assert formats.open(tmp_path / "x.gguf")["x"].tolist() == [-2]


def test_what_is_one_of_a_column_is_written(tmp_path):
    """torch calls it contiguous, with the stride of the column."""
    column, scale = torch.arange(6.0).view(2, 3)[1:, 1], torch.ones(1, 2).half()[:, 1:]
    one = Blocks(torch.ones(1, 32, dtype=torch.int8), scale, None, 8, 32)
    formats.gguf.write(tmp_path / "x.gguf", {"x": column, "one": one}, {})
    with formats.open(tmp_path / "x.gguf") as file:
        assert file["x"].tolist() == [4] and file["one"].dequantize().eq(1).all()


def test_nothing_half_written_stays(tmp_path):
    path = tmp_path / "x.gguf"
    formats.gguf.write(path, {"a": torch.ones(3)}, {})
    before = path.read_bytes()

    class Breaks(dict):
        """Gives its tensor once, and then no more."""

        asked = 0

        def __getitem__(self, name):
            self.asked += 1
            if self.asked > 2:
                raise OSError("gone")
            return super().__getitem__(name)

    with pytest.raises(OSError, match="gone"):
        formats.gguf.write(path, Breaks(a=torch.ones(3), b=torch.ones(3)), {})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# --- llama.cpp ---


def tiny_llama(kind):
    """A model of llama.cpp's llama type with one block, its tokens those of a real file."""
    made = torch.Generator().manual_seed(0)

    def w(*shape):
        r = torch.randn(shape, generator=made) / math.sqrt(shape[-1])
        return formats.gguf.quantize(r, kind)

    names = {f"blk.0.attn_{n}.weight": w(64, 64) for n in ("q", "k", "v", "output")}
    names |= {f"blk.0.ffn_{n}.weight": w(128, 64) for n in ("gate", "up")}
    names["blk.0.ffn_down.weight"] = w(64, 128)
    ones = {f"blk.0.{n}_norm.weight": torch.ones(64) for n in ("attn", "ffn")}
    return names | ones | {"output_norm.weight": torch.ones(64), "token_embd.weight": w(49152, 64)}


@pytest.mark.parametrize("kind", [*BLOCKS, "F16", "F32"])
def test_llama_cpp_loads_it(kind, tmp_path):
    xllamacpp = peers.peer("xllamacpp")
    with formats.open(peers.smollm2()) as real:
        metadata = real.metadata | {
            "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": 64,
            "llama.feed_forward_length": 128, "llama.attention.head_count": 2,
            "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 32,
        }  # fmt: skip
    formats.gguf.write(tmp_path / "tiny.gguf", tiny_llama(kind), metadata)
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "tiny.gguf")
    params.n_ctx, params.warmup, params.cpuparams.n_threads = 64, False, 1
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": "Hello", "max_tokens": 4, "temperature": 0})
    assert answer["usage"]["completion_tokens"] >= 1


@pytest.mark.parametrize("given", [2**21, 2**33, np.uint64(2**63), 0, 24, -32, True, 32.0, "32"])
def test_an_alignment_is_a_power_of_two_and_no_disk_is_filled_with_zeros(given, tmp_path):
    with pytest.raises(ValueError, match="must be a power of two up to 1,048,576, got"):
        formats.gguf.write(tmp_path / "x", {"w": torch.ones(2)}, {"general.alignment": given})
    assert not list(tmp_path.iterdir())


def test_an_alignment_of_numpy_is_written_in_the_kind_it_has_in_gguf(tmp_path):
    for name, given in (("a", 64), ("b", np.int64(64)), ("c", np.uint16(64))):
        formats.gguf.write(tmp_path / name, {"w": torch.ones(2)}, {"general.alignment": given})
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b == c and formats.open(tmp_path / "a")["w"].tolist() == [1, 1]
