"""What is swapped and what stays, and what a model and its copies share afterwards."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import qlesson as ql
from qlesson.files import checkpoint
from qlesson.nn import QuantizedLinear, load_state, quantize_model, state

ROW = ql.Scheme(8, "symmetric", ql.PerAxis(0))
GROUP = ql.Scheme(4, granularity=ql.PerGroup(32))
EIGHT = ql.Scheme(8)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Standardized(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Doubled(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


@pytest.mark.parametrize(
    "layer, shape, own",
    [
        (
            lambda: Standardized(3, 4, 3),
            (2, 3, 5, 5),
            "Standardized has a _conv_forward of its own",
        ),
        (lambda: Doubled(4, 4), (2, 4), "Doubled has a __call__ of its own"),
    ],
)
def test_a_layer_that_computes_in_a_way_of_its_own_stays(layer, shape, own):
    torch.manual_seed(0)
    model, x = nn.ModuleList([layer(), nn.Linear(4, 4)]), drawn(*shape)
    qmodel, report = quantize_model(model, ROW)
    assert torch.equal(qmodel[0](x), model[0](x)) and type(qmodel[0]) is type(model[0])
    assert [(x.name, x.reason) for x in report.stayed] == [("0.weight", own)]
    assert f"stays float: 0.weight ({ql.report.by(model[0].weight.shape)}, " in str(report)


def test_a_convolution_that_is_patched_is_refused():
    conv = nn.Conv2d(3, 4, 3)
    conv._conv_forward = lambda x, weight, bias: F.conv2d(x, 2 * weight, bias)
    with pytest.raises(ValueError, match="Layer '0': it has hooks.*skip='0'"):
        quantize_model(nn.Sequential(conv), ROW)


# --- what is shared, and what is not ---
class Three(nn.Module):
    """An embedding and two heads with one weight."""

    def __init__(self):
        super().__init__()
        self.a = nn.Embedding(10, 8)
        self.b, self.c = (nn.Linear(8, 10, bias=False) for _ in range(2))
        self.b.weight = self.c.weight = self.a.weight

    def forward(self, ids):
        return self.b(self.a(ids)) + self.c(self.a(ids))


SKIPS = [(), ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]


@pytest.mark.filterwarnings("ignore:quantize_model swapped nothing")
@pytest.mark.parametrize("skip", SKIPS, ids="-".join)
def test_a_weight_of_three_layers_comes_back_as_it_was_shared(skip, tmp_path):
    torch.manual_seed(0)
    qmodel, _ = quantize_model(Three(), ROW, skip=skip, activations=EIGHT)
    ids = torch.tensor([[1, 2, 3]])
    checkpoint.save(tmp_path / "q.safetensors", state(qmodel))
    for tensors in (state(qmodel), checkpoint.load(tmp_path / "q.safetensors")):
        back = load_state(Three(), tensors, EIGHT)
        assert torch.equal(back(ids), qmodel(ids))
        assert [type(m) for m in back.children()] == [type(m) for m in qmodel.children()]
        assert len(list(back.parameters())) == len(list(qmodel.parameters()))
        assert len(list(back.buffers())) == len(list(qmodel.buffers()))


def test_a_shared_weight_has_one_scheme():
    with pytest.raises(ValueError, match="'a' and 'c' share one weight.*give both the same"):
        quantize_model(Three(), {"a": ROW, "b": ROW, "c": GROUP})
    qmodel, _ = quantize_model(Three(), {"a": ROW, "c": ROW})
    assert qmodel.a.codes is qmodel.c.codes and isinstance(qmodel.b, nn.Linear)


COMPUTED = {
    "prune": (prune.random_unstructured, prune.remove, ("weight",)),
    "a pruned bias": (prune.random_unstructured, prune.remove, ("bias",)),
    "weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm, ()),
    "spectral_norm": (nn.utils.spectral_norm, nn.utils.remove_spectral_norm, ()),
}


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_what_a_hook_computes_is_refused_with_what_helps(kind):
    make, undo, name = COMPUTED[kind]
    how = {"amount": 0.5} if make is prune.random_unstructured else {}
    layer = make(nn.Linear(8, 4), *name, **how)
    with pytest.raises(ValueError, match="a hook computes its .*call prune.remove"):
        quantize_model(layer, ROW)
    undo(layer, *name)
    qmodel, _ = quantize_model(layer, ROW)
    assert torch.equal(qmodel.weight, ql.fake_quantize(layer.weight.detach(), ROW))


def test_a_weight_that_is_a_buffer_is_quantized():
    layer = nn.Linear(8, 4)
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.register_buffer("weight", weight)
    qmodel, _ = quantize_model(nn.Sequential(layer), ROW)
    assert torch.equal(qmodel[0].weight, ql.fake_quantize(weight, ROW))


def test_a_model_of_codes_is_told_so():
    qmodel, _ = quantize_model(nn.Sequential(nn.Linear(8, 4)), ROW)
    with pytest.warns(UserWarning, match="its layers hold codes already: quantize the float model"):
        quantize_model(qmodel, ROW)


def test_a_shared_float_weight_may_come_under_one_of_its_names():
    """As in a file of before, beside codes that have its shape by chance."""
    torch.manual_seed(0)
    model = nn.ModuleList([Three(), nn.Embedding(10, 8)])
    qmodel, _ = quantize_model(model, ROW, skip="0")
    tensors = {n: x for n, x in state(qmodel).items() if n not in ("0.b.weight", "0.c.weight")}
    assert torch.equal(load_state(model, tensors)[0].c.weight, qmodel[0].a.weight)


@pytest.mark.parametrize("scheme", [ROW, GROUP, ql.Scheme(16, "symmetric"), ql.Scheme(4)])
def test_layers_have_codes_and_scales_of_their_own(scheme):
    codes, other = (ql.quantize(drawn(8, 64, seed=seed), scheme) for seed in (1, 2))
    r_hat, x = codes.dequantize(), drawn(3, 64)
    first, second = QuantizedLinear(codes), QuantizedLinear(codes)
    first.load_state_dict(QuantizedLinear(other).state_dict())
    assert torch.equal(codes.dequantize(), r_hat) and torch.equal(second.weight, r_hat)
    tensors = {"weight": codes}
    one, two = (load_state(nn.Linear(64, 8, bias=False), tensors) for _ in range(2))
    y = two(x)
    one.load_state_dict(first.state_dict())
    assert torch.equal(two(x), y) and torch.equal(one(x), first(x))


def test_a_compiled_product_follows_scales_that_came_turned():
    """A scale that is transposed in memory, as in files of GPTQ, is held row by row."""
    turned = []
    for seed in (1, 2):
        w = ql.quantize(drawn(8, 64, seed=seed), GROUP)
        steps = (part.t().contiguous().t() for part in (w.scale, w.zero_point))
        turned.append(QuantizedLinear(ql.QTensor(w.q, *steps, w.scheme)))
    (layer, other), x = turned, drawn(2, 64)
    with torch.no_grad(), ql.use_kernels("compiled"):
        layer(x)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("kernels", ["eager", "compiled"])
def test_a_product_follows_a_scale_that_begins_where_the_one_before_did(kernels):
    layer, x = QuantizedLinear(ql.quantize(drawn(8, 64), ROW)), drawn(2, 64)
    with torch.no_grad(), ql.use_kernels(kernels):
        layer(x)
        layer.codes.scale = layer.codes.scale[:1].expand(8, 1)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight))


class Extra(nn.Linear):
    """Counts in what it saves beside its tensors."""

    count = 0

    def get_extra_state(self):
        return torch.tensor([self.count]) if self.count < 9 else {"count": self.count}

    def set_extra_state(self, x):
        self.count = int(x)


def test_what_a_module_saves_beside_its_tensors_is_kept():
    model = nn.Sequential(nn.Linear(4, 4), Extra(4, 4))
    qmodel, _ = quantize_model(model, ROW, skip="1")
    qmodel[1].count = 5
    assert load_state(model, state(qmodel))[1].count == 5
    qmodel[1].count = 9
    with pytest.raises(TypeError, match=r"'1._extra_state' is \{'count': 9\}, and a state holds"):
        state(qmodel)


class Predictions(nn.Module):
    """As BERT's head: two names for one bias, and a second layer that has it too."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 10), nn.Linear(8, 10)
        self.bias = self.two.bias = self.one.bias

    def forward(self, x):
        return self.one(x) + self.two(x) + self.bias


@pytest.mark.parametrize("parametrized", [False, True])
def test_a_bias_stays_shared(parametrized):
    torch.manual_seed(0)
    model, x = Predictions(), drawn(3, 8)
    if parametrized:
        nn.utils.parametrizations.weight_norm(model.one)
    qmodel, report = quantize_model(model, ROW)
    assert qmodel.bias is qmodel.one.bias is qmodel.two.bias is not model.bias
    assert "the rest, unchanged 40 40" in " ".join(str(report).split())
    back = load_state(model, state(qmodel))
    assert back.bias is back.one.bias and torch.equal(back(x), qmodel(x))
    every = state(qmodel) | {"one.bias": qmodel.bias, "two.bias": qmodel.bias}
    assert torch.equal(load_state(model, every)(x), qmodel(x))


class Outer(nn.Module):
    def forward(self, x):
        return x @ x.T

    def right_inverse(self, w):
        return w[:, :1].clone()


def test_the_report_counts_what_a_weight_is_made_of():
    layer = nn.Linear(64, 64, bias=False)
    nn.utils.parametrize.register_parametrization(layer, "weight", Outer())
    _, report = quantize_model(nn.Sequential(layer), ROW)
    assert (report[0].bytes_before, report[0].bytes_after) == (64 * 4, 64 * 64 + 64 * 4)
    assert report.bytes_before == 64 * 4 and "the rest, unchanged" in str(report)


def test_a_module_may_be_called_nearly_like_torchs_own():
    model = nn.ModuleDict({"reparametrizations": nn.LSTM(4, 4), "fc": nn.Linear(4, 4)})
    stayed = quantize_model(model, ROW)[1].stayed
    assert [x.name for x in stayed] == [f"reparametrizations.weight_{n}_l0" for n in ("ih", "hh")]
    assert all("nn.LSTM is none of the layers" in x.reason for x in stayed)
