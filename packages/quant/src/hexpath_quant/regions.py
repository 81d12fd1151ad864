"""Regions: named parts of a network, from its module tree, so that people and tools mean the same parts.

A prepared model is a traced graph; each operator carries the modules whose forward made it, their classes
and the shape of its output. That is enough to name the parts of nets never seen before:

- named children keep their names (``conv1``, ``layer3``, ``decode_head``);
- numbered children (of a Sequential or ModuleList) are named by what they are: ``stem``, ``stage2`` to
  ``stage5`` (outputs at 1/4 to 1/32 of the image), ``sppf``, ``attention``, after an upsampling ``neck``;
- what makes the outputs is the head; with several outputs its branches are named by them (``head.boxes.8``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch.fx
import yaml
from torch import Tensor, nn

from hexpath_quant.errors import OutputError, PlanError, UnknownNameError, nearest, unknown_name
from hexpath_quant.prepare import SHAPE, prepare
from hexpath_quant.qdq import DEQUANTIZE, QUANTIZE
from hexpath_quant.static import operator_of

Regions = dict[str, tuple[str, ...]]

KEY = "hexpath.regions"  # of the ONNX metadata
NO_OPERATORS = (QUANTIZE, DEQUANTIZE, "Constant")
LEVELS = ("block", "layer")
BRANCHES = {"cv2": "boxes", "cv3": "scores", "cv4": "masks", "proto": "prototypes"}  # of Ultralytics' heads
LARGE = 0.5  # a child with a larger share of the operators is no part of the net but most of it


def regions_of(
    model: nn.Module,
    *,
    level: str = "block",
    output_names: Sequence[str] = (),
    overrides: Mapping[str, Sequence[str]] | None = None,
    example: Tensor | None = None,
) -> Regions:
    """Return region -> module-path prefixes, in the order of execution.

    Every operator belongs to one region: that of its longest prefix; an operator that only moves data, or
    stands outside every module, belongs to the region that it reads from. See ``regions_of_nodes``.

    Args:
        model: from ``prepare``, or the simulation's model; another module is prepared with ``example``.
        level: ``block``, or ``layer``: one region a module with weights.
        output_names: name the head's branches.
        overrides: region -> module prefixes that replace or refine the derived ones.
        example: float32 (1, 3, H, W); not used when ``model`` is prepared already.

    Raises:
        UnknownNameError: unknown level, or an override's prefix that no module has.
    """
    if level not in LEVELS:
        raise unknown_name(kind="level", name=level, known=LEVELS)
    if not isinstance(model, torch.fx.GraphModule):
        if example is None:
            raise UnknownNameError(
                f"{type(model).__name__} is not prepared; give an example input, or prepare(model) first"
            )
        model = prepare(model, example=example)
    net = _Net(model.graph, model=model, output_names=output_names)
    own = _by_layer(net) if level == "layer" else _by_block(net)
    _inherit(net, own)
    owners = {op.path: own[op.node.name] for op in net.ops}
    return _prefixes(_override(owners, overrides or {}))


def regions_of_nodes(graph: torch.fx.Graph, *, regions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return graph node name -> region for every node that computes or moves tensors."""
    owner = {prefix: region for region, prefixes in regions.items() for prefix in prefixes}
    found: dict[str, str] = {}
    waiting: list[torch.fx.Node] = []
    for node in graph.nodes:
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        region = _longest(str(node.target), owner) if node.op == "call_module" else None
        sources = (found[a.name] for a in node.all_input_nodes if a.name in found)
        region = region or next(sources, None)
        if region is None:
            waiting.append(node)
        else:
            found[node.name] = region
    for node in reversed(waiting):  # in front of the first module: the region that reads it
        readers = (found[user.name] for user in node.users if user.name in found)
        found[node.name] = next(readers, next(iter(regions), ""))
    return found


def onnx_regions(model: onnx.ModelProto, *, owner: Mapping[str, str]) -> dict[str, list[str]]:
    """Return region -> names of the operators' ONNX nodes; constants, Q and DQ are no operators.

    Args:
        model: exported inside ``named_operators``.
        owner: graph node -> region, from ``regions_of_nodes``.
    """
    found: dict[str, list[str]] = {region: [] for region in dict.fromkeys(owner.values())}
    makers: dict[str, str] = {}
    for node in model.graph.node:
        region = owner.get(operator_of(node.name))
        if region is None:  # a node that the exporter added
            region = next((makers[name] for name in node.input if name in makers), None)
        makers |= {name: region for name in node.output if region is not None}
        if region is not None and node.op_type not in NO_OPERATORS:
            found[region].append(node.name)
    return {region: nodes for region, nodes in found.items() if nodes}


def read_overrides(path: Path) -> Regions:
    """Read a YAML file: region -> one module prefix or a list of them.

    Raises:
        OutputError: no such file.
        PlanError: not such a mapping.
    """
    if not path.is_file():
        raise OutputError(f"--regions {path} does not exist")
    content = _yaml(path)
    if not isinstance(content, dict) or not content:
        raise PlanError(f"{path} is no mapping of regions to module prefixes, e.g. 'head: [model.23]'")
    found: Regions = {}
    for region, prefixes in content.items():
        listed = [prefixes] if isinstance(prefixes, str) else prefixes
        if not isinstance(listed, list) or not listed or not all(isinstance(p, str) for p in listed):
            raise PlanError(f"{path}: region '{region}' must list module prefixes, found {prefixes!r}")
        found[str(region)] = tuple(listed)
    return found


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise PlanError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


# --- what is known of the net ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Op:
    """A module that the graph calls: its path, the classes around it by path, its output's stride."""

    node: torch.fx.Node
    path: str
    classes: Mapping[str, str]
    stride: int | None
    outputs: frozenset[int]
    weights: bool


class _Net:
    """The operators in order, which modules are real ones, which outputs each operator reaches."""

    def __init__(
        self, graph: torch.fx.Graph, *, model: torch.fx.GraphModule, output_names: Sequence[str]
    ) -> None:
        nodes = list(graph.nodes)
        results = _flat(nodes[-1].args)
        self.output_names = list(output_names) or [f"output{index}" for index in range(len(results))]
        self.emitters = {_maker(node) for node in results}
        reached = _reached(nodes, results)
        area = next((_shape(n)[-2:] for n in nodes if n.op == "placeholder" and len(_shape(n)) == 4), (0, 0))
        self.ops = [
            _Op(
                node=node,
                path=str(node.target),
                classes=_classes(node),
                stride=_stride(_shape(node), area=area),
                outputs=reached[node.name],
                weights=any(
                    True for _ in model.get_submodule(str(node.target)).named_parameters(recurse=False)
                ),
            )
            for node in nodes
            if node.op == "call_module"
        ]
        self.real = {part for op in self.ops for path in op.classes for part in _ancestors(path)}
        self.called = {path for op in self.ops for path in op.classes}

    def under(self, prefix: str) -> list[_Op]:
        """Return the operators of a module."""
        return [op for op in self.ops if not prefix or _within(op.path, prefix)]

    def children(self, prefix: str) -> list[str]:
        """Return the real child modules with operators, in order."""
        depth = len(prefix.split(".")) if prefix else 0
        found = [".".join(op.path.split(".")[: depth + 1]) for op in self.under(prefix)]
        return [path for path in dict.fromkeys(found) if path in self.real and path != prefix]

    def emits(self, prefix: str) -> bool:
        """Return whether an output of the net comes straight from this module."""
        return any(op.node in self.emitters for op in self.under(prefix))


def _flat(value: Any) -> list[torch.fx.Node]:
    found: list[torch.fx.Node] = []
    torch.fx.node.map_arg(value, lambda node: found.append(node))
    return found


def _maker(node: torch.fx.Node) -> torch.fx.Node:
    """Return the module call behind functions that only move data."""
    while node.op in ("call_function", "call_method") and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _reached(nodes: Sequence[torch.fx.Node], results: Sequence[torch.fx.Node]) -> dict[str, frozenset[int]]:
    found: dict[str, frozenset[int]] = {}
    for node in reversed(nodes[:-1]):
        own = frozenset(index for index, result in enumerate(results) if result is node)
        found[node.name] = own.union(*(found.get(user.name, frozenset()) for user in node.users))
    return found


def _shape(node: torch.fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's output; operators that preparation added have that of their input."""
    if SHAPE not in node.meta and node.op == "call_module" and node.all_input_nodes:
        return _shape(node.all_input_nodes[0])
    return tuple(node.meta.get(SHAPE, ()))


def _stride(shape: tuple[int, ...], *, area: Sequence[int]) -> int | None:
    """Return image height over map height (for tokens: the square root of the areas' ratio), if whole."""
    if len(shape) == 4 and shape[2]:
        ratio = area[0] / shape[2]
    elif len(shape) == 3 and shape[1]:
        ratio = math.sqrt(area[0] * area[1] / shape[1])
    else:
        return None
    return int(ratio) if ratio >= 1 and ratio == int(ratio) else None


def _classes(node: torch.fx.Node) -> dict[str, str]:
    stack = node.meta.get("nn_module_stack", {}).values()
    return {str(path): kind if isinstance(kind, str) else kind.__name__ for path, kind in stack}


def _ancestors(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))


def _within(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + ".")


def _longest(path: str, owner: Mapping[str, str]) -> str | None:
    return next((owner[prefix] for prefix in reversed(list(_ancestors(path))) if prefix in owner), None)


# --- which block is what --------------------------------------------------------------------------------


def _by_layer(net: _Net) -> dict[str, str]:
    return {op.node.name: op.path for op in net.ops if op.weights}


def _by_block(net: _Net) -> dict[str, str]:
    """Return node name -> region; operators outside every block, and blocks without weights, are left out."""
    own: dict[str, str] = {}
    stage = _Stages()
    for block in _blocks(net):
        ops = net.under(block)
        if net.emits(block):
            own |= _head(net, block)
        elif _number(block):
            own |= dict.fromkeys((op.node.name for op in ops), stage.name(block, ops=ops))
        elif any(op.weights for op in ops):
            own |= dict.fromkeys((op.node.name for op in ops), _free_of_numbers(block))
    return own


def _blocks(net: _Net) -> list[str]:
    """Return the paths of the net's blocks: top-level children, containers and the bulk of the net opened."""
    found, again = net.children(""), True
    while again:
        again = False
        opened: list[str] = []
        for path in found:
            inner = net.children(path)
            large = len(net.under(path)) > LARGE * len(net.ops) and len(inner) > 1
            # A numbered child is a block, also where a rewritten forward calls only what is in it.
            whole = path in net.called or _number(path)
            if inner and (large or not whole):
                opened, again = opened + inner, True
            else:
                opened.append(path)
        found = opened
    first = {path: index for index, op in reversed(list(enumerate(net.ops))) for path in _ancestors(op.path)}
    return sorted(found, key=first.__getitem__)


def _number(path: str) -> bool:
    return path.rpartition(".")[2].isdigit()


def _free_of_numbers(path: str) -> str:
    return path.rpartition(".")[2]


class _Stages:
    """Names numbered blocks, one after the other, by class and stride."""

    def __init__(self) -> None:
        self.last, self.coarsest, self.upsampled = "stem", 0, False

    def name(self, block: str, *, ops: Sequence[_Op]) -> str:
        """Return the name of the next block."""
        kind = next((op.classes[block] for op in ops if block in op.classes), "")
        stride = next((op.stride for op in reversed(ops) if op.stride), None)
        self.upsampled |= stride is not None and stride < self.coarsest
        self.coarsest = max(self.coarsest, stride or 0)
        if self.upsampled:
            self.last = "neck"
        elif "SPP" in kind:
            self.last = "sppf" if "SPPF" in kind else "spp"
        elif "PSA" in kind or "Attention" in kind:
            self.last = "attention"
        elif stride is not None:
            self.last = "stem" if stride <= 2 else f"stage{round(math.log2(stride))}"
        return self.last


def _head(net: _Net, block: str) -> dict[str, str]:
    """Return node name -> region of a block that makes outputs."""
    own = "head" if _number(block) else _free_of_numbers(block)
    ops, inner = net.under(block), net.children(block)
    several = len(net.output_names) > 1
    if not inner or not (several or any(_tail(path, block) in BRANCHES for path in inner)):
        reached = {index for op in ops for index in op.outputs}
        name = f"head.{_output(net, next(iter(reached)))}" if several and len(reached) == 1 else own
        return dict.fromkeys((op.node.name for op in ops), name)
    found: dict[str, str] = {}
    for child in inner:
        for path in [child] if child in net.called else net.children(child):
            for op in net.under(path):
                found[op.node.name] = "head." + _branch(net, op, path=path, block=block)
    return found


def _tail(path: str, block: str) -> str:
    return path[len(block) + 1 :].split(".")[0]


def _branch(net: _Net, op: _Op, *, path: str, block: str) -> str:
    """Return a branch's name: by the output that it alone reaches, by Ultralytics' names, by its own."""
    tail = _tail(path, block)
    own = BRANCHES.get(tail.removeprefix("one2one_"))
    alone = len(op.outputs) == 1 and len(net.output_names) > 1
    output = _output(net, next(iter(op.outputs))) if alone else ""
    level = f".{op.stride}" if _number(path) and op.stride else ""
    if own is None and path.rpartition(".")[2] == tail and not _number(path):
        return ".".join(filter(None, (tail, output))) if output != tail else tail
    name = output or own or tail
    return name if name.rpartition(".")[2].isdigit() else name + level


def _output(net: _Net, index: int) -> str:
    return net.output_names[index].replace("_", ".")


# --- from operators to prefixes -------------------------------------------------------------------------


def _inherit(net: _Net, own: dict[str, str]) -> None:
    """Give an operator without a region that of the last one that it reads from, else that of a reader."""
    known, order = dict(own), {op.node.name: index for index, op in enumerate(net.ops)}
    for op in net.ops:
        sources = [m.name for m in map(_maker, op.node.all_input_nodes) if m.name in known]
        if op.node.name not in known and sources:
            known[op.node.name] = known[max(sources, key=order.__getitem__)]
    for op in reversed(net.ops):
        if op.node.name not in known:
            readers = _readers(op.node)
            known[op.node.name] = next((known[r.name] for r in readers if r.name in known), "all")
    own.clear()
    own.update({op.node.name: known[op.node.name] for op in net.ops})


def _readers(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    for user in node.users:
        if user.op == "call_module":
            yield user
        else:
            yield from _readers(user)


def _override(owners: dict[str, str], overrides: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return module path -> region with the overrides' longest prefixes put first."""
    wanted = {prefix: region for region, prefixes in overrides.items() for prefix in prefixes}
    known = {prefix for path in owners for prefix in _ancestors(path)}
    for prefix in wanted:
        if prefix not in known:
            raise UnknownNameError(f"no module has the prefix '{prefix}'{nearest(name=prefix, known=known)}")
    return {path: _longest(path, wanted) or region for path, region in owners.items()}


def _prefixes(owners: Mapping[str, str]) -> Regions:
    """Return region -> the shortest prefixes that lead to its modules alone."""
    under: dict[str, set[str]] = {}
    for path, region in owners.items():
        for prefix in _ancestors(path):
            under.setdefault(prefix, set()).add(region)
    found: dict[str, dict[str, None]] = {}
    for path, region in owners.items():
        prefix = next(prefix for prefix in _ancestors(path) if under[prefix] == {region} or prefix == path)
        found.setdefault(region, {})[prefix] = None
    return {region: tuple(prefixes) for region, prefixes in found.items()}
