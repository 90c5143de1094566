"""The folder of a Llama-type model, as people publish it, in llama.cpp's own words.

It holds config.json, tokenizer.json and safetensors, plain or quantized. llama.cpp names keys and
tensors otherwise, and turns neighbours of q and k by rotary positions, where the folder's code
turns value i with value i + half: so the rows of each head change places, 0, half, 1, half + 1, ...

Source: convert_hf_to_gguf.py in the repository of llama.cpp, `LlamaModel`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.files import written
from qlesson.files.formats.opened import Opened, Stored, Value
from qlesson.files.formats.safetensors import Safetensors
from qlesson.files.formats.steps import whole_number
from qlesson.qtensor import QTensor

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
TURNED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
# Mistral's is Llama's where no window slides; and the window of a config.json that names none.
TYPES = {"llama": None, "mistral": 4096}
ROPE = ("rope_parameters", "rope_scaling")  # how positions turn, by its newer and its older name
PLAIN = {
    "attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "partial_rotary_factor": 1,
    "rope_interleaved": False,
}  # fmt: skip
ARCHITECTURES = ("llamaforcausallm", "mistralforcausallm")
UNDERSTOOD = {
    "model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
    "sliding_window", "use_sliding_window", "layer_types", "quantization_config",
    "compression_config", *PLAIN, *ROPE,
}  # fmt: skip
# What says nothing of the arithmetic: who wrote the file, how it was trained, how text is drawn.
HARMLESS = re.compile(
    r"_.*|.*_token_id|(torch_)?dtype|.*version|use_cache|initializer_range|.*dropout|pretraining_tp"
    r"|is_llama_config|transformers\.js_config|auto_map|unsloth_.*|neftune_noise_alpha"
    r"|(name|model_name)(_or_path)?|tokenizer_class|max_(new_tokens|length|sequence_length)"
    r"|do_sample|temperature|top_[kp]|repetition_penalty|gradient_checkpointing|torchscript"
    r"|output_(attentions|hidden_states)|return_dict|id2label|label2id|keys_to_ignore_at_inference"
)
METHODS = (
    "gptq", "awq", "auto-round", "intel/auto-round", "rtn", "compressed-tensors", "fp8",
    "fbgemm_fp8", "bitsandbytes", "modelopt", "torchao", "quark", "mxfp4",
)  # fmt: skip
# Steps for inputs and for the cache, which stay floats here.
OF_INPUTS = re.compile(
    r".*_proj\.(input|output)_(scale|zero_point|global_scale|scale_ub)"
    r"|.*\.self_attn\.([kqv]_proj\.)?[kqv]_scale"
)
# What slows them, by the name of the way: the numbers that it needs.
SLOWED = {
    "default": (), "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}  # fmt: skip
MOST = 2**24  # of any number in config.json


class LlamaFolder(Opened):
    """The folder's tensors by llama.cpp's names, in its order of rows; the metadata are its keys.

    config    what config.json says
    settings  what tokenizer_config.json says, if it is there

    Inputs are floats, also where a file was made for inputs in 8 bits.

    Raises ValueError for a model that is not of Llama's type, or computes otherwise; so does a key
    of config.json that is not known.
    """

    format = "safetensors"

    def __init__(self, path: str | Path) -> None:
        self.path = checks.path("source", path)
        if self.path.is_file():
            raise ValueError(
                f"{self.path} is a file: name the folder of the model, with its config.json, "
                "tokenizer.json and safetensors."
            )
        self.config = read_json(self.path / "config.json")
        more = self.path / "tokenizer_config.json"
        self.settings = read_json(more) if more.is_file() else {}
        for what in _otherwise(self.config):
            raise ValueError(
                f"{self.path} holds a model with {what}: only Llama's type, with its rotary "
                "positions, is read here. formats.open(path) reads its tensors, and llama.cpp's "
                "own converter knows more."
            )
        self.metadata = _keys(self.path, self.config)
        self._file = Safetensors(self.path)
        for what in _changed(self._file.metadata.get("quantization_config", {})):
            raise ValueError(
                f"{self.path} holds a quantized model with {what}, which is not read here: "
                "dequantize it with the library that wrote it, and save it again."
            )
        tied = self.config.get("tie_word_embeddings") is True
        self._names = {self._new_name(x): x for x in self._file if not self._is_no_part(x, tied)}
        if not tied and "output.weight" not in self._names:
            raise ValueError(
                f"{self.path} has no lm_head.weight, and its config.json says no "
                '"tie_word_embeddings": true: add what is missing.'
            )
        self.stored = {new: self._file.stored[name] for new, name in self._names.items()}
        self._slower = _slower(self.config, self.metadata)
        if self._slower is not None:
            self.stored["rope_freqs.weight"] = Stored("F32", tuple(self._slower.shape), 0)

    @property
    def ends(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        more = self.path / "generation_config.json"
        both = (self.config, read_json(more) if more.is_file() else {})
        given = [said.get("eos_token_id") for said in both]
        listed = [i for x in given for i in _listed(x)]
        places = [whole_number(i, 0, MOST) for i in listed]
        return list(dict.fromkeys(i for i in places if i is not None))

    @property
    def template(self) -> str | None:
        """Of a chat, in Jinja, if there is one."""
        beside = self.path / "chat_template.jinja"
        if beside.is_file():
            return written.text(beside)
        said = self.settings.get("chat_template")
        for named in said if isinstance(said, list) else []:
            if isinstance(named, dict) and named.get("name") == "default":
                said = named.get("template")
        return said if isinstance(said, str) else None

    def heads(self, name: str) -> int | None:
        """The heads in whose rows a tensor of this name turns; None where it does not."""
        for part, key in TURNED.items():
            if f".{part}." in name:
                return number(self.config, key, "num_attention_heads")
        return None

    def _read(self, name: str) -> Value:
        if name not in self._names and self._slower is not None:
            return self._slower
        x, heads = self._file[self._names[name]], self.heads(name)
        if heads is None:
            return x
        if x.shape[0] % (2 * heads):
            raise ValueError(
                f"{self._names[name]} has {x.shape[0]} rows, and {heads} heads cannot share them: "
                "its config.json is of another model."
            )
        places = torch.arange(x.shape[0], device="cpu")
        return _in_order(x, places.view(heads, 2, -1).mT.flatten())

    def _is_no_part(self, name: str, tied: bool) -> bool:
        """What files hold besides: turns, a tied head, steps for inputs, and biases of 0."""
        if name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight"):
            return True
        if OF_INPUTS.fullmatch(name):
            return True
        x = self._file[name] if name.endswith("_proj.bias") else None
        return isinstance(x, Tensor) and not x.any()

    def _new_name(self, name: str) -> str:
        """llama.cpp's name of a tensor."""
        inner = re.fullmatch(r"model\.layers\.(0|[1-9]\d{0,3})\.([a-z_.]+)\.weight", name)
        if inner and inner[2] in IN_A_BLOCK:
            return f"blk.{int(inner[1])}.{IN_A_BLOCK[inner[2]]}.weight"
        if name not in NAMES:
            raise ValueError(
                f"{self.path} holds {checks.shown(name)}, which a Llama has not: convert it with "
                "llama.cpp's own converter. formats.open(path) reads its tensors."
            )
        return NAMES[name]


def _in_order(x: Value, order: Tensor) -> Value:
    """The rows in another order, and their scales with them; W_hat of groups across rows, whose
    codes belong to where they are."""
    if isinstance(x, Tensor):
        return x[order]
    steps = x.scale.shape
    if len(steps) > 1 and steps[0] not in (1, len(order)):
        return x.dequantize()[order]
    held = {n: t for n, t in vars(x).items() if isinstance(t, Tensor) and t.ndim > 1}
    by_rows = {n: t[order] for n, t in held.items() if len(t) == len(order)}
    if isinstance(x, Blocks):
        return x._trusted(**vars(x) | by_rows)
    return QTensor._trusted(**vars(x) | by_rows)


def _otherwise(config: Mapping[str, Any]) -> Iterator[str]:
    """What it computes otherwise than a Llama, or might: a key that is not known says how."""

    def said(*names: str) -> str:
        return " ".join(f"{name} {checks.shown(config.get(name))}" for name in names)

    model = config.get("model_type")
    if not isinstance(model, str) or model not in TYPES:
        yield said("model_type")
        return
    for name, x in config.items():
        if x is not None and not (name in UNDERSTOOD or HARMLESS.fullmatch(name)):
            yield f"{checks.shown(name)} {checks.shown(x)}, which is not known here"
    if any(str(x).lower() not in ARCHITECTURES for x in _listed(config.get("architectures"))):
        yield said("architectures")
    for name in ROPE:
        if not _is_read(config.get(name) or {}):
            yield said(name)
    hows = [how for how in map(config.get, ROPE) if isinstance(how, dict) and how]
    factors = {str(how.get("factor")) for how in hows}
    if len(factors) > 1:
        yield said(*ROPE)
    context = config.get("max_position_embeddings")
    window = config.get("sliding_window", TYPES[model])
    slides = window is not None and (model != "llama" or config.get("use_sliding_window", True))
    if slides and whole_number(window, context if isinstance(context, int) else MOST, MOST) is None:
        yield f"sliding_window {checks.shown(window)}"
    for name, plain in PLAIN.items():
        if config.get(name) not in (None, plain):
            yield said(name)
    if any(x != "full_attention" for x in _listed(config.get("layer_types"))):
        yield said("layer_types")
    if config.get("head_dim") is not None and whole_number(config["head_dim"], 1, MOST) is None:
        yield said("head_dim")


def _listed(x: Any) -> list[Any]:
    return x if isinstance(x, list) else [] if x is None else [x]


def _is_read(how: Any) -> bool:
    """Whether positions turn by rope_theta, or slower in a way that `_slower` has."""
    if not isinstance(how, dict):
        return False
    kinds = [how[name] for name in ("rope_type", "type") if how.get(name) is not None]
    kind = kinds[0] if kinds else "default"
    if any(k != kind for k in kinds) or not isinstance(kind, str) or kind not in SLOWED:
        return False
    given = {name for name, x in how.items() if x is not None} - {"rope_type", "type", "rope_theta"}
    if how.get("partial_rotary_factor") == 1:
        given -= {"partial_rotary_factor"}
    numbers = [how.get(name) for name in SLOWED[kind]]
    return given == set(SLOWED[kind]) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and 1e-9 < x < 1e9 for x in numbers
    )


def _slower(config: Mapping[str, Any], keys: Mapping[str, Any]) -> Tensor | None:
    """By what the speed of each pair is divided, as convert_hf_to_gguf.py has it; None by 1.

    "llama3" slows what turns less than low_freq_factor times in the context that the model was
    trained on, keeps what turns more than high_freq_factor times, and mixes in between.
    """
    hows = [how for how in (config.get(name) or {} for name in ROPE) if how.get("factor")]
    if not hows:
        return None
    how, width = hows[0], keys["llama.rope.dimension_count"]
    places = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    if "low_freq_factor" not in how:
        return torch.full_like(places, how["factor"]).float()
    speeds = keys["llama.rope.freq_base"] ** (-places / width)
    low, high = how["low_freq_factor"], how["high_freq_factor"]
    times = how["original_max_position_embeddings"] * speeds / (2 * math.pi)
    kept = ((times - low) / (high - low)).clamp(0, 1)
    return (1 / (kept + (1 - kept) / how["factor"])).float()


def _changed(config: Mapping[str, Any]) -> Iterator[str]:
    """What the codes of a quantized folder leave open: a way that is not read, or a rotation."""
    method = config.get("quant_method")
    if method is not None and method not in METHODS:
        yield f"quant_method {checks.shown(method)}"
    for name, x in config.items():
        if x and re.search("rotat|spin|transform|hadamard|adapter|lora", name):
            yield f"{checks.shown(name)} {checks.shown(x)}"


def _keys(source: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the architecture."""
    base = config.get("rope_theta")
    for how in (config.get(name) for name in ROPE):
        base = how.get("rope_theta", base) if isinstance(how, dict) else base
    width, heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    head = width // heads if config.get("head_dim") is None else number(config, "head_dim")
    keys = {
        "block_count": number(config, "num_hidden_layers"),
        "context_length": number(config, "max_position_embeddings"),
        "embedding_length": width,
        "feed_forward_length": number(config, "intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": number(config, "num_key_value_heads", "num_attention_heads"),
        "rope.dimension_count": head,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.freq_base": _positive("rope_theta", base, 10000.0),
        "attention.layer_norm_rms_epsilon": _positive(
            "rms_norm_eps", config.get("rms_norm_eps"), 1e-6
        ),
        "vocab_size": number(config, "vocab_size"),
    }
    general = {
        "general.architecture": "llama", "general.name": source.resolve().name,
        "general.quantization_version": 2,
    }  # fmt: skip
    return general | {f"llama.{key}": x for key, x in keys.items()}


def _positive(key: str, given: Any, default: float) -> float:
    x = default if given is None else given
    checks.number(key, x, "a positive number in config.json", lambda x: x > 0)
    return float(x)


def number(config: Mapping[str, Any], *keys: str) -> int:
    """A positive number of config.json, under the first of these names that it has."""
    for key in keys:
        found = whole_number(config.get(key), 1, MOST)
        if found is not None:
            return found
    raise ValueError(f"config.json must give {keys[0]} as a whole number: add it.")


def read_json(path: Path) -> dict[str, Any]:
    """A file of names and values."""
    text = checks.file("source", path)
    try:
        said = written.read(text)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{path} is no JSON of names and values: it is damaged.")
    return said
