"""Cutting a region out of the network, to show how far isolated regions are from adding up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto, helper

from hexpath_deploy.regions.network import Network, Quantized
from hexpath_deploy.regions.rewrite import rewrite


def isolate(network: Network, *, regions: Mapping[str, str], region: str) -> onnx.ModelProto:
    """Return one region at w8a8 as a model: its inputs and outputs are the tensors at its borders, float."""
    whole = rewrite(network, regions=regions, plan={})
    inside = [operator for operator in network.operators if regions[operator.name] == region]
    made = {name for operator in inside for name in operator.node.output}
    outside = {*network.inputs, *network.makers} - made
    inputs = dict.fromkeys(name for each in inside for name in each.reads if name in outside)
    outputs = ends(network, whole, made=made, inside={operator.name for operator in inside})
    nodes = leading_to(whole, outputs.values(), stop=inputs)
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        region,
        [described(network, tensor, name=tensor) for tensor in inputs],
        [described(network, tensor, name=name) for tensor, name in outputs.items()],
        [tensor for tensor in whole.graph.initializer if tensor.name in read],
    )
    return helper.make_model(graph, opset_imports=list(whole.opset_import), ir_version=whole.ir_version)


def ends(
    network: Network, whole: onnx.ModelProto, *, made: Iterable[str], inside: Iterable[str]
) -> dict[str, str]:
    """Return the name after its DequantizeLinear of each tensor that leaves the region."""
    leaving = {name for each in network.operators if each.name not in inside for name in each.reads}
    leaving |= {s.tensor if isinstance(s, Quantized) else str(s) for s in network.outputs.values()}
    quantized = {
        node.input[0]: node.output[0] for node in whole.graph.node if node.op_type == "QuantizeLinear"
    }
    stored = {
        node.input[0]: node.output[0] for node in whole.graph.node if node.op_type == "DequantizeLinear"
    }
    return {name: stored.get(quantized.get(name, ""), name) for name in made if name in leaving}


def leading_to(model: onnx.ModelProto, ends: Iterable[str], *, stop: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the tensors `ends` need, up to the tensors `stop`, in order."""
    makers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    waiting, seen, needed = list(ends), set(stop), set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name in makers:
            seen.add(name)
            needed.add(makers[name])
            waiting += model.graph.node[makers[name]].input
    return [model.graph.node[index] for index in sorted(needed)]


def described(network: Network, tensor: str, *, name: str) -> onnx.ValueInfoProto:
    """Return a float value of the shape of `tensor`."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, network.shapes[tensor])
