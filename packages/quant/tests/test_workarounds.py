"""Rewrites of exported graphs around faults of the compiler."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hexpath_quant.workarounds import pools_to_depthwise, signed_second_operands, widen_depthwise


def depthwise(*, channels=8, kind=np.uint16, per_channel=True, kernel=1, zero=0, stored=None):
    """Q/DQ, a depthwise convolution with stored int8 weights, Q/DQ."""
    rng = np.random.default_rng(0)
    count = channels if per_channel else 1
    shape = (count,) if per_channel else ()
    arrays = {
        "s": np.float32(1 / np.iinfo(kind).max),
        "z": kind(0),
        "w": rng.integers(1, 127, (channels, 1, kernel, kernel)).astype(np.int8),
        "b": rng.integers(-1000, 1000, channels).astype(np.int32),
        "bs": np.full(shape, 0.01 / np.iinfo(kind).max, np.float32),
        "bz": np.zeros(shape, np.int32),
        "ws": np.full(shape, 0.01, np.float32),
        "wz": np.full(shape, zero, np.int8),
        "ys": np.float32(4 / np.iinfo(kind).max),
        "yz": kind(np.iinfo(kind).max // 2),
    }
    if stored is not None:
        arrays["w"][:] = stored
    axis = {"axis": 0} if per_channel else {}
    sides = [kernel // 2] * 4
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="xq"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="xd"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="wd", **axis),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], name="bd", **axis),
        helper.make_node(
            "Conv", ["xd", "wd", "bd"], ["c"], name="c", group=channels, kernel_shape=[kernel] * 2, pads=sides
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


@pytest.mark.parametrize("stored", [None, 1])
def test_1x1_at_16_bit_is_written_as_3x3_and_computes_the_same(stored):
    model = depthwise(stored=stored)
    expected = run(model)
    assert widen_depthwise(model) == 1
    onnx.checker.check_model(model)
    weight, bias = (
        numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)) for name in "wb"
    )
    assert weight.shape == (8, 1, 3, 3)
    assert bias.dtype == np.int32
    assert np.abs(weight).max(axis=(1, 2, 3)).min() > 63, "the grid is used"
    assert np.count_nonzero(weight.sum(axis=(0, 1))) == 1
    np.testing.assert_allclose(run(model), expected, atol=1.01 * 4 / 65535)
    assert widen_depthwise(model) == 0


@pytest.mark.parametrize(
    "change",
    [{"kind": np.uint8}, {"per_channel": False}, {"kernel": 3}, {"zero": 1}],
    ids=lambda change: next(iter(change)),
)
def test_what_compiles_stays(change):
    model = depthwise(**change)
    before = model.SerializeToString(deterministic=True)
    assert widen_depthwise(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def pooled(*, kind=np.uint16, **attributes):
    """Q/DQ, an average pooling, Q/DQ."""
    model = depthwise(channels=2, kind=kind)
    graph = model.graph
    place = next(index for index, node in enumerate(graph.node) if node.name == "c")
    del graph.node[place]
    chosen = {"kernel_shape": [5, 3], "pads": [2, 1, 2, 1], "count_include_pad": 1} | attributes
    graph.node.insert(place, helper.make_node("AveragePool", ["xd"], ["c"], name="c", **chosen))
    del graph.output[0].type.tensor_type.shape.dim[2:]
    for _ in range(2):
        graph.output[0].type.tensor_type.shape.dim.add()
    return model


def test_a_padded_pooling_at_16_bit_is_a_convolution_of_the_same_value():
    model = pooled(strides=[2, 1])
    expected = run(model)
    assert pools_to_depthwise(model) == 1
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node if n.name == "c"] == ["Conv"]
    step = 4 / 65535
    assert np.abs(run(model) - expected).max() <= 1.01 * step


@pytest.mark.parametrize(
    "change",
    [{"kind": np.uint8}, {"pads": [0, 0, 0, 0]}, {"count_include_pad": 0}, {"ceil_mode": 1}],
    ids=lambda change: next(iter(change)),
)
def test_pooling_that_stays(change):
    assert pools_to_depthwise(pooled(**change)) == 0


def product(*, kind=np.uint16, zero=2**15):
    """x x^T, x and the result between Q/DQ."""
    arrays = {"s": np.float32(1e-4), "z": kind(zero), "t": np.float32(1e-3)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="xq"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="xd"),
        helper.make_node("Transpose", ["xd"], ["tx"], perm=[0, 2, 1], name="transpose"),
        helper.make_node("QuantizeLinear", ["tx", "s", "z"], ["tq"], name="tq"),
        helper.make_node("DequantizeLinear", ["tq", "s", "z"], ["td"], name="td"),
        helper.make_node("MatMul", ["xd", "td"], ["m"], name="m"),
        helper.make_node("QuantizeLinear", ["m", "t", "z"], ["mq"], name="mq"),
        helper.make_node("DequantizeLinear", ["mq", "t", "z"], ["y"], name="y"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 4]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_second_operand_is_handed_over_as_int16_with_the_same_values():
    model, as_it_was = product(), product()
    assert signed_second_operands(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model), run(as_it_was))
    (node,) = [n for n in model.graph.node if n.op_type == "MatMul"]
    assert [n.op_type for n in model.graph.node if n.output[0] == node.input[1]] == ["DequantizeLinear"]
    assert signed_second_operands(model) == 0


@pytest.mark.parametrize("other", [{"zero": 30000}, {"kind": np.uint8, "zero": 128}])
def test_another_second_operand_stays_as_it_is(other):
    assert signed_second_operands(product(**other)) == 0
