"""The house's mAP against Ultralytics' own validator, on a detector that has learned something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def call(*words: object) -> None:
    done = subprocess.run(
        [BIN / str(words[0]), *map(str, words[1:])], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scenes, a YOLO11n trained for 350 steps, its raw-head ONNX, and its score in ONNX Runtime."""
    home = tmp_path_factory.mktemp("parity")
    call("hexpath-data", "generate", home / "data", "--train", 200, "--val", 150, "--size", 160)
    call("hexpath-data", "card", home / "data" / "data.yaml", "--out", home / "dataset")
    data = home / "dataset" / "data.yaml"
    options = ("--epochs", 14, "--imgsz", 160)
    call(
        "hexpath-models", "train", "--data", data, "--out", home / "train", "--work", home / "work", *options
    )
    weights = home / "train" / "model.safetensors"
    call("hexpath-models", "export", weights, "--data", data, "--head", "raw", "--out", home / "export")
    coco = home / "dataset" / "coco" / "val.json"
    call("hexpath-deploy", "evaluate", home / "export/model.onnx", "--coco", coco, "--out", home / "ort.json")
    return home


@pytest.mark.parametrize("metric", ["map50", "map"])
def test_our_map_is_ultralytics_own_within_half_a_point(folder: Path, metric: str) -> None:
    """Theirs: its own preprocessing, decoding, NMS and metric. Ours: ONNX Runtime, numpy, pycocotools."""
    theirs = json.loads((folder / "train" / "metrics.json").read_text())
    ours = json.loads((folder / "ort.json").read_text())["metrics"]
    assert theirs["validator"] == "ultralytics"
    assert theirs["map"] > 0.1, "a detector that has learned nothing proves nothing"
    assert ours[metric] == pytest.approx(theirs[metric], abs=0.005)
