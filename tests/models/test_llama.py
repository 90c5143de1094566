"""A published language model: its architecture, its tokenizer, its file, and its answers."""

import peers
import pytest
import tiny_llama
import torch

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.evaluate import compare
from qlesson.files import formats
from qlesson.files.formats.kinds import SuperBlocks
from qlesson.models import llama
from qlesson.models.cache import KVCache
from qlesson.models.llama.tokens import CUTS, of_merges
from qlesson.nn import QuantizedEmbedding, QuantizedLinear, quantize_model
from qlesson.nn.product import packed_of

IDS = [4, 9, 7, 200, 0, 31, 8, 8]


@pytest.fixture(scope="module", autouse=True)
def tokenizers():
    return peers.peer("tokenizers")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that writes a tiny file and gives its path."""
    folder = tmp_path_factory.mktemp("llama")

    def write(**how):
        path = folder / f"{len(list(folder.iterdir()))}.gguf"
        path.write_bytes(tiny_llama.written(**how))
        return path

    return write


@pytest.fixture(scope="module")
def tiny(written):
    return written()


def float_values(x):
    return (x if isinstance(x, torch.Tensor) else x.dequantize()).double()


def spec(path, ids):
    """Logits [time, vocabulary] in float64, token by token, head by head, pair by pair."""
    with formats.open(path) as file:
        w = {name.removesuffix(".weight"): float_values(file[name]) for name in file}
    heads, shared = tiny_llama.HEADS, tiny_llama.KV_HEADS
    size, past = len(w["blk.0.attn_k"]) // shared, {}

    def norm(x, weight):
        eps = torch.tensor(1e-5).double()  # the file holds a float32
        return x / (x.square().mean() + eps).sqrt() * weight

    def turn(x, position):
        out = []
        for head in x.view(-1, size):
            for j in range(0, size, 2):
                angle = torch.tensor(position * 100.0 ** (-j / size), dtype=torch.float64)
                a, b, cos, sin = head[j], head[j + 1], angle.cos(), angle.sin()
                out += [a * cos - b * sin, a * sin + b * cos]
        return torch.stack(out)

    logits = []
    for position, token in enumerate(ids):
        x = w["token_embd"][token]
        for layer in range(tiny_llama.LAYERS):
            its = {name: w[f"blk.{layer}.{name}"] for name in tiny_llama.SHAPES}
            h = norm(x, its["attn_norm"])
            q = turn(its["attn_q"] @ h, position).view(heads, size)
            k = turn(its["attn_k"] @ h, position).view(shared, size)
            before = past.setdefault(layer, [])
            before.append((k, (its["attn_v"] @ h).view(shared, size)))
            found = []
            for head in range(heads):
                own = head * shared // heads
                p = torch.stack([q[head] @ k[own] for k, _ in before]).div(size**0.5).softmax(0)
                found.append(sum(p[i] * v[own] for i, (_, v) in enumerate(before)))
            x = x + its["attn_output"] @ torch.cat(found)
            h = norm(x, its["ffn_norm"])
            gate = its["ffn_gate"] @ h
            x = x + its["ffn_down"] @ (gate * gate.sigmoid() * (its["ffn_up"] @ h))
        logits.append(w.get("output", w["token_embd"]) @ norm(x, w["output_norm"]))
    return torch.stack(logits)


# --- the architecture and the file ---


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"head": True},
        {"types": {"attn_v": "Q8_0", "token_embd": "Q8_0"}},
        {"types": {"ffn_up": "F16", "attn_q": "F16", "output.": "F16"}, "head": True},
        {"types": {"": "F16"}},
        {"head_width": 24},
    ],
)
@pytest.mark.parametrize("keep", ["codes", "float"])
def test_it_computes_what_the_formulas_say(written, how, keep):
    path = written(**how)
    model, _ = llama.load(path, keep)
    wanted = spec(path, IDS)
    with torch.no_grad():
        got, exact = model(torch.tensor([IDS]))[0], model.double()(torch.tensor([IDS]))[0]
    assert wanted.std() > 0.1  # the tiny model says something
    torch.testing.assert_close(exact, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-3)


def test_it_holds_the_codes_of_the_file_and_one_layer_for_those_with_one_input(tiny):
    model, _ = llama.load(tiny)
    linear = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert len(linear) == 4 * tiny_llama.LAYERS + 1
    assert isinstance(model.embedding, QuantizedEmbedding)
    assert model.head.codes is model.embedding.codes
    with formats.open(tiny) as file:
        v = file["blk.1.attn_v.weight"]
        assert torch.equal(model.blocks[1].attention.qkv.codes.q[-len(v.q) :], v.q)


def test_rows_of_different_types_stay_layers_of_their_own(written):
    model, _ = llama.load(written(types={"attn_v": "Q8_0"}))
    bits = [[layer.codes.bits for layer in b.attention.qkv] for b in model.blocks]
    assert bits == [[4, 4, 8]] * tiny_llama.LAYERS


def k_quant(rows, width, generator):
    """Codes of 4 bits with scales of scales, in blocks of 32 of 64 values each."""

    def drawn(high, *shape):
        return torch.randint(1, high, shape, generator=generator, dtype=torch.uint8)

    scale = torch.rand(rows, width // 64, generator=generator).div(1000).half()
    steps = drawn(64, rows, width // 32), drawn(64, rows, width // 32), 6
    return SuperBlocks(drawn(16, rows, width), scale, -8 * scale, 4, 64, *steps)


def test_scales_of_scales_are_multiplied_out_for_the_products(tiny, monkeypatch):
    made, generator = {}, torch.Generator().manual_seed(0)
    read = formats.Opened.__getitem__

    def k_quants(file, name):
        if name.endswith("attn_output.weight"):
            width = tiny_llama.WIDTH
            return made.setdefault(name, k_quant(width, width, generator))
        return read(file, name)

    monkeypatch.setattr(formats.Opened, "__getitem__", k_quants)
    for keep in ("codes", "float"):
        model, _ = llama.load(tiny, keep)
        for i, block in enumerate(model.blocks):
            wanted = made[f"blk.{i}.attn_output.weight"]
            assert torch.equal(block.attention.out.weight, wanted.dequantize())
            if keep == "codes":
                codes = block.attention.out.codes
                assert codes.kind is Blocks and torch.equal(codes.q, wanted.q)
                assert packed_of(codes) is not None  # the products take it


def test_a_model_in_float_is_a_model_of_torch_with_a_tied_head(tiny):
    model, _ = llama.load(tiny, keep="float")
    assert model.head.weight is model.embedding.weight and model.norm.weight.requires_grad
    small, report = quantize_model(model, ql.Scheme(8))
    assert small.head.codes is small.embedding.codes
    assert len(list(report)) == 4 * tiny_llama.LAYERS + 2


def resized(**rows):
    """Shapes of the first block with other rows, as many in all for a layer."""
    return {f"blk.0.{name}.weight": (n, tiny_llama.WIDTH) for name, n in rows.items()}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"words": {"general.architecture": ("text", "gemma")}}, "its architecture is 'gemma'"),
        ({"words": {"general.architecture": None}}, "general.architecture must be str"),
        ({"words": {"llama.attention.head_count": ("uint32", 5)}}, "heads that do not fit"),
        ({"words": {"llama.attention.head_count": ("uint32", 8)}}, "does not fit its own metadata"),
        ({"words": {"llama.attention.head_count_kv": ("uint32", 3)}}, "heads that do not fit"),
        ({"words": {"llama.attention.head_count": ("uint32", 0)}}, "head_count must be an integer"),
        ({"words": {"llama.block_count": ("uint32", 2**32 - 1)}}, "block_count must be an integer"),
        ({"words": {"llama.block_count": ("uint32", 3)}}, "no tensor blk.2.attn_norm"),
        ({"words": {"llama.block_count": ("uint32", 1)}}, "it has a tensor blk.1"),
        ({"words": {"llama.feed_forward_length": ("uint32", 128)}}, "does not fit its own"),
        ({"words": {"llama.rope.scaling.type": ("text", "yarn")}}, "the way 'yarn'"),
        ({"words": {"llama.rope.scaling.factor": ("float32", -4.0)}}, "are scaled by -4"),
        (
            {
                "words": {
                    "llama.rope.scaling.factor": ("float32", 4.0),
                    "llama.rope.scaling.type": ("text", "none"),
                }
            },
            "are scaled by 4.0, in the way 'none'",
        ),
        ({"words": {"llama.rope.scale_linear": ("float32", 4.0)}}, "'llama.rope.scale_linear' 4.0"),
        (
            {"words": {"llama.attention.key_length": ("uint32", 32)}},
            "value_length is 16, and a head",
        ),
        (
            {"words": {"llama.attention.value_length": ("uint32", 8)}},
            "value_length is 8, and a head",
        ),
        ({"words": {"llama.attention.sliding_window": ("uint32", 8)}}, "sliding_window' 8 is not"),
        ({"words": {"llama.expert_count": ("uint32", 8)}}, "'llama.expert_count' 8 is not known"),
        ({"words": {"llama.logit_scale": ("float32", 0.5)}}, "'llama.logit_scale' 0.5 is not"),
        ({"words": {"split.count": ("uint16", 2)}}, "one of several parts; llama-gguf-split"),
        ({"words": {"llama.rope.dimension_count": ("uint32", 8)}}, "dimension_count is 8, and"),
        ({"words": {"tokenizer.ggml.model": ("text", "llama")}}, "of the kind 'llama'"),
        ({"words": {"tokenizer.ggml.pre": ("text", "other")}}, "cut as 'other' says"),
        ({"words": {"tokenizer.ggml.tokens": (["text"], ["a"])}}, "it has 1 tokens"),
        ({"words": {"tokenizer.ggml.bos_token_id": ("uint32", 9999)}}, "bos_token_id must be"),
        ({"words": {"tokenizer.ggml.eos_token_id": ("uint32", 9999)}}, "eos_token_id must be"),
        ({"more": {"rope_freqs.weight": (4,)}}, "rope_freqs.weight must be 8 positive numbers"),
        ({"more": {"rope_freqs.weight": (8, 32)}}, "rope_freqs.weight must be 8 positive"),
        ({"more": {"blk.0.attn_q.bias": (64,)}}, "it has a tensor blk.0.attn_q.bias"),
        ({"more": resized(attn_q=32, attn_k=64)}, r"shapes .*\(64, 64\), \(32, 64\), \(32, 64\)\]"),
        ({"more": resized(attn_k=16, attn_v=48)}, r"have .*\(64, 64\), \(16, 64\), \(48, 64\)\]"),
        ({"more": resized(ffn_gate=64, ffn_up=128)}, r"shapes \[\(96, 64\), \(96, 64\)\]"),
        ({"more": {"blk.1.ffn_norm.weight": (128,)}}, r"shapes \[\(64,\)\], and have \[\(128,\)\]"),
    ],
)
def test_what_it_cannot_compute_rightly_is_refused(written, how, why):
    path = written(**how)
    with pytest.raises(ValueError, match=why) as told:
        llama.load(path)
    assert str(told.value).count(str(path)) == 1


def test_any_value_under_any_key_is_refused_in_a_sentence_or_does_no_harm(written):
    count = len(tiny_llama.TOKENS)
    odd = [("text", "x"), ("text", ""), ("int32", -1), ("uint64", 2**64 - 1), ("bool", True),
           ("float32", float("nan")), ("float64", 1e300), (["text"], ["a"] * count), None,
           (["int32"], [7] * count), (["text"], ["x y", "\u00e9"]),
           ([["text"]], [["a b"]] * count)]  # fmt: skip
    for key in tiny_llama.WORDS:
        for x in odd:
            try:
                model, text = llama.load(written(words={key: x}))
                with torch.no_grad():
                    assert model(torch.tensor([[4, 5]])).isfinite().all(), (key, x)
                text.decode(text.encode("ab 1"))
            except (ValueError, TypeError) as error:
                assert str(error)[-1] == "." and len(str(error)) > 30, (key, x, error)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        llama.load(tmp_path / "no.gguf")
    with pytest.raises(ValueError, match="'codes' or 'float'"):
        llama.load(tmp_path / "no.gguf", keep="half")


def test_control_tokens_that_end_an_answer_are_known_by_their_texts(written):
    """Only where they are control tokens: <|endoftext|> is an ordinary one here."""
    tokens, kinds = list(tiny_llama.TOKENS), list(tiny_llama.KINDS)
    tokens[2], tokens[3], tokens[4:6] = "<|im_end|>", "<|eot_id|>", ["<|endoftext|>", "<|eom_id|>"]
    kinds[3], kinds[5] = 4, 3
    said = {"tokenizer.ggml.tokens": (["text"], tokens)}
    said |= {"tokenizer.ggml.token_type": (["int32"], kinds)}
    said |= {"tokenizer.ggml.eom_token_id": ("uint32", 9)}
    assert set(llama.load(written(words=said))[0].config.ends) == {1, 2, 5, 9}


# --- writing ---


@pytest.fixture(scope="module")
def small(tiny):
    return llama.load(tiny)


def without_end(model):
    """The logits of a model as `generate` reads them, one by one and without a cache."""
    ids = list(IDS)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == 1:
            return ids[len(IDS) : -1]
    return ids[len(IDS) :]


def test_it_writes_the_likeliest_token_with_any_cache(small):
    model = small[0].double()
    wanted = without_end(model)
    for new_cache in (KVCache, None):
        assert list(model.generate(IDS, 12, new_cache=new_cache)) == wanted
    quantized = list(
        model.generate(
            IDS, 12, new_cache=lambda: KVCache(ql.Scheme(8, granularity=ql.PerGroup(32)))
        )
    )
    assert len(quantized) <= 12


def test_pieces_through_a_cache_are_the_whole(small):
    model, ids, cache = small[0].double(), torch.tensor([IDS]), KVCache()
    with torch.no_grad():
        pieces = torch.cat([model(piece, cache) for piece in ids.split([3, 1, 4], 1)], 1)
        torch.testing.assert_close(pieces, model(ids), rtol=1e-12, atol=1e-12)
    assert cache.length == len(IDS)


def test_it_stops_at_the_end_of_an_answer_and_does_not_give_it_out(small):
    model = small[0].double()
    first = next(iter(model.generate(IDS, 1)))
    before = model.config
    model.config = llama.Config(**vars(before) | {"ends": (first,)})
    assert list(model.generate(IDS, 5)) == []
    model.config = before


def test_a_temperature_draws_by_the_seed(small):
    model = small[0].double()
    drawn = [list(model.generate(IDS, 8, 2.0, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert list(model.generate(IDS, 8, 1e-6)) == list(model.generate(IDS, 8))


def test_draws_follow_the_probabilities(small):
    model = small[0].double()
    with torch.no_grad():
        p = model(torch.tensor([IDS]))[0, -1].div(0.5).softmax(-1)
    best, n = p.argmax().item(), 400
    hits = sum(list(model.generate(IDS, 1, 0.5, seed)) == [best] for seed in range(n))
    assert abs(hits / n - p[best]) < 4 * (p[best] * (1 - p[best]) / n) ** 0.5


@pytest.mark.parametrize(
    ("ids", "n", "why"),
    [
        ([], 1, "at least one id"),
        ("abc", 1, "ids must be an integer from 0"),
        ([10_000], 1, "ids must be an integer from 0"),
        (IDS, 58, "n must be an integer from 1 to 57"),
        (IDS, 0, "n must be"),
    ],
)
def test_what_it_cannot_write_is_refused_at_once(small, ids, n, why):
    with pytest.raises(ValueError, match=why):
        small[0].generate(ids, n)


# --- once more ---


def test_requantized_weights_are_the_codes_of_w_hat(small):
    model, scheme = small[0].float(), ql.Scheme(3, granularity=ql.PerGroup(32))
    again = llama.requantized(model, scheme)
    for name, layer in again.named_modules():
        if isinstance(layer, QuantizedLinear | QuantizedEmbedding):
            wanted = ql.fake_quantize(model.get_submodule(name).weight, scheme)
            assert torch.equal(layer.weight, wanted), name
    assert again.head.codes is again.embedding.codes and not model.head.codes.has_scheme
    windows = torch.tensor([IDS, IDS[::-1]])
    assert compare(model.double(), again.double(), [windows]).kl > 1e-4


def test_a_requantized_copy_shares_nothing_with_the_model(small):
    """Layers that keep their codes, but get inputs of codes, have them for themselves."""
    eight = ql.Scheme(8, granularity=ql.PerAxis(0))
    model = llama.requantized(small[0].float(), ql.Scheme(8, granularity=ql.PerGroup(32)))
    scheme = {"blocks.0.*": ql.Scheme(4, granularity=ql.PerGroup(32))}
    again = llama.requantized(model, scheme, activations=eight)
    held = {x.data_ptr() for x in (*model.buffers(), *model.parameters())}
    assert not [n for n, x in again.named_buffers() if x.numel() and x.data_ptr() in held]
    assert again.head.codes is again.embedding.codes


def test_only_codes_are_requantized(tiny):
    with pytest.raises(ValueError, match="use quantize_model"):
        llama.requantized(llama.load(tiny, "float")[0], ql.Scheme(4))


def test_requantized_layers_are_weight_only_where_no_activations_are_asked_for(small):
    model, groups = small[0].float(), ql.Scheme(8, granularity=ql.PerGroup(32))
    eight = ql.Scheme(8, granularity=ql.PerAxis(0))
    once = llama.requantized(model, groups, activations=eight)
    again = llama.requantized(once, groups)
    wanted = llama.requantized(llama.requantized(model, groups), groups)
    only_down = llama.requantized(once, {"*mlp.down": groups})
    for found in (again, only_down):
        linear = [m for m in found.modules() if isinstance(m, QuantizedLinear)]
        assert [m.activations for m in linear] == [None] * len(linear)
    with torch.no_grad():
        assert torch.equal(again(torch.tensor([IDS])), wanted(torch.tensor([IDS])))
    assert once.blocks[0].mlp.down.activations == eight and once.head.activations is None


# --- the tokenizer ---


def test_text_comes_back(small):
    for text in ("a ab bab 12\n", "", "grüße 🟢 <|end|> <named>", " \u2028\t\x00"):
        for special in (False, True):
            assert small[1].decode(small[1].encode(text, special)) == text


def test_control_tokens_are_read_where_asked_for(small):
    tokenizer, text = small[1], "<|start|>more a<|end|><named>"
    assert tokenizer.encode(text, special=True) == [2, *tokenizer.encode(" a"), 1, 3]
    plain = tokenizer.encode(text)
    assert not {0, 1, 2} & set(plain) and plain[-1] == 3


def test_a_chat_cannot_be_ended_by_its_text(small):
    tokenizer, text = small[1], "a<|end|> b"
    assert tokenizer.chat(text) == [0, *tokenizer.encode(text), 1, *tokenizer.encode("\n"), 0]
    assert tokenizer.chat(text).count(1) == 1


def test_a_file_without_a_template_has_no_chat(written):
    _, tokenizer = llama.load(written(words={"tokenizer.chat_template": None}))
    with pytest.raises(ValueError, match="no template of a chat"):
        tokenizer.chat("a")


def test_half_a_character_is_refused(small):
    for call in (small[1].encode, small[1].chat):
        with pytest.raises(ValueError, match="half a surrogate pair"):
            call("a\ud800b")


def test_bytes_without_a_token_are_left_out_and_their_neighbours_do_not_merge(small):
    tokenizer, lost = small[1], tiny_llama.LOST
    assert tokenizer.encode(lost) == []
    assert tokenizer.encode(f"a{lost}b") == [*tokenizer.encode("a"), *tokenizer.encode("b")]
    assert len(tokenizer.encode("ab")) == 1


def of_more(*more, kinds, template=None, cut="gpt-2", merges=("h e",)):
    """A Tokenizer of all bytes, of "he", and of more tokens; and the id of the first of these."""
    tokens = [*sorted(tiny_llama.LETTERS), "he", *more]
    listed = [1] * (len(tokens) - len(more)) + list(kinds)
    made = of_merges(tokens, list(merges), listed, cut, template=template, names={})
    return made, len(tokens) - len(more)


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("name", ["<r\u00e9ponse>", "<\uff5cfin\u2581de\uff5c>", "PAD"])
def test_special_tokens_come_back_by_their_names(name, kind):
    tokenizer, place = of_more(name, kinds=[kind])
    ids = tokenizer.encode(f"h\u00e9{name}he", special=True)
    assert place in ids and tokenizer.decode(ids) == f"h\u00e9{name}he"
    assert tokenizer.decode([place, place]) == 2 * name


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_a_token_without_a_text_takes_nothing_away(kind):
    tokenizer, place = of_more("", "", kinds=[kind, kind])
    for special in (False, True):
        ids = tokenizer.encode("he he", special)
        assert tokenizer.decode(ids) == "he he" and place not in ids and len(ids) == 3


@pytest.mark.parametrize("cut", CUTS)
def test_a_control_token_that_is_a_word_is_read_where_asked_for(cut):
    tokenizer, place = of_more("PAD", kinds=[3], cut=cut)
    assert tokenizer.encode("PAD", special=True) == [place]
    ids = tokenizer.encode("PAD")
    assert len(ids) == 3 and tokenizer.decode(ids) == "PAD"


def test_a_text_has_one_token():
    with pytest.raises(ValueError, match="The token 'x' is there twice"):
        of_more("x", kinds=[1])


@pytest.mark.parametrize("template, text, taken", [
    ("<u>{{ messages[0].content | trim }}<e>", "  he \n", "<u>he<e>"),
    ("<u>{{ messages[0].content | trim }}<e>", "he", "<u>he<e>"),
    ("<u>{{ messages[0].content }}<e>", "  he \n", "<u>  he \n<e>"),
    ("<u>{{ messages[0].content }}<e>", "<e>", "<u><e><e>"),
    ("{% if messages[0].content | length > 1 %}long{% endif %}{{ messages[0].content }}", "h", "h"),
    ("{% if messages[0].content | length > 1 %}long{% endif %}{{ messages[0].content }}", "he", 0),
    ("{{ messages[0].content | upper }}", "he", 0), ("<u><e>", "he", 0), ("", "he", 0),
])  # fmt: skip
def test_a_chat_has_the_text_as_the_template_takes_it(template, text, taken):
    tokenizer, place = of_more("<u>", "<e>", kinds=[3, 3], template=template)
    if taken:
        ids = tokenizer.chat(text)
        assert tokenizer.decode(ids) == taken and ids.count(place + 1) == ("<e>" in template)
    else:
        with pytest.raises(ValueError, match="does not write the text as it is, but .* Use token"):
            tokenizer.chat(text)


# --- the questions ---


def test_sixty_questions_with_four_choices_each(small):
    asked = llama.questions()
    assert len({question for question, _ in asked}) == len(asked) == 60
    assert all(len(set(choices)) == 4 for _, choices in asked)
    for (question, (right, *_)), (prompt, choices, answer) in zip(
        asked, llama.as_ids(small[1], asked), strict=True
    ):
        assert small[1].decode(prompt) == f"Question: {question}\nAnswer:"
        assert small[1].decode(choices[answer]) == f" {right}"
