"""Rules that an exported QDQ graph must keep, each checked on the file itself."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hexpath_quant.errors import ExportError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
SHAPE_INPUTS = {
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Tile": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Gather": (1,),
    "Clip": (1, 2),
}
# Operators of the NPU that have one encoding for what they read and what they write.
TIED = ("Resize", "Pad", "MaxPool", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
BIASED = ("Conv", "ConvTranspose", "Gemm")
# Tried with QAIRT 2.51: an activation of these behind one of those is one operator of the NPU.
FUSING = ("Conv", "ConvTranspose", "Gemm", "Add")
ACTIVATIONS = ("Relu", "Clip")


class Graph:
    """An ONNX graph with look-ups: who makes a tensor, who reads it, which are constant."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = node.attribute[0].t
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def value(self, name: str) -> NDArray[np.float64]:
        """Return a constant's values as float64."""
        return np.asarray(numpy_helper.to_array(self.constants[name]), dtype=np.float64)

    def scale(self, name: str) -> NDArray[np.float64]:
        """Return the scale(s) of the DequantizeLinear that makes tensor ``name``, flattened."""
        return self.value(self.maker[name].input[1]).reshape(-1)


def check_graph(path: Path, *, floats: Collection[str] = ()) -> onnx.ModelProto:
    """Check every rule on the file; return the model. ``floats``: operators that a plan leaves in float.

    Raises:
        ExportError: names the first rule that is broken, and where.
    """
    model = onnx.load(path)
    graph = Graph(model)
    check_static(model)
    check_no_islands(graph, floats=floats)
    check_tied(graph, floats=floats)
    check_bias_scales(graph, floats=floats)
    return model


def check_static(model: onnx.ModelProto) -> None:
    """Raise an ExportError when an input or output has a dimension that is not a positive number."""
    for tensor in [*model.graph.input, *model.graph.output]:
        dims = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.type.tensor_type.shape.dim]
        if not dims or min(dims) < 1:
            raise ExportError(
                f"tensor '{tensor.name}' has a dynamic shape {dims}; export with a fixed example"
            )


def check_no_islands(graph: Graph, *, floats: Collection[str] = ()) -> None:
    """Raise an ExportError for an operator outside ``floats`` that reads or writes an unquantized tensor."""
    found = 0
    for node in graph.nodes:
        if node.op_type in (QUANTIZE, DEQUANTIZE, "Constant"):
            continue
        found += 1
        if node.name in floats:
            continue
        skip = SHAPE_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name and index not in skip and not is_quantized(graph, name):
                raise ExportError(
                    f"float island: {node.op_type} '{node.name}' reads '{name}', which is not quantized"
                )
        for name in [] if is_fused(graph, node) else node.output:
            if any(reader.op_type != QUANTIZE for reader in graph.readers.get(name, [])) or _is_output(
                graph, name
            ):
                raise ExportError(
                    f"float island: {node.op_type} '{node.name}' writes '{name}', which is not quantized"
                )
    if not found:
        raise ExportError("the exported graph has no operator")


def check_tied(graph: Graph, *, floats: Collection[str] = ()) -> None:
    """Raise an ExportError for an operator that only moves data, with another encoding behind it than before.

    HTP has one encoding for both: a Resize with two becomes a float operator, a Pad computes garbage.
    """
    for node in graph.nodes:
        before = graph.maker.get(node.input[0]) if node.op_type in TIED and node.name not in floats else None
        if before is None or before.op_type != DEQUANTIZE:
            continue
        for after in graph.readers.get(node.output[0], []):
            if after.op_type != QUANTIZE:
                continue
            read, written = (graph.value(pair.input[1]).reshape(-1) for pair in (before, after))
            if read.shape != written.shape or not np.allclose(read, written, rtol=1e-6, atol=0):
                raise ExportError(
                    f"{node.op_type} '{node.name}' reads scale {read[0]:.4g} and writes"
                    f" {written[0]:.4g}; the NPU has one encoding for both"
                )


def is_quantized(graph: Graph, name: str) -> bool:
    """Whether a tensor comes from a DequantizeLinear, or exists inside of a fused operator only."""
    maker = graph.maker.get(name)
    return maker is not None and (maker.op_type == DEQUANTIZE or is_fused(graph, maker))


def is_fused(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether HTP computes ``node`` and the activation behind it as one operator, no tensor between."""
    readers = graph.readers.get(node.output[0], [])
    return (
        node.op_type in FUSING
        and [reader.op_type in ACTIVATIONS for reader in readers] == [True]
        and not _is_output(graph, node.output[0])
    )


def check_bias_scales(graph: Graph, *, floats: Collection[str] = ()) -> None:
    """Raise an ExportError when a bias scale is not input scale times weight scale.

    HTP adds the int32 bias to the int32 accumulator as it is; onnxruntime would hide a
    wrong scale.
    """
    for node in graph.nodes:
        if node.op_type not in BIASED or len(node.input) < 3 or not node.input[2] or node.name in floats:
            continue
        bias, expected = graph.scale(node.input[2]), graph.scale(node.input[0]) * graph.scale(node.input[1])
        found = np.broadcast_to(bias, expected.shape)
        if not np.allclose(found, expected, rtol=1e-3, atol=0):
            worst = int(np.argmax(np.abs(found / expected - 1)))
            raise ExportError(
                f"bias of '{node.name}', channel {worst}: scale {found[worst]:.4g}"
                f" is not input scale x weight scale {expected[worst]:.4g}"
            )


def _is_output(graph: Graph, name: str) -> bool:
    return any(output.name == name for output in graph.model.graph.output)
