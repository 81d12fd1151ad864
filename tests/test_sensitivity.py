"""exp_04_sensitivity in miniature: audits, an analysis by two processes, a report; and its golden config."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import run

REPO = Path(__file__).resolve().parent.parent
RUNS = REPO / "runs" / "exp_04_sensitivity"
NAME = f"test-{os.getpid()}"
SMALL = [
    *("data.train=24", "data.val=8", "data.size=96", "train.imgsz=96", "train.epochs=1"),
    *("ptq.calibration=8", "sensitivity.calibration=8", "sensitivity.sample=2", "sensitivity.confirm=4"),
]


@pytest.fixture(scope="module")
def finished() -> Iterator[Path]:
    """The folder of a finished run of one plan."""
    line = [sys.executable, str(REPO / "experiments" / "run.py"), "exp_04_sensitivity", *SMALL]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "YOLO"))}
    done = subprocess.run(
        [*line, "--plans", "w8a8", "--name", NAME, "--base", NAME, "--cores", "2"],
        capture_output=True,
        text=True,
        env=env,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    yield RUNS / NAME
    shutil.rmtree(RUNS / NAME, ignore_errors=True)


def test_every_layer_and_region_is_there(finished: Path) -> None:
    record = json.loads((finished / "sensitivity" / "w8a8.json").read_text())
    layers = {e["name"] for e in record["entries"] if e["kind"] == "layer"}
    assert len(layers) == 281
    regions = [e for e in record["entries"] if e["kind"] == "region" and e["part"] == "both"]
    assert {e["name"] for e in regions} >= {"stem", "attention", "neck", "head.scores.8", "head.boxes.32"}
    assert all("drop_alone" in e and "gain_without" in e for e in regions)
    assert {e["part"] for e in record["entries"]} == {"both", "weights", "activations"}


def test_the_joined_output_is_caught_before_any_quantization(finished: Path) -> None:
    verdicts = {
        head: json.loads((finished / "audit" / f"{head}.json").read_text())
        for head in ("raw", "decoded", "plain")
    }
    assert verdicts["plain"]["verdict"] == "unsafe"
    assert {f["rule"] for f in verdicts["plain"]["findings"] if f["severity"] == "severe"} == {"concat"}
    assert verdicts["raw"]["verdict"] != "unsafe"
    assert "decode" in {f["rule"] for f in verdicts["decoded"]["findings"]}


def test_record_and_report_show_both(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert [a["plan"] for a in results["sensitivity"]] == ["w8a8"]
    assert [a["name"] for a in results["audits"]] == ["raw", "decoded", "plain"]
    assert "w8a8" in results["answer"][0]
    report = (finished / "report.html").read_text()
    assert "What suffers from quantization" in report
    assert "What the audit says" in report


@pytest.mark.parametrize(("name", "argv"), [("default", []), ("full", ["--full"])])
def test_resolved_config_is_the_golden_one(name: str, argv: list[str]) -> None:
    golden = REPO / "tests" / "golden" / f"exp_04_sensitivity.{name}.yaml"
    resolved = yaml.safe_dump(run.resolve(run.parse(["exp_04_sensitivity", *argv])), sort_keys=False)
    assert resolved == golden.read_text(), (
        f"if that is meant: run.py exp_04_sensitivity {' '.join(argv)} --print-config > {golden}"
    )
