"""Writing a network back as a QDQ graph with a precision of its own for each region.

A tensor has the precision of the region that makes it; where a region of another precision reads it, one
convert (DequantizeLinear, QuantizeLinear, DequantizeLinear) a precision stands at the border. Graph
inputs have the precision of the region that reads them first. An FP16 region has neither Quantize- nor
DequantizeLinear; its graph outputs are float.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hexpath_deploy.io import set_metadata
from hexpath_deploy.regions.network import (
    DEQUANTIZE,
    QUANTIZE,
    WEIGHTED,
    Constant,
    Network,
    Operator,
    Quantized,
    Scale,
    Values,
)
from hexpath_deploy.regions.precision import BASE, PRECISIONS, Precision

PLAN_KEY = "hexpath.plan_regions"
INT4 = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
WIDEN = 257  # 65535 / 255: the same range, 256 times finer
NARROW = 127 / 7
# As hexpath-quant exports at 16 bits: QAIRT 2.51 gets convolution and SiLU, fused, wrong on small maps.
SMALL_SIDE = 15
NUDGE = 1.0001


@dataclass(kw_only=True)
class Writer:
    """A graph as it is being written."""

    network: Network
    precision: Mapping[str, Precision]  # by operator's name
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    owner: dict[str, int | None] = field(default_factory=dict)  # tensor -> activation bits of its region
    ready: dict[tuple[str, int | None], str] = field(default_factory=dict)

    def constant(self, name: str, values: Values) -> str:
        """Add a constant once and return its name."""
        self.constants.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def encoding(self, name: str, scale: Scale) -> list[str]:
        """Add a scale and a zero point and return their names."""
        return [
            self.constant(f"{name}_scale", scale.scale.astype(np.float32)),
            self.constant(f"{name}_zero_point", scale.zero_point),
        ]

    def pair(self, tensor: str, *, name: str, scale: Scale, end: str | None = None) -> str:
        """Quantize and dequantize a float tensor; returns the name of the result."""
        parts = self.encoding(name, scale)
        end = end or f"{name}_qdq"
        self.nodes.append(helper.make_node(QUANTIZE, [tensor, *parts], [f"{name}_q"], name=f"{name}_q"))
        self.nodes.append(helper.make_node(DEQUANTIZE, [f"{name}_q", *parts], [end], name=f"{name}_dq"))
        return end

    def activation(self, tensor: str, bits: int | None) -> str:
        """Return the name under which regions of `bits` read a quantized tensor, made at the first read."""
        own = self.owner[tensor]
        if (tensor, bits) not in self.ready:
            self.ready[tensor, bits] = self.convert(tensor, own=own, bits=bits)
        return self.ready[tensor, bits]

    def convert(self, tensor: str, *, own: int | None, bits: int | None) -> str:
        """Bring a tensor from its own precision to another."""
        scale = self.network.scales[tensor]
        if own == bits:
            return tensor if bits is None else self.pair(tensor, name=tensor, scale=at_bits(scale, bits))
        if bits is None:  # a DequantizeLinear of its own: the other readers' one belongs to their node units
            self.activation(tensor, own)
            end = f"{tensor}_float"
            parts = self.encoding(tensor, at_bits(scale, own or 8))
            self.nodes.append(helper.make_node(DEQUANTIZE, [f"{tensor}_q", *parts], [end], name=f"{end}_dq"))
            return end
        start = self.activation(tensor, own)
        return self.pair(start, name=f"{tensor}_a{bits}", scale=at_bits(scale, bits))


def rewrite(network: Network, *, regions: Mapping[str, str], plan: Mapping[str, str]) -> onnx.ModelProto:
    """Return the network with each region at its precision of `plan`, the others at w8a8.

    `regions` maps an operator's name to its region.
    """
    writer = Writer(
        network=network,
        precision={
            operator.name: PRECISIONS[plan.get(regions[operator.name], BASE)]
            for operator in network.operators
        },
    )
    for name in network.inputs:
        first = next((each for each in network.operators if name in each.reads), None)
        writer.owner[name] = writer.precision[first.name].activation_bits if first else 8
    for operator in network.operators:
        write_operator(writer, operator)
    outputs = write_outputs(writer)
    return assemble(writer, outputs=outputs, plan=plan)


def write_operator(writer: Writer, operator: Operator) -> None:
    """Write one operator with what stands in front of it."""
    precision = writer.precision[operator.name]
    node = onnx.NodeProto()
    node.CopyFrom(operator.node)
    names = [write_input(writer, operator, i, precision) for i in range(len(operator.inputs))]
    if operator.node.op_type == "Sigmoid" and fuses_wrongly(writer, operator):
        names[0] = nudge(writer, operator, names[0])
    if operator.node.op_type == "MatMul" and precision.activation_bits == 16:
        names[1] = signed(writer, operator, names[1])
    node.ClearField("input")
    node.input.extend(names)
    writer.nodes.append(node)
    for name in operator.node.output:
        writer.owner[name] = precision.activation_bits


def write_input(writer: Writer, operator: Operator, index: int, precision: Precision) -> str:
    """Return the name of one input of an operator at its precision."""
    source = operator.inputs[index]
    if isinstance(source, Quantized):
        return writer.activation(source.tensor, precision.activation_bits)
    if isinstance(source, str):
        return source
    if precision.weight_bits is None:
        return writer.constant(f"{source.name}_float", source.values.astype(np.float32))
    if source.kind == "bias" and source.scale.bits == 32:
        return write_bias(writer, operator, source, precision)
    return write_constant(writer, source, scale=constant_scale(source, precision))


def constant_scale(source: Constant, precision: Precision) -> Scale:
    """Return the encoding of a weight or a constant operand at a precision."""
    if source.kind == "weight":
        narrow = precision.weight_bits == 4 and not source.scale.zero_point.any()
        return at_four_bits(source.scale) if narrow else source.scale
    if source.kind == "bias":
        return source.scale
    return at_bits(source.scale, precision.activation_bits or 8)


def write_constant(writer: Writer, source: Constant, *, scale: Scale) -> str:
    """Write a constant as stored numbers and a DequantizeLinear; returns the name of the result."""
    kind = scale.zero_point.dtype
    name = f"{source.name}_{kind}"
    if f"{name}_stored" not in writer.constants:
        writer.constant(f"{name}_stored", quantize(source.values, scale))
        dequantize(writer, name, scale)
    return name


def write_bias(writer: Writer, operator: Operator, source: Constant, precision: Precision) -> str:
    """Write an int32 bias at input scale times weight scale, as HTP adds it to its accumulator."""
    weight, read = operator.inputs[WEIGHTED[operator.node.op_type]], operator.inputs[0]
    if not isinstance(weight, Constant) or not isinstance(read, Quantized):
        return write_constant(writer, source, scale=source.scale)
    bits = precision.activation_bits or 8
    input_scale = at_bits(writer.network.scales[read.tensor], bits).scale
    weight_scale = constant_scale(weight, precision).scale
    scale = np.broadcast_to(input_scale.reshape(-1) * weight_scale.reshape(-1), source.scale.scale.shape)
    name = f"{source.name}_w{precision.weight_bits}a{bits}"
    encoding = Scale(scale=scale, zero_point=source.scale.zero_point, axis=source.scale.axis)
    writer.constant(f"{name}_stored", quantize(source.values, encoding))
    dequantize(writer, name, encoding)
    return name


def dequantize(writer: Writer, name: str, scale: Scale) -> None:
    """Write the DequantizeLinear of stored numbers."""
    parts = writer.encoding(name, scale)
    axis = {} if scale.axis is None else {"axis": scale.axis}
    writer.nodes.append(
        helper.make_node(DEQUANTIZE, [f"{name}_stored", *parts], [name], name=f"{name}_dq", **axis)
    )


def quantize(values: Values, scale: Scale) -> Values:
    """Return stored numbers, rounded half to even and saturated."""
    rank, kind = values.ndim, scale.zero_point.dtype
    low, high = (-8, 7) if kind == INT4 else (np.iinfo(kind).min, np.iinfo(kind).max)
    zero = scale.along(scale.zero_point.astype(np.float64), rank=rank)
    stored = (
        np.rint(values / scale.along(scale.scale.astype(np.float32).astype(np.float64), rank=rank)) + zero
    )
    saturated: Values = np.clip(stored, low, high).astype(kind)
    return saturated


def at_bits(scale: Scale, bits: int) -> Scale:
    """Return an 8-bit activation's encoding at 8 or 16 bits; the range stays the same."""
    if bits == scale.bits:
        return scale
    zero = scale.zero_point.astype(np.int64)
    if scale.zero_point.dtype == np.uint8:
        return Scale(
            scale=scale.scale / WIDEN, zero_point=np.asarray(zero * WIDEN, np.uint16), axis=scale.axis
        )
    symmetric = not zero.any()
    wide = np.asarray(zero if symmetric else zero * WIDEN + 128, np.int16)
    return Scale(
        scale=scale.scale * (127 / 32767 if symmetric else 1 / WIDEN), zero_point=wide, axis=scale.axis
    )


def at_four_bits(scale: Scale) -> Scale:
    """Return a symmetric 8-bit weight's encoding at 4 bits."""
    zero = np.zeros(scale.zero_point.shape, INT4)
    return Scale(scale=scale.scale * NARROW, zero_point=zero, axis=scale.axis)


def fuses_wrongly(writer: Writer, operator: Operator) -> bool:
    """Return whether a sigmoid reads a 16-bit convolution on so small a map that exports separate them."""
    source = operator.inputs[0]
    if not isinstance(source, Quantized) or writer.precision[operator.name].activation_bits != 16:
        return False
    maker = writer.network.makers.get(source.tensor)
    sides = writer.network.shapes.get(operator.node.output[0], ())[2:]
    return (
        maker is not None
        and maker.node.op_type == "Conv"
        and writer.owner[source.tensor] == 16
        and bool(sides)
        and min(sides) <= SMALL_SIDE
    )


def nudge(writer: Writer, operator: Operator, name: str) -> str:
    """Requantize to a scale 0.01% larger, which no optimizer removes."""
    source = operator.inputs[0]
    assert isinstance(source, Quantized)
    scale = at_bits(writer.network.scales[source.tensor], 16)
    nudged = Scale(scale=scale.scale * NUDGE, zero_point=scale.zero_point)
    return writer.pair(name, name=f"{operator.name}_nudged", scale=nudged)


def signed(writer: Writer, operator: Operator, name: str) -> str:
    """Hand a 16-bit product its second activation as int16, as exports do: uint16 is taken at 8 bits."""
    source = operator.inputs[1]
    if not isinstance(source, Quantized):
        return name
    scale = at_bits(writer.network.scales[source.tensor], 16)
    if scale.zero_point.dtype != np.uint16:
        return name
    reach = max(int(scale.zero_point), 65535 - int(scale.zero_point)) / 32767
    symmetric = Scale(scale=scale.scale * reach, zero_point=np.asarray(0, np.int16))
    return writer.pair(name, name=f"{operator.name}_signed", scale=symmetric)


def write_outputs(writer: Writer) -> dict[str, str]:
    """Write what stands in front of the graph's outputs; returns the new name of each renamed tensor."""
    renamed = {}
    for output, source in writer.network.outputs.items():
        if isinstance(source, Quantized):
            renamed[writer.activation(source.tensor, writer.owner[source.tensor])] = output
    return renamed


def assemble(writer: Writer, *, outputs: Mapping[str, str], plan: Mapping[str, str]) -> onnx.ModelProto:
    """Put nodes, constants and metadata into a model with the interface of the original."""
    for node in writer.nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = outputs.get(name, name)
    original = writer.network.proto
    read = {name for node in writer.nodes for name in node.input}
    made = {**writer.network.constants, **writer.constants}
    graph = helper.make_graph(
        writer.nodes,
        original.graph.name,
        list(original.graph.input),
        list(original.graph.output),
        [tensor for name, tensor in made.items() if name in read],
    )
    model = helper.make_model(
        graph, opset_imports=list(original.opset_import), ir_version=original.ir_version
    )
    metadata = {entry.key: entry.value for entry in original.metadata_props}
    set_metadata(model, {**metadata, PLAN_KEY: json.dumps(dict(plan))})
    return model
