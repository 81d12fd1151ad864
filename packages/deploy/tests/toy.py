"""A small network, quantized by ONNX Runtime: a stem, a body (a SiLU and a shortcut) and two heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

SIZE = 24
WIDTH = 16


def images(count: int) -> np.ndarray[Any, Any]:
    """Return smooth noise, float32 (count, 3, 24, 24) in [0, 1]."""
    coarse = np.random.default_rng(1).random((count, 3, SIZE // 8, SIZE // 8), np.float32)
    return np.kron(coarse, np.ones((1, 1, 8, 8), np.float32))


class Reader(CalibrationDataReader):
    """Feeds images to the calibration."""

    def __init__(self) -> None:
        self.images = iter(images(8))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.images, None)
        return None if image is None else {"images": image[None]}


def conv(
    name: str, source: str, target: str, *, into: int, out: int, stride: int = 1
) -> tuple[Any, list[Any]]:
    """Return a 3x3 convolution with weights named as torch names them."""
    rng = np.random.default_rng(len(name) + out)
    weight = rng.normal(0, (2 / (9 * into)) ** 0.5, (out, into, 3, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, out).astype(np.float32)
    node = helper.make_node(
        "Conv",
        [source, f"{name}.weight", f"{name}.bias"],
        [target],
        name=name,
        kernel_shape=[3, 3],
        strides=[stride] * 2,
        pads=[1] * 4,
    )
    return node, [
        numpy_helper.from_array(weight, f"{name}.weight"),
        numpy_helper.from_array(bias, f"{name}.bias"),
    ]


def silu(name: str, source: str, target: str) -> list[Any]:
    """Return a SiLU as the exporter writes it."""
    return [
        helper.make_node("Sigmoid", [source], [f"{target}_gate"], name=f"{name}.sigmoid"),
        helper.make_node("Mul", [source, f"{target}_gate"], [target], name=f"{name}.mul"),
    ]


def save(folder: Path, *, regions: dict[str, list[str]] | None = None) -> Path:
    """Write the w8a8 network; `regions` goes into its metadata."""
    parts = [
        conv("net.stem.conv", "images", "s0", into=3, out=WIDTH, stride=2),
        conv("net.body.first", "s1", "b0", into=WIDTH, out=WIDTH),
        conv("net.body.second", "b1", "b2", into=WIDTH, out=WIDTH),
        conv("net.head.boxes", "b3", "boxes", into=WIDTH, out=8),
        conv("net.head.scores", "b3", "scores", into=WIDTH, out=4),
    ]
    convs = [node for node, _ in parts]
    add = helper.make_node("Add", ["s1", "b2"], ["b3"], name="net.body.add")
    nodes = [
        convs[0],
        *silu("net.stem", "s0", "s1"),
        convs[1],
        *silu("net.body", "b0", "b1"),
        convs[2],
        add,
        *convs[3:],
    ]
    half = SIZE // 2
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 8, half, half]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4, half, half]),
        ],
        [weight for _, weights in parts for weight in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "float.onnx")
    return quantize(folder, regions=regions)


def save_product(folder: Path) -> Path:
    """Write a w8a8 network that multiplies what a convolution makes with itself."""
    node, weights = conv("net.stem", "images", "made", into=3, out=WIDTH, stride=2)
    product = helper.make_node("MatMul", ["made", "made"], ["product"], name="net.product")
    shape = [1, WIDTH, SIZE // 2, SIZE // 2]
    graph = helper.make_graph(
        [node, product],
        "product",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "float.onnx")
    return quantize(folder, regions={"stem": ["net.stem"], "product": ["net.product"]})


def quantize(folder: Path, *, regions: dict[str, list[str]] | None) -> Path:
    """Write w8a8.onnx of float.onnx."""
    path = folder / "w8a8.onnx"
    quantize_static(
        str(folder / "float.onnx"),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"WeightSymmetric": True},
    )
    if regions is not None:
        model = onnx.load(path)
        model.metadata_props.add(key="hexpath.regions", value=json.dumps(regions))
        onnx.save(model, path)
    return path
