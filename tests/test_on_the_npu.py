"""Networks of each kind of head at w8a8: wholly on the NPU, and the emulator agrees with ONNX
Runtime. YOLO11n: test_pipeline.py, YOLOv8n-seg: test_own_network.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_yolo import call, scenes, write

SIDE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("scenes"), side=SIDE)


@pytest.mark.parametrize("name", ["yolo11n-seg", "yolo26n"])
def test_every_operator_is_on_the_npu_and_computes_what_the_file_says(
    name: str, data: Path, tmp_path: Path
) -> None:
    checkpoint = write(name, tmp_path / "model.safetensors", side=SIDE)
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
