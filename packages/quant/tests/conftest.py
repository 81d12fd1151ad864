"""Fixtures of all tests; one thread, so that results repeat."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from net import SmallTask, images, trained_net

from hexpath_quant import task as tasks
from hexpath_quant.methods import find_method
from hexpath_quant.plans import parse_plan
from hexpath_quant.prepare import prepare

torch.set_num_threads(1)


@pytest.fixture
def task() -> SmallTask:
    return SmallTask()


@pytest.fixture
def make_sim():
    """Return a function plan, method -> calibrated simulation of the small net."""

    def make(plan: str = "w8a8", method: str = "minmax"):
        example = images(1, seed=100)
        return find_method(method).quantize(
            prepare(trained_net(), example=example),
            example=example,
            plan=parse_plan(plan),
            batches=lambda: iter([images(8, seed=200)]),
            input_range=(0.0, 1.0),
        )

    return make


@pytest.fixture
def installed(monkeypatch):
    """The small task, as if a package had installed it."""
    point = EntryPoint("small", "net:small_task", tasks.GROUP)
    monkeypatch.setattr(tasks, "entry_points", lambda group: [point] if group == tasks.GROUP else [])


@pytest.fixture
def inputs(tmp_path):
    """Arguments of a command over the small task; the output is tmp_path / "out"."""
    for name in ("model.safetensors", "data.yaml"):
        (tmp_path / name).touch()
    paths = ["--checkpoint", str(tmp_path / "model.safetensors"), "--data", str(tmp_path / "data.yaml")]
    return ["--task", "small", *paths, "--out", str(tmp_path / "out"), "--calibration", "8"]
