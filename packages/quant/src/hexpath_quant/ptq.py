"""Post-training quantization of a task's model, from checkpoint to checked folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.errors import CalibrationError
from hexpath_quant.export import export
from hexpath_quant.lean import LeanTwin
from hexpath_quant.methods import find_method
from hexpath_quant.mixed import apply_plan
from hexpath_quant.plans import AnyPlan, MixedPlan
from hexpath_quant.prepare import device_of, prepare
from hexpath_quant.progress import say
from hexpath_quant.regions import Regions, regions_of
from hexpath_quant.sim import forward_of
from hexpath_quant.task import Task

SAMPLES = 4


def ptq(
    task: Task,
    *,
    plan: AnyPlan,
    method: str,
    calibration: int,
    out: Path,
    evaluate: bool = True,
    extra: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """Quantize ``task``'s model after training; write folder ``out``; return the simulation's scores.

    Args:
        plan: precisions.
        method: a name from ``METHODS``.
        calibration: number of training images to observe.
        out: folder, see ``export``.
        evaluate: score the simulation on the whole validation split.
        extra: more for the card.
        overrides: regions that replace or refine the derived ones, see ``regions_of``.
    """
    start = time.perf_counter()
    made = calibrated(task, plan=plan, method=method, calibration=calibration, overrides=overrides)
    metrics = score(task, sim=made.sim) if evaluate else {}
    card = {
        "task": task.name,
        "calibration_images": made.images,
        "method_seconds": round(made.seconds, 2),
        "method_cpu_seconds": round(made.cpu_seconds, 2),
        "metrics": metrics,
        "head": task_head(task),
        **(extra or {}),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write(task, sim=made.sim, out=out, plan=plan, method=f"ptq:{method}", card=card, overrides=overrides)
    return metrics


def simulate(
    task: Task,
    *,
    plan: AnyPlan,
    method: str,
    calibration: int,
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> QuantizationSimModel:
    """Return ``task``'s model prepared, simulated under ``plan`` and calibrated by ``method``."""
    return calibrated(task, plan=plan, method=method, calibration=calibration, overrides=overrides).sim


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibrated simulation, and what it took.

    Attributes:
        images: that the task gave for calibration; fewer than asked for where it has no more.
        seconds, cpu_seconds: of the method alone (all its passes over the images), on the clock and of the
            processor's cores together; without preparing the model, scoring and exporting.
    """

    sim: QuantizationSimModel
    images: int
    seconds: float
    cpu_seconds: float


def calibrated(
    task: Task,
    *,
    plan: AnyPlan,
    method: str,
    calibration: int,
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> Calibrated:
    """Return what ``simulate`` returns, with the images and the time that it took."""
    if calibration < 1:
        raise CalibrationError(f"--calibration {calibration} is no number of images; give at least 1")
    chosen = find_method(method)
    say(f"preparing the model of task {task.name}")
    model = task.float_model()
    example = task.example.to(device_of(model))
    prepared = prepare(model, example=example)
    if isinstance(plan, MixedPlan):
        regions = plan_regions(prepared, task=task, plan=plan, overrides=overrides)
        apply_plan(prepared, plan=plan, regions=regions)
    say(f"calibrating {plan.name} by {method} on {calibration} images")
    seen: list[int] = []

    def batches() -> Iterator[Tensor]:
        seen.append(0)
        for images in task.calibration(calibration):
            seen[-1] += len(images)
            yield images

    start, cpu_start = time.perf_counter(), time.process_time()
    sim = chosen.quantize(
        prepared,
        example=example,
        plan=plan.base if isinstance(plan, MixedPlan) else plan,
        batches=batches,
        input_range=(0.0, 1.0),
    )
    return Calibrated(
        sim=sim,
        images=max(seen),
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start,
    )


def plan_regions(
    model: nn.Module, *, task: Task, plan: AnyPlan, overrides: Mapping[str, Sequence[str]] | None
) -> Regions:
    """Return the model's regions with those that the plan itself makes."""
    made = plan.modules if isinstance(plan, MixedPlan) else {}
    return regions_of(model, output_names=task.output_names, overrides={**(overrides or {}), **made})


def score(task: Task, *, sim: QuantizationSimModel) -> dict[str, float]:
    """Return the simulation's scores on the validation split (through its fast twin, float32)."""
    say("scoring the simulation on the validation split")
    metrics = task.evaluate(forward_of(LeanTwin(sim, dtype=torch.float32).eval()))
    say("simulation: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics


def write(
    task: Task,
    *,
    sim: QuantizationSimModel,
    out: Path,
    plan: AnyPlan,
    method: str,
    card: Mapping[str, Any],
    extra_files: Mapping[str, bytes] | None = None,
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Export ``sim`` with the task's names, metadata and validation samples to folder ``out``."""
    sim.model.cpu()
    figures = export(
        sim,
        out=out,
        example=task.example.cpu(),
        samples=task.samples(SAMPLES).cpu(),
        input_names=task.input_names,
        output_names=task.output_names,
        plan=plan,
        method=method,
        metadata=task.metadata,
        card=card,
        extra_files=extra_files,
        regions=plan_regions(sim.model, task=task, plan=plan, overrides=overrides),
    )
    worst = min(figures, key=figures.__getitem__)
    say(f"wrote {out}: file and simulation agree to {figures[worst]:.1f} dB or better (least: {worst})")


def task_head(task: Task) -> str:
    """Return the head's name as the card states it: from the output format, '' if there is none."""
    text = task.metadata.get("hexpath.outputs", "{}")
    found = json.loads(text).get("format", "")
    return str(found).rpartition("-")[2]
