"""Turn a float model into one that AIMET's simulation takes well, and prove it the same."""

from __future__ import annotations

import copy
import traceback
from typing import Any

import torch
import torch.fx
from aimet_torch.nn.modules import custom
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from hexpath_quant import ops
from hexpath_quant.errors import PreparationError, TraceError, WeightsError
from hexpath_quant.lowering import drop_unchanged, flatten_linear, functions_to_layers, open_attention

TOLERANCE = 1e-5
ROUNDINGS = 4.0  # of float32 weights, where these alone move an output further than the tolerance
LOOSEST = 1e-3
HAD_NORM = "hexpath_had_norm"
SHAPE = "shape"  # in a node's meta: its output's shape
ARITHMETIC = (custom.Add, custom.Subtract, custom.Multiply, custom.Divide)


def prepare(model: nn.Module, *, example: Tensor) -> torch.fx.GraphModule:
    """Return a traced copy in which every computing operator is a module of its own.

    Batch norms are folded into the layer before them, dropouts are gone, SiLU is a sigmoid
    and a multiplication (as the NPU computes it), modules used twice are two modules.

    Args:
        model: float32, takes one tensor, returns a tensor or a tuple of tensors.
        example: float32 (1, 3, H, W), or whatever ``model`` takes.

    Raises:
        WeightsError: a weight holds NaN or infinity.
        TraceError: the model cannot be traced, or has an operator without a quantized form.
        PreparationError: the prepared model's outputs differ by more than 1e-5 (relative).
    """
    check_weights(model)
    original = copy.deepcopy(model).eval()
    traced = trace(open_attention(copy.deepcopy(original)))
    functions_to_layers(traced)
    recorder = _record(traced, example=example)
    drop_unchanged(traced, unchanged=recorder.unchanged)
    _drop_dropouts(traced)
    _chunks_to_splits(traced, sizes=recorder.chunks)
    _functions_to_modules(traced, tensors=recorder.tensors)
    _numbers_to_tensors(traced, numbers=recorder.numbers)
    _unshare(traced)
    _fold_batch_norms(traced)
    _norms_to_convolutions(traced)
    _split_silu(traced)
    flatten_linear(traced, shapes=recorder.shapes)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.graph.lint()  # type: ignore[no-untyped-call]
    traced.recompile()
    check_equal(original=original, prepared=traced, example=example)
    return traced


def check_weights(model: nn.Module) -> None:
    """Raise a WeightsError for the first parameter or buffer with a value that is not finite."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise WeightsError(f"{name} holds {bad} NaN or infinite of {tensor.numel()} values; train again")


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's parameters lie; the CPU when it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def check_equal(*, original: nn.Module, prepared: nn.Module, example: Tensor) -> float:
    """Return the largest relative difference (norm of the difference over norm) of the outputs.

    Raises:
        PreparationError: it exceeds TOLERANCE.
    """
    with torch.no_grad():
        before, after = as_tuple(original(example)), as_tuple(prepared(example))
    worst = 0.0
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        relative = float((a - b).norm() / a.norm().clamp_min(1e-12))
        allowed = TOLERANCE
        if relative > TOLERANCE:
            rounding = _rounding(original, example=example, before=before)[index]
            allowed = min(max(TOLERANCE, ROUNDINGS * rounding), LOOSEST)
        if not relative <= allowed:
            raise PreparationError(
                f"output {index} of the prepared model differs by {relative:.1e} (relative),"
                f" at most {allowed:.0e} is allowed; does forward depend on state or random numbers?"
            )
        worst = max(worst, relative)
    return worst


def _rounding(model: nn.Module, *, example: Tensor, before: tuple[Tensor, ...]) -> list[float]:
    """Return how far each output moves (relative) when every weight is off by up to one rounding of float32.

    Folding a batch norm rounds each weight anew; a deep network of random weights amplifies that.
    """
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in moved.parameters():
            noise = 2 * torch.rand(weight.shape, generator=generator).to(weight) - 1
            weight.mul_(1 + torch.finfo(torch.float32).eps * noise)
        after = as_tuple(moved(example))
    return [float((a - b).norm() / a.norm().clamp_min(1e-12)) for a, b in zip(before, after, strict=True)]


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    """Return a model's outputs as a tuple of tensors."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


class _Tracer(torch.fx.Tracer):
    """Stop at modules that AIMET knows; go into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m).__module__.startswith(("torch.nn", "torch.ao.nn", "aimet_torch"))
        return known and not isinstance(m, (nn.Sequential, nn.ModuleList))


def trace(model: nn.Module) -> torch.fx.GraphModule:
    """Trace ``model`` symbolically.

    Raises:
        TraceError: names the line that cannot be traced, and the remedy.
    """
    tracer = _Tracer()
    try:
        return torch.fx.GraphModule(tracer.root if hasattr(tracer, "root") else model, tracer.trace(model))
    except (
        torch.fx.proxy.TraceError,
        TypeError,
        RuntimeError,
        ValueError,
        AttributeError,
        NameError,
    ) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
        where = frames[-1]
        raise TraceError(
            f"cannot trace `{where.line}` ({where.filename}:{where.lineno}): {str(error).splitlines()[0]};"
            " remedy: take control flow and loops over tensors out of forward (put a fixed shape"
            " or an nn.Module in its place)"
        ) from error


class _Recorder(torch.fx.Interpreter):
    """Run a graph; note which nodes hold float tensors, and how chunks divide."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: set[str] = set()
        self.chunks: dict[str, tuple[int, list[int]]] = {}
        self.numbers: dict[str, float] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.unchanged: set[str] = set()

    def run_node(self, n: torch.fx.Node) -> Any:
        given = self.env.get(n.args[0]) if n.args and isinstance(n.args[0], torch.fx.Node) else None
        before = given.clone() if isinstance(given, Tensor) and _is_unknown(n) else None
        value = super().run_node(n)
        if before is not None and value is given and torch.equal(value, before):
            self.unchanged.add(n.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.tensors.add(n.name)
            n.meta[SHAPE] = self.shapes[n.name] = tuple(value.shape)
        if isinstance(value, (int, float)):
            self.numbers[n.name] = float(value)
        if n.target in ("chunk", torch.chunk):
            axis = int(n.args[2]) if len(n.args) > 2 else int(n.kwargs.get("dim", 0))  # type: ignore[arg-type]
            self.chunks[n.name] = (axis, [part.shape[axis] for part in value])
        return value


def _is_unknown(node: torch.fx.Node) -> bool:
    calls = node.op in ("call_function", "call_method")
    return calls and node.target not in ops.MOVES_DATA and node.target not in ops.COMPUTES


def _record(traced: torch.fx.GraphModule, *, example: Tensor) -> _Recorder:
    recorder = _Recorder(traced)
    with torch.no_grad():
        recorder.run(example)
    return recorder


def _chunks_to_splits(traced: torch.fx.GraphModule, *, sizes: dict[str, tuple[int, list[int]]]) -> None:
    """Replace chunk, which the ONNX exporter computes from shapes, by a split of fixed sizes."""
    for node in traced.graph.nodes:
        if node.name in sizes:
            axis, parts = sizes[node.name]
            node.op, node.target = "call_function", torch.split
            node.args, node.kwargs = (node.args[0], parts, axis), {}


def _drop_dropouts(traced: torch.fx.GraphModule) -> None:
    """Remove dropouts: in front of a convolution AIMET exports a wrong bias scale with them."""
    for node in list(traced.graph.nodes):
        module = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, (*ops.DROPOUTS, nn.Identity)) or node.target in ops.DROPOUT_FUNCTIONS:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _functions_to_modules(traced: torch.fx.GraphModule, *, tensors: set[str]) -> None:
    for node in list(traced.graph.nodes):
        if node.op not in ("call_function", "call_method") or node.name not in tensors:
            continue
        if node.target in ops.MOVES_DATA:
            continue
        if node.target not in ops.COMPUTES:
            label = node.target if isinstance(node.target, str) else node.target.__name__
            raise TraceError(
                f"operator '{label}' in {_scope(node) or 'the top module'} has no quantized form;"
                " remedy: write it with supported operators, or as a torch.nn module that AIMET knows"
            )
        module, args, kwargs = ops.COMPUTES[node.target](node.args, node.kwargs)
        _replace(traced, node=node, module=module, args=args, kwargs=kwargs)


def _numbers_to_tensors(traced: torch.fx.GraphModule, *, numbers: dict[str, float]) -> None:
    """Make numbers in arithmetic constant tensors, which get a quantizer; a plain number would stay float."""
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(traced.get_submodule(node.target), ARITHMETIC):
            continue
        for index, argument in enumerate(node.args):
            number = numbers.get(argument.name) if isinstance(argument, torch.fx.Node) else argument
            if isinstance(number, (int, float)):
                name = _free_name(traced, f"{node.name}_constant_{index}")
                traced.register_buffer(name, torch.tensor(float(number)))
                with traced.graph.inserting_before(node):
                    node.update_arg(index, traced.graph.get_attr(name))


def _replace(
    traced: torch.fx.GraphModule, *, node: torch.fx.Node, module: nn.Module, args: Any, kwargs: Any
) -> torch.fx.Node:
    target = _free_name(traced, ".".join(filter(None, (_scope(node), node.name))))
    traced.add_submodule(target, module.eval())
    with traced.graph.inserting_before(node):
        new = traced.graph.call_module(target, args=args, kwargs=kwargs)
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    traced.graph.erase_node(node)
    return new


def _scope(node: torch.fx.Node) -> str:
    """Return the dotted path of the module whose forward made ``node``."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def _free_name(traced: torch.fx.GraphModule, name: str) -> str:
    taken = {key for key, _ in traced.named_modules()}
    count, free = 0, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


def _unshare(traced: torch.fx.GraphModule) -> None:
    """Give each call its own module (and quantizers); weights used twice stay one parameter."""
    seen: set[int] = set()
    for node in traced.graph.nodes:
        if node.op != "call_module":
            continue
        module = traced.get_submodule(node.target)
        if id(module) in seen:
            shared = {id(p): p for p in module.parameters()}
            module = copy.deepcopy(module, shared)
            node.target = _free_name(traced, f"{node.target}_{node.name.rsplit('_', 1)[-1]}")
            traced.add_submodule(node.target, module)
        seen.add(id(module))


def _fold_batch_norms(traced: torch.fx.GraphModule) -> None:
    uses: dict[int, int] = {}
    for p in (p for _, m in traced.named_modules(remove_duplicate=True) for p in m.parameters(recurse=False)):
        uses[id(p)] = uses.get(id(p), 0) + 1
    for node in list(traced.graph.nodes):
        layer = _layer_before_norm(traced, node)
        if layer is None or uses[id(layer.weight)] > 1:
            continue
        _fold(layer, traced.get_submodule(str(node.target)))
        node.replace_all_uses_with(node.args[0])
        traced.graph.erase_node(node)


def _layer_before_norm(traced: torch.fx.GraphModule, node: torch.fx.Node) -> nn.Module | None:
    """Return the layer that the batch norm at ``node`` can be folded into, if there is one."""
    if node.op != "call_module" or not isinstance(
        traced.get_submodule(str(node.target)), nn.modules.batchnorm._BatchNorm
    ):
        return None
    before = node.args[0]
    if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return None
    layer = traced.get_submodule(str(before.target))
    foldable = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
    return layer if foldable else None


def _fold(layer: Any, norm: Any) -> None:
    fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    dtype = layer.weight.dtype
    gamma = norm.weight if norm.affine else torch.ones_like(norm.running_mean)
    beta = norm.bias if norm.affine else torch.zeros_like(norm.running_mean)
    bias = torch.zeros_like(norm.running_mean) if layer.bias is None else layer.bias
    values = [t.detach().double() for t in (layer.weight, bias, norm.running_mean, norm.running_var)]
    weight, bias = fuse(*values, norm.eps, gamma.detach().double(), beta.detach().double())
    layer.weight, layer.bias = nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype))
    setattr(layer, HAD_NORM, True)


def had_norm(layer: nn.Module) -> bool:
    """Whether ``prepare`` folded a batch norm into a layer of the prepared model."""
    return bool(getattr(layer, HAD_NORM, False))


def _norms_to_convolutions(traced: torch.fx.GraphModule) -> None:
    """Make a 2-d batch norm that nothing can absorb (behind a pooling, a sum) a depthwise 1x1 convolution.

    As a batch norm its statistics would stay float in the exported graph.
    """
    for node in traced.graph.nodes:
        norm: Any = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            channels = norm.num_features
            layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
            layer.weight.data.fill_(1.0)
            layer.to(norm.running_mean)
            _fold(layer, norm)
            traced.set_submodule(node.target, layer.eval())


def _split_silu(traced: torch.fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(traced.get_submodule(node.target), nn.SiLU):
            name = str(node.target)
            target = _free_name(traced, f"{name}_sigmoid")
            traced.add_submodule(target, nn.Sigmoid())
            with traced.graph.inserting_before(node):
                gate = traced.graph.call_module(target, args=node.args[:1])
            traced.set_submodule(name, custom.Multiply())
            node.args, node.kwargs = (node.args[0], gate), {}
