"""From a float torch model to the network that the rules see."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from aimet_torch.nn import QuantizationMixin
from torch import Tensor, nn

from hexpath_quant import ops
from hexpath_quant.audit.network import Network, Op
from hexpath_quant.audit.stats import Stats
from hexpath_quant.errors import CalibrationError
from hexpath_quant.prepare import _drop_dropouts, _fold_batch_norms, check_weights, trace

MODULE_KINDS: dict[str, str] = {
    "Conv1d": "convolution",
    "Conv2d": "convolution",
    "Conv3d": "convolution",
    "ConvTranspose2d": "convolution",
    "Linear": "linear",
    "MatMul": "matmul",
    "Add": "add",
    "Subtract": "subtract",
    "Multiply": "multiply",
    "Divide": "divide",
    "Softmax": "softmax",
    "LayerNorm": "layer_norm",
    "GroupNorm": "layer_norm",
    "InstanceNorm2d": "layer_norm",
    "BatchNorm1d": "batch_norm",
    "BatchNorm2d": "batch_norm",
    "BatchNorm3d": "batch_norm",
    "SiLU": "silu",
    "GELU": "gelu",
    "Hardswish": "hardswish",
    "Sigmoid": "sigmoid",
    "ReLU": "relu",
    "ReLU6": "relu",
    "Concat": "concat",
    "Upsample": "resize",
    "Interpolate": "resize",
    "Identity": "identity",
    "Flatten": "move",
    "Unflatten": "move",
    "Sqrt": "sqrt",
    "Log": "log",
    "Pow": "pow",
}
FUNCTION_KINDS: dict[Any, str] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), "add"),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), "subtract"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), "multiply"),
    **dict.fromkeys((operator.truediv, torch.div, torch.divide, "div", "div_"), "divide"),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"), "matmul"),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax"), "softmax"),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), "sigmoid"),
    **dict.fromkeys((F.relu, torch.relu, "relu", F.relu6), "relu"),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), "concat"),
    **dict.fromkeys((torch.clamp, "clamp", "clamp_min", torch.clamp_min), "clamp"),
    **dict.fromkeys((torch.reciprocal, "reciprocal"), "reciprocal"),
    **dict.fromkeys((torch.sqrt, "sqrt", torch.rsqrt, "rsqrt"), "sqrt"),
    **dict.fromkeys((torch.log, "log"), "log"),
    **dict.fromkeys((torch.pow, operator.pow, "pow"), "pow"),
    F.silu: "silu",
    F.gelu: "gelu",
    F.hardswish: "hardswish",
    F.interpolate: "resize",
    F.layer_norm: "layer_norm",
}
SETTINGS = ("mode", "align_corners", "antialias", "eps")


def network_of(model: nn.Module, *, batches: Iterable[Tensor], output_names: tuple[str, ...] = ()) -> Network:
    """Trace a float model, fold its batch norms, run images through it, and note what every tensor held.

    Args:
        model: takes float32 (N, 3, H, W), returns a tensor or a tuple of tensors.
        batches: of images.
        output_names: of the outputs in order; default output_0, output_1, ...

    Raises:
        CalibrationError: no images.
        WeightsError: weights hold NaN or infinity.
        TraceError: the model cannot be traced.
    """
    check_weights(model)
    traced = trace(copy.deepcopy(model).eval())
    _drop_dropouts(traced)
    _fold_batch_norms(traced)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    watch = _Watch(traced)
    seen = 0
    with torch.no_grad():
        for images in batches:
            for image in images.split(1):
                watch.run(image)
                seen += 1
    if not seen:
        raise CalibrationError("the audit needs at least one image to measure ranges")
    return _as_network(traced, watch=watch, output_names=output_names)


class _Watch(torch.fx.Interpreter):
    """Run a graph and observe every float tensor."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.stats: dict[str, Stats] = {}
        self.constants: dict[str, Tensor] = {}
        self.numbers: dict[str, float] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op == "get_attr":
            self.constants[n.name] = value.detach()
        elif isinstance(value, Tensor) and value.is_floating_point() and n.op != "output":
            self.stats.setdefault(n.name, Stats()).add(value)
        elif isinstance(value, int | float):
            self.numbers[n.name] = float(value)
        return value


def _as_network(traced: torch.fx.GraphModule, *, watch: _Watch, output_names: tuple[str, ...]) -> Network:
    built = [_op(traced, node=node, watch=watch) for node in traced.graph.nodes]
    final = next(node for node in traced.graph.nodes if node.op == "output")
    outputs = [n.name for n in final.all_input_nodes]
    names = output_names or tuple(f"output_{i}" for i in range(len(outputs)))
    return Network(
        ops=[op for op in built if op is not None],
        stats=watch.stats,
        constants=watch.constants,
        outputs=dict(zip(names, outputs, strict=False)),
    )


def _op(traced: torch.fx.GraphModule, *, node: torch.fx.Node, watch: _Watch) -> Op | None:
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    kind = _module_kind(module) if module is not None else _function_kind(node, watch=watch)
    return Op(
        name=_name(node),
        kind=kind,
        inputs=tuple(
            n.name for n in node.all_input_nodes if n.name in watch.stats or n.name in watch.constants
        )
        or tuple(n.name for n in node.all_input_nodes),
        output=node.name,
        weight=_weight(module),
        numbers=_numbers(node, watch=watch),
        settings=_settings(node, module=module),
    )


def _module_kind(module: nn.Module) -> str:
    name = type(module).__name__
    if name in MODULE_KINDS:
        return MODULE_KINDS[name]
    known = type(module) in QuantizationMixin.cls_to_qcls or isinstance(module, ops.DROPOUTS)
    return name.lower() if known else f"unknown:{name}"


def _function_kind(node: torch.fx.Node, *, watch: _Watch) -> str:
    if node.target in FUNCTION_KINDS:
        known = node.target in ops.COMPUTES or node.name not in watch.stats
        return FUNCTION_KINDS[node.target] if known else _unsupported(node)
    if node.target in ops.MOVES_DATA or node.name not in watch.stats:
        return "move"
    if node.target in ops.COMPUTES:
        return str(getattr(node.target, "__name__", node.target))
    return _unsupported(node)


def _unsupported(node: torch.fx.Node) -> str:
    return f"unknown:{getattr(node.target, '__name__', node.target)}"


def _name(node: torch.fx.Node) -> str:
    """The module's path; of a function, the path of the module whose forward calls it, and its own name."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return ".".join(filter(None, (str(stack[-1][0]) if stack else "", node.name)))


def _weight(module: nn.Module | None) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | nn.ConvTranspose2d):
        return None
    transposed = isinstance(module, nn.ConvTranspose2d)
    return None if weight is None else (weight.transpose(0, 1) if transposed else weight).detach()


def _numbers(node: torch.fx.Node, *, watch: _Watch) -> tuple[float, ...]:
    found = [float(a) for a in [*node.args, *node.kwargs.values()] if type(a) in (int, float)]
    for source in node.all_input_nodes:
        if source.name in watch.numbers:
            found.append(watch.numbers[source.name])
        elif source.name in watch.constants and watch.constants[source.name].numel() == 1:
            found.append(float(watch.constants[source.name]))
    return tuple(found)


def _settings(node: torch.fx.Node, *, module: nn.Module | None) -> dict[str, Any]:
    of_module = {name: getattr(module, name) for name in SETTINGS if hasattr(module, name)}
    return of_module | {name: node.kwargs[name] for name in SETTINGS if name in node.kwargs}
