"""One graph for every number of rows: exported, and compiled for shapes that may change."""

import io

import pytest
import torch
from torch import nn
from torch.export import Dim

import qlesson as ql
from qlesson.nn import IntegerLinear, calibrate, quantize_model

ROW = ql.Scheme(8, "symmetric", ql.PerAxis(0))
GROUP = ql.Scheme(4, granularity=ql.PerGroup(32))
EIGHT, PER_TOKEN = ql.Scheme(8), ql.Scheme(8, granularity=ql.PerAxis(0))


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def ids(*shape):
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(0))


def codes(*shape):
    return ids(*shape).to(torch.int8)


def linear(scheme, activations=None):
    return quantize_model(nn.Linear(64, 8), scheme, activations=activations)[0]


def static():
    layer = nn.Linear(64, 8)
    qparams = calibrate(layer, [drawn(9, 64)], EIGHT)
    return quantize_model(layer, ROW, activations=EIGHT, qparams=qparams)[0]


def integers():
    return IntegerLinear(static(), EIGHT, ql.QParams(0.1, 0))


LAYERS = {
    "embedding": (lambda: quantize_model(nn.Embedding(20, 64), GROUP)[0], ids, ()),
    "weight-only": (lambda: linear(GROUP), drawn, (64,)),
    "per tensor": (lambda: linear(ROW, EIGHT), drawn, (64,)),
    "per token": (lambda: linear(GROUP, PER_TOKEN), drawn, (64,)),
    "static": (static, drawn, (64,)),
}
ALL = {**LAYERS, "integers": (integers, codes, (64,))}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_an_export_takes_any_number_of_rows(name, strict):
    make, inputs, last = ALL[name]
    torch.manual_seed(0)
    layer = make()
    for few, more in [((7,), (9,))] + [((2, 7), (3, 9))] * (name in LAYERS):
        axes = ({i: Dim(f"n{i}", max=50) for i in range(len(few))},)
        with torch.no_grad():
            x, other = inputs(*few, *last), inputs(*more, *last)
            graph = torch.export.export(layer, (x,), dynamic_shapes=axes, strict=strict)
            torch.testing.assert_close(graph.module()(other), layer(other))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_an_export_is_saved_and_loaded_where_gradients_are_on(name, strict):
    make, inputs, last = ALL[name]
    torch.manual_seed(0)
    layer, x, file = make(), inputs(7, *last), io.BytesIO()
    torch.export.save(torch.export.export(layer, (x,), strict=strict), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(x), layer(x))


@pytest.mark.parametrize("name", ALL)
def test_a_layer_is_compiled_once_for_any_number_of_rows(name):
    make, inputs, last = ALL[name]
    torch.manual_seed(0)
    layer = make()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = torch.compile(layer, dynamic=True, fullgraph=True, backend="eager")
    with torch.no_grad():
        for n in range(2, 14):
            torch.testing.assert_close(run(inputs(n, *last)), layer(inputs(n, *last)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


CONV = (lambda: quantize_model(nn.Conv1d(4, 8, 3), ROW)[0], drawn, (4, 9))
SIXTEEN = (lambda: linear(ql.Scheme(16)), drawn, (64,))
UNSIGNED = (lambda: linear(ql.Scheme(4, signed=False)), drawn, (64,))
MORE = {"convolution": CONV, "16 bits": SIXTEEN, "unsigned": UNSIGNED}


@pytest.mark.filterwarnings("ignore")  # the tracer's
@pytest.mark.parametrize("name", [*ALL, *MORE])
def test_a_trace_is_refused_and_says_what_to_use(name):
    """An embedding's would give memory that nobody wrote, for more rows than it was shown."""
    make, inputs, last = (ALL | MORE)[name]
    layer, x = make(), inputs(3, *last)
    for mode in ("eager", "compiled"):  # one that has run asks less
        with torch.no_grad(), ql.use_kernels(mode):
            layer(x)
            with pytest.raises(RuntimeError, match="^torch.jit.trace does not .*: use torch.exp"):
                torch.jit.trace(layer, x)


@pytest.mark.parametrize("name", [*ALL, *MORE])
def test_a_symbolic_trace_is_refused_and_says_what_to_use(name):
    make, inputs, last = (ALL | MORE)[name]
    layer = make()
    for mode in ("eager", "compiled"):  # one that has run asks less
        with torch.no_grad(), ql.use_kernels(mode):
            layer(inputs(3, *last))
            with pytest.raises(TypeError, match="is a torch.fx.Proxy, since .*: use torch.export"):
                torch.fx.symbolic_trace(layer)


@pytest.mark.filterwarnings("ignore")  # the tracer's
@pytest.mark.parametrize("name", [*ALL, *MORE])
def test_the_older_exporter_of_onnx_is_refused_and_torchs_own_is_not(name, tmp_path, monkeypatch):
    """Its file would hold zeros for weights, without a word."""
    make, inputs, last = (ALL | MORE)[name]
    layer, x = make(), inputs(3, *last)
    with torch.no_grad(), ql.use_kernels("compiled"):
        layer(x)  # one that has run asks less
    with pytest.raises(RuntimeError, match="ONNX's older exporter loses what .*: use torch.onnx"):
        torch.onnx.export(layer, (x,), tmp_path / "x.onnx", dynamo=False)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)  # as the newer one says
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
