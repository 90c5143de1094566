"""One row for each public callable of the package: good arguments, and the kind of each.

A row that is a text says why there is nothing to be met.
"""

import inspect
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from gate_values import EQUAL, REFUSED, SAME, SOUND, THROUGH, Arg, kind
from torch import nn

import qlesson as ql
from qlesson import methods, observers, ranges
from qlesson import nn as qnn
from qlesson.blocks import Blocks
from qlesson.evaluate import Comparison
from qlesson.files.packing import PackedBlocks, PackedTensor, pack
from qlesson.models import llama, minilm, tinygpt
from qlesson.models.cache import KVCache
from qlesson.nn.integer import FixedPoint

real, numbers, formula, formula_end = map(kind, ("real", "numbers", "formula", "formula_end"))
codes, scale, zero_point = map(kind, ("codes", "scale", "zero_point"))
qparams = partial(kind("qparams"), says=("scale", "zero_point"))
number_or_scale, number_or_zero = kind("scale_or_number"), kind("zero_point_or_number")
whole_zero_point, ids, dtype = map(kind, ("whole_zero_point", "ids", "dtype"))
scheme, granularity, whole, number = map(kind, ("scheme", "granularity", "whole", "number"))
one_of, text, patterns, path, new_path = map(
    kind, ("one_of", "text", "patterns", "path", "new_path")
)
function = kind("function")
device, model, qtensor, thing = map(kind, ("device", "model", "qtensor", "thing"))
dictionary, named, shape, out = map(kind, ("dictionary", "named", "shape", "out"))
anything, things = kind("anything"), kind("things")


class Row(NamedTuple):
    args: dict[str, Arg]
    on: Any = None  # makes the object of a method; several, in a tuple
    call: Any = None  # what is called, where it is not the callable itself


class InFolder(str):
    """The name of a file in the folder that the tests prepare."""


def row(on=None, call=None, **args):
    return Row(args, on, call)


def drawn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


FORMULA = dict(says="every argument of a formula")
A, B, W, X = drawn(4, 8), drawn(4, 8, seed=1), drawn(4, 8, seed=2), drawn(16, 8, seed=3)
EIGHT, FOUR = ql.Scheme(8), ql.Scheme(4)
ROWS_OF_8 = ql.Scheme(8, "symmetric", ql.PerAxis(0))
IN_GROUPS = ql.Scheme(4, granularity=ql.PerGroup(4))
STEP, ZERO = torch.tensor(0.1), torch.tensor(3, dtype=torch.int8)
PAIR = ql.QParams(STEP, ZERO)
Q = ql.quantize(W, ROWS_OF_8)
INT8 = torch.randint(-8, 8, (4, 8), generator=torch.Generator().manual_seed(0)).to(torch.int8)
UINT8 = (INT8 + 8).to(torch.uint8)
STEPS = torch.linspace(-0.1, 0.2, 8).view(4, 2)
BLOCKS = Blocks(UINT8, STEPS, STEPS + 1, 4, 4)
ROUND = torch.zeros(4, 32, dtype=torch.int8)
SUM = torch.tensor([[3, 5]], dtype=torch.int32)
PICTURE, WINDOW = INT8.view(1, 2, 4, 4), INT8.view(4, 2, 2, 2)
CONFIG = tinygpt.Config(context=8, layers=1, width=32, heads=1, dropout=0.0)
torch.manual_seed(0)
GPT = tinygpt.GPT(CONFIG).eval()
ROUNDED = tinygpt.quantized(GPT, ql.Scheme(4))
SIZES = llama.Config(8, layers=1, width=8, hidden=8, heads=2, kv_heads=1, context=8)
LLAMA = llama.Llama(SIZES).eval()
TEXTS = torch.tensor([[1, 2, 3], [3, 2, 1]])
COMPARISON = Comparison(1.0, 1.1, 0.1, 0.02, 5.0, 0.1, 0.9)
CONV = nn.Conv1d(2, 4, 3)
QCONV = ql.quantize(CONV.weight.detach().flatten(1), ROWS_OF_8)
MODEL = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4)).eval()
FACTORED = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)).eval()
FACTORED[1] = qnn.QuantizedLinear(Q, None, factor=A[0].abs() + 0.1)
PARAGRAPH = "A sentence that is long enough to be split in two parts. " * 2


def linear(activations=EIGHT, given=PAIR, factor=None):
    return qnn.QuantizedLinear(Q, None, activations, given, factor)


def integer(inputs=FOUR):
    pair = ql.QParams(STEP, torch.tensor(3, dtype=torch.int8))
    return qnn.IntegerLinear(linear(inputs, pair), EIGHT, PAIR)


def observed(kind):
    observer = kind()
    observer.observe(A)
    return observer


class Tokenizer:
    """Every text is the three tokens 1 2 3."""

    def encode_batch(self, texts):
        return [SimpleNamespace(ids=[1, 2, 3], attention_mask=[1, 1, 1]) for _ in texts]


@cache
def minilm_model():
    """Of the right vocabulary, and with one block."""
    found = minilm.MiniLM().eval()
    del found.blocks[1:]
    found.tokenizer = Tokenizer()
    return found


FLOATS_GO_THROUGH = dict(
    nan=THROUGH, infinite=THROUGH, below=THROUGH, gradient=SAME, subclass=EQUAL
)
SAME_SHAPE = dict(longer=REFUSED, deeper=REFUSED, scalar=REFUSED)
# Blocks take scales as a file has them, and every number of the right kind is one.
ANY_STEP = dict(negative=THROUGH, zero=THROUGH, nan=THROUGH, infinite=THROUGH)
MATRIX = dict(deeper=REFUSED, scalar=REFUSED)
CALLED_LATER = {"of nothing": SOUND, "of numbers": SOUND}
TOKENS = FLOATS_GO_THROUGH | dict(scalar=REFUSED, deeper=SOUND, empty=SOUND)
RECORD = "a record of what the package has made; it is checked where it is used"
PART = "a part of a model, which checks what it is given"
BELOW = "works on pieces that the package has checked"
NOTHING = "takes nothing"
REPORT = "takes a report, as `report` and `stored` give it"

LAYER = dict(weight=real(W, **MATRIX), inputs=real(X, **MATRIX, longer=SOUND))
WITH_SCHEME = LAYER | dict(
    scheme=scheme(ql.Scheme(4, granularity=ql.PerAxis(0))),
    find_range=function(ranges.mse_search, none=SOUND),
)
NO_INPUTS = WITH_SCHEME | dict(inputs=real(X, **MATRIX, longer=SOUND, none=SAME))
SEARCH = dict(r=real(A), scheme=scheme(FOUR))
BINS = whole(256)

ROWS = {
    # --- the formulas ---
    "affine.QParams": RECORD,
    "affine.asymmetric_qparams": row(
        r_min=formula(-A.abs(), **FORMULA), r_max=formula(A.abs(), **FORMULA),
        quant_min=formula_end(-128, **FORMULA), quant_max=formula_end(127, **FORMULA),
    ),
    "affine.symmetric_qparams": row(
        r_max=formula(A.abs(), **FORMULA), quant_max=formula_end(127, **FORMULA)
    ),
    "affine.quantize_affine": row(
        r=formula(A, **FORMULA), scale=formula(STEP, **FORMULA),
        zero_point=formula(STEP, **FORMULA), quant_min=formula_end(-8, **FORMULA),
        quant_max=formula_end(7, **FORMULA), dtype=anything(torch.int8),
        rounding=anything("inside"),
    ),
    "affine.dequantize_affine": row(
        q=formula(A, **FORMULA), scale=formula(STEP, **FORMULA), zero_point=formula(STEP, **FORMULA)
    ),
    "affine.dequantize_blocks": row(
        q=formula(A, **FORMULA), scale=formula(STEP, **FORMULA), minimum=formula(STEP, **FORMULA)
    ),
    "affine.quantize_blocks": row(
        r=formula(A, **FORMULA), scale=formula(STEP, **FORMULA), minimum=formula(STEP, **FORMULA),
        quant_max=formula_end(15, **FORMULA),
    ),
    **{f"affine.{name}": "a step of the formulas, on what they have made" for name in
       ("clip", "computing", "narrowed", "rounded", "safe_qparams", "stored", "too_small", "two_to",
        "widened")},
    # --- errors ---
    "error.ErrorShares": RECORD,
    "error.error_shares": row(
        r=numbers(A, **SAME_SHAPE), r_hat=numbers(B, **SAME_SHAPE), scale=number_or_scale(STEP)
    ),
    **{f"error.{name}": row(r=numbers(A, **SAME_SHAPE), r_hat=numbers(B, **SAME_SHAPE))
       for name in ("max_abs_error", "mse", "sqnr")},
    # --- granularities and schemes ---
    "granularity.Granularity": NOTHING,
    "granularity.PerTensor": NOTHING,
    "granularity.PerAxis": row(axis=whole(0, negative=SOUND, zero=SAME)),
    "granularity.PerGroup": row(group_size=whole(4), axis=whole(-1, negative=SAME, zero=SOUND)),
    **{f"granularity.{f}": BELOW for f in ("rows", "is_known", "in_memory")},
    **{f"granularity.{c}.{m}": BELOW for c, ms in {
        "Granularity": "scale_shape block_shape reduce split join align",
        "PerTensor": "scale_shape reduce",
        "PerAxis": "scale_shape block_shape reduce",
        "PerGroup": "scale_shape block_shape split join align reduce",
    }.items() for m in ms.split()},
    "scheme.qparams_of": BELOW,
    "scheme.Scheme": row(
        bits=whole(8), mapping=one_of("asymmetric"), granularity=granularity(
            ql.PerTensor(), no_axis=SOUND), signed=one_of(True), include_zero=one_of(True),
        rounding=one_of("inside"), scale_dtype=one_of(torch.float16, none=SOUND),
    ),
    # --- ranges and observers ---
    # A NaN is handed on, for the caller to find in one small reading.
    "ranges.min_max": row(r=real(A, nan=THROUGH, infinite=THROUGH, below=THROUGH),
                          scheme=scheme(FOUR)),
    "ranges.percentile": row(**SEARCH, percent=number(99.0, negative=REFUSED)),
    "ranges.mse_search": row(**SEARCH),
    "ranges.entropy": row(**SEARCH, bins=whole(256)),
    "observers.Observer": row(scheme=scheme(FOUR)),
    "observers.MinMaxObserver": row(scheme=scheme(FOUR)),
    "observers.MovingAverageObserver": row(scheme=scheme(FOUR), weight=number(0.1)),
    "observers.HistogramObserver": row(scheme=scheme(FOUR), bins=whole(256)),
    "observers.PercentileObserver": row(
        scheme=scheme(FOUR), percent=number(99.0), bins=whole(256)),
    "observers.MSEObserver": row(scheme=scheme(FOUR), bins=whole(256)),
    "observers.EntropyObserver": row(scheme=scheme(FOUR), bins=whole(256)),
    "observers.Observer.observe": row(
        on=tuple(lambda k=k: observed(k) for k in (
            observers.MinMaxObserver, observers.HistogramObserver, observers.PercentileObserver,
            observers.MSEObserver, observers.EntropyObserver)),
        batch=real(B)),
    "observers.MovingAverageObserver.observe": row(
        on=lambda: observed(observers.MovingAverageObserver), batch=real(B)),
    "observers.moving_average": row(
        call=lambda f, batches, **more: f([batches], **more),
        batches=real(A, says="batch"), weight=number(0.1),
        scheme=scheme(FOUR)),
    # --- the whole ---
    "device.best_device": "reads QLESSON_DEVICE alone: tests/kernels/test_kernels.py",
    "kernels.modes.use_kernels": row(mode=one_of("auto")),
    "qtensor.ZeroPointClipped": "a warning",
    "qtensor.quantize_by": row(
        **SEARCH, find_range=function(ranges.mse_search, none=SOUND)),
    "qtensor.choose_qparams": row(**SEARCH, find_range=function(ranges.mse_search, none=SOUND)),
    "qtensor.qparams_from_range": row(
        r_min=numbers(-A.abs(), **SAME_SHAPE), r_max=numbers(A.abs(), **SAME_SHAPE, below=REFUSED),
        scheme=scheme(EIGHT)),
    "qtensor.quantize": row(
        **SEARCH, qparams=qparams(PAIR, none=SOUND), check=anything(True),
        out=out(INT8, none=SAME)),
    "qtensor.fake_quantize": row(**SEARCH, qparams=qparams(PAIR)),
    "qtensor.QTensor": row(
        q=codes(INT8, says="scale", as_int8=SAME, beyond=REFUSED),
        scale=scale(STEP), zero_point=zero_point(ZERO), scheme=scheme(FOUR)),
    "qtensor.QTensor.to": row(on=lambda: Q, device=device("cpu", meta=SOUND)),
    "qtensor.QTensor.dequantize": row(
        on=lambda: Q, dtype=dtype(torch.float32), out=out(torch.empty(4, 8))),
    # --- blocks ---
    "blocks.Blocks": row(
        q=codes(UINT8, says="scale", as_uint8=SAME, as_int8=REFUSED, beyond=REFUSED),
        scale=scale(STEPS, **ANY_STEP), minimum=scale(STEPS, **ANY_STEP, none=SOUND),
        bits=whole(4), group_size=whole(4)),
    "blocks.block_size": BELOW,
    "blocks.choose_steps": row(
        r=real(W), scheme=scheme(IN_GROUPS), find_range=function(ranges.mse_search, none=SOUND)),
    "blocks.Blocks.to": row(on=lambda: BLOCKS, device=device("cpu", meta=SOUND)),
    "blocks.Blocks.dequantize": row(
        on=lambda: BLOCKS, dtype=dtype(torch.float32), out=out(torch.empty(4, 8))),
    "blocks.code_ends": BELOW, "blocks.check_steps": BELOW,
    "qtensor.range_ends": BELOW, "qtensor.refuse_too_wide": BELOW,
    "blocks.quantize_blocks": row(
        r=real(W, says=("q", "scale")), scale=scale(STEPS, **ANY_STEP),
        minimum=scale(STEPS, **ANY_STEP), bits=whole(4), group_size=whole(4)),
    # --- layers ---
    "nn.integer.FixedPoint": RECORD,
    "nn.integer.FourTerms": RECORD,
    "nn.integer.fixed_point": row(factor=number_or_scale(STEP, empty=SOUND, longer=SOUND)),
    "nn.integer.four_terms": row(
        x=codes(INT8, **MATRIX, as_int8=SAME, empty=SOUND),
        z_x=whole_zero_point(ZERO), w=codes(INT8, **MATRIX, as_int8=SAME, empty=SOUND),
        z_w=whole_zero_point(ZERO), w_sums=codes(INT8.sum(1, dtype=torch.int32), as_int32=SAME,
                                              none=SAME, **SAME_SHAPE)),
    "nn.integer.int8_codes": row(
        q=codes(INT8, as_int8=SAME, as_uint8=SOUND, empty=SOUND),
        zero_point=zero_point(ZERO, empty=SOUND, longer=SOUND, fraction=REFUSED)),
    "nn.integer.int_conv2d": row(
        q=codes(PICTURE, scalar=REFUSED, deeper=REFUSED, as_int8=SAME),
        z_q=number_or_zero(ZERO), w=codes(WINDOW, scalar=REFUSED, deeper=REFUSED, as_int8=SAME),
        z_w=whole_zero_point(ZERO), stride=whole(1), padding=whole(1, zero=SOUND)),
    "nn.integer.int_matmul": row(
        x=codes(INT8, **MATRIX, as_int8=SAME, empty=SOUND),
        w=codes(INT8, **MATRIX, as_int8=SAME, empty=SOUND)),
    "nn.integer.integer_bias": row(
        bias=numbers(A[0], scalar=REFUSED), x_scale=number_or_scale(STEP, says="bias"),
        w_scale=number_or_scale(torch.full((8,), 0.1), says="bias")),
    "nn.integer.requantize": row(
        accumulator=codes(SUM, as_int32=SAME, empty=SOUND),
        factor=thing(FixedPoint(torch.tensor(2**30), torch.tensor(31))),
        zero_point=number_or_zero(ZERO), scheme=scheme(EIGHT)),
    "nn.integer.safe_length": row(x_scheme=scheme(EIGHT), w_scheme=scheme(EIGHT)),
    "nn.layers.QuantizedLinear": row(
        weight=qtensor(Q), bias=real(drawn(4), none=SOUND, **SAME_SHAPE, nan=REFUSED),
        activations=scheme(EIGHT, none=REFUSED), qparams=qparams(PAIR),
        factor=real(A[0].abs() + 0.1, none=SOUND, **SAME_SHAPE)),
    "nn.layers.QuantizedLinear.forward": row(
        on=(lambda: linear(None, None), lambda: linear(None, None, qnn.Rotation(8, 4))),
        input=real(X, **TOKENS, longer=SOUND)),
    "nn.layers.QuantizedLinear.quantize_input": row(
        on=(lambda: linear(), lambda: linear(EIGHT, None)), r=real(X, **MATRIX)),
    "nn.layers.QuantizedLinear.product": row(
        on=lambda: linear(), x=qtensor(linear().quantize_input(X))),
    "nn.layers.QuantizedLinear.accumulators": row(
        on=lambda: linear(), call=lambda f, x: list(f(x)),
        x=qtensor(linear().quantize_input(X))),
    "nn.layers.QuantizedEmbedding": row(
        weight=qtensor(Q), padding_idx=whole(1, none=SOUND, negative=SOUND, zero=SOUND)),
    "nn.layers.QuantizedEmbedding.forward": row(
        on=lambda: qnn.QuantizedEmbedding(Q), input=ids(torch.tensor([0, 3]))),
    "nn.layers.QuantizedEmbedding.project": row(
        on=lambda: qnn.QuantizedEmbedding(Q), input=real(X, **TOKENS, longer=SOUND)),
    "nn.layers.QuantizedConv": row(
        conv=thing(CONV), weight=qtensor(QCONV), bias=real(drawn(4), none=SOUND, **SAME_SHAPE)),
    "nn.layers.QuantizedConv.forward": row(
        on=lambda: qnn.QuantizedConv(CONV, QCONV, CONV.bias),
        input=real(drawn(3, 2, 8), **FLOATS_GO_THROUGH, scalar=REFUSED, deeper=REFUSED,
                   empty=SOUND)),
    "nn.integer_linear.IntegerLinear": row(
        layer=thing(linear()), output=scheme(EIGHT),
        qparams=qparams(PAIR, says=("scale", "zero_point", "factor"))),
    "nn.integer_linear.IntegerLinear.forward": row(
        on=lambda: integer(), q=codes(INT8, as_int8=SAME, empty=SOUND, beyond=REFUSED, **MATRIX)),
    "nn.integer_linear.IntegerLinear.accumulator": row(
        on=lambda: integer(), q=codes(INT8, as_int8=SAME, empty=SOUND, beyond=REFUSED, **MATRIX)),
    "nn.weight.QuantizedWeight": row(weight=qtensor(Q), dtype=dtype(torch.float32)),
    "nn.weight.QuantizedWeight.values": row(
        on=(lambda: qnn.weight.QuantizedWeight(Q), lambda: qnn.weight.QuantizedWeight(BLOCKS)),
        dtype=dtype(torch.float32)),
    "nn.weight.QuantizedWeight.rows": "a step of QuantizedEmbedding, which has checked the rows",
    **{f"report.{name}": RECORD for name in ("Report", "Row", "Stayed")},
    **{f"report.{name}": "takes rows, or parts of them: prints what the package has made"
       for name in ("by", "columns", "naming", "printable", "sum_of_bytes")},
    "report.no_bar": NOTHING,
    "plan.make_plan": row(
        names=anything(["0", "1"]), scheme=scheme(FOUR), skip=patterns("1"),
        modules=anything(None), of=anything("tensors")),
    "plan.refuse_two_schemes": "a step of quantize_model and its kin, which have made the plan",
    "nn.model.quantize_model": row(
        model=model(MODEL), scheme=scheme(ROWS_OF_8, says="'bits'"),
        skip=patterns("1"), activations=scheme(EIGHT),
        qparams=dictionary({"0": PAIR}, none=SOUND),
        find_range=function(ranges.mse_search, none=SOUND),
        method=function(methods.gptq, says=("method", "inputs")), inputs=things([X]),
        sequential=anything(True)),
    "nn.model.Made": "what a method has to give: quantize_model checks it",
    **{f"nn.swap.{name}": "a step of quantize_model and its kin, which have checked the model"
       for name in ("names_of", "naming_layer", "swappable", "with_weights")},
    **{f"nn.inputs.{name}": "a step of quantize_model and its kin, which have checked the model"
       for name in ("Inputs", "Inputs.of", "Inputs.order", "Inputs.replace", "in_float64",
                    "in_groups", "naming_float64")},
    "nn.factor.Rotation": row(width=whole(8), block=whole(4), seed=whole(0, zero=SAME)),
    "nn.factor.Rotation.of_width": row(
        on=lambda: qnn.Rotation, width=whole(12), seed=whole(0, zero=SAME)),
    "nn.factor.Rotation.signs": row(
        on=lambda: qnn.Rotation(8, 4), device=device("cpu", meta=SOUND)),
    "nn.factor.Rotation.apply": row(
        on=lambda: qnn.Rotation(8, 4), x=real(X, **TOKENS, longer=SOUND)),
    "nn.factor.Rotation.inverse": row(
        on=lambda: qnn.Rotation(8, 4), x=real(X, **TOKENS, longer=SOUND)),
    **{f"nn.factor.{name}": "a step of a layer with a factor, which has checked it"
       for name in ("checked_factor", "factor_as_saved", "hadamard_product", "multiplied",
                    "untouched")},
    "nn.fold.fold": row(
        qmodel=model(FACTORED), before=one_of("0"), layers=one_of("1"), inputs=things([X])),
    **{f"nn.record.{name}": "a step of those that run a model on batches"
       for name in ("all_batches", "arguments", "copied_buffers")},
    "nn.record.record": row(
        call=lambda f, batches, **more: f(batches=[batches], **more),
        model=model(MODEL), batches=anything(X), take=anything(lambda name, x: None),
        layers=anything(None)),
    "nn.record.calibrate": row(
        call=lambda f, batches, **more: f(batches=[batches], **more),
        model=model(MODEL), batches=anything(X), activations=scheme(EIGHT),
        observer=function(observers.MSEObserver)),
    "nn.onnx_qdq.to_onnx_qdq": row(layer=thing(integer(EIGHT)), path=new_path(InFolder("l.onnx"))),
    "nn.state.state": row(qmodel=model(MODEL)),
    "nn.state.load_state": row(
        model=model(MODEL), tensors=named(qnn.state(qnn.quantize_model(MODEL, ROWS_OF_8)[0])),
        activations=scheme(EIGHT, none=SOUND)),
    # --- files ---
    "files.codebooks.e2m1": NOTHING, "files.codebooks.nf4": NOTHING,
    "files.codebooks.nearest": row(
        r=numbers(A), book=numbers(torch.tensor([-1.0, 0.0, 1.0]), scalar=REFUSED, longer=REFUSED,
                                   deeper=REFUSED)),
    **{f"files.codebooks.{name}": row(r=numbers(drawn(2, 64), scalar=REFUSED))
       for name in ("mxfp4", "nvfp4", "nf4_blocks", "q4_0")},
    **{f"files.blockwise.{name}": "a step of the codebooks and of `write`, in which r is checked"
       for name in ("as_half", "in_blocks", "inverse")},
    "files.codebooks.signed_largest": row(r=numbers(drawn(2, 64), scalar=REFUSED), bits=whole(4)),
    "files.packing.in_a_row": BELOW,
    "files.packing.packed_size": row(count=whole(8, zero=SOUND), bits=whole(4)),
    "files.packing.pack": row(
        q=codes(INT8, as_int8=SAME, empty=SOUND, beyond=REFUSED), bits=whole(4),
        order=one_of("low_first")),
    "files.packing.unpack": row(
        data=codes(pack(INT8, 4), as_uint8=SAME, **SAME_SHAPE), bits=whole(4), shape=shape((4, 8)),
        signed=anything(True), order=one_of("low_first")),
    "files.packing.PackedTensor": row(
        data=codes(pack(INT8, 4), as_uint8=SAME, **SAME_SHAPE), shape=shape((4, 8)),
        scale=scale(STEP), zero_point=codes(pack(ZERO, 4), as_uint8=SAME, **SAME_SHAPE),
        scheme=scheme(FOUR), order=one_of("low_first")),
    "files.packing.PackedTensor.pack": row(
        on=lambda: PackedTensor, x=qtensor(Q), order=one_of("low_first")),
    "files.packing.PackedBlocks": row(
        data=codes(pack(UINT8, 4), as_uint8=SAME, **SAME_SHAPE), shape=shape((4, 8)),
        scale=scale(STEPS, **ANY_STEP), minimum=scale(STEPS, **ANY_STEP, none=SOUND),
        bits=whole(4), group_size=whole(4), signed=one_of(False), order=one_of("low_first")),
    "files.packing.PackedBlocks.pack": row(
        on=lambda: PackedBlocks, x=qtensor(BLOCKS), order=one_of("low_first")),
    "files.packing.packed": row(x=qtensor(BLOCKS)),
    "files.checkpoint.load": row(
        path=path(InFolder("quantized.safetensors"), says="source"), packed=anything(False),
        device=device("cpu")),
    "files.checkpoint.save": row(
        path=new_path(InFolder("out.safetensors")),
        tensors=named({"w": Q, "b": X, "blocks": BLOCKS})),
    "files.checkpoint.shards.open_all": "a step of load, convert and open: their rows name files",
    "files.checkpoint.convert.Conversion": RECORD,
    "files.checkpoint.convert.table": "takes the rows that the two others give",
    "files.checkpoint.convert.quantize_file": row(
        source=path(InFolder("floats.safetensors")), target=new_path(InFolder("out.safetensors")),
        scheme=scheme(FOUR), skip=patterns("b"), device=device("cpu")),
    "files.checkpoint.convert.dequantize_file": row(
        source=path(InFolder("quantized.safetensors")),
        target=new_path(InFolder("out.safetensors")), device=device("cpu")),
    "files.formats.open": row(path=path(InFolder("empty.gguf"))),
    "files.formats.gguf.GGUF": "`open` makes it",
    **{f"files.formats.kinds.{name}": "a file that `open` has checked makes it"
       for name in ("BookBlocks", "SuperBlocks")},
    "files.formats.quantizers.quantize": row(
        r=real(drawn(2, 64), scalar=REFUSED), type=one_of("Q8_0")),
    "files.formats.write.write": row(
        path=new_path(InFolder("out.safetensors")),
        tensors=named({"w": X, "b": Blocks(ROUND, STEPS[:, :1].half(), None, 8, 32)}),
        metadata=dictionary({"a": 1})),
    **{f"files.formats.{name}": "a step of `write`" for name in
       ("quantizers.encode", "quantizers.type_of", "write.Planned", "write.write_planned")},
    **{f"files.formats.{name}":
       "test_from_llama.py has what it refuses: its good source is a folder of three files"
       for name in ("from_llama.to_gguf", "llama_folder.LlamaFolder",
                    "llama_folder.LlamaFolder.heads", "llama_folder.number",
                    "llama_folder.read_json")},
    "files.inspect.Line": RECORD,
    "files.inspect.report": row(path=path(InFolder("empty.gguf"))),
    "files.inspect.histogram": row(
        path=path(InFolder("floats.safetensors")), name=one_of("w")),
    "files.inspect.counted": row(x=qtensor(Q)),
    "files.inspect.shares": row(x=qtensor(Q)),
    # --- methods ---
    "methods.result.Result": RECORD,
    "methods.result.Result.prepare": row(
        on=lambda: methods.smoothquant(W, X, FOUR), x=real(X, **TOKENS)),
    "methods.result.round_to_nearest": row(**NO_INPUTS),
    "methods.result.output_error": row(
        weight=real(W, **MATRIX, longer=REFUSED), weight_hat=numbers(W + 0.1, **SAME_SHAPE),
        inputs=real(X, **MATRIX)),
    "methods.hqq.hqq": row(**NO_INPUTS),
    "methods.hqq.shrink": row(
        x=numbers(A, **FLOATS_GO_THROUGH), beta=number(10.0)),
    "methods.gptq.gptq": row(
        **WITH_SCHEME, damping=number(0.01, negative=SOUND), order=one_of("activation")),
    "methods.gptq.inverse_factor": row(
        inputs=numbers(X, **MATRIX), damping=number(0.01, negative=SOUND)),
    "methods.awq.awq": row(
        call=lambda f, alphas, **more: f(**more, alphas=[alphas]),
        **WITH_SCHEME, alphas=number(0.5, says="alpha"), clip=anything(True)),
    "methods.clip.clipped": row(**WITH_SCHEME),
    "methods.awq.awq_scales": row(inputs=numbers(X, **MATRIX), alpha=number(0.5)),
    "methods.smoothquant.smoothquant": row(**WITH_SCHEME, alpha=number(0.5)),
    "methods.smoothquant.smoothing_scales": row(**LAYER, alpha=number(0.5)),
    "methods.rotation.hadamard": row(n=whole(8)),
    "methods.rotation.random_rotation": row(n=whole(8), seed=whole(0, zero=SAME)),
    "methods.rotation.rotate": row(**NO_INPUTS, seed=whole(0, zero=SAME)),
    "methods.inputs.layer_inputs": row(
        call=lambda f, model, args: f(model, args), model=model(MODEL), args=anything(X)),
    # --- evaluation ---
    "evaluate.paired.Comparison": RECORD, "evaluate.choices.Accuracy": RECORD,
    **{f"evaluate.running.{name}": "a step of compare and its kin, which have checked the model"
       for name in ("ids", "in_eval_mode", "in_pieces", "kl", "log_softmax", "losses", "nll",
                    "perplexity", "predictions")},
    "evaluate.paired.compare": row(
        call=lambda f, batches, **more: f(batches=[batches], **more),
        model=model(GPT), other=model(ROUNDED), batches=ids(TEXTS, scalar=REFUSED, deeper=REFUSED,
                                                            empty=REFUSED)),
    "evaluate.paired.window_losses": row(
        call=lambda f, batches, **more: f(batches=[batches], **more),
        model=model(GPT), batches=ids(TEXTS, scalar=REFUSED, deeper=REFUSED, empty=REFUSED)),
    "evaluate.paired.mean_and_error": row(
        values=numbers(X[0], **SAME_SHAPE), tokens=numbers(X[1].abs(), **SAME_SHAPE, none=SOUND)),
    "evaluate.paired.table": row(comparisons=dictionary({"it": COMPARISON})),
    "evaluate.choices.choice_accuracy": row(
        call=lambda f, questions, **more: f(questions=[(questions, [[3], [4, 5]], 0)], **more),
        model=model(GPT), questions=ids(TEXTS[0], list=SAME, deeper=REFUSED, empty=REFUSED)),
    "evaluate.choices.wilson_interval": row(right=whole(3, zero=SOUND), total=whole(4)),
    # --- models ---
    "models.cache.KVCache": row(
        keys=scheme(ql.Scheme(4, granularity=tinygpt.PER_CHANNEL), none=SOUND),
        values=scheme(ql.Scheme(4, granularity=tinygpt.PER_TOKEN), none=SOUND)),
    "models.cache.empty_of": row(new_cache=function(KVCache, none=SOUND)),
    "models.cache.read_before": row(cache=thing(KVCache(), none=SOUND), layers=anything(())),
    "models.draw.drawn": BELOW,
    "models.cache.KVCache.extend": row(
        on=lambda: tinygpt.KVCache(), layer=anything("a layer"),
        keys=real(drawn(1, 2, 3, 32), **FLOATS_GO_THROUGH, **SAME_SHAPE),
        values=real(drawn(1, 2, 3, 32), **FLOATS_GO_THROUGH, **SAME_SHAPE)),
    "models.llama.again.requantized": "tests/models/test_llama.py has a model that holds codes",
    "models.llama.load.Beside": PART, "models.llama.load.Beside.forward": PART,
    "models.llama.load.load": "needs an optional package: tests/models/test_llama.py",
    "models.llama.load.smollm2": NOTHING,
    "models.llama.model.Config": RECORD,
    **{f"models.llama.model.{name}": PART for name in
       ("Attention", "Attention.forward", "MLP", "MLP.forward", "Block", "Block.forward", "Llama",
        "turned", "turns")},
    "models.llama.model.Llama.forward": row(
        on=lambda: LLAMA, ids=ids(TEXTS, scalar=REFUSED, deeper=REFUSED),
        cache=thing(KVCache(), none=SOUND)),
    "models.llama.model.Llama.generate": row(
        on=lambda: LLAMA, call=lambda f, **given: list(f(**given)),
        ids=ids(TEXTS[0], list=SAME, deeper=REFUSED, empty=REFUSED), n=whole(3),
        temperature=number(0.5), seed=whole(5, zero=SOUND), new_cache=function(KVCache, none=SAME)),
    "models.llama.rotation.rotated": row(
        model=thing(LLAMA), scheme=scheme(IN_GROUPS, none=SOUND),
        activations=scheme(EIGHT, none=SOUND), online=anything(False), seed=whole(5, zero=SOUND)),
    "models.llama.questions.as_ids": "needs an optional package: tests/models/test_llama.py",
    "models.llama.questions.questions": NOTHING,
    **{f"models.llama.tokens.{name}": "needs an optional package: tests/models/test_llama.py" for
       name in ("Tokenizer", "Tokenizer.encode", "Tokenizer.decode", "Tokenizer.chat", "of_json",
                "of_merges", "read_tokenizer", "refuse_halves")},
    "models.minilm.Block": PART, "models.minilm.Block.forward": PART,
    "models.minilm.MiniLM": NOTHING,
    "models.minilm.MiniLM.forward": row(
        on=minilm_model, ids=ids(torch.tensor([[1, 2, 3]]), scalar=REFUSED, deeper=REFUSED),
        mask=anything(torch.ones(1, 3, dtype=torch.bool))),
    "models.minilm.agreement": row(
        a=real(X, **SAME_SHAPE), b=real(X + 0.1, **SAME_SHAPE), queries=whole(3), k=whole(2)),
    "models.minilm.compare": "needs the model's files: tests/models/test_minilm.py",
    "models.minilm.embed": row(
        call=lambda f, sentences, **more: f(sentences=[sentences], **more),
        model=model(minilm_model()), sentences=text("x", empty=SOUND), batch=whole(2)),
    "models.minilm.folder": NOTHING,
    "models.minilm.halves": row(text=text(PARAGRAPH)),
    "models.minilm.load": "needs the model's files: tests/models/test_minilm.py",
    "models.minilm.megabytes": row(model=model(MODEL, says="qmodel")),
    "models.tinygpt.model.Config": RECORD,
    **{f"models.tinygpt.model.{name}": PART for name in
       ("Attention", "Attention.forward", "MLP", "MLP.forward", "Block", "Block.forward", "GPT")},
    "models.tinygpt.model.GPT.forward": row(
        on=lambda: GPT, ids=ids(torch.tensor([[1, 2, 3]]), scalar=REFUSED, deeper=REFUSED),
        cache=thing(tinygpt.KVCache(), none=SOUND)),
    "models.tinygpt.model.GPT.generate": row(
        on=lambda: GPT, prompt=text("ab"), n=whole(2), seed=whole(0, zero=SAME),
        temperature=number(0.8), new_cache=function(tinygpt.KVCache, none=SAME)),
    "models.tinygpt.text.calibration_text": NOTHING,
    "models.tinygpt.text.heldout_text": NOTHING,
    "models.tinygpt.text.decode": row(
        ids=ids(torch.tensor([1, 2]), list=SAME, as_int32=SAME, deeper=SAME)),
    "models.tinygpt.text.encode": row(text=text("ab")),
    "models.tinygpt.model.in_float64": row(model=model(GPT)),
    "models.tinygpt.model.load": row(
        device=device("cpu"), path=path(str(tinygpt.text.FOLDER / "weights.safetensors"))),
    "models.tinygpt.measure.Cached": row(
        model=model(GPT), new_cache=function(tinygpt.KVCache, **CALLED_LATER)),
    "models.tinygpt.measure.Cached.forward": row(
        on=lambda: tinygpt.Cached(GPT, tinygpt.KVCache),
        ids=ids(torch.tensor([[1, 2, 3]]), scalar=REFUSED, deeper=REFUSED)),
    "models.tinygpt.codes.load_trained": row(
        bits=whole(2), steps_of=one_of("learned"), device=device("cpu")),
    "models.tinygpt.measure.perplexity": row(
        model=model(GPT), text=text("a text for it", none=SOUND), n=whole(8),
        new_cache=function(tinygpt.KVCache, none=SOUND)),
    "models.tinygpt.matrices.quantized": row(
        model=model(GPT), scheme=scheme(FOUR), activations=scheme(EIGHT, none=SOUND)),
    "models.tinygpt.matrices.weight_matrices": row(model=model(GPT)),
    "models.tinygpt.measure.windows": row(
        model=model(GPT), text=text("a text for it"), n=whole(8)),
    "models.tinygpt.plan.divergence": row(
        model=model(GPT), other=model(GPT, says="model"), text=text("a text for it", none=SOUND),
        n=whole(8)),
    "models.tinygpt.plan.log_probabilities": row(
        model=model(GPT), text=text("a text for it", none=SOUND), n=whole(8)),
    "models.tinygpt.plan.sensitivity": row(
        model=model(GPT), scheme=scheme(FOUR), text=text("a text for it", none=SOUND), n=whole(8)),
    "models.tinygpt.plan.model_bytes": row(model=model(GPT), scheme=scheme(FOUR)),
    "models.tinygpt.plan.packed_bytes": row(w=real(W, says="r"), scheme=scheme(FOUR)),
    "models.tinygpt.plan.squared_error": row(w=real(W, says="r"), scheme=scheme(FOUR)),
    "models.tinygpt.plan.greedy_plan": row(
        damage=anything({"a": {4: 1.0, 8: 0.5}}), size=anything({"a": {4: 4, 8: 8}}),
        budget=number(6.0)),
    # --- times ---
    "bench.report.quick": row(
        nbytes=whole(2**12), call=lambda f, nbytes: f(nbytes).count("\n")),  # its times differ
    "bench.report.stored": row(name=one_of("cpu")),
    "bench.report.ms_of": REPORT, "bench.report.share": REPORT,
    "bench.report.table": REPORT, "bench.report.as_json": REPORT,
    "bench.report.plot": REPORT, "bench.report.absences": REPORT,
    "bench.report.not_compiled": NOTHING,
    "bench.report.report": "takes minutes: its values go to Job",
    "bench.llama.run_llama": "takes minutes, and a published model",
    "bench.llama.run_fresh": "starts processes, with a published model",
    "bench.llama.built_for": NOTHING,
    "bench.llama.table": REPORT, "bench.llama.absent": REPORT, "bench.llama.main": "the command",
    "bench.report.version": "asks for an installed package",
    "bench.report.machine": "asks the machine", "bench.report.processor": NOTHING,
    "bench.cells.Job": row(
        work=one_of("choose"), granularity=one_of("row"), dtype=one_of("float32"),
        nbytes=whole(2**10), device=device("cpu"), call=lambda f, **given: f(**given).x),
    "bench.counting.traffic": "takes a function",
    "bench.product.Matrix": row(
        bits=one_of(4), rows=whole(3), device=device("cpu"),
        call=lambda f, **given: f(**given).codes.q),
}  # fmt: skip

# A new method has a row by itself; one with options needs their kinds.
for name in methods.__all__:
    f = getattr(methods, name)
    if list(inspect.signature(f).parameters) == ["weight", "inputs", "scheme", "find_range"]:
        ROWS.setdefault(f"{f.__module__.removeprefix('qlesson.')}.{name}", row(**WITH_SCHEME))
