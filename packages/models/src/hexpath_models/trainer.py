"""Ultralytics' trainers of detection and segmentation with the few changes that a pipeline needs.

Import this module only after `environment.offline()`.

- data comes through loading.py, so the dataset's folder stays as it was; validation is square, as deployed;
- checkpoints are written beside and renamed, so that a kill truncates none; the best as safetensors too;
- on a CPU the network runs channels-last, in bfloat16 where the CPU has it, the loss in float32;
- one line an epoch instead of bars and banners.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
import ultralytics.engine.trainer
import ultralytics.utils.torch_utils
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer

from .checkpoint import CheckpointCard, save_checkpoint
from .dataset import Dataset
from .loading import open_split
from .losses import training_loss

engine: Any = ultralytics.engine.trainer
torch_utils: Any = ultralytics.utils.torch_utils


class PipelineTrainer(DetectionTrainer):
    """One training run in one folder; attributes of a run are set by `make_trainer`."""

    dataset: Dataset
    card: CheckpointCard
    start_weights: nn.Module | None
    model: Any
    ema: Any
    last: Path
    best: Path

    def get_dataset(self) -> dict[str, Any]:
        """Return the dataset's description without Ultralytics' search and download."""
        return self.dataset.for_ultralytics()

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Return the dataset of a split; validation is letterboxed to a square."""
        settings = copy(self.args)
        settings.batch = batch or self.args.batch
        size = (int(self.args.imgsz), int(self.args.imgsz))
        return open_split(
            self.dataset,
            split=mode,
            image_size=size,
            settings=settings,
            augment=mode == "train",
            task=self.card.task,
        )

    def setup_model(self) -> dict[str, Any] | None:
        """Build the model, or take it from the interrupted run's last checkpoint."""
        if self.resume:
            checkpoint: dict[str, Any] | None = super().setup_model()
            return checkpoint
        self.model = self.get_model(cfg=self.card.config, weights=self.start_weights, verbose=False)
        return None

    def set_model_attributes(self) -> None:
        """Attach classes and loss, and choose the memory format."""
        super().set_model_attributes()
        self.model.criterion = training_loss(self.model)
        if self.device.type == "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Go on where the checkpoint ends; Ultralytics puts its own loss back for models of two branches."""
        super().resume_training(ckpt)
        own = self.model.criterion
        if self.resume and ckpt is not None and hasattr(own, "updates"):
            self.model.criterion = training_loss(self.model)
            self.model.criterion.updates = own.updates - 1
            self.model.criterion.update()

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """uint8 to float32 in [0, 1], in the model's memory format."""
        result: dict[str, Any] = super().preprocess_batch(batch)
        if self.device.type == "cpu":
            result["img"] = result["img"].contiguous(memory_format=torch.channels_last)
        return result

    def save_model(self) -> bool:
        """Write last.pt, and best.pt with best.safetensors, each whole or not at all."""
        last, best = self.last, self.best
        self.last, self.best = last.with_suffix(".new"), best.with_suffix(".new")
        try:
            written = bool(super().save_model())
            new_last, new_best = self.last, self.best
        finally:
            self.last, self.best = last, best
        if new_best.exists():
            save_checkpoint(best.with_suffix(".safetensors"), self.ema.ema, card=self.card)
            _replace(new_best, best)
        _replace(new_last, last)
        return written

    def final_eval(self) -> None:
        """Leave the last validation to train.py, which scores the file that it hands on."""


class SegmentPipelineTrainer(PipelineTrainer, SegmentationTrainer):
    """The same for instance masks."""


def _replace(source: Path, target: Path) -> None:
    with source.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(source, target)


def make_trainer(
    overrides: dict[str, Any],
    *,
    dataset: Dataset,
    card: CheckpointCard,
    start_weights: nn.Module | None,
) -> PipelineTrainer:
    """Return a trainer of this run; Ultralytics reads the dataset while constructing, so it is set before."""

    kind = SegmentPipelineTrainer if card.task == "segment" else PipelineTrainer
    RunTrainer: Any = type("RunTrainer", (kind,), {})
    RunTrainer.dataset, RunTrainer.card = dataset, card
    RunTrainer.start_weights = start_weights
    trainer = RunTrainer(overrides=overrides)
    trainer.add_callback("on_fit_epoch_end", ProgressLine())
    return trainer


class ProgressLine:
    """Prints epoch, loss, mAP, seconds and the time left to stderr."""

    def __init__(self) -> None:
        self._durations: list[float] = []
        self._started = time.monotonic()

    def __call__(self, trainer: Any) -> None:
        """Print the line of the epoch that has just been validated."""
        now = time.monotonic()
        self._durations.append(now - self._started)
        self._started = now
        left = (trainer.epochs - trainer.epoch - 1) * sum(self._durations) / len(self._durations)
        loss = sum(float(value) for value in trainer.tloss.values())
        metrics = trainer.metrics
        masks = metrics.get("metrics/mAP50-95(M)")
        print(
            f"epoch {trainer.epoch + 1}/{trainer.epochs}  loss {loss:.3f}  "
            f"map50 {metrics['metrics/mAP50(B)']:.3f}  map {metrics['metrics/mAP50-95(B)']:.3f}  "
            f"{'' if masks is None else f'mask_map {masks:.3f}  '}"
            f"{self._durations[-1]:.1f} s  left {left / 60:.1f} min",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def engine_changes(*, bfloat16: bool) -> Iterator[None]:
    """Let the engine use bfloat16 and every core of a CPU; keep its AMP check from downloading a model."""
    own_threads = torch_utils.NUM_THREADS
    own_autocast: Callable[..., Any] = engine.autocast
    own_check: Callable[..., bool] = engine.check_amp

    def cpu_autocast(enabled: Any, device: str = "cuda") -> Any:
        if device == "cpu" and bfloat16:
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return own_autocast(enabled, device=device)

    engine.autocast = cpu_autocast
    engine.check_amp = lambda model: True
    torch_utils.NUM_THREADS = int(os.environ["OMP_NUM_THREADS"])
    try:
        yield
    finally:
        torch_utils.NUM_THREADS = own_threads
        engine.autocast, engine.check_amp = own_autocast, own_check


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16 rather than emulating it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()
