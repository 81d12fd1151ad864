"""exp_07_terrain in miniature: two segmentation networks end to end, beside each other in one run.

They learn next to nothing from 48 images of 96 pixels, so the emulator may disagree with ONNX Runtime; that
is a finding here, and the run goes on.
"""

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
RUNS = REPO / "runs" / "exp_07_terrain"
NAME = f"test-{os.getpid()}"
PLANS = {"ddrnet-fp32": "ddrnet23_slim", "ddrnet-w8a8": "ddrnet23_slim"}
PLANS |= {"efficientvit-fp32": "efficientvit_seg_b1", "efficientvit-w8a8-equal": "efficientvit_seg_b1"}
SMALL = [
    *("data.train=48", "data.val=4", "data.size=96", "train.imgsz=64x64", "train.deploy=96x128"),
    *("train.epochs=4", "train.ddrnet23_slim.epochs=4", "ptq.calibration=16", "emulator.images=1"),
    *("audit.images=2", "--plans", ",".join(PLANS)),
]


def execute() -> subprocess.CompletedProcess[str]:
    """What `nox -s exp_07_terrain -- ...` runs."""
    line = [sys.executable, str(REPO / "experiments" / "run.py"), "exp_07_terrain", *SMALL]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "YOLO"))}
    line += ["--name", NAME, "--base", NAME]
    return subprocess.run(line, capture_output=True, text=True, env=env, timeout=1500)


@pytest.fixture(scope="module")
def finished() -> Iterator[Path]:
    """The folder of a finished run."""
    done = execute()
    assert done.returncode == 0, done.stderr
    yield RUNS / NAME
    shutil.rmtree(RUNS / NAME, ignore_errors=True)


def test_the_record_holds_both_networks(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    rows = {(row["id"], row["evaluated_on"]): row for row in results["results"]}
    npu = {name for name in PLANS if "fp32" not in name}
    assert set(rows) == {(name, "ort") for name in PLANS} | {(name, "emulator") for name in npu}
    for (name, _), row in rows.items():
        assert row["model"] == PLANS[name]
        assert 0 < row["metrics"]["miou"] < 1
        assert all(0 <= found["iou"] <= 1 for found in row["per_class"].values())
        if name in npu:
            assert row["cpu_ops"] == 0
            assert row["latency"]["source"] == "estimate"
            assert row["agreement"]["verdict"] in {"pass", "fail"}
    assert results["answer"][0].startswith("DDRNet23-Slim keeps")
    assert results["answer"][1].startswith("efficientvit-w8a8-equal: mIoU")


def test_only_the_linear_attention_is_called_unsafe(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    unsafe = {audit["model"] for audit in results["audits"] if audit["verdict"] == "unsafe"}
    assert unsafe == {"efficientvit_seg_b1"}


def test_batch_norms_are_those_that_score_more(finished: Path) -> None:
    for model in set(PLANS.values()):
        metrics = json.loads((finished / "models" / model / "train" / "metrics.json").read_text())
        assert set(metrics["miou_by_statistics"]) == {"windows", "whole images"}
        assert metrics["miou"] == max(metrics["miou_by_statistics"].values())


def test_masks_are_written_and_shown(finished: Path) -> None:
    for name, model in PLANS.items():
        assert len(list((finished / "models" / model / "masks" / f"{name}-ort").glob("*.png"))) == 4
    report = (finished / "report.html").read_text()
    assert report.startswith("<!")
    for text in ("rough ground", "free", "caution", "blocked", "data:image/png"):
        assert text in report


def test_again_there_is_nothing_to_do(finished: Path) -> None:
    again = execute()
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stderr
