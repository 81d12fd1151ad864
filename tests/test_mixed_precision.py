"""exp_05_mixed_precision: its resolved configs, and the whole of it in miniature.

The miniature's network detects nothing (24 images, one epoch): no loss can be told from any other, so the
planner must come out at 8 bits everywhere. Sensitivity, costs, plans and their compiled files are real.
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
import yaml

import run

REPO = Path(__file__).resolve().parent.parent
GOLDEN = REPO / "tests" / "golden"
RUNS = REPO / "runs" / "exp_05_mixed_precision"
NAME = f"test-{os.getpid()}"
SMALL = [
    *("data.train=24", "data.val=8", "data.size=96", "train.imgsz=96", "train.epochs=1"),
    *("ptq.calibration=8", "sensitivity.calibration=8", "sensitivity.sample=2", "emulator.images=1"),
    *("costs.plans=2", "planning.rounds=1", "planning.pairs=2"),
    *("--plans", "fp32,w8a8,w8a16,front-1,flat"),
]


@pytest.mark.parametrize(("name", "argv"), [("default", []), ("full", ["--full"])])
def test_resolved_config_is_the_golden_one(name: str, argv: list[str]) -> None:
    golden = GOLDEN / f"exp_05_mixed_precision.{name}.yaml"
    resolved = yaml.safe_dump(run.resolve(run.parse(["exp_05_mixed_precision", *argv])), sort_keys=False)
    assert resolved == golden.read_text(), (
        f"if that is meant: run.py exp_05_mixed_precision {' '.join(argv)} --print-config > {golden}"
    )


@pytest.mark.parametrize("argv", [[], ["--full"]])
def test_every_point_that_the_planner_writes_is_built_and_no_other(argv: list[str]) -> None:
    config = run.resolve(run.parse(["exp_05_mixed_precision", *argv]))
    front = [name for name in config["plans"] if name.startswith("front-")]
    assert front == [f"front-{n}" for n in range(1, config["planning"]["points"] + 1)]


@pytest.fixture(scope="module")
def finished() -> Iterator[Path]:
    """The folder of a finished run."""
    line = [sys.executable, str(REPO / "experiments" / "run.py"), "exp_05_mixed_precision", *SMALL]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "YOLO"))}
    line += ["--name", NAME, "--base", NAME]
    done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=1500)
    assert done.returncode == 0, done.stderr
    yield RUNS / NAME
    shutil.rmtree(RUNS / NAME, ignore_errors=True)


def test_each_plan_is_compiled_agrees_and_costs_what_was_predicted(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    rows = {row["id"]: row for row in results["results"] if row["evaluated_on"] == "ort"}
    assert set(rows) == {"fp32", "w8a8", "w8a16", "front-1", "flat"}
    assert all(row["agreement"]["verdict"] == "pass" for name, row in rows.items() if name != "fp32")
    assert all(row["cpu_ops"] == 0 for name, row in rows.items() if name != "fp32")
    front = rows["front-1"]
    assert front["latency"]["value_ms"] == pytest.approx(front["params"]["predicted_ms"], rel=0.02)
    assert front["latency"]["value_ms"] < rows["flat"]["latency"]["value_ms"]
    assert rows["flat"]["latency"]["value_ms"] < rows["w8a16"]["latency"]["value_ms"]


def test_where_no_loss_can_be_told_nothing_gets_more_bits(finished: Path) -> None:
    plan = yaml.safe_load((finished / "planning" / "plans" / "front-1.yaml").read_text())
    assert not plan.get("regions")
    flat = yaml.safe_load((finished / "planning" / "plans" / "flat.yaml").read_text())
    assert len(flat["modules"]["flat"]) == pytest.approx(28, abs=3)


def test_the_costs_of_regions_add_up_to_random_plans(finished: Path) -> None:
    costs = json.loads((finished / "planning" / "costs.json").read_text())
    assert {"stem", "attention", "neck"} <= set(costs["regions"])
    assert costs["fit"]["checked_plans"] == 2
    assert costs["fit"]["mean_error"] < 0.05
