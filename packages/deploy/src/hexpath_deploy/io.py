"""Quantized inputs and outputs: move Quantize and Dequantize from the NPU to the host.

A QDQ graph takes float images and returns float tensors, so the NPU spends time
on a Quantize node at its input and a Dequantize node at each output. This pass
takes these nodes off: the graph then takes the quantized image and returns
quantized tensors, and the scales stand in the metadata `hexpath.boundary`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import onnx
from onnx import numpy_helper

from hexpath_deploy.errors import MetadataError
from hexpath_deploy.reference.hexpath_reference import Array, Floats, dequantize_one, quantize

KEY = "hexpath.boundary"
DTYPES = {
    "uint8": onnx.TensorProto.UINT8,
    "int8": onnx.TensorProto.INT8,
    "uint16": onnx.TensorProto.UINT16,
    "int16": onnx.TensorProto.INT16,
}


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """value = (stored - zero_point) * scale, `stored` of type `dtype`."""

    scale: float
    zero_point: int
    dtype: str

    def quantize(self, values: Floats) -> Array:
        """Return the stored numbers of `values`, rounded half to even and saturated,
        as QuantizeLinear does.
        """
        return quantize(values, scale=self.scale, zero_point=self.zero_point, dtype=self.dtype)

    def dequantize(self, stored: Array) -> Floats:
        """Return the values of `stored` as float32."""
        return dequantize_one(stored, scale=self.scale, zero_point=self.zero_point)


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The tensors at the graph's border that are quantized; those not named are float."""

    inputs: Mapping[str, Encoding]
    outputs: Mapping[str, Encoding]

    def to_json(self) -> str:
        """Return the text for the metadata."""
        return json.dumps(asdict(self))

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


NONE = Boundary(inputs={}, outputs={})


def read_boundary(metadata: Mapping[str, str]) -> Boundary:
    """Read `hexpath.boundary`; without it every tensor at the border is float."""
    if KEY not in metadata:
        return NONE
    try:
        sides = json.loads(metadata[KEY])
        return Boundary(
            **{
                side: {name: Encoding(**entry) for name, entry in sides[side].items()}
                for side in ("inputs", "outputs")
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetadataError(
            f"metadata '{KEY}' cannot be read ({error!r}): compile the model again"
        ) from error


def quantize_io(proto: onnx.ModelProto) -> Boundary:
    """Take QuantizeLinear off the inputs and DequantizeLinear off the outputs, in place.

    A tensor whose scale is not one number, or that meets no such node, stays float.
    """
    inputs = {
        value.name: encoding
        for value in proto.graph.input
        if (encoding := strip_input(proto.graph, value)) is not None
    }
    outputs = {
        value.name: encoding
        for value in proto.graph.output
        if (encoding := strip_output(proto.graph, value)) is not None
    }
    boundary = Boundary(inputs=inputs, outputs=outputs)
    if boundary:
        set_metadata(proto, {KEY: boundary.to_json()})
    return boundary


def strip_input(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> Encoding | None:
    """Let the graph take what its QuantizeLinear nodes would make of the input."""
    users = [node for node in graph.node if value.name in node.input]
    encodings = {encoding_of(graph, node) if node.op_type == "QuantizeLinear" else None for node in users}
    if len(encodings) != 1 or (encoding := encodings.pop()) is None:
        return None
    for node in users:
        rename_input(graph, old=node.output[0], new=value.name)
        graph.node.remove(node)
    value.type.tensor_type.elem_type = DTYPES[encoding.dtype]
    return encoding


def strip_output(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> Encoding | None:
    """Let the graph return what its last DequantizeLinear node reads."""
    last = next((node for node in graph.node if value.name in node.output), None)
    if last is None or last.op_type != "DequantizeLinear":
        return None
    encoding = encoding_of(graph, last)
    maker = next((node for node in graph.node if last.input[0] in node.output), None)
    if encoding is None or maker is None or last.input[0] in {output.name for output in graph.output}:
        return None
    detach(graph, last=last, maker=maker, name=value.name)
    value.type.tensor_type.elem_type = DTYPES[encoding.dtype]
    return encoding


def detach(graph: onnx.GraphProto, *, last: onnx.NodeProto, maker: onnx.NodeProto, name: str) -> None:
    """Give the quantized tensor the output's name; keep the DequantizeLinear for readers inside the graph."""
    stored, inside = last.input[0], f"{name}_dequantized"
    if any(name in node.input for node in graph.node):
        rename_input(graph, old=name, new=inside)
        last.output[0] = inside
    else:
        graph.node.remove(last)
    rename_input(graph, old=stored, new=name)
    maker.output[list(maker.output).index(stored)] = name
    for info in [info for info in graph.value_info if info.name in (stored, name)]:
        graph.value_info.remove(info)


def rename_input(graph: onnx.GraphProto, *, old: str, new: str) -> None:
    """Let every reader of `old` read `new`."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def encoding_of(graph: onnx.GraphProto, node: onnx.NodeProto) -> Encoding | None:
    """Return the encoding of a Quantize- or DequantizeLinear node,
    or None when it is not one per-tensor constant.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in node.input[1:]}
    constants |= {
        made.output[0]: attribute.t
        for made in graph.node
        if made.op_type == "Constant"
        for attribute in made.attribute
        if attribute.name == "value" and made.output[0] in node.input[1:]
    }
    if len(node.input) < 3 or any(name not in constants for name in node.input[1:]):
        return None
    scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
    if scale.size != 1 or str(zero.dtype) not in DTYPES:
        return None
    return Encoding(scale=float(scale.reshape(())), zero_point=int(zero.reshape(())), dtype=str(zero.dtype))


def set_metadata(proto: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Set entries of metadata_props, replacing those of the same key."""
    kept = {entry.key: entry.value for entry in proto.metadata_props} | dict(entries)
    del proto.metadata_props[:]
    for key, value in kept.items():
        proto.metadata_props.add(key=key, value=value)
