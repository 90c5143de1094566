"""What each library does, statement by statement: notebooks/where_libraries_differ.md shows it.

Above every check stands the statement that it proves. onnxruntime and torchao are needed here
and nowhere else in the project. The statements about gguf and compressed_tensors are proven where
`peers` finds these packages, and skipped elsewhere.
"""

import warnings

import numpy as np
import onnx
import onnxruntime
import peers
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import quant_utils
from reference import T

import qlesson as ql

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.quantization import quant_primitives as ao
    from torchao.quantization.quant_primitives import MappingType

TIES = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])  # with s = 1 and z = 1
INSIDE, OUTSIDE = [2, 2, 4, 0, 0, -2], [1, 3, 3, 1, -1, -1]
FAR = torch.tensor([100.0, 150.0, 200.0])  # a range far from 0
BAD = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])
ZEROS = torch.zeros(4)
EPSILON, TINY = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny


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


def torch_version():
    return tuple(map(int, torch.__version__.split(".")[:2]))


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


class Compressed:
    """compressed-tensors: a scale and a zero point, and codes, for a whole tensor."""

    def __init__(self, mapping="symmetric", **more):
        peers.compressed_tensors()
        from compressed_tensors.quantization import QuantizationArgs

        symmetric = mapping == "symmetric"
        self.args = QuantizationArgs(num_bits=8, symmetric=symmetric, strategy="tensor", **more)

    def choose(self, r):
        from compressed_tensors.quantization.utils import calculate_qparams

        return calculate_qparams(r.min(), r.max(), self.args)

    def quantize(self, r, scale, zero_point):
        from compressed_tensors.quantization.lifecycle.forward import quantize

        scale, zero_point = torch.as_tensor(scale)[None], torch.tensor([zero_point]).to(torch.int8)
        return quantize(r, scale, zero_point, self.args, dtype=torch.int8)


def ggml(kind, r):
    """The blocks of 32 that the gguf package makes of r, filled up with zeros: float16 d, codes."""
    quants = peers.peer("gguf").quants
    r = torch.as_tensor(r).flatten()
    filled = torch.zeros(-len(r) % 32 + len(r), dtype=r.dtype)
    filled[: len(r)] = r
    with np.errstate(all="ignore"):
        raw = quants.quantize(filled.numpy(), getattr(quants.GGMLQuantizationType, kind))
    raw = torch.from_numpy(raw.reshape(len(filled) // 32, -1))
    d, codes = raw[:, :2].contiguous().view(torch.float16), raw[:, 2:]
    if kind == "Q4_0":
        return d, torch.cat([codes & 15, codes >> 4], dim=1).int() - 8
    return d, codes.contiguous().view(torch.int8).int()


def ggml_codes(kind, r):
    return ggml(kind, r)[1].flatten()[: len(r)].tolist()


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


# --- data for the table ---

g = torch.Generator().manual_seed(0)
BALANCED = [torch.stack([-a, a]) for a in torch.rand(100, generator=g) + 0.5]
SINGLES = [sign * a[None] for sign in (1, -1) for a in torch.rand(100, generator=g) * 10 + 0.1]
DENSE = torch.arange(64.0 * 32) * 0.0777 + 0.001  # positive, most of them in blocks of one d


def decided(r):
    """z of a range from -a to a: what float32 makes of -128 + a / s, and the tie to even."""
    scale = (r[1] - r[0]) / torch.tensor(255.0)
    return round((-128 - r[0] / scale).item())


# --- the table ---

COLUMNS = (
    "qlesson",
    "ONNX, onnxruntime",
    "torch.quantize_per_tensor",
    "torch.fake_quantize_per_tensor_affine, torch.fake_quantize_per_channel_affine",
    "torchao",
    "compressed-tensors",
    "ggml (Q8_0 and Q4_0)",
)
TABLE = {}  # row -> column -> (statement, check)


def states(row, column, statement):
    def enter(check):
        assert column in COLUMNS
        TABLE.setdefault(row, {})[column] = (statement, check)
        return check

    return enter


QLESSON, ONNX, QUANTIZE, FAKE, TORCHAO, COMPRESSED, GGML = COLUMNS

ROW = "Rounding"


@states(ROW, QLESSON, 'inside: `round(r/s + z)`; outside with `rounding="outside"`')
def _():
    for rounding, expected in (("inside", INSIDE), ("outside", OUTSIDE)):
        x = ql.quantize(TIES, ql.Scheme(rounding=rounding), ql.QParams(1.0, 1))
        assert x.q.tolist() == expected


@states(ROW, ONNX, "outside: `round(r/s) + z`")
def _():
    assert onnx_quantize(TIES, 1.0, 1).tolist() == OUTSIDE


@states(ROW, QUANTIZE, "inside, on an x86 CPU; torch 2.11 and 2.12 outside, as on a GPU")
def _():
    expected = INSIDE if torch_version() >= (2, 13) else OUTSIDE
    assert torch_quantize(TIES, 1.0, 1).tolist() == expected
    assert torch_quantize(TIES.repeat(50), 1.0, 1).tolist() == expected * 50  # the vector code
    if torch.cuda.is_available():
        assert torch_quantize(TIES.cuda(), 1.0, 1).tolist() == OUTSIDE


@states(ROW, FAKE, "outside; per channel with zero points in float, inside")
def _():
    assert torch_fake_codes(TIES, 1.0, 1).tolist() == OUTSIDE
    assert torch_fake_codes(TIES.repeat(50), 1.0, 1).tolist() == OUTSIDE * 50
    for dtype, expected in ((torch.int32, OUTSIDE), (torch.float32, INSIDE)):
        r_hat = torch.fake_quantize_per_channel_affine(
            TIES[None], torch.ones(1), torch.ones(1, dtype=dtype), 0, -128, 127
        )
        assert (r_hat[0] + 1).tolist() == expected


@states(ROW, TORCHAO, "outside")
def _():
    assert ao_quantize(TIES, 1.0, 1).tolist() == OUTSIDE


@states(ROW, COMPRESSED, "inside")
def _():
    assert Compressed("asymmetric").quantize(TIES, 1.0, 1).tolist() == INSIDE


@states(ROW, GGML, "no zero point; Q8_0 takes a half away from zero, Q4_0 to the larger code")
def _():
    assert ggml_codes("Q8_0", [127, *TIES]) == [127, 1, 2, 3, -1, -2, -3]  # s = 1
    assert ggml_codes("Q4_0", [-8, *TIES]) == [-8, 1, 2, 3, 0, -1, -2]  # s = 1
    assert ggml_codes("Q4_0", [8, *TIES]) == [-8, 0, -1, -2, 1, 2, 3]  # s = -1


ROW = "Dividing by s, or multiplying by 1/s"


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


@states(ROW, COMPRESSED, "divides")
def _():
    assert Compressed("asymmetric").quantize(PLANTED, SCALE, 0).tolist() == DIVIDED


@states(ROW, GGML, "multiplies")
def _():
    largest = 127 * SCALE
    scale = largest / torch.tensor(127.0)
    planted = near_ties(scale)
    planted = planted[planted.abs() < largest]
    assert len(planted)
    for r in planted:
        product = r * (1 / scale)
        away = (product.abs() + 0.5).floor() * product.sign()
        assert ggml_codes("Q8_0", [largest, r])[1] == away
    quotient = planted / scale
    away = (quotient.abs() + 0.5).floor() * quotient.sign()
    assert [ggml_codes("Q8_0", [largest, r])[1] for r in planted] != away.int().tolist()


ROW = "A range widened to hold 0"


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


@states(ROW, COMPRESSED, "yes")
def _():
    scale, zero_point = Compressed("asymmetric").choose(FAR)
    assert (scale, zero_point) == (torch.tensor(200 / 255), -128)


@states(ROW, GGML, "no zero point: code 0 is 0.0")
def _():
    for kind in ("Q8_0", "Q4_0"):
        assert ggml_codes(kind, [*FAR, 0.0])[3] == 0


ROW = "The smallest symmetric code"


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


@states(ROW, COMPRESSED, "-128")
def _():
    library = Compressed()
    (scale,), (zero_point,) = library.choose(-T)
    assert library.quantize(-T, scale, zero_point).min() == -128


@states(ROW, GGML, "-127 in Q8_0; with the 4 bits of Q4_0 -8, which the value farthest from 0 gets")
def _():
    assert min(ggml_codes("Q8_0", -T.flatten())) == -127
    for r in (T.flatten(), -T.flatten()):
        codes = ggml_codes("Q4_0", r)
        assert min(codes) == codes[r.abs().argmax()] == -8


ROW = "The symmetric scale"


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


@states(ROW, COMPRESSED, "/ 127.5")
def _():
    for r in (T, -T):
        assert Compressed().choose(r)[0] == T.max() / 127.5


@states(ROW, GGML, "/ 127 in Q8_0; in Q4_0 the value farthest from 0, with its sign, / -8")
def _():
    for r in (T, -T):
        assert ggml("Q8_0", r)[0] == (T.max() / 127).half()
        assert ggml("Q4_0", r)[0] == (r.flatten()[r.abs().argmax()] / -8).half()


ROW = "The zero point's dtype"


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


@states(ROW, FAKE, "a Python int; int32 per channel, or a float that need not be whole")
def _():
    assert torch.fake_quantize_per_tensor_affine(T, 3.5, -70, -128, 127)[1, 0] == 91.0
    torch.fake_quantize_per_channel_affine(
        T, torch.ones(3), torch.zeros(3, dtype=torch.int32), 0, -128, 127
    )
    with pytest.raises(RuntimeError, match="must be Int32"):
        torch.fake_quantize_per_channel_affine(
            T, torch.ones(3), torch.zeros(3, dtype=torch.int8), 0, -128, 127
        )
    r_hat = torch.fake_quantize_per_channel_affine(
        TIES[None], torch.ones(1), torch.tensor([0.5]), 0, -128, 127
    )
    assert r_hat[0].tolist() == TIES.tolist()  # z = 0.5 holds them all


@states(ROW, TORCHAO, "int32")
def _():
    assert ao_choose(T)[1].dtype == torch.int32


@states(ROW, COMPRESSED, "int8, or its `zp_dtype`")
def _():
    assert Compressed("asymmetric").choose(T)[1].dtype == torch.int8
    assert Compressed("asymmetric", zp_dtype=torch.int32).choose(T)[1].dtype == torch.int32


@states(ROW, GGML, "none")
def _():
    gguf = peers.peer("gguf")
    for kind, bits in (("Q8_0", 8), ("Q4_0", 4)):  # two bytes of d, then codes alone
        sizes = gguf.GGML_QUANT_SIZES[getattr(gguf.GGMLQuantizationType, kind)]
        assert sizes == (32, 2 + 32 * bits // 8)


ROW = "The scale's dtype"


@states(ROW, QLESSON, "float32, or `scale_dtype`: rounded before z and the codes are computed")
def _():
    assert ql.choose_qparams(T).scale.dtype == torch.float32
    x = ql.quantize(T, ql.Scheme(scale_dtype=torch.float16))
    assert x.scale.dtype == torch.float16
    given = ql.QParams(x.scale.float().item(), x.zero_point.item())
    assert torch.equal(x.q, ql.quantize(T, qparams=given).q)


@states(ROW, ONNX, "the dtype of x; since opset 23 it may be another")
def _():
    x, scale, _ = (i.type_str for i in onnx.defs.get_schema("QuantizeLinear", 21).inputs)
    assert x == scale
    x, scale, _ = (i.type_str for i in onnx.defs.get_schema("QuantizeLinear", 23).inputs)
    assert x != scale


@states(ROW, QUANTIZE, "a Python float; float64 per channel")
def _():
    assert torch.quantize_per_tensor(T, 0.1, 0, torch.qint8).q_scale() == 0.1
    zero_points = torch.zeros(3, dtype=torch.int8)
    x = torch.quantize_per_channel(T, torch.ones(3).half(), zero_points, 0, torch.qint8)
    assert x.q_per_channel_scales().dtype == torch.float64


@states(ROW, FAKE, "a Python float; float32 per channel")
def _():
    zero_points = torch.zeros(3, dtype=torch.int32)
    torch.fake_quantize_per_channel_affine(T, torch.ones(3), zero_points, 0, -128, 127)
    for dtype in (torch.float16, torch.float64):
        scales = torch.ones(3, dtype=dtype)
        with pytest.raises(RuntimeError, match="must be Float or BFloat16"):
            torch.fake_quantize_per_channel_affine(T, scales, zero_points, 0, -128, 127)


@states(ROW, TORCHAO, "the dtype of r, or its `scale_dtype`")
def _():
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        assert ao_choose(T.to(dtype))[0].dtype == dtype
    whole = MappingType.ASYMMETRIC, (3, 3), torch.int8
    scale, _ = ao.choose_qparams_affine(T, *whole, scale_dtype=torch.float16)
    assert scale.dtype == torch.float16


@states(ROW, COMPRESSED, "the dtype of r; its `scale_dtype` rounds the value and keeps the dtype")
def _():
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        assert Compressed().choose(T.to(dtype))[0].dtype == dtype
    scale, _ = Compressed(scale_dtype=torch.float16).choose(T)
    assert scale.dtype == torch.float32 and scale == (T.max() / 127.5).half().float()


@states(ROW, GGML, "float16; the codes are computed before it is rounded, from the float32 one")
def _():
    d, codes = ggml("Q8_0", DENSE)
    assert d.dtype == torch.float16
    r = DENSE.view(-1, 32)
    exact = r.amax(1, keepdim=True) / torch.tensor(127.0)
    expected, rounded = ((r * (1 / s) + 0.5).floor().int() for s in (exact, d.float()))
    assert torch.equal(codes, expected) and not torch.equal(codes, rounded)


ROW = "A tensor of zeros"


@states(ROW, QLESSON, "s = 1, z = 0")
def _():
    for mapping in ("asymmetric", "symmetric"):
        assert ql.choose_qparams(ZEROS, ql.Scheme(mapping=mapping)) == (1, 0)


@states(ROW, ONNX, "s = 1, z = 0, in `onnxruntime.quantization`")
def _():
    for symmetric, low in ((False, -128), (True, -127)):
        ends = np.float32(0), np.float32(0), np.int8(low), np.int8(127)
        assert quant_utils.compute_scale_zp(*ends, symmetric=symmetric) == [0, 1]


@states(ROW, QUANTIZE, "s = 1.2e-7, z = -128, by `MinMaxObserver`; z = 0 in symmetric mode")
def _():
    assert torch_observer(ZEROS, torch.per_tensor_affine) == (EPSILON, -128)
    assert torch_observer(ZEROS, torch.per_tensor_symmetric) == (EPSILON, 0)


@states(ROW, FAKE, "as `torch.quantize_per_tensor`")
def _():
    from torch.ao.quantization import FakeQuantize

    module = FakeQuantize(dtype=torch.qint8, quant_min=-128, quant_max=127)
    module(ZEROS)
    assert (module.scale, module.zero_point) == (EPSILON, -128)


@states(ROW, TORCHAO, "s = 1.2e-38, z = -128; z = 0 in symmetric mode")
def _():
    assert ao_choose(ZEROS) == (TINY, -128)
    assert ao_choose(ZEROS, MappingType.SYMMETRIC) == (TINY, 0)


@states(ROW, COMPRESSED, "s = 1.2e-7, z = 0")
def _():
    for mapping in ("asymmetric", "symmetric"):
        assert Compressed(mapping).choose(ZEROS) == (EPSILON, 0)


@states(ROW, GGML, "s = 0, codes 0")
def _():
    for kind in ("Q8_0", "Q4_0"):
        d, codes = ggml(kind, ZEROS)
        assert d == 0 and not codes.any()


ROW = "A range from -a to a"


@states(ROW, QLESSON, "0 or -1: exactly -0.5 is a tie, and how s was rounded decides it")
def _():
    assert {ql.choose_qparams(r).zero_point.item() for r in BALANCED} == {0, -1}
    assert {decided(r) for r in BALANCED} == {0, -1}
    assert all(ql.choose_qparams(r).zero_point == decided(r) for r in BALANCED)


@states(ROW, ONNX, "0 or -1, in `onnxruntime.quantization`")
def _():
    ends = ((r[0].numpy(), r[1].numpy(), np.int8(-128), np.int8(127)) for r in BALANCED)
    assert {int(quant_utils.compute_scale_zp(*e)[0]) for e in ends} == {0, -1}


@states(ROW, QUANTIZE, "0 or -1, by `MinMaxObserver`")
def _():
    assert {torch_observer(r, torch.per_tensor_affine)[1] for r in BALANCED} == {0, -1}


@states(ROW, FAKE, "as `torch.quantize_per_tensor`")
def _():
    from torch.ao.quantization import FakeQuantize

    zero_points = set()
    for r in BALANCED:
        module = FakeQuantize(dtype=torch.qint8, quant_min=-128, quant_max=127)
        module(r)
        zero_points.add(module.zero_point.item())
    assert zero_points == {0, -1}


@states(ROW, TORCHAO, "0 or -1")
def _():
    assert {ao_choose(r)[1].item() for r in BALANCED} == {0, -1}


@states(ROW, COMPRESSED, "0 or -1")
def _():
    library = Compressed("asymmetric")
    assert {library.choose(r)[1].item() for r in BALANCED} == {0, -1}


@states(ROW, GGML, "no zero point")
def _():
    assert ggml_codes("Q8_0", [-1.0, 0.0, 1.0]) == [-127, 0, 127]


ROW = "The code of the largest magnitude"


@states(ROW, QLESSON, "127 or -127, by its sign")
def _():
    codes = (ql.quantize(r, ql.Scheme(mapping="symmetric")).q.item() for r in SINGLES)
    assert list(codes) == [127] * 100 + [-127] * 100


@states(ROW, ONNX, "127 or -127, with the scale of `onnxruntime.quantization`")
def _():
    for r in SINGLES:
        ends = min(r.item(), 0), max(r.item(), 0)
        ends = *map(np.float32, ends), np.int8(-127), np.int8(127)
        zero_point, scale = quant_utils.compute_scale_zp(*ends, symmetric=True)
        assert onnx_quantize(r, scale, zero_point).item() == 127 * r.sign()


@states(ROW, QUANTIZE, "r/s = 127.5 is a tie: 127 if positive; -128 or -127 if negative")
def _():
    scales = [torch_observer(r, torch.per_tensor_symmetric) for r in SINGLES]
    codes = [torch_quantize(r, *s).item() for r, s in zip(SINGLES, scales, strict=True)]
    assert set(codes[:100]) == {127} and set(codes[100:]) == {-128, -127}


@states(ROW, FAKE, "as `torch.quantize_per_tensor`")
def _():
    scales = [torch_observer(r, torch.per_tensor_symmetric) for r in SINGLES]
    codes = [torch_fake_codes(r, *s).item() for r, s in zip(SINGLES, scales, strict=True)]
    assert set(codes[:100]) == {127} and set(codes[100:]) == {-128, -127}


@states(ROW, TORCHAO, "the same tie")
def _():
    codes = [ao_quantize(r, *ao_choose(r, MappingType.SYMMETRIC)).item() for r in SINGLES]
    assert set(codes[:100]) == {127} and set(codes[100:]) == {-128, -127}


@states(ROW, COMPRESSED, "the same tie")
def _():
    library = Compressed()
    codes = [library.quantize(r, library.choose(r)[0].item(), 0).item() for r in SINGLES]
    assert set(codes[:100]) == {127} and set(codes[100:]) == {-128, -127}


@states(ROW, GGML, "127 or -127 in Q8_0, by its sign; -8 in Q4_0, whatever its sign")
def _():
    assert [ggml_codes("Q8_0", r)[0] for r in SINGLES] == [127] * 100 + [-127] * 100
    assert [ggml_codes("Q4_0", r)[0] for r in SINGLES] == [-8] * 200


ROW = "An input in bfloat16"


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


@states(ROW, COMPRESSED, "computed in bfloat16, the scale too: z of T moves to -76")
def _():
    library = Compressed("asymmetric")
    assert library.choose(T)[1] == -77
    scale, zero_point = library.choose(T.bfloat16())
    assert (scale.dtype, zero_point.item()) == (torch.bfloat16, -76)


@states(ROW, GGML, "numpy, in which gguf computes, has none; float16 is computed in float32")
def _():
    with pytest.raises(TypeError, match="BFloat16"):
        T.bfloat16().numpy()
    half, full = ggml("Q8_0", T.half()), ggml("Q8_0", T.half().float())
    assert torch.equal(half[0], full[0]) and torch.equal(half[1], full[1])


ROW = "NaN or infinity in the input"


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


@states(ROW, COMPRESSED, "no error: a scale that is NaN or infinite")
def _():
    library = Compressed("asymmetric")
    assert library.choose(BAD[:2])[0].isnan()
    assert library.choose(BAD[2:3])[0].isinf()
    assert library.quantize(BAD, 0.1, 0).shape == BAD.shape


@states(ROW, GGML, "no error: a scale that is NaN or infinite")
def _():
    for kind in ("Q8_0", "Q4_0"):
        assert ggml(kind, BAD[:2])[0].isnan()
        assert ggml(kind, BAD[2:3])[0].isinf()
