"""Changes to an exported graph that keep its meaning and avoid a known fault of the compiler."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hexpath_quant.qdq import DEQUANTIZE, QUANTIZE, Graph

SMALL_SIDE = 15
NUDGE = 1.0001
FULL = 127  # of an int8 grid that is symmetric
KINDS = (np.int8, np.int32)  # of a weight, of a bias
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
        _nudge(graph, node)
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


def signed_second_operands(model: onnx.ModelProto) -> int:
    """Hand each 16-bit product of two activations its second one as int16; return how many.

    The provider converts a uint16 second operand to uint8, symmetric or not, and leaves int16 alone. On the
    emulator a product of 64x32 and 32x64 uniform values has 47 dB against ONNX Runtime so, and 80 dB with it.
    The conversion is exact: a symmetric uint16 grid (zero point 32768) is an int16 one with zero point 0.
    """
    graph = Graph(model)
    places = [n for n in graph.nodes if n.op_type == "MatMul" and _is_symmetric_uint16(graph, n.input[1])]
    for node in places:
        source = graph.maker[node.input[1]]
        zero = numpy_helper.from_array(np.asarray(0, np.int16), f"{node.name}_signed_zero")
        model.graph.initializer.append(zero)
        _requantize(graph, node, place=1, scale=source.input[1], zero=zero.name, suffix="signed")
    return len(places)


def _is_symmetric_uint16(graph: Graph, name: str) -> bool:
    """Return whether a tensor is an activation on a symmetric uint16 grid."""
    source = graph.maker.get(name)
    if source is None or source.op_type != DEQUANTIZE or source.input[0] in graph.constants:
        return False
    kind = graph.constants[source.input[2]].data_type
    return bool(kind == onnx.TensorProto.UINT16 and graph.value(source.input[2]) == 2**15)


def _nudge(graph: Graph, node: onnx.NodeProto) -> None:
    """Requantize what ``node`` reads, to a scale that is a little larger."""
    source = graph.maker[node.input[0]]
    scale = f"{node.name}_nudged_scale"
    value = (graph.value(source.input[1]) * NUDGE).astype(np.float32)
    graph.model.graph.initializer.append(numpy_helper.from_array(value, scale))
    _requantize(graph, node, place=0, scale=scale, zero=source.input[2], suffix="nudged")


def _requantize(
    graph: Graph, node: onnx.NodeProto, *, place: int, scale: str, zero: str, suffix: str
) -> None:
    """Insert a QuantizeLinear and a DequantizeLinear in front of an input of ``node``."""
    middle, end = f"{node.name}_{suffix}_q", f"{node.name}_{suffix}_qdq"
    pair = [
        helper.make_node(QUANTIZE, [node.input[place], scale, zero], [middle], name=middle),
        helper.make_node(DEQUANTIZE, [middle, scale, zero], [end], name=end),
    ]
    position = next(i for i, other in enumerate(graph.model.graph.node) if other.name == node.name)
    for offset, new in enumerate(pair):
        graph.model.graph.node.insert(position + offset, new)
    graph.model.graph.node[position + len(pair)].input[place] = end


def widen_depthwise(model: onnx.ModelProto) -> int:
    """Write 1x1 depthwise convolutions at 16 bit as 3x3 ones with a full weight grid; return how many.

    QAIRT 2.51 takes a 1x1 depthwise convolution with 16-bit activations and a weight scale a channel wrongly:
    of more than 256 channels the compiler ends with SIGSEGV at optimization 2 and 3 (257 to 640 tried), of 64
    whose scales span two decades the emulator makes garbage (-11 dB). One scale for all and 8 bit are right.
    The same weights amid zeros compute the same, compile, and are right (78 to 81 dB at 64, 512, 640 and 1024
    channels), as long as they use the grid: AIMET stores such a weight as 1 with its value as the scale, and
    of that the NPU keeps few bits. So weights are multiplied by a whole number, and their scales divided.
    A batch norm behind a sum or a pooling becomes such a layer: DDRNet has seven of more than 256 channels.
    """
    graph = Graph(model)
    places = [node for node in graph.nodes if node.op_type == "Conv" and _is_pointwise(graph, node)]
    for node in places:
        kept = [a for a in node.attribute if a.name not in ("kernel_shape", "pads")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(helper.make_attribute("kernel_shape", [3, 3]))
        node.attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
        _widen(graph, node)
    return len(places)


def _is_pointwise(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether a convolution is of that kind, and its weight and bias stored and read by it alone."""
    source, *parameters = (graph.maker.get(name) for name in node.input)
    kind = graph.constants.get(source.input[2]) if source is not None and len(source.input) > 2 else None
    if kind is None or kind.data_type not in SIXTEEN or not all(_is_stored(graph, p) for p in parameters):
        return False
    weight = parameters[0]
    assert weight is not None
    dims, scales = graph.constants[weight.input[0]].dims, graph.value(weight.input[1]).size
    return list(dims[1:]) == [1, 1, 1] and scales == dims[0] > 1


def _is_stored(graph: Graph, source: onnx.NodeProto | None) -> bool:
    if source is None or source.op_type != DEQUANTIZE or len(graph.readers[source.output[0]]) > 1:
        return False
    own = all(name in graph.constants and len(graph.readers[name]) == 1 for name in source.input[:2])
    return own and (len(source.input) < 3 or not graph.value(source.input[2]).any())


def _widen(graph: Graph, node: onnx.NodeProto) -> None:
    """Give the weight zeros around it, and weight and bias the finest scale that holds both."""
    sources = [graph.maker[name] for name in node.input[1:]]
    stored = [numpy_helper.to_array(graph.constants[source.input[0]]).astype(np.int64) for source in sources]
    factor = FULL // np.maximum(np.abs(stored[0]).reshape(len(stored[0]), -1).max(axis=1), 1)
    if len(stored) > 1:
        room = np.iinfo(np.int32).max // np.maximum(np.abs(stored[1]), 1)
        factor = np.maximum(np.minimum(factor, room), 1)
    stored[0] = np.pad(stored[0] * factor[:, None, None, None], ((0, 0), (0, 0), (1, 1), (1, 1)))
    whole = [stored[0], *(values * factor for values in stored[1:])]
    for source, values, kind in zip(sources, whole, KINDS, strict=False):
        scale = numpy_helper.to_array(graph.constants[source.input[1]])
        arrays = values.astype(kind), (scale / factor).astype(np.float32)
        for name, array in zip(source.input[:2], arrays, strict=True):
            graph.constants[name].CopyFrom(numpy_helper.from_array(array, name))


def pools_to_depthwise(model: onnx.ModelProto) -> int:
    """Make padded average poolings at 16 bit depthwise convolutions of constant weight; return how many.

    QAIRT 2.51 computes a 9x9 stride 4 pooling with 16-bit activations wrongly (4 dB on the emulator, in
    DDRNet's pyramid at 2x3; 5x5 and 17x17 have 74 dB there). In FP16 many padded windows are wrong, so all
    padded ones are written as convolutions here. 8 bit is right and stays; so does what averages the whole
    map, and pooling whose padding does not count.
    """
    graph = Graph(model)
    shapes = _shapes(model)
    done = 0
    for node in graph.nodes:
        if node.op_type == "AveragePool" and _is_padded(graph, node) and shapes.get(node.input[0]):
            _pool_as_convolution(model, node, channels=shapes[node.input[0]][1])
            done += 1
    return done


def _is_padded(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether a 16-bit pooling over two axes has padding that counts."""
    source = graph.maker.get(node.input[0])
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    kind = graph.constants.get(source.input[2]) if source is not None and len(source.input) > 2 else None
    plain = given.get("auto_pad", b"NOTSET") == b"NOTSET" and not given.get("ceil_mode")
    counts = bool(given.get("count_include_pad")) and any(given.get("pads", []))
    sixteen = kind is not None and kind.data_type in SIXTEEN
    return sixteen and plain and counts and len(given["kernel_shape"]) == 2 and "dilations" not in given


def _pool_as_convolution(model: onnx.ModelProto, node: onnx.NodeProto, *, channels: int) -> None:
    """Turn a pooling into a convolution with the int8 weight 127 everywhere."""
    kept = {a.name: a for a in node.attribute if a.name in ("kernel_shape", "strides", "pads")}
    kernel = list(kept["kernel_shape"].ints)
    name = f"{node.output[0]}_window"
    constants = {
        f"{name}_stored": np.full((channels, 1, *kernel), 127, np.int8),
        f"{name}_scale": np.asarray(1 / (127 * np.prod(kernel)), np.float32),
        f"{name}_zero_point": np.asarray(0, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in constants.items())
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place, helper.make_node(DEQUANTIZE, list(constants), [name], name=name))
    node.op_type = "Conv"
    node.input.append(name)
    attributes = [*kept.values(), helper.make_attribute("group", channels)]
    del node.attribute[:]
    node.attribute.extend(attributes)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*inferred.value_info, *inferred.output]
    }
