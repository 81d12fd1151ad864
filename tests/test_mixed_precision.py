"""The resolved configs of exp_05_mixed_precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import run

GOLDEN = Path(__file__).resolve().parent / "golden"


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
