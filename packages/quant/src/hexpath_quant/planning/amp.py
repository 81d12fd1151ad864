"""AIMET's automatic mixed precision, to compare with: groups of quantizers, bit operations as the cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from aimet_torch.common.defs import CallbackFunc, QuantizationDataType
from aimet_torch.mixed_precision import choose_mixed_precision
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from torch import nn

from hexpath_quant.agreement import sqnr_db
from hexpath_quant.biases import KEEPS_VALUES
from hexpath_quant.lean import LeanTwin
from hexpath_quant.plans import BASE, MixedPlan, parse_precision
from hexpath_quant.progress import say
from hexpath_quant.ptq import simulate
from hexpath_quant.sim import forward_of
from hexpath_quant.task import Task

INT = QuantizationDataType.int
CANDIDATES = [((16, INT), (8, INT)), ((8, INT), (8, INT))]
SAMPLE = 2
SAID_EACH = 10  # groups: AIMET calibrates for each, and does not tell how many there are


@dataclass(kw_only=True)
class Calls:
    """How often AIMET looked at an output, how often it asked for the task's score, and how long it took."""

    outputs: int = 0
    scores: int = 0
    seconds: float = 0.0


def amp_plan(
    task: Task, *, method: str, calibration: int, max_drop: float, name: str = "amp"
) -> tuple[MixedPlan, Calls]:
    """Return AIMET's choice as a plan of its own region, and what it took.

    Phase 1 ranks the groups by the output's SQNR on two images, phase 2 searches by the task's score, which
    our fast twin of the simulation computes: the same values in less time than AIMET's own forward.

    Args:
        max_drop: allowed loss, a share of 1.
    """
    sim = simulate(task, plan=parse_precision("w8a16"), method=method, calibration=calibration)
    samples, calls, start = task.samples(SAMPLE), Calls(), time.perf_counter()
    wanted = forward_of(task.float_model())(samples)
    float_score = next(iter(task.evaluate(forward_of(task.float_model())).values()))

    def by_noise(model: nn.Module, _: Any) -> float:
        calls.outputs += 1
        if calls.outputs % SAID_EACH == 0:
            say(f"AMP, ranking: {calls.outputs} groups of quantizers asked")
        found = forward_of(model)(samples)
        return min(
            sqnr_db(reference=a.cpu().numpy(), found=b.cpu().numpy())
            for a, b in zip(wanted, found, strict=True)
        )

    def by_score(_model: nn.Module, _: Any) -> float:
        calls.scores += 1
        value = float(next(iter(task.evaluate(forward_of(twin_of(sim))).values())))
        say(f"AMP, score {calls.scores}: {value:.4f} (float {float_score:.4f})")
        return value

    with tempfile.TemporaryDirectory() as folder:
        choose_mixed_precision(
            sim,
            task.example,
            CANDIDATES,
            CallbackFunc(by_noise),
            CallbackFunc(by_score),
            max_drop,
            folder,
            True,
            CallbackFunc(_calibrate(task, count=calibration)),
            phase1_optimize=False,
        )
    calls.seconds = round(time.perf_counter() - start, 1)
    modules = tuple(_at_16_bit(sim.model))
    regions = {name: "w8a16"} if modules else {}
    return MixedPlan(
        name=name, default=BASE, regions=regions, modules={name: modules} if modules else {}
    ), calls


def twin_of(sim: QuantizationSimModel) -> LeanTwin:
    """Return the fast twin of a simulation that AMP holds; it turns quantizers off without removing them."""
    removed = []
    for module in sim.model.modules():
        for quantizers in (
            (module.input_quantizers, module.output_quantizers, module.param_quantizers)
            if isinstance(module, QuantizationMixin)
            else ()
        ):
            keys = quantizers.keys() if isinstance(quantizers, nn.ModuleDict) else range(len(quantizers))
            for key in list(keys):
                if not getattr(quantizers[key], "enabled", True):
                    removed.append((quantizers, key, quantizers[key]))
                    quantizers[key] = None
    try:
        return LeanTwin(sim).eval()
    finally:
        for quantizers, key, quantizer in removed:
            quantizers[key] = quantizer


def _calibrate(task: Task, *, count: int) -> Callable[[nn.Module, Any], None]:
    def run(model: nn.Module, _: Any) -> None:
        with torch.no_grad():
            for images in task.calibration(count):
                model(images)

    return run


def _at_16_bit(model: torch.fx.GraphModule) -> list[str]:
    """Return the modules whose output AIMET left at 16 bit, and those that only hand its values on."""
    found: dict[str, None] = {}
    for node in model.graph.nodes:
        if node.op != "call_module":
            continue
        module: Any = model.get_submodule(str(node.target))
        bits = [q.bitwidth for q in getattr(module, "output_quantizers", []) if q is not None]
        moves = not bits and isinstance(module, KEEPS_VALUES)
        if 16 in bits or (moves and str(node.all_input_nodes[0].target) in found):
            found[str(node.target)] = None
    return list(found)
