"""YOLO networks with random weights, a few scenes, and the commands on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from hexpath_models.checkpoint import CheckpointCard, save_checkpoint
from hexpath_models.registry import MODELS, build

BIN = Path(sys.executable).parent
NAMES = {0: "person", 1: "vehicle", 2: "motorcycle"}


def call(*words: object) -> None:
    """Run a console command, which must succeed."""
    done = subprocess.run(
        [BIN / str(words[0]), *map(str, words[1:])], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def scenes(home: Path, *, side: int) -> Path:
    """Generate twelve images with polygons; return data.yaml."""
    sizes = ("--train", 8, "--val", 4, "--size", side, "--labels", "segments")
    call("hexpath-data", "generate", home / "data", *sizes)
    return home / "data" / "data.yaml"


def write(name: str, path: Path, *, side: int) -> Path:
    """A checkpoint with random weights and statistics, of which no two scores are alike."""
    torch.manual_seed(0)
    card = MODELS[name]
    model: Any = build(card, names=NAMES)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    about = {"arch": name, "task": card.task, "stride": 32, "reg_max": card.reg_max, "fingerprint": ""}
    save_checkpoint(path, model, card=CheckpointCard(names=NAMES, image_size=(side, side), **about))
    return path
