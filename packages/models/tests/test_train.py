"""Training: what it writes, how it goes on after a kill, and what it must not touch."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import Run, write_dataset

from hexpath_models import errors
from hexpath_models.checkpoint import load_checkpoint
from hexpath_models.errors import OptionError
from hexpath_models.train import TrainConfig, resolve_device

SMALL = ("--imgsz", "64", "--batch", "8", "--mosaic", "0.2")


def arguments(data: Path, root: Path, *, epochs: int, **changes: object) -> list[object]:
    """Return the command line of a small training."""
    extra = [part for key, value in changes.items() for part in (f"--{key}", value)]
    return [
        "train",
        "--data",
        data,
        "--out",
        root / "out",
        "--work",
        root / "work",
        *SMALL,
        "--epochs",
        epochs,
        *extra,
    ]


@pytest.fixture(scope="module")
def finished(run: Run, tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    root = tmp_path_factory.mktemp("finished")
    result = run(*arguments(data, root, epochs=2))
    assert result.code == 0, result.err
    assert "epoch 2/2  loss" in result.err
    return root


def test_outputs(finished: Path) -> None:
    assert {file.name for file in (finished / "out").iterdir()} == {
        "model.safetensors",
        "history.csv",
        "metrics.json",
    }
    _, card = load_checkpoint(finished / "out" / "model.safetensors")
    assert (card.arch, card.image_size, card.fingerprint) == ("yolo11n", (64, 64), "sha256:test")
    metrics = json.loads((finished / "out" / "metrics.json").read_text())
    assert metrics["validator"] == "ultralytics"
    assert set(metrics["per_class"]) == {"red", "blue"}
    assert {"map", "map50", "precision", "seconds", "config", "tools", "best_epoch"} <= set(metrics)
    rows = list(csv.DictReader((finished / "out" / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == ["epoch", "train_loss", "map50", "map", "lr", "seconds"]


def test_same_command_again_trains_nothing(run: Run, finished: Path, data: Path) -> None:
    weights = (finished / "out" / "model.safetensors").read_bytes()
    result = run(*arguments(data, finished, epochs=2))
    assert result.code == 0, result.err
    assert "epoch" not in result.err
    assert (finished / "out" / "model.safetensors").read_bytes() == weights


def test_same_seed_same_weights(run: Run, finished: Path, data: Path, tmp_path: Path) -> None:
    assert run(*arguments(data, tmp_path, epochs=2)).code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        finished / "out" / "model.safetensors"
    ).read_bytes()


def test_other_arguments_start_afresh(run: Run, finished: Path, data: Path) -> None:
    result = run(*arguments(data, finished, epochs=1))
    assert result.code == 0, result.err
    assert "holds a run with other arguments; starting afresh" in result.err
    assert "epoch 1/1" in result.err


def test_killed_training_goes_on(run: Run, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hexpath_models.cli", *map(str, arguments(data, tmp_path, epochs=6))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/6"):
                process.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "out").exists()
    result = run(*arguments(data, tmp_path, epochs=6))
    assert result.code == 0, result.err
    assert "going on after epoch" in result.err
    assert "epoch 1/6" not in result.err
    rows = list(csv.DictReader((tmp_path / "out" / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]


def test_truncated_last_checkpoint_starts_afresh(run: Run, data: Path, tmp_path: Path) -> None:
    assert run(*arguments(data, tmp_path, epochs=1)).code == 0
    last = tmp_path / "work" / "run" / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[:100_000])
    result = run(*arguments(data, tmp_path, epochs=1))
    assert result.code == 0, result.err
    assert "cannot go on from" in result.err
    assert "epoch 1/1" in result.err


_BLOCKED = """
import socket, subprocess, sys

def refuse(*arguments, **keywords):
    print("NETWORK", arguments, file=sys.stderr)
    raise OSError("no network in this test")

socket.socket.connect = refuse
socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse

def watch(event, arguments):
    if event in ("subprocess.Popen", "os.system"):
        print("PROCESS", arguments[:2], file=sys.stderr)

sys.addaudithook(watch)
from hexpath_models.cli import main
code = main(sys.argv[1:])
work = sys.argv[sys.argv.index("--work") + 1]
main(["import", work + "/run/weights/best.pt", "--out", work + "/imported.safetensors"])
sys.exit(code)
"""


def test_training_and_import_stay_at_home(tmp_path: Path) -> None:
    """No connection, no look-up, no program, nothing in the home folder; a read-only dataset untouched."""
    data, home = write_dataset(tmp_path / "data"), tmp_path / "home"
    home.mkdir()
    before = sorted(data.parent.rglob("*"))
    for folder in [data.parent, *data.parent.rglob("*")]:
        folder.chmod(folder.stat().st_mode & ~0o222)
    result = subprocess.run(
        [sys.executable, "-c", _BLOCKED, *map(str, arguments(data, tmp_path, epochs=1))],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")},
        cwd=tmp_path,
        check=False,
    )
    for folder in [data.parent, *data.parent.rglob("*")]:
        folder.chmod(folder.stat().st_mode | 0o200)
    assert result.returncode == 0, result.stderr
    assert "NETWORK" not in result.stderr
    assert "PROCESS" not in result.stderr
    assert (tmp_path / "work" / "imported.safetensors").is_file()
    assert sorted(data.parent.rglob("*")) == before
    assert not list(home.rglob("*ltralytics*"))


def heed_ctrl_c() -> None:
    """A job that a shell put into the background ignores SIGINT, and hands that on to its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_leaves_nothing_half_written(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hexpath_models.cli", *map(str, arguments(data, tmp_path, epochs=50))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/50"):
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
                break
        remainder = process.stderr.read()
    assert process.returncode == 130, remainder
    assert not (tmp_path / "out").exists()


def test_weights_of_other_classes(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data.yaml"
    other.write_text(
        data.read_text().replace("path: .", f"path: {data.parent}").replace("1: blue", "1: green")
    )
    result = run(*arguments(other, tmp_path, epochs=1, weights=checkpoint))
    assert result.code == errors.ClassMismatchError.exit_code
    assert "class 1 is 'green'" in result.err


def test_weights_of_another_scale(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = run(*arguments(data, tmp_path, epochs=1, weights=checkpoint, model="yolo11s"))
    assert result.code == errors.ClassMismatchError.exit_code
    assert "is a yolo11n, --model asks for yolo11s" in result.err


def test_weights_are_where_training_starts(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = run(*arguments(data, tmp_path, epochs=1, weights=checkpoint, lr="1e-6"))
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["map50"] > 0.3


def test_pretrained_weights_placed_by_hand(
    run: Run, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_checkpoint(checkpoint)
    (tmp_path / "assets").mkdir()
    torch.save({"model": model.half(), "train_args": {}}, tmp_path / "assets" / "yolo11n.pt")
    command = [*arguments(data, tmp_path, epochs=1, lr="1e-6"), "--pretrained"]
    monkeypatch.setenv("HEXPATH_ASSETS", str(tmp_path / "assets"))
    result = run(*command)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["map50"] > 0.3


def test_pretrained_weights_that_cannot_be_had(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ultralytics.utils

    from hexpath_models.pretrained import find_weights
    from hexpath_models.registry import find_model

    monkeypatch.setattr(ultralytics.utils, "ONLINE", False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        errors.MissingWeightsError, match=r"yolo11s\.pt is not here .* assets/ .*licence AGPL-3\.0"
    ):
        find_weights(find_model("yolo11s"), work=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "AdmaW"}, r"unknown optimizer 'AdmaW'; did you mean 'AdamW'\?"),
        ({"epochs": 0}, "epochs is 0, it must be at least 1"),
        ({"lr": 0.0}, r"lr 0\.0 must be above 0"),
        ({"mosaic": 2.0}, r"mosaic 2\.0 within 0 to 1"),
        ({"imgsz": 100}, "image size '100' is not a multiple of 32"),
        ({"device": "cuda:0,1"}, "device 'cuda:0,1' is not cpu, cuda or cuda:N"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        TrainConfig(**changes)  # type: ignore[arg-type]


def test_bfloat16_learns_like_float32(run: Run, data: Path, tmp_path: Path) -> None:
    losses = []
    for name, flag in (("float", "--no-bfloat16"), ("half", "--bfloat16")):
        result = run(*arguments(data, tmp_path / name, epochs=1), flag)
        assert result.code == 0, result.err
        rows = list(csv.DictReader((tmp_path / name / "out" / "history.csv").open()))
        losses.append(float(rows[0]["train_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    precision = json.loads((tmp_path / "half" / "out" / "metrics.json").read_text())["precision"]
    assert precision == "bfloat16"


def test_tracking_stays_offline_in_its_folder(data: Path, tmp_path: Path) -> None:
    """In a process of its own: Ultralytics turns its integration off when it sees pytest."""
    hidden = ("WANDB_", "PYTEST_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    environment |= {"WANDB_DIR": str(tmp_path / "tracking"), "WANDB_RUN_GROUP": "the-group"}
    command = [sys.executable, "-m", "hexpath_models.cli", *map(str, arguments(data, tmp_path, epochs=1))]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    (record,) = (tmp_path / "tracking").glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert all(text in content for text in (b"metrics/mAP50-95(B)", b"train/box_loss", b"the-group"))


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(OptionError, match="'cuda:0' is not there: torch finds no GPU; use cpu or auto"):
        resolve_device("cuda:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve_device("auto") == "cuda:0"
    assert resolve_device("cpu") == "cpu"
