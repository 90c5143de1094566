"""The folder of a Llama-type model, as people publish it, to one GGUF file: `to_gguf`.

The folder holds config.json, tokenizer.json and safetensors, plain or quantized (these are made
floats first). llama.cpp names the tensors otherwise, and turns neighbours of q and k by rotary
positions, where the folder's code turns value i with value i + half: so the rows of each head
change places, 0, half, 1, half + 1, ...

Source: convert_hf_to_gguf.py in the repository of llama.cpp, `LlamaModel`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.error import sqnr
from qlesson.files.formats.opened import Opened
from qlesson.files.formats.quantizers import NUMBERS, WRITTEN, quantize
from qlesson.files.formats.safetensors import Safetensors
from qlesson.files.formats.steps import whole_number
from qlesson.files.formats.write import Planned, write_planned
from qlesson.report import Row, naming

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_A_BLOCK = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
FILE_TYPES = {  # enum llama_ftype
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9,
}  # fmt: skip
NORMAL, CONTROL, OWN, UNUSED = 1, 3, 4, 5  # enum llama_token_type
MOST = 2**24  # of any number in config.json


def to_gguf(source: str | Path, target: str | Path, type: str = "Q8_0") -> list[Row]:
    """Write a Llama-type model as GGUF, tensor by tensor; a Row for each.

    source  the folder with config.json, tokenizer.json and safetensors
    target  the file to write
    type    of the matrices, as in `gguf.quantize`; the embedding and the head of a file of 4 or
            5 bits are Q8_0, and vectors F32

    Raises ValueError for a model that is not of Llama's type, and for a tokenizer other than the
    byte-level BPE of GPT-2, Llama 3 and SmolLM.
    """
    checks.one_of("type", type, WRITTEN)
    source, target = checks.path("source", source), checks.new_file("target", target)
    config = _json(source / "config.json")
    metadata = _of_model(source, config) | _of_tokens(source, config)
    metadata["general.file_type"] = FILE_TYPES[type]
    rows: list[Row] = []
    with Safetensors(source) as file:
        planned = {}
        names = [name for name in file if not name.endswith("rotary_emb.inv_freq")]
        tied = "lm_head.weight" in names and config.get("tie_word_embeddings") is True
        bar = tqdm(total=len(names), desc="quantize", disable=None)
        for name in names:
            if not (tied and name == "lm_head.weight"):
                new = _new_name(source, name)
                planned[new] = _planned(file, name, new, config, type, rows, bar)
        with bar:
            write_planned(target, planned, metadata)
    return rows


def _planned(
    file: Opened,
    name: str,
    new: str,
    config: Mapping[str, Any],
    type: str,
    rows: list[Row],
    bar: tqdm,
) -> Planned:
    stored = file.stored[name]
    outer = new in ("token_embd.weight", "output.weight") and type.startswith(("Q4", "Q5"))
    kind = "F32" if len(stored.shape) < 2 else "Q8_0" if outer else type

    def make() -> Blocks | Tensor:
        x = file[name]
        r = (x if isinstance(x, Tensor) else x.dequantize()).float()
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
        for part, key in heads.items():
            if f".{part}." in new:
                r = _by_neighbours(r, _number(config, key, "num_attention_heads"), name)
        with naming(name):
            made = quantize(r, kind)
        r_hat = made.float() if isinstance(made, Tensor) else made.dequantize()
        error = None if kind == "F32" else sqnr(r, r_hat).item()
        rows.append(Row(new, stored.shape, stored.nbytes, plan.nbytes, error))
        bar.update()
        return made

    plan = Planned(NUMBERS[kind], stored.shape, make)
    return plan


def _by_neighbours(r: Tensor, heads: int, name: str) -> Tensor:
    """The rows 0, half, 1, half + 1, ... of each head."""
    if r.shape[0] % (2 * heads):
        raise ValueError(
            f"{name} has {r.shape[0]} rows, and {heads} heads cannot share them: its config.json "
            "is of another model."
        )
    return r.view(heads, 2, -1, r.shape[1]).transpose(1, 2).reshape(r.shape)


def _new_name(source: Path, name: str) -> str:
    """llama.cpp's name of a tensor."""
    inner = re.fullmatch(r"model\.layers\.(\d{1,4})\.([a-z_.]+)\.weight", name)
    if inner and inner[2] in IN_A_BLOCK:
        return f"blk.{int(inner[1])}.{IN_A_BLOCK[inner[2]]}.weight"
    if name not in NAMES:
        raise ValueError(
            f"{source} holds {checks.shown(name)}, which a Llama has not: convert it with "
            "llama.cpp's own converter."
        )
    return NAMES[name]


def _of_model(source: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The keys of the architecture."""
    rope = config.get("rope_parameters") or {}
    scaled = config.get("rope_scaling") or rope.get("rope_type", "default") != "default"
    if config.get("model_type") != "llama" or scaled:
        what = "scaled rotary positions" if scaled else f"type {config.get('model_type')!r}"
        raise ValueError(
            f"{source} holds a model of {checks.shown(what)}: only Llama's type, with plain rotary "
            "positions, is converted here; llama.cpp's own converter knows more."
        )
    width, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    keys = {
        "block_count": _number(config, "num_hidden_layers"),
        "context_length": _number(config, "max_position_embeddings"),
        "embedding_length": width,
        "feed_forward_length": _number(config, "intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": _number(config, "num_key_value_heads", "num_attention_heads"),
        "rope.dimension_count": whole_number(config.get("head_dim"), 1, MOST) or width // heads,
        "rope.freq_base": float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0),
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "vocab_size": _number(config, "vocab_size"),
    }
    general = {
        "general.architecture": "llama", "general.name": source.resolve().name,
        "general.quantization_version": 2,
    }  # fmt: skip
    return general | {f"llama.{key}": x for key, x in keys.items()}


def _of_tokens(source: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The keys of the tokenizer: its tokens in the order of their ids, and its merges."""
    said = _json(source / "tokenizer.json")
    more = source / "tokenizer_config.json"
    settings = _json(more) if more.is_file() else {}
    try:
        ids = {i: token for token, i in said["model"]["vocab"].items()}
        added = {x["id"]: x for x in said.get("added_tokens") or []}
        merges = [m if isinstance(m, str) else " ".join(m) for m in said["model"]["merges"]]
        ids |= {i: x["content"] for i, x in added.items()}
        kinds = {i: CONTROL if x["special"] else OWN for i, x in added.items()}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{source / 'tokenizer.json'} is no BPE with a vocabulary, merges and added tokens: "
            "convert the model with llama.cpp's own converter."
        ) from None
    places = range(_number(config, "vocab_size"))
    keys = {
        "model": "gpt2",
        "pre": _pre_tokenizer(source, said),
        "tokens": [ids.get(i, f"[PAD{i}]") for i in places],
        "token_type": [kinds.get(i, NORMAL if i in ids else UNUSED) for i in places],
        "merges": merges,
        "add_bos_token": settings.get("add_bos_token") is True,
    }
    for name in ("bos", "eos", "pad"):
        given = config.get(f"{name}_token_id")
        place = whole_number(given[0] if isinstance(given, list) and given else given, 0, MOST)
        if place is not None:
            keys["padding_token_id" if name == "pad" else f"{name}_token_id"] = place
    metadata = {f"tokenizer.ggml.{key}": x for key, x in keys.items()}
    if isinstance(settings.get("chat_template"), str):
        metadata["tokenizer.chat_template"] = settings["chat_template"]
    return metadata


def _pre_tokenizer(source: Path, said: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which text is cut into words."""
    cuts = said.get("pre_tokenizer") or {}
    steps = cuts.get("pretokenizers", [cuts])
    kinds = [x.get("type") for x in steps]
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and "{1,3}" in str(steps[0].get("pattern")):
        return "llama-bpe"
    raise ValueError(
        f"{source / 'tokenizer.json'} cuts text by {checks.shown(kinds)}, and only the ways of "
        "GPT-2, Llama 3 and SmolLM are known here: convert it with llama.cpp's own converter."
    )


def _number(config: Mapping[str, Any], *keys: str) -> int:
    """A positive number of config.json, under the first of these names that it has."""
    for key in keys:
        found = whole_number(config.get(key), 1, MOST)
        if found is not None:
            return found
    raise ValueError(f"config.json must give {keys[0]} as a whole number: add it.")


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(checks.file("source", path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if "must be a file" in str(error):
            raise
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{path} is no JSON of names and values: it is damaged.")
    return said
