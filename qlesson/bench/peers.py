"""Who takes part beside the package, each in a function of a job (notebook 13)."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

import qlesson as ql
from qlesson import kernels
from qlesson.bench.measure import Call
from qlesson.kernels import compilers

if TYPE_CHECKING:
    from qlesson.bench.cells import Job

Given = TypeVar("Given")
MISSING = (ImportError, AttributeError, NotImplementedError, RuntimeError)


def joined(
    peers: Iterable[Callable[[Given], dict[str, Call]]], given: Given, absent: dict[str, str]
) -> dict[str, Call]:
    """The calls of all peers. Who is not installed, or not for this processor, is left out, and
    the reason put into `absent`."""
    calls: dict[str, Call] = {}
    for peer in peers:
        try:
            calls |= peer(given)
        except MISSING as error:
            name = getattr(peer, "__name__", str(peer)).strip("_").replace("_", " ")
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return calls


def formula(job: "Job") -> dict[str, Call]:
    """The formula of affine.py on the whole tensor: one operation, one pass over memory each."""
    g, (scale, zero_point) = job.scheme.granularity, map(job.scheme.granularity.align, job.qparams)
    if job.work == "given scale":
        r, held = g.split(job.r), torch.empty_like(g.split(job.r), dtype=torch.float32)

        def reused() -> Tensor:
            """The same five operations, without an intermediate in fresh memory."""
            torch.div(r, scale, out=held).add_(zero_point).round_().clamp_(-128, 127)
            return g.split(job.codes).copy_(held)

        whole = partial(ql.quantize_affine, r, scale, zero_point, -128, 127)
        return {"formula, whole": whole, "formula, memory reused": reused}
    if job.work == "dequantize":
        q = g.split(job.codes)
        return {"formula, whole": lambda: ql.dequantize_affine(q, scale, zero_point)}
    return {}


def compiler(job: "Job") -> dict[str, Call]:
    """The formula as torch.compile's loop, where the package has one written by hand."""
    if job.work != "given scale":
        return {}
    rows = kernels.rows(job.r, *job.qparams, job.scheme.granularity, job.codes)
    kernel = compilers.by_torch(kernels.quantize, (-128, 127, "inside"), job.device)
    return {"torch.compile": lambda: kernel(*rows)}


def numpy_(job: "Job") -> dict[str, Call]:
    import numpy as np

    if job.dtype != "float32" or job.device != "cpu" or job.work == "choose":
        return {}
    split, align = job.scheme.granularity.split, job.scheme.granularity.align
    scale, zero_point = (align(p).numpy() for p in job.qparams)
    if job.work == "dequantize":
        q, z = split(job.codes).numpy(), zero_point.astype(np.float32)
        return {"numpy": lambda: scale * (q.astype(np.float32) - z)}
    r = split(job.r).numpy()
    return {"numpy": lambda: np.clip(np.rint(r / scale + zero_point), -128, 127).astype(np.int8)}


def torch_(job: "Job") -> dict[str, Call]:
    """torch.quantize_per_tensor and per_channel, which are deprecated."""
    if job.dtype != "float32" or job.work == "choose" or job.granularity.startswith("group"):
        return {}
    scale, zero_point = (p.flatten() for p in job.qparams)
    g = job.scheme.granularity
    quantize: Callable[..., Tensor]
    args: tuple[Any, ...]
    if isinstance(g, ql.PerAxis):
        name, quantize = "torch.quantize_per_channel", torch.quantize_per_channel
        args = (scale.double(), zero_point.long(), g.axis, torch.qint8)
    else:
        name, quantize = "torch.quantize_per_tensor", torch.quantize_per_tensor
        args = (scale.item(), zero_point.item(), torch.qint8)
    if job.work == "given scale":
        return {name: lambda: quantize(job.r, *args)}
    q = quantize(job.r, *args)
    return {name: lambda: q.dequantize()}


def onnxruntime_(job: "Job") -> dict[str, Call]:
    """QuantizeLinear and DequantizeLinear, writing into the same memory as the others."""
    if job.dtype != "float32" or job.device != "cpu" or job.work == "choose":
        return {}
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(_onnx_model(job), options)
    binding = session.io_binding()
    given, filled = (job.r, job.codes) if job.work == "given scale" else (job.codes, job.r_hat)
    for bind, name, x in ((binding.bind_input, "x", given), (binding.bind_output, "y", filled)):
        kind = np.float32 if x.dtype == torch.float32 else np.int8
        bind(name, "cpu", 0, kind, tuple(x.shape), x.data_ptr())
    return {"onnxruntime": lambda: session.run_with_iobinding(binding)}


def _onnx_model(job: "Job") -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"given scale": ("QuantizeLinear", TensorProto.FLOAT, TensorProto.INT8)}
    kinds["dequantize"] = ("DequantizeLinear", TensorProto.INT8, TensorProto.FLOAT)
    operator, source, target = kinds[job.work]
    g, (scale, zero_point) = job.scheme.granularity, job.qparams
    attributes: dict[str, Any] = {}
    if isinstance(g, ql.PerAxis):
        attributes = {"axis": g.axis}
        scale, zero_point = scale.flatten(), zero_point.flatten()
    elif isinstance(g, ql.PerGroup):
        attributes = {"axis": 1, "block_size": g.group_size}
    held = [numpy_helper.from_array(x.numpy(), n) for n, x in (("s", scale), ("z", zero_point))]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "s", "z"], ["y"], **attributes)],
        "bench",
        [helper.make_tensor_value_info("x", source, job.r.shape)],
        [helper.make_tensor_value_info("y", target, job.r.shape)],
        held,
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def torchao_(job: "Job") -> dict[str, Call]:
    """torchao's primitives, eager, and compiled where that is quick."""
    from torchao.quantization import quant_primitives as ao

    block, codes = job.block_size(), (torch.int8, -128, 127)
    scale, zero_point = job.qparams

    def quantize(r: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return ao.quantize_affine(r, block, scale, zero_point, *codes)

    def choose(r: Tensor) -> Tensor:
        kind = (ao.MappingType.ASYMMETRIC, block, *codes)
        qparams = ao.choose_qparams_affine(r, *kind, scale_dtype=torch.float32)
        return quantize(r, *qparams)

    def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return ao.dequantize_affine(q, block, scale, zero_point, *codes, output_dtype=job.r.dtype)

    works: dict[str, tuple[Callable[..., Any], tuple]] = {
        "given scale": (quantize, (job.r, scale, zero_point)),
        "choose": (choose, (job.r,)),
        "dequantize": (dequantize, (job.codes, scale, zero_point)),
    }
    function, args = works[job.work]
    calls: dict[str, Call] = {"torchao eager": lambda: function(*args)}
    if job.granularity in ("tensor", "group 128"):
        # Once seen with another block, the compiler would make its sizes variables, and the loop
        # take tens of times as long.
        compiled = torch.compile(function, dynamic=False)
        calls["torchao compiled"] = lambda: compiled(*args)
    return calls


def bitsandbytes_(job: "Job") -> dict[str, Call]:
    """bitsandbytes quantizes rows symmetrically to int8, on CUDA: rows in float16."""
    if job.device == "cpu" or job.work != "choose" or job.granularity != "row":
        return {}
    import bitsandbytes

    r = job.r.half()
    return {"bitsandbytes, float16": lambda: bitsandbytes.functional.int8_vectorwise_quant(r)}
