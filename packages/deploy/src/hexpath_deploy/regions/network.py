"""Reading a QDQ graph as a network of operators, with each tensor's encoding beside it.

What QuantizeLinear and DequantizeLinear say is taken out of the graph and kept as data; `rewrite` writes it
back for a plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hexpath_deploy.errors import OptionError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
OPSET = 21  # the first whose QuantizeLinear takes 16 and 4 bits
WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LayerNormalization": 1}
BIAS = 2
Values: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """value = (stored - zero_point) * scale; `axis` where there is one scale a channel."""

    scale: Values
    zero_point: Values
    axis: int | None = None

    @property
    def bits(self) -> int:
        """Of the stored numbers."""
        return 8 * int(self.zero_point.dtype.itemsize)

    def along(self, values: Values, *, rank: int) -> Values:
        """Return scales or zero points in a shape that broadcasts over a tensor of that rank."""
        if values.size == 1 or self.axis is None:
            return values.reshape((1,) * rank) if values.size == 1 else values
        return values.reshape([-1 if i == self.axis % rank else 1 for i in range(rank)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Constant:
    """A quantized constant: its real values, how it was stored, and what it is for the operator.

    `kind` is `weight`, `bias` or `operand` (a constant that stands where an activation could).
    """

    name: str
    values: Values
    scale: Scale
    kind: str


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """An activation that is read through QuantizeLinear and DequantizeLinear; `tensor` is the float one."""

    tensor: str


Source: TypeAlias = Constant | Quantized | str


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A node that computes; `inputs` says where each of its inputs comes from, a name where it is raw."""

    node: onnx.NodeProto
    inputs: tuple[Source, ...]

    @property
    def name(self) -> str:
        """Of the node."""
        return str(self.node.name)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors that other operators or the graph's inputs bring."""
        return tuple(
            source.tensor if isinstance(source, Quantized) else source
            for source in self.inputs
            if not isinstance(source, Constant)
        )


@dataclass(frozen=True, kw_only=True)
class Network:
    """A QDQ graph: operators in order, encodings of quantized activations, sources of the outputs."""

    proto: onnx.ModelProto
    operators: tuple[Operator, ...]
    scales: Mapping[str, Scale]
    outputs: Mapping[str, Source]
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, onnx.TensorProto]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return tuple(value.name for value in self.proto.graph.input if value.name not in self.constants)

    @property
    def makers(self) -> dict[str, Operator]:
        """The operator that makes each tensor."""
        return {name: operator for operator in self.operators for name in operator.node.output}


class Reader:
    """Look-ups over a graph while it is read."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = list(proto.graph.node)
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = constant_of(node)
        self.makers = {name: node for node in self.nodes for name in node.output}

    def scale(self, node: onnx.NodeProto) -> Scale:
        """Return what a QuantizeLinear or DequantizeLinear node says."""
        scale = numpy_helper.to_array(self.constants[node.input[1]]).astype(np.float64)
        if len(node.input) > 2 and node.input[2]:
            zero = numpy_helper.to_array(self.constants[node.input[2]])
        else:
            zero = np.zeros(scale.shape, np.uint8)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        return Scale(scale=scale, zero_point=zero, axis=axis if scale.size > 1 else None)

    def source(self, name: str, *, kind: str) -> Source:
        """Return where an input of an operator comes from."""
        maker = self.makers.get(name)
        if maker is None or maker.op_type != DEQUANTIZE:
            return name
        if maker.input[0] in self.constants:
            stored = numpy_helper.to_array(self.constants[maker.input[0]])
            scale = self.scale(maker)
            zero = scale.along(scale.zero_point.astype(np.float64), rank=stored.ndim)
            values = (stored.astype(np.float64) - zero) * scale.along(scale.scale, rank=stored.ndim)
            return Constant(name=name, values=values, scale=scale, kind=kind)
        quantize = self.makers.get(maker.input[0])
        if quantize is None or quantize.op_type != QUANTIZE:
            return name
        if quantize.input[0] in self.constants:
            values = numpy_helper.to_array(self.constants[quantize.input[0]]).astype(np.float64)
            return Constant(name=name, values=values, scale=self.scale(maker), kind=kind)
        root = self.source(quantize.input[0], kind=kind)
        return root if isinstance(root, Quantized) else Quantized(tensor=quantize.input[0])


def read_network(proto: onnx.ModelProto) -> Network:
    """Read a QDQ graph whose activations are all at 8 bits.

    Raises:
        OptionError: the graph is not quantized, its activations are not all at 8 bits, or its opset is old.
    """
    check_opset(proto)
    reader = Reader(proto)
    operators = tuple(
        Operator(node=node, inputs=tuple(read_inputs(reader, node))) for node in named(reader.nodes)
    )
    scales = read_scales(reader)
    check_base(scales)
    return Network(
        proto=proto,
        operators=operators,
        scales=scales,
        outputs={value.name: reader.source(value.name, kind="operand") for value in proto.graph.output},
        shapes=read_shapes(proto),
        constants=reader.constants,
    )


def named(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that compute, each with a name of its own."""
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        if node.op_type in (QUANTIZE, DEQUANTIZE, "Constant"):
            continue
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
        yield node


def read_inputs(reader: Reader, node: onnx.NodeProto) -> list[Source]:
    """Return the sources of a node's inputs."""
    weight = WEIGHTED.get(node.op_type)
    kinds = {weight: "weight", BIAS: "bias"} if weight is not None else {}
    return [reader.source(name, kind=kinds.get(i, "operand")) for i, name in enumerate(node.input)]


def read_scales(reader: Reader) -> dict[str, Scale]:
    """Return the encoding of each float tensor that is quantized, its first where there are several."""
    scales: dict[str, Scale] = {}
    for node in reader.nodes:
        if node.op_type == QUANTIZE and node.input[0] not in reader.constants:
            scales.setdefault(node.input[0], reader.scale(node))
    return scales


def read_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that shape inference finds."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto:
    """Return the value of a Constant node as a tensor of its output's name."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
    else:
        tensor = numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(attribute)))
    tensor.name = node.output[0]
    return tensor


def check_opset(proto: onnx.ModelProto) -> None:
    """Refuse an opset without 16-bit QuantizeLinear."""
    found = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if found < OPSET:
        raise OptionError(
            f"the model has opset {found}, 16 bits need {OPSET}: export it with opset {OPSET} or newer"
        )


def check_base(scales: Mapping[str, Scale]) -> None:
    """Refuse a graph that is not at 8 bits throughout."""
    if not scales:
        raise OptionError("the model holds no QuantizeLinear node: give its w8a8 export")
    wide = [name for name, scale in scales.items() if scale.bits != 8]
    if wide:
        raise OptionError(
            f"{len(wide)} of {len(scales)} activations are not at 8 bits (the first is '{wide[0]}'): "
            "give the w8a8 export, costs are taken from there"
        )
