"""Does a model's graph do what its metadata and its own encodings say? Checked whenever a model is read.

What is found here without running anything: a plan that the graph does not follow, a scale that contradicts
its
neighbours, a stride or class list that cannot be. What takes a run to find is in `diagnose`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hexpath_deploy.errors import EncodingError, MetadataError

Array: TypeAlias = npt.NDArray[Any]
UNIFORM = re.compile(r"w(?P<weights>4|8|16)a(?P<activations>8|16)")
BITS = {
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.INT32: 32,
}
# The bias is stored at input scale x weight scale; float32 products differ by rounding alone.
SCALE_TOLERANCE = 1e-3
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A Quantize or Dequantize node with its encoding. `weight`: it reads a constant."""

    node: onnx.NodeProto
    scale: Array
    zero_point: Array
    bits: int
    weight: bool

    @property
    def tensor(self) -> str:
        """The tensor that it quantizes, or that it restores."""
        return str(self.node.input[0] if self.node.op_type == "QuantizeLinear" else self.node.output[0])


class Graph:
    """A graph with what is needed to look around in it."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = list(proto.graph.node)
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer} | {
            node.output[0]: attribute.t
            for node in proto.graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self.maker = {name: node for node in self.nodes for name in node.output}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Nodes by the tensor that they read."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                found[name].append(node)
        return found

    @cached_property
    def encoded(self) -> dict[str, Encoded]:
        """Quantize and Dequantize nodes with constant encodings, by the tensor that they write."""
        found = {}
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
                parts = [self.constants.get(name) for name in node.input[1:3]]
                if parts[0] is None or parts[1] is None:
                    continue
                found[node.output[0]] = Encoded(
                    node=node,
                    scale=numpy_helper.to_array(parts[0]),
                    zero_point=numpy_helper.to_array(parts[1]),
                    bits=BITS.get(parts[1].data_type, 0),
                    weight=self.is_constant(node.input[0]),
                )
        return found

    def is_constant(self, name: str) -> bool:
        """Say whether a tensor is a constant, or a quantized constant."""
        if name in self.constants:
            return True
        maker = self.maker.get(name)
        return maker is not None and maker.op_type == "QuantizeLinear" and maker.input[0] in self.constants


def check_sanity(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Hold a model's metadata and encodings against its graph.

    Raises:
        MetadataError: stride, names or plan are not the graph's.
        EncodingError: an encoding cannot be right.
    """
    graph = Graph(proto)
    check_names_differ(metadata)
    check_stride(metadata)
    check_scales(graph)
    check_pairs(graph)
    check_biases(graph)
    check_plan(graph, metadata)


def check_names_differ(metadata: Mapping[str, str]) -> None:
    """Refuse two classes of one name."""
    names = re.findall(r"\d+\s*:\s*'([^']*)'", metadata.get("names", ""))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise MetadataError(f"metadata 'names' has '{twice[0]}' twice: another model's, or edited by hand")


def check_stride(metadata: Mapping[str, str]) -> None:
    """Hold `stride` against the levels of `hexpath.outputs`: it is the largest of them."""
    try:
        stride = int(metadata["stride"])
        levels = [int(level["stride"]) for level in json.loads(metadata["hexpath.outputs"])["levels"]]
    except (KeyError, ValueError, TypeError):
        return  # not told, or told badly: reading the head says so
    if levels and max(levels) != stride:
        raise MetadataError(
            f"metadata 'stride' is {stride}, but the deepest level of hexpath.outputs has stride "
            f"{max(levels)}: "
            "one of them is another model's"
        )


def check_scales(graph: Graph) -> None:
    """Refuse scales that are no positive numbers."""
    for each in graph.encoded.values():
        if not (np.isfinite(each.scale).all() and (each.scale > 0).all()):
            raise EncodingError(
                f"the scale of '{each.tensor}' is {each.scale.ravel()[0]}, which is no positive number: "
                "quantize again"
            )


def check_pairs(graph: Graph) -> None:
    """What is quantized with one encoding must be restored with the same."""
    for name, each in graph.encoded.items():
        if each.node.op_type != "QuantizeLinear":
            continue
        for reader in graph.readers.get(name, []):
            other = graph.encoded.get(reader.output[0])
            if reader.op_type != "DequantizeLinear" or other is None:
                continue
            if not same(each.scale, other.scale):
                raise EncodingError(
                    f"'{each.tensor}' is quantized with scale {each.scale.ravel()[0]:.6g} and restored with "
                    f"{other.scale.ravel()[0]:.6g}: a wrong scale in its encoding, export again"
                )
            if not np.array_equal(each.zero_point, other.zero_point):
                raise EncodingError(
                    f"'{each.tensor}' is quantized with zero point {each.zero_point.ravel()[0]} and "
                    "restored with "
                    f"{other.zero_point.ravel()[0]}: a wrong offset in its encoding, export again"
                )


def check_biases(graph: Graph) -> None:
    """An int32 bias is stored at input scale x weight scale: the NPU adds it to products of the two."""
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or len(node.input) < 3:
            continue
        image, weight, bias = (graph.encoded.get(name) for name in node.input[:3])
        if image is None or weight is None or bias is None or bias.bits != 32:
            continue
        wanted = image.scale.astype(np.float64) * weight.scale.astype(np.float64)
        if not same(bias.scale, wanted):
            ratio = float(np.median(bias.scale.astype(np.float64) / wanted))
            raise EncodingError(
                f"{node.op_type} '{node.name}': the scale of its bias is {ratio:.4g} times input scale x "
                "weight "
                f"scale, expected 1: a wrong scale in the encoding of '{image.tensor}' or "
                f"'{weight.tensor}'; the "
                "NPU computes something else than ONNX Runtime, quantize again"
            )


def same(first: Array, second: Array) -> bool:
    """Are two scales, or vectors of scales, equal up to rounding?"""
    one, two = first.astype(np.float64), second.astype(np.float64)
    if one.size != two.size and 1 not in (one.size, two.size):
        return False
    return bool(np.allclose(one, two, rtol=SCALE_TOLERANCE, atol=0))


# --- the plan -----------------------------------------------------------------------------------------------


def check_plan(graph: Graph, metadata: Mapping[str, str]) -> None:
    """Hold `hexpath.plan` and `hexpath.plan_regions` against the bits of the graph."""
    plan = metadata.get("hexpath.plan", "")
    quantized = [each for each in graph.encoded.values() if each.node.op_type == "QuantizeLinear"]
    if plan in ("fp32", "fp16") and quantized:
        raise MetadataError(
            f"metadata 'hexpath.plan' is '{plan}', but '{quantized[0].tensor}' is quantized to "
            f"{quantized[0].bits} bits: the metadata is another model's"
        )
    regions = read_regions(metadata)
    found = UNIFORM.fullmatch(plan)
    if found is not None and not regions:
        check_uniform(graph, plan=plan, activations=int(found["activations"]), weights=int(found["weights"]))
    if regions:
        check_regions(graph, regions=regions, nodes=read_nodes(metadata))


def check_uniform(graph: Graph, *, plan: str, activations: int, weights: int) -> None:
    """Every activation and weight has at least the plan's bits, and most have exactly these."""
    kinds = {
        "activations": (activations, list(activation_bits(graph))),
        "weights": (weights, list(weight_bits(graph))),
    }
    for kind, (wanted, found) in kinds.items():
        narrow = [(name, bits) for name, bits in found if bits < wanted]
        counts = Counter(bits for _, bits in found)
        if found and counts.most_common(1)[0][0] != wanted:
            raise MetadataError(
                f"metadata 'hexpath.plan' is '{plan}', but {counts.most_common(1)[0][1]} of {len(found)} "
                f"{kind} of "
                f"the graph have {counts.most_common(1)[0][0]} bits: the plan's name is wrong, or the "
                "export is"
            )
        if narrow:
            raise MetadataError(
                f"metadata 'hexpath.plan' is '{plan}', but '{narrow[0][0]}' has {narrow[0][1]} bits, not "
                f"{wanted} "
                f"({len(narrow)} of {len(found)} {kind} are too narrow): export again"
            )


def activation_bits(graph: Graph) -> Iterator[tuple[str, int]]:
    """Yield quantized activations with their bits; not a MatMul's second operand, which HTP takes at 8."""
    for name, each in graph.encoded.items():
        quantizes = each.node.op_type == "QuantizeLinear" and each.node.input[0] not in graph.constants
        if quantizes and not each.weight and not is_second_factor(graph, name):
            yield each.tensor, each.bits


def is_second_factor(graph: Graph, name: str) -> bool:
    """Say whether a quantized tensor is only read, once restored, as the second operand of a MatMul."""
    restored = [node.output[0] for node in graph.readers.get(name, []) if node.op_type == "DequantizeLinear"]
    readers = [(node, tensor) for tensor in restored for node in graph.readers.get(tensor, [])]
    return bool(readers) and all(
        node.op_type == "MatMul" and list(node.input).index(tensor) == 1 for node, tensor in readers
    )


def weight_bits(graph: Graph) -> Iterator[tuple[str, int]]:
    """Yield the weights of convolutions and products with their bits."""
    for node in graph.nodes:
        if node.op_type in WEIGHTED:
            each = graph.encoded.get(node.input[1])
            if each is not None and each.weight:
                yield str(each.node.input[0]), each.bits


def read_regions(metadata: Mapping[str, str]) -> dict[str, str]:
    """Read which region has which precision."""
    return {str(name): str(plan) for name, plan in read_object(metadata, "hexpath.plan_regions").items()}


def read_nodes(metadata: Mapping[str, str]) -> dict[str, str]:
    """Read which node lies in which region."""
    regions = read_object(metadata, "hexpath.regions")
    return {str(node): name for name, nodes in regions.items() for node in nodes}


def read_object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """Read a JSON object of the metadata; nothing where it is absent."""
    if not metadata.get(key):
        return {}
    try:
        found = json.loads(metadata[key])
    except json.JSONDecodeError as error:
        raise MetadataError(f"metadata '{key}' is no JSON ({error}): export again") from error
    if not isinstance(found, dict):
        raise MetadataError(f"metadata '{key}' holds a {type(found).__name__}, expected a JSON object")
    return found


def check_regions(graph: Graph, *, regions: Mapping[str, str], nodes: Mapping[str, str]) -> None:
    """No tensor inside a region may have fewer bits than the region's plan says.

    Only tensors that are written and read within one region are judged: at a border either side may decide.
    """
    for node in graph.nodes:
        region = nodes.get(node.name)
        plan = regions.get(region or "")
        if region is None or plan is None:
            continue
        wanted = UNIFORM.fullmatch(plan)
        need = {"activation": int(wanted["activations"]), "weight": int(wanted["weights"])} if wanted else {}
        for kind, name, bits in inside(graph, node=node, region=region, nodes=nodes):
            if bits < need.get(kind, 32):
                raise MetadataError(
                    f"region '{region}' is {plan} by the metadata's plan, but {kind} '{name}' of "
                    f"{node.op_type} "
                    f"'{node.name}' has {bits} bits: a layer was quantized silently, export again"
                )


def inside(
    graph: Graph, *, node: onnx.NodeProto, region: str, nodes: Mapping[str, str]
) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, tensor, bits) of a node's weights, and of its outputs that stay in the region."""
    for name in node.input[1:2] if node.op_type in WEIGHTED else []:
        each = graph.encoded.get(name)
        if each is not None and each.weight:
            yield "weight", str(each.node.input[0]), each.bits
    for output in node.output:
        for reader in graph.readers.get(output, []):
            each = graph.encoded.get(reader.output[0])
            if (
                reader.op_type == "QuantizeLinear"
                and each is not None
                and not is_second_factor(graph, reader.output[0])
            ):
                users = list(users_of(graph, reader.output[0]))
                if users and all(nodes.get(user.name) == region for user in users):
                    yield "activation", output, each.bits


def users_of(graph: Graph, quantized: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that read a quantized tensor once it is restored."""
    for node in graph.readers.get(quantized, []):
        if node.op_type == "DequantizeLinear":
            yield from graph.readers.get(node.output[0], [])
