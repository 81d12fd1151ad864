"""A training twin of a simulation: the same parameters and the same values, far fewer passes.

AIMET's own forward wraps every tensor in a subclass, patches every module's parameters and
runs many elementwise passes; a training step takes several times the float step. The twin
shares each Parameter object with the simulation (weights, biases, range ends), so what is
trained in the twin is trained in the simulation, which is exported as ever.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.modules import custom
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.errors import TraceError
from hexpath_quant.fakequant import FakeQuantize, FakeQuantizedSiLU, FakeQuantizeWeight, Grid, saturated

KEEPS_GRID = (custom.Concat, nn.MaxPool2d, custom.MaxPool2d, nn.Upsample)
BFLOAT16_MAX_BITS = 8


class ActivationQuantizer(nn.Module):
    """Shares range ends with an AIMET quantizer; its grid is set from outside once a step."""

    def __init__(self, source: AffineQuantizerBase) -> None:
        super().__init__()
        if source.min.numel() != 1 or source.block_size is not None:
            raise TraceError(
                f"activation quantizer of shape {tuple(source.shape)} is not per-tensor; export it untrained"
            )
        self.min: nn.Parameter = source.min
        self.max: nn.Parameter = source.max
        self.qmin, self.qmax, self.symmetric = source.qmin, source.qmax, source.symmetric
        self.bits = (source.qmax - source.qmin).bit_length()
        self.grid = Grid(scale=1.0, low=0.0, high=0.0, steps=1, symmetric=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` on the grid, in its own dtype."""
        if x.dtype == torch.bfloat16 and self.bits > BFLOAT16_MAX_BITS:
            # bfloat16 itself is coarser than this grid: only clipping is left to simulate
            return x.clamp(self.grid.low * self.grid.scale, self.grid.high * self.grid.scale)
        quantized: Tensor = FakeQuantize.apply(x, self.min, self.max, self.grid)
        return quantized


def refresh_grids(quantizers: list[ActivationQuantizer]) -> None:
    """Compute every activation grid from its range ends, with one transfer to the host for all."""
    if not quantizers:
        return
    with torch.no_grad():
        ends = torch.stack([torch.stack([q.min.reshape(()), q.max.reshape(())]) for q in quantizers]).float()
        levels = torch.tensor([[q.qmin, q.qmax] for q in quantizers], dtype=torch.float32, device=ends.device)
        steps = levels[:, 1] - levels[:, 0]
        scale = ((ends[:, 1] - ends[:, 0]) / steps).abs().clamp_min(torch.finfo(torch.float32).tiny * 1e6)
        offset = (torch.round(ends[:, 0] / scale) - levels[:, 0]).clamp(-levels[:, 1], -levels[:, 0])
        centre = -torch.round((levels[:, 0] + levels[:, 1]) / 2)
        symmetric = torch.tensor([q.symmetric for q in quantizers], device=ends.device)
        offset = torch.where(symmetric, centre, offset)
        rows = torch.stack([scale, offset + levels[:, 0], offset + levels[:, 1], steps], 1).tolist()
    for quantizer, (s, low, high, count) in zip(quantizers, rows, strict=True):
        quantizer.grid = Grid(scale=s, low=low, high=high, steps=int(count), symmetric=quantizer.symmetric)


class LeanModule(nn.Module):
    """One operator with its input, weight and output quantizers.

    ``core`` is the float module; its parameters are the simulation's own.
    """

    def __init__(self, source: Any, *, shared: dict[int, ActivationQuantizer], dtype: torch.dtype) -> None:
        super().__init__()
        self.core: nn.Module = source.get_original_module()
        self.dtype = dtype
        for name, parameter in source.named_parameters(recurse=False):
            setattr(self.core, name, parameter)
        self.inputs = [_share(q, shared) for q in source.input_quantizers]
        self.outputs = [_share(q, shared) for q in source.output_quantizers]
        self.quantized = nn.ModuleList(q for q in [*self.inputs, *self.outputs] if q is not None)
        self.weights: dict[str, Any] = {n: q for n, q in source.param_quantizers.items() if q is not None}
        for index, quantizer in enumerate(self.weights.values()):
            self.register_module(f"weight_quantizer_{index}", quantizer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Quantize inputs, compute, quantize outputs."""
        args = tuple(self._input(index, value) for index, value in enumerate(args))
        outputs = self.compute(args, kwargs)
        first = self.outputs[0] if self.outputs else None
        if first is None:
            return outputs
        return first(saturated(outputs) if isinstance(self.core, custom.Divide) else outputs)

    def compute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operator itself with quantized weights."""
        parameters: dict[str, Tensor] = dict(self.core.named_parameters(recurse=False))
        if not parameters:
            return self.core(*args, **kwargs)
        for name, quantizer in self.weights.items():
            parameters[name] = quantize_weight(parameters[name], quantizer)
        values = {name: p.to(self.dtype) for name, p in parameters.items()}
        return torch.func.functional_call(self.core, values, args, kwargs)

    def _input(self, index: int, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        quantizer = self.inputs[index] if index < len(self.inputs) else None
        value = value.to(self.dtype)
        return value if quantizer is None else quantizer(value)


def quantize_weight(weight: Tensor, quantizer: Any) -> Tensor:
    """Return float32 ``weight`` as ``quantizer`` (AIMET's, per channel or per tensor) rounds it."""
    with torch.no_grad():
        scale, offset = quantizer.get_scale(torch.float32), quantizer.get_offset(torch.float32)
        low, high = offset + quantizer.qmin, offset + quantizer.qmax
    steps = quantizer.qmax - quantizer.qmin
    quantized: Tensor = FakeQuantizeWeight.apply(
        weight, quantizer.min, quantizer.max, scale, low, high, steps
    )
    return quantized


class LeanSiLU(nn.Module):
    """The pair sigmoid and multiplication, together with the quantizer of the layer before."""

    def __init__(
        self, *, before: ActivationQuantizer, gate: ActivationQuantizer, after: ActivationQuantizer
    ) -> None:
        super().__init__()
        self.before, self.gate, self.after = before, gate, after

    def forward(self, x: Tensor) -> Tensor:
        """Return Q(v * Q(sigmoid(v))) for v = Q(x)."""
        before, after = self.before, self.after
        grids = (before.grid, self.gate.grid, after.grid)
        result: Tensor = FakeQuantizedSiLU.apply(x, before.min, before.max, after.min, after.max, grids)
        return result


class LeanTwin(nn.Module):
    """Call it like the simulation's model; ``parameters()`` are the simulation's.

    Args:
        sim: calibrated.
        dtype: of activations: float32 gives the simulation's values, bfloat16 is for training.
    """

    def __init__(self, sim: QuantizationSimModel, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self._shared: dict[int, ActivationQuantizer] = {}
        graph = torch.fx.Graph()
        output = graph.graph_copy(sim.model.graph, {}, return_output_node=True)
        graph.output(output[0] if isinstance(output, tuple) else output)
        root = nn.Module()
        self.body = torch.fx.GraphModule(self._modules_of(sim, graph=graph, root=root), graph)
        _fuse_silu(self.body, max_bits=32 if dtype == torch.float32 else BFLOAT16_MAX_BITS)
        _skip_requantization(self.body)
        self.body.graph.eliminate_dead_code()
        self.body.recompile()
        self.body.delete_all_unused_submodules()
        self.refresh()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, float32, for float32 (B, 3, H, W)."""
        if self.training or torch.is_grad_enabled():
            self.refresh()
        images = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
        outputs = self.body(images.to(self.dtype))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(output.float() for output in outputs)

    def refresh(self) -> None:
        """Take over range ends that changed outside a training step."""
        refresh_grids(list(self._shared.values()))

    def _modules_of(
        self, sim: QuantizationSimModel, *, graph: torch.fx.Graph, root: nn.Module
    ) -> dict[str, Any]:
        modules: dict[str, Any] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                module = sim.model.get_submodule(node.target)
                if isinstance(module, QuantizationMixin):
                    module = LeanModule(module, shared=self._shared, dtype=self.dtype)
                modules[node.target] = module
            elif node.op == "get_attr":
                modules[node.target] = _attribute(sim.model, node.target)
        return modules


def _attribute(model: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    return getattr(model.get_submodule(path), name)


def _share(source: Any, shared: dict[int, ActivationQuantizer]) -> ActivationQuantizer | None:
    if source is None:
        return None
    if id(source) not in shared:
        shared[id(source)] = ActivationQuantizer(source)
    return shared[id(source)]


def _lean(body: torch.fx.GraphModule, node: Any) -> LeanModule | None:
    if not isinstance(node, torch.fx.Node) or node.op != "call_module":
        return None
    module = body.get_submodule(str(node.target))
    return module if isinstance(module, LeanModule) else None


def _fuse_silu(body: torch.fx.GraphModule, *, max_bits: int) -> None:
    """Replace layer -> (sigmoid, multiplication) by layer -> LeanSiLU, where nobody else reads between."""
    for node in list(body.graph.nodes):
        product = _lean(body, node)
        if product is None or not isinstance(product.core, custom.Multiply) or len(node.args) != 2:
            continue
        x, gate = node.args
        sigmoid, before = _lean(body, gate), _lean(body, x)
        if sigmoid is None or before is None or not isinstance(sigmoid.core, nn.Sigmoid) or gate.args != (x,):
            continue
        ends = (before.outputs[:1], sigmoid.outputs[:1], product.outputs[:1])
        if set(x.users) != {node, gate} or set(gate.users) != {node} or any(e in ([], [None]) for e in ends):
            continue
        if any(q is not None for q in [*sigmoid.inputs, *product.inputs]):
            continue
        if any(end[0].bits > max_bits for end in ends):  # type: ignore[union-attr]
            continue
        target = f"{str(node.target).replace('.', '_')}_silu"
        body.add_submodule(target, LeanSiLU(before=ends[0][0], gate=ends[1][0], after=ends[2][0]))  # type: ignore[arg-type]
        ends[1][0].requires_grad_(False)  # type: ignore[union-attr]
        before.outputs = [None]
        with body.graph.inserting_before(node):
            new = body.graph.call_module(target, args=(x,))
        node.replace_all_uses_with(new)
        body.graph.erase_node(node)
        body.graph.erase_node(gate)


def _skip_requantization(body: torch.fx.GraphModule) -> None:
    """Drop the quantizer of an operator that only moves values which already lie on its grid."""
    for node in body.graph.nodes:
        module = _lean(body, node)
        if module is None or not isinstance(module.core, KEEPS_GRID) or not module.outputs:
            continue
        sources = [a for a in node.args if isinstance(a, torch.fx.Node)]
        if module.outputs[0] is not None and all(_grid_of(body, s) is module.outputs[0] for s in sources):
            module.outputs = [None]
            module.kept = _grid_of(body, sources[0])  # type: ignore[assignment]


def _grid_of(body: torch.fx.GraphModule, node: torch.fx.Node) -> Any:
    """Return the quantizer on whose grid a node's values lie, None if unknown."""
    if node.op != "call_module":
        return None
    module = body.get_submodule(str(node.target))
    if isinstance(module, LeanSiLU):
        return module.after
    if isinstance(module, LeanModule) and module.outputs:
        return module.outputs[0] if module.outputs[0] is not None else getattr(module, "kept", None)
    return None
