"""Changes to a float graph that keep its meaning and avoid a known fault of the FP16 compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Shapes = dict[str, list[int]]


def pools_to_convolutions(proto: onnx.ModelProto) -> int:
    """Make every float average pooling a depthwise convolution, in place; return how many.

    QAIRT 2.51 computes many windows wrongly in FP16 (emulator, 64 channels, 20x24): 9x9 with padding at any
    stride 5 to 10 dB, 7x7 stride 1, 8x8 and 13x13 stride 4 alike; 3x3, 5x5 and 17x17 are right at 70 dB. 8x8
    stride 8 without padding ends the process. The depthwise convolution has 70 dB for each. What averages the
    whole map, 8 bits and 16 bits are right and stay. Drop this when a newer QAIRT gets pooling right.

    Where padding does not count (`count_include_pad` 0) a product with a constant map follows. Pooling with
    `ceil_mode` or `auto_pad`, or over one or three axes, stays.
    """
    pools = [node for node in proto.graph.node if node.op_type == "AveragePool"]
    if not pools:
        return 0
    shapes, quantized = _shapes(proto), _quantized(proto)
    done = 0
    for node in pools:
        window = _Window(node)
        shape, result = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if (
            node.output[0] in quantized
            or not window.is_plain
            or window.covers(shape)
            or min(result or [0]) < 1
        ):
            continue
        _replace(proto, node, window=window, shape=shape, result=result)
        done += 1
    return done


class _Window:
    """The attributes of an average pooling."""

    def __init__(self, node: onnx.NodeProto) -> None:
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        self.kernel = list(given["kernel_shape"])
        self.strides = list(given.get("strides", [1] * len(self.kernel)))
        self.pads = list(given.get("pads", [0] * 2 * len(self.kernel)))
        self.counts_padding = bool(given.get("count_include_pad", 0)) or not any(self.pads)
        dilated = any(step != 1 for step in given.get("dilations", []))
        padded_by_itself = given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"")
        self.is_plain = len(self.kernel) == 2 and not (given.get("ceil_mode") or dilated or padded_by_itself)

    def covers(self, shape: Sequence[int]) -> bool:
        """Say whether one window is the whole map."""
        return not any(self.pads) and self.kernel == list(shape[2:])


def _replace(
    proto: onnx.ModelProto, node: onnx.NodeProto, *, window: _Window, shape: list[int], result: list[int]
) -> None:
    """Put a convolution (and a product) in a pooling's place; `shape` and `result` are NCHW."""
    source, target, channels = node.input[0], node.output[0], shape[1]
    weight = np.full((channels, 1, *window.kernel), 1 / np.prod(window.kernel), np.float32)
    summed = target if window.counts_padding else f"{target}_with_padding"
    names = [f"{target}_window", f"{target}_share"]
    new = [
        helper.make_node(
            "Conv",
            [source, names[0]],
            [summed],
            name=node.name or f"{target}_conv",
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=window.pads,
            group=channels,
        )
    ]
    proto.graph.initializer.append(numpy_helper.from_array(weight, names[0]))
    if not window.counts_padding:
        share = _share(window, shape=shape, result=result)
        proto.graph.initializer.append(numpy_helper.from_array(share, names[1]))
        new.append(helper.make_node("Mul", [summed, names[1]], [target], name=f"{target}_scaled"))
    place = list(proto.graph.node).index(node)
    proto.graph.node.remove(node)
    for offset, each in enumerate(new):
        proto.graph.node.insert(place + offset, each)


def _share(window: _Window, *, shape: list[int], result: list[int]) -> npt.NDArray[np.float32]:
    """Return float32 (1, 1, H, W): a window's size over how many of its places lie on the map."""
    counts: list[Any] = []
    for axis in (0, 1):
        first = np.arange(result[2 + axis]) * window.strides[axis] - window.pads[axis]
        last = np.minimum(first + window.kernel[axis], shape[2 + axis])
        counts.append(last - np.maximum(first, 0))
    inside = counts[0][:, None] * counts[1][None]
    return (np.prod(window.kernel) / inside).astype(np.float32)[None, None]


def _quantized(proto: onnx.ModelProto) -> set[str]:
    """Return the outputs of operators that stand between DequantizeLinear and QuantizeLinear."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return {
        node.output[0]
        for node in proto.graph.node
        if node.input
        and node.input[0] in makers
        and makers[node.input[0]].op_type == "DequantizeLinear"
        and readers.get(node.output[0]) == {"QuantizeLinear"}
    }


def _shapes(proto: onnx.ModelProto) -> Shapes:
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    }
