"""A layer for another runtime: ONNX in its QDQ form (notebook 09, More)."""

from pathlib import Path
from typing import Any

from torch import Tensor

from qlesson import checks
from qlesson.files import new
from qlesson.nn.integer_linear import IntegerLinear

# Operator, inputs, output, settings
NODES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("QuantizeLinear", "x x_scale x_zero_point", "x_codes", {}),
    ("DequantizeLinear", "x_codes x_scale x_zero_point", "x_hat", {}),
    ("DequantizeLinear", "w_codes w_scale w_zero_point", "w_hat", {"axis": 0}),
    ("DequantizeLinear", "b_codes b_scale", "b_hat", {"axis": 0}),
    ("Gemm", "x_hat w_hat b_hat", "y", {"transB": 1}),
    ("QuantizeLinear", "y y_scale y_zero_point", "y_codes", {}),
)


def to_onnx_qdq(layer: IntegerLinear, path: str | Path) -> None:
    """Write the layer as an ONNX file in QDQ form: float x [rows, inputs] -> codes of y.

    x -> QuantizeLinear -> DequantizeLinear -> Gemm with W and b, each behind a DequantizeLinear ->
    QuantizeLinear. A runtime may fuse these into one integer operator, as onnxruntime does.

    The input and the output must be asymmetric with 8 bits, since ONNX clips at the ends of the
    type. Give the input's scheme rounding="outside", ONNX's order. Needs the package onnx.
    """
    checks.of_type("layer", layer, IntegerLinear, "make one of a static layer")
    path = checks.new_file("path", path)
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise ImportError("to_onnx_qdq needs the package onnx: pip install onnx.") from None
    _check_same_codes(layer)
    code_type = TensorProto.INT8 if layer.output.signed else TensorProto.UINT8
    x_shape: list[str | int] = ["rows", layer.layer.in_features]
    y_shape: list[str | int] = ["rows", layer.layer.out_features]
    graph = helper.make_graph(
        [helper.make_node(kind, i.split(), [o], **settings) for kind, i, o, settings in NODES],
        "quantized_linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y_codes", code_type, y_shape)],
        [
            numpy_helper.from_array(x.cpu().contiguous().numpy(), name)
            for name, x in _constants(layer).items()
        ],
    )
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with new.file(path) as temporary:  # by its bytes: onnx.save asks the name for the format
        temporary.write_bytes(model.SerializeToString())


def _check_same_codes(layer: IntegerLinear) -> None:
    for name, scheme in (("input", layer.layer._input_scheme()), ("output", layer.output)):
        if scheme.bits != 8 or scheme.mapping != "asymmetric":
            raise ValueError(
                f"The {name} has {scheme}: ONNX clips at the ends of its 8-bit types, so only "
                "8 bits, asymmetric, keep the same codes."
            )


def _constants(layer: IntegerLinear) -> dict[str, Tensor]:
    """What NODES names beside the input and what they make of it."""
    inner, codes = layer.layer, layer.layer.codes
    w_scale, w_zero_point = codes.scale.float(), codes.zero_points
    if w_scale.ndim > 0:
        w_scale, w_zero_point = w_scale.flatten(), w_zero_point.flatten()
    return {
        "x_scale": inner.input_scale.float(),
        "x_zero_point": inner.input_zero_point,
        "w_codes": codes.q,
        "w_scale": w_scale,
        "w_zero_point": w_zero_point,
        "b_codes": layer.bias_codes,
        "b_scale": (inner.input_scale.float() * w_scale).expand_as(layer.bias_codes),
        "y_scale": layer.output_scale.float(),
        "y_zero_point": layer.output_zero_point,
    }
