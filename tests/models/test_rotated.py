"""A language model rotated inside: the same logits, and inputs that 4 bits can hold."""

import copy
import csv
import json
import re

import four_bit_inputs
import peers
import pytest
import tiny_llama
import torch

import qlesson as ql
from qlesson.evaluate import window_losses
from qlesson.models import llama
from qlesson.models.llama import rotation
from qlesson.models.llama.rotation import _Turn
from qlesson.nn import QuantizedEmbedding, QuantizedLinear, Rotation

IDS = torch.tensor([[4, 9, 7, 200, 0, 31, 8, 8]])
EIGHT = ql.Scheme(8, granularity=ql.PerGroup(32))
INPUTS = ql.Scheme(4, granularity=ql.PerAxis(0))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A function that loads a tiny model."""
    peers.peer("tokenizers")
    folder = tmp_path_factory.mktemp("llama")

    def load(keep="codes", **how):
        path = folder / "tiny.gguf"
        path.write_bytes(tiny_llama.written(**how))
        return llama.load(path, keep)[0]

    return load


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids)[0]


# --- the same logits ---


@pytest.mark.parametrize("keep", ["codes", "float"])
@pytest.mark.parametrize(
    "how",
    [{}, {"head": True}, {"types": {"attn_v": "Q8_0"}}, {"types": {"": "F16"}}, {"head_width": 24}],
)
def test_its_logits_are_those_of_the_model(tiny, keep, how):
    model = tiny(keep, **how)
    wanted = logits(model.double())
    assert wanted.std() > 0.5
    for seed in (0, 7):
        torch.testing.assert_close(
            logits(llama.rotated(model, seed=seed)), wanted, rtol=1e-12, atol=1e-12
        )
    in_float32 = logits(llama.rotated(model.float()))
    torch.testing.assert_close(in_float32.double(), wanted, rtol=1e-3, atol=1e-3)


def backwards(self, w):
    return self.stream.inverse(w.T).T


def in_another_order(self, w):
    heads = w.unflatten(1, (-1, self.config.heads))
    return self.heads.apply(heads.mT).mT.flatten(1)


def test_rows_of_codes_are_rounded_once_in_a_model_of_halves():
    codes = ql.QTensor(
        torch.ones(2, 4, dtype=torch.int8), torch.full((2, 1), 1 + 2**-11 + 2**-12),
        torch.zeros(2, 1, dtype=torch.int8), ql.Scheme(granularity=ql.PerAxis(0)),
    )  # fmt: skip
    wanted = codes.dequantize().double()
    assert torch.equal(rotation._rows(QuantizedLinear(codes).half(), 0, 2), wanted)


def on_rows_of_q(self, w):
    rows = self.config.kv_heads * self.config.head_width
    return torch.cat([w[rows:], w[:rows]])


def without_gain(self, norm):
    return self.stream.apply


MUTANTS = {
    "_reading": without_gain,
    "_writing": backwards,
    "_taking_v": in_another_order,
    "_giving_v": lambda self, w: w,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_step_that_is_wrong_is_seen(tiny, monkeypatch, name):
    model = tiny().double()
    wanted = logits(model)
    monkeypatch.setattr(_Turn, name, MUTANTS[name])
    assert (logits(llama.rotated(model)) - wanted).abs().max() > 1e-3


def test_the_stream_is_turned_and_no_gain_is_left(tiny):
    model = tiny("float").double()
    new = llama.rotated(model, seed=3)
    turned = Rotation.of_width(tiny_llama.WIDTH, 3).apply
    streams = []
    for each in (model, new):
        hook = each.norm.register_forward_pre_hook(lambda _, x: streams.append(x[0]))
        logits(each)
        hook.remove()
    torch.testing.assert_close(streams[1], turned(streams[0]), rtol=1e-11, atol=1e-11)
    norms = [m for m in new.modules() if isinstance(m, torch.nn.RMSNorm)]
    assert len(norms) == 2 * tiny_llama.LAYERS + 1
    assert all((norm.weight == 1).all() for norm in norms)
    assert new.head.weight is not new.embedding.weight and model.head.weight is not new.head.weight


def test_it_leaves_the_model_as_it_was(tiny):
    model = tiny("float")
    before = copy.deepcopy(model.state_dict())
    new = llama.rotated(model)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert new.norm.weight.requires_grad and not new.training
    assert not llama.rotated(tiny()).norm.weight.requires_grad


# --- in codes ---


def test_its_codes_are_the_nearest_ones_of_the_rotated_weights(tiny):
    model = tiny()
    plain, coded = llama.rotated(model), llama.rotated(model, {"blocks.*": EIGHT, "head": INPUTS})
    for name, layer in coded.named_modules():
        if isinstance(layer, QuantizedLinear):
            scheme = INPUTS if name == "head" else EIGHT
            wanted = ql.quantize(plain.get_submodule(name).weight.detach(), scheme)
            assert torch.equal(layer.codes.q, wanted.q) and layer.activations is None, name
    assert torch.equal(coded.embedding.weight, plain.embedding.weight)
    assert isinstance(llama.rotated(model, EIGHT).embedding, QuantizedEmbedding)


def test_down_is_rotated_online_where_asked_for(tiny):
    model = tiny().double()
    wanted = logits(model)
    for online in (False, True):
        coded = llama.rotated(model, EIGHT, online=online, seed=5)
        hidden = Rotation.of_width(tiny_llama.HIDDEN, 5)
        for name, layer in coded.named_modules():
            if isinstance(layer, QuantizedLinear):
                assert layer.factor == (hidden if online and name.endswith("down") else None)
        assert (logits(coded) - wanted).abs().max() < 0.1 * wanted.std()
    turned = llama.rotated(model, seed=5).blocks[1].mlp.down.weight.detach()
    layer = coded.blocks[1].mlp.down
    assert torch.equal(layer.codes.q, ql.quantize(hidden.apply(turned).float(), EIGHT).q)
    assert ql.sqnr(turned, layer.weight) > 40


def test_a_model_that_was_rotated_is_rotated_as_it_computes(tiny):
    once = llama.rotated(tiny().double(), EIGHT, online=True, seed=5)
    wanted = logits(once)
    torch.testing.assert_close(logits(llama.rotated(once)), wanted, rtol=1e-9, atol=1e-9)


def by_hooks(model, factors, scheme):
    """The model with the inputs of these layers multiplied, rounded and multiplied back."""
    hooks = []
    for name, (there, back) in factors.items():

        def rounded(_, x, there=there, back=back):
            return back(ql.fake_quantize(there(x[0]).flatten(0, 1), scheme)).view(x[0].shape)

        hooks.append(model.get_submodule(name).register_forward_pre_hook(rounded))
    found = logits(model)
    for hook in hooks:
        hook.remove()
    return found


def test_to_round_what_is_rotated_folded_or_not_is_the_same(tiny):
    """Rotating, rounding and rotating back before each layer does what the folded model does."""
    model = tiny().double()
    new = llama.rotated(model)
    stream = Rotation.of_width(tiny_llama.WIDTH)
    by_head = tiny_llama.WIDTH // tiny_llama.HEADS
    heads = Rotation.of_width(by_head)
    ways = {}
    for i, block in enumerate(model.blocks):
        at = f"blocks.{i}."
        for norm, name in ((block.norm_1, "attention.qkv"), (block.norm_2, "mlp.gate_up")):
            gain = norm.weight
            ways[at + name] = (
                lambda x, g=gain: stream.apply(x / g),
                lambda x, g=gain: stream.inverse(x) * g,
            )
        ways[at + "attention.out"] = (
            lambda x: heads.apply(x.unflatten(-1, (-1, by_head))).flatten(-2),
            lambda x: heads.inverse(x.unflatten(-1, (-1, by_head))).flatten(-2),
        )
    plain = {name: (lambda x: x, lambda x: x) for name in ways}
    folded = by_hooks(new, plain, INPUTS)
    torch.testing.assert_close(by_hooks(model, ways, INPUTS), folded, rtol=1e-9, atol=1e-9)
    assert (by_hooks(model, plain, INPUTS) - folded).abs().max() > 0.1


@pytest.mark.parametrize("make", [llama.requantized, llama.rotated])
def test_the_layers_of_the_blocks_round_their_inputs_and_the_head_does_not(tiny, make):
    model = tiny()
    coded = make(model, EIGHT, activations=INPUTS)
    layers = {n: m for n, m in coded.named_modules() if isinstance(m, QuantizedLinear)}
    found = {name: layer.activations for name, layer in layers.items()}
    assert found.pop("head") is None and set(found.values()) == {INPUTS}
    assert len(found) == 4 * tiny_llama.LAYERS
    same = (lambda x: x, lambda x: x)
    by_hand = by_hooks(make(model.double(), EIGHT), dict.fromkeys(found, same), INPUTS)
    exact = logits(make(model, EIGHT, activations=INPUTS))
    torch.testing.assert_close(exact, by_hand, rtol=1e-6, atol=1e-6)
    assert (exact - logits(make(model, EIGHT))).abs().max() > 0.1


def test_what_no_pattern_fits_keeps_its_codes(tiny):
    model = tiny()
    again = llama.requantized(model, {"blocks.1": EIGHT})
    assert not again.blocks[0].mlp.down.codes.has_scheme
    assert again.blocks[1].mlp.down.codes.scheme == EIGHT
    assert again.head.codes is again.embedding.codes and again.head.codes.q.shape[1] == 64


def test_layers_that_share_codes_get_one_scheme(tiny):
    model = tiny()
    for scheme in ({"head": EIGHT}, {"embedding": EIGHT, "head": INPUTS}):
        with pytest.raises(ValueError, match="'embedding' and 'head' share one weight"):
            llama.requantized(model, scheme)
    again = llama.requantized(model, {"embedding": EIGHT, "head": EIGHT})
    assert again.head.codes is again.embedding.codes and again.head.codes.scheme == EIGHT


def test_an_embedding_takes_codes_whose_rows_have_scales_of_their_own(tiny):
    with pytest.raises(ValueError, match="Layer 'embedding': .*an embedding reads single ones"):
        llama.requantized(tiny(), ql.Scheme(8, granularity=ql.PerGroup(32, 0)))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"activations": INPUTS}, "it is in float"),
        ({"online": True}, "it is in float"),
        ({"scheme": {"*.mlp.*": EIGHT}, "activations": INPUTS}, "Layer 'blocks.0.attention.qkv'"),
        ({"scheme": {"*.q": EIGHT}}, "fits none"),
        ({"online": 1}, "online must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_what_it_cannot_rotate_is_refused(tiny, how, why):
    with pytest.raises(ValueError, match=why):
        llama.rotated(tiny(), **how)


def test_blocks_take_no_inputs_in_codes(tiny):
    with pytest.raises(ValueError, match="Layer 'blocks.0.attention.qkv'.*float minimum"):
        llama.requantized(tiny(), {"blocks.1": EIGHT}, activations=INPUTS)


# --- the published model ---


@pytest.fixture(scope="module")
def smollm2():
    peers.peer("tokenizers")
    with ql.use_kernels("compiled"):
        yield llama.load(peers.smollm2())


def test_a_published_model_rotated_has_its_logits(smollm2):
    model, tokenizer = smollm2
    ids = torch.tensor([tokenizer.encode("The capital of France is Paris, and that of Spain")])
    wanted = logits(model, ids)
    assert (logits(llama.rotated(model), ids) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    short = copy.deepcopy(model)
    short.blocks = short.blocks[:2]
    short = short.double()
    short.config = llama.Config(**vars(model.config) | {"layers": 2})
    wanted = logits(short, ids)
    assert (logits(llama.rotated(short), ids) - wanted).abs().max() < 1e-12 * wanted.abs().max()


with open(four_bit_inputs.CSV, newline="", encoding="utf-8") as file:
    STORED = list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [("8", "4", "none"), ("4", "4", "folded"), ("4", "4", "online"), ("8", "4", "groups")],
    ids="-".join,
)
def test_the_stored_lines_are_those_of_the_model(smollm2, kind):
    """Two of the forty windows: a code of an input may differ on another processor."""
    (stored,) = (x for x in STORED if (x["weights"], x["inputs"], x["way"]) == kind)
    model, tokenizer = smollm2
    windows = [four_bit_inputs.judged.windows(tokenizer)[:2]]
    other = four_bit_inputs.made(model, int(kind[0]), int(kind[1]), kind[2])
    found = (window_losses(other, windows) - window_losses(model, windows)).mean()
    assert found.item() == pytest.approx(float(stored["two_windows"]), abs=0.1)


def test_what_the_notebook_says_of_them_is_what_is_stored():
    path = four_bit_inputs.judged.ROOT / "notebooks/17_four_bit_inputs.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    pairs = (("difference", "error"), ("beside", "beside_error"))
    said = re.findall(r"(\d+\.\d+) ± (\d+\.\d+)", text)
    assert len(said) >= 8
    for difference, error in said:
        digits = len(error.partition(".")[2])
        stored = {
            tuple(f"{abs(float(line[name])):.{digits}f}" for name in pair)
            for line in STORED
            for pair in pairs
        }
        assert (difference, error) in stored, (difference, error)
