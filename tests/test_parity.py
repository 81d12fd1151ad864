"""The house's mAP against Ultralytics' own validator, on a detector that has learned something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BIN = Path(sys.executable).parent
SIDE = 160


def call(*words: object) -> None:
    done = subprocess.run(
        [BIN / str(words[0]), *map(str, words[1:])], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scenes, a YOLO11n trained for 350 steps, its raw-head ONNX, and its score in ONNX Runtime."""
    home = tmp_path_factory.mktemp("parity")
    call("hexpath-data", "generate", home / "data", "--train", 200, "--val", 150, "--size", SIDE)
    call("hexpath-data", "card", home / "data" / "data.yaml", "--out", home / "dataset")
    data = home / "dataset" / "data.yaml"
    options = ("--epochs", 14, "--imgsz", SIDE)
    call(
        "hexpath-models", "train", "--data", data, "--out", home / "train", "--work", home / "work", *options
    )
    weights = home / "train" / "model.safetensors"
    call("hexpath-models", "export", weights, "--data", data, "--head", "raw", "--out", home / "export")
    coco = home / "dataset" / "coco" / "val.json"
    call("hexpath-deploy", "evaluate", home / "export/model.onnx", "--coco", coco, "--out", home / "ort.json")
    return home


def test_our_map_is_ultralytics_own_within_half_a_point(folder: Path) -> None:
    """Theirs: its own preprocessing, NMS, matching and AP. Ours: ONNX Runtime, numpy, pycocotools.

    Ultralytics clips boxes to the image when it hands them on, as we do, but not when it scores them; on
    objects cut by the border that costs it points. So its validator gets the boxes clipped here.
    """
    from hexpath_models.tasks import yolo_detect

    data, weights = folder / "dataset" / "data.yaml", folder / "train" / "model.safetensors"
    task = yolo_detect(checkpoint=weights, data=data, options={"head": "plain"})
    network = task.float_model()
    theirs = task.score(lambda images: (clipped(network(images)[0], side=SIDE),))
    ours = json.loads((folder / "ort.json").read_text())["metrics"]
    assert theirs.map > 0.1, "a detector that has learned nothing proves nothing"
    assert ours["map"] == pytest.approx(theirs.map, abs=0.005)
    assert ours["map50"] == pytest.approx(theirs.map50, abs=0.005)


def clipped(plain: torch.Tensor, *, side: int) -> torch.Tensor:
    """Boxes (N, 4 + classes, A), xywh in pixels of a square image, cut at its borders."""
    half = plain[:, 2:4] / 2
    low, high = ((plain[:, :2] + sign * half).clamp(0, side) for sign in (-1, 1))
    return torch.cat([(low + high) / 2, high - low, plain[:, 4:]], 1)
