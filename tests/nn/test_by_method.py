"""Quantized layers by a method: its codes, what it is shown, and what is refused."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qlesson as ql
from qlesson import methods, ranges
from qlesson.nn import IntegerLinear, calibrate, fold, load_state, quantize_model, state
from qlesson.nn import inputs as recorded
from qlesson.nn.inputs import in_groups

ROW = ql.Scheme(3, granularity=ql.PerAxis(0))
GROUP = ql.Scheme(3, granularity=ql.PerGroup(8))
EIGHT = ql.Scheme(8)
ALL = ("round_to_nearest", "hqq", "gptq", "awq", "smoothquant", "rotate")
each_method = pytest.mark.parametrize("method", [getattr(methods, n) for n in ALL], ids=ALL)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Words(nn.Module):
    """A small model of words. Its layers run in another order than they are defined in."""

    def __init__(self):
        super().__init__()
        self.head, self.second = nn.Linear(16, 5), nn.Linear(24, 16)
        self.first, self.norm = nn.Linear(16, 24), nn.LayerNorm(16)
        self.embedding = nn.Embedding(11, 16)

    def forward(self, ids, times=1):
        x = self.embedding(ids)
        x = x + self.second(F.gelu(self.first(self.norm(x)))) * times
        return self.head(x)


def words():
    torch.manual_seed(0)
    model = Words().eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.linspace(0.1, 4, 16))
    return model


def ids(*shape, seed=0):
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(seed))


BATCHES = [ids(4, 9), ids(2, 9, seed=1)]
LINEAR = ("head", "second", "first")


def inputs_of(model, batches=BATCHES):
    """{name: [samples, in]} by hand, in float64."""
    met = {name: [] for name in LINEAR}
    model = copy.deepcopy(model).double().eval()
    hooks = [
        model.get_submodule(n).register_forward_pre_hook(
            lambda layer, x, n=n: met[n].append(x[0].detach().flatten(0, -2))
        )
        for n in LINEAR
    ]
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    return {n: torch.cat(parts).float() for n, parts in met.items()}


def assert_same_codes(a, b):
    """Of two QTensors, or of two Blocks."""
    assert type(a) is type(b)
    for name, x in vars(b).items():
        if isinstance(x, torch.Tensor):
            assert torch.equal(getattr(a, name), x), name


# --- the layers are those of the method ----------------------------------------------------------


@each_method
@pytest.mark.parametrize("scheme", [ROW, GROUP], ids=["row", "group"])
@pytest.mark.parametrize("find_range", [None, ranges.mse_search])
def test_a_layer_is_the_method_by_hand(method, scheme, find_range):
    model = words()
    before = copy.deepcopy(model.state_dict())
    qmodel, report = quantize_model(
        model, scheme, method=method, inputs=BATCHES, find_range=find_range
    )
    met, swapped = inputs_of(model), copy.deepcopy(model)
    for name in LINEAR:
        old, new = model.get_submodule(name), qmodel.get_submodule(name)
        wanted = method(old.weight, met[name], scheme, find_range)
        assert_same_codes(new.codes.held, wanted.weight)
        assert str(new.factor) == str(wanted.factor)
        swapped.get_submodule(name).weight = nn.Parameter(wanted.float_weight())
        torch.testing.assert_close(new.weight, wanted.float_weight())
    rounded = ql.quantize(
        model.embedding.weight,
        scheme,
        ql.choose_qparams(model.embedding.weight, scheme, find_range),
    )
    assert torch.equal(qmodel.embedding.codes.q, rounded.q)
    swapped.embedding.weight = nn.Parameter(rounded.dequantize())
    torch.testing.assert_close(qmodel(BATCHES[0]), swapped(BATCHES[0]), rtol=1e-4, atol=1e-4)
    assert [row.name for row in report] == ["head", "second", "first", "embedding"]
    assert report[3].note == "rounded: the method is for nn.Linear"
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())


@each_method
@pytest.mark.parametrize("kind", ["weight-only", "dynamic", "static"])
def test_layers_by_a_method_are_saved_and_come_back(method, kind):
    model = words()
    how = dict(method=method, inputs=BATCHES)
    if kind != "weight-only":
        how["activations"] = EIGHT
        if method is methods.hqq:
            with pytest.raises(ValueError, match="Layer 'head': The weight is Blocks, with a flo"):
                quantize_model(model, ROW, **how)
            return
    if kind == "static":
        how["qparams"] = calibrate(quantize_model(model, ROW, **how)[0], BATCHES, EIGHT)
    qmodel, _ = quantize_model(model, ROW, **how)
    held = state(qmodel)
    back = load_state(model, held, how.get("activations"))
    assert torch.equal(back(BATCHES[1]), qmodel(BATCHES[1]))
    again = state(back)
    for name, x in held.items():
        if isinstance(x, torch.Tensor):
            assert torch.equal(again[name], x)
        else:
            assert_same_codes(again[name], x)


@pytest.mark.parametrize("name", ["round_to_nearest", "hqq", "rotate"])
def test_a_method_that_looks_at_no_inputs_needs_none(name):
    method = getattr(methods, name)
    with_them, _ = quantize_model(words(), ROW, method=method, inputs=BATCHES)
    without, _ = quantize_model(words(), ROW, method=method)
    assert torch.equal(with_them(BATCHES[0]), without(BATCHES[0]))


def test_a_scheme_for_each_layer_and_skip_reach_the_method():
    schemes = {"first": ql.Scheme(2, granularity=ql.PerAxis(0)), "second": GROUP, "head": ROW}
    qmodel, report = quantize_model(
        words(), schemes, skip="head", method=methods.gptq, inputs=BATCHES
    )
    assert [row.bits for row in report] == [3, 2] and isinstance(qmodel.head, nn.Linear)
    for name in ("first", "second"):
        layer = words().get_submodule(name)
        wanted = methods.gptq(layer.weight, inputs_of(words())[name], schemes[name])
        assert torch.equal(qmodel.get_submodule(name).codes.q, wanted.weight.q)


# --- one after the other -------------------------------------------------------------------------


@pytest.mark.parametrize("activations", [None, EIGHT])
def test_sequential_shows_each_layer_what_the_quantized_ones_give(activations):
    """By hand: the embedding is rounded, then first, second and head, as they run."""
    model = words()
    qmodel, _ = quantize_model(
        model, ROW, activations=activations, method=methods.awq, inputs=BATCHES, sequential=True
    )
    at_once, _ = quantize_model(
        model, ROW, activations=activations, method=methods.awq, inputs=BATCHES
    )
    mine = copy.deepcopy(model).double()
    mine.embedding = copy.deepcopy(qmodel.embedding).double()
    for name in ("first", "second", "head"):
        met = inputs_of(mine)[name]
        wanted = methods.awq(model.get_submodule(name).weight, met, ROW)
        new = qmodel.get_submodule(name)
        assert torch.equal(new.codes.q, wanted.weight.q)
        torch.testing.assert_close(new.factor, wanted.factor)
        weight = wanted.float_weight().double()
        if activations is None:
            mine.get_submodule(name).weight = nn.Parameter(weight)
        else:
            setattr(mine, name, copy.deepcopy(new).double())
        assert not torch.equal(new.codes.q, at_once.get_submodule(name).codes.q)


def test_the_model_runs_for_those_that_look_at_inputs_alone():
    runs = []

    class Convolutions(nn.Sequential):
        def forward(self, x):
            runs.append(1)
            return super().forward(x)

    torch.manual_seed(0)
    parts = [nn.Conv1d(4, 4, 1) for _ in range(5)]
    model, x = Convolutions(*parts, nn.Flatten(), nn.Linear(8, 2)), [drawn(2, 4, 2)] * 3
    for sequential, times in ((False, 1), (True, 2)):  # the first time it finds the order
        runs.clear()
        quantize_model(model, EIGHT, method=methods.gptq, inputs=x, sequential=sequential)
        assert len(runs) == times * len(x)


def test_two_layers_by_hand():
    """The first layer gives 0.4 and 0.4 for the input 1, and its codes 0 and 0, as GPTQ would not
    have it: so the second never meets what it was made for."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.4, 7.0], [0.4, -7.0]]))
        model[1].weight.copy_(torch.tensor([[0.4, 7.0]]))
    x, scheme = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), ql.Scheme(4, "symmetric", ql.PerAxis(0))
    seen = []

    def method(weight, inputs, scheme):
        seen.append(inputs)
        return methods.round_to_nearest(weight, inputs, scheme)

    for sequential, then in ((False, [[0.4, 0.4], [1.1, -0.3]]), (True, [[0.0, 0.0], [0.7, -0.7]])):
        seen.clear()
        quantize_model(model, scheme, method=method, inputs=[x], sequential=sequential)
        assert torch.equal(seen[0], x) and len(seen) == 2
        torch.testing.assert_close(seen[1], torch.tensor(then))


def test_a_layer_used_twice_is_shown_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.listed = [self.layer]

        def forward(self, x):
            return self.listed[0](self.layer(x).relu())

    torch.manual_seed(0)
    model, x, rows = Twice(), drawn(7, 6), []

    def method(weight, inputs, scheme):
        rows.append(inputs)
        return methods.gptq(weight, inputs, scheme)

    for sequential in (False, True):
        qmodel, _ = quantize_model(model, ROW, method=method, inputs=[x], sequential=sequential)
        assert qmodel.listed[0] is qmodel.layer
    assert all(len(r) == 14 for r in rows) and torch.equal(*rows)


# --- what is recorded -----------------------------------------------------------------------------


def seen_by(model, batches, sequential=False):
    seen = {}

    def method(weight, inputs, scheme):
        seen[tuple(weight.shape)] = inputs
        return methods.round_to_nearest(weight, None, scheme)

    quantize_model(model, EIGHT, method=method, inputs=batches, sequential=sequential)
    return seen


@pytest.mark.parametrize("sequential", [False, True])
def test_few_rows_are_kept_in_their_order_and_the_same_for_all(monkeypatch, sequential):
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3, 4))
    batches = [torch.arange(4.0 * 50 * i, 4.0 * 50 * (i + 1)).view(50, 4) / 1600 for i in range(8)]
    everything = torch.cat(batches)
    whole = seen_by(model, batches)
    assert torch.equal(whole[3, 4], everything)
    monkeypatch.setattr(recorded, "ROWS", 40)
    few = seen_by(model, batches, sequential)
    assert len(few[3, 4]) == len(few[2, 3]) == 40
    at = [(everything == row).all(1).nonzero().item() for row in few[3, 4]]
    assert at == sorted(set(at))  # rows of the inputs, each once
    assert max(at) > 300 and min(at) < 100 and sum(i % 2 for i in at) not in (0, 40)
    if not sequential:
        assert torch.equal(few[2, 3], few[3, 4][:, :3])
    assert torch.equal(seen_by(model, batches, sequential)[3, 4], few[3, 4])


def test_inputs_are_those_of_float64_rounded_once():
    model, x = nn.Sequential(nn.Linear(300, 40), nn.Linear(40, 2)), drawn(50, 300)
    seen = seen_by(model, [x])
    wanted = copy.deepcopy(model).double()[0](x.double()).float()
    assert torch.equal(seen[2, 40], wanted) and seen[2, 40].dtype == torch.float32
    assert not torch.equal(seen[2, 40], model[0](x))


@pytest.mark.parametrize("form", ["tensor", "tuple", "named"])
def test_every_form_of_a_batch(form):
    batch = {"tensor": BATCHES[0], "tuple": (BATCHES[0], 1), "named": {"ids": BATCHES[0]}}[form]
    for sequential in (False, True):
        got, _ = quantize_model(
            words(), ROW, method=methods.gptq, inputs=iter([batch]), sequential=sequential
        )
        wanted, _ = quantize_model(
            words(), ROW, method=methods.gptq, inputs=[BATCHES[0]], sequential=sequential
        )
        assert torch.equal(got(BATCHES[1]), wanted(BATCHES[1]))


def test_nothing_is_left_in_the_model():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3)).train()
    before = copy.deepcopy(model.state_dict())
    for sequential in (False, True):
        qmodel, _ = quantize_model(
            model, ROW, method=methods.gptq, inputs=[drawn(9, 6)], sequential=sequential
        )
        assert all(m.training for m in [*model.modules(), *qmodel.modules()])
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in [*model.modules(), *qmodel.modules()])


def test_blocks_stay_whole_and_come_together_while_they_are_small(monkeypatch):
    widths = {f"blocks.{i}.{name}": 100 for i in range(3) for name in ("qkv", "up")}
    widths = {"inp": 100} | widths | {"head": 100}
    a, b, c = ([f"blocks.{i}.qkv", f"blocks.{i}.up"] for i in range(3))
    one = 4 * recorded.ROWS * 100
    for space, groups in (
        (100 * one, [["inp", *a, *b, *c, "head"]]),
        (4 * one, [["inp", *a], [*b, *c], ["head"]]),
        (one, [["inp"], a, b, c, ["head"]]),
        (0, [["inp"], a, b, c, ["head"]]),
    ):
        monkeypatch.setattr(recorded, "TOGETHER", space)
        assert in_groups(widths) == groups
    assert in_groups({}) == []


def test_a_block_at_a_time_gives_what_all_at_once_give(monkeypatch):
    model, x = nn.Sequential(*[nn.Linear(6, 6) for _ in range(5)]), drawn(20, 6)
    at_once, _ = quantize_model(model, ROW, method=methods.gptq, inputs=[x])
    runs, run = [], recorded.Inputs.of
    monkeypatch.setattr(recorded.Inputs, "of", lambda *a: runs.append(1) or run(*a))
    monkeypatch.setattr(recorded, "TOGETHER", 2 * 4 * recorded.ROWS * 6)
    by_twos, _ = quantize_model(model, ROW, method=methods.gptq, inputs=[x])
    assert torch.equal(at_once(x), by_twos(x)) and len(runs) == 3


# --- what is rounded, and what is refused --------------------------------------------------------


class Odd(nn.Module):
    """A convolution, two layers with one weight, an attention, and a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.conv, self.attention = nn.Conv1d(8, 8, 3, padding=1), nn.MultiheadAttention(8, 2)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.last, self.never = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.conv(x.mT).mT
        return self.last(self.b(self.a(self.attention(x, x, x)[0])))


@pytest.mark.parametrize("sequential", [False, True])
def test_what_a_method_does_not_reach_is_rounded_and_said(sequential):
    torch.manual_seed(0)
    model, how = Odd().eval(), dict(method=methods.gptq, inputs=[drawn(2, 5, 8)])
    how["sequential"] = sequential
    with pytest.raises(ValueError, match="'never' did not run on any of the inputs.*skip='never'"):
        quantize_model(model, ROW, **how)
    qmodel, report = quantize_model(model, ROW, skip="never", **how)
    plain, _ = quantize_model(model, ROW, skip="never")
    notes = {row.name: row.note for row in report}
    assert notes == {
        "conv": "rounded: the method is for nn.Linear",
        "attention.out_proj": "rounded: nn.MultiheadAttention reads the weight itself",
        "a": "rounded: layers share the weight",
        "b": "shares the codes of a, rounded: layers share the weight",
        "last": "",
    }
    for name in ("conv", "attention.out_proj", "a", "b"):
        got, wanted = (m.get_submodule(name).codes.q for m in (qmodel, plain))
        assert torch.equal(got, wanted)
    assert qmodel.a.codes is qmodel.b.codes
    assert not torch.equal(qmodel.last.codes.q, plain.last.codes.q)


def test_what_does_not_go_together_is_refused():
    model, gptq = words(), methods.gptq
    for error, why, how in (
        (ValueError, "inputs are given without a method", dict(inputs=BATCHES)),
        (ValueError, "sequential=True is given without inputs", dict(sequential=True)),
        (ValueError, "sequential=True is .*", dict(method=gptq, sequential=True)),
        (TypeError, "Layer 'head': method: inputs must .*pass inputs=batches", dict(method=gptq)),
        (TypeError, r"for one batch pass \[batch\]", dict(method=gptq, inputs=BATCHES[0])),
        (TypeError, "list of batches", dict(method=gptq, inputs={"ids": BATCHES[0]})),
        (ValueError, "inputs must hold at least one batch", dict(method=gptq, inputs=[])),
        (TypeError, "method must be a function", dict(method="gptq", inputs=BATCHES)),
        (TypeError, "must give a Result, with weight and factor", dict(method=lambda *a: a[0])),
        (
            ValueError,
            r"codes of the weight's shape \(5, 16\), got \(16, 5\)",
            dict(method=lambda w, x, s: methods.round_to_nearest(w.T, None, s)),
        ),
        (
            ValueError,
            "Layer 'head': factor must have one number for each of the 16 inputs",
            dict(method=lambda w, x, s: methods.Result(ql.quantize(w, s), torch.eye(16))),
        ),
    ):  # fmt: skip
        with pytest.raises(error, match=why):
            quantize_model(model, ROW, **how)


def test_what_cannot_be_swapped_is_refused_before_anything_runs():
    model, runs = words(), []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    model.first.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="Layer 'first': it has hooks"):
        quantize_model(model, ROW, method=methods.gptq, inputs=BATCHES)
    assert not runs


# --- a factor folded into the layer before -------------------------------------------------------


def smoothed(kind="static"):
    model = words()
    how = dict(method=methods.smoothquant, inputs=BATCHES, skip="embedding")
    how["scheme"] = ql.Scheme(8, "symmetric", ql.PerAxis(0))
    if kind != "weight-only":
        how["activations"] = EIGHT
    if kind == "static":
        how["qparams"] = calibrate(quantize_model(model, **how)[0], BATCHES, EIGHT)
    return model, quantize_model(model, **how)[0]


@pytest.mark.parametrize("kind", ["weight-only", "dynamic", "static"])
def test_a_norm_gives_out_what_the_layer_multiplies_its_input_to(kind):
    model, qmodel = smoothed(kind)
    folded = fold(qmodel, "norm", "first", BATCHES)
    factor = qmodel.first.factor
    assert folded.first.factor is None and qmodel.first.factor is factor
    torch.testing.assert_close(folded.norm.weight, qmodel.norm.weight * factor)
    torch.testing.assert_close(folded.norm.bias, qmodel.norm.bias * factor)
    assert torch.equal(qmodel.norm.weight, model.norm.weight)
    torch.testing.assert_close(folded(BATCHES[0]), qmodel(BATCHES[0]), rtol=0.02, atol=0.02)
    assert "first.input_factor" not in state(folded) and "second.input_factor" in state(folded)
    back = load_state(model, state(folded), None if kind == "weight-only" else EIGHT)
    assert torch.equal(back(BATCHES[0]), folded(BATCHES[0]))


def test_integers_take_a_layer_whose_factor_is_folded():
    _, qmodel = smoothed()
    with pytest.raises(ValueError, match="fold the factor"):
        IntegerLinear(qmodel.first, EIGHT, ql.QParams(0.05, 0))
    layer = fold(qmodel, "norm", "first", BATCHES).first
    x = drawn(6, 16)
    output = ql.choose_qparams(layer(x), EIGHT)
    whole = IntegerLinear(layer, EIGHT, output)
    got = whole(layer.quantize_input(x).q).int()
    wanted = ql.quantize(layer(x), EIGHT, output).q.int()
    assert (got - wanted).abs().max() <= 1


class Norms(nn.Module):
    """q and k behind one norm, and perhaps the norm's output once more."""

    def __init__(self, norm, residual=False):
        super().__init__()
        self.norm, self.q, self.k = norm, nn.Linear(8, 8), nn.Linear(8, 8)
        self.residual = residual

    def forward(self, x):
        x = self.norm(x)
        y = self.q(x).tanh() * self.k(x)
        return {"y": y + self.residual * x}


def halved(weight, inputs, scheme):
    factor = torch.linspace(0.5, 2, weight.shape[1]).to(weight.dtype)
    return methods.Result(ql.quantize(weight / factor, scheme), factor)


NORMS = {
    "LayerNorm": lambda: nn.LayerNorm(8),
    "without a bias": lambda: nn.LayerNorm(8, bias=False),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "Linear": lambda: nn.Linear(8, 8),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_behind_one_norm_are_folded_together(norm, dtype):
    torch.manual_seed(0)
    model, x = Norms(norm()).to(dtype).eval(), drawn(7, 8).to(dtype)
    qmodel, _ = quantize_model(model, {"[qk]": EIGHT}, method=halved)
    folded = fold(qmodel, "norm", ["q", "k"], [x])
    near = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(folded(x)["y"], qmodel(x)["y"], rtol=near, atol=near)
    assert folded.q.factor is folded.k.factor is None and folded.norm.weight.dtype == dtype
    with pytest.raises(ValueError, match="before must give its output to these layers alone"):
        fold(qmodel, "norm", "q", [x])


@pytest.mark.parametrize("masked", [-1e4, -1e9, torch.finfo(torch.float64).min, -torch.inf])
def test_a_fold_is_checked_where_some_outputs_are_masked(masked):
    """A large number beside the others hides no change of theirs."""

    class Masked(Norms):
        def forward(self, x):
            y = super().forward(x)["y"]
            return torch.cat([y, torch.full_like(y[:, :1], masked)], 1)

    torch.manual_seed(0)
    x = drawn(7, 8).double()
    for residual in (False, True):
        model = Masked(nn.LayerNorm(8), residual).double()
        qmodel, _ = quantize_model(model, {"[qk]": EIGHT}, method=halved)
        if not residual:
            assert fold(qmodel, "norm", ["q", "k"], [x]).q.factor is None
            continue
        with pytest.raises(ValueError, match="before must give its output to these layers alone"):
            fold(qmodel, "norm", ["q", "k"], [x])


def test_a_fold_that_the_dtype_cannot_hold_is_refused():
    def by_1000(weight, inputs, scheme):
        factor = torch.full((weight.shape[1],), 1000.0)
        return methods.Result(ql.quantize(weight / factor, scheme), factor)

    model = Norms(nn.LayerNorm(8)).half().eval()
    nn.init.constant_(model.norm.weight, 100)
    qmodel, _ = quantize_model(model, {"[qk]": EIGHT}, method=by_1000)
    with pytest.raises(ValueError, match="'norm' cannot hold .* in torch.float16: fold it"):
        fold(qmodel, "norm", ["q", "k"], [drawn(7, 8).half()])


def test_a_module_of_two_names_is_found_by_either():
    torch.manual_seed(0)
    model, x = Norms(nn.LayerNorm(8)).eval(), drawn(7, 8)
    model.twice = model.norm
    qmodel, _ = quantize_model(model, {"[qk]": EIGHT}, method=halved)
    assert fold(qmodel, "twice", ["q", "k"], [x]).q.factor is None


def test_a_fold_is_checked_by_the_batches_as_they_were():
    class Squares(Norms):
        def forward(self, x):
            return super().forward(x.mul_(x))

    torch.manual_seed(0)
    x = drawn(7, 8).double()
    before = x.clone()
    qmodel, _ = quantize_model(Squares(nn.LayerNorm(8)), EIGHT, method=halved)
    assert fold(qmodel, "norm", ["q", "k"], [x]).q.factor is None
    assert torch.equal(x, before)


def test_what_cannot_be_folded_is_refused():
    torch.manual_seed(0)
    x = [drawn(7, 8)]
    made, _ = quantize_model(Norms(nn.LayerNorm(8), residual=True), EIGHT, method=halved)
    with pytest.raises(ValueError, match="before must give its output to these layers alone"):
        fold(made, "norm", ["q", "k"], x)
    bare = nn.LayerNorm(8, elementwise_affine=False)
    plain, _ = quantize_model(Norms(bare), EIGHT, method=halved)
    with pytest.raises(ValueError, match="float layer with a weight for each of its 8 outputs"):
        fold(plain, "norm", ["q", "k"], x)
    coded, _ = quantize_model(Norms(nn.Linear(8, 8)), EIGHT, method=halved)
    with pytest.raises(ValueError, match="'norm' is QuantizedLinear"):
        fold(coded, "norm", ["q", "k"], x)
    turned, _ = quantize_model(Norms(nn.LayerNorm(8)), EIGHT, method=methods.rotate)
    without, _ = quantize_model(Norms(nn.LayerNorm(8)), EIGHT)
    for qmodel in (turned, without, Norms(nn.LayerNorm(8))):
        with pytest.raises(ValueError, match="not all have one: a rotation, or what has no factor"):
            fold(qmodel, "norm", ["q", "k"], x)
    apart = copy.deepcopy(made)
    apart.k.input_factor = apart.k.input_factor * 2
    with pytest.raises(ValueError, match="layers must share one factor"):
        fold(apart, "norm", ["q", "k"], x)
    with pytest.raises(ValueError, match="the model has none named 'nrm'"):
        fold(made, "nrm", ["q", "k"], x)
    with pytest.raises(ValueError, match="the model has none named 'v'"):
        fold(made, "norm", ["q", "v"], x)


@dataclass
class Output:
    y: torch.Tensor


GIVEN = {
    "masked": lambda y: y.masked_fill(torch.arange(8) == 0, -torch.inf),
    "with NaN": lambda y: torch.cat([y, y[:, :1] * torch.nan], 1),
    "a dataclass": Output,
    "empty too": lambda y: (y[:0], y),
}


class Wrapped(nn.Module):
    def __init__(self, inner, give):
        super().__init__()
        self.inner, self.give = inner, give

    def forward(self, x):
        return self.give(self.inner(x)["y"])


@pytest.mark.parametrize("give", GIVEN.values(), ids=GIVEN)
def test_a_fold_is_checked_by_every_number_given_out(give):
    torch.manual_seed(0)
    work = "inner.norm", ["inner.q", "inner.k"], [drawn(7, 8)]
    for residual in (False, True):
        model = Wrapped(Norms(nn.LayerNorm(8), residual), give)
        qmodel, _ = quantize_model(model, EIGHT, method=halved)
        with pytest.raises(ValueError, match="into 'inner.norm'") if residual else nullcontext():
            fold(qmodel, *work)


def test_a_fold_that_changes_little_is_refused_too():
    """What else takes the norm's output adds a millionth of it to what the model gives out."""
    torch.manual_seed(0)
    model = Norms(nn.LayerNorm(8), residual=1e-6)
    qmodel, _ = quantize_model(model, EIGHT, method=halved)
    with pytest.raises(ValueError, match="before must give its output to these layers alone"):
        fold(qmodel, "norm", ["q", "k"], [drawn(7, 8)])


def test_a_fold_needs_a_float_to_be_checked_by():
    model = Wrapped(Norms(nn.LayerNorm(8), residual=True), lambda y: y.argmax(-1))
    qmodel, _ = quantize_model(model, EIGHT, method=halved)
    with pytest.raises(ValueError, match=r"no float tensor.*tensor of torch.int64.*such as logits"):
        fold(qmodel, "inner.norm", ["inner.q", "inner.k"], [drawn(7, 8)])
