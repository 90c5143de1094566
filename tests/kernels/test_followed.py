"""Where torch follows each operation, our loops and products give way: it would miss them."""

import copy

import pytest
import torch
import torch.autograd.forward_ad as forward
from products import INPUTS, KINDS, ROWS, codes_of, compiled, drawn
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import qlesson as ql
from qlesson import kernels
from qlesson.nn import QuantizedEmbedding, QuantizedLinear, integer

W = codes_of(64, ql.PerGroup(32), 4)
X, T = drawn(3, 64), drawn(3, 64, seed=1)
IDS = torch.tensor([1, 4])


def ran(layer, x=X):
    """A layer that has run compiled."""
    compiled(layer, x)
    return layer


@pytest.fixture(autouse=True)
def by_loops():
    with ql.use_kernels("compiled"):
        yield


def tangent(call, x, t=T):
    with forward.dual_level():
        return forward.unpack_dual(call(forward.make_dual(x, t))).tangent


@pytest.mark.parametrize("learns", [True, False])
def test_a_derivative_goes_forward(learns):
    layer, embedding = ran(QuantizedLinear(W, drawn(ROWS))), ran(QuantizedEmbedding(W), IDS)
    with torch.set_grad_enabled(learns):
        for call in (layer, embedding.project):
            torch.testing.assert_close(tangent(call, X), T @ layer.weight.T)
        b = tangent(lambda b: functional_call(layer, {"bias": b}, (X,)), layer.bias, drawn(ROWS))
        assert torch.equal(b, drawn(ROWS).expand(3, ROWS))


def test_a_derivative_goes_through_dequantize():
    w = codes_of(256, ql.PerGroup(32), 4)
    held = tangent(
        lambda s: ql.QTensor(w.q, s, w.zero_point, w.scheme).dequantize(), w.scale, 2 * w.scale
    )
    assert torch.equal(held, 2 * w.dequantize())


@pytest.mark.parametrize("activations", [None, INPUTS[0]])
@pytest.mark.parametrize("learns", [True, False])
def test_a_bias_of_torch_func(activations, learns):
    layer = ran(QuantizedLinear(W, drawn(ROWS), activations))

    def y(b):
        return functional_call(layer, {"bias": b}, (X,))

    b, ones = drawn(ROWS, seed=2), torch.ones(ROWS)
    with torch.set_grad_enabled(learns):
        assert torch.equal(grad(lambda b: y(b).sum())(b), 3 * ones)
        assert torch.equal(jvp(y, (b,), (ones,))[1], torch.ones(3, ROWS))
        assert torch.equal(jacrev(y)(b), torch.eye(ROWS).expand(3, ROWS, ROWS))
        torch.testing.assert_close(vmap(y)(b[None].expand(2, -1)), y(b).expand(2, 3, ROWS))


@pytest.mark.parametrize("make, x", [(QuantizedLinear, X), (QuantizedEmbedding, IDS)])
def test_layers_that_are_stacked_run_at_once(make, x):
    layers = [ran(make(codes_of(64, ql.PerGroup(32), bits)), x) for bits in (4, 4, 4)]
    for layer, factor in zip(layers, (1, 2, 3), strict=True):
        layer.codes.scale.mul_(factor)
    base = copy.deepcopy(layers[0])
    every = vmap(lambda *state: functional_call(base, state, (x,)))(*stack_module_state(layers))
    torch.testing.assert_close(every, torch.stack([layer(x) for layer in layers]))


class Recorded(TorchDispatchMode):
    """All operations, by name."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


UNSIGNED = ql.Scheme(8, granularity=ql.PerAxis(0), signed=False)


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("activations", [None, *INPUTS, UNSIGNED])
def test_no_layer_takes_a_view_of_another_dtype(activations, bits):
    """torch 2.11 cannot stack one."""
    kind = KINDS[0] if activations is None else KINDS[3]
    w = codes_of(64, ql.PerGroup(32), bits, kind)
    layer, embedding = QuantizedLinear(w, None, activations), QuantizedEmbedding(w)
    with torch.no_grad(), Recorded() as seen:
        layer(X), embedding(IDS)
    assert "aten.add_.Tensor" in seen.names and "aten.view.dtype" not in seen.names


def test_a_graph_holds_all_that_was_done():
    layer = ran(QuantizedLinear(W))
    with torch.no_grad():
        torch.testing.assert_close(make_fx(layer)(X)(T), layer(T))


def test_a_graph_of_a_formula_holds_all_that_was_done():
    w = codes_of(256, ql.PerGroup(32), 4)

    def r_hat(scale):
        steps = scale, w.zero_point, w.scheme.granularity
        return kernels.run(kernels.dequantize, (), w.q, *steps, torch.empty(w.q.shape))

    assert torch.equal(make_fx(r_hat)(w.scale)(2 * w.scale), 2 * w.dequantize())


def test_operations_are_counted():
    layer = ran(QuantizedLinear(W))
    with FlopCounterMode(display=False) as counted:
        layer(X)
    assert counted.get_total_flops() == 2 * X.numel() * ROWS


def test_a_mode_does_not_see_what_is_tried_once(monkeypatch):
    monkeypatch.setattr(integer, "_tried", None)
    q = torch.randint(-128, 128, (3, 64), dtype=torch.int8)
    with FlopCounterMode(display=False):
        assert torch.equal(integer.int_matmul(q, q), (q.int() @ q.int().T))
