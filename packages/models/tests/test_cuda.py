"""Training on a GPU: both trainers, resume, and results that a machine without one reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

KINDS = {
    "yolo11n": ["--imgsz", "64", "--batch", "8", "--mosaic", "0.2"],
    "yolo26n": ["--imgsz", "64", "--batch", "8", "--mosaic", "0.2"],
    "ddrnet23_slim": ["--imgsz", "64", "--batch", "4", "--lr", "0.003"],
    "efficientvit_seg_b1": ["--imgsz", "64", "--batch", "4", "--lr", "0.003"],
    "segformer_b0": ["--imgsz", "64", "--batch", "4", "--lr", "0.003"],
}


@pytest.mark.parametrize("model", KINDS)
def test_training(model: str, run: Any, data: Path, masks: Path, tmp_path: Path) -> None:
    given = data if model.startswith("yolo") else masks
    out, work = tmp_path / "out", tmp_path / "work"
    line = ["train", "--model", model, "--data", given, "--out", out, "--work", work, "--device", "cuda"]
    result = run(*line, *KINDS[model], "--epochs", 2)
    assert result.code == 0, result.err
    rows = list(csv.DictReader((out / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(torch.isfinite(torch.tensor(float(row["train_loss"]))) for row in rows)
    assert json.loads((out / "metrics.json").read_text())["config"]["device"].startswith("cuda")
    weights = load_file(out / "model.safetensors")  # to the CPU
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values() if tensor.is_floating_point())


def test_a_segmentation_training_goes_on(run: Any, masks: Path, tmp_path: Path) -> None:
    line = ["train", "--model", "ddrnet23_slim", "--data", masks, "--out", tmp_path / "out"]
    line += ["--work", tmp_path / "work", "--device", "cuda", *KINDS["ddrnet23_slim"], "--epochs", 3]
    state = tmp_path / "work" / "last.pt"
    assert run(*line).code == 0
    (tmp_path / "out" / "model.safetensors").unlink()
    content = torch.load(state, weights_only=True)
    content["epoch"], content["history"] = 2, content["history"][:2]
    torch.save(content, state)
    result = run(*line)
    assert result.code == 0, result.err
    assert "going on after epoch 2 of 3" in result.err
