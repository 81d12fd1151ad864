"""Train a YOLO network in float precision: from a name and a dataset to model.safetensors."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architecture import has_two_branches
from .checkpoint import CheckpointCard, load_checkpoint, save_checkpoint
from .dataset import Dataset, check_classes, image_size, read_dataset
from .environment import offline
from .errors import (
    ClassMismatchError,
    CorruptCheckpointError,
    ModelError,
    OptionError,
    TrainingError,
    nearest,
)
from .files import atomic_folder, write_atomic, write_errors
from .registry import find_model

if TYPE_CHECKING:
    from torch import nn

_OPTIMIZERS = ("AdamW", "Adam", "SGD", "MuSGD", "NAdam", "RAdam", "RMSprop", "auto")
_HISTORY = ("epoch", "train_loss", "map50", "map", "mask_map50", "mask_map", "lr", "seconds")
_DEFAULT_MODEL = "yolo11n"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What decides the result of a run; `lr` is the peak rate, `mosaic` a probability.

    model: a name of the registry; empty for that of `weights`, or yolo11n without weights.
    weights: a model.safetensors, or an Ultralytics .pt file, of any family that importing takes.
    """

    model: str = ""
    epochs: int = 20
    imgsz: int = 320
    batch: int = 8
    lr: float = 3e-3
    optimizer: str = "AdamW"
    mosaic: float = 0.3
    patience: int = 50
    seed: int = 0
    device: str = "cpu"
    pretrained: bool = False
    weights: str = ""
    bfloat16: bool | None = None

    def __post_init__(self) -> None:
        if self.model:
            find_model(self.model)
        image_size(str(self.imgsz))
        if self.optimizer not in _OPTIMIZERS:
            raise OptionError(f"unknown optimizer {self.optimizer!r}; {nearest(self.optimizer, _OPTIMIZERS)}")
        for name, value in (("epochs", self.epochs), ("batch", self.batch), ("patience", self.patience)):
            if value < 1:
                raise OptionError(f"{name} is {value}, it must be at least 1")
        if self.lr <= 0 or not 0 <= self.mosaic <= 1:
            raise OptionError(f"lr {self.lr} must be above 0 and mosaic {self.mosaic} within 0 to 1")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise OptionError(f"device {self.device!r} is not cpu, cuda or cuda:N; training runs on one")


def resolve_device(name: str) -> str:
    """Return `cpu`, `cuda` or `cuda:N`; `auto` is the first GPU where there is one.

    Raises OptionError when a GPU is asked for that is not there.
    """
    import torch

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError(f"device {name!r} is not there: torch finds no GPU; use cpu or auto")
    return name


def train(config: TrainConfig, *, data: Path, out: Path, work: Path) -> dict[str, Any]:
    """Train, or go on with an interrupted run in `work`, and write the folder `out`.

    out: model.safetensors (best epoch, EMA weights), history.csv, metrics.json; returns what the last holds.
    Raises DataFileError, ClassMismatchError, MissingWeightsError, TrainingError and checkpoint errors.
    """
    dataset = read_dataset(data)
    with write_errors(work):
        offline(work, online=config.pretrained)
    started = time.monotonic()
    start = _start(config, dataset=dataset, work=work)
    bfloat16 = _use_bfloat16(config)
    _run(config, dataset=dataset, work=work, start=start, bfloat16=bfloat16)
    return _write_result(config, dataset=dataset, out=out, work=work, started=started, bfloat16=bfloat16)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The card of the network that is to be trained, and the weights it starts from, if not random."""

    card: CheckpointCard
    weights: nn.Module | None = None


def _start(config: TrainConfig, *, dataset: Dataset, work: Path) -> Start:
    if config.weights:
        return _from_weights(config, dataset=dataset)
    model = find_model(config.model or _DEFAULT_MODEL)
    card = CheckpointCard(
        arch=model.name,
        task=model.task,
        names=dataset.names,
        image_size=(config.imgsz, config.imgsz),
        stride=model.stride,
        reg_max=model.reg_max,
        fingerprint=dataset.fingerprint,
    )
    if not config.pretrained:
        return Start(card=card)
    from .importing import read_pt
    from .pretrained import find_weights

    return Start(card=card, weights=read_pt(find_weights(model, work=work)).float())


def _from_weights(config: TrainConfig, *, dataset: Dataset) -> Start:
    from .importing import open_network

    file = Path(config.weights)
    model, card = open_network(file)
    check_classes(dataset, card.names, checkpoint=file)
    if config.model and card.arch != config.model:
        raise ClassMismatchError(
            f"{config.weights} is a {card.arch}, --model asks for {config.model}; make them equal"
        )
    size = (config.imgsz, config.imgsz)
    return Start(card=replace(card, image_size=size, fingerprint=dataset.fingerprint), weights=model)


def _use_bfloat16(config: TrainConfig) -> bool:
    from .trainer import cpu_has_bfloat16

    if config.device != "cpu":
        return False
    return cpu_has_bfloat16() if config.bfloat16 is None else config.bfloat16


def _run(config: TrainConfig, *, dataset: Dataset, work: Path, start: Start, bfloat16: bool) -> None:
    from .tracking import tracked_by_ultralytics
    from .trainer import engine_changes, make_trainer

    folder = work / "run"
    resume = _resume_point(config, dataset=dataset, work=work)
    if resume is Finished:
        return
    overrides = _overrides(config, card=start.card, dataset=dataset, folder=folder)
    if isinstance(resume, Path):
        overrides["resume"] = str(resume)
    with engine_changes(bfloat16=bfloat16), tracked_by_ultralytics(asdict(config), work=work):
        trainer = make_trainer(overrides, dataset=dataset, card=start.card, start_weights=start.weights)
        run: Any = trainer
        try:
            run.train()
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(
                f"training failed: {' '.join(str(error).split())[:300]}; try a lower --lr"
            ) from error


class Finished:
    """Marks a run in the work folder that has nothing left to train."""


def _resume_point(config: TrainConfig, *, dataset: Dataset, work: Path) -> Path | type[Finished] | None:
    """Return the checkpoint to go on from; clear the work folder when there is none that fits."""
    record, last = work / "arguments.json", work / "run" / "weights" / "last.pt"
    wanted = json.dumps({**asdict(config), "data": str(dataset.file), "fingerprint": dataset.fingerprint})
    if last.is_file() and record.is_file():
        if record.read_text() != wanted:
            _say(f"{work} holds a run with other arguments; starting afresh")
        elif (point := _checked_point(config, last)) is not None:
            return point
    shutil.rmtree(work / "run", ignore_errors=True)
    write_atomic(record, wanted)
    return None


def _checked_point(config: TrainConfig, last: Path) -> Path | type[Finished] | None:
    from .importing import read_restricted

    try:
        done = int(read_restricted(last)["epoch"]) + 1
    except (ModelError, KeyError, TypeError) as error:
        _say(f"cannot go on from {last} ({error}); starting afresh")
        return None
    if not last.with_name("best.safetensors").is_file():
        _say(f"{last} has no best.safetensors beside it; starting afresh")
        return None
    if done >= config.epochs or _stopped_early(config, last):
        return Finished
    _say(f"going on after epoch {done} of {config.epochs}")
    return last


def _stopped_early(config: TrainConfig, last: Path) -> bool:
    rows = _history(last.parent.parent / "results.csv")
    best = max(rows, key=lambda row: row["map"], default=None)
    return best is not None and rows[-1]["epoch"] - best["epoch"] >= config.patience


def _say(text: str) -> None:
    print(f"hexpath-models: {text}", file=sys.stderr, flush=True)


def _overrides(
    config: TrainConfig, *, card: CheckpointCard, dataset: Dataset, folder: Path
) -> dict[str, Any]:
    """Return Ultralytics' arguments; everything that is not named has its default.

    A network with two branches is validated by its one-to-one branch, which is the one that is deployed.
    """
    return {
        "task": card.task,
        "model": f"{card.arch}.yaml",  # a name only: the trainer builds from the card
        "nms": False if has_two_branches(card.config) else None,
        "data": str(dataset.file),
        "epochs": config.epochs,
        "imgsz": config.imgsz,
        "batch": config.batch,
        "nbs": config.batch,  # step after each batch: the sets are small
        "optimizer": config.optimizer,
        "lr0": config.lr,
        "lrf": 0.02,
        "cos_lr": True,
        "warmup_epochs": min(1.0, config.epochs / 10),
        "warmup_bias_lr": config.lr,
        "momentum": 0.9,
        "mosaic": config.mosaic,
        "close_mosaic": max(1, config.epochs // 5),
        "patience": config.patience,
        "seed": config.seed,
        "device": config.device,
        "amp": "bf16" if config.device != "cpu" else False,
        "pretrained": False,
        "plots": False,
        "verbose": False,
        # On a CPU the seed alone makes runs repeatable, and torch's switch costs seconds of imports.
        "deterministic": config.device != "cpu",
        "augmentations": [],
        "save_dir": str(folder.resolve()),
        "project": "hexpath",
        "name": folder.parent.name,
        "exist_ok": True,
    }


def _write_result(
    config: TrainConfig, *, dataset: Dataset, out: Path, work: Path, started: float, bfloat16: bool
) -> dict[str, Any]:
    best = work / "run" / "weights" / "best.safetensors"
    if not best.is_file():
        raise TrainingError(
            f"training left no checkpoint in {best.parent}; delete {work} and try a lower --lr"
        )
    try:
        model, card = load_checkpoint(best)
    except CorruptCheckpointError as error:
        raise TrainingError(f"{error}; delete {work} and train again") from error
    history = _history(work / "run" / "results.csv")
    metrics = _metrics(config, best, dataset=dataset, history=history, bfloat16=bfloat16)
    metrics["seconds"] = round(time.monotonic() - started, 1)
    with atomic_folder(out) as folder:
        save_checkpoint(folder / "model.safetensors", model, card=card)
        _write_history(folder / "history.csv", history)
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics


def _metrics(
    config: TrainConfig, best: Path, *, dataset: Dataset, history: list[dict[str, float]], bfloat16: bool
) -> dict[str, Any]:
    from .tasks import yolo

    task = yolo(checkpoint=best, data=dataset.file, options={"device": config.device})
    result = task.score(task.float_model())
    top = max(history, key=lambda row: (row["map"], row["epoch"]))  # the trainer keeps the later of equals
    return {
        **result.as_metrics(),
        "validator": "ultralytics",
        "per_class": result.per_class,
        "epochs": len(history),
        "best_epoch": int(top["epoch"]),
        "model": task.card.arch,
        "precision": "bfloat16" if bfloat16 else "float32",
        "config": asdict(config),
        "fingerprint": dataset.fingerprint,
        "tools": {name: importlib.metadata.version(name) for name in ("torch", "ultralytics")},
    }


def _history(results: Path) -> list[dict[str, float]]:
    """Read Ultralytics' results.csv; of an epoch that was run twice, the later one counts."""
    if not results.is_file():
        return []
    with results.open(encoding="utf-8", newline="") as file:
        rows = [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    history: dict[int, dict[str, float]] = {}
    before = 0.0
    for row in rows:
        seconds = (
            row["time"] - before if row["time"] > before else row["time"]
        )  # the clock restarts on resume
        before = row["time"]
        history[int(row["epoch"])] = {
            "epoch": row["epoch"],
            "train_loss": sum(value for key, value in row.items() if key.startswith("train/")),
            "map50": row["metrics/mAP50(B)"],
            "map": row["metrics/mAP50-95(B)"],
            "lr": row["lr/pg0"],
            "seconds": seconds,
        }
        if "metrics/mAP50-95(M)" in row:
            history[int(row["epoch"])] |= {
                "mask_map50": row["metrics/mAP50(M)"],
                "mask_map": row["metrics/mAP50-95(M)"],
            }
    return [history[epoch] for epoch in sorted(history)]


def _write_history(path: Path, rows: list[dict[str, float]]) -> None:
    names = [name for name in _HISTORY if all(name in row for row in rows)]
    lines = [",".join(names)]
    lines += [",".join(f"{row[name]:.6g}" for name in names) for row in rows]
    write_atomic(path, "\n".join(lines) + "\n")
