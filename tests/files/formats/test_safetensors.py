"""GPTQ, AWQ, compressed-tensors and others in safetensors: beside the packages' own, or beside
their specifications, written slowly."""

import json

import peers
import pytest
import torch
from safetensors.torch import save_file

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.files import checkpoint, codebooks, formats
from qlesson.files.formats import NotRead
from qlesson.files.formats.kinds import BookBlocks
from qlesson.files.formats.steps import PerIndex
from qlesson.files.inspect import report
from qlesson.nn import QuantizedLinear

BITS = (2, 3, 4, 5, 6, 7, 8)


def drawn(low, high, *shape, seed=0):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def scales(*shape, dtype=torch.float16):
    made = torch.rand(shape, generator=torch.Generator().manual_seed(3)) + 0.1
    return made.to(dtype)


class Elsewhere(dict):
    """A file whose tensors are read while torch's default device is another."""

    def __init__(self, file):
        self.file = file

    def __getitem__(self, name):
        with torch.device("meta"):
            return self.file[name]

    def __iter__(self):
        return iter(self.file)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def opened(tmp_path):
    """A folder with these tensors and this configuration, opened."""

    def make(tensors, config=None, metadata=None, name="model.safetensors"):
        tensors = {n: x.contiguous() for n, x in tensors.items()}
        save_file(tensors, tmp_path / name, metadata=metadata)
        if config is not None:
            text = json.dumps({"quantization_config": config})
            (tmp_path / "config.json").write_text(text)
        return Elsewhere(formats.open(tmp_path))

    return make


def stream(rows, bits):
    """Codes of each row as one number, the first in the lowest bits, cut into int32 words."""
    found = []
    for row in rows.tolist():
        whole = sum(code << (i * bits) for i, code in enumerate(row))
        words = -(-len(row) * bits // 32)
        found.append([whole >> (32 * i) & 0xFFFFFFFF for i in range(words)])
    return (
        torch.tensor(found).to(torch.int64).sub(2**32 * (torch.tensor(found) >> 31)).to(torch.int32)
    )


# --- plain, and our own ---


def test_plain_tensors_come_as_they_are(opened):
    w = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    given = {"a": w, "b": w.half(), "c": w.to(torch.float8_e4m3fn), "d.weight": w.to(torch.int8)}
    file = opened(given, metadata={"made": "here"})
    assert list(file) == list(given) and file.metadata == {"made": "here"}
    assert all(torch.equal(file[n].view(torch.uint8), given[n].view(torch.uint8)) for n in given)
    assert file.stored["b"] == ("F16", (3, 4), 24)


def test_a_file_that_is_written_again_and_one_that_is_closed(tmp_path):
    """Its header says where the tensors of the older file were."""
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"w": torch.full((4,), 1.0), "q": ql.quantize(torch.ones(2))})
    file = formats.open(path)
    assert file["w"].tolist() == [1] * 4
    checkpoint.save(path, {"w": torch.full((4,), 7.0), "q": ql.quantize(torch.ones(2))})
    for name in file:
        with pytest.raises(ValueError, match="x.safetensors was written again since it was opened"):
            file[name]
    with formats.open(path) as file:
        kept = file["w"]
    assert kept.tolist() == [7] * 4
    with pytest.raises(ValueError, match="is closed: read 'w' inside the with block"):
        file["w"]


def test_what_checkpoint_saved_comes_back(tmp_path):
    w = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    q = ql.quantize(w, ql.Scheme(3, granularity=ql.PerGroup(8)))
    checkpoint.save(tmp_path / "x.safetensors", {"w": q, "b": w[0]})
    with formats.open(tmp_path / "x.safetensors") as file:
        assert sorted(file) == ["b", "w"] and file["w"].scheme == q.scheme
        assert torch.equal(file["w"].dequantize(), q.dequantize())
        assert file.stored["w"].kind == "qlesson" and file.stored["w"].shape == (4, 32)


def test_shards_are_one_file(tmp_path):
    parts = {"one": "l.qweight", "two": "l.qzeros", "three": "l.scales"}
    tensors = gptq(4, 64, 32, 32)[0]
    for shard, name in parts.items():
        save_file({name: tensors[name]}, tmp_path / f"{shard}.safetensors")
    where = {name: f"{shard}.safetensors" for shard, name in parts.items()}
    text = json.dumps({"weight_map": where})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert formats.open(tmp_path)["l.weight"].shape == (32, 64)


# --- GPTQ and AWQ ---


def planes(rows, bits):
    """docs/gptq_planar.md of GPTQModel, word by word: 32 codes are `bits` words, low bits first."""
    widths = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}.get(bits, (bits,))
    found = []
    for row in rows.tolist():
        words = []
        for block in range(0, len(row), 32):
            below = 0
            for width in widths:
                part = [code >> below & (2**width - 1) for code in row[block : block + 32]]
                words.append(stream(torch.tensor([part]), width)[0])
                below += width
        found.append(torch.cat(words))
    return torch.stack(found)


def gptq(bits, inputs, outputs, size, index=None, offset=1, words=stream, middle=False, signs=1):
    """What AutoGPTQ's pack writes, from codes: its tensors, the codes, and what they stand for."""
    groups = -(-inputs // size)
    q, z = drawn(0, 2**bits, outputs, inputs), drawn(1, 2**bits, outputs, groups, seed=1)
    z, s = torch.full_like(z, 2 ** (bits - 1)) if middle else z, scales(outputs, groups) * signs
    tensors = {
        "l.qweight": words(q, bits).T, "l.qzeros": words((z - offset).T, bits), "l.scales": s.T,
    }  # fmt: skip
    which = torch.arange(inputs) // size if index is None else index
    if index is not None:
        tensors["l.g_idx"] = index.to(torch.int32)
    values = s.float()[:, which] * (q - z[:, which]).float()
    return {n: x.contiguous() for n, x in tensors.items()}, values


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("version", ["gptq", "gptq_v2", "gptq_p", None])
def test_gptq(bits, version, opened):
    offset = 0 if version in ("gptq_v2", "gptq_p") else 1
    words = planes if version == "gptq_p" or bits in (5, 6, 7) else stream
    tensors, values = gptq(bits, 96, 32, 32, offset=offset, words=words)
    config = {"quant_method": "gptq", "bits": bits, "group_size": 32}
    file = opened(tensors, config | ({"checkpoint_format": version} if version else {}))
    assert list(file) == ["l.weight"] and file.stored["l.weight"].shape == (32, 96)
    x = file["l.weight"]
    assert isinstance(x, ql.QTensor) and torch.equal(x.dequantize(), values)
    assert x.scheme == ql.Scheme(
        bits, granularity=ql.PerGroup(32), signed=False, scale_dtype=torch.float16
    )
    assert file.stored["l.weight"].kind == f"GPTQ {bits} bits"


@pytest.mark.parametrize("config, offset", [
    ({"format": "gptq_v2", "method": "gptq"}, 0), ({"format": "gptq"}, 1), ({"bits": 4}, 1),
    ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, 1),
    ({"quant_method": "auto-round", "packing_format": "auto_round:gptqmodel"}, 0),
    ({"quant_method": "auto-round", "packing_format": "auto_round"}, 0),
    ({"quant_method": "gptq", "checkpoint_format": "GPTQ_V2", "backend": "auto"}, 0),
    ({"quant_method": "intel/auto-round", "backend": "auto_round:exllamav2"}, 0),
    ({"quant_method": "intel/auto-round", "backend": "autoround:exllamav2"}, 0),
    ({"quant_method": "intel/auto-round", "backend": "auto_round:triton"}, 0),
    ({"quant_method": "intel/auto-round", "backend": "auto_round:gptq:exllamav2"}, 1),
    ({"quant_method": "intel/auto-round", "backend": "auto_gptq:cuda"}, 1),
    ({"quant_method": "auto-round", "packing_format": "auto_round:exllamav2"}, 0),
    ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq:exllamav2"}, 1),
])  # fmt: skip
def test_the_zero_points_offset_by_every_name_that_it_has(config, offset, opened):
    tensors, values = gptq(4, 96, 32, 32, offset=offset)
    x = opened(tensors, {"quant_method": "gptq"} | config)["l.weight"]
    assert torch.equal(x.dequantize(), values)


def test_act_order_without_its_list_is_refused(opened):
    tensors, values = gptq(4, 96, 32, 96)  # one group: there is nothing to list
    assert torch.equal(opened(tensors, {"desc_act": True})["l.weight"].dequantize(), values)
    with pytest.raises(ValueError, match="comes without its g_idx, and desc_act is true"):
        opened(gptq(4, 96, 32, 32)[0], {"desc_act": True})


def test_planes_of_less_than_32_codes_are_refused(opened):
    with pytest.raises(ValueError, match="has 96 inputs and 16 outputs, in planes of 32"):
        opened(gptq(4, 96, 16, 32)[0], {"checkpoint_format": "gptq_p"})


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [32, 96])
def test_scales_may_be_negative_or_zero(middle, bits, size, opened):
    """As AutoRound's symmetric ones: every product of a half and a code fits float32."""
    signs = torch.ones(32, 96 // size).half()
    signs[::2], signs[5] = -1, 0
    tensors, values = gptq(bits, 96, 32, size, middle=middle, signs=signs)
    config = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": bits}
    file = opened(tensors, config | {"group_size": size})
    x = file["l.weight"]
    assert type(x) is Blocks and x.group_size == size and (x.minimum is None) == middle
    assert torch.equal(x.dequantize(), values)
    assert torch.equal(x.scale.half(), tensors["l.scales"].T)
    assert f"{bits} bits, {'symmetric' if middle else 'float minimum'}" in report(file.path)


def test_a_minimum_that_halves_hold_is_one(opened):
    """-2 * 3 is -6; -0.1 * 3 in float16 is not -0.3."""
    for scale, dtype in ((-2.0, torch.float16), (-0.1, torch.float32)):
        q, z = torch.tensor([[-7, 3]]).to(torch.int8), torch.tensor([[3]]).to(torch.int8)
        tensors = {"l.weight": q, "l.weight_scale": torch.tensor([[scale]]).half()}
        x = opened(tensors | {"l.weight_zero_point": z})["l.weight"]
        assert x.scale.dtype == x.minimum.dtype == dtype
        wanted = torch.tensor(scale).half().float() * torch.tensor([[-10.0, 0.0]])
        assert torch.equal(x.dequantize(), wanted)


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (3, 2)])
def test_a_scale_of_0_is_read_in_bytes(shape, opened):
    q, scale = drawn(-128, 128, 3, 64).to(torch.int8), scales(*shape, dtype=torch.float32)
    scale.view(-1)[0] = 0
    x = opened({"l.weight": q, "l.weight_scale": scale}, {"group_size": 32})["l.weight"]
    rows = scale if len(shape) > 1 else scale.expand(3).unsqueeze(1)
    wanted = rows.repeat_interleave(64 // rows.shape[1], 1) * q.float()
    assert type(x) is Blocks and torch.equal(x.dequantize(), wanted)


def test_listed_groups_with_negative_scales_are_listed_and_not_read(opened):
    index = torch.arange(96) % 3
    file = opened(gptq(4, 96, 32, 32, index, signs=torch.tensor(-1.0).half())[0])
    with pytest.raises(NotRead, match="holds scales of listed groups that are not positive"):
        file["l.weight"]
    assert "not read" in report(file.path)


@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 4, 3, 3), (8,)])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_what_is_no_matrix_does_not_close_the_file(shape, dtype, opened):
    """Experts in one tensor, convolutions."""
    ones = torch.ones(shape[0], *(1 for _ in shape[1:]))
    tensors = {"l.weight": torch.ones(shape).to(dtype), "l.weight_scale": ones}
    file = opened(tensors | {"b": torch.ones(2)})
    assert file["b"].tolist() == [1, 1] and file.stored["l.weight"].shape == shape
    with pytest.raises(NotRead, match="of shape .*, and qlesson reads matrices alone|has shape"):
        file["l.weight"]
    assert "not read" in report(file.path)


def test_torchaos_codes_of_three_axes_do_not_close_the_file(opened):
    said = {"_type": "Int8Tensor", "_data": {"block_size": [1, 1, 8]}, "_tensor_data_names": []}
    tensors = {"0._weight_qdata": torch.ones(2, 4, 8).to(torch.int8), "b": torch.ones(2),
               "0._weight_scale": torch.ones(2, 4, 1)}  # fmt: skip
    file = opened(tensors, metadata={"0.weight": json.dumps(said)})
    assert file["b"].tolist() == [1, 1]
    with pytest.raises(NotRead, match=r"has shape \(2, 4, 8\), and qlesson reads matrices alone"):
        file["0.weight"]


def test_gptqs_largest_zero_point_wraps_to_0(opened):
    tensors, _ = gptq(4, 32, 32, 32)
    tensors["l.qzeros"] = torch.full_like(tensors["l.qzeros"], -1)
    assert not opened(tensors)["l.weight"].zero_point.any()


def test_gptq_with_act_order_and_with_neighbours_in_g_idx(opened):
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    index = torch.arange(96)[order] // 32
    tensors, values = gptq(4, 96, 32, 32, index)
    x = opened(tensors, {"group_size": 32, "desc_act": True})["l.weight"]
    assert type(x.scheme.granularity) is PerIndex and torch.equal(x.dequantize(), values)
    ramp = torch.randn(2, 96, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(QuantizedLinear(x)(ramp), ramp @ values.T, atol=1e-3)
    tensors, values = gptq(4, 96, 32, 32, torch.arange(96) // 32)
    x = opened(tensors)["l.weight"]
    assert x.scheme.granularity == ql.PerGroup(32) and torch.equal(x.dequantize(), values)


def test_an_index_that_lists_nothing_is_no_order(opened):
    """exllamav2 reads 0 alone so; of compressed-tensors' -1 see its own test."""
    tensors, values = gptq(4, 96, 32, 32)
    x = opened(tensors | {"l.g_idx": torch.zeros(96, dtype=torch.int32)})["l.weight"]
    assert x.scheme.granularity == ql.PerGroup(32) and torch.equal(x.dequantize(), values)
    with pytest.raises(ValueError, match="lists groups up to 1, and there are 3"):
        opened(tensors | {"l.g_idx": torch.arange(96).int() // 48})["l.weight"]


def test_gptq_with_one_scale_for_a_row(opened):
    tensors, values = gptq(4, 96, 32, 96)
    x = opened(tensors, {"group_size": -1})["l.weight"]
    assert x.scheme.granularity == ql.PerAxis(0) and torch.equal(x.dequantize(), values)


def test_groups_listed_in_any_order_are_cut_by_rows_alone():
    index = tuple(i * 7 % 5 for i in range(1003))
    w = torch.randn(300, 1003, generator=torch.Generator().manual_seed(0))  # more than one piece
    x = ql.quantize(w, ql.Scheme(4, granularity=PerIndex(index)))
    scale, z = (t[:, list(index)] for t in (x.scale, x.zero_point.float()))
    assert torch.equal(x.dequantize(), scale * (x.q - z))
    assert (w - x.dequantize()).abs().le(scale * 0.5001).all()


def test_groups_listed_in_any_order_can_be_quantized_anew():
    granularity, r = PerIndex((1, 0, 1, 0)), torch.tensor([[1.0, -8.0, 2.0, 4.0]])
    x = ql.quantize(r, ql.Scheme(8, "symmetric", granularity))
    assert torch.equal(x.scale, torch.tensor([[8.0, 2.0]]) / 127)
    assert torch.allclose(x.dequantize(), r, atol=0.04)


def awq(inputs, outputs, size):
    """AutoAWQ's WQLinear_GEMM.from_linear, its loops."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    q, z = drawn(0, 16, inputs, outputs), drawn(0, 16, inputs // size, outputs, seed=1)
    packed = []
    for codes in (q, z):
        words = torch.zeros(len(codes), outputs // 8, dtype=torch.int64)
        for column in range(outputs // 8):
            for i in range(8):
                words[:, column] |= codes[:, column * 8 + order[i]] << (i * 4)
        packed.append((words - ((words >> 31) << 32)).to(torch.int32))
    s = scales(inputs // size, outputs)
    wide = [x.repeat_interleave(size, 0) for x in (s.float(), z)]
    return dict(zip(("l.qweight", "l.qzeros"), packed, strict=True)) | {"l.scales": s}, (
        wide[0] * (q - wide[1]).float()
    ).T


def test_awq(opened):
    tensors, values = awq(64, 48, 32)
    x = opened(tensors, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"})
    assert torch.equal(x["l.weight"].dequantize(), values)
    assert x["l.weight"].scheme.scale_dtype == torch.float16


def test_awq_without_zero_points_has_8_for_all(opened):
    """As its authors write a symmetric layer: "zero_point": false, and no qzeros."""
    tensors, _ = awq(64, 48, 32)
    del tensors["l.qzeros"]
    x = opened(tensors, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"})
    scale = tensors["l.scales"].float().repeat_interleave(32, 0)
    assert torch.equal(x["l.weight"].dequantize(), (scale * (drawn(0, 16, 64, 48) - 8)).T)


def test_awq_as_compressed_tensors_converts_it(opened):
    converters = peers.compressed_tensors(".entrypoints.convert.converters.autoawq")
    converter = converters.AutoAWQConverter(group_size=32)
    tensors, values = awq(64, 48, 32)
    config = json.loads(converter._build_quant_config().model_dump_json())
    x = opened(converter.process(dict(tensors)), config)["l.weight"]
    assert torch.equal(x.dequantize(), values)


@pytest.mark.parametrize("config, why", [
    ({"version": "gemv"}, "is in the layout 'gemv'"),
    ({"version": "GEMV", "w_bit": 4}, "is in the layout 'gemv'"),
    ({"backend": "llm-awq"}, "is in the layout 'llm-awq'"),
    ({"checkpoint_format": "marlin"}, "is in the layout 'marlin'"),
    ({"quant_method": "auto-round", "packing_format": "auto_round:mlx"}, "layout 'auto_round:mlx"),
    ({"quant_method": "intel/auto-round", "backend": "auto_round:qbits"}, "'auto_round:qbits'"),
    ({"quant_method": "intel/auto-round", "backend": "auto"}, "is in the layout 'auto'"),
    ({"quant_method": "auto-round"}, "is in the layout 'auto-round'"),
    ({"format": "gptq_v2", "checkpoint_format": "gptq"}, "in the layout 'gptq or gptq_v2'"),
    ({"quant_method": "squeezellm"}, "was quantized by 'squeezellm'"),
    ({"quant_method": ["x"]}, "was quantized by"), ({"format": {"a": 1}}, "is in the layout"),
])  # fmt: skip
def test_other_layouts_of_the_same_shapes_are_listed_and_not_read(config, why, opened):
    file = opened(awq(64, 48, 32)[0] | {"other": torch.ones(2)}, config)
    assert list(file) == ["l.weight", "other"] and torch.equal(file["other"], torch.ones(2))
    with pytest.raises(NotRead, match=f"{why}.*, which qlesson does not read") as told:
        file["l.weight"]
    assert "damaged" not in str(told.value)  # nothing is wrong with the file


def test_other_peoples_parts_do_not_close_the_file(opened):
    """SqueezeLLM's qweight, llm-awq's int16, marlin-24's weight_packed."""
    others = {
        "a.qweight": torch.zeros(4, 8, dtype=torch.int32), "a.lookup_table": torch.zeros(8, 16),
        "b.qweight": torch.zeros(2, 8, dtype=torch.int16), "b.scales": torch.zeros(1, 8).half(),
        "c.weight_packed": torch.zeros(4, 8, dtype=torch.int32), "c.meta": torch.zeros(4, 8),
        "d.weight": torch.ones(2),
    }  # fmt: skip
    file = opened(others)
    assert file["d.weight"].tolist() == [1, 1]
    for name in "abc":
        with pytest.raises(NotRead, match="qlesson does not read"):
            file[f"{name}.weight"]


def test_a_layout_that_the_shapes_contradict_is_refused(opened):
    with pytest.raises(ValueError, match="has shape .*, which is none of gptq"):
        opened(awq(64, 48, 32)[0], {"quant_method": "gptq", "checkpoint_format": "gptq"})
    with pytest.raises(ValueError, match="has shape .*, which is none of gemm"):
        opened(gptq(4, 64, 32, 32)[0], {"quant_method": "awq", "version": "GEMM"})


# --- compressed-tensors ---


def scheme_of(**args):
    peers.compressed_tensors()
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))


def compressed(name, tensors, **args):
    """(tensors, configuration, values) by the package's own compressor."""
    scheme = scheme_of(**args)
    from compressed_tensors.compressors.base import BaseCompressor

    compressor = BaseCompressor.get_value_from_registry(name)
    made = compressor.compress(tensors, scheme)
    values = compressor.decompress(dict(made), scheme)["weight"]
    said = json.loads(scheme.model_dump_json())
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": said}}
    return {f"l.{n}": x.contiguous() for n, x in made.items()}, config, values


def given(outputs, inputs, groups, bits, zeros):
    """A weight, its scales, and its zero points."""
    w = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))
    made = {
        "weight": w,
        "weight_scale": scales(outputs, groups, dtype=torch.float32) / 2 ** (bits - 3),
    }
    if zeros:
        half = 2 ** (bits - 1)
        made["weight_zero_point"] = drawn(-half, half, outputs, groups, seed=4).to(torch.int8)
    return made


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("zeros", [False, True])
def test_compressed_tensors_packed(bits, zeros, opened):
    tensors = given(20, 96, 3, bits, zeros)
    how = dict(num_bits=bits, symmetric=not zeros, strategy="group", group_size=32)
    made, config, values = compressed("pack-quantized", tensors, **how)
    x = opened(made, config)["l.weight"]
    assert isinstance(x, ql.QTensor) and x.scheme.bits == bits
    assert x.scheme.granularity == ql.PerGroup(32) and torch.equal(x.dequantize(), values)
    unordered = torch.full((96,), -1, dtype=torch.int32)
    again = opened(made | {"l.weight_g_idx": unordered}, config)["l.weight"]
    assert again.scheme == x.scheme and torch.equal(again.dequantize(), values)


def padded(codes, bits):
    """Words of 32 // bits codes each."""
    per_word = 32 // bits
    rows = torch.nn.functional.pad(codes, (0, -codes.shape[1] % per_word))
    return torch.cat([stream(x, bits) for x in rows.split(per_word, 1)], 1)


@pytest.mark.parametrize("said", [{"version": "0.14.0"}, {}])
@pytest.mark.parametrize("bits", BITS)
def test_compressed_tensors_before_0_18_padded_its_words(bits, said, opened):
    tensors, half = given(20, 96, 1, bits, True), 2 ** (bits - 1)
    how = dict(num_bits=bits, symmetric=False, strategy="channel")
    made, config, values = compressed("pack-quantized", tensors, **how)
    dense = opened(made, config)["l.weight"]
    made["l.weight_packed"] = padded(dense.q.long() + half, bits)
    made["l.weight_zero_point"] = padded(dense.zero_point.long().T + half, bits).T
    x = opened(made, config | said)["l.weight"]
    assert x.scheme.granularity == ql.PerAxis(0) and torch.equal(x.dequantize(), values)


def test_the_version_tells_words_apart_where_their_number_does_not(opened):
    """20 codes of 3 bits take two words either way."""
    how = dict(num_bits=3, symmetric=True, strategy="channel")
    made, config, values = compressed("pack-quantized", given(32, 20, 1, 3, False), **how)
    for version in ({}, {"version": "0.18.0"}, {"version": "1.2"}):
        dense = opened(made, config | version)["l.weight"]
        assert torch.equal(dense.dequantize(), values)
    made["l.weight_packed"] = padded(dense.q.long() + 4, 3)
    x = opened(made, config | {"version": "0.17.3"})["l.weight"]
    assert torch.equal(x.dequantize(), values)


@pytest.mark.parametrize("how", [
    dict(strategy="channel"), dict(strategy="tensor"), dict(strategy="group", group_size=32),
])  # fmt: skip
@pytest.mark.parametrize("zeros", [False, True])
def test_compressed_tensors_in_bytes(how, zeros, opened):
    tensors = given(20, 96, 3 if "group_size" in how else 1, 8, zeros)
    if how["strategy"] == "tensor":
        tensors = {n: x[:1, 0] if n != "weight" else x for n, x in tensors.items()}
    made, config, values = compressed("int-quantized", tensors, symmetric=not zeros, **how)
    x = opened(made, config)["l.weight"]
    assert torch.equal(x.dequantize(), values)


def test_compressed_tensors_fp8_by_rows_and_in_blocks(opened):
    tensors = given(20, 96, 1, 8, False)
    made, config, values = compressed("float-quantized", tensors, type="float", strategy="channel")
    x = opened(made, config)["l.weight"]
    assert isinstance(x, BookBlocks) and torch.equal(x.dequantize(), values)
    w = torch.randn(200, 300, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    inverse = scales(2, 3, dtype=torch.float32)
    x = opened({"l.weight": w, "l.weight_scale_inv": inverse}, {"quant_method": "fp8"})["l.weight"]
    wide = inverse.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    assert torch.equal(x.dequantize(), wide * w.float())
    x = opened({"l.weight": w, "l.weight_scale": torch.tensor(0.5)})["l.weight"]
    assert torch.equal(x.dequantize(), 0.5 * w.float()) and x.bits_per_value == 8 + 32 / w.numel()


def floats_of(kind, **args):
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    size = args["group_size"]
    powers = 2.0 ** drawn(-4, 3, 6, 64 // size).float()
    return kind, {"weight": w, "weight_scale": powers}, dict(type="float", strategy="group") | args


@pytest.mark.parametrize("name, tensors, args", [
    floats_of("mxfp4-pack-quantized", num_bits=4, group_size=32, scale_dtype="torch.uint8"),
    floats_of("mxfp6-pack-quantized", num_bits=6, group_size=32, scale_dtype="torch.uint8"),
    floats_of("mxfp8-quantized", num_bits=8, group_size=32, scale_dtype="torch.uint8"),
])  # fmt: skip
def test_mx_in_compressed_tensors(name, tensors, args, opened):
    made, config, values = compressed(name, tensors, **args)
    x = opened(made, config)["l.weight"]
    assert isinstance(x, BookBlocks) and x.bits == args["num_bits"]
    assert torch.equal(x.dequantize(), values.float())
    assert x.bits_per_value == args["num_bits"] + 8 / 32


def test_nvfp4_in_compressed_tensors_and_in_modelopt(opened):
    kind, tensors, args = floats_of("nvfp4-pack-quantized", num_bits=4, group_size=16)
    args["strategy"] = "tensor_group"
    tensors["weight_global_scale"] = torch.tensor([4.0])
    made, config, values = compressed(kind, tensors, **args)
    x = opened(made, config)["l.weight"]
    assert torch.equal(x.dequantize(), values.float()) and x.bits_per_value == 4.5
    other = {
        "l.weight": made["l.weight_packed"], "l.weight_scale": made["l.weight_scale"],
        "l.weight_scale_2": torch.tensor(0.25),
    }  # fmt: skip
    assert torch.equal(opened(other)["l.weight"].dequantize(), x.dequantize())


def groups_of(*several, **more):
    """A configuration in which layers differ, and nothing says here which layer is which."""
    named = {f"group_{i}": {"targets": ["re:.*"], "weights": x} for i, x in enumerate(several)}
    return {"quant_method": "compressed-tensors", "config_groups": named} | more


def test_bytes_have_the_bits_of_all_layers_or_8(opened):
    q = torch.tensor([[-127, 3, 126, 0]], dtype=torch.int8)
    four, eight, scale = {"num_bits": 4}, {"num_bits": 8}, torch.tensor([[0.5]])
    for codes, said, bits in [(q, (four, eight), 8), (q, (four,), 8), (q, (), 8),
                              (q % 8, (four,), 4), (q % 8, (four, eight), 8)]:  # fmt: skip
        x = opened({"l.weight": codes, "l.weight_scale": scale}, groups_of(*said))["l.weight"]
        assert x.scheme.bits == bits and torch.equal(x.dequantize(), 0.5 * codes.float())


def test_the_size_of_groups_is_said_or_divides_the_row(opened):
    q, scale = drawn(-9, 9, 4, 192).to(torch.int8), scales(4, 2, dtype=torch.float32)
    for said, size in [((), 96), ((128,), 128), ((128, 96), 96), ((64, 128), 128), (("x", 0), 96)]:
        config = groups_of(*({"num_bits": 8, "group_size": n} for n in said))
        x = opened({"l.weight": q, "l.weight_scale": scale}, config)["l.weight"]
        assert x.scheme.granularity == ql.PerGroup(size), said
        wide = scale.repeat_interleave(size, 1)[:, :192]
        assert torch.equal(x.dequantize(), wide * q.float())
    config = groups_of({"group_size": 128}, {"group_size": 120})
    with pytest.raises(ValueError, match="has 2 scales for 192 values, and no group_size says"):
        opened({"l.weight": q, "l.weight_scale": scale}, config)["l.weight"]


def test_words_that_may_have_two_numbers_of_bits_are_not_read(opened):
    """Padded words hold four codes of 7 bits or of 8."""
    made = {"l.weight_packed": drawn(0, 99, 8, 48).to(torch.int32)}
    made |= {"l.weight_scale": torch.ones(8, 1), "l.weight_shape": torch.tensor([8, 192])}
    both = groups_of({"num_bits": 7}, {"num_bits": 8}, version="0.17.1")
    with pytest.raises(NotRead, match="may have 7 or 8 bits, which qlesson does not read"):
        opened(made, both)["l.weight"]
    assert opened(made, both | {"version": "0.18.0"})["l.weight"].scheme.bits == 8


# --- gpt-oss, bitsandbytes, torchao ---


def test_mxfp4_of_gpt_oss(opened):
    blocks = drawn(0, 256, 2, 3, 4, 16).to(torch.uint8)
    powers = drawn(120, 130, 2, 3, 4, seed=1).to(torch.uint8)
    x = opened({"e.gate_blocks": blocks, "e.gate_scales": powers})["e.gate"]
    book = torch.cat([codebooks.e2m1(), -codebooks.e2m1()])
    for at in [(0, 0, 0, 0), (1, 2, 3, 15), (1, 0, 2, 7)]:
        byte, scale = int(blocks[at]), 2.0 ** (int(powers[at[:3]]) - 127)
        wanted = [scale * book[byte & 15], scale * book[byte >> 4]]
        first = at[2] * 32 + 2 * at[3]
        assert x.dequantize()[at[0], at[1], first : first + 2].tolist() == wanted


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(6, 128), (5, 48)])
def test_bitsandbytes(shape, nested, opened):
    n = shape[0] * shape[1]
    codes, book = drawn(0, 16, n), codebooks.nf4()
    data = (codes[::2] << 4 | codes[1::2]).to(torch.uint8).view(-1, 1)
    blocks = -(-n // 64)
    state = {"shape": list(shape), "blocksize": 64, "quant_type": "nf4", "dtype": "bfloat16"}
    tensors = {"l.weight": data, "l.weight.quant_map": book}
    absmax = scales(blocks, dtype=torch.float32)
    if nested:
        state |= {"nested_blocksize": 256, "nested_offset": 0.25, "nested_dtype": "float32"}
        levels, of_many = torch.linspace(-1, 1, 256), torch.tensor([0.5])
        places = drawn(0, 256, blocks, seed=1).to(torch.uint8)
        absmax = levels[places.long()] * 0.5 + 0.25
        more = {"absmax": places, "nested_absmax": of_many, "nested_quant_map": levels}
    else:
        more = {"absmax": absmax}
    tensors |= {f"l.weight.{name}": x for name, x in more.items()}
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    file = opened(tensors | {"l.weight.quant_state.bitsandbytes__nf4": text})
    assert list(file) == ["l.weight"] and file.stored["l.weight"].kind == "bitsandbytes NF4"
    wanted = (absmax.repeat_interleave(64)[:n] * book[codes]).view(shape)
    assert torch.equal(file["l.weight"].dequantize(), wanted)
    layer = QuantizedLinear(file["l.weight"]).half()  # which does not round the book
    assert torch.equal(layer.codes.values(torch.float32), wanted)
    assert file["l.weight"].bits_per_value == pytest.approx(4 + (8 if nested else 32) * blocks / n)
    for kind in (torch.bfloat16, torch.float32):  # bnb_4bit_quant_storage
        stored = {"l.weight": data.view(-1).view(kind)[:, None]}
        other = opened(tensors | stored | {"l.weight.quant_state.bitsandbytes__nf4": text})
        assert torch.equal(other["l.weight"].dequantize(), wanted)


def test_bitsandbytes_8_bits(opened):
    q, most = drawn(-127, 128, 5, 48).to(torch.int8), scales(5, dtype=torch.float32)
    tensors = {"l.weight": q, "l.SCB": most, "l.weight_format": torch.tensor(0, dtype=torch.uint8)}
    file = opened(tensors)
    assert list(file) == ["l.weight"] and file.stored["l.weight"].kind == "bitsandbytes INT8"
    assert torch.equal(file["l.weight"].q, q)
    wanted = q.double() * most.double()[:, None] / 127
    torch.testing.assert_close(file["l.weight"].dequantize().double(), wanted, rtol=2e-7, atol=0)
    turned = opened(tensors | {"l.weight_format": torch.tensor(2, dtype=torch.uint8)})
    with pytest.raises(formats.NotRead, match="as a GPU took them"):
        turned["l.weight"]
    with pytest.raises(ValueError, match="is damaged"):
        opened(tensors | {"l.SCB": most[:4]})["l.weight"]


def test_torchaos_plain_tensors(opened):
    peers.peer("torchao")
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        quantize_,
    )
    from torchao.quantization.granularity import PerGroup

    configs = {
        "int8": Int8WeightOnlyConfig(version=2),
        "int4": IntxWeightOnlyConfig(torch.int4, granularity=PerGroup(32)),
        "fp8": Float8WeightOnlyConfig(),
    }
    for name, config in configs.items():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 16, bias=False))
        quantize_(model, config)
        tensors, metadata = flatten_tensor_state_dict(model.state_dict())
        x = opened(tensors, metadata=metadata)["0.weight"]
        wanted = model[0].weight.dequantize()
        assert torch.equal(x.dequantize(), wanted), name
        assert isinstance(x, Blocks if name == "fp8" else ql.QTensor)
        assert name == "fp8" or x.scheme.bits == int(name[-1])


@pytest.mark.parametrize("kind", ["Int4Tensor", "Int4TilePackedTo4dTensor"])
def test_torchaos_other_classes_are_refused_by_name(opened, kind):
    said = {"_type": kind, "_data": {}, "_tensor_data_names": []}
    metadata = {"0.weight": json.dumps(said), "tensor_names": '["0.weight"]'}
    file = opened({"0._weight_qdata": torch.zeros(2, 2)}, metadata=metadata)
    with pytest.raises(NotRead, match=f"{kind}, which .*packed or laid out for a kernel"):
        file["0.weight"]
