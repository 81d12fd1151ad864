"""Training: it improves, resumes after a kill, keeps the best, and stops on NaN."""

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
from net import SmallTask

from hexpath_quant.errors import DeviceError, StateError, TrainingError
from hexpath_quant.plans import parse_plan
from hexpath_quant.qat import choose_device, ema_decay, learning_rate, qat
from hexpath_quant.recipe import Recipe

RECIPE = {"epochs": 3, "lr": 1e-3, "batch": 4, "precision": "float32"}


def run(task, folder: Path, **changes):
    recipe = Recipe(**{**RECIPE, **changes})
    return qat(
        task,
        plan=parse_plan("w4a8"),
        method="minmax",
        calibration=8,
        recipe=recipe,
        out=folder / "out",
        work=folder / "work",
    )


def test_training_beats_its_start_and_says_so(task, tmp_path):
    metrics = run(task, tmp_path)
    card = json.loads((tmp_path / "out" / "quant.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "history.csv").open()))
    assert [int(r["epoch"]) for r in rows] == [0, 1, 2, 3]
    assert list(rows[0]) == ["epoch", "step_loss", "lr", "map", "error", "ema", "seconds"]
    assert card["best_epoch"] >= 1
    assert card["method"] == "qat"
    assert card["start"] == "ptq:minmax"
    best = max(float(r["map"]) for r in rows)
    assert metrics["map"] == pytest.approx(best)
    assert best > float(rows[0]["map"])


def test_never_worse_than_the_start(task, tmp_path):
    run(task, tmp_path, lr=3.0, epochs=1)
    card = json.loads((tmp_path / "out" / "quant.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "history.csv").open()))
    assert card["best_epoch"] == 0
    assert card["metrics"]["map"] == pytest.approx(float(rows[0]["map"]))


@pytest.mark.parametrize("ranges", ["frozen", "learned"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_ways_of_ranges(task, tmp_path, ranges, precision):
    run(task, tmp_path, ranges=ranges, precision=precision, epochs=1)
    assert json.loads((tmp_path / "out" / "quant.json").read_text())["recipe"]["ranges"] == ranges


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from net import SmallTask
import torch
torch.set_num_threads(1)
from test_qat import run
class Slow(SmallTask):
    def training(self, **kw):
        for item in super().training(**kw):
            time.sleep(0.3 if kw["epoch"] == 2 else 0)
            yield item
run(Slow(), Path({folder!r}))
"""


def test_killed_run_goes_on_to_the_same_end(task, tmp_path):
    (tmp_path / "a").mkdir()
    program = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "a"))
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stderr:
        if "epoch 1/3: loss" in line:
            time.sleep(0.5)
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert (tmp_path / "a" / "work" / "state.pt").exists()
    assert not (tmp_path / "a" / "out").exists()
    resumed, whole = run(task, tmp_path / "a"), run(SmallTask(), tmp_path / "b")
    assert resumed == whole
    names = ("model.onnx", "recorded.npz")
    assert all((tmp_path / "a/out" / n).read_bytes() == (tmp_path / "b/out" / n).read_bytes() for n in names)


def test_other_arguments_start_afresh(task, tmp_path, capsys):
    run(task, tmp_path, epochs=1)
    run(task, tmp_path, epochs=1)
    assert "going on after epoch 1 of 1" in capsys.readouterr().err
    run(task, tmp_path, epochs=1, lr=1e-4)
    assert "is of other arguments or another start; training starts afresh" in capsys.readouterr().err


def test_unreadable_state(task, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "state.pt").write_bytes(b"rubbish")
    with pytest.raises(StateError, match=r"state.pt cannot be read .* delete it"):
        run(task, tmp_path)


def test_nan_loss(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss became nan at step 0; try a lower --lr than 0\.001"):
        run(SmallTask(poison=True), tmp_path)


def test_no_batches(tmp_path):
    with pytest.raises(TrainingError, match="epoch 1 has no batches; is --batch 4 above the training images"):
        run(SmallTask(batches=0), tmp_path)


def test_missing_device():
    with pytest.raises(DeviceError, match="--device nowhere is not there"):
        choose_device("nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="--device cuda is not there"):
            choose_device("cuda")


def test_schedule():
    recipe = Recipe(lr=1.0, warmup=0.1, lr_end=0.1, ema=0.9)
    rates = [learning_rate(step, total=100, recipe=recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=2e-3)
    assert ema_decay(0, recipe=recipe) == 0.1
    assert ema_decay(1000, recipe=recipe) == 0.9
