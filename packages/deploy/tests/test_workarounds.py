"""Average pooling in FP16, which QAIRT 2.51 computes wrongly for many windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from made import needs_toolchain
from onnx import TensorProto, helper, numpy_helper

from hexpath_deploy.hexagon.artifact import open_artifact
from hexpath_deploy.hexagon.emulate import emulate, load_outputs
from hexpath_deploy.hexagon.local import compile_model
from hexpath_deploy.hexagon.options import choose
from hexpath_deploy.hexagon.workarounds import pools_to_convolutions
from hexpath_deploy.model import read_model
from hexpath_deploy.targets import target

SHAPE = (1, 8, 9, 10)


def pooling(**attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("AveragePool", ["x"], ["y"], name="pool", **attributes)
    return model_of([node])


def model_of(nodes: list[onnx.NodeProto], *, initializers: Any = ()) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "pool", [value], [result], list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def on_ort(model: onnx.ModelProto, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def noise() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).random(SHAPE, np.float32)


@pytest.mark.parametrize("counts", [0, 1])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": [9, 9], "strides": [4, 4], "pads": [4] * 4},
        {"kernel_shape": [3, 5], "strides": [2, 1], "pads": [1, 2, 0, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ],
)
def test_a_convolution_computes_the_same(window: dict[str, Any], counts: int) -> None:
    model = pooling(**window, count_include_pad=counts)
    expected = on_ort(model, noise())
    assert pools_to_convolutions(model) == 1
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == (["Conv", "Mul"] if "pads" in window and not counts else ["Conv"])
    onnx.checker.check_model(model)
    np.testing.assert_allclose(on_ort(model, noise()), expected, atol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [9, 10]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"},
    ],
)
def test_what_stays(attributes: dict[str, Any]) -> None:
    model = pooling(**attributes)
    assert pools_to_convolutions(model) == 0
    assert [node.op_type for node in model.graph.node] == ["AveragePool"]


def test_a_quantized_pooling_stays() -> None:
    constants = [
        numpy_helper.from_array(np.float32(1 / 255), "s"),
        numpy_helper.from_array(np.uint8(0), "z"),
    ]
    chain = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["b"]),
        helper.make_node("AveragePool", ["b"], ["c"], kernel_shape=[9, 9], pads=[4] * 4),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "s", "z"], ["y"]),
    ]
    assert pools_to_convolutions(model_of(chain, initializers=constants)) == 0
    del chain[3:]
    chain[2].output[0] = "y"
    assert pools_to_convolutions(model_of(chain, initializers=constants)) == 1, "an FP16 region of a plan"


@pytest.mark.parametrize("counts", [0, 1])
def test_the_npu_pools_in_fp16(tmp_path: Path, counts: int) -> None:
    needs_toolchain()
    path = tmp_path / "model.onnx"
    proto = pooling(kernel_shape=[9, 9], strides=[4, 4], pads=[4] * 4, count_include_pad=counts)
    onnx.save(proto, path)
    model, chip = read_model(path), target("qcs9075")
    compile_model(model, target=chip, options=choose(model, chip, fp16=True), out=tmp_path / "compiled")
    artifact = open_artifact(tmp_path / "compiled", model=model)
    emulate(artifact, feeds={"1": lambda: {"x": noise()}}, work=tmp_path / "work", workers=1)
    found = load_outputs(tmp_path / "work", "1", boundary=artifact.boundary)["y"]
    expected = on_ort(proto, noise())
    noise_db = 10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum())
    assert noise_db > 60, "as a pooling it would be below 10"
