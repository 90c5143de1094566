"""llama.load of a folder as people publish it: beside the formula of its own code, and our GGUF."""

import json
import math
import shutil

import peers
import pytest
import torch
from published import HEADS, KV_HEADS, LAYERS, PLAIN, as_published, published
from safetensors.torch import load_file, save_file

import qlesson as ql
from qlesson.files import checkpoint, formats
from qlesson.files.formats.from_llama import to_gguf
from qlesson.models import llama
from qlesson.models.llama.tokens import of_json
from qlesson.nn import QuantizedLinear

IDS = [4, 9, 7, 90, 0, 31, 8, 8]
SIZE = 32  # values that share a scale
FILE = "model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def tokenizers():
    return peers.peer("tokenizers")


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS]))[0, -1]


def doubles(tensors):
    return {name: x.double() for name, x in tensors.items()}


# --- the formula ---


@pytest.mark.parametrize("keep", ["codes", "float"])
@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("width", [None, 24])
def test_a_plain_folder_computes_what_its_own_code_does(tmp_path, keep, head, width):
    folder = published(tmp_path / "tiny", tie_word_embeddings=not head, head_dim=width)
    tensors = load_file(folder / FILE)
    if head:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
        save_file(tensors, folder / FILE)
    model, _ = llama.load(folder, keep)
    wanted = as_published(doubles(tensors), IDS)
    assert wanted.std() > 0.1
    torch.testing.assert_close(logits(model.double()), wanted, rtol=1e-10, atol=1e-10)
    assert (model.head.weight is model.embedding.weight) == (not head)


@pytest.mark.parametrize("width", [16, 24])
def test_it_is_the_model_of_the_gguf_file(tmp_path, width):
    turns = {"rope_theta": None, "rope_parameters": {"rope_theta": 500.0}}
    folder = published(tmp_path / "tiny", head_dim=width, **turns)
    to_gguf(folder, tmp_path / "x.gguf", "F32")
    (ours, text), (theirs, its) = llama.load(folder), llama.load(tmp_path / "x.gguf")
    assert ours.config.base == 500 and ours.config.ends == (2, 3)
    same = {"ends": set(ours.config.ends), "eps": pytest.approx(1e-5)}  # float32 in the file
    assert vars(theirs.config) | {"ends": set(theirs.config.ends)} == vars(ours.config) | same
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)
    for words in ("ab 12 a", "", "<|end|> b<own>", "ab\n"):
        for special in (False, True):
            assert text.encode(words, special) == its.encode(words, special)
            assert text.decode(text.encode(words)) == its.decode(its.encode(words))
    assert text.chat("ab") == its.chat("ab")


@pytest.mark.parametrize("same", [
    {"model_type": "mistral", "sliding_window": None}, {"model_type": "mistral"},
    {"model_type": "mistral", "sliding_window": 64}, {"head_dim": 16, "attention_bias": False},
    {"rope_scaling": {"rope_type": "default"}}, {"num_key_value_heads": KV_HEADS, "mlp_bias": None},
])  # fmt: skip
def test_what_is_the_same_by_another_name_is_read(tmp_path, same):
    whole = logits(llama.load(published(tmp_path / "tiny"))[0])
    assert torch.equal(logits(llama.load(published(tmp_path / "tiny", **same))[0]), whole)


def test_shards_are_one_folder(tmp_path):
    folder = published(tmp_path / "tiny")
    whole, tensors = logits(llama.load(folder)[0]), load_file(folder / FILE)
    (folder / FILE).unlink()
    where = {name: f"part{i % 3}.safetensors" for i, name in enumerate(tensors)}
    for part in set(where.values()):
        save_file({n: x for n, x in tensors.items() if where[n] == part}, folder / part)
    text = json.dumps({"weight_map": where})
    (folder / f"{FILE}.index.json").write_text(text)
    assert torch.equal(logits(llama.load(folder)[0]), whole)


# --- quantized layers ---


def steps(w, symmetric=False):
    """(codes from 0 to 15, scale, zero point, what they stand for), in groups of SIZE inputs."""
    groups = w.unflatten(1, (-1, SIZE))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    low, high = (-w.abs().amax(), w.abs().amax()) if symmetric else (low, high)
    s = ((high - low) / 15).expand(groups.shape[:2]).half()
    z = torch.full_like(s, 8) if symmetric else (-low / s).round().clamp(1, 15)
    codes = (groups / s[..., None] + z[..., None]).round().clamp(0, 15)
    values = s[..., None].float() * (codes - z[..., None].float())
    return codes.flatten(1).long(), s, z.long(), values.flatten(1)


def words(q):
    """int32 of eight codes each, the first in the lowest bits."""
    return (q.unflatten(1, (-1, 8)) << torch.arange(0, 32, 4)).sum(-1).to(torch.int32)


def gptq(w):
    q, s, z, values = steps(w)
    return {"qweight": words(q).T, "qzeros": words(z.T - 1), "scales": s.T}, values


def act_order(w):
    order = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(1))
    tensors, values = gptq(w[:, order])  # neighbours here are those of one group
    back = order.argsort()
    q = steps(w[:, order])[0][:, back]
    index = (torch.arange(w.shape[1]) // SIZE)[back].to(torch.int32)
    return tensors | {"qweight": words(q).T, "g_idx": index}, values[:, back]


def autoround(w):
    """Symmetric, with negative scales in every other row."""
    q, s, z, values = steps(w, symmetric=True)
    signs = 1 - 2 * (torch.arange(len(w)) % 2).unsqueeze(1)
    tensors = {"qweight": words(q).T, "qzeros": words(z.T - 1), "scales": (s * signs).half().T}
    return tensors, values * signs


def awq(w):
    q, s, z, values = steps(w)
    q, z = (x.unflatten(1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]].flatten(1) for x in (q.T, z.T))
    return {"qweight": words(q), "qzeros": words(z), "scales": s.T}, values


def compressed(w):
    q, s, _, values = steps(w, symmetric=True)
    shape = torch.tensor(w.shape)
    return {"weight_packed": words(q), "weight_scale": s, "weight_shape": shape}, values


def fp8(w):
    s = w.abs().amax(1, keepdim=True) / 448
    q = (w / s).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": s}, s * q.float()


def method(name):
    said = {"quant_method": name, "bits": 4, "group_size": SIZE}
    said |= {"backend": "auto_round:gptq:exllamav2"} if "auto-round" in name else {}
    args = {"num_bits": 4, "group_size": SIZE, "strategy": "group", "symmetric": True}
    return said | {"config_groups": {"group_0": {"weights": args}}}


def quantized(folder, pack, name):
    """The folder with its layers packed, a bias of zeros beside each; and what they stand for."""
    stored, values = {}, {}
    for full, x in load_file(folder / FILE).items():
        layer, dot, _ = full.rpartition("weight")
        if not dot or "_proj" not in full:
            stored[full], values[full] = x.half(), x.half().float()
            continue
        packed, values[full] = pack(x)
        stored |= {layer + part: t.contiguous() for part, t in packed.items()}
        stored[f"{layer}bias"] = torch.zeros(len(x)).half()
    save_file(stored, folder / FILE)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"quantization_config": method(name)}))
    return values


@pytest.mark.parametrize("pack, name", [
    (gptq, "gptq"), (act_order, "gptq"), (awq, "awq"), (compressed, "compressed-tensors"),
    (fp8, "compressed-tensors"), (autoround, "intel/auto-round"),
])  # fmt: skip
@pytest.mark.parametrize("keep", ["codes", "float"])
def test_a_quantized_folder_computes_what_its_codes_stand_for(tmp_path, pack, name, keep):
    folder = published(tmp_path / "tiny")
    values = quantized(folder, pack, name)
    model, _ = llama.load(folder, keep)
    wanted = as_published(doubles(values), IDS)
    torch.testing.assert_close(logits(model.double()), wanted, rtol=1e-9, atol=1e-9)
    held = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    joined = 4 if pack in (gptq, autoround, awq, compressed) else 7
    assert len(held) == (joined * LAYERS if keep == "codes" else 0)
    folder = published(tmp_path / "tiny")
    exact = as_published(doubles(load_file(folder / FILE)), IDS)
    assert 1e-4 < (exact - wanted).abs().max()  # the codes are not the floats


def test_the_codes_are_those_of_the_folder_with_rows_in_another_order(tmp_path):
    folder = published(tmp_path / "tiny")
    quantized(folder, gptq, "gptq")
    model, _ = llama.load(folder)
    qkv = model.blocks[1].attention.qkv.codes
    with formats.open(folder) as file:
        at = 0
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", 0)):
            x = file[f"model.layers.1.self_attn.{part}_proj.weight"]
            rows = range(len(x.q))
            if heads:
                rows = [16 * (r // 16) + r % 16 // 2 + 8 * (r % 2) for r in rows]
            for mine, its in ((qkv.q, x.q), (qkv.scale, x.scale), (qkv.zero_points, x.zero_point)):
                assert torch.equal(mine[at : at + len(x.q)], its[list(rows)]), part
            at += len(x.q)
    assert qkv.scheme == x.scheme


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1),
                                         ql.PerGroup(8), ql.PerGroup(4, 0)], ids=str)  # fmt: skip
def test_a_folder_in_the_packages_own_codes(tmp_path, granularity):
    """Rows in another order keep the scales of their columns; groups of rows come as W_hat."""
    folder = published(tmp_path / "tiny")
    own = shutil.copytree(folder, tmp_path / "own", ignore=shutil.ignore_patterns(FILE))
    scheme = ql.Scheme(8, granularity=granularity)
    checkpoint.quantize_file(folder / FILE, own / FILE, scheme, skip=["*norm*", "*embed*"])
    with formats.open(own) as file:
        held = {name: file[name] for name in file}
    values = {n: x if isinstance(x, torch.Tensor) else x.dequantize() for n, x in held.items()}
    assert any(not isinstance(x, torch.Tensor) for x in held.values())
    model, _ = llama.load(own)
    wanted = as_published(doubles(values), IDS)
    torch.testing.assert_close(logits(model.double()), wanted, rtol=1e-9, atol=1e-9)


# --- what is refused ---


def test_a_file_without_its_folder_is_refused(tmp_path):
    folder = published(tmp_path / "tiny")
    with pytest.raises(ValueError, match="beside it lie config.json and tokenizer.json: name"):
        llama.load(folder / FILE)


@pytest.mark.parametrize("name, why", [
    ("config.json", "must be a file, and .*config.json does not exist"),
    ("tokenizer.json", "must be a file, and .*tokenizer.json does not exist"),
    (FILE, "0 files .*safetensors: name the one to read"),
])  # fmt: skip
def test_a_folder_that_lacks_a_file_is_refused(tmp_path, name, why):
    folder = published(tmp_path / "tiny")
    (folder / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=why):
        llama.load(folder)


@pytest.mark.parametrize("config, why", [
    ({"model_type": "qwen2"}, r"with model_type 'qwen2': .*formats.open\(path\) reads its tensors"),
    ({"num_hidden_layers": 3}, "it has no tensor blk.2.attn_norm"),
    ({"num_hidden_layers": 1}, "it has a tensor blk.1"),
    ({"intermediate_size": 128}, "does not fit its own metadata"),
    ({"num_attention_heads": 64, "num_key_value_heads": 32}, "heads that do not fit|cannot share"),
])  # fmt: skip
def test_a_folder_of_another_model_is_refused(tmp_path, config, why):
    folder = published(tmp_path / "tiny", **config)
    with pytest.raises(ValueError, match=why):
        llama.load(folder)


@pytest.mark.parametrize("more, why", [
    ({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, "q_proj.bias', which a Llama has"),
    ({"model.layers.0.mlp.down_proj.pre_quant_scale": torch.ones(96)}, "_quant_scale', which"),
    ({"model.norm.weight": torch.ones(64).to(torch.int8)}, "output_norm.weight is torch.int8"),
])  # fmt: skip
def test_tensors_that_are_no_floats_or_no_part_are_refused(tmp_path, more, why):
    folder = published(tmp_path / "tiny")
    save_file(load_file(folder / FILE) | more, folder / FILE)
    with pytest.raises(ValueError, match=why):
        llama.load(folder)


@pytest.mark.parametrize("key, value", [
    ("rope_scaling", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}),
    ("rope_scaling", {"rope_type": "linear", "factor": 8.0, "attention_factor": 2.0}),
    ("rope_scaling", {"type": "linear", "factor": "2"}), ("rope_scaling", {"factor": 2.0}),
    ("rope_scaling", {"type": "linear", "factor": 0}), ("rope_scaling", {"type": ["linear"]}),
    ("rope_scaling", {"type": "dynamic", "factor": 2.0}), ("rope_scaling", "linear"),
    ("rope_scaling", {"rope_type": "default", "type": "linear", "factor": 2.0}),
    ("rope_scaling", {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
    ("rope_scaling", {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}),
    ("rope_parameters", {"rope_theta": 100.0, "partial_rotary_factor": 0.5}),
    ("rope_parameters", {"full_attention": {"rope_type": "yarn"}}),
    ("rope_parameters", {"rope_type": "proportional", "rope_theta": 100.0}),
    ("rope_interleaved", True), ("partial_rotary_factor", 0.5), ("head_dim", "16"),
    ("attention_bias", True), ("mlp_bias", True), ("hidden_act", "gelu"), ("layer_types", ["x"]),
    ("layer_types", ["full_attention", "sliding_attention"]), ("sliding_window", 16),
    ("architectures", ["LlamaForCausalLMEagle3"]), ("architectures", [["x"]]), ("logit_scale", 2),
    ("attention_multiplier", 0.5), ("residual_multiplier", 0.2), ("embedding_multiplier", 12),
    ("logits_scaling", 8), ("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0),
    ("query_pre_attn_scalar", 256), ("clip_qkv", 8), ("qk_norm", True), ("use_rope", False),
    ("no_rope_layers", [1, 0]), ("num_local_experts", 8), ("causal", False), ("scale_emb", 12),
])  # fmt: skip
def test_what_changes_the_arithmetic_or_is_not_known_is_refused_by_name(tmp_path, key, value):
    folder = published(tmp_path / "tiny", **{key: value})
    with pytest.raises(ValueError, match=f"holds a model with .*{key}") as told:
        llama.load(folder)
    assert str(told.value).endswith(".")


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip


def test_two_ways_of_turning_are_refused(tmp_path):
    ways = {"rope_parameters": {"rope_theta": 100.0},
            "rope_scaling": {"type": "linear", "factor": 2.0}}  # fmt: skip
    with pytest.raises(ValueError, match="with rope_parameters .* rope_scaling"):
        llama.load(published(tmp_path / "tiny", **ways))


def slower_as_published(half=8, base=100.0, context=64):
    """_compute_llama3_parameters of transformers, number by number, as divisors."""
    found = []
    for j in range(half):
        speed = base ** -(j / half)
        wavelength = 2 * math.pi / speed
        slow = speed
        if wavelength > context / LLAMA3["low_freq_factor"]:
            slow = speed / LLAMA3["factor"]
        elif wavelength > context / LLAMA3["high_freq_factor"]:
            mix = (context / wavelength - 1.0) / (4.0 - 1.0)
            slow = (1 - mix) * speed / LLAMA3["factor"] + mix * speed
        found.append(speed / slow)
    return torch.tensor(found).double()


@pytest.mark.parametrize("how, slower", [
    ({"rope_scaling": {"rope_type": "llama3"} | LLAMA3}, slower_as_published()),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 100.0} | LLAMA3},
     slower_as_published()),
    ({"rope_scaling": {"type": "linear", "factor": 4}}, 4.0),
])  # fmt: skip
def test_positions_of_a_stretched_model_turn_slower(tmp_path, how, slower):
    assert len(set(slower_as_published().tolist())) > 3  # kept, slowed and mixed
    folder = published(tmp_path / "tiny", **how)
    tensors, ids = doubles(load_file(folder / FILE)), list(range(40))
    wanted = as_published(tensors, ids, slower)
    assert (as_published(tensors, ids) - wanted).abs().max() > 0.1
    to_gguf(folder, tmp_path / "x.gguf", "F32")
    for path in (folder, tmp_path / "x.gguf"):
        model = llama.load(path, "float")[0].double()
        with torch.no_grad():
            got = model(torch.tensor([ids]))[0, -1]
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)  # eps is float32 in GGUF


def test_a_window_slides_in_mistral_whatever_another_models_switch_says(tmp_path):
    window = {"sliding_window": 16, "use_sliding_window": False}
    llama.load(published(tmp_path / "llama", **window))  # whose code knows no window
    with pytest.raises(ValueError, match="sliding_window 16"):
        llama.load(published(tmp_path / "mistral", model_type="mistral", **window))


REAL = [
    {  # SmolLM2
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "hidden_act": "silu", "initializer_range": 0.0416, "is_llama_config": True,
        "mlp_bias": False, "pad_token_id": 2, "pretraining_tp": 1, "rope_interleaved": False,
        "rope_scaling": None, "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "use_cache": True,
        "_name_or_path": "x", "_attn_implementation_autoset": True,
    },
    {  # of transformers 5, and of unsloth
        "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "rope_theta": None,
        "unsloth_fixed": True, "unsloth_version": "2025.1", "bos_token_id": None,
        "layer_types": ["full_attention"] * LAYERS,
    },
    {"architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048},  # the first ones
]  # fmt: skip


@pytest.mark.parametrize("config", REAL)
def test_what_real_folders_say_besides_is_no_obstacle(tmp_path, config):
    whole = logits(llama.load(published(tmp_path / "tiny"))[0])
    assert torch.equal(logits(llama.load(published(tmp_path / "tiny", **config))[0]), whole)


@pytest.mark.parametrize("config, why", [
    ({"quant_method": "bitnet", "quantization_mode": "online"}, "quant_method 'bitnet'"),
    ({"quant_method": ["gptq"]}, r"quant_method \['gptq'\]"),
    ({"transform_config": {"config_groups": {"R4": {"type": "hadamard"}}}}, "'transform_config'"),
    ({"rotation": "hadamard"}, "'rotation' 'hadamard'"), ({"adapter": {"rank": 8}}, "'adapter'"),
    ({"spinquant_config": {"r4": True}}, "'spinquant_config'"),
])  # fmt: skip
def test_what_the_codes_leave_open_is_refused_by_name(tmp_path, config, why):
    folder = published(tmp_path / "tiny", quantization_config=config)
    with pytest.raises(ValueError, match=f"quantized model with {why}.*not read here: dequant"):
        llama.load(folder)


def test_steps_for_inputs_and_for_the_cache_are_left_out(tmp_path):
    folder = published(tmp_path / "tiny")
    whole, tensors = logits(llama.load(folder)[0]), load_file(folder / FILE)
    for layer in ("self_attn.q_proj.input_scale", "mlp.down_proj.input_scale", "self_attn.k_scale",
                  "self_attn.k_proj.output_scale", "self_attn.v_scale",
                  "mlp.up_proj.input_global_scale", "mlp.up_proj.input_scale_ub",
                  "self_attn.v_proj.v_scale"):  # fmt: skip
        tensors[f"model.layers.0.{layer}"] = torch.tensor(0.5)
    save_file(tensors, folder / FILE)
    assert torch.equal(logits(llama.load(folder)[0]), whole)


BAD = (-1, 0, 2**70, 0.5, "x", [], [1], {}, {"rope_type": []}, True, float("inf"), float("nan"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_any_value_under_any_key_is_refused_in_a_sentence_or_does_no_harm(tmp_path, file):
    more = dict.fromkeys(("sliding_window", "rope_parameters", "architectures", "layer_types"))
    folder = published(tmp_path / "tiny", head_dim=16, quantization_config=None, **more)
    said = json.loads((folder / file).read_text()) | {"bos_token": None}
    refused = 0
    for key in said:
        for x in BAD:
            (folder / file).write_text(json.dumps(said | {key: x}))
            try:
                model, _ = llama.load(folder)
                assert logits(model).isfinite().all(), (key, x)
            except ValueError as error:
                refused += 1
                assert str(error)[-1] == "." and len(str(error)) > 30, (key, x, error)
    assert refused or file == "tokenizer_config.json"


@pytest.mark.parametrize("text, why", [
    ("[", "is none that the library tokenizers reads"),
    ('{"model": 1}', "is none that the library tokenizers reads"),
])  # fmt: skip
def test_another_tokenizer_is_refused(tmp_path, text, why):
    folder = published(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=why):
        llama.load(folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "config.json"])
def test_what_is_no_utf_8_is_named(tmp_path, file):
    folder = published(tmp_path / "tiny")
    (folder / file).write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=f"{file} is no (text in UTF-8|JSON of names and values)"):
        llama.load(folder)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path):
    folder = published(tmp_path / "tiny")
    said = json.loads((folder / "tokenizer.json").read_text())
    said["model"]["vocab"]["zz"] = 102
    (folder / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="the id 102, and the embedding 102 rows: it is of ano"):
        llama.load(folder)


# --- its tokenizer ---


def added(folder, **how):
    """One more token in its tokenizer.json, in the place of all that were added."""
    said = json.loads((folder / "tokenizer.json").read_text())
    said["added_tokens"] = [PLAIN | {"id": 97, "special": False} | how]
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return folder


def test_a_special_token_of_any_letters_comes_back(tmp_path):
    folder = added(published(tmp_path / "tiny"), content="<r\u00e9>")
    _, tokenizer = llama.load(folder)
    assert tokenizer.decode(tokenizer.encode("ab<r\u00e9> ab")) == "ab<r\u00e9> ab"


def test_a_token_that_is_a_word_of_its_own_is_refused(tmp_path):
    folder = added(published(tmp_path / "tiny"), content="own", single_word=True)
    with pytest.raises(ValueError, match="tokenizer.json has 'own', a token that is read only as"):
        llama.load(folder)


def test_the_template_is_where_people_put_it(tmp_path):
    folder = published(tmp_path / "tiny")
    chat = "{{ bos_token }}{{ messages[0]['content'] }}"
    tokens = {"bos_token": {"content": "<|end|>"}, "eos_token": None}
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": chat}]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | {"chat_template": named}))
    _, tokenizer = llama.load(folder)
    end = tokenizer.encode("<|end|>", special=True)
    assert len(end) == 1 and tokenizer.chat("ab") == end + tokenizer.encode("ab")
    assert tokenizer.chat("<|end|>")[1:] == tokenizer.encode("<|end|>") != end
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}b")
    assert llama.load(folder)[1].chat("a") == tokenizer.encode("ab")
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="no template of a chat"):
        llama.load(folder)[1].chat("a")


@pytest.mark.parametrize("template, wanted", [
    ("{% for m in messages %}{{ m.content }}b{% break %}{% endfor %}", "ab"),
    ("{% if not messages %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}", "a"),
    ("{{ messages[0].content | tojson }}{{ {'x': '<b>'} | tojson }}", '"a"{"x": "<b>"}'),
    ("{{ messages[0].content }}{{ strftime_now('%Y')[:2] }}", "a20"),
])  # fmt: skip
def test_a_template_may_do_what_those_of_others_do(tmp_path, template, wanted):
    folder = published(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = llama.load(folder)[1]
    assert tokenizer.decode(tokenizer.chat("a")) == wanted


@pytest.mark.parametrize("template, why", [
    ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
    ("{% nothing %}", "unknown tag"), ("{{ messages[7].content.x }}", "no attribute|no element"),
    ("{{ 1 / 0 }}", "division by zero"), ("{{ ''.__class__.__mro__ }}", "unsafe"),
])  # fmt: skip
def test_a_template_that_fails_says_so_in_a_sentence(tmp_path, template, why):
    folder = published(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = llama.load(folder)[1]
    with pytest.raises(ValueError, match=f"template of a chat fails: .*({why}).* Use tokenizer"):
        tokenizer.chat("a")


def sentencepiece(scheme, path):
    """A tokenizer as Llama 2 and Mistral have it: spaces as letters, one before the text."""
    import tokenizers as library

    letters = [
        "<unk>",
        "<s>",
        "[x]",
        "<r>",
        *(f"<0x{i:02X}>" for i in range(256)),
        *"\u2581abc",
        "ab",
    ]
    ids = {x: i for i, x in enumerate([*letters, "\u2581a", "\u2581ab"])}
    pairs = [("a", "b"), ("\u2581", "a"), ("\u2581", "ab")]
    made = library.Tokenizer(library.models.BPE(ids, pairs, byte_fallback=True, unk_token="<unk>"))
    steps = library.normalizers
    if scheme is None:
        made.normalizer = steps.Sequence([steps.Prepend("\u2581"), steps.Replace(" ", "\u2581")])
    else:
        made.pre_tokenizer = library.pre_tokenizers.Metaspace("\u2581", scheme, False)
    strips = {"<s>": {}, "[x]": {}, "<r>": {"lstrip": True, "rstrip": True}}
    made.add_special_tokens([library.AddedToken(x, normalized=False, **how)
                             for x, how in strips.items()])  # fmt: skip
    made.save(str(path))
    return made


@pytest.mark.parametrize("scheme", ["first", None])
def test_a_choice_stands_behind_one_space(tmp_path, scheme):
    theirs = sentencepiece(scheme, tmp_path / "tokenizer.json")
    ours = of_json(tmp_path / "tokenizer.json", theirs.get_vocab_size(), template="")
    ((prompt, choices, answer),) = llama.as_ids(ours, [("ab", ("a", "b", "c", "ab"))])
    assert [ours.encode("Question: ab\nAnswer: a")] == [prompt + choices[answer]]
    assert choices[answer] == [theirs.token_to_id("\u2581a")]


@pytest.mark.parametrize("scheme", ["first", "always", "never", None])
def test_spaces_beside_special_tokens_are_those_of_the_library(tmp_path, scheme):
    theirs = sentencepiece(scheme, tmp_path / "tokenizer.json")
    ours = of_json(tmp_path / "tokenizer.json", theirs.get_vocab_size(), template="<s>{{ "
                   "messages[0].content }}[x] b<r> c")  # fmt: skip
    words = [
        "ab",
        "",
        " ab",
        "a<s>b",
        "<s>ab[x] ab",
        "<s>",
        "a <r> b",
        "<r>a<r>",
        "<s> <r>\n c",
        "é<s>é",
    ]
    for text in words:
        assert ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False).ids
    for text in ("ab", " ab"):
        wanted = theirs.encode(f"<s>{text}[x] b<r> c", add_special_tokens=False).ids
        assert ours.chat(text) == wanted
    hidden = ours.chat("a<s>b")  # the text cannot add one
    assert hidden.count(ours.control["<s>"]) == 1


def test_the_ends_are_those_of_both_files(tmp_path):
    folder = published(tmp_path / "tiny", eos_token_id=5)
    assert llama.load(folder)[0].config.ends == (5,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 9]}))
    assert llama.load(folder)[0].config.ends == (5, 9)
