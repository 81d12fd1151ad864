"""The limit behind an 8-bit softmax: optimized and plain ONNX Runtime give the same, above the range too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hexpath_models.browser.saturate import saturate_softmax


def softmax_graph(end: float, dtype: type = np.uint8) -> onnx.ModelProto:
    """Quantized scores of 16 positions in [-2, 2], and a softmax with range [0, end]."""
    limits = np.iinfo(dtype)
    values = {
        "in_scale": np.float32(4 / 255),
        "in_zero": dtype(limits.min + 128),
        "out_scale": np.float32(end / (limits.max - limits.min)),
        "out_zero": dtype(limits.min),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "in_scale", "in_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "in_scale", "in_zero"], ["d"]),
        helper.make_node("Softmax", ["d"], ["p"], axis=-1, name="softmax"),
        helper.make_node("QuantizeLinear", ["p", "out_scale", "out_zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "out_scale", "out_zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 16]) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "attention", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outputs(model: onnx.ModelProto, *, optimized: bool) -> Any:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = np.random.default_rng(0).uniform(-2, 2, (1, 8, 16)).astype(np.float32)
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("end", [0.1, 1.0])
def test_optimizations_change_nothing(end: float, dtype: type) -> None:
    model = softmax_graph(end, dtype)
    plain = outputs(model, optimized=False)
    assert saturate_softmax(model) == 1
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(outputs(model, optimized=False), plain)
    np.testing.assert_allclose(outputs(model, optimized=True), plain, atol=1.01 * end / 255)
    assert (plain.max() >= 0.999 * end) == (end == 0.1), "0.1 is to be exceeded, 1 not"


def test_sixteen_bits_and_floats_stay() -> None:
    model = softmax_graph(0.1)
    nodes = {node.op_type: node for node in model.graph.node}
    nodes["QuantizeLinear"].input[2] = "wide"
    model.graph.initializer.append(numpy_helper.from_array(np.uint16(0), "wide"))
    plain = softmax_graph(0.1)
    del plain.graph.node[3:]
    assert (saturate_softmax(model), saturate_softmax(plain)) == (0, 0)
