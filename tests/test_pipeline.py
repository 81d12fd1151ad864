"""exp_03_qat in miniature: end to end, again without work, one parameter changed, killed and started again.

Small enough for a test (24 training images of 96 pixels, one epoch), real in everything else: the same
Snakefile, commands, compiler and emulator as the default run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
RUNS = REPO / "runs" / "exp_03_qat"
SMALL = [
    *("data.train=24", "data.val=8", "data.size=96", "train.imgsz=96", "train.epochs=1"),
    *("ptq.calibration=8", "qat.epochs=1", "emulator.images=2"),
]


def nox_run(*argv: str) -> list[str]:
    """What `nox -s exp_03_qat -- ...` runs."""
    return [sys.executable, str(REPO / "experiments" / "run.py"), "exp_03_qat", *SMALL, *argv]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "YOLO"))}


def execute(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(nox_run(*argv), capture_output=True, text=True, env=environment(), timeout=1500)


@pytest.fixture(scope="module")
def names() -> Iterator[tuple[str, str]]:
    """Two run names of this test's own; their folders are gone afterwards."""
    first, second = f"test-{os.getpid()}", f"test-{os.getpid()}-try2"
    yield first, second
    for name in (first, second):
        shutil.rmtree(RUNS / name, ignore_errors=True)


@pytest.fixture(scope="module")
def run_killed_and_finished(names: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Start a run of six epochs, kill all of it by SIGKILL after the first, start it again."""
    command = [*nox_run("--name", names[0], "--plans", "w8a8,w4a8-qat"), "train.epochs=6"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    log = RUNS / names[0] / "logs" / "train.log"
    deadline = time.monotonic() + 600
    while "epoch 1/6" not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None, "ended before its first epoch"
        assert time.monotonic() < deadline, "no epoch in ten minutes"
        time.sleep(0.1)
    os.killpg(int((RUNS / names[0] / ".group").read_text()), signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=1500)


def test_a_killed_run_goes_on_from_its_last_epoch(
    run_killed_and_finished: subprocess.CompletedProcess[str], names: tuple[str, str]
) -> None:
    assert run_killed_and_finished.returncode == 0, run_killed_and_finished.stderr
    log = (RUNS / names[0] / "logs" / "train.log").read_text()
    assert "epoch 1/6" not in log
    assert "epoch 6/6" in log
    history = (RUNS / names[0] / "train" / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["epoch", "1", "2", "3", "4", "5", "6"]


def test_the_record_holds_every_plan_and_backend(
    run_killed_and_finished: subprocess.CompletedProcess[str], names: tuple[str, str]
) -> None:
    results = json.loads((RUNS / names[0] / "results.json").read_text())
    found = {(row["id"], row["evaluated_on"]): row["images"] for row in results["results"]}
    assert found == {
        ("fp32", "ort"): 8,
        ("w8a8", "ort"): 8,
        ("w8a8", "emulator"): 2,
        ("w4a8-qat", "ort"): 8,
        ("w4a8-qat", "emulator"): 2,
    }
    for row in results["results"]:
        if row["id"] != "fp32":
            assert row["cpu_ops"] == 0
            assert row["latency"]["source"] == "estimate"
            assert row["agreement"]["verdict"] == "pass"
    assert results["dataset"]["fingerprint"].startswith("sha256:")


def test_the_table_and_the_report_are_shown(
    run_killed_and_finished: subprocess.CompletedProcess[str], names: tuple[str, str]
) -> None:
    out = run_killed_and_finished.stdout
    assert "w4a8-qat" in out
    assert str(RUNS / names[0] / "report.html") in out
    assert (RUNS / names[0] / "report.html").read_text().startswith("<!")


def test_again_there_is_nothing_to_do(
    run_killed_and_finished: subprocess.CompletedProcess[str], names: tuple[str, str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in RUNS.joinpath(names[0]).glob("*/*/*")}
    again = execute("--name", names[0], "--plans", "w8a8,w4a8-qat", "train.epochs=6")
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stderr
    after = {p: p.stat().st_mtime_ns for p in RUNS.joinpath(names[0]).glob("*/*/*")}
    assert {p: t for p, t in after.items() if p in before} == before


def test_a_changed_parameter_reruns_what_depends_on_it_beside_the_first_run(
    run_killed_and_finished: subprocess.CompletedProcess[str], names: tuple[str, str]
) -> None:
    first, second = names
    argv = ("--name", second, "--base", first, "--plans", "w8a8,w4a8-qat", "train.epochs=6", "qat.lr=0.0001")
    changed = execute(*argv)
    assert changed.returncode == 0, changed.stderr
    for stage in ("generate", "train ", "ptq/w8a8", "emulator/w8a8 "):
        assert stage not in changed.stderr
    for stage in ("qat/w4a8-qat", "emulator/w4a8-qat", "report"):
        assert stage in changed.stderr
    assert os.path.samefile(
        RUNS / first / "train/model.safetensors", RUNS / second / "train/model.safetensors"
    )
    paths = (RUNS / second / "dataset" / "data.yaml").read_text()
    assert str(RUNS / first) not in paths, "the copy must not depend on the run that it came from"
