"""Which operator belongs to which region.

A model that hexpath-quant exported says so in its metadata `hexpath.regions`. Any other one is divided by
the names of its weights: `model.4.cv1.conv.weight` belongs to `model.4`, and what leads to one output of the
graph only belongs to `head.<output>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hexpath_deploy.errors import MetadataError
from hexpath_deploy.model import json_object
from hexpath_deploy.regions.network import WEIGHTED, Constant, Network, Operator

KEY = "hexpath.regions"
SUFFIXES = ("_qdq", "_dq", "_DequantizeLinear_Output", "_DequantizeLinear_Output_0")


def read_regions(network: Network) -> dict[str, str]:
    """Return the region of each operator by its name; regions appear in the order of the graph.

    Raises:
        MetadataError: the metadata names operators that the graph does not have, or one twice.
    """
    metadata = {entry.key: entry.value for entry in network.proto.metadata_props}
    given = claimed(metadata, network) if KEY in metadata else derived(network)
    regions: dict[str, str] = {}
    for operator in network.operators:
        regions[operator.name] = given.get(operator.name) or inherited(network, operator, regions)
    return backfill(network, regions)


def names_of(regions: Mapping[str, str]) -> tuple[str, ...]:
    """Return the regions' names in order."""
    return tuple(dict.fromkeys(regions.values()))


def claimed(metadata: Mapping[str, str], network: Network) -> dict[str, str]:
    """Return the region of each operator that the metadata names."""
    known = {operator.name for operator in network.operators}
    found: dict[str, str] = {}
    for region, names in json_object(metadata[KEY], KEY).items():
        if not isinstance(names, list):
            raise MetadataError(
                f"metadata '{KEY}': region '{region}' holds {names!r:.60}, expected a list of names"
            )
        for name in names:
            if name not in known:
                raise MetadataError(
                    f"metadata '{KEY}': region '{region}' names operator '{name}', which the graph "
                    "does not have: export the model again"
                )
            if found.setdefault(name, region) != region:
                raise MetadataError(
                    f"metadata '{KEY}': operator '{name}' is in regions '{found[name]}' and '{region}'"
                )
    return found


def inherited(network: Network, operator: Operator, regions: Mapping[str, str]) -> str:
    """Return the region of the latest operator that this one reads from; empty where there is none."""
    order = {region: place for place, region in enumerate(names_of(regions))}
    makers = network.makers
    found = [regions[makers[name].name] for name in operator.reads if name in makers]
    return max((region for region in found if region), key=order.__getitem__, default="")


def backfill(network: Network, regions: dict[str, str]) -> dict[str, str]:
    """Give what stands before the first named operator the region of its reader."""
    for operator in reversed(network.operators):
        if not regions[operator.name]:
            made = set(operator.node.output)
            readers = [regions[each.name] for each in network.operators if made & set(each.reads)]
            regions[operator.name] = next((region for region in readers if region), "all")
    return regions


def derived(network: Network) -> dict[str, str]:
    """Return the region of each operator that has weights, by their names and by the outputs it leads to."""
    paths = {each.name: path for each in network.operators if (path := module_path(each))}
    depth = common_depth(list(paths.values()))
    heads = head_of(network)
    return {name: heads.get(name) or ".".join(path[: depth + 1]) for name, path in paths.items()} | {
        name: head for name, head in heads.items() if name not in paths
    }


def module_path(operator: Operator) -> tuple[str, ...]:
    """Return `("model", "4", "cv1", "conv")` of an operator with the weight model.4.cv1.conv.weight."""
    index = WEIGHTED.get(operator.node.op_type)
    if index is None or index >= len(operator.inputs):
        return ()
    weight = operator.inputs[index]
    name = weight.name if isinstance(weight, Constant) else ""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return tuple(name.split("."))[:-1] if "." in name else (name,) if name else ()


def common_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """Return how many leading parts all paths share."""
    depth = 0
    while paths and all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return depth


def head_of(network: Network) -> dict[str, str]:
    """Return `head.<output>` (dots for underscores) for each operator that leads to that output alone.

    A graph with a single output has no such operators.
    """
    if len(network.outputs) < 2:
        return {}
    leads: dict[str, set[str]] = {}
    for output, source in network.outputs.items():
        leads.setdefault(source if isinstance(source, str) else getattr(source, "tensor", output), set()).add(
            output
        )
    heads = {}
    for operator in reversed(network.operators):
        reached = set().union(*(leads.get(name, set()) for name in operator.node.output))
        for name in operator.reads:
            leads.setdefault(name, set()).update(reached)
        if len(reached) == 1:
            heads[operator.name] = f"head.{next(iter(reached))}".replace("_", ".")
    return heads
