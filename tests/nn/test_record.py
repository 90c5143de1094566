"""What layers are given: every form of arguments, what is refused, and a model left as it was."""

import copy
import subprocess
import sys
from collections import UserDict
from functools import partial

import pytest
import torch
from torch import nn

import qlesson as ql
from qlesson import methods, observers
from qlesson.methods import layer_inputs
from qlesson.nn import QuantizedLinear, calibrate, fold, quantize_model, record
from qlesson.nn.record import copied_buffers


class Named(nn.Module):
    """Calls one layer by position and one by name, and the second twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, add=0):
        x = self.second(input=self.first(x) + add)
        return self.second(x)


def recorded(model, batches, layers=None):
    met = []
    record(model, batches, lambda name, x: met.append((name, x)), layers)
    return met


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "named", "a mapping"])
def test_every_form_of_a_batch(form, shape):
    torch.manual_seed(0)
    model, x = Named(), inputs(*shape)
    batch = {"tensor": x, "tuple": (x, 1), "list": [x, 1], "named": {"x": x, "add": 1}}
    batch = UserDict(batch["named"]) if form == "a mapping" else batch[form]
    met = recorded(model, [batch])
    add = 0 if form == "tensor" else 1
    with torch.no_grad():
        rows = x.reshape(-1, 4)
        hidden = model.first(rows) + add
        wanted = {0: ("first", rows), 1: ("second", hidden), 2: ("second", model.second(hidden))}
    for i, (name, its) in wanted.items():
        assert met[i][0] == name
        torch.testing.assert_close(met[i][1], its)
    assert len(met) == 3 and not met[2][1].requires_grad


class InPlace(Named):
    """Computes in what it is given."""

    def forward(self, x, add=0):
        x = x["x"] if isinstance(x, dict) else x
        return super().forward(x.sub_(1).div_(2), add)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["tensor", "tuple", "named", "nested"])
def test_every_run_meets_the_batches_as_they_were(form, dtype):
    torch.manual_seed(0)
    model, plain = InPlace().to(dtype), Named().to(dtype)
    plain.load_state_dict(model.state_dict())
    x = inputs(9, 4).mul(64).round().div(64).to(dtype)  # of which (x - 1) / 2 rounds nothing
    batch = {"tensor": x, "tuple": (x, 0), "named": {"x": x}, "nested": [{"x": x}]}[form]
    before, changed = x.clone(), (x - 1) / 2
    wanted = calibrate(plain, [changed], ql.Scheme())
    assert calibrate(model, [batch, batch], ql.Scheme()) == wanted
    for sequential in (False, True):
        how = {"method": methods.gptq, "sequential": sequential}
        q, _ = quantize_model(model, ql.Scheme(3), inputs=[batch, batch], **how)
        p, _ = quantize_model(plain, ql.Scheme(3), inputs=[changed, changed], **how)
        assert all(torch.equal(a, b) for a, b in zip(q.buffers(), p.buffers(), strict=True))
    assert torch.equal(x, before)


def test_layer_inputs_leaves_its_arguments_as_they_were():
    x = inputs(9, 4).double()
    before, met = x.clone(), layer_inputs(InPlace(), x)
    assert torch.equal(met["first"], ((before - 1) / 2).float()) and torch.equal(x, before)


class Gained(nn.Linear):
    """A layer of the reader's own, with other names, which are its own to put in order."""

    def forward(self, x, gain=None):
        return super().forward(x) * (1 if gain is None else gain)


def test_a_layer_may_name_its_input_otherwise():
    class Naming(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = Gained(4, 4), Gained(4, 4)

        def forward(self, x):
            return self.last(gain=torch.ones(4), x=self.first(x=x))

    model, x = Naming(), inputs(3, 4)
    met = layer_inputs(model, x)
    assert torch.equal(met["first"], x)
    torch.testing.assert_close(met["last"], model.first(x))


def test_calibrate_and_layer_inputs_take_the_same_forms():
    torch.manual_seed(0)
    model, x = Named().double(), inputs(3, 4).double()
    ranges = calibrate(model, [{"x": x, "add": x}, (x[0], x[0])], ql.Scheme())
    for name, its in layer_inputs(model, x, x).items():
        scale = ql.choose_qparams(its.double()).scale
        torch.testing.assert_close(ranges[name].scale, scale, rtol=1e-6, atol=0)


def test_only_the_layers_asked_for_are_heard():
    model = Named()
    met = recorded(model, [inputs(2, 4)], {"b": model.second})
    assert [name for name, _ in met] == ["b", "b"]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_input_that_is_no_number_is_named(bad):
    x = inputs(2, 4)
    x[1, 2] = bad
    for run in (lambda m: calibrate(m, [x], ql.Scheme()), lambda m: layer_inputs(m, x)):
        model = Named()
        with pytest.raises(ValueError, match="The input of layer 'first' holds NaN or infinity"):
            run(model)
        assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_model_that_is_compiled_is_heard_too():
    torch.manual_seed(0)
    model, x = Named(), inputs(3, 4)
    wanted = calibrate(model, [x], ql.Scheme())
    whole = torch.compile(model, backend="eager")
    model.compile(backend="eager")
    with torch.no_grad():
        whole(x), model(x)  # compiled without hooks
    assert calibrate(model, [x], ql.Scheme()) == wanted
    found = calibrate(whole, [x], ql.Scheme())
    assert {name.removeprefix("_orig_mod."): its for name, its in found.items()} == wanted


def test_a_mapping_of_inputs_is_run_in_float64_too():
    torch.manual_seed(0)
    model, x = Named(), inputs(3, 4)
    how = {"scheme": ql.Scheme(), "method": methods.gptq}
    a, b = (quantize_model(model, inputs=[n], **how)[0] for n in ({"x": x}, UserDict(x=x)))
    assert torch.equal(a(x), b(x))


WRAPPED = {
    "nn.DataParallel": nn.DataParallel,
    "exported by torch.export": lambda m: torch.export.export(m, (inputs(2, 4),)).module(),
}


@pytest.mark.parametrize("what", WRAPPED)
def test_what_does_not_run_module_by_module_is_refused(what):
    model = WRAPPED[what](nn.Sequential(nn.Linear(4, 4)))
    for run in (lambda: calibrate(model, [inputs(2, 4)], ql.Scheme()), lambda: recorded(model, [])):
        with pytest.raises(TypeError, match=f"^model is {what}, and does not.*: pass"):
            run()


def test_an_encoder_of_torch_is_heard_where_tokens_are_masked():
    """In eval mode it would hand nested tensors to its layers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    mask = torch.tensor([[False, False, False], [False, True, True]])
    batch = {"src": inputs(2, 3, 8), "src_key_padding_mask": mask}
    scheme = ql.Scheme(8, "symmetric", ql.PerAxis(0))
    found = calibrate(model, [batch], ql.Scheme())
    assert model.use_nested_tensor and len(found) == 4
    assert len(layer_inputs(model, batch["src"], None, mask)) == 4
    for sequential in (False, True):
        how = {"inputs": [batch], "sequential": sequential}
        quantize_model(model, scheme, method=methods.gptq, **how)
    q, _ = quantize_model(model, scheme)
    q.layers[1].norm1.eps = 1e-4  # no fast path for a layer whose norms differ
    with torch.no_grad():
        assert ql.sqnr(model(**batch)[~mask], q(**batch)[~mask]) > 30


class Counts(nn.Module):
    """Makes floats of ids, and of what a norm gives out."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, ids):
        hidden = self.first(nn.functional.one_hot(ids, 5).float())
        return self.last(input=self.norm(hidden.float()))


@pytest.mark.parametrize("sequential", [False, True])
def test_a_model_may_make_floats_of_its_own(sequential):
    torch.manual_seed(0)
    model, ids = Counts(), torch.tensor([[0, 1, 2], [4, 3, 0]])
    met = layer_inputs(model, ids)
    assert torch.equal(met["first"], torch.eye(5)[ids.flatten()])
    hidden = model.norm(model.first(met["first"]))
    torch.testing.assert_close(met["last"], hidden)
    how = {"method": methods.gptq, "inputs": [ids], "sequential": sequential}
    qmodel, _ = quantize_model(model, ql.Scheme(8), **how)
    assert ql.sqnr(model(ids), qmodel(ids)) > 30
    assert not any(m._forward_pre_hooks for m in qmodel.modules())


FLOAT32 = {
    "a softmax": lambda y: torch.softmax(y, -1, dtype=torch.float32) @ y,
    "a matrix": lambda y: y @ torch.eye(4),
    "an operand": lambda y: torch.zeros(y.shape).index_add_(0, torch.arange(len(y)), y),
    "weights": lambda y: nn.functional.layer_norm(y, (4,), torch.ones(4)),
}


class Between(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.first, self.last, self.compute = nn.Linear(4, 4), nn.Linear(4, 4), compute

    def forward(self, x):
        return self.last(self.compute(self.first(x)))


@pytest.mark.parametrize("what", FLOAT32)
def test_a_model_that_keeps_to_float32_is_told_what_to_change(what):
    """torch says that dtypes differ, and neither why one is float64 nor what to do."""
    model, x = Between(FLOAT32[what]), inputs(4, 4)
    model(x)
    how = {"method": methods.gptq, "inputs": [x]}
    folding = Between(FLOAT32[what])
    codes = ql.quantize(folding.last.weight, ql.Scheme(8))
    folding.last = QuantizedLinear(codes, factor=torch.full((4,), 2.0))
    for run in (
        lambda: fold(folding, "first", "last", [x]),
        lambda: layer_inputs(model, x),
        lambda: quantize_model(model, ql.Scheme(8), **how),
        lambda: quantize_model(model, ql.Scheme(8), **how, sequential=True),
    ):
        with pytest.raises(TypeError, match=r"not run in float64, .*type.*: what it makes itself"):
            run()
    with pytest.raises(RuntimeError, match="shapes"):
        layer_inputs(model, inputs(4, 5))


def test_a_model_that_is_not_compiled_waits_for_no_compiler():
    """Whose import takes seconds."""
    code = """
import sys, torch, qlesson as ql
from qlesson.nn import calibrate
calibrate(torch.nn.Linear(4, 4), [torch.ones(2, 4)], ql.Scheme())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_that_hold_none_are_refused():
    batches = (inputs(2, 4) for _ in range(2))
    assert len(calibrate(Named(), batches, ql.Scheme())) == 2
    for nothing in (batches, []):
        with pytest.raises(ValueError, match="batches hold no batch: pass a list"):
            calibrate(Named(), nothing, ql.Scheme())


def test_one_batch_is_no_list_of_them():
    """Its rows, or its names, would be taken for batches."""
    x = inputs(2, 4)
    for one in (x, {"x": x}, UserDict(x=x), "x", 3):
        with pytest.raises(TypeError, match=r"batches must be a list .* pass \[batch\]"):
            calibrate(Named(), one, ql.Scheme())
        with pytest.raises(TypeError, match=r"batches must be a list .* pass \[batch\]"):
            recorded(Named(), one)


def test_no_hook_is_left_after_an_error():
    model = Named()
    for batch, take in (
        (inputs(2, 5), lambda name, x: None),  # the model fails
        (inputs(2, 4), lambda name, x: 1 / 0),
    ):
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            record(model, [batch], take)
        assert not any(m._forward_pre_hooks for m in model.modules())


class Counting(nn.Module):
    """A parametrization that counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


@pytest.mark.parametrize("train", [True, False])
def test_a_run_changes_nothing_in_the_model(train):
    """Norms and parametrizations count and average as they run; their values come back."""
    torch.manual_seed(0)
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), spectral)
    nn.utils.parametrize.register_parametrization(model[0], "weight", Counting())
    model.train(train)
    seen = []
    model[0].register_forward_pre_hook(lambda *_: seen.append(1))
    before, held = copy.deepcopy(model.state_dict()), dict(model.named_buffers())
    for run in (
        lambda: calibrate(model, [inputs(5, 4), inputs(6, 4)], ql.Scheme()),
        lambda: layer_inputs(model, inputs(5, 4)),
    ):
        assert list(run()) == ["0", "3"]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(x is held[name] for name, x in model.named_buffers())
    assert [m.training for m in model.modules()] == [train] * len(list(model.modules()))
    assert len(seen) == 3 and len(model[0]._forward_pre_hooks) == 1  # the reader's own stays


def test_the_ranges_come_from_any_observer():
    """They are those of the observer fed by hand with each layer's inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    batches = [torch.randn(20, 8) for _ in range(3)] + [torch.empty(0, 8)]
    scheme = ql.Scheme(4)
    met = {"0": [], "2": []}
    record(model, batches, lambda name, x: met[name].append(x))
    for observer in (
        observers.MinMaxObserver,
        observers.MSEObserver,
        observers.EntropyObserver,
        partial(observers.PercentileObserver, percent=95),
    ):
        found = calibrate(model, batches, scheme, observer)
        for name, inputs in met.items():
            one = observer(scheme)
            for x in inputs[:3]:
                one.observe(x)
            assert found[name] == ql.qtensor.qparams_from_range(*one.range(), scheme)
    assert found != calibrate(model, batches, scheme)
    with pytest.raises(TypeError, match="observer must be an Observer, got int"):
        calibrate(model, batches, scheme, lambda scheme: 3)


def test_codes_are_not_copied_and_what_a_run_may_change_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    qmodel, _ = quantize_model(model, ql.Scheme(8))
    copied = copied_buffers(qmodel)
    assert set(copied) == {f"1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
    assert copied["1.running_mean"] is not qmodel[1].running_mean
