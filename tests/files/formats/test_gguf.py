"""GGUF files, beside the reader of ggml's own package, and files that lie."""

from concurrent.futures import ThreadPoolExecutor

import peers
import pytest
import torch
from torch import Tensor

from qlesson.blocks import Blocks
from qlesson.files import formats
from qlesson.files.formats.ggml import TYPES
from qlesson.nn import QuantizedEmbedding, QuantizedLinear

READ = [t.name for t in TYPES.values() if t.decode and not isinstance(t.decode, torch.dtype)]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bits, and NaN where the other has NaN."""
    one, other = (torch.where(x.isnan(), 0, x).view(torch.int32) for x in (a, b))
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(one, other)


def values(x) -> Tensor:
    return x if isinstance(x, Tensor) else x.dequantize()


# --- the types ---


def random_bytes(name, rows=64, blocks=3):
    """(bytes [rows, ...], what the type makes of them): any bytes are valid blocks."""
    kind = next(t for t in TYPES.values() if t.name == name)
    made = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (rows, blocks * kind.nbytes), generator=made).to(torch.uint8)
    return data, kind.open(data.flatten(), (rows, blocks * kind.values))


@pytest.mark.parametrize("name", READ)
def test_random_bytes_are_what_the_gguf_package_says(name):
    gguf = peers.peer("gguf")
    data, got = random_bytes(name)
    assert isinstance(got, Blocks)
    wanted = torch.from_numpy(gguf.dequantize(data.numpy(), gguf.GGMLQuantizationType[name]))
    assert same_bits(got.dequantize(), wanted)


@pytest.mark.parametrize("name", READ)
def test_a_type_is_read_whatever_the_default_device_is(name):
    data, wanted = random_bytes(name)
    kind = next(t for t in TYPES.values() if t.name == name)
    with torch.device("meta"):
        got = kind.open(data.flatten(), (len(data), 3 * kind.values))
        assert same_bits(got.dequantize().cpu(), wanted.dequantize())


@pytest.mark.parametrize("name", READ)
def test_a_type_costs_what_its_bytes_are_and_runs_in_layers(name):
    data, x = random_bytes(name)
    assert x.bits_per_value == 8 * data.numel() / x.q.numel()
    values, layer = x.dequantize(), QuantizedLinear(x)
    assert same_bits(layer.weight, values) and type(layer.codes.held) is type(x)
    ids = torch.tensor([63, 0, 5])
    assert same_bits(QuantizedEmbedding(x)(ids), values[ids])
    assert same_bits(QuantizedLinear(x).half().codes.values(torch.float32), values)


@pytest.mark.parametrize("name", [name for name in READ if name.endswith("_K")])
def test_scales_of_scales_can_be_multiplied_out(name):
    x = random_bytes(name)[1]
    assert type(x.plain()) is Blocks and same_bits(x.plain().dequantize(), x.dequantize())


def test_the_table_of_types_is_that_of_the_gguf_package():
    gguf = peers.peer("gguf")
    theirs = {int(t): (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType}
    theirs[9] = "Q8_1", 32, 36  # two halves in ggml-common.h; the package still counts two floats
    assert {n: (t.name, t.values, t.nbytes) for n, t in TYPES.items()} == theirs


def test_threads_that_share_a_file_each_read_their_tensor(tmp_path):
    tensors = {f"t{i}": torch.full((256, 1024), float(i)) for i in range(64)}
    formats.gguf.write(tmp_path / "x.gguf", tensors, {})
    with formats.open(tmp_path / "x.gguf") as file, ThreadPoolExecutor(8) as pool:
        for name, read in zip(file, pool.map(file.__getitem__, file), strict=True):
            assert torch.equal(read, tensors[name]), name


# --- a real file ---


@pytest.fixture(scope="module")
def real():
    with formats.open(peers.smollm2()) as file:
        yield file


def test_a_real_file_has_what_the_gguf_package_reads(real):
    gguf = peers.peer("gguf")
    reader = gguf.GGUFReader(real.path)
    assert list(real) == [t.name for t in reader.tensors]
    for t in reader.tensors[::9]:
        wanted = torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy())
        got = values(real[t.name])
        assert got.shape == wanted.shape and same_bits(got, wanted), t.name
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert real.metadata == fields


def test_its_tokens_and_merges_are_lists_of_text(real):
    tokens, merges = (real.metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges"))
    assert len(tokens) == 49152 and tokens[2] == "<|im_end|>"
    assert len(merges) == 48900 and merges[0] == "Ġ t"


def test_its_codes_run_in_layers(real):
    w, table = real["blk.0.attn_q.weight"], real["token_embd.weight"]
    assert type(w) is type(table) is Blocks
    assert (w.bits_per_value, table.bits_per_value) == (5.0, 8.5)
    x = torch.randn(2, 576, generator=torch.Generator().manual_seed(0))
    y = QuantizedLinear(w)(x)
    assert torch.allclose(y, x @ w.dequantize().T, atol=1e-4)
    ids = torch.tensor([0, 5, 49151])
    assert torch.equal(QuantizedEmbedding(table)(ids), table.dequantize()[ids])
