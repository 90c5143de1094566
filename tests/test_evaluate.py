"""Is one model better than another: losses whose values are known, errors against a bootstrap, and
models that are left as they were."""

import copy
import math
import weakref

import pytest
import torch
from another_machine import AnotherMachine
from torch import nn

import qlesson as ql
from qlesson.evaluate import (
    Comparison,
    choice_accuracy,
    compare,
    mean_and_error,
    running,
    table,
    wilson_interval,
    window_losses,
)
from qlesson.models import tinygpt

LOG2 = math.log(2)
UNIFORM = [[1 / 4] * 4] * 4
# After id 0 and 2 the losses of the ids 0, 1, 2 are 0, 1, 2 times log 2 above those of UNIFORM.
HALVING = [[1 / 4, 1 / 8, 1 / 16, 9 / 16], [1 / 4] * 4, [1 / 4, 1 / 8, 1 / 16, 9 / 16], [1 / 4] * 4]


class Table(nn.Module):
    """p of the next id from the last id alone: row i of the table. It notes what it is given."""

    def __init__(self, rows, dtype=torch.float64):
        super().__init__()
        rows = torch.as_tensor(rows, dtype=torch.float64)
        self.logits = nn.Parameter(rows.log().to(dtype))
        self.given = []

    def forward(self, ids):
        self.given.append(tuple(ids.shape))
        return self.logits[ids]


def random_table(seed, size=8, sharp=1.0):
    draw = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double()
    return (sharp * draw).softmax(-1)


def random_windows(seed, lengths, size=8):
    """One window of each length, each with ids of its own liking, so that windows differ."""
    g = torch.Generator().manual_seed(seed)
    shares = torch.rand(len(lengths), size, generator=g) ** 4
    return [
        torch.multinomial(share, n, replacement=True, generator=g)[None]
        for share, n in zip(shares, lengths, strict=True)
    ]


def batch(*rows):
    return torch.tensor(rows)


def obvious_losses(rows, window):
    """The slow spec: -log p of one id after the other."""
    return [-math.log(rows[a][b]) for a, b in zip(window, window[1:], strict=False)]


# --- known values ---


def test_losses_by_hand():
    """0 0 1: after 0, the model gives 1/2 to both; the other 1/4 to 0 and 3/4 to 1."""
    one, two = Table([[1 / 2, 1 / 2], [1 / 4, 3 / 4]]), Table([[1 / 4, 3 / 4], [1 / 2, 1 / 2]])
    found = compare(one, two, [batch([0, 0, 1], [1, 1, 1])])
    own = [LOG2, LOG2, math.log(4 / 3), math.log(4 / 3)]
    others = [math.log(4), math.log(4 / 3), LOG2, LOG2]
    assert found.loss == pytest.approx(sum(own) / 4)
    assert found.other_loss == pytest.approx(sum(others) / 4)
    assert found.difference == pytest.approx(found.other_loss - found.loss)
    assert found.perplexity == pytest.approx(math.exp(sum(own) / 4))
    assert found.other_perplexity == pytest.approx(math.exp(sum(others) / 4))
    half_quarter = (math.log(2) + math.log(2 / 3)) / 2  # KL((1/2, 1/2) || (1/4, 3/4))
    quarter_half = math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4
    assert found.kl == pytest.approx((half_quarter + quarter_half) / 2)


def test_the_standard_error_of_three_windows_by_hand():
    """Differences of 0, 1 and 2 log 2: their standard deviation is log 2."""
    found = compare(Table(UNIFORM), Table(HALVING), [batch([0, 0], [0, 1], [0, 2])])
    assert found.difference == pytest.approx(LOG2)
    assert found.standard_error == pytest.approx(LOG2 / math.sqrt(3))
    assert found.z == pytest.approx(math.sqrt(3))


def test_windows_of_several_lengths_by_hand():
    """Differences of 0 and 1 log 2 over one token, and of 2 + 2 over two: 5 / 4 on average."""
    batches = [batch([0, 0], [0, 1]), batch([0, 2, 2])]
    found = compare(Table(UNIFORM), Table(HALVING), batches)
    assert found.difference == pytest.approx(1.25 * LOG2)
    squares = 1.25**2 + 0.25**2 + (4 - 2.5) ** 2
    assert found.standard_error == pytest.approx(math.sqrt(3 / 2 * squares) / 4 * LOG2)


def test_the_mean_and_its_error_by_hand():
    assert mean_and_error(torch.tensor([1.0, 2.0, 6.0])) == pytest.approx((3, math.sqrt(14 / 6)))
    mean, error = mean_and_error(torch.tensor([1.0, 4.0]), torch.tensor([2, 1]))
    assert (mean, error) == pytest.approx((2, math.sqrt(2 * (2**2 + 2**2)) / 3))


def test_agreement_counts_the_most_likely_and_of_equal_ones_the_first():
    """After 0, 0 and 1 are alike, and the other says 0; after 1, 1 and 2 are, and it says 2."""
    low, high = [1 / 8, 1 / 8, 1 / 4, 1 / 2], [1 / 2, 1 / 4, 1 / 8, 1 / 8]
    one = Table([[3 / 8, 3 / 8, 1 / 8, 1 / 8], [1 / 8, 3 / 8, 3 / 8, 1 / 8], low, low])
    two = Table([high, [1 / 8, 1 / 4, 1 / 2, 1 / 8], high, low])
    assert compare(one, two, [batch([0, 1, 2, 0], [3, 3, 1, 0])]).agreement == 3 / 6


def test_a_model_and_itself():
    found = compare(Table(HALVING), Table(HALVING), [batch([0, 1, 2], [2, 0, 0])])
    assert found[2:] == (0, 0, 0, 0, 1)
    assert found.verdict == "cannot be told apart"


@pytest.mark.parametrize("swapped", [False, True])
def test_z_is_infinite_where_only_the_error_is_0(swapped):
    models = [Table(UNIFORM), Table(HALVING)][:: -1 if swapped else 1]
    found = compare(*models, [batch([0, 1], [2, 1])])
    assert found.standard_error == 0
    assert found.z == (-math.inf if swapped else math.inf)
    assert found.verdict == ("better" if swapped else "worse")


def test_kl_is_the_sum_over_the_vocabulary():
    one, two = random_table(1), random_table(2, sharp=3)
    windows = random_windows(3, [9, 9])
    rows = [int(i) for window in windows for i in window[0, :-1]]
    expected = sum((one[i] * (one[i] / two[i]).log()).sum().item() for i in rows) / len(rows)
    assert compare(Table(one), Table(two), windows).kl == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", [3, 10, 20, 30, 40])
def test_the_kl_of_nearly_equal_models_is_no_rounding_error(power):
    """Logits (0, 0) and (e, -e): KL = log cosh e = e^2 / 2 - e^4 / 12 + ..., down to 4e-25."""
    e = 2.0**-power
    one, two = Table([[1.0, 1.0]] * 2), Table([[1.0, 1.0]] * 2)
    with torch.no_grad():
        two.logits.copy_(torch.tensor([[e, -e]] * 2))
    kl = compare(one, two, [batch([0, 1], [1, 0])]).kl
    assert kl == pytest.approx(e**2 / 2 - e**4 / 12, rel=1e-3, abs=0)


def test_kl_of_models_that_are_sure_of_different_ids():
    one, two = Table([[1.0, 1.0]] * 2), Table([[1.0, 1.0]] * 2)
    with torch.no_grad():
        one.logits.copy_(torch.tensor([[0.0, -800.0]] * 2))
        two.logits.copy_(torch.tensor([[-800.0, 0.0]] * 2))
    assert compare(one, two, [batch([0, 1], [1, 0])]).kl == 800


# --- the error is that of drawing other windows ---


def bootstrap(own, others, tokens, draws=4000):
    """The standard deviation of the difference over texts of windows drawn with replacement."""
    g = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(tokens), (draws, len(tokens)), generator=g)
    return ((others - own)[drawn].sum(1) / tokens[drawn].sum(1)).std().item()


@pytest.mark.parametrize("lengths", [[17] * 80, [2, 50] * 40], ids=["equal", "several"])
def test_the_standard_error_is_the_bootstraps(lengths):
    """4,000 draws know it to 1.1 %, and windows drawn from 80 vary by 0.6 % less; 5 % is far."""
    rows = random_table(1), random_table(2)
    windows = random_windows(3, lengths)
    sums = [[sum(obvious_losses(r.tolist(), w[0].tolist())) for w in windows] for r in rows]
    own, others = torch.tensor(sums, dtype=torch.float64)
    tokens = torch.tensor(lengths, dtype=torch.float64) - 1
    expected = bootstrap(own, others, tokens)
    found = compare(*map(Table, rows), windows)
    assert found.standard_error == pytest.approx(expected, rel=0.05)
    if len(set(lengths)) > 1:  # what takes all windows for equal is far away
        assert mean_and_error((others - own) / tokens)[1] > 1.1 * expected


def test_the_error_is_as_large_as_it_says():
    """Over 400 texts that are drawn anew, z of models that differ by nothing is a deviation of 1.

    The other's table is the model's with ids renamed, and ids are drawn alike: on average the two
    are equally good. 400 draws know a standard deviation to 3.5 %.
    """
    rows = random_table(1)
    turned = rows.roll((1, 1), (0, 1))
    g = torch.Generator().manual_seed(5)
    zs = []
    for _ in range(400):
        text = torch.randint(8, (30, 9), generator=g)
        zs.append(compare(Table(rows), Table(turned), [text]).z)
    assert torch.tensor(zs).square().mean().sqrt() == pytest.approx(1, abs=0.14)


def test_a_pair_is_told_apart_where_two_models_alone_are_not():
    """20 easy windows of 0 and 20 hard ones of 1, for both; the other loses a hundredth on each."""
    one, two = Table([[0.9, 0.1], [0.9, 0.1]]), Table([[0.891, 0.109], [0.902, 0.098]])
    text = batch(*[[0] * 5] * 20, *[[1] * 5] * 20)
    found = compare(one, two, [text])
    alone = [window_losses(model, [text]) for model in (one, two)]
    (own, own_error), (others, others_error) = map(mean_and_error, alone)
    assert (own, others) == pytest.approx((found.loss, found.other_loss))
    assert own + own_error > others - others_error + 0.3  # the bars overlap, by far
    assert found.verdict == "worse" and found.z > 15
    assert mean_and_error(alone[1] - alone[0]) == (found.difference, found.standard_error)


# --- how it runs ---


def test_batches_change_nothing():
    one, two = Table(random_table(1)), Table(random_table(2))
    text = torch.randint(8, (6, 12), generator=torch.Generator().manual_seed(0))
    found = compare(one, two, [text])
    assert compare(one, two, text.split([1, 3, 2])) == found
    assert compare(one, two, (window[None].int() for window in text)) == found
    assert compare(one, {"a": two}, [text]) == {"a": found}


def test_pieces_of_a_window_change_nothing(monkeypatch):
    one, two, text = (
        Table(random_table(1)),
        Table(random_table(2)),
        torch.cat(random_windows(3, [30, 30])),
    )
    found, alone = compare(one, two, [text]), window_losses(one, [text])
    monkeypatch.setattr(running, "AT_ONCE", 8 * 7)  # 7 positions
    assert compare(one, two, [text]) == pytest.approx(found, rel=1e-14)
    torch.testing.assert_close(window_losses(one, [text]), alone, rtol=1e-14, atol=0)


def test_one_window_at_a_time_and_the_model_once_for_all_others():
    one, two, three = (Table(random_table(i)) for i in range(3))
    found = compare(one, {"two": two, "three": three}, [torch.zeros(3, 5).long(), batch([1, 2])])
    assert list(found) == ["two", "three"]
    assert one.given == two.given == three.given == [(1, 4)] * 3 + [(1, 1)]
    assert found["two"].loss == found["three"].loss


def test_the_logits_of_one_window_are_in_memory():
    """When a model is called, at most the model's own logits of that window, or of the last one."""
    made, alive = [], []

    class Watched(Table):
        def forward(self, ids):
            alive.append(sum(logits() is not None for logits in made))
            logits = super().forward(ids)
            made.append(weakref.ref(logits.untyped_storage()))
            return logits

    one, *more = (Watched(random_table(i)) for i in range(4))
    compare(one, dict(zip("abc", more, strict=True)), [torch.zeros(3, 5).long()])
    assert len(made) == 12 and max(alive) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_computes_in_its_dtype_and_the_rest_is_float64(dtype):
    one, two = (Table(random_table(i), dtype) for i in (1, 2))
    text = torch.cat(random_windows(3, [30, 30]))
    exact = compare(copy.deepcopy(one).double(), copy.deepcopy(two).double(), [text])
    assert compare(one, two, [text]) == pytest.approx(exact, rel=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_models_and_ids_may_be_on_several_devices():
    one, two = Table(random_table(1)), Table(random_table(2))
    text = torch.cat(random_windows(3, [30, 30]))
    question = ([0], [[1, 2], torch.tensor([3])], 0)
    found, chosen = compare(one, two, [text]), choice_accuracy(one, [question])
    there = [copy.deepcopy(model).cuda() for model in (one, two)]
    for other in (compare(one, there[1], [text]), compare(there[0], two, [text.cuda()])):
        assert other == pytest.approx(found, rel=1e-12)
    assert choice_accuracy(there[0], [question]).accuracy == chosen.accuracy


class Moody(Table):
    """In training mode but for one layer, and with a buffer that every run changes."""

    def __init__(self, rows):
        super().__init__(rows)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, ids):
        self.runs += 1
        return self.frozen(self.dropout(super().forward(ids))) * self.runs


def modes(model):
    return [m.training for m in model.modules()]


def test_models_are_left_as_they_were():
    one, two = Moody(random_table(1)), Moody(random_table(2))
    before = modes(one), modes(two)
    text = torch.cat(random_windows(3, [30, 30]))
    found = compare(one, two, [text])
    assert (modes(one), modes(two)) == before
    assert one.runs == two.runs == 0
    assert found == compare(Table(random_table(1)), Table(random_table(2)), [text])
    assert one.logits.grad is None and one.logits.requires_grad
    torch.testing.assert_close(
        window_losses(one, [text]), window_losses(Table(random_table(1)), [text])
    )
    assert modes(one) == before[0] and one.runs == 0


class Around(nn.Module):
    """As a cache: a model around another."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids)


def test_a_model_and_what_is_around_it_are_left_as_they_were():
    """The outer one's mode, put back last, would be that of all inside."""
    one = Moody(random_table(1)).eval()
    around = Around(Around(one).eval())
    assert around.training and not one.training
    text = torch.cat(random_windows(3, [30, 30]))
    for models in ((one, around), (around, one), (around.model, around)):
        before = modes(around)
        compare(*models, [text])
        assert modes(around) == before


class InPlace(Table):
    def forward(self, ids):
        return super().forward(ids.clamp_(max=1))


def test_a_model_may_compute_in_place():
    rows = random_table(1, 4)
    low = Table(rows[[0, 1, 1, 1]])
    text = batch([3, 2, 0, 3], [1, 3, 2, 2])
    before, question = text.clone(), (torch.tensor([3]), [torch.tensor([2]), [3, 1]], 0)
    assert compare(InPlace(rows), Table(UNIFORM), [text]) == compare(low, Table(UNIFORM), [before])
    assert torch.equal(window_losses(InPlace(rows), [text]), window_losses(low, [before]))
    assert torch.equal(text, before)
    found, wanted = (choice_accuracy(model, [question]) for model in (InPlace(rows), low))
    assert found.accuracy == wanted.accuracy and question[0].item() == 3


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_does_not_run_module_by_module_is_refused():
    model = nn.Embedding(4, 4)
    ids = batch([1, 2], [0, 0])
    for other, remedy in (
        (nn.DataParallel(model), "nn.DataParallel, .*: pass other.module"),
        (torch.jit.trace(model, ids), "traced or scripted by torch.jit, .*: pass the module"),
        (torch.export.export(model, (ids,)).module(), "exported by .*: pass the module"),
    ):
        with pytest.raises(TypeError, match=f"^other is {remedy}"):
            compare(model, other, [ids])
        with pytest.raises(TypeError, match="^model is "):
            choice_accuracy(other, [([0], [[0], [1]], 0)])


def test_the_mode_is_put_back_after_an_error():
    one, two = Moody(UNIFORM), Moody(UNIFORM)
    before = modes(one), modes(two)
    with torch.no_grad():
        two.logits[0, 0] = math.nan
    with pytest.raises(ValueError, match="^other gives NaN or infinite logits"):
        compare(one, two, [batch([1, 2], [0, 0])])
    assert (modes(one), modes(two)) == before
    with pytest.raises(ValueError, match="NaN"):
        choice_accuracy(two, [([0], [[0], [1]], 0)])
    assert modes(two) == before[1]


class Merging(Table):
    """As layers of LoRA: training takes the update out of the weight that reading has added."""

    merged = True

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)

    def forward(self, ids):
        return super().forward(ids) + (0 if self.merged else math.nan)


def test_a_model_that_does_more_in_changing_its_mode_is_told():
    one = nn.Sequential(Merging(UNIFORM).train()).eval()
    one[0].train()
    window_losses(one, [batch([1, 2], [0, 0])])
    assert one[0].training and not one[0].merged and not one.training


def test_no_gradient_is_recorded():
    class Asking(Table):
        def forward(self, ids):
            assert not torch.is_grad_enabled()
            return super().forward(ids)

    compare(Asking(UNIFORM), Asking(HALVING), [batch([0, 1], [1, 2])])
    window_losses(Asking(UNIFORM), [batch([0, 1])])
    choice_accuracy(Asking(UNIFORM), [([0], [[0], [1]], 0)])


# --- the course's model ---


@pytest.fixture(scope="module")
def float_model():
    return tinygpt.in_float64(tinygpt.load("cpu"))


@pytest.fixture(scope="module")
def three_bits(float_model):
    return tinygpt.quantized(float_model, ql.Scheme(bits=3, granularity=ql.PerAxis(0)))


def heldout(n):
    """Windows of 256 characters to read, and one more to predict."""
    return tinygpt.encode(tinygpt.heldout_text())[: n + 1].unfold(0, 257, 256)


def test_the_numbers_are_those_of_perplexity_and_divergence(float_model, three_bits):
    found = compare(float_model, three_bits, [heldout(1024)])
    text = tinygpt.heldout_text()
    for model, perplexity in (
        (float_model, found.perplexity),
        (three_bits, found.other_perplexity),
    ):
        assert perplexity == pytest.approx(tinygpt.perplexity(model, n=1024), rel=1e-12)
    kl = tinygpt.divergence(float_model, three_bits, text, n=1024)
    assert found.kl == pytest.approx(kl, rel=1e-9)
    assert found.verdict == "worse"
    assert 0.6 < found.agreement < 0.9


# --- the table ---


def of(z, loss=1.0):
    return Comparison(loss, loss + 0.01 * z, 0.01 * z, 0.01, z, 0.0123456, 0.95)


@pytest.mark.parametrize(
    "z, verdict",
    [
        (0.0, "cannot be told apart"),
        (1.99, "cannot be told apart"),
        (-1.99, "cannot be told apart"),
        (2.0, "worse"),
        (-2.0, "better"),
        (math.inf, "worse"),
    ],
)
def test_two_standard_errors_tell_models_apart(z, verdict):
    assert of(z).verdict == verdict
    assert table({"it": of(z)}).endswith(f"  {verdict}")


def test_what_float32_rounds_tells_no_models_apart():
    """Each row of this table errs in one direction, so the difference has a small error, too."""
    one = Table(random_table(1), torch.float32)
    text = torch.randint(8, (30, 30), generator=torch.Generator().manual_seed(0))

    class Rounding(Table):
        def forward(self, ids):
            return super().forward(ids).float() * (1 + 2**-23)

    found = compare(one, Rounding(random_table(1)), [text])
    assert 0 < abs(found.difference) < 1e-6 and abs(found.z) > 2
    assert found.verdict == "cannot be told apart"
    assert found._replace(difference=math.copysign(1e-6, found.z)).verdict in ("better", "worse")


def test_a_perplexity_beyond_float64_is_infinite():
    found = of(0.0, loss=709.0)
    assert found.perplexity == found.other_perplexity == math.exp(709)
    found = of(0.0, loss=710.0)
    assert found.perplexity == found.other_perplexity == math.inf


def test_a_table_in_full():
    assert table({"4": of(1.5), "3": of(-3.0)}).splitlines() == [
        "              loss          difference       z        KL  same top 1",
        "the model   1.0000",
        "4           1.0150  +0.01500 ± 0.01000     1.5   0.01235      95.0 %"
        "  cannot be told apart",
        "3           0.9700  -0.03000 ± 0.01000    -3.0   0.01235      95.0 %  better",
    ]


def test_a_table_has_one_model():
    with pytest.raises(ValueError, match="2 models or texts"):
        table({"a": of(1.0), "b": of(1.0, loss=2.0)})
    with pytest.raises(ValueError, match="0 models"):
        table({})
    with pytest.raises(TypeError, match=r"comparisons\['a'\] must be a Comparison"):
        table({"a": 3})


def test_on_any_machine_a_table_of_one_call_has_one_model():
    gpt = tinygpt.load()
    smaller = {str(b): tinygpt.quantized(gpt, ql.Scheme(b)) for b in (6, 4)}
    windows = tinygpt.encode(tinygpt.heldout_text()[:65]).unfold(0, 17, 16)
    with AnotherMachine(1):
        assert len(table(compare(gpt, smaller, [windows])).splitlines()) == 4


# --- multiple choice ---

# After 0: 1 with 1/2, 2 with 1/4. After 1 and 2: 3 with 1/2, 0 with 1/8.
CHOOSING = [[1 / 8, 1 / 2, 1 / 4, 1 / 8], *([[1 / 8, 1 / 4, 1 / 8, 1 / 2]] * 3)]


def test_choices_by_hand():
    """[2, 3]: (1/4 * 1/2)^(1/2) = 0.35 each, above [3] with 1/8 and below [1] with 1/2."""
    model = Table(CHOOSING)
    questions = [
        ([0], [[3], [2, 3]], 1),
        ([3, 0], [torch.tensor([2, 3]), [1]], 1),
        (torch.tensor([0]), [[2], [1]], 0),
        ([1], [[0], [2], [3]], 2),
    ]
    found = choice_accuracy(model, questions)
    assert found.right.tolist() == [1, 1, 0, 1] and found.right.dtype == torch.float64
    assert found.accuracy == 3 / 4
    assert found[1:3] == wilson_interval(3, 4)


def test_a_choice_is_judged_by_its_mean_and_not_by_its_sum():
    """[1, 3, 3] has 1/8 in all, less than [2] with 1/4; each of its tokens has 1/2."""
    assert choice_accuracy(Table(CHOOSING), [([0], [[2], [1, 3, 3]], 1)]).accuracy == 1


def test_the_prompt_is_read_and_not_scored():
    model = Table(CHOOSING)
    unlikely = ([0, 0, 0, 0, 0], [[2], [1]], 1)
    assert choice_accuracy(model, [unlikely]).accuracy == 1
    assert model.given == [(1, 5)] * 2


def test_of_equal_choices_the_first_is_taken():
    found = choice_accuracy(Table(UNIFORM), [([0], [[1], [2]], 0), ([0], [[1], [2]], 1)])
    assert found.right.tolist() == [1, 0]


def test_two_models_are_compared_question_by_question():
    """Of 16 questions the other gets 4 wrong that the model gets right: McNemar's case."""
    right = torch.ones(16, dtype=torch.float64)
    other = right.clone()
    other[:4] = 0
    mean, error = mean_and_error(other - right)
    assert (mean, error) == pytest.approx((-0.25, math.sqrt(3 / 15) / 4))


def test_wilsons_interval_by_hand():
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-7)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775328), abs=1e-7)
    assert wilson_interval(10, 10) == pytest.approx((1 - 0.2775328, 1), abs=1e-7)


@pytest.mark.parametrize("right, total", [(0, 1), (3, 7), (30, 60), (59, 60), (60, 60)])
def test_wilsons_interval_ends_where_the_share_is_too_far_from_p(right, total):
    """At each end p, right / total is 1.96 of p's standard errors away."""
    low, high = wilson_interval(right, total)
    assert low <= right / total <= high
    for p in {low, high} - {0, 1}:
        z = (right / total - p) / math.sqrt(p * (1 - p) / total)
        assert abs(z) == pytest.approx(1.959964, abs=1e-5)


def test_wilsons_interval_holds_what_all_answers_say():
    for n in range(1, 200):
        assert wilson_interval(0, n)[0] == 0 and wilson_interval(n, n)[1] == 1


# --- what is refused ---


class Other(nn.Module):
    """Gives what it is told to."""

    def __init__(self, gives):
        super().__init__()
        self.gives = gives

    def forward(self, ids):
        return self.gives(ids)


TWO = batch([0, 1], [1, 2])
REFUSED = {
    "batches must be a list of ids": lambda: compare(Table(UNIFORM), Table(UNIFORM), TWO),
    "batches hold 0 windows": lambda: compare(Table(UNIFORM), Table(UNIFORM), []),
    "batches hold 1 windows": lambda: compare(Table(UNIFORM), Table(UNIFORM), [TWO[:1]]),
    r"batches\[1\] has windows of one id": lambda: compare(
        Table(UNIFORM), Table(UNIFORM), [TWO, TWO[:, :1]]
    ),
    r"batches\[0\] must hold integers": lambda: compare(
        Table(UNIFORM), Table(UNIFORM), [TWO.float()]
    ),
    r"batches\[0\] reach from 1 to 7": lambda: compare(  # the last id, which no model reads
        Table(UNIFORM), Table(UNIFORM), [batch([0, 1], [1, 7])]
    ),
    r"batches\[0\] reach from -1 to 1": lambda: compare(
        Table(UNIFORM), Table(UNIFORM), [batch([0, 1], [-1, 1])]
    ),
    r"from 1 to 7 at 1 places \(.*and windows no longer than it reads": lambda: compare(
        Table(UNIFORM), Table(UNIFORM), [batch([0, 1], [7, 1])]
    ),
    "other is empty": lambda: compare(Table(UNIFORM), {}, [TWO]),
    "names must be text": lambda: compare(Table(UNIFORM), {4: Table(UNIFORM)}, [TWO]),
    r"other\['b'\] must be a torch.nn.Module": lambda: compare(
        Table(UNIFORM), {"a": Table(UNIFORM), "b": 3}, [TWO]
    ),
    r"other\['b'\] gives NaN": lambda: compare(
        Table(UNIFORM),
        {"a": Table(UNIFORM), "b": Other(lambda ids: torch.full((*ids.shape, 4), math.nan))},
        [TWO],
    ),
    "model gives NaN or infinite": lambda: compare(Table(torch.eye(4)), Table(UNIFORM), [TWO]),
    "model gives 4 logits for a token and other 8": lambda: compare(
        Table(UNIFORM), Table(random_table(0)), [TWO]
    ),
    r"other must give logits \[1, time, vocabulary\]": lambda: compare(
        Table(UNIFORM), Other(lambda ids: torch.zeros(1, 4)), [TWO]
    ),
    "model must give logits": lambda: window_losses(Other(lambda ids: {"logits": ids}), [TWO]),
    "values hold 1 window": lambda: mean_and_error(torch.ones(1)),
    "tokens must be positive": lambda: mean_and_error(torch.ones(2), torch.tensor([1, 0])),
    "questions are empty": lambda: choice_accuracy(Table(UNIFORM), []),
    r"questions\[0\]: it must be": lambda: choice_accuracy(Table(UNIFORM), [([0], [[1], [2]])]),
    r"questions\[0\]: choices must be a list of two": lambda: choice_accuracy(
        Table(UNIFORM), [([0], [[1]], 0)]
    ),
    r"questions\[0\]: right must be an integer from 0 to 1": lambda: choice_accuracy(
        Table(UNIFORM), [([0], [[1], [2]], 2)]
    ),
    r"questions\[1\]: choices\[1\] is empty": lambda: choice_accuracy(
        Table(UNIFORM), [([0], [[1], [2]], 0), ([0], [[1], []], 0)]
    ),
    r"questions\[0\]: prompt is empty": lambda: choice_accuracy(
        Table(UNIFORM), [([], [[1], [2]], 0)]
    ),
    r"questions\[0\] reach from 0 to 9": lambda: choice_accuracy(
        Table(UNIFORM), [([0], [[1], [9]], 0)]
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_gets_a_sentence(sentence):
    with pytest.raises((ValueError, TypeError, IndexError), match=sentence) as caught:
        REFUSED[sentence]()
    assert str(caught.value).endswith(".")
