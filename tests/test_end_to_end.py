"""YOLO26 gives what Ultralytics' own end-to-end forward gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from hexpath_models.checkpoint import CheckpointCard, load_checkpoint, save_checkpoint
from hexpath_models.registry import MODELS, build

BIN = Path(sys.executable).parent
SIDE = 160  # 525 anchors: more than the 300 best
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


def test_yolo26_gives_what_ultralytics_end_to_end_forward_gives(data: Path, tmp_path: Path) -> None:
    """Theirs: torch, top-k in the graph. Ours: the raw head in ONNX Runtime, the best scores in numpy."""
    from hexpath_deploy.model import read_task_model
    from hexpath_deploy.reference.hexpath_reference import postprocess, preprocess
    from hexpath_deploy.spec import Settings, postprocess_spec, preprocess_spec

    checkpoint = write("yolo26n", tmp_path / "model.safetensors")
    call("hexpath-models", "export", checkpoint, "--data", data, "--head", "raw", "--out", tmp_path / "raw")
    model = read_task_model(tmp_path / "raw" / "model.onnx")
    pixels = np.asarray(Image.open(next((data.parent / "images" / "val").iterdir())).convert("RGB"))
    images, placed = preprocess(pixels, spec=preprocess_spec(model))
    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    values = dict(zip(model.outputs, session.run(list(model.outputs), {"images": images}), strict=True))
    settings = Settings(confidence=1e-6)
    found = postprocess(values, spec=postprocess_spec(model, settings=settings), placed=placed)

    network: Any = load_checkpoint(checkpoint)[0]
    network.end2end = True
    with torch.inference_mode():
        theirs = network(torch.from_numpy(images))[0][0].numpy()
    assert network.model[-1].end2end
    assert theirs.shape[1] == 6, "boxes, score and class of the best alone"
    assert len(theirs) == len(found.scores) == 300
    boxes = theirs[:, :4].clip(0, SIDE)
    assert np.ptp(theirs[:, 4]) > 1e-3, "scores that say nothing would prove nothing"
    for box, score, label in zip(boxes, theirs[:, 4], theirs[:, 5], strict=True):  # near ties change places
        alike = (found.classes == label) & (np.abs(found.scores - score) < 1e-5)
        assert np.abs(found.boxes[alike] - box).max(axis=1).min(initial=np.inf) < 1e-2
