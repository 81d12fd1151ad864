"""Compute once what an exported graph would compute from constants and shapes each time.

AIMET's exporter leaves two such things: the sizes of a Resize, taken from its input's shape, and copies
(Identity) of the weights of 1x1 depthwise convolutions with their QuantizeLinear. The NPU has no use for
either, and ONNX's shape inference stops at the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from hexpath_quant.qdq import DEQUANTIZE, QUANTIZE, Graph

# Of constants: what is computed here. DequantizeLinear is not: it marks a quantized weight.
FOLDABLE = frozenset(
    (
        *("Identity", "QuantizeLinear", "Slice", "Concat", "Gather", "Cast", "Unsqueeze", "Squeeze"),
        *("Reshape", "Mul", "Add", "Sub", "Div", "Expand", "ConstantOfShape", "Equal", "Where", "Transpose"),
    )
)

MOVERS = frozenset(("Unsqueeze", "Squeeze", "Reshape", "Transpose", "Expand"))


def fold(model: onnx.ModelProto) -> int:
    """Replace nodes whose result is known by constants, in place; return how many were replaced."""
    count = 0
    while found := _fold_once(model) + _move_constants(model):
        count += found
    return count


def _fold_once(model: onnx.ModelProto) -> int:
    shapes = _known_shapes(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    folded = 0
    for node in list(model.graph.node):
        value = _value(node, constants=constants, shapes=shapes, opsets=model.opset_import)
        if value is None:
            continue
        tensor = numpy_helper.from_array(value, node.output[0])
        constants[node.output[0]] = tensor
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)
        folded += 1
    if folded:
        _drop_unread(model)
    return folded


def _move_constants(model: onnx.ModelProto) -> int:
    """Let data be moved before it is dequantized where it is constant: the slopes of a PRelu, a token.

    What moves a dequantized constant would be a float island.
    """
    graph, count = Graph(model), 0
    for node in graph.nodes:
        source = graph.maker.get(node.input[0]) if node.op_type in MOVERS else None
        if source is None or source.op_type != DEQUANTIZE or len(graph.readers[source.output[0]]) > 1:
            continue
        known = all(name in graph.constants for name in (*source.input, *node.input[1:]))
        if not known or graph.value(source.input[1]).size > 1:
            continue
        made, moved = node.output[0], f"{node.output[0]}_stored"
        node.input[0], node.output[0] = source.input[0], moved
        source.input[0], source.output[0] = moved, made
        model.graph.node.remove(source)
        model.graph.node.insert(list(model.graph.node).index(node) + 1, source)
        count += 1
    return count


def _value(
    node: onnx.NodeProto,
    *,
    constants: dict[str, onnx.TensorProto],
    shapes: dict[str, list[int]],
    opsets: Any,
) -> NDArray[Any] | None:
    """Return the node's result when it is known, else None."""
    if node.op_type == "Shape" and not node.attribute:
        known = shapes.get(node.input[0])
        return np.array(known, dtype=np.int64) if known else None
    names = [name for name in node.input if name]
    if node.op_type not in FOLDABLE or not names or any(name not in constants for name in names):
        return None
    values = {name: numpy_helper.to_array(constants[name]) for name in names}
    return _evaluate(node, values=values, opsets=opsets)


def _evaluate(node: onnx.NodeProto, *, values: dict[str, NDArray[Any]], opsets: Any) -> NDArray[Any]:
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in values.items()
    ]
    output = onnx.helper.make_empty_tensor_value_info(node.output[0])
    graph = onnx.helper.make_graph([node], "one", infos, [output])
    model = onnx.helper.make_model(graph, opset_imports=list(opsets))
    result: list[Any] = ReferenceEvaluator(model).run(None, values)  # type: ignore[assignment]
    return np.asarray(result[0])


def _known_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    }
    return {name: shape for name, shape in shapes.items() if shape and min(shape) > 0}


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove constants that no node reads any more."""
    read = {name for node in model.graph.node for name in node.input}
    read |= {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for node in list(model.graph.node):
        if node.op_type == "Constant" and node.output[0] not in read:
            model.graph.node.remove(node)


def fix_output_shapes(model: onnx.ModelProto) -> None:
    """Write the inferred shapes of the outputs into the graph."""
    known = _known_shapes(model)
    for output in model.graph.output:
        shape = known.get(output.name)
        if shape:
            del output.type.tensor_type.shape.dim[:]
            for size in shape:
                output.type.tensor_type.shape.dim.add().dim_value = size


def absorb_relus(model: onnx.ModelProto) -> int:
    """Remove each Relu between a float tensor and a quantizer that begins at 0; return how many.

    AIMET leaves the tensor between a convolution (or a sum) and its Relu unquantized, since Hexagon computes
    both at once. The quantizer behind cuts off what is negative, so the Relu itself says nothing more.
    """
    graph = Graph(model)
    absorbed = [node for node in graph.nodes if node.op_type == "Relu" and _is_redundant(graph, node)]
    for node in absorbed:
        for reader in graph.readers[node.output[0]]:
            reader.input[0] = node.input[0]
        model.graph.node.remove(node)
    return len(absorbed)


def _is_redundant(graph: Graph, node: onnx.NodeProto) -> bool:
    maker, readers = graph.maker.get(node.input[0]), graph.readers.get(node.output[0], [])
    if maker is None or maker.op_type == DEQUANTIZE or len(graph.readers[node.input[0]]) > 1:
        return False
    return bool(readers) and all(
        reader.op_type == QUANTIZE and reader.input[2] in graph.constants and _starts_at_zero(graph, reader)
        for reader in readers
    )


def _starts_at_zero(graph: Graph, quantize: onnx.NodeProto) -> bool:
    zero = numpy_helper.to_array(graph.constants[quantize.input[2]])
    unsigned = (onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT4)
    return graph.constants[quantize.input[2]].data_type in unsigned and int(zero.min()) == 0
