"""Quantized safetensors whose parts do not fit together: a sentence or a value, nothing else."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from qlesson.files import formats


def i32(*shape):
    return torch.arange(shape[0] * shape[1], dtype=torch.int32).view(shape) * 77777


def u8(*shape):
    return (torch.arange(torch.Size(shape).numel()) % 251).to(torch.uint8).view(shape)


def state(**more):
    said = {"shape": [4, 64], "blocksize": 64, "nested_blocksize": 256, "nested_offset": 0.5} | more
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


HALF = torch.ones(2, 32, dtype=torch.float16)
E8 = torch.zeros(4, 64).to(torch.float8_e4m3fn)
AO = {"_type": "Int8Tensor", "_data": {"block_size": [1, 64]}, "_tensor_data_names": []}
GOOD = {
    "gptq": {"l.qweight": i32(8, 32), "l.qzeros": i32(2, 4), "l.scales": HALF,
             "l.g_idx": (torch.arange(64) // 32).to(torch.int32)},
    "awq": {"l.qweight": i32(64, 4), "l.qzeros": i32(2, 4), "l.scales": HALF},
    "packed": {"l.weight_packed": i32(32, 8), "l.weight_scale": HALF.T, "l.weight_shape":
               torch.tensor([32, 64]), "l.weight_zero_point": i32(4, 2)},
    "bytes": {"l.weight": u8(4, 64).view(torch.int8), "l.weight_scale": torch.ones(4, 2),
              "l.weight_zero_point": torch.zeros(4, 2, dtype=torch.int8)},
    "fp8": {"l.weight": E8, "l.weight_scale_inv": torch.ones(1, 1)},
    "mx": {"l.weight_packed": u8(4, 32), "l.weight_scale": u8(4, 2)},
    "nvfp4": {"l.weight": u8(4, 32), "l.weight_scale": E8[:, :4],
              "l.weight_scale_2": torch.ones(1)},
    "gpt-oss": {"l_blocks": u8(4, 2, 16), "l_scales": u8(4, 2)},
    "bnb": {"l.weight": u8(128, 1), "l.weight.absmax": u8(4), "l.weight.quant_map": torch.ones(16),
            "l.weight.nested_absmax": torch.ones(1), "l.weight.nested_quant_map": torch.ones(256),
            "l.weight.quant_state.bitsandbytes__nf4": state()},
    "torchao": {"l._weight_qdata": u8(4, 64).view(torch.int8), "l._weight_scale": torch.ones(4, 1)},
}  # fmt: skip
CHANGES = {
    "none": lambda x: x,
    "gone": lambda x: None,
    "shorter": lambda x: x[:-1],
    "narrower": lambda x: x[..., :-1],
    "turned": lambda x: x.T if x.ndim == 2 else x,
    "flat": lambda x: x.flatten(),
    "deeper": lambda x: x.unsqueeze(0),
    "floats": lambda x: x.float(),
    "bytes": lambda x: x.contiguous().view(torch.uint8) if x.ndim else x,
    "empty": lambda x: x[:0],
    "minus one": lambda x: torch.full_like(x, -1) if x.dtype != torch.float8_e4m3fn else x,
    "nothing": lambda x: torch.zeros_like(x),
}
CONFIGS = {
    "none": {}, "lists": {"config_groups": [1], "group_size": "x", "bits": None},
    "wrong": {"config_groups": {"a": {"weights": {"num_bits": 3, "group_size": 7}}},
              "group_size": 7, "bits": 3, "weight_block_size": [0, "x"], "version": "a.b"},
    "numbers": {"weight_block_size": 5, "config_groups": {"a": 5, "b": {"weights": None}}},
}  # fmt: skip


def said(tensors, config, folder) -> str:
    """What reading all of it says; "" for values."""
    tensors = {n: x.contiguous().clone() for n, x in tensors.items() if x is not None}
    metadata = {"l.weight": json.dumps(AO)} if any("_qdata" in n for n in tensors) else None
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    try:
        with formats.open(folder) as file:
            for name in file:
                file[name].shape  # noqa: B018
                if not isinstance(file[name], torch.Tensor):
                    assert file[name].dequantize().shape == file.stored[name].shape
        return ""
    except ValueError as error:
        text = str(error)
        assert text.endswith(".") and "\n" not in text and "l" in text and ": " in text
        return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@pytest.mark.parametrize("name", GOOD)
def test_the_good_ones_are_good(name, folder):
    assert said(GOOD[name], {}, folder) == ""


@given(st.data())
def test_parts_that_do_not_fit_meet_a_sentence_or_a_value(folder, data):
    tensors = dict(GOOD[data.draw(st.sampled_from(list(GOOD)))])
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(list(tensors)))
        change = CHANGES[data.draw(st.sampled_from(list(CHANGES)))]
        if tensors[name] is not None and tensors[name].numel():
            tensors[name] = change(tensors[name])
    said(tensors, CONFIGS[data.draw(st.sampled_from(list(CONFIGS)))], folder)


def test_a_scale_for_all_is_one_number(folder):
    tensors = GOOD["nvfp4"] | {"l.weight_scale_2": torch.ones(2)}
    assert "has shape (2,), and must be one number" in said(tensors, {}, folder)


@pytest.mark.parametrize("lie", [
    dict(shape=[10**9, 10**9]), dict(shape=[]), dict(shape="x"), dict(shape=[4, -64]),
    dict(shape=[True, 256]), dict(blocksize=0), dict(blocksize=10**18), dict(nested_blocksize=0),
    dict(nested_offset="x"), dict(shape=None), dict(nested_offset=10**400),
    dict(nested_offset=float("inf")), dict(nested_offset=float("nan")), dict(nested_offset=1e39),
])  # fmt: skip
def test_a_state_of_bitsandbytes_that_lies(lie, folder):
    tensors = GOOD["bnb"] | {"l.weight.quant_state.bitsandbytes__nf4": state(**lie)}
    assert said(tensors, {}, folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"quantization_config": 7}', "[" * 10**5])
def test_a_configuration_that_is_none(text, folder):
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text(text)
    try:
        assert list(formats.open(folder)) == ["a"]
    except ValueError as error:
        assert str(error).endswith("config.json is no JSON: it is damaged.")


@pytest.mark.parametrize("end", [0, 7, 8, 50, 300, -1])
def test_a_file_that_is_cut(end, folder):
    save_file(GOOD["gptq"], folder / "model.safetensors")
    (folder / "config.json").unlink(missing_ok=True)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:end])
    with pytest.raises(ValueError, match="is no safetensors file, or a damaged one"):
        formats.open(folder / "model.safetensors")
