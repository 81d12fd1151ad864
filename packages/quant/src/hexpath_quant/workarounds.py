"""Changes to an exported graph that keep its meaning and avoid a known fault of the compiler."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hexpath_quant.qdq import DEQUANTIZE, QUANTIZE, Graph

SMALL_SIDE = 15
NUDGE = 1.0001
MOST_CHANNELS = 256
SIXTEEN = (onnx.TensorProto.UINT16, onnx.TensorProto.INT16)


def separate_silu(model: onnx.ModelProto) -> int:
    """Keep QAIRT 2.51 from fusing convolution and SiLU at 16 bit on small maps; return the number of places.

    At 10 x 10 the fused form computes garbage (13 dB on the emulator in one layer of YOLO11n cut out of
    the net; 82 dB each for its convolution and its SiLU alone; 20 x 20 and 8 bit are right; sides in
    between were not tried, no device was). A
    requantization in front of the sigmoid, to a scale 0.01% larger so that it is not optimized away,
    stops the fusion: 81 dB. Drop this when a newer QAIRT gets the fused form right.
    """
    graph = Graph(model)
    shapes = _shapes(model)
    places = [node for node in graph.nodes if node.op_type == "Sigmoid" and _applies(graph, shapes, node)]
    for node in places:
        _requantize(graph, node)
    return len(places)


def _applies(graph: Graph, shapes: dict[str, list[int]], node: onnx.NodeProto) -> bool:
    """Return whether a sigmoid reads a 16-bit convolution's output on a small map."""
    dequantize = graph.maker.get(node.input[0])
    quantize = graph.maker.get(dequantize.input[0]) if dequantize is not None else None
    if dequantize is None or quantize is None or quantize.op_type != QUANTIZE:
        return False
    layer = graph.maker.get(quantize.input[0])
    sixteen = graph.constants[dequantize.input[2]].data_type in SIXTEEN
    sides = shapes.get(node.output[0], [])[2:]
    return (
        layer is not None and layer.op_type == "Conv" and sixteen and bool(sides) and min(sides) <= SMALL_SIDE
    )


def _requantize(graph: Graph, node: onnx.NodeProto) -> None:
    """Insert a QuantizeLinear and a DequantizeLinear with a nudged scale in front of ``node``."""
    source = graph.maker[node.input[0]]
    scale, name = f"{node.name}_nudged_scale", node.input[0]
    value = (graph.value(source.input[1]) * NUDGE).astype(np.float32)
    graph.model.graph.initializer.append(numpy_helper.from_array(value, scale))
    middle, end = f"{node.name}_nudged_q", f"{node.name}_nudged_qdq"
    pair = [
        helper.make_node(QUANTIZE, [name, scale, source.input[2]], [middle], name=middle),
        helper.make_node(DEQUANTIZE, [middle, scale, source.input[2]], [end], name=end),
    ]
    position = next(i for i, other in enumerate(graph.model.graph.node) if other.name == node.name)
    for offset, new in enumerate(pair):
        graph.model.graph.node.insert(position + offset, new)
    graph.model.graph.node[position + len(pair)].input[0] = end


def widen_depthwise(model: onnx.ModelProto) -> int:
    """Write 1x1 depthwise convolutions of many channels at 16 bit as 3x3 ones; return how many.

    QAIRT 2.51's compiler ends with SIGSEGV at optimization 2 and 3 on a 1x1 depthwise convolution with 16-bit
    activations and a weight scale a channel when it has more than 256 channels (257 to 640 tried; 256, and
    one scale for all, are right). The same weights amid zeros compute the same and compile (80 dB at 512,
    640 and 1024). A batch norm behind a sum or a pooling becomes such a layer: DDRNet has seven.
    """
    graph = Graph(model)
    places = [node for node in graph.nodes if node.op_type == "Conv" and _crashes(graph, node)]
    widened = {graph.maker[node.input[1]].input[0] for node in places}
    for tensor in model.graph.initializer:
        if tensor.name in widened:
            values = numpy_helper.to_array(tensor)
            padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
            tensor.CopyFrom(numpy_helper.from_array(padded, tensor.name))
    for node in places:
        kept = [a for a in node.attribute if a.name not in ("kernel_shape", "pads")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(helper.make_attribute("kernel_shape", [3, 3]))
        node.attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    return len(places)


def _crashes(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether the compiler crashes at a convolution; its weight must be a stored one, zero point 0."""
    source, weight = (graph.maker.get(name) for name in node.input[:2])
    if source is None or weight is None or {source.op_type, weight.op_type} != {DEQUANTIZE}:
        return False
    stored = graph.constants.get(weight.input[0])
    kind = graph.constants.get(source.input[2]) if len(source.input) > 2 else None
    if stored is None or kind is None or kind.data_type not in SIXTEEN or len(stored.dims) != 4:
        return False
    channels, inputs, *kernel = stored.dims
    symmetric = len(weight.input) < 3 or not graph.value(weight.input[2]).any()
    scales = graph.value(weight.input[1]).size
    return inputs == 1 and kernel == [1, 1] and channels > MOST_CHANNELS and scales > 1 and symmetric


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*inferred.value_info, *inferred.output]
    }
