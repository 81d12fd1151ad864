"""Networks of each kind of head at w8a8: wholly on the NPU, and the emulator agrees with ONNX
Runtime. YOLO11n: test_pipeline.py, YOLOv8n-seg: test_own_network.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hexpath_models.checkpoint import CheckpointCard, save_checkpoint
from hexpath_models.registry import MODELS, build

BIN = Path(sys.executable).parent
SIDE = 64
NAMES = {0: "person", 1: "vehicle", 2: "motorcycle"}


def call(*words: object) -> None:
    done = subprocess.run(
        [BIN / str(words[0]), *map(str, words[1:])], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("scenes")
    sizes = ("--train", 8, "--val", 4, "--size", SIDE, "--labels", "segments")
    call("hexpath-data", "generate", home / "data", *sizes)
    return home / "data" / "data.yaml"


def write(name: str, path: Path) -> Path:
    """A checkpoint with random weights and statistics, of which no two scores are alike."""
    torch.manual_seed(0)
    card = MODELS[name]
    model: Any = build(card, names=NAMES)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    about = {"arch": name, "task": card.task, "stride": 32, "reg_max": card.reg_max, "fingerprint": ""}
    save_checkpoint(path, model, card=CheckpointCard(names=NAMES, image_size=(SIDE, SIDE), **about))
    return path


@pytest.mark.parametrize("name", ["yolo11n-seg", "yolo26n"])
def test_every_operator_is_on_the_npu_and_computes_what_the_file_says(
    name: str, data: Path, tmp_path: Path
) -> None:
    checkpoint = write(name, tmp_path / "model.safetensors")
    options = ("--task", "yolo", "--checkpoint", checkpoint, "--data", data, "--option", "images=1")
    call("hexpath-quant", "ptq", *options, "--plan", "w8a8", "--calibration", 2, "--out", tmp_path / "q")
    model, compiled = tmp_path / "q" / "model.onnx", tmp_path / "c"
    call("hexpath-deploy", "compile", model, "--target", "qcs9075", "--out", compiled)
    card = json.loads((compiled / "compile.json").read_text())
    assert (card["cpu_ops"], card["float_ops"]) == (0, 0)
    assert card["npu_ops"] > 200
    assert not any("TopK" in entry["type"] for entry in card["ops"]), "cut before it"
    recorded = ("--compiled", compiled, "--recorded", model.with_name("recorded.npz"))
    call("hexpath-deploy", "agree", model, *recorded, "--out", tmp_path / "agree.json")
    assert json.loads((tmp_path / "agree.json").read_text())["verdict"] == "pass"
