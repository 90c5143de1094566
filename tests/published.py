"""The folder of a small Llama with random weights, as people publish one, and what it computes."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS = 64, 4, 2, 96, 2
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"


# The pattern in the tokenizer.json of Llama 3, as published.
LLAMA_3 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)


def cut_by(regex):
    """The steps of a tokenizer that cuts by a regular expression."""
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    letters |= {"trim_offsets": True}
    return {"type": "Sequence", "pretokenizers": [split, letters]}


def small():
    """(vocabulary, merges, added tokens) of letters."""
    letters = [chr(i) for i in range(33, 127)] + ["Ġ", "ab", "Ġab"]
    added = [
        {"id": len(letters), "content": "<|end|>", "special": True},
        {"id": len(letters) + 1, "content": "<own>", "special": False},
    ]
    return letters, [["a", "b"], ["Ġ", "ab"]], added


def published(folder, words=small, tokenizer=None, **config):
    """A folder with a model of random weights."""
    folder.mkdir(exist_ok=True)
    letters, merges, added = words()
    count = len(letters) + len(added) + 3
    made = torch.Generator().manual_seed(0)

    def w(*shape):
        return torch.randn(shape, generator=made) / shape[-1] ** 0.5

    tensors = {"model.embed_tokens.weight": w(count, WIDTH) * 8, "model.norm.weight": w(WIDTH) + 1}
    head = config["head_dim"] if isinstance(config.get("head_dim"), int) else WIDTH // HEADS
    q, kv = HEADS * head, KV_HEADS * head
    shapes = {
        "self_attn.q_proj": (q, WIDTH), "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH), "self_attn.o_proj": (WIDTH, q),
        "mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH),
        "mlp.down_proj": (WIDTH, HIDDEN),
    }  # fmt: skip
    for i in range(LAYERS):
        tensors |= {f"model.layers.{i}.{n}.weight": 3 * w(*shape) for n, shape in shapes.items()}
        for n in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{n}.weight"] = w(WIDTH) + 1
    save_file(tensors, folder / "model.safetensors")
    said = {
        "model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "num_hidden_layers": LAYERS, "intermediate_size": HIDDEN,
        "vocab_size": count, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 100.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": [2, 3],
    }  # fmt: skip
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    steps = [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"} | byte_level]
    said_of_tokens = {
        "model": {"type": "BPE", "vocab": {x: i for i, x in enumerate(letters)}, "merges": merges},
        "added_tokens": [x | PLAIN for x in added],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel"} | byte_level,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(said | config))
    (folder / "tokenizer.json").write_text(json.dumps(said_of_tokens | (tokenizer or {})))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def as_published(tensors, ids, slower=1.0):
    """The logits of the last token, as the folder's own code has them: halves are turned, slower
    than rope_theta says in models that were stretched."""

    def norm(x, w):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w

    def turned(x):
        half = x.shape[-1] // 2
        rate = 100.0 ** -(torch.arange(half).double() / half) / slower
        angle = torch.arange(len(ids)).double()[:, None] * rate
        a, b, cos, sin = x[..., :half], x[..., half:], angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def heads(x, count):
        return x.view(len(ids), count, -1).transpose(0, 1)

    x = tensors["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        w = {n.split(".")[-2]: t for n, t in tensors.items() if n.startswith(f"model.layers.{i}.")}
        h = norm(x, w["input_layernorm"])
        q, k = turned(heads(h @ w["q_proj"].T, HEADS)), turned(heads(h @ w["k_proj"].T, KV_HEADS))
        k, v = (t.repeat_interleave(2, 0) for t in (k, heads(h @ w["v_proj"].T, KV_HEADS)))
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        x = x + mixed.transpose(0, 1).reshape(len(ids), -1) @ w["o_proj"].T
        h = norm(x, w["post_attention_layernorm"])
        x = x + (F.silu(h @ w["gate_proj"].T) * (h @ w["up_proj"].T)) @ w["down_proj"].T
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return norm(x, tensors["model.norm.weight"])[-1] @ head.T
