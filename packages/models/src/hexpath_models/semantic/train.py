"""From a name and a dataset of masks to model.safetensors with its history."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import ClassMismatchError, TrainingError
from ..files import atomic_folder, write_atomic, write_errors
from ..tracking import tracked
from .checkpoint import SemanticCheckpoint, load_semantic, save_semantic
from .config import SemanticConfig
from .dataset import SemanticDataset, pixel_counts, read_semantic
from .losses import class_weights
from .network import SemanticNetwork
from .registry import build_semantic, find_semantic
from .scoring import Score
from .task import SemanticTask
from .training import (
    SemanticModule,
    fit,
    measure_statistics,
    read_state,
    restore,
    say,
    stopped_early,
)
from .weights import find_published, load_published

_HISTORY = ("epoch", "train_loss", "miou", "pixel_accuracy", "lr", "seconds")


def train_semantic(config: SemanticConfig, *, data: Path, out: Path, work: Path) -> dict[str, Any]:
    """Train, or go on with an interrupted run in `work`, and write the folder `out`.

    out: model.safetensors (best epoch, averaged weights), history.csv, metrics.json; returns the metrics.
    Raises DataFileError, ClassMismatchError, MissingWeightsError, TrainingError and checkpoint errors.
    """
    started = time.monotonic()
    dataset = read_semantic(data)
    with write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    card = SemanticCheckpoint(
        arch=config.model,
        names=dataset.names,
        image_size=config.sizes[0],
        fingerprint=dataset.fingerprint,
        options=dict(config.options),
    )
    network, start = _start(config, card=card, dataset=dataset)
    bfloat16 = _use_bfloat16(config)
    task = SemanticTask(
        network=network,
        card=card,
        dataset=dataset,
        size=card.image_size,
        crop=config.sizes[1],
        device=config.device,
    )
    history = _run(config, network=network, task=task, work=work, bfloat16=bfloat16)
    return _write_result(
        config,
        task=task,
        out=out,
        work=work,
        history=history,
        more={"start": start, "precision": "bfloat16" if bfloat16 else "float32", "started": started},
    )


def _start(
    config: SemanticConfig, *, card: SemanticCheckpoint, dataset: SemanticDataset
) -> tuple[SemanticNetwork, str]:
    """Return the network where training begins, and where that is."""
    torch.manual_seed(config.seed)
    model = find_semantic(config.model)
    if config.weights and config.weights.endswith(".safetensors"):
        network, theirs = load_semantic(Path(config.weights), options=dict(config.options))
        if theirs.arch != config.model:
            raise ClassMismatchError(
                f"{config.weights} is a {theirs.arch}, --model asks for {config.model}; make them equal"
            )
        if theirs.names == dataset.names:
            return network.train(), config.weights
        kept = {k: v for k, v in network.net.state_dict().items() if k not in network.net.head_keys}
        network = build_semantic(model, classes=len(card.names), options=config.options)
        network.net.load_state_dict(kept, strict=False)
        say(f"starting from {config.weights}, a new head for the {len(card.names)} classes of {dataset.file}")
        return network, config.weights
    network = build_semantic(model, classes=len(card.names), options=config.options)
    if not (config.pretrained or config.weights):
        return network, "random weights"
    file = Path(config.weights) if config.weights else find_published(model)
    replaced = load_published(network, file)
    say(f"starting from {file}" + (f", a new head for {len(card.names)} classes" if replaced else ""))
    return network, file.name


def _use_bfloat16(config: SemanticConfig) -> bool:
    if config.device != "cpu":
        return True
    supported: Any = torch.cpu._is_avx512_bf16_supported()
    return bool(supported) if config.bfloat16 is None else config.bfloat16


def _run(
    config: SemanticConfig,
    *,
    network: SemanticNetwork,
    task: SemanticTask,
    work: Path,
    bfloat16: bool,
) -> list[dict[str, float]]:
    card, dataset, weights = task.card, task.dataset, None
    if config.weighting == "balanced":
        weights = class_weights(pixel_counts(dataset, dataset.train))
    module = SemanticModule(network=network, task=task, config=config, card=card, weights=weights, work=work)
    state = _resume_point(config, dataset=dataset, work=work)
    if state is not None:
        restore(module, state)
        if module.first_epoch >= config.epochs or stopped_early(module.history, patience=config.patience):
            return module.history
        say(f"going on after epoch {module.first_epoch} of {config.epochs}")
    with tracked(asdict(config), work=work) as run:
        module.run = run
        try:
            fit(module, bfloat16=bfloat16)
        except RuntimeError as error:
            raise TrainingError(f"training failed: {' '.join(str(error).split())[:300]}") from error
    return module.history


def _resume_point(config: SemanticConfig, *, dataset: SemanticDataset, work: Path) -> dict[str, Any] | None:
    """Return the state to go on from; clear the work folder when there is none that fits."""
    record, last = work / "arguments.json", work / "last.pt"
    wanted = json.dumps({**asdict(config), "data": str(dataset.file), "fingerprint": dataset.fingerprint})
    if last.is_file() and record.is_file() and (work / "best.safetensors").is_file():
        if record.read_text() != wanted:
            say(f"{work} holds a run with other arguments; starting afresh")
        elif (state := read_state(last)) is not None:
            return state
    for name in ("last.pt", "best.safetensors"):
        (work / name).unlink(missing_ok=True)
    shutil.rmtree(work / "lightning_logs", ignore_errors=True)
    write_atomic(record, wanted)
    return None


class _Candidate(NamedTuple):
    network: SemanticNetwork
    score: Score
    epoch: int


def _candidates(
    config: SemanticConfig, *, task: SemanticTask, work: Path, history: list[dict[str, float]]
) -> dict[str, _Candidate]:
    """Return by name the best epoch, batch norms of windows, and the last, those of whole images.

    Neither is always better: DDRNet23-Slim gains 11 to 13 points of mIoU by whole images on generated terrain
    (windows of 192x192 for 544x640), and loses 4 on CamVid (320x384). Where windows do not fit, their scores
    do not tell the best epoch either.
    """
    best, _ = load_semantic(work / "best.safetensors")
    top = max(history, key=lambda row: (row["miou"], row["epoch"]))
    found = {"windows": _Candidate(best, task.score(best.to(task.device)), int(top["epoch"]))}
    state = read_state(work / "last.pt") if config.sizes[0] != config.sizes[1] else None
    if state is not None:
        last, _ = load_semantic(work / "best.safetensors")
        last.load_state_dict(state["average"])
        measure_statistics(last.to(task.device), task)
        found["whole images"] = _Candidate(last, task.score(last), int(state["epoch"]))
        told = ", ".join(f"{name} {item.score.miou:.4f} (epoch {item.epoch})" for name, item in found.items())
        say(f"miou with batch norms measured on {told}; the better ones are kept")
    return found


def _write_result(
    config: SemanticConfig,
    *,
    task: SemanticTask,
    out: Path,
    work: Path,
    history: list[dict[str, float]],
    more: dict[str, Any],
) -> dict[str, Any]:
    found = _candidates(config, task=task, work=work, history=history)
    kept = max(found, key=lambda name: found[name].score.miou)
    network, result, epoch = found[kept]
    metrics = {
        **result.metrics(),
        "validator": "hexpath",
        "per_class": result.per_class,
        "model": config.model,
        "epochs": len(history),
        "best_epoch": epoch,
        "statistics": kept,
        "miou_by_statistics": {name: item.score.miou for name, item in found.items()},
        "precision": more["precision"],
        "start": more["start"],
        "rates": dict(zip(("backbone", "head"), config.rates, strict=True)),
        "config": asdict(config),
        "fingerprint": task.card.fingerprint,
        "tools": {name: importlib.metadata.version(name) for name in ("torch", "lightning")},
        "seconds": round(time.monotonic() - more["started"], 1),
    }
    with atomic_folder(out) as folder:
        save_semantic(folder / "model.safetensors", network, card=task.card)
        lines = [",".join(_HISTORY)]
        lines += [",".join(f"{row[name]:.6g}" for name in _HISTORY) for row in history]
        write_atomic(folder / "history.csv", "\n".join(lines) + "\n")
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics
