"""A Llama as people publish it, to a GGUF file: llama.cpp then writes what the model says."""

import json
import shutil

import peers
import pytest
import torch
from published import (
    HEADS,
    KV_HEADS,
    LLAMA_3,
    PLAIN,
    TEMPLATE,
    as_published,
    cut_by,
    published,
    small,
)
from safetensors.torch import load_file, save_file

import qlesson as ql
from qlesson.__main__ import main
from qlesson.files import formats
from qlesson.files.formats.from_llama import to_gguf


def test_the_tensors_and_the_keys(tmp_path):
    folder = published(tmp_path / "tiny")
    rows = to_gguf(folder, tmp_path / "x.gguf", "Q4_1")
    given, file = load_file(folder / "model.safetensors"), formats.open(tmp_path / "x.gguf")
    assert len(file) == len(given) == len(rows)
    kinds = {name: x.kind for name, x in file.stored.items()}
    assert kinds["token_embd.weight"] == "Q8_0" and kinds["blk.1.ffn_down.weight"] == "Q4_1"
    assert kinds["output_norm.weight"] == "F32"
    w = given["model.layers.1.mlp.down_proj.weight"]
    wanted = formats.gguf.quantize(w, "Q4_1").dequantize()
    assert torch.equal(file["blk.1.ffn_down.weight"].dequantize(), wanted)
    (row,) = [row for row in rows if row.name == "blk.1.ffn_down.weight"]
    assert row.sqnr == ql.sqnr(w, wanted).item() and row.bytes_after == w.numel() * 5 / 8
    said, letters = file.metadata, small()[0]
    assert said["tokenizer.ggml.tokens"][-6:] == [
        "Ġab", "<|end|>", "<own>", "[PAD99]", "[PAD100]", "[PAD101]"
    ]  # fmt: skip
    assert said["tokenizer.ggml.token_type"][-6:] == [1, 3, 4, 5, 5, 5]
    assert said["tokenizer.ggml.merges"] == ["a b", "Ġ ab"] and len(letters) == 97
    assert said["llama.rope.dimension_count"] == 16 and said["general.file_type"] == 3
    assert said["tokenizer.ggml.eos_token_id"] == 2 and said["general.name"] == "tiny"
    assert said["tokenizer.chat_template"] == TEMPLATE


def test_the_rows_of_a_head_change_places(tmp_path):
    folder = published(tmp_path / "tiny")
    to_gguf(folder, tmp_path / "x.gguf", "F32")
    with formats.open(tmp_path / "x.gguf") as file:
        given = load_file(folder / "model.safetensors")
        for name, heads in (("q", HEADS), ("k", KV_HEADS)):
            w = given[f"model.layers.0.self_attn.{name}_proj.weight"]
            got = file[f"blk.0.attn_{name}.weight"]
            for row in range(len(w)):
                head, i = divmod(row, 16)
                assert torch.equal(got[row], w[head * 16 + i // 2 + 8 * (i % 2)]), heads


def test_a_head_of_its_own_and_one_that_is_tied(tmp_path):
    for tied in (True, False):
        folder = published(tmp_path / str(tied), tie_word_embeddings=tied)
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        save_file(tensors, folder / "model.safetensors")
        to_gguf(folder, tmp_path / "x.gguf")
        assert ("output.weight" in formats.open(tmp_path / "x.gguf")) == (not tied)


@pytest.mark.parametrize("how, slower", [
    ({}, 1.0), ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 8.0),
    ({"head_dim": 32}, 1.0),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                       "high_freq_factor": 4.0, "original_max_position_embeddings": 6}}, None),
])  # fmt: skip
def test_llama_cpp_writes_what_the_published_model_says(tmp_path, how, slower):
    xllamacpp = peers.peer("xllamacpp")
    with formats.open(peers.smollm2()) as real:
        tokens, merges = (real.metadata[f"tokenizer.ggml.{n}"] for n in ("tokens", "merges"))
        own = [{"id": i, "content": tokens[i], "special": True} for i in range(17)]
        how |= {"vocab_size": len(tokens)}
        folder = published(tmp_path / "tiny", lambda: (tokens, merges, own), **how)
        given = load_file(folder / "model.safetensors")
        given["model.embed_tokens.weight"] = given["model.embed_tokens.weight"][
            : len(tokens)
        ].clone()
        save_file(given, folder / "model.safetensors")
        to_gguf(folder, tmp_path / "x.gguf", "F32")
        written = formats.open(tmp_path / "x.gguf").metadata
        same = [f"tokenizer.ggml.{n}" for n in ("tokens", "merges", "pre", "model", "token_type")]
        assert all(written[key] == real.metadata[key] for key in same)
    ids = [tokens.index(x) for x in ("Once", "Ġupon", "Ġa", "Ġtime", ",", "Ġthe", "Ġold", "Ġman")]
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "x.gguf")
    params.n_ctx, params.warmup, params.cpuparams.n_threads = 64, False, 1
    asked = {"prompt": ids, "max_tokens": 8, "temperature": 0, "logprobs": 1}
    answer = xllamacpp.Server(params).handle_completions(asked)
    got = [x["id"] for x in answer["choices"][0]["logprobs"]["content"]]
    doubles = {name: x.double() for name, x in given.items()}
    if slower is None:
        slower = formats.open(tmp_path / "x.gguf")["rope_freqs.weight"].double()
    for token in got:
        logits = as_published(doubles, ids, slower)
        assert logits.max() - logits[token] < 1e-2
        ids.append(token)
    assert len(got) == 8


@pytest.mark.parametrize("config, words", [
    (dict(model_type="gemma"), "a model with model_type 'gemma': only Llama's type"),
    (dict(model_type="mistral", sliding_window=32), "with sliding_window 32"),
    (dict(model_type="mistral", max_position_embeddings=8192), "with sliding_window 4096"),
    (dict(rope_scaling={"type": "linear"}), "with rope_scaling {'type': 'linear'}"),
    (dict(rope_scaling="x"), "with rope_scaling 'x'"),
    (dict(rope_parameters={"rope_type": "yarn"}), "with rope_parameters {'rope_type': 'yarn'}"),
    (dict(attention_bias=True), "with attention_bias True"),
    (dict(mlp_bias=True), "with mlp_bias True"),
    (dict(hidden_act="gelu"), "with hidden_act 'gelu'"),
    (dict(partial_rotary_factor=0.5), "with partial_rotary_factor 0.5"),
    (dict(head_dim="x"), "with head_dim 'x'"),
    (dict(tie_word_embeddings=False), "no lm_head.weight, and its config.json says no"),
    (dict(rope_theta=-1), "rope_theta must be a positive number in config.json, got -1"),
    (dict(rms_norm_eps="x"), "rms_norm_eps must be a positive number"),
    (dict(hidden_size="x"), "config.json must give hidden_size as a whole number"),
    (dict(num_attention_heads=8), r"k.weight of shape \(32, 64\), .* \(16, 64\)"),
    (dict(num_hidden_layers=3), "differ: blk.2.attn_k.weight is only in one"),
    (dict(num_hidden_layers=1), "differ: blk.1.attn_k.weight is only in one"),
    (dict(num_hidden_layers=2**24), "differ: blk.10.attn_k.weight is only in one"),
    (dict(vocab_size=99), r"has token_embd.weight of shape \(102, 64\), and .* with \(99, 64\)"),
    (dict(intermediate_size=128), r"blk.0.ffn_gate.weight of shape \(96, 64\), and"),
])  # fmt: skip
def test_another_model_is_refused(config, words, tmp_path):
    published(tmp_path / "tiny", **config)
    with pytest.raises(ValueError, match=words):
        to_gguf(tmp_path / "tiny", tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("tokenizer, words", [
    (dict(model={"vocab": []}), "is no BPE with a vocabulary, merges and added tokens"),
    (dict(added_tokens=[{"id": 3, "content": 7, "special": True}]), "is no BPE with a vocabulary"),
    (dict(post_processor=[1]), "is no BPE"), (dict(post_processor={"processors": 1}), "is no BPE"),
    (dict(pre_tokenizer="x"), "is no BPE"), (dict(pre_tokenizer={"pretokenizers": []}), "cuts tex"),
    (dict(pre_tokenizer={"type": "Metaspace"}), "cuts text by .'Metaspace'., and only the ways of"),
    (dict(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "cuts text by"),
    (dict(pre_tokenizer={"type": "ByteLevel", "use_regex": False}), "cuts text by"),
    (dict(pre_tokenizer=cut_by(r"\\p{N}{1,3}|other")), "cuts text by .'Split', 'ByteLevel'."),
    (dict(pre_tokenizer=cut_by(LLAMA_3)), "otherwise than llama.cpp.s llama-bpe, by .ignore"),
    (dict(normalizer={"type": "NFC"}), "otherwise than llama.cpp's smollm, by .normalizer"),
])  # fmt: skip
def test_another_tokenizer_is_refused(tokenizer, words, tmp_path):
    published(tmp_path / "tiny", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=words):
        to_gguf(tmp_path / "tiny", tmp_path / "x.gguf")


@pytest.mark.parametrize("change, words", [
    (dict(ignore_merges=True), "smollm, by 'ignore_merges'"), (dict(dropout=0.1), "by 'dropout'"),
    (dict(byte_fallback=True), "'byte_fallback'"), (dict(end_of_word_suffix="x"), "end_of_word"),
    (dict(ignore_merges=False, dropout=None), None),
])  # fmt: skip
def test_merging_in_another_way_is_refused(change, words, tmp_path):
    folder = published(tmp_path / "tiny")
    said = json.loads((folder / "tokenizer.json").read_text())
    said["model"] |= change
    (folder / "tokenizer.json").write_text(json.dumps(said))
    if words is None:
        to_gguf(folder, tmp_path / "x.gguf")
        return
    with pytest.raises(ValueError, match=words):
        to_gguf(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize("vocabulary, merges, words", [
    ({"zz": 102}, [], "tokenizer.json has the id 102, and the embedding 102 rows"),
    ({"zz": -1}, [], "has the id -1, and the embedding"), ({"zz": 1.0}, [], "is no BPE"),
    ({}, [["q", "z"]], "has the merge 'q z', which is not of two tokens into a third"),
    ({}, ["a b c"], "has the merge 'a b c', which is not of two tokens into a third"),
])  # fmt: skip
def test_tokens_and_merges_of_another_model_are_refused(vocabulary, merges, words, tmp_path):
    folder = published(tmp_path / "tiny")
    said = json.loads((folder / "tokenizer.json").read_text())
    said["model"]["vocab"] |= vocabulary
    said["model"]["merges"] += merges
    (folder / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=words):
        to_gguf(folder, tmp_path / "x.gguf")


def test_tokens_that_take_spaces_along_are_refused(tmp_path):
    added = [x | PLAIN | {"rstrip": True} for x in small()[2]]
    folder = published(tmp_path / "tiny", tokenizer={"added_tokens": added})
    with pytest.raises(ValueError, match=r"merges otherwise than llama.cpp's smollm, by '<.end.>"):
        to_gguf(folder, tmp_path / "x.gguf")


def test_llama_3s_way_and_the_token_that_begins_a_text(tmp_path):
    after = {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
             "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}}]}  # fmt: skip
    both = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, after]}
    folder = published(tmp_path / "tiny")
    said = json.loads((folder / "tokenizer.json").read_text())
    said["model"] |= {"ignore_merges": True}
    said |= {"pre_tokenizer": cut_by(LLAMA_3)}
    for post, given, begins in [(None, None, False), (after, None, True), (both, None, True),
                                (both, False, False), (None, True, True)]:  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(said | {"post_processor": post}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": given}))
        to_gguf(folder, tmp_path / "x.gguf")
        metadata = formats.open(tmp_path / "x.gguf").metadata
        assert metadata["tokenizer.ggml.add_bos_token"] is begins
        assert metadata["tokenizer.ggml.pre"] == "llama-bpe"


def test_folders_that_lack_a_part(tmp_path):
    folder = published(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.layers.0.odd.weight", "model.layers.01.mlp.up_proj.weight"):
        save_file(tensors | {name: torch.ones(2)}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=f"'{name}', which a Llama has not"):
            to_gguf(folder, tmp_path / "x.gguf")
    (folder / "config.json").write_text("[")
    with pytest.raises(ValueError, match="config.json is no JSON of names and values"):
        to_gguf(folder, tmp_path / "x.gguf")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="must be a file, and .*config.json does not"):
        to_gguf(folder, tmp_path / "x.gguf")
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"]
)
def test_no_file_of_the_source_is_written_over(tmp_path, name):
    folder = published(tmp_path / "tiny")
    (folder / "generation_config.json").write_text("{}")
    before = (folder / name).read_bytes()
    with pytest.raises(ValueError, match="belongs to the source: write to another file"):
        to_gguf(folder, folder / name)
    assert (folder / name).read_bytes() == before
    to_gguf(folder, folder / "x.gguf")
    to_gguf(folder, folder / "x.gguf")


def test_the_command(tmp_path, capsys):
    folder, target = published(tmp_path / "tiny"), tmp_path / "x.gguf"
    assert main(["quantize", str(folder), str(target), "--type", "Q4_0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "tensor" and lines[-1].split()[0] == "sum"
    assert formats.open(target).stored["blk.0.attn_v.weight"].kind == "Q4_0"
    for words in (["--bits", "4"], ["--type", "Q8_0", "--per-row"]):
        assert main(["quantize", str(folder), str(target), *words]) == 1
    assert main(["quantize", str(folder / "model.safetensors"), str(target)]) == 1
    assert "model.safetensors is a file: name the folder of the model" in capsys.readouterr().err
    assert main(["quantize", str(folder), str(tmp_path / "x"), "--type", "Q8_0"]) == 1
    assert "--type is for a target that ends in .gguf" in capsys.readouterr().err
