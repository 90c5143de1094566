"""Where libraries differ: the table that ends notebook 06, one check for each of its statements.

Above every check stands the statement that it proves. onnxruntime and torchao are needed here
and nowhere else in the project.
"""

import json
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.quantization import quant_utils
from reference import T

import qlesson as ql

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.quantization import quant_primitives as ao
    from torchao.quantization.quant_primitives import MappingType

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

NOTEBOOK = pathlib.Path(__file__).parent.parent / "notebooks" / "06_granularity.ipynb"
TIES = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])  # with s = 1 and z = 1
INSIDE, OUTSIDE = [2, 2, 4, 0, 0, -2], [1, 3, 3, 1, -1, -1]
FAR = torch.tensor([100.0, 150.0, 200.0])  # a range far from 0
BAD = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])


# --- the libraries, each behind one short function ---

ONNX_TYPES = {
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
    (16, True): TensorProto.INT16,
    (4, True): TensorProto.INT4,
    (4, False): TensorProto.UINT4,
}


def run_onnx(operator, x, scale, zero_point, code_type, opset=21, **attributes):
    """One QuantizeLinear or DequantizeLinear in onnxruntime; codes go in and out as int32."""
    floats = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("float16"): TensorProto.FLOAT16}
    x, scale, zero_point = (np.ascontiguousarray(a) for a in (x, scale, zero_point))
    parameters = [
        helper.make_tensor("s", floats[scale.dtype], scale.shape, scale.flatten()),
        helper.make_tensor("z", code_type, zero_point.shape, zero_point.flatten()),
    ]
    if operator == "QuantizeLinear":
        given, made = floats[x.dtype], TensorProto.INT32
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
            helper.make_node("Cast", ["q"], ["y"], to=TensorProto.INT32),
        ]
    else:
        given, made = TensorProto.INT32, TensorProto.FLOAT
        nodes = [
            helper.make_node("Cast", ["x"], ["q"], to=code_type),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
        ]
    graph = helper.make_graph(
        nodes,
        "one_operator",
        [helper.make_tensor_value_info("x", given, x.shape)],
        [helper.make_tensor_value_info("y", made, x.shape)],
        parameters,
    )
    return torch.from_numpy(session_of(model_of(graph, opset)).run(None, {"x": x})[0])


def model_of(graph, opset=21):
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def one_quantize_linear(dtype):
    """A model that takes x and its scale in `dtype`."""
    inputs = [("x", dtype, (3, 3)), ("s", dtype, ()), ("z", TensorProto.INT8, ())]
    return model_of(
        helper.make_graph(
            [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])],
            "one_operator",
            [helper.make_tensor_value_info(*i) for i in inputs],
            [helper.make_tensor_value_info("q", TensorProto.INT8, (3, 3))],
        )
    )


def onnx_quantize(r, scale, zero_point, code_type=TensorProto.INT8, opset=21, **attributes):
    scale = np.asarray(scale, dtype=attributes.pop("scale_dtype", np.float32))
    return run_onnx(
        "QuantizeLinear", r.numpy(), scale, np.asarray(zero_point), code_type, opset, **attributes
    )


def torch_quantize(r, scale, zero_point):
    return torch.quantize_per_tensor(r, scale, zero_point, torch.qint8).int_repr()


def torch_fake_codes(r, scale, zero_point, quant_min=-128, quant_max=127):
    r_hat = torch.fake_quantize_per_tensor_affine(r, scale, zero_point, quant_min, quant_max)
    return torch.round(r_hat.double() / scale).int() + zero_point


def torch_observer(r, qscheme):
    """The range that belongs to both operators of torch."""
    from torch.ao.quantization import MinMaxObserver

    observer = MinMaxObserver(dtype=torch.qint8, qscheme=qscheme)
    observer(r)
    scale, zero_point = observer.calculate_qparams()
    return scale.item(), zero_point.item()


def ao_choose(r, mapping=MappingType.ASYMMETRIC):
    return ao.choose_qparams_affine(r, mapping, tuple(r.shape), torch.int8)


def ao_quantize(r, scale, zero_point, block=None):
    scale, zero_point = torch.as_tensor(scale), torch.as_tensor(zero_point)
    return ao.quantize_affine(r, block or tuple(r.shape), scale, zero_point, torch.int8)


# --- near-ties: values where r / s and r * (1 / s) lie on different sides of a half ---


def near_ties(scale, zero_point=0, quant_min=-128, quant_max=127):
    """Floats next to (k + 1/2) * scale whose code depends on dividing or multiplying."""
    half = torch.arange(quant_min - zero_point, quant_max - zero_point) + 0.5
    start = half * scale
    around = [start]
    for direction in (-torch.inf, torch.inf):
        step = start
        for _ in range(3):
            step = torch.nextafter(step, torch.tensor(direction))
            around.append(step)
    r = torch.cat(around)
    return r[torch.round(r / scale) != torch.round(r * (1 / scale))]


SCALE = torch.tensor(0.1234567)
PLANTED = near_ties(SCALE)
DIVIDED = torch.round(PLANTED / SCALE).int().tolist()
MULTIPLIED = torch.round(PLANTED * (1 / SCALE)).int().tolist()


# --- the table ---

COLUMNS = (
    "qlesson",
    "ONNX, onnxruntime",
    "torch.quantize_per_tensor",
    "torch.fake_quantize",
    "torchao",
)
TABLE = {}  # row -> column -> (statement, check)


def states(row, column, statement):
    def enter(check):
        assert column in COLUMNS
        TABLE.setdefault(row, {})[column] = (statement, check)
        return check

    return enter


QLESSON, ONNX, QUANTIZE, FAKE, TORCHAO = COLUMNS

ROW = "rounds"


@states(ROW, QLESSON, 'inside: `round(r/s + z)`; outside with `rounding="outside"`')
def _():
    for rounding, expected in (("inside", INSIDE), ("outside", OUTSIDE)):
        x = ql.quantize(TIES, ql.Scheme(rounding=rounding), ql.QParams(1.0, 1))
        assert x.q.tolist() == expected


@states(ROW, ONNX, "outside: `round(r/s) + z`")
def _():
    assert onnx_quantize(TIES, 1.0, 1).tolist() == OUTSIDE


@states(ROW, QUANTIZE, "inside, on an x86 CPU")
def _():
    assert torch_quantize(TIES, 1.0, 1).tolist() == INSIDE
    assert torch_quantize(TIES.repeat(50), 1.0, 1).tolist() == INSIDE * 50  # the vector code


@states(ROW, FAKE, "outside")
def _():
    assert torch_fake_codes(TIES, 1.0, 1).tolist() == OUTSIDE
    assert torch_fake_codes(TIES.repeat(50), 1.0, 1).tolist() == OUTSIDE * 50


@states(ROW, TORCHAO, "outside")
def _():
    assert ao_quantize(TIES, 1.0, 1).tolist() == OUTSIDE


ROW = "divides by s, or multiplies by 1/s"


@states(ROW, QLESSON, "divides")
def _():
    for rounding in ("inside", "outside"):
        x = ql.quantize(PLANTED, ql.Scheme(rounding=rounding), ql.QParams(SCALE.item(), 0))
        assert x.q.tolist() == DIVIDED


@states(ROW, ONNX, "divides")
def _():
    assert onnx_quantize(PLANTED, SCALE, 0).tolist() == DIVIDED


@states(ROW, QUANTIZE, "multiplies")
def _():
    assert torch_quantize(PLANTED, SCALE.item(), 0).tolist() == MULTIPLIED


@states(ROW, FAKE, "multiplies")
def _():
    assert torch_fake_codes(PLANTED, SCALE.item(), 0).tolist() == MULTIPLIED


@states(ROW, TORCHAO, "multiplies")
def _():
    assert ao_quantize(PLANTED, SCALE, 0).tolist() == MULTIPLIED


ROW = "range widened to hold 0"


@states(ROW, QLESSON, "yes; `include_zero=False` is the literal formula")
def _():
    x = ql.quantize(FAR)
    assert x.zero_point == -128
    assert (x.dequantize() - FAR).abs().max() <= 0.5001 * x.scale
    with pytest.warns(ql.ZeroPointClipped):
        literal = ql.quantize(FAR, ql.Scheme(include_zero=False))
    assert literal.dequantize().tolist() == [100.0, 100.0, 100.0]


@states(ROW, ONNX, "yes, in `onnxruntime.quantization`; the operator is given s and z")
def _():
    low, high = (np.float32(v) for v in (100, 200))
    zero_point, scale = quant_utils.compute_scale_zp(low, high, np.int8(-128), np.int8(127))
    assert (scale, zero_point) == (np.float32(200 / 255), -128)
    assert len(onnx.defs.get_schema("QuantizeLinear").inputs) == 3  # x, y_scale, y_zero_point


@states(ROW, QUANTIZE, "yes, by `MinMaxObserver`; the operator is given s and z")
def _():
    scale, zero_point = torch_observer(FAR, torch.per_tensor_affine)
    assert (np.float32(scale), zero_point) == (np.float32(200 / 255), -128)


@states(ROW, FAKE, "as `torch.quantize_per_tensor`")
def _():
    from torch.ao.quantization import FakeQuantize

    module = FakeQuantize(dtype=torch.qint8, quant_min=-128, quant_max=127)
    module(FAR)
    assert (module.scale, module.zero_point) == (torch.tensor(200 / 255), -128)


@states(ROW, TORCHAO, "yes; its `preserve_zero=False` is the literal formula")
def _():
    scale, zero_point = ao_choose(FAR)
    assert (scale, zero_point) == (torch.tensor(200 / 255), -128)
    literal = ao._choose_qparams_affine_dont_preserve_zero  # an operator of its own, not public
    assert "preserve_zero=False" in literal.__doc__
    scale, zero_point = literal(FAR, MappingType.ASYMMETRIC, (3,), torch.int8)
    q = ao_quantize(FAR, scale, zero_point)
    r_hat = ao.dequantize_affine(q, (3,), scale, zero_point, torch.int8)
    assert r_hat.tolist() == [100.0, 100.0, 100.0]


ROW = "smallest symmetric code, 8 bits"


@states(ROW, QLESSON, "-127")
def _():
    assert ql.Scheme(mapping="symmetric").quant_min == -127
    x = ql.quantize(torch.tensor([-9.0]), ql.Scheme(mapping="symmetric"), ql.QParams(0.01, 0))
    assert x.q.item() == -127


@states(ROW, ONNX, "-127 in `onnxruntime.quantization`; the operator clips at -128")
def _():
    assert quant_utils.get_qmin_qmax_for_qType(TensorProto.INT8, symmetric=True) == (-127, 127)
    assert onnx_quantize(torch.tensor([-9.0]), 0.01, 0).item() == -128


@states(ROW, QUANTIZE, "-128")
def _():
    scale, zero_point = torch_observer(-T, torch.per_tensor_symmetric)
    assert torch_quantize(-T, scale, zero_point).min() == -128


@states(ROW, FAKE, "-128, or the `quant_min` it is given")
def _():
    scale, zero_point = torch_observer(-T, torch.per_tensor_symmetric)
    assert torch_fake_codes(-T, scale, zero_point).min() == -128
    assert torch_fake_codes(-T, scale, zero_point, -127, 127).min() == -127


@states(ROW, TORCHAO, "-128")
def _():
    assert ao_quantize(-T, *ao_choose(-T, MappingType.SYMMETRIC)).min() == -128


ROW = "symmetric scale, 8 bits"


@states(ROW, QLESSON, "largest magnitude / 127")
def _():
    assert ql.choose_qparams(T, ql.Scheme(mapping="symmetric")).scale == T.max() / 127
    assert ql.choose_qparams(-T, ql.Scheme(mapping="symmetric")).scale == T.max() / 127


@states(ROW, ONNX, "/ 127 in `onnxruntime.quantization`")
def _():
    low, high = quant_utils.get_qmin_qmax_for_qType(TensorProto.INT8, symmetric=True)
    for r in (T, -T):
        ends = r.min().numpy(), r.max().numpy()
        zero_point, scale = quant_utils.compute_scale_zp(*ends, low, high, symmetric=True)
        assert (scale, zero_point) == ((T.max() / 127).numpy(), 0)


@states(ROW, QUANTIZE, "/ 127.5, by `MinMaxObserver`")
def _():
    for r in (T, -T):
        assert torch_observer(r, torch.per_tensor_symmetric) == ((T.max() / 127.5).item(), 0)


@states(ROW, FAKE, "as `torch.quantize_per_tensor`")
def _():
    from torch.ao.quantization import FakeQuantize

    symmetric = torch.per_tensor_symmetric
    module = FakeQuantize(dtype=torch.qint8, quant_min=-128, quant_max=127, qscheme=symmetric)
    module(T)
    assert (module.scale, module.zero_point) == (T.max() / 127.5, 0)


@states(ROW, TORCHAO, "/ 127.5; `SYMMETRIC_NO_CLIPPING_ERR` takes / 127 or / 128 by the sign")
def _():
    for r in (T, -T):
        assert ao_choose(r, MappingType.SYMMETRIC)[0] == T.max() / 127.5
    no_clipping = MappingType.SYMMETRIC_NO_CLIPPING_ERR
    assert ao_choose(T, no_clipping)[0] == T.max() / 127
    assert ao_choose(-T, no_clipping)[0] == T.max() / 128


ROW = "zero point stored as"


@states(ROW, QLESSON, "the codes' dtype (int8)")
def _():
    assert ql.choose_qparams(T).zero_point.dtype == torch.int8
    assert ql.choose_qparams(T, ql.Scheme(signed=False)).zero_point.dtype == torch.uint8


@states(ROW, ONNX, "the codes' dtype (int8)")
def _():
    schema = onnx.defs.get_schema("QuantizeLinear")
    zero_point, codes = schema.inputs[2], schema.outputs[0]
    assert zero_point.type_str == codes.type_str


@states(ROW, QUANTIZE, "a Python int; int64 per channel")
def _():
    x = torch.quantize_per_tensor(T, 3.5, -70, torch.qint8)
    assert type(x.q_zero_point()) is int
    zero_points = torch.zeros(3, dtype=torch.int8)
    x = torch.quantize_per_channel(T, torch.ones(3), zero_points, 0, torch.qint8)
    assert x.q_per_channel_zero_points().dtype == torch.int64


@states(ROW, FAKE, "a Python int; int32 per channel")
def _():
    assert torch.fake_quantize_per_tensor_affine(T, 3.5, -70, -128, 127)[1, 0] == 91.0
    torch.fake_quantize_per_channel_affine(
        T, torch.ones(3), torch.zeros(3, dtype=torch.int32), 0, -128, 127
    )
    with pytest.raises(RuntimeError, match="must be Int32"):
        torch.fake_quantize_per_channel_affine(
            T, torch.ones(3), torch.zeros(3, dtype=torch.int8), 0, -128, 127
        )


@states(ROW, TORCHAO, "int32")
def _():
    assert ao_choose(T)[1].dtype == torch.int32


ROW = "bfloat16 input"


@states(ROW, QLESSON, "computed in float32, the scale is float32: z of T stays -77")
def _():
    half, full = ql.quantize(T.bfloat16()), ql.quantize(T.bfloat16().float())
    assert half.zero_point == -77
    assert half.scale.dtype == torch.float32
    assert half.scale == full.scale
    assert torch.equal(half.q, full.q)


@states(ROW, ONNX, "in the standard; onnxruntime's CPU has float16 and float32 only")
def _():
    schema = onnx.defs.get_schema("QuantizeLinear", 21)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    assert set(allowed[schema.inputs[0].type_str]) == {
        "tensor(float)",
        "tensor(float16)",
        "tensor(bfloat16)",
        "tensor(int32)",
    }
    half = onnx_quantize(T.half(), 3.578125, -77, scale_dtype=np.float16)
    assert half.tolist() == [[-23, -81, 127], [-51, 6, -128], [-77, 114, -8]]
    for other in (TensorProto.BFLOAT16, TensorProto.INT32):
        model = one_quantize_linear(other)
        onnx.checker.check_model(model, full_check=True)
        with pytest.raises(Exception, match="Could not find an implementation for Quantize"):
            session_of(model)


@states(ROW, QUANTIZE, "refused: float32 only")
def _():
    for r in (T.bfloat16(), T.half(), T.double()):
        with pytest.raises(RuntimeError, match="only works on Float Tensor"):
            torch_quantize(r, 3.5, -70)


@states(ROW, FAKE, "taken; the result is bfloat16 too")
def _():
    r_hat = torch.fake_quantize_per_tensor_affine(T.bfloat16(), 3.5, -70, -128, 127)
    assert r_hat.dtype == torch.bfloat16


@states(ROW, TORCHAO, "computed in bfloat16, the scale too: z of T moves to -76")
def _():
    assert ao_choose(T)[1] == -77
    scale, zero_point = ao_choose(T.bfloat16())
    assert (scale.dtype, zero_point.item()) == (torch.bfloat16, -76)


ROW = "NaN or infinity in r"


@states(ROW, QLESSON, "ValueError: how many, and where")
def _():
    for qparams in (None, ql.QParams(0.1, 0)):
        with pytest.raises(ValueError, match=r"1 NaN and 2 infinite values.* index \(1,\)"):
            ql.quantize(BAD, qparams=qparams)


@states(ROW, ONNX, "no error: a code; `onnxruntime.quantization` stops with an `assert`")
def _():
    q = onnx_quantize(BAD, 0.1, 0)
    assert q.min() >= -128 and q.max() <= 127
    with pytest.raises(AssertionError, match="scale issue"):
        quant_utils.compute_scale_zp(np.float32("nan"), np.float32(1), np.int8(-128), np.int8(127))


@states(ROW, QUANTIZE, "no error: a code")
def _():
    assert torch_quantize(BAD, 0.1, 0).shape == BAD.shape


@states(ROW, FAKE, "no error: NaN comes back as a number")
def _():
    assert torch.fake_quantize_per_tensor_affine(BAD, 0.1, 0, -128, 127).isfinite().all()


@states(ROW, TORCHAO, "no error: a scale that is NaN or infinite")
def _():
    assert ao_choose(BAD[:2])[0].isnan()
    assert ao_choose(BAD[2:3])[0].isinf()
    assert ao_quantize(BAD, 0.1, 0).shape == BAD.shape


def markdown():
    """The table as notebook 06 shows it."""
    lines = [("", *COLUMNS), ("---",) * (1 + len(COLUMNS))]
    lines += [(row, *(cells[c][0] for c in COLUMNS)) for row, cells in TABLE.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells_of(text):
    """The cells of every line of a Markdown table, without spaces, quotes and emphasis."""
    rows = []
    for line in text.splitlines():
        if line.strip().startswith("|"):
            cells = line.strip().strip("|").split("|")
            rows.append([" ".join(c.replace("*", "").replace("`", "").split()) for c in cells])
    return [r for r in rows if not all(set(c) <= set("-: ") for c in r)]


@pytest.mark.parametrize("row, column", [(r, c) for r in TABLE for c in COLUMNS])
def test_each_statement_of_the_table_is_true(row, column):
    _statement, check = TABLE[row][column]
    check()


def test_the_table_is_full_and_nothing_else_is_claimed():
    assert all(set(cells) == set(COLUMNS) for cells in TABLE.values())
    assert len(TABLE) == 8


def test_the_notebook_shows_this_table():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    texts = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    tables = [t for t in texts if "onnxruntime" in t and "torchao" in t and "| rounds" in t]
    assert len(tables) == 1, "notebook 06 must hold the table of test_libraries.markdown() once"
    assert cells_of(tables[0]) == cells_of(markdown())


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
