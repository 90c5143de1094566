"""notebooks/where_libraries_differ.md is true, and rounding="outside" is ONNX bit for bit.

What is stated and how it is proven stands in libraries.py.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from libraries import (
    COLUMNS,
    ONNX_TYPES,
    SCALE,
    TABLE,
    ao_choose,
    ao_quantize,
    near_ties,
    onnx_quantize,
    quant_utils,
    run_onnx,
    torch_fake_codes,
    torch_observer,
    torch_quantize,
)
from reference import T

import qlesson as ql

ROOT = Path(__file__).parent.parent
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PAGE = (ROOT / "notebooks" / "where_libraries_differ.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]


# --- the page ---


@pytest.mark.parametrize("row, column", [(r, c) for r in TABLE for c in COLUMNS])
def test_each_statement_is_true(row, column):
    _statement, check = TABLE[row][column]
    check()


def test_every_library_is_asked_everything():
    assert all(list(cells) == list(COLUMNS) for cells in TABLE.values())
    assert len(TABLE) == 12


def shown(page):
    """What the page says: heading -> library -> statement."""
    tables = {}
    for section in page.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        lines = [line for line in text.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if cells:
            assert cells[:2] == [["library", "what it does"], ["---", "---"]]
            tables[heading] = dict(cells[2:])
            assert len(tables[heading]) == len(cells) - 2
    return tables


def test_the_page_says_this_and_nothing_else():
    stated = {
        row: {column: statement for column, (statement, _) in cells.items()}
        for row, cells in TABLE.items()
    }
    assert shown(PAGE) == stated


def test_the_page_names_the_versions_that_are_tested():
    pins = re.findall(r"^(onnxruntime|torch|torchao)==(\d+\.\d+)", CONSTRAINTS, flags=re.M)
    assert len(pins) == 3
    assert all(f"{name} {version}" in PAGE for name, version in pins)


def test_how_many_codes_multiplying_by_the_reciprocal_changes():
    """What the page says of 8 bits: the few floats at each tie, by how likely each of them is."""
    normal = torch.distributions.Normal(0.0, 1.0).log_prob
    k = torch.arange(-127, 127) + 0.5
    found = {"normal": [], "even": []}
    for top in torch.linspace(4, 5, 1000):  # of 100,000 normal values the largest is about 4.4
        s = top / 127
        near = (k * s).view(torch.int32)[:, None] + torch.arange(-4, 5, dtype=torch.int32)
        r = near.view(torch.float32)
        apart = torch.round(r / s) != torch.round(r * (1 / s))
        width = ((near + 1).view(torch.float32) - r).abs()[apart]
        found["normal"].append((width * normal(r[apart]).exp()).sum())
        found["even"].append((width / (2 * top)).sum())
    a_million = {kind: 1e6 * torch.stack(shares).mean() for kind, shares in found.items()}
    assert 0.35 < a_million["normal"] < 0.6 and 1 < a_million["even"] < 3


# --- rounding="outside" is ONNX, bit for bit ---

MODES = [
    (bits, signed, mode)
    for (bits, signed) in ONNX_TYPES
    for mode in ("tensor", "axis 0", "axis 1", "blocked", "blocked, ragged")
]
GRANULARITY = {
    "tensor": (ql.PerTensor(), {}),
    "axis 0": (ql.PerAxis(0), {"axis": 0}),
    "axis 1": (ql.PerAxis(1), {"axis": 1}),
    "blocked": (ql.PerGroup(16), {"axis": 1, "block_size": 16}),
    "blocked, ragged": (ql.PerGroup(20), {"axis": 1, "block_size": 20}),
}


def edge_tensor(seed, scale):
    """64 x 48: normal values, exact ties, near-ties, saturating values and zeros."""
    g = torch.Generator().manual_seed(seed)
    r = torch.randn(64, 48, generator=g) * 20
    flat = r.view(-1)
    flat[::5] = (torch.randint(-140, 140, flat[::5].shape, generator=g) + 0.5) * scale
    near = near_ties(scale)  # empty where the scale is a power of two
    flat[1 : 1 + 5 * len(near) : 5] = near
    flat[2::50] = 1e8
    flat[3::50] = -1e8
    flat[4::50] = 0.0
    flat[9::50] = -0.0
    return r


def onnx_shape(x, mode):
    """ONNX takes a 1-D scale per axis, where qlesson keeps the axes of length 1."""
    return x.flatten() if mode.startswith("axis") else x


@pytest.mark.parametrize("bits, signed, mode", MODES)
@pytest.mark.parametrize("mapped", ["chosen", "given"])
def test_outside_equals_onnx_bit_for_bit(bits, signed, mode, mapped):
    granularity, attributes = GRANULARITY[mode]
    scheme = ql.Scheme(bits, granularity=granularity, signed=signed, rounding="outside")
    r = edge_tensor(bits, SCALE)
    if mapped == "chosen":
        qparams = ql.choose_qparams(r.clamp(-30, 25), scheme)
    else:  # a power of two, near SCALE: ties everywhere, and every zero point once
        shape = granularity.scale_shape(r.shape)
        n = torch.Size(shape).numel()
        codes = torch.arange(n) * 7 % (scheme.quant_max - scheme.quant_min + 1) + scheme.quant_min
        scale = torch.where(torch.arange(n) % 2 == 0, 0.125, SCALE).reshape(shape)
        qparams = ql.QParams(scale, codes.to(scheme.dtype).reshape(shape))
    x = ql.quantize(r, scheme, qparams)
    parameters = [onnx_shape(p, mode).numpy() for p in (x.scale, x.zero_point)]
    code_type = ONNX_TYPES[bits, signed]

    q = run_onnx("QuantizeLinear", r.numpy(), *parameters, code_type, **attributes)
    assert torch.equal(q, x.q.int())

    codes = x.q.int().numpy()
    r_hat = run_onnx("DequantizeLinear", codes, *parameters, code_type, **attributes)
    assert torch.equal(r_hat, x.dequantize())


@given(
    seed=st.integers(0, 10**6),
    zero_point=st.integers(-128, 127),
    scale=st.floats(2**-10, 2**10, width=32),
)
def test_outside_equals_onnx_for_any_scale_and_zero_point(seed, zero_point, scale):
    r = edge_tensor(seed, torch.tensor(scale))
    x = ql.quantize(r, ql.Scheme(rounding="outside"), ql.QParams(scale, zero_point))
    assert torch.equal(onnx_quantize(r, scale, zero_point), x.q.int())


def test_inside_and_onnx_differ_at_ties_with_an_odd_zero_point_only():
    r = (torch.arange(-40, 40) + 0.5) * 0.25
    for zero_point in range(-5, 6):
        inside = ql.quantize(r, qparams=ql.QParams(0.25, zero_point)).q.int()
        differs = (inside != onnx_quantize(r, 0.25, zero_point)).any().item()
        assert differs == (zero_point % 2 == 1)


# --- torch.fake_quantize and torchao: one code apart, where r/s and r*(1/s) straddle a tie ---


def assert_only_straddled_ties_differ(r, scale, ours, theirs):
    """Every difference is one code, and the tie between the codes lies between the quotients."""
    different = ours != theirs
    assert different.any(), "the planted near-ties must show"
    assert ((ours - theirs).abs()[different] == 1).all()
    quotient, product = r / scale, r * (1 / scale)
    tie = torch.floor(torch.maximum(quotient, product) + 0.5) - 0.5
    low, high = torch.minimum(quotient, product), torch.maximum(quotient, product)
    assert ((low <= tie) & (tie <= high) & (low < high))[different].all()
    assert torch.equal(theirs, torch.round(product).int().clamp(-128, 127))


def random_and_planted(scale, shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = (torch.rand(shape, generator=g) * 256 - 128) * scale
    planted = near_ties(scale)
    r.view(-1)[: len(planted)] = planted
    return r


OUTSIDE_PER_TENSOR = ql.Scheme(rounding="outside")


def test_torch_fake_quantize_per_tensor_differs_at_straddled_ties_only():
    r = random_and_planted(SCALE, (500, 200))
    ours = ql.quantize(r, OUTSIDE_PER_TENSOR, ql.QParams(SCALE.item(), 0)).q.int()
    theirs = torch_fake_codes(r, SCALE.item(), 0)
    assert_only_straddled_ties_differ(r, SCALE, ours, theirs)


def test_torch_fake_quantize_per_channel_differs_at_straddled_ties_only():
    scale = torch.tensor([[0.1234567], [0.7], [3.3333]])
    r = torch.stack([random_and_planted(s, (20_000,)) for s in scale.flatten()])
    scheme = ql.Scheme(granularity=ql.PerAxis(0), rounding="outside")
    zero_point = torch.zeros(3, 1, dtype=torch.int8)
    ours = ql.quantize(r, scheme, ql.QParams(scale, zero_point)).q.int()
    r_hat = torch.fake_quantize_per_channel_affine(
        r, scale.flatten(), zero_point.flatten().int(), 0, -128, 127
    )
    assert_only_straddled_ties_differ(r, scale, ours, torch.round(r_hat / scale).int())


@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(50)])
def test_torchao_differs_at_straddled_ties_only(granularity):
    r = random_and_planted(SCALE, (100, 500))
    shape = granularity.scale_shape(r.shape)
    qparams = ql.QParams(SCALE.expand(shape).clone(), torch.zeros(shape, dtype=torch.int8))
    scheme = ql.Scheme(granularity=granularity, rounding="outside")
    ours = ql.quantize(r, scheme, qparams).q.int()
    block = {"PerTensor": (100, 500), "PerAxis": (1, 500), "PerGroup": (1, 50)}
    theirs = ao_quantize(r, *qparams, block[type(granularity).__name__]).int()
    assert_only_straddled_ties_differ(r, SCALE, ours, theirs)


def test_torch_quantize_per_tensor_differs_at_straddled_ties_only():
    r = random_and_planted(SCALE, (500, 200))
    ours = ql.quantize(r, qparams=ql.QParams(SCALE.item(), 0)).q.int()
    assert_only_straddled_ties_differ(r, SCALE, ours, torch_quantize(r, SCALE.item(), 0).int())


# --- T through the other doors ---


def test_on_T_everybody_agrees_in_float32():
    x = ql.quantize(T)
    scale, zero_point = x.scale.item(), x.zero_point.item()
    assert torch_observer(T, torch.per_tensor_affine) == (scale, zero_point)
    assert [p.item() for p in ao_choose(T)] == [scale, zero_point]
    ends = T.min().numpy(), T.max().numpy()
    theirs = quant_utils.compute_scale_zp(*ends, np.int8(-128), np.int8(127))
    assert [p.item() for p in theirs] == [zero_point, scale]
    for q in (
        onnx_quantize(T, scale, zero_point),
        torch_quantize(T, scale, zero_point),
        torch_fake_codes(T, scale, zero_point),
        ao_quantize(T, x.scale, x.zero_point.int()),
    ):
        assert torch.equal(q.int(), x.q.int())


def test_no_operator_but_qlesson_refuses_nan():
    nan = torch.tensor([0.0, float("nan"), 1.0])
    with pytest.raises(ValueError, match="1 NaN"):
        ql.quantize(nan)
    onnx_quantize(nan, 0.1, 0)
    torch_observer(nan, torch.per_tensor_affine)
    torch_quantize(nan, 0.1, 0)
    torch_fake_codes(nan, 0.1, 0)
    ao_quantize(nan, *ao_choose(nan))
