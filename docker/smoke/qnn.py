"""Inside the qnn image: versions, no torch, and a three-layer net compiled and run on the emulator."""

from __future__ import annotations

import logging
import tempfile
from importlib import metadata, util
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hexpath_deploy.hexagon.artifact import open_artifact
from hexpath_deploy.hexagon.emulate import emulate, load_outputs
from hexpath_deploy.hexagon.local import compile_model
from hexpath_deploy.hexagon.options import choose
from hexpath_deploy.model import read_model
from hexpath_deploy.ort import OrtNetwork
from hexpath_deploy.targets import target

# A detector of two classes with one output, as Ultralytics exports it.
METADATA = {"task": "detect", "names": "{0: 'a', 1: 'b'}", "imgsz": "[32, 32]", "stride": "8", "batch": "1"}


class Images(CalibrationDataReader):
    """Four images of noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.rows = iter([{"images": rng.random((1, 3, 32, 32), np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray]:
        return next(self.rows, {})


def three_layers(path: Path) -> Path:
    """Write a detector of a convolution, a ReLU and a convolution as QDQ ONNX."""
    rng = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in (("w1", (8, 3, 3, 3)), ("b1", (8,)), ("w2", (6, 8, 8, 8)), ("b2", (6,)))
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w1", "b1"], ["x"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Conv", ["y", "w2", "b2"], ["z"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["z", "shape"], ["output0"]),
    ]
    weights.append(numpy_helper.from_array(np.array([1, 6, 16]), "shape"))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])
    result = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, 16])
    graph = helper.make_graph(nodes, "three", [image], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for key, value in METADATA.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path.with_stem("float"))
    quantize_static(
        str(path.with_stem("float")),
        str(path),
        Images(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


def main() -> None:
    logging.disable(logging.WARNING)  # the quantizer's advice
    for name in ("torch", "ultralytics", "aimet_torch"):
        assert util.find_spec(name) is None, f"{name} has no place here"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, chip = read_model(three_layers(folder / "w8a8.onnx")), target("qcs9075")
        card = compile_model(model, target=chip, options=choose(model, chip), out=folder / "compiled")
        assert card["cpu_ops"] == 0
        artifact = open_artifact(folder / "compiled", model=model)
        image = np.random.default_rng(2).random((1, 3, 32, 32), np.float32)
        emulate(artifact, feeds={"1": lambda: {"images": image}}, work=folder / "work", workers=1)
        npu = load_outputs(folder / "work", "1", boundary=artifact.boundary)["output0"]
        cpu = OrtNetwork(model, threads=1).run(image)["output0"]
    assert npu.shape == cpu.shape == (1, 6, 16)
    assert np.abs(npu - cpu).max() <= 0.02 * np.ptp(cpu), "the emulator and ONNX Runtime differ"
    tools = {name: metadata.version(name) for name in ("hexpath-deploy", "onnxruntime", "onnxruntime-qnn")}
    print(f"qnn: compiled {card['npu_ops']} operators for {chip.name} and emulated them; {tools}")


if __name__ == "__main__":
    main()
