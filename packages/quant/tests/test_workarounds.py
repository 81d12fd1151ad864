"""Rewrites of exported graphs around faults of the compiler."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hexpath_quant.workarounds import widen_depthwise


def depthwise(*, channels=300, kind=np.uint16, per_channel=True, kernel=1, zero=0):
    """Q/DQ, a depthwise convolution with stored int8 weights, Q/DQ."""
    rng = np.random.default_rng(0)
    count = channels if per_channel else 1
    shape = (count,) if per_channel else ()
    arrays = {
        "s": np.float32(1 / np.iinfo(kind).max),
        "z": kind(0),
        "w": rng.integers(-127, 127, (channels, 1, kernel, kernel)).astype(np.int8),
        "ws": np.full(shape, 0.01, np.float32),
        "wz": np.full(shape, zero, np.int8),
        "ys": np.float32(4 / np.iinfo(kind).max),
        "yz": kind(np.iinfo(kind).max // 2),
    }
    axis = {"axis": 0} if per_channel else {}
    sides = [kernel // 2] * 4
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="xq"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="xd"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="wd", **axis),
        helper.make_node(
            "Conv", ["xd", "wd"], ["c"], name="c", group=channels, kernel_shape=[kernel] * 2, pads=sides
        ),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["cq"], name="cq"),
        helper.make_node("DequantizeLinear", ["cq", "ys", "yz"], ["y"], name="y"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 3, 4]) for name in ("x", "y")
    ]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    return session.run(None, {"x": np.random.default_rng(1).random(shape, np.float32)})[0]


def test_many_channels_at_16_bit_are_written_as_3x3_and_compute_the_same():
    model = depthwise()
    expected = run(model)
    assert widen_depthwise(model) == 1
    onnx.checker.check_model(model)
    assert next(t for t in model.graph.initializer if t.name == "w").dims == [300, 1, 3, 3]
    np.testing.assert_array_equal(run(model), expected)
    assert widen_depthwise(model) == 0


@pytest.mark.parametrize(
    "change",
    [{"channels": 256}, {"kind": np.uint8}, {"per_channel": False}, {"kernel": 3}, {"zero": 1}],
    ids=lambda change: next(iter(change)),
)
def test_what_compiles_stays(change):
    model = depthwise(**change)
    before = model.SerializeToString(deterministic=True)
    assert widen_depthwise(model) == 0
    assert model.SerializeToString(deterministic=True) == before
