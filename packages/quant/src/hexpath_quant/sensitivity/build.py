"""From AIMET's calibrated simulation to an engine."""

from __future__ import annotations

import copy
from typing import Any

import torch
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.fakequant import Grid
from hexpath_quant.lean import ActivationQuantizer, quantize_weight, refresh_grids
from hexpath_quant.sensitivity.engine import Engine, Step, steps_of


def build_engine(sim: QuantizationSimModel) -> Engine:
    """Return an engine with the float weights, quantized weights and activation grids of ``sim``."""
    shared: dict[int, ActivationQuantizer] = {}
    pending: list[tuple[list[Grid | None], list[ActivationQuantizer | None]]] = []
    steps: dict[str, Step] = {}
    for node in sim.model.graph.nodes:
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            value = getattr(sim.model.get_submodule(path), name)
            steps[node.name] = Step(name=node.name, kind="get_attr", target=value.detach().clone())
        elif node.op == "call_module":
            module = sim.model.get_submodule(node.target)
            steps[node.name] = _module_step(node, module=module, shared=shared, pending=pending)
    refresh_grids(list(shared.values()))
    for grids, quantizers in pending:
        grids += [None if q is None else q.grid for q in quantizers]
    return Engine(steps_of(sim.model.graph, steps=steps))


def _module_step(
    node: torch.fx.Node,
    *,
    module: Any,
    shared: dict[int, ActivationQuantizer],
    pending: list[tuple[list[Grid | None], list[ActivationQuantizer | None]]],
) -> Step:
    step = Step(name=node.name, kind="call_module", target=str(node.target))
    if not isinstance(module, QuantizationMixin):
        step.module = module
        return step
    step.layer = str(node.target)
    step.module = _float(module)
    scales = {name: q for name, q in module.param_quantizers.items() if q is not None}
    step.quantized = copy.deepcopy(step.module) if scales else None
    for name, quantizer in scales.items():
        weight = quantize_weight(dict(module.named_parameters())[name].detach(), quantizer)
        setattr(step.quantized, name, nn.Parameter(_channels_last(weight.detach()), requires_grad=False))
    for grids, quantizers in (
        (step.inputs, module.input_quantizers),
        (step.outputs, module.output_quantizers),
    ):
        pending.append((grids, [_shared(q, shared) for q in quantizers]))
    return step


def _float(module: Any) -> nn.Module:
    core: nn.Module = copy.deepcopy(module.get_original_module())
    for name, parameter in module.named_parameters(recurse=False):
        own = _channels_last(parameter.detach().clone())
        setattr(core, name, nn.Parameter(own, requires_grad=False))
    return core.eval()


def _shared(quantizer: Any, shared: dict[int, ActivationQuantizer]) -> ActivationQuantizer | None:
    if quantizer is None:
        return None
    if id(quantizer) not in shared:
        shared[id(quantizer)] = ActivationQuantizer(quantizer)
    return shared[id(quantizer)]


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
