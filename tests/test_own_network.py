"""A network of one's own, from an Ultralytics .pt file, through the pipeline by one parameter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
RUNS = REPO / "runs" / "exp_08_yolo_seg"
SMALL = ["data.train=16", "data.val=8", "data.size=96", "ptq.calibration=8", "emulator.images=2"]
WRITE = """
import sys
from hexpath_models.environment import offline
offline()
import torch
from ultralytics.nn.tasks import SegmentationModel
torch.manual_seed(0)
model = SegmentationModel("yolov8n-seg.yaml", nc=3, verbose=False)
model.names = {0: "person", 1: "vehicle", 2: "motorcycle"}
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 1.5)
model.args = {"imgsz": 96}
torch.save({"epoch": -1, "model": model.half(), "ema": None, "train_args": {"imgsz": 96}}, sys.argv[1])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a YOLOv8 for masks at a rectangular size, with 16 bit in its mask branch; the run folder."""
    own, name = tmp_path_factory.mktemp("own") / "best.pt", f"test-{os.getpid()}"
    subprocess.run([sys.executable, "-c", WRITE, str(own)], check=True)
    command = [sys.executable, str(REPO / "experiments" / "run.py"), "exp_08_yolo_seg", *SMALL]
    command += [
        f"checkpoint={own}",
        "take.imgsz=64x96",
        "--plans",
        "masks-16",
        "--name",
        name,
        "--base",
        name,
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "YOLO"))}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1500)
    assert done.returncode == 0, done.stderr
    yield RUNS / name
    shutil.rmtree(RUNS / name, ignore_errors=True)


def test_it_is_taken_not_trained_and_runs_on_the_npu_alone(finished: Path) -> None:
    assert not (finished / "train" / "history.csv").exists()
    rows = {
        (r["id"], r["evaluated_on"]): r
        for r in json.loads((finished / "results.json").read_text())["results"]
    }
    assert set(rows) == {("fp32", "ort"), ("masks-16", "ort"), ("masks-16", "emulator")}
    row = rows["masks-16", "ort"]
    assert row["model"] == "best"
    assert row["cpu_ops"] == 0
    assert row["agreement"]["verdict"] == "pass"
    assert {"map", "mask_map"} <= set(row["metrics"])


def test_its_file_says_what_it_is(finished: Path) -> None:
    import onnx

    model = onnx.load(finished / "quant" / "masks-16" / "model.onnx")
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert (found["task"], found["imgsz"], found["hexpath.model"]) == ("segment", "[64, 96]", "yolov8n-seg")
    regions = json.loads(found["hexpath.plan_regions"])
    assert {region for region, plan in regions.items() if plan == "w8a16"} == {
        "head.prototypes",
        "head.masks.8",
        "head.masks.16",
        "head.masks.32",
    }
