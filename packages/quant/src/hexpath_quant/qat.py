"""Quantization-aware training of a task's model, from the post-training state.

The lean twin is trained; it shares its parameters with AIMET's simulation, which is then
exported. The untrained state is epoch 0 of the record: training never returns something
that scores less on the validation split than its start.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor

from hexpath_quant.errors import DeviceError, TrainingError
from hexpath_quant.lean import LeanTwin
from hexpath_quant.plans import AnyPlan, MixedPlan
from hexpath_quant.progress import Ticker, say
from hexpath_quant.ptq import simulate, task_head, write
from hexpath_quant.recipe import Recipe
from hexpath_quant.sim import forward_of, quantizers
from hexpath_quant.state import digest_of, fingerprint, load_state, save_state
from hexpath_quant.task import Task
from hexpath_quant.tracking import Tracker

Tensors = dict[str, Tensor]


def qat(
    task: Task,
    *,
    plan: AnyPlan,
    method: str,
    calibration: int,
    recipe: Recipe,
    out: Path,
    work: Path,
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """Train from the PTQ state, write folder ``out``, return the best epoch's scores.

    Args:
        plan, method, calibration: of the post-training start.
        recipe: see Recipe.
        out: folder, see ``export``; besides history.csv.
        work: state to resume from; a run with other arguments starts afresh.
        overrides: regions that replace or refine the derived ones, see ``regions_of``.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    start = time.perf_counter()
    sim = simulate(task, plan=plan, method=method, calibration=calibration, overrides=overrides)
    arguments = {"plan": plan.name, "method": method, "calibration": calibration, **asdict(recipe)}
    if isinstance(plan, MixedPlan):
        arguments["regions"] = {"default": plan.default, **plan.regions}
    trainer = Trainer(task, sim=sim, recipe=recipe, work=work, arguments=arguments)
    history = trainer.run()
    best = max(history, key=lambda row: row["score"])
    card = {
        "task": task.name,
        "calibration_images": calibration,
        "head": task_head(task),
        "metrics": trainer.metrics_of(best),
        "start": f"ptq:{method}",
        "best_epoch": best["epoch"],
        "recipe": asdict(recipe),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write(
        task,
        sim=sim,
        out=out,
        plan=plan,
        method="qat",
        card=card,
        extra_files={"history.csv": to_csv(history)},
        overrides=overrides,
    )
    return trainer.metrics_of(best)


def choose_device(name: str) -> str:
    """Return ``name``, or for ``auto`` the GPU where there is one; a DeviceError when it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"--device {name} is not there; use cpu, or cuda on a machine with a GPU"
        ) from error
    return name


class Trainer:
    """One training: twin, optimizer, averaged weights, history, state on disk."""

    def __init__(
        self,
        task: Task,
        *,
        sim: QuantizationSimModel,
        recipe: Recipe,
        work: Path,
        arguments: Mapping[str, Any],
    ) -> None:
        self.task, self.sim, self.recipe, self.work = task, sim, recipe, work
        self.device = torch.device(recipe.device)
        sim.model.to(self.device).eval()  # no batch norm or dropout is left that would want train mode
        set_trainable(sim, ranges=recipe.ranges)
        self.twin = LeanTwin(sim, dtype=getattr(torch, recipe.precision))
        self.scorer = LeanTwin(sim, dtype=torch.float32)
        self.parameters = {name: p for name, p in sim.model.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(sim, recipe=recipe)
        self.steps = task.steps(recipe.batch)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.best: Tensors = {}
        self.history: list[dict[str, Any]] = []
        self.arguments = dict(arguments)
        self.key = fingerprint({**self.arguments, "start": digest_of(dict(sim.model.named_parameters()))})

    def run(self) -> list[dict[str, Any]]:
        """Train to the last epoch, leave the best parameters in the simulation, return the history."""
        self._resume()
        name = f"qat-{self.arguments.get('plan', '')}"
        tracker = Tracker(config=self.arguments, folder=self.work, name=name)
        if not self.history:
            self._record(epoch=0, loss=float("nan"), seconds=0.0)
        for epoch in range(len(self.history), self.recipe.epochs + 1):
            begin = time.perf_counter()
            loss = self._epoch(epoch)
            self._record(epoch=epoch, loss=loss, seconds=time.perf_counter() - begin)
            tracker.log({k: v for k, v in self.history[-1].items() if k != "epoch"}, step=epoch)
        tracker.finish()
        load(self.parameters, self.best)
        return self.history

    def metrics_of(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Return the task's own figures of a history row."""
        own = ("epoch", "step_loss", "lr", "score", "ema", "seconds")
        return {name: value for name, value in row.items() if name not in own}

    def _epoch(self, epoch: int) -> float:
        batches = self.task.training(batch=self.recipe.batch, epoch=epoch, seed=self.recipe.seed)
        ticker = Ticker(total=self.steps, label=f"epoch {epoch}/{self.recipe.epochs}")
        losses = []
        for index, batch in enumerate(batches):
            step = (epoch - 1) * self.steps + index
            losses.append(self._step(batch, step=step))
            ticker.tick(index + 1, note=f"loss {losses[-1]:.3f}")
        if not losses:
            raise TrainingError(
                f"epoch {epoch} has no batches; is --batch {self.recipe.batch} above the training images?"
            )
        return sum(losses) / len(losses)

    def _step(self, batch: Any, *, step: int) -> float:
        rate = learning_rate(step, total=self.steps * self.recipe.epochs, recipe=self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        with torch.enable_grad():  # a task's generator may have yielded inside no_grad
            outputs = self.twin(self.task.images(batch).to(self.device))
            loss = self.task.loss(outputs, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} at step {step}; try a lower --lr than {self.recipe.lr:g}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip, foreach=True)
        self.optimizer.step()
        update_average(self.average, self.parameters, decay=ema_decay(step, recipe=self.recipe))
        return value

    def _record(self, *, epoch: int, loss: float, seconds: float) -> None:
        """Score the averaged weights, keep them if they are the best so far, save the state."""
        with swapped(self.parameters, self.average):
            self.scorer.refresh()
            metrics = self.task.evaluate(forward_of(self.scorer))
        row = {
            "epoch": epoch,
            "step_loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"] if epoch else 0.0,
            **metrics,
            "score": next(iter(metrics.values())),
            "ema": int(epoch > 0),
            "seconds": round(seconds, 2),
        }
        if not self.history or row["score"] > max(r["score"] for r in self.history):
            self.best = {name: tensor.clone() for name, tensor in self.average.items()}
        self.history.append(row)
        say(
            f"epoch {epoch}/{self.recipe.epochs}: loss {loss:.4f}, "
            + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items())
        )
        self._save()

    def _save(self) -> None:
        state = {
            "key": self.key,
            "parameters": {n: p.detach() for n, p in self.parameters.items()},
            "average": self.average,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        save_state(self.work, state=state)

    def _resume(self) -> None:
        state = load_state(self.work)
        if state is None:
            return
        if state.get("key") != self.key:
            say(f"the state in {self.work} is of other arguments or another start; training starts afresh")
            return
        load(self.parameters, state["parameters"])
        self.average = {n: t.to(self.device) for n, t in state["average"].items()}
        self.best = {n: t.to(self.device) for n, t in state["best"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        say(f"going on after epoch {len(self.history) - 1} of {self.recipe.epochs} (state in {self.work})")


def set_trainable(sim: QuantizationSimModel, *, ranges: str) -> None:
    """Weights, biases and weight ranges are trained; activation ranges too when ``learned``.

    Pinned quantizers (the image input) and the sigmoids' fixed [0, 1] never are.
    """
    for module in sim.model.modules():
        for quantizer in [
            *getattr(module, "input_quantizers", []),
            *getattr(module, "output_quantizers", []),
        ]:
            if quantizer is not None:
                fixed = not quantizer.is_overwrite_allowed("min") or is_unit_range(quantizer)
                quantizer.requires_grad_(ranges == "learned" and not fixed)


def is_unit_range(quantizer: Any) -> bool:
    """Return whether a quantizer covers exactly [0, 1], as those of images and sigmoids do."""
    return float(quantizer.min.detach().min()) == 0.0 and float(quantizer.max.detach().max()) == 1.0


def build_optimizer(sim: QuantizationSimModel, *, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with weights and range ends in groups of their own."""
    ends = {id(p) for _, q in quantizers(sim.model) for p in q.parameters()}
    trained = [p for p in sim.model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in trained if id(p) not in ends],
            "factor": 1.0,
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in trained if id(p) in ends], "factor": recipe.range_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, foreach=True)


def learning_rate(step: int, *, total: int, recipe: Recipe) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to ``lr_end * lr``."""
    warm = max(1, round(recipe.warmup * total))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    return recipe.lr * (recipe.lr_end + (1 - recipe.lr_end) * 0.5 * (1 + math.cos(math.pi * progress)))


def ema_decay(step: int, *, recipe: Recipe) -> float:
    """Return the averaging decay of a step: it ramps up, so that the start is soon forgotten."""
    return min(recipe.ema, (1 + step) / (10 + step))


def update_average(average: Tensors, parameters: Mapping[str, Tensor], *, decay: float) -> None:
    """Move ``average`` towards ``parameters`` in place."""
    with torch.no_grad():
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters.values()], 1 - decay)


def load(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` into ``parameters``."""
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


@contextmanager
def swapped(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Put ``values`` into ``parameters`` for the time of the block."""
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    load(parameters, values)
    try:
        yield
    finally:
        load(parameters, kept)


def to_csv(history: list[dict[str, Any]]) -> bytes:
    """Return history.csv: epoch, step_loss, lr, the task's figures, ema, seconds."""
    names = [name for name in history[0] if name != "score"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return stream.getvalue().encode()
