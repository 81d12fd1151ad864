"""exp_03_qat in miniature, in the three images and in the local environment: the same, stage by stage.

Skips where there is no engine or an image is missing or older than the sources (`nox -s images`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import containers

REPO = Path(__file__).resolve().parent.parent
RUNS = REPO / "runs" / "exp_03_qat"
SMALL = [
    *("data.train=24", "data.val=8", "data.size=96", "train.imgsz=96", "train.epochs=1"),
    *("ptq.calibration=8", "qat.epochs=1", "emulator.images=2"),
    *("--plans", "w8a8,w4a8-qat"),
]
# What differs by nature: when, how long, where; an archive of arrays holds dates.
MOVING = {"model", "coco", "artifact", "source", "host_ms", "path", "files", "recorded_sha256"}


def execute(name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the experiment under a name that starts from nothing."""
    line = [sys.executable, str(REPO / "experiments" / "run.py"), "exp_03_qat", *SMALL]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "YOLO"))}
    done = subprocess.run(
        [*line, "--name", name, "--base", name, *argv], capture_output=True, text=True, env=env, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def inside() -> Iterator[Path]:
    """The run folder of a run in containers."""
    try:
        containers.check_engine()
        for image in containers.images_toml()["images"]:
            containers.find_image(image)
    except containers.ContainerError as error:
        pytest.skip(f"needs an engine and the three images: {error}")
    name = f"test-{os.getpid()}-inside"
    execute(name, "--containers")
    yield RUNS / name
    shutil.rmtree(RUNS / name, ignore_errors=True)


@pytest.fixture(scope="module")
def outside(inside: Path) -> Iterator[Path]:
    """The run folder of the same run in the local environment."""
    name = f"test-{os.getpid()}-outside"
    execute(name)
    yield RUNS / name
    shutil.rmtree(RUNS / name, ignore_errors=True)


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.glob(pattern) if p.is_file()}
    assert found, f"no {pattern} in {folder}"
    return found


def moves(key: str) -> bool:
    """Is this entry of a record another one in each run?"""
    return key in MOVING or key.endswith("seconds")


def still(entry: Any) -> Any:
    """A record without what differs by nature, and without the last digits of a sum over threads."""
    if isinstance(entry, float):
        return float(f"{entry:.12g}")
    if isinstance(entry, dict):
        return {key: still(value) for key, value in entry.items() if not moves(key)}
    return [still(value) for value in entry] if isinstance(entry, list) else entry


@pytest.mark.parametrize(
    "pattern",
    [
        "data/**/*",
        "dataset/coco/*.json",
        "train/model.safetensors",
        "export/raw/model.onnx",
        "quant/*/model.onnx",
        "quant/*/model.encodings",
        "compile/*/model_ctx.bin",
        "compile/*/graph.json",
        "eval/*.detections.json",
    ],
)
def test_what_a_stage_makes_is_the_same_to_the_byte(pattern: str, inside: Path, outside: Path) -> None:
    ours, theirs = files(inside, pattern), files(outside, pattern)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.parametrize("pattern", ["agree/*.json", "eval/*[rt].json", "profile/*.json"])
def test_what_a_stage_found_is_the_same(pattern: str, inside: Path, outside: Path) -> None:
    ours, theirs = files(inside, pattern), files(outside, pattern)
    assert {k: still(json.loads(v)) for k, v in ours.items()} == {
        k: still(json.loads(v)) for k, v in theirs.items()
    }


def test_recorded_pairs_are_the_same(inside: Path, outside: Path) -> None:
    for name in files(inside, "*/*/recorded.npz"):
        with np.load(inside / name) as ours, np.load(outside / name) as theirs:
            assert set(ours) == set(theirs)
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_the_records_rows_are_the_same(inside: Path, outside: Path) -> None:
    ours, theirs = (json.loads((run / "results.json").read_text()) for run in (inside, outside))
    assert ours["dataset"]["fingerprint"] == theirs["dataset"]["fingerprint"]
    assert [still(row) for row in ours["results"]] == [still(row) for row in theirs["results"]]


def test_again_in_containers_there_is_nothing_to_do(inside: Path) -> None:
    assert "done in" not in execute(inside.name, "--containers").stderr


def test_a_changed_image_reruns_exactly_its_stages(inside: Path) -> None:
    tag = containers.tag_of("qnn")
    before = containers.docker("image", "inspect", "--format", "{{.Id}}", tag)
    with tempfile.TemporaryDirectory() as context:
        Path(context, "Dockerfile").write_text(f"FROM {tag}\nCOPY Dockerfile /home/hexpath/other\n")
        try:
            containers.docker("build", "--tag", tag, context)
            planned = execute(inside.name, "--containers", "--dry-run").stdout
        finally:
            containers.docker("tag", before, tag)
    rerun = {line.split()[0] for line in planned.splitlines() if len(line.split()) == 2 and line[0].isalpha()}
    assert {"compile", "agree", "evaluate_ort", "evaluate_emulator", "profile", "record", "report"} <= rerun
    assert not rerun & {"generate", "card", "train", "export", "ptq", "qat"}
