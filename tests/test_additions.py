"""What a reader adds works without a change elsewhere: a granularity, a method, a formula."""

import inspect
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import qlesson as ql
from qlesson import kernels, methods, observers, ranges
from qlesson.files import packing
from qlesson.files.formats.steps import PerIndex
from qlesson.granularity import Granularity, rows
from qlesson.kernels import compilers
from qlesson.nn import QuantizedEmbedding, QuantizedLinear, quantize_model


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# --- a granularity: one class ---------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles(Granularity):
    """One scale for each tile of 16 x 16."""

    def scale_shape(self, shape):
        return tuple(n // 16 for n in shape)

    def block_shape(self, shape):
        return (16, 16)

    def split(self, r):
        return r.reshape(r.shape[0] // 16, 16, r.shape[1] // 16, 16)

    def join(self, blocks, shape):
        return blocks.reshape(shape)

    def align(self, scale):
        return scale[:, None, :, None]

    def reduce(self, function, r):
        return function(self.split(r), dim=(1, 3))


class Columns(ql.PerAxis):
    """The name of one that the loops know, and other blocks: one scale for each column."""

    def scale_shape(self, shape):
        return ql.PerAxis(1).scale_shape(shape)

    def block_shape(self, shape):
        return ql.PerAxis(1).block_shape(shape)

    def reduce(self, function, r):
        return ql.PerAxis(1).reduce(function, r)


class Groups(ql.PerGroup):
    """Cut as those of the package: a short last group is filled up, and so is a copy."""


ROW = ql.Scheme(4, granularity=ql.PerAxis(0))
OWN = pytest.mark.parametrize("granularity", [Tiles(), Columns(0)])


def tiles_of(r):
    """The blocks of Tiles, one after the other, by hand."""
    return [r[i : i + 16, j : j + 16] for i in range(0, len(r), 16) for j in range(0, 48, 16)]


@OWN
@pytest.mark.parametrize("shape", [(64, 64), (256, 512), (16, 2**18), (2**14, 16)])
def test_a_granularity_gives_the_same_values_in_every_mode(granularity, shape):
    r, found = drawn(*shape), []
    scheme = ql.Scheme(4, granularity=granularity)
    for mode in ("eager", "compiled"):
        with ql.use_kernels(mode):
            x = ql.quantize(r, scheme)
            low, high = ranges.min_max(r, scheme)
            found.append((x.q, x.scale, x.dequantize(), ql.fake_quantize(r, scheme), low, high))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    qparams = map(granularity.align, ql.choose_qparams(r, scheme))
    wanted = ql.quantize_affine(granularity.split(r), *qparams, -8, 7)
    assert torch.equal(granularity.join(wanted, shape), found[0][0])


@pytest.mark.parametrize("shape", [(2, 5), (700, 411)])
def test_a_granularity_may_copy_where_it_cuts(shape):
    r, found = drawn(*shape), []
    for granularity in (Groups(2), ql.PerGroup(2)):
        scheme = ql.Scheme(4, granularity=granularity)
        x = ql.quantize(r, scheme)
        layer = QuantizedLinear(x)
        found.append((x.q, x.scale, x.dequantize(), ql.fake_quantize(r, scheme), layer(r)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    flipped = ql.quantize(r.t(), ql.Scheme(4, granularity=Groups(2, 0)))
    assert torch.equal(flipped.q.t(), found[0][0])


class TwoWays(Tiles):
    """One scale for each tile of 4 x 4; a short one is filled up on both axes."""

    def scale_shape(self, shape):
        return tuple(-(-n // 4) for n in shape)

    def block_shape(self, shape):
        return (4, 4)

    def split(self, r):
        for axis in (0, 1):
            index = torch.arange(-(-r.shape[axis] // 4) * 4).clamp(max=r.shape[axis] - 1)
            r = r.index_select(axis, index)
        return r.reshape(r.shape[0] // 4, 4, r.shape[1] // 4, 4)

    def join(self, blocks, shape):
        whole = blocks.reshape(4 * blocks.shape[0], 4 * blocks.shape[2])
        return whole[: shape[0], : shape[1]].contiguous()


def test_what_fills_a_block_up_counts_for_nothing():
    """On two axes at once a copy does not lie beside its original."""
    r = torch.tensor([[0.0, 1, 2, 3], [0, 1, 2, 3], [10, 11, 12, 13]])
    scheme, whole = ql.Scheme(4, granularity=TwoWays()), ql.Scheme(4)
    values, weights = rows(TwoWays(), r)
    assert values.shape == (1, 16) and weights.sum() == 12
    for search in (lambda r, s: ranges.percentile(r, s, 80.0), ranges.mse_search, ranges.entropy):
        for own, one in zip(search(r, scheme), search(r, whole), strict=True):
            assert own.view(()) == one
    watching = observers.PercentileObserver(scheme)
    watching.observe(r)
    assert watching.counts.sum() == 12
    gradients = []
    for s, shape in ((scheme, (1, 1)), (whole, ())):
        scale = torch.full(shape, 0.7, requires_grad=True)
        zero_point = torch.full(shape, -3, dtype=torch.int8)
        ql.fake_quantize(r, s, ql.QParams(scale, zero_point)).square().sum().backward()
        gradients.append(scale.grad.view(()))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "index", [(1, 0, 1, 0), (2, 0, 1, 0), tuple(i * 37 % 4 for i in range(64))]
)
def test_scales_that_lie_among_each_other(index):
    """Groups that are listed column by column have the ranges that they have side by side."""
    r, by_index = drawn(3, len(index)), PerIndex(index)
    scheme = ql.Scheme(4, granularity=by_index)
    searches = [lambda r, s: ranges.percentile(r, s, 100.0), ranges.mse_search, ranges.entropy]
    for search in searches:
        for found, end in zip(search(r, scheme), (0, 1), strict=True):
            for group in range(max(index) + 1):
                alone = r[:, torch.tensor(index) == group]
                assert torch.equal(found[:, group], search(alone, ROW)[end][:, 0])
    assert all(map(torch.equal, searches[0](r, scheme), ranges.min_max(r, scheme)))
    scale = torch.full(by_index.scale_shape(r.shape), 0.3, requires_grad=True)
    zero_point = torch.zeros(scale.shape, dtype=torch.int8)
    ql.fake_quantize(r, scheme, ql.QParams(scale, zero_point)).square().sum().backward()
    for group in range(max(index) + 1):
        alone = r[:, torch.tensor(index) == group]
        its = torch.full((3, 1), 0.3, requires_grad=True)
        qparams = ql.QParams(its, zero_point[:, :1])
        ql.fake_quantize(alone, ROW, qparams).square().sum().backward()
        torch.testing.assert_close(scale.grad[:, group], its.grad[:, 0])


def test_zeros_that_fill_a_group_up_count_for_nothing():
    class Padded(ql.PerGroup):
        def split(self, r):
            return F.pad(r, (0, -r.shape[1] % self.group_size)).unflatten(1, (-1, self.group_size))

    r = torch.tensor([[5.0, 6, 7, 8, 9, 10]])
    assert rows(Padded(4), r)[1].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    low, high = ranges.percentile(r, ql.Scheme(4, granularity=Padded(4)), 100.0)
    assert (low.tolist(), high.tolist()) == ([[5, 9]], [[8, 10]])


def test_a_granularity_needs_six_methods_and_no_base():
    """`Tiles` with no base says the same; who lacks a method is told which are needed."""
    needed = ("scale_shape", "block_shape", "split", "join", "align", "reduce")
    bare = type("Bare", (), {name: vars(Tiles)[name] for name in needed})()
    r, found = drawn(64, 64), []
    for granularity in (bare, Tiles()):
        scheme = ql.Scheme(4, granularity=granularity)
        for mode in ("eager", "compiled"):
            with ql.use_kernels(mode):
                x = ql.quantize(r, scheme)
                found.append((x.q, x.dequantize(), *ranges.percentile(r, scheme, 99.0)))
    assert all(torch.equal(a, b) for some in zip(*found, strict=True) for a, b in pairwise(some))
    for name in needed:
        methods = {n: vars(Tiles)[n] for n in needed if n != name}
        with pytest.raises(TypeError, match="split, join, align, reduce"):
            ql.Scheme(granularity=type("Lacks", (), methods)())


def test_a_scale_has_the_axes_of_the_tensor_or_none():
    class Flat(Tiles):
        def scale_shape(self, shape):
            return (shape[0] // 16 * (shape[1] // 16),)

    scheme = ql.Scheme(4, granularity=Flat())
    for ask in (ql.quantize, ql.choose_qparams, ranges.mse_search, ranges.min_max):
        with pytest.raises(ValueError, match=r"Flat.scale_shape gives \(16,\).*give as many axes"):
            ask(drawn(64, 64), scheme)
    q, steps = torch.zeros(64, 64, dtype=torch.int8), (torch.ones(16), torch.zeros(16).char())
    with pytest.raises(ValueError, match="give as many axes"):
        ql.QTensor(q, *steps, scheme)


def test_a_granularity_in_the_searches_and_the_observers():
    """Each tile has the range that it has alone."""
    r, whole, scheme = drawn(32, 48), ql.Scheme(4), ql.Scheme(4, granularity=Tiles())
    for search in (
        lambda r, scheme: ranges.percentile(r, scheme, 99.0),
        ranges.mse_search,
        ranges.entropy,
    ):
        found = search(r, scheme)
        alone = [search(tile, whole) for tile in tiles_of(r)]
        for end, ends in zip(found, zip(*alone, strict=True), strict=True):
            assert end.shape == (2, 3) and end.flatten().tolist() == [x.item() for x in ends]
    for make in (
        observers.MinMaxObserver,
        observers.MSEObserver,
        observers.EntropyObserver,
    ):
        observer, alone = make(scheme), [make(whole) for _ in range(6)]
        for batch in (r, 3 * drawn(32, 48)):
            observer.observe(batch)
            for one, tile in zip(alone, tiles_of(batch), strict=True):
                one.observe(tile)
        ends = zip(*(one.range() for one in alone), strict=True)
        for end, wanted in zip(observer.range(), ends, strict=True):
            assert end.flatten().tolist() == [x.item() for x in wanted]


@OWN
def test_a_granularity_in_layers_models_methods_and_packing(granularity):
    scheme, weight, inputs = ql.Scheme(4, granularity=granularity), drawn(32, 48), drawn(64, 48)
    x = ql.quantize(weight, scheme)
    layer = QuantizedLinear(x)
    assert torch.equal(layer(inputs), inputs @ x.dequantize().T)
    model, report = quantize_model(torch.nn.Sequential(torch.nn.Linear(48, 32)), scheme)
    assert len(report) == 1 and model[0].codes.scheme == scheme
    assert torch.equal(packing.PackedTensor.pack(x).unpack().q, x.q)
    plain = methods.output_error(weight, x.dequantize(), inputs)
    for method in (methods.round_to_nearest, methods.awq):
        result = method(weight, inputs, scheme)
        assert result.weight.scheme == scheme
        assert methods.output_error(weight, result.float_weight(), inputs) < 1.1 * plain
    for refused in (
        lambda: QuantizedLinear(x, activations=ql.Scheme(8)),
        lambda: QuantizedEmbedding(x),
        lambda: methods.gptq(weight, inputs, scheme),
        lambda: methods.hqq(weight, inputs, scheme),
    ):
        with pytest.raises(ValueError, match=r"ql\.PerGroup\(size\)|or PerGroup\(size\)"):
            refused()


# --- a method: one function -----------------------------------------------------------------------


def halved(weight, inputs, scheme):
    """A method that takes the inputs twice as large, and the weight half as large."""
    factor = torch.full((weight.shape[1],), 2.0)
    return methods.Result(ql.quantize(weight / 2, scheme), factor)


def test_a_method_stands_where_the_courses_own_stand():
    model = torch.nn.Sequential(torch.nn.Linear(48, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    scheme = ql.Scheme(8, "symmetric", ql.PerAxis(0))
    ours, theirs = (
        quantize_model(model, scheme, method=m, inputs=[drawn(64, 48)])[0]
        for m in (halved, methods.round_to_nearest)
    )
    assert torch.equal(ours[0].factor, torch.full((48,), 2.0))
    assert torch.equal(ours[0].codes.q, theirs[0].codes.q)  # a power of two changes no code
    torch.testing.assert_close(ours(drawn(5, 48)), theirs(drawn(5, 48)))


# --- a kernel: a formula between a reading and a store --------------------------------------------


def mirrored(r, scale, zero_point, out, quant_min, quant_max):
    """The codes from the other end: quant_min + quant_max - q."""
    q = ql.quantize_affine(r, scale, zero_point, quant_min, quant_max, torch.int32)
    out.copy_(quant_min + quant_max - q)
    return ()


@pytest.mark.parametrize(
    "granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerAxis(1), ql.PerGroup(32), Tiles()]
)
def test_a_formula_runs_in_pieces_and_as_a_loop(granularity, monkeypatch):
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    r, scheme = drawn(256, 512), ql.Scheme(granularity=granularity)
    x = ql.quantize(r, scheme)
    for mode in ("eager", "compiled"):
        out = torch.empty_like(x.q)
        with ql.use_kernels(mode):
            kernels.run(mirrored, (-128, 127), r, x.scale, x.zero_point, granularity, out)
        assert torch.equal(out, -1 - x.q)
    assert not kernels.modes._state["broken"]


def test_from_quantize_to_the_loop_are_four_calls(monkeypatch):
    """run, _in_loops, the kernel, the loop: with given scales and chosen ones."""
    ways, places = [], compilers._places

    def seen(r, how):
        frames = [frame.function for frame in inspect.stack()[1:]]
        callers = ("decorate_context", "test_from_quantize_to_the_loop_are_four_calls")
        ways.append(frames[: min(frames.index(x) for x in callers if x in frames)])
        return places(r, how)

    monkeypatch.setattr(compilers, "_places", seen)
    monkeypatch.setitem(kernels.modes._state, "broken", False)
    r, groups = drawn(256, 512), ql.Scheme(granularity=ql.PerGroup(32))
    with ql.use_kernels("compiled"):
        ql.quantize(r, groups)
        ql.quantize(r, groups, ql.choose_qparams(r, groups))
    assert [way[-1] for way in ways].count("quantize") >= 2
    assert max(map(len, ways)) <= 4, ways  # functions from quantize to the one that calls the loop
