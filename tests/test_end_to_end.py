"""YOLO26 gives what Ultralytics' own end-to-end forward gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from random_yolo import call, scenes, write

from hexpath_models.checkpoint import load_checkpoint

SIDE = 160  # 525 anchors: more than the 300 best


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("scenes"), side=SIDE)


def test_yolo26_gives_what_ultralytics_end_to_end_forward_gives(data: Path, tmp_path: Path) -> None:
    """Theirs: torch, top-k in the graph. Ours: the raw head in ONNX Runtime, the best scores in numpy."""
    from hexpath_deploy.model import read_task_model
    from hexpath_deploy.reference.hexpath_reference import postprocess, preprocess
    from hexpath_deploy.spec import Settings, postprocess_spec, preprocess_spec

    checkpoint = write("yolo26n", tmp_path / "model.safetensors", side=SIDE)
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
    sure = (
        theirs[:, 4] > theirs[:, 4].min() + 1e-5
    )  # of near ties with the last, others may be among the best
    assert sure.sum() > 100
    for box, score, label in zip(boxes[sure], theirs[sure, 4], theirs[sure, 5], strict=True):
        alike = (found.classes == label) & (np.abs(found.scores - score) < 1e-5)
        assert (
            np.abs(found.boxes[alike] - box).max(axis=1).min(initial=np.inf) < 1e-2
        )  # near ties change places
