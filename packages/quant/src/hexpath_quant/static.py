"""While a graph is exported: shapes as constants, since the NPU has no use for Shape and Gather nodes, and
ONNX nodes named after the graph nodes that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx
from torch import Tensor

# Torch's exporter computes the target of these from the input's shape, node by node.
RESHAPES = (
    torch.flatten,
    torch.unflatten,
    torch.reshape,
    "flatten",
    "unflatten",
    "reshape",
    "view",
    "view_as",
)


@contextmanager
def static_shapes(module: torch.fx.GraphModule, *, example: Tensor) -> Iterator[None]:
    """For the time of the block, every size that ``module`` reads from a tensor is that of ``example``."""
    flexible = module.graph
    fixed = torch.fx.Graph()
    fixed.output(fixed.graph_copy(flexible, {}))
    recorder = _recorded(module, example=example)
    sizes = recorder.sizes
    for node in list(fixed.nodes):
        if node.name in recorder.shapes:
            node.op, node.target, node.kwargs = "call_method", "reshape", {}
            node.args = (node.args[0], recorder.shapes[node.name])
        if node.name in sizes:
            _write_in(node, value=sizes[node.name])
    for node in reversed(list(fixed.nodes)):
        if node.name in sizes and not node.users:
            fixed.erase_node(node)
    try:
        module.graph = fixed
        yield
    finally:
        module.graph = flexible


@contextmanager
def named_operators(module: torch.fx.GraphModule) -> Iterator[None]:
    """For the time of the block, torch's exporter names each ONNX node ``/<graph node>/.../<type>``."""
    plain = module.graph
    named = torch.fx.Graph()
    named.output(named.graph_copy(plain, {}))
    for node in list(named.nodes):
        if node.op in ("call_module", "call_function", "call_method"):
            with named.inserting_before(node):
                named.call_function(_enter, (node.name,))
            with named.inserting_after(node):
                named.call_function(_leave)
    try:
        module.graph = named
        yield
    finally:
        module.graph = plain


def operator_of(name: str) -> str:
    """Return the graph node that an ONNX node's name begins with, '' if there is none."""
    return name.split("/")[1] if name.startswith("/") else ""


def _enter(name: str) -> None:
    state = torch._C._get_tracing_state()
    if state is not None:
        state.push_scope(torch._C._jit_onnx_create_full_scope_name("operator", name))


def _leave() -> None:
    state = torch._C._get_tracing_state()
    if state is not None:
        state.pop_scope()


class _Recorder(torch.fx.Interpreter):
    """Run a graph and keep the values that are sizes, and the shapes of what is only reshaped."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.sizes: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, (int, float)) or (
            isinstance(value, tuple) and all(type(v) is int for v in value)
        ):
            self.sizes[n.name] = tuple(value) if isinstance(value, tuple) else value
        if n.op in ("call_function", "call_method") and n.target in RESHAPES:
            self.shapes[n.name] = tuple(value.shape)
        return value


def _recorded(module: torch.fx.GraphModule, *, example: Tensor) -> _Recorder:
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(example)
    return recorder


def _write_in(node: torch.fx.Node, *, value: Any) -> None:
    """Put ``value`` where ``node`` is used."""
    for user in list(node.users):
        user.args = torch.fx.node.map_arg(user.args, lambda n: value if n is node else n)
        user.kwargs = torch.fx.node.map_arg(user.kwargs, lambda n: value if n is node else n)
