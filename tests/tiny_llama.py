"""A GGUF file of a Llama that fits on a screen: random weights, real structure."""

import random
import struct

import built

WIDTH, HIDDEN, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
BYTES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_1": (3, 32, 20), "Q8_0": (8, 32, 34)}
LETTERS = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
LOST = "\u0785"  # a letter of the bytes DE and 85, which have no token here
CONTROL = ["<|start|>", "<|end|>", "<|start|>more"]
MERGES = ["Ġ a", "a b", "Ġa b", "b a", "1 2", "ð Ł"]
TOKENS = [
    *CONTROL,
    "<named>",
    *(x for x in LETTERS if ord(x) not in (0xDE, 295)),
    *(m.replace(" ", "") for m in MERGES),
]
KINDS = [3, 3, 3, 4, *(1 for _ in TOKENS[4:])]
TEMPLATE = "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>\n{% endfor %}<|start|>"
SHAPES = {
    "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH),
    "attn_v": (WIDTH // 2, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,),
    "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
}  # fmt: skip
WORDS = {
    "general.architecture": ("text", "llama"), "tokenizer.ggml.model": ("text", "gpt2"),
    "tokenizer.ggml.pre": ("text", "smollm"), "tokenizer.chat_template": ("text", TEMPLATE),
    "llama.block_count": ("uint32", LAYERS), "llama.context_length": ("uint32", 64),
    "llama.feed_forward_length": ("uint32", HIDDEN),
    "llama.attention.head_count": ("uint32", HEADS),
    "llama.attention.head_count_kv": ("uint32", KV_HEADS),
    "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5),
    "llama.rope.freq_base": ("float32", 100.0), "tokenizer.ggml.eos_token_id": ("uint32", 1),
    "tokenizer.ggml.bos_token_id": ("uint32", 0), "tokenizer.ggml.tokens": (["text"], TOKENS),
    "tokenizer.ggml.merges": (["text"], MERGES), "tokenizer.ggml.token_type": (["int32"], KINDS),
}  # fmt: skip


def shapes(head=False, head_width=WIDTH // HEADS) -> dict:
    """{name: shape in torch's order} of all tensors."""
    q, kv = HEADS * head_width, KV_HEADS * head_width
    own = {"attn_q": (q, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH)}
    of_block = SHAPES | own | {"attn_output": (WIDTH, q)}
    named = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    named |= {"output": (len(TOKENS), WIDTH)} if head else {}
    named |= {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in of_block.items()}
    return {f"{name}.weight": shape for name, shape in named.items()}


def written(types=None, words=None, head=False, more=(), head_width=None) -> bytes:
    """The file. types: {part of a name: type}, "Q4_1" for a matrix that has none; words: keys that
    differ, None for one that is left out; more: shapes of tensors that no Llama has; head_width:
    of heads that are not as wide as usual."""
    if head_width:
        said = {f"llama.attention.{x}_length": ("uint32", head_width) for x in ("key", "value")}
        words = said | (words or {})
    all_shapes = shapes(head, head_width or WIDTH // HEADS) | dict(more)
    drawn, parts, tensors, at = random.Random(0), [], [], 0
    for name, shape in all_shapes.items():
        chosen = [kind for part, kind in (types or {}).items() if part in name] or ["Q4_1"]
        kind, values, nbytes = BYTES["F32" if len(shape) == 1 else chosen[0]]
        count = shape[0] * (shape[1] if len(shape) == 2 else 1) // values
        data = b"".join(_block(drawn, kind) for _ in range(count))
        tensors.append(built.tensor(name, shape[::-1], kind, at))
        parts.append(data + bytes(-len(data) % 32))
        at += len(parts[-1])
    said = {k: x for k, x in (WORDS | (words or {})).items() if x is not None}
    keys = [built.key(name, *x) for name, x in said.items()]
    return built.file(keys, tensors, b"".join(parts))


def _block(drawn, kind) -> bytes:
    if kind == 0:
        return struct.pack("<f", drawn.gauss(0, 0.1) + 1)
    if kind == 1:
        return struct.pack("<e", drawn.gauss(0, 0.1))
    scale = struct.pack("<e", drawn.uniform(0.01, 0.04) / (16 if kind == 8 else 1))
    minimum = struct.pack("<e", -drawn.uniform(0.1, 0.3)) if kind == 3 else b""
    return scale + minimum + drawn.randbytes(16 if kind == 3 else 32)
