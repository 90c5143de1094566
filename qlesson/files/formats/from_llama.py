"""The folder of a Llama-type model, as people publish it, to one GGUF file: `to_gguf`.

`llama_folder` has names, keys and the order of rows. Quantized tensors are made floats first.

Source: convert_hf_to_gguf.py in the repository of llama.cpp, `LlamaModel`.
"""

import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.error import sqnr
from qlesson.files.formats.llama_folder import MOST, LlamaFolder, number, read_json
from qlesson.files.formats.quantizers import NUMBERS, WRITTEN, quantize
from qlesson.files.formats.steps import whole_number
from qlesson.files.formats.write import Planned, write_planned
from qlesson.report import Row, naming, no_bar

FILE_TYPES = {  # enum llama_ftype
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9,
}  # fmt: skip
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SOURCES = (".json", ".jinja", ".safetensors")
OF_OTHERS = ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
STRIPS = ("lstrip", "rstrip", "single_word")
NORMAL, CONTROL, OWN, UNUSED = 1, 3, 4, 5  # enum llama_token_type


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
    target = checks.new_file("target", target)
    rows: list[Row] = []
    with LlamaFolder(source) as folder:
        files = (x for x in folder.path.iterdir() if x.suffix in SOURCES)
        checks.no_source(target, files)
        _refuse_other_shapes(folder)
        metadata = folder.metadata | _of_tokens(folder)
        metadata["general.file_type"] = FILE_TYPES[type]
        with tqdm(total=len(folder), desc="quantize", disable=no_bar()) as bar:
            planned = {name: _planned(folder, name, type, rows, bar) for name in folder}
            write_planned(target, planned, metadata)
    return rows


def _refuse_other_shapes(folder: LlamaFolder) -> None:
    """A part that is missing, or does not fit config.json: llama.cpp would not load the file."""
    keys = "embedding_length", "feed_forward_length", "attention.head_count_kv", "vocab_size"
    width, hidden, kv_heads, rows = (folder.metadata[f"llama.{key}"] for key in keys)
    head = folder.metadata["llama.attention.key_length"]
    kv, q = kv_heads * head, folder.metadata["llama.attention.head_count"] * head
    layers = folder.metadata["llama.block_count"]
    wanted: dict[str, tuple[int, ...]] = {"token_embd": (rows, width), "output_norm": (width,)}
    if "output.weight" in folder:
        wanted["output"] = (rows, width)
    if "rope_freqs.weight" in folder:
        wanted["rope_freqs"] = (head // 2,)
    of_block: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,), "attn_q": (q, width), "attn_k": (kv, width),
        "attn_v": (kv, width), "attn_output": (width, q), "ffn_norm": (width,),
        "ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden),
    }  # fmt: skip
    for i in range(min(layers, len(folder) + 1)):  # more cannot be there
        wanted |= {f"blk.{i}.{name}": shape for name, shape in of_block.items()}
    for name in sorted({f"{x}.weight" for x in wanted} ^ set(folder)):
        raise ValueError(f"{folder.path} and its config.json differ: {name} is only in one.")
    for name, shape in wanted.items():
        found = folder.stored[f"{name}.weight"].shape
        if found != shape:
            raise ValueError(
                f"{folder.path} has {name}.weight of shape {found}, and its config.json is of a "
                f"model with {shape}."
            )


def _planned(folder: LlamaFolder, name: str, type: str, rows: list[Row], bar: tqdm) -> Planned:
    stored = folder.stored[name]
    outer = name in ("token_embd.weight", "output.weight") and type.startswith(("Q4", "Q5"))
    kind = "F32" if len(stored.shape) < 2 else "Q8_0" if outer else type

    def make() -> Blocks | Tensor:
        x = folder[name]
        r = (x if isinstance(x, Tensor) else x.dequantize()).float()
        with naming(name):
            made = quantize(r, kind)
        r_hat = made.float() if isinstance(made, Tensor) else made.dequantize()
        error = None if kind == "F32" else sqnr(r, r_hat).item()
        rows.append(Row(name, stored.shape, stored.nbytes, plan.nbytes, error))
        bar.update()
        return made

    plan = Planned(NUMBERS[kind], stored.shape, make)
    return plan


def _of_tokens(folder: LlamaFolder) -> dict[str, Any]:
    """The keys of the tokenizer: its tokens in the order of their ids, and its merges."""
    source, config = folder.path, folder.config
    said = read_json(source / "tokenizer.json")
    try:
        ids = {operator.index(i): token for token, i in said["model"]["vocab"].items()}
        added = {operator.index(x["id"]): x for x in said.get("added_tokens") or []}
        merges = [m if isinstance(m, str) else " ".join(m) for m in said["model"]["merges"]]
        ids |= {i: "" + x["content"] for i, x in added.items()}  # texts, and nothing else
        kinds = {i: CONTROL if x["special"] else OWN for i, x in added.items()}
        adds_bos, pre = _adds_bos(folder, said), _pre_tokenizer(source, said)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{source / 'tokenizer.json'} is no BPE with a vocabulary, merges and added tokens: "
            "convert the model with llama.cpp's own converter."
        ) from None
    rows = number(config, "vocab_size")
    places = range(rows)
    _refuse_lost(source / "tokenizer.json", ids, rows, merges)
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [ids.get(i, f"[PAD{i}]") for i in places],
        "token_type": [kinds.get(i, NORMAL if i in ids else UNUSED) for i in places],
        "merges": merges,
        "add_bos_token": adds_bos,
    }
    for name, key in (("bos", "bos_token_id"), ("pad", "padding_token_id")):
        place = whole_number(config.get(f"{name}_token_id"), 0, MOST)
        if place is not None:
            keys[key] = place
    keys |= dict(zip(("eos_token_id", "eot_token_id"), folder.ends, strict=False))
    metadata = {f"tokenizer.ggml.{key}": x for key, x in keys.items()}
    if folder.template is not None:
        metadata["tokenizer.chat_template"] = folder.template
    return metadata


def _refuse_lost(path: Path, ids: Mapping[int, str], rows: int, merges: Iterable[str]) -> None:
    """Tokens that have no row of the embedding, and merges of what is no token."""
    known = set(ids.values())
    for place in ids:
        if not 0 <= place < rows:
            raise ValueError(
                f"{path} has the id {place}, and the embedding {rows} rows: it is of another model."
            )
    for merge in merges:
        pair = merge.split(" ")
        if len(pair) != 2 or not {*pair, "".join(pair)} <= known:
            raise ValueError(
                f"{path} has the merge {checks.shown(merge)}, which is not of two tokens into a "
                "third: it is of another model."
            )


def _adds_bos(folder: LlamaFolder, said: dict[str, Any]) -> bool:
    """Whether a text begins with a token of its own: as it is set, or by what follows merging."""
    given = folder.settings.get("add_bos_token")
    if isinstance(given, bool):
        return given
    after = said.get("post_processor") or {}
    firsts = [x["single"][0] for x in after.get("processors", [after]) if x.get("single")]
    return any("SpecialToken" in first for first in firsts)


def _pre_tokenizer(source: Path, said: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which text is cut into words, where all else is as there."""
    cuts, model = said.get("pre_tokenizer") or {}, said["model"]
    steps = cuts.get("pretokenizers", [cuts])
    kinds = [x.get("type") for x in steps]
    last = steps[-1] if steps else {}
    found = None
    if kinds == ["ByteLevel"]:
        found = "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        found = "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0].get("pattern") == {"Regex": LLAMA_3}:
        found = "llama-bpe"
    by_regex = last.get("use_regex", True) is (found != "llama-bpe")
    if found is None or not by_regex or last.get("add_prefix_space"):
        raise ValueError(
            f"{source / 'tokenizer.json'} cuts text by {checks.shown(kinds)}, and only the ways of "
            "GPT-2, Llama 3 and SmolLM are known here: convert it with llama.cpp's own converter."
        )
    more = [f"normalizer {checks.shown(x)}" for x in [said.get("normalizer")] if x]
    more += [name for name in OF_OTHERS if model.get(name)]
    more += ["ignore_merges"] if bool(model.get("ignore_merges")) != (found == "llama-bpe") else []
    more += [x["content"] for x in said.get("added_tokens") or [] if any(map(x.get, STRIPS))]
    if more:
        raise ValueError(
            f"{source / 'tokenizer.json'} merges otherwise than llama.cpp's {found}, by "
            f"{checks.shown(', '.join(more))}: convert it with llama.cpp's own converter."
        )
    return found
