"""Train a segmentation network: a Lightning module, one process, no logger but ours, resumable by epoch."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, IterableDataset

from ..errors import ModelError, TrainingError
from ..files import atomic_path
from .checkpoint import SemanticCheckpoint, save_semantic
from .config import SemanticConfig
from .losses import LOSSES
from .network import SemanticNetwork
from .task import Batch, SemanticTask

POLY_POWER = 0.9
FINAL_RATE = 0.01  # of the peak, at the end of the cosine
EMA_RAMP = 200.0  # steps; the average follows the network closely at first
STATISTICS = 24  # whole training images from which batch norms are measured


def rate_factor(step: float, *, steps: int, warmup: float, schedule: str) -> float:
    """Return the learning rate at a step as a share of its peak."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1.0, steps - warmup))
    if schedule == "poly":
        return max((1 - progress) ** POLY_POWER, FINAL_RATE)
    return float(FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2)


def parameter_groups(network: SemanticNetwork, *, backbone: float, head: float) -> list[dict[str, Any]]:
    """Return the parameters of backbone and head, each with and without weight decay (norms, biases)."""
    net: Any = network.net
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        in_head = name.startswith(tuple(f"{module}." for module in net.head_modules))
        groups.setdefault((in_head, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "peak": head if in_head else backbone, "decays": decays}
        for (in_head, decays), members in groups.items()
    ]


class Average:
    """Exponential moving average of a network's weights and statistics."""

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.network, self.decay, self.updates = copy.deepcopy(network).eval(), decay, 0

    def update(self, network: nn.Module) -> None:
        """Move towards the network's state."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / EMA_RAMP)) if self.decay else 0.0
        with torch.no_grad():
            for own, new in zip(
                self.network.state_dict().values(), network.state_dict().values(), strict=True
            ):
                if own.is_floating_point():
                    own.lerp_(new.to(own.dtype), 1 - decay)
                else:
                    own.copy_(new)


def measure_statistics(network: nn.Module, task: SemanticTask) -> None:
    """Measure the batch norms' means and variances on whole images, as the network will see them.

    Those of windows do not fit where a layer looks further than a window: DDRNet's pyramid divides by all of
    its 17x17 pool, padding included, so that whole images leave it ten times larger than windows did. As in
    Touvron et al., "Fixing the train-test resolution discrepancy", arXiv:1906.06423.
    """
    whole = (images.contiguous(memory_format=torch.channels_last) for images in task.calibration(STATISTICS))
    update_bn((images for images in whole if len(images) > 1), network)


class SemanticModule(lightning.LightningModule):
    """One run in one folder: steps, averages, validates at deployment size, keeps the best, can go on."""

    def __init__(
        self,
        *,
        network: SemanticNetwork,
        task: SemanticTask,
        config: SemanticConfig,
        card: SemanticCheckpoint,
        weights: Tensor | None,
        work: Path,
    ) -> None:
        super().__init__()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.config, self.card, self.work = network, config, card, work
        self._task, self._weights = task, weights
        self.average = Average(network, decay=config.ema)
        self.history: list[dict[str, float]] = []
        self.first_epoch = 0
        self.run: Any = None  # of Weights & Biases, for the curves
        self._losses: list[Tensor] = []
        self._started = time.monotonic()
        self._resumed: dict[str, Any] | None = None
        self.steps = task.steps(config.batch)

    @property
    def epoch(self) -> int:
        """The epoch of the whole run, from 0; Lightning counts those of this process."""
        return self.first_epoch + self.current_epoch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over backbone and head."""
        backbone, head = self.config.rates
        groups = parameter_groups(self.network, backbone=backbone, head=head)
        for group in groups:
            group |= {"lr": group["peak"], "weight_decay": self.config.weight_decay * group["decays"]}
        optimizer = torch.optim.AdamW(groups)
        if self._resumed is not None:
            optimizer.load_state_dict(self._resumed["optimizer"])
        return optimizer

    def on_fit_start(self) -> None:
        """Put the average where Lightning has put the network: no submodule, it is not moved with it."""
        self.average.network.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Begin to measure."""
        self._losses, self._started = [], time.monotonic()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rates of this step."""
        config = self.config
        factor = rate_factor(
            self.epoch * self.steps + batch_idx,
            steps=config.epochs * self.steps,
            warmup=config.warmup * self.steps,
            schedule=config.schedule,
        )
        for group in self._optimizer().param_groups:
            group["lr"] = group["peak"] * factor

    def _optimizer(self) -> Any:
        return self.optimizers(use_pl_optimizer=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, in float32."""
        images, masks = batch
        logits = self.network(images.contiguous(memory_format=torch.channels_last))[0]
        with torch.autocast(device_type=self.device.type, enabled=False):
            weights = None if self._weights is None else self._weights.to(self.device)
            loss = LOSSES[self.config.loss](logits.float(), masks, weights)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {float(loss)} in epoch {self.epoch + 1}, step {batch_idx + 1}; try a lower --lr"
            )
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average."""
        self.average.update(self.network)

    def on_train_epoch_end(self) -> None:
        """Validate the average at deployment size, keep the best, write what a resume needs."""
        score = self._task.score(self.average.network)
        row = {
            "epoch": float(self.epoch + 1),
            "train_loss": float(torch.stack(self._losses).mean()),
            "miou": score.miou,
            "pixel_accuracy": score.pixel_accuracy,
            "lr": max(group["lr"] for group in self._optimizer().param_groups),
            "seconds": time.monotonic() - self._started,
        }
        self.history.append(row)
        if self.run is not None:
            self.run.log(row)
        if row["miou"] >= max(past["miou"] for past in self.history):
            save_semantic(self.work / "best.safetensors", self.average.network, card=self.card)
        save_state(self.work / "last.pt", self)
        say(
            f"epoch {self.epoch + 1}/{self.config.epochs}: loss {row['train_loss']:.4f}, "
            f"miou {row['miou']:.4f}, {row['seconds']:.1f} s"
        )
        if stopped_early(self.history, patience=self.config.patience):
            self.trainer.should_stop = True


def stopped_early(history: list[dict[str, float]], *, patience: int) -> bool:
    """Return whether the best epoch lies `patience` epochs back."""
    best = max(history, key=lambda row: row["miou"], default=None)
    return best is not None and history[-1]["epoch"] - best["epoch"] >= patience


def save_state(path: Path, module: SemanticModule) -> None:
    """Write what the next epoch needs, whole or not at all: tensors and plain containers only."""
    content = {
        "epoch": module.epoch + 1,
        "network": module.network.state_dict(),
        "average": module.average.network.state_dict(),
        "updates": module.average.updates,
        "optimizer": module._optimizer().state_dict(),
        "history": module.history,
    }
    with atomic_path(path) as beside:
        torch.save(content, beside)


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what save_state wrote, or None, said aloud, when it cannot be read."""
    from .weights import read_raw

    try:
        content: dict[str, Any] = read_raw(path)
        return content if {"epoch", "network", "average", "optimizer", "history"} <= content.keys() else None
    except (ModelError, AttributeError) as error:
        say(f"cannot go on from {path} ({error}); starting afresh")
        return None


def restore(module: SemanticModule, state: dict[str, Any]) -> None:
    """Put the module where save_state left it."""
    module.network.load_state_dict(state["network"])
    module.average.network.load_state_dict(state["average"])
    module.average.updates = int(state["updates"])
    module.history, module.first_epoch = list(state["history"]), int(state["epoch"])
    module._resumed = state


class _Epochs(IterableDataset[Batch]):
    """The task's batches of the epoch that the module is in."""

    def __init__(self, module: SemanticModule) -> None:
        self._module = module

    def __len__(self) -> int:
        return self._module.steps

    def __iter__(self) -> Iterator[Batch]:
        module, config = self._module, self._module.config
        yield from module._task.training(batch=config.batch, epoch=module.epoch, seed=config.seed)


def fit(module: SemanticModule, *, bfloat16: bool) -> None:
    """Train to the last epoch with Lightning's trainer: no logger, no bars, nothing written by it."""
    config = module.config
    torch.manual_seed(config.seed)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    index = config.device.partition(":")[2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu" if config.device == "cpu" else "gpu",
            devices=1 if config.device == "cpu" or not index else [int(index)],
            max_epochs=config.epochs - module.first_epoch,
            precision="bf16-mixed" if bfloat16 else "32-true",
            gradient_clip_val=config.clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(module.work),
            barebones=False,
        )
        trainer.fit(module, DataLoader(_Epochs(module), batch_size=None))
    if trainer.interrupted:
        raise KeyboardInterrupt


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text if text.startswith("epoch") else f"hexpath-models: {text}", file=sys.stderr, flush=True)
