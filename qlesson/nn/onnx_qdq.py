"""A layer for another runtime: ONNX in its QDQ form (notebook 09, More)."""

from qlesson import checks
from qlesson.nn.layers import IntegerLinear


def to_onnx_qdq(layer: IntegerLinear, path):
    """Write the layer as an ONNX file in QDQ form: float x [rows, inputs] -> codes of y.

    x -> QuantizeLinear -> DequantizeLinear -> Gemm with W and b, each behind a DequantizeLinear ->
    QuantizeLinear. A runtime may fuse these into one integer operator, as onnxruntime does.

    The input and the output must be asymmetric with 8 bits, since ONNX clips at the ends of the
    type. Give the input's scheme rounding="outside", ONNX's order. Needs the package onnx.
    """
    checks.of_type("layer", layer, IntegerLinear, "make one of a static layer")
    path = checks.new_file("path", path)
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise ImportError("to_onnx_qdq needs the package onnx: pip install onnx.") from None
    inner = layer.layer
    for name, scheme in (("input", inner.activations), ("output", layer.output)):
        if scheme.bits != 8 or scheme.mapping != "asymmetric":
            raise ValueError(
                f"The {name} has {scheme}: ONNX clips at the ends of its 8-bit types, so only "
                "8 bits, asymmetric, keep the same codes."
            )
    codes = inner.codes
    w_scale, w_zero = codes.scale.flatten(), codes.zero_point.flatten()
    if codes.scale.ndim == 0:
        w_scale, w_zero = codes.scale, codes.zero_point
    constants = {
        "x_scale": inner.input_scale,
        "x_zero_point": inner.input_zero_point,
        "w_codes": codes.q,
        "w_scale": w_scale,
        "w_zero_point": w_zero,
        "b_codes": layer.bias_codes,
        "b_scale": (inner.input_scale * codes.scale.flatten()).expand_as(layer.bias_codes),
        "y_scale": layer.output_scale,
        "y_zero_point": layer.output_zero_point,
    }

    def node(kind, inputs, output, **settings):
        return helper.make_node(kind, inputs.split(), [output], **settings)

    nodes = [
        node("QuantizeLinear", "x x_scale x_zero_point", "x_codes"),
        node("DequantizeLinear", "x_codes x_scale x_zero_point", "x_hat"),
        node("DequantizeLinear", "w_codes w_scale w_zero_point", "w_hat", axis=0),
        node("DequantizeLinear", "b_codes b_scale", "b_hat", axis=0),
        node("Gemm", "x_hat w_hat b_hat", "y", transB=1),
        node("QuantizeLinear", "y y_scale y_zero_point", "y_codes"),
    ]
    kind = TensorProto.INT8 if layer.output.signed else TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "quantized_linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inner.in_features])],
        [helper.make_tensor_value_info("y_codes", kind, ["rows", inner.out_features])],
        [numpy_helper.from_array(x.cpu().contiguous().numpy(), n) for n, x in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
