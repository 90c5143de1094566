"""The course's own language model: its numbers, its text, and how quantization changes them."""

import re
import subprocess
import sys

import pytest
import torch

import qlesson as ql
from qlesson import tinygpt
from qlesson.tinygpt import model as tiny
from qlesson.tinygpt import train

ROWS = ql.PerAxis(0)
PROMPT = 'The "for" statement'
SMALL = tinygpt.Config(context=16, layers=2, width=16, heads=2)
BLOCK = ["attention.qkv", "attention.out", "mlp.up", "mlp.down"]
MATRICES = {"token_embedding"} | {f"blocks.{i}.{name}" for i in range(4) for name in BLOCK}


@pytest.fixture(scope="module")
def model():
    return tinygpt.load("cpu")


@pytest.fixture(scope="module")
def training_text():
    return train.training_text()


@pytest.fixture(scope="module")
def perplexity_at(model):
    """Perplexity of the shipped model, one scale per row, at some bits; None is float32."""

    def measure(bits, mapping="asymmetric"):
        scheme = ql.Scheme(bits=bits, mapping=mapping, granularity=ROWS) if bits else {}
        return tinygpt.perplexity(tinygpt.quantized(model, scheme))

    found = {}
    return lambda *key: found[key] if key in found else found.setdefault(key, measure(*key))


# The files


def test_weights_are_small_and_all_float32(model):
    assert (tiny.FOLDER / "weights.safetensors").stat().st_size < 4e6
    assert sum(w.numel() for w in model.parameters()) == 838_144
    assert all(w.dtype == torch.float32 for w in model.parameters())


def test_card_states_the_perplexity(perplexity_at):
    card = (tiny.FOLDER / "card.md").read_text(encoding="utf-8")
    stated = re.search(r"Held-out perplexity: \*\*(\d\.\d{3})\*\*", card).group(1)
    assert perplexity_at(None) == pytest.approx(float(stated), abs=6e-4)


@pytest.mark.parametrize("bits", [4, 3])
@pytest.mark.parametrize("column, mapping", [(1, "symmetric"), (2, "asymmetric")])
def test_card_states_the_perplexity_of_quantized_rows(perplexity_at, bits, column, mapping):
    card = (tiny.FOLDER / "card.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| {bits} \|.*$", card, flags=re.M)
    per_row = line.strip("| ").split(" | ")[column].split(" / ")[1]
    assert perplexity_at(bits, mapping) == pytest.approx(float(per_row), abs=0.006)


def test_heldout_text_is_not_in_the_training_text(training_text):
    heldout = tinygpt.heldout_text()
    assert len(heldout) == 33_646
    training = tinygpt.decode(training_text)
    assert set(heldout.split("\n\n")).isdisjoint(training.split("\n\n"))
    assert len(train.paragraphs()) == len(set(train.paragraphs()))
    assert set(heldout) <= set(tinygpt.VOCABULARY)
    assert tinygpt.calibration_text() == heldout[tiny.MEASURED + 1 :]


def test_no_long_passage_of_the_measured_text_was_trained_on(training_text):
    """The topics repeat each other: of their last 5 %, as they stand, 34 % is in the rest too."""
    if len(training_text) != 339_598:
        pytest.skip("this Python's text is not 3.11.7's, which the weights were trained on")
    training, heldout = tinygpt.decode(training_text), tinygpt.heldout_text()
    seen = {training[i : i + 64] for i in range(len(training) - 63)}
    passages = [heldout[i : i + 64] for i in range(tiny.MEASURED)]
    assert sum(p in seen for p in passages) < 0.005 * len(passages)


def test_import_qlesson_does_not_import_tinygpt():
    code = "import qlesson, sys; sys.exit(any('tinygpt' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_load_refuses_another_vocabulary(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    train.save_file(model.state_dict(), path, metadata={"vocabulary": "abc"})
    with pytest.raises(ValueError, match="another vocabulary"):
        tinygpt.load("cpu", path)


# The model


def test_vocabulary_survives_the_round_trip():
    assert len(tinygpt.VOCABULARY) == len(set(tinygpt.VOCABULARY)) == 94
    assert tinygpt.decode(tinygpt.encode(tinygpt.VOCABULARY)) == tinygpt.VOCABULARY


def test_a_later_character_changes_no_earlier_logits(model):
    ids = tinygpt.encode(tinygpt.heldout_text()[:64])[None]
    changed = ids.clone()
    changed[0, 40] = (ids[0, 40] + 1) % 94
    before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :40], before[:, :40], rtol=0, atol=1e-5)
    assert ((after - before)[:, 40:].abs().amax(dim=-1) > 1e-3).all()


def test_perplexity_is_its_definition(model):
    """The obvious spec: one window of 256 after the other, one character after the other."""
    text = tinygpt.heldout_text()[:513]
    losses = []
    for start in (0, 256):
        ids = tinygpt.encode(text[start : start + 257])
        log_p = model(ids[None, :-1])[0].double().log_softmax(dim=-1)
        losses += [-log_p[i, ids[i + 1]].item() for i in range(256)]
    expected = torch.tensor(losses).mean().exp().item()
    assert tinygpt.perplexity(model, text) == pytest.approx(expected, rel=1e-5)
    assert tinygpt.perplexity(model, tinygpt.heldout_text(), n=512) == pytest.approx(expected)


def test_a_blind_model_has_perplexity_94():
    model = tinygpt.GPT(SMALL)
    torch.nn.init.zeros_(model.token_embedding.weight)
    assert tinygpt.perplexity(model, "a" * 33) == pytest.approx(94)
    assert model.training  # as it was


# The text it writes


def written_in_full(model, prompt, n, seed, temperature):
    """The obvious spec of generate: read the whole window again for every character."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 94, generator=generator, dtype=torch.float64)
    window, text = prompt[-model.config.context :], ""
    for i in range(n):
        logits = model(tinygpt.encode(window)[None])[0, -1].double()
        noise = -torch.log(-torch.log(u[i])) * temperature
        text += tinygpt.VOCABULARY[int((logits + noise).argmax())]
        window += text[-1]
        if len(window) > model.config.context:
            window = window[-(model.config.context // 2) :]
    return text


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_generate_equals_the_full_recomputation(model, temperature):
    text = model.generate(PROMPT, 60, seed=3, temperature=temperature)
    assert len(text) == 60
    assert text == written_in_full(model, PROMPT, 60, 3, temperature)


@pytest.mark.parametrize("length", [15, 16, 17, 40])
def test_generate_goes_on_when_the_context_is_full(length):
    torch.manual_seed(0)
    model = tinygpt.GPT(SMALL).eval()
    prompt = tinygpt.heldout_text()[:length]
    assert model.generate(prompt, 50, seed=1) == written_in_full(model, prompt, 50, 1, 0.8)


def test_text_depends_on_the_seed_and_on_nothing_else(model):
    torch.manual_seed(1)
    first = model.generate(PROMPT, 40, seed=5)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert model.generate(PROMPT, 40, seed=5) == first
    assert model.generate(PROMPT, 40, seed=6) != first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the reader's own seed is left alone
    greedy = [model.generate(PROMPT, 40, seed=s, temperature=0) for s in (5, 6)]
    assert greedy[0] == greedy[1]


def test_the_noise_draws_from_softmax():
    """20,000 draws from p = softmax(logits): each share within 4 standard deviations of p."""
    logits = torch.full((94,), -20.0, dtype=torch.float64)
    logits[:3] = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    drawn = (logits + tiny._gumbel_noise(20_000, 0)).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=94)[:3] / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.014)


# Quantized


def test_the_matrices_are_named(model):
    matrices = tinygpt.weight_matrices(model)
    assert set(matrices) == MATRICES
    assert matrices["blocks.0.mlp.up"].shape == (512, 128)
    assert matrices["token_embedding"].shape == (94, 128)
    assert not any(w.requires_grad for w in matrices.values())


def changed(model, other):
    """Names of the parameters that differ."""
    others = dict(other.named_parameters())
    return {
        name.removesuffix(".weight")
        for name, w in model.named_parameters()
        if not torch.equal(w, others[name])
    }


def test_quantized_changes_exactly_the_matrices_of_a_copy(model):
    before = {name: w.clone() for name, w in model.state_dict().items()}
    scheme = ql.Scheme(bits=4, granularity=ql.PerGroup(32))
    copy = tinygpt.quantized(model, scheme)
    assert changed(model, copy) == MATRICES
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    w, w_hat = (tinygpt.weight_matrices(m)["blocks.2.mlp.down"] for m in (model, copy))
    assert torch.equal(w_hat, ql.quantize(w, scheme).dequantize())
    assert not copy.training


def test_quantized_takes_a_scheme_by_name(model):
    copy = tinygpt.quantized(model, {"blocks.1.attention.qkv": ql.Scheme(bits=2)})
    assert changed(model, copy) == {"blocks.1.attention.qkv"}
    with pytest.raises(ValueError, match="blocks.9.mlp.up.*weight_matrices"):
        tinygpt.quantized(model, {"blocks.9.mlp.up": ql.Scheme()})


def test_8_bits_per_row_cost_less_than_one_percent(perplexity_at):
    assert perplexity_at(8) == pytest.approx(perplexity_at(None), rel=0.01)


@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_fewer_bits_are_worse(perplexity_at, mapping):
    by_bits = [perplexity_at(bits, mapping) for bits in (8, 4, 3, 2)]
    assert by_bits == sorted(by_bits)
    assert by_bits[-1] > 4 * by_bits[0]


# Bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.generate("costs 5 $ or 4 €", 5), "does not know '\\$', '€'"),
        (lambda m: m.generate("", 5), "empty"),
        (lambda m: m.generate("a", 0), "n is 0"),
        (lambda m: m.generate("a", 5, temperature=-1), "temperature is -1"),
        (lambda m: tinygpt.perplexity(m, "too short"), "at least 257 characters"),
        (lambda m: tinygpt.perplexity(m, n=255), "n >= 256"),
    ],
)
def test_bad_input_gets_a_sentence(model, call, words):
    with pytest.raises(ValueError, match=words):
        call(model)


# Training


TEXT = "To be quantized or not to be quantized: that is the question.\n" * 10


def small_run(steps, seed=0):
    return train.train(tinygpt.encode(TEXT), steps, seed, SMALL, batch=4)


def test_training_is_reproducible_from_its_seed():
    first, again, other = small_run(3), small_run(3), small_run(3, seed=1)
    assert changed(first, again) == set()
    assert "token_embedding" in changed(first, other)


def test_training_lowers_the_loss():
    by_steps = [tinygpt.perplexity(small_run(steps), TEXT) for steps in (0, 3, 30)]
    assert by_steps[0] > by_steps[1] > 1.02 * by_steps[2]


def test_the_script_writes_weights_that_load(tmp_path, capsys):
    train.main(["--steps", "1", "--out", str(tmp_path / "new")])
    assert re.search(r"step +1  training loss 4\.\d+  held-out perplexity", capsys.readouterr().out)
    model = tinygpt.load("cpu", tmp_path / "new" / "weights.safetensors")
    assert 60 < tinygpt.perplexity(model, n=1024) < 150


def test_the_learning_rate_rises_then_falls():
    rates = [train.learning_rate(step, 2000) for step in range(2000)]
    assert max(rates) == pytest.approx(train.PEAK_RATE, rel=0.01)
    assert rates[0] == pytest.approx(train.PEAK_RATE / 100)
    assert rates[-1] == pytest.approx(train.PEAK_RATE / 10, rel=0.01)
