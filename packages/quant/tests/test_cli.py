"""The command: lists, errors with text and exit code, and a whole run over an installed task."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest

from hexpath_quant import cli, errors, files, task
from hexpath_quant.errors import TaskError, UnknownNameError
from hexpath_quant.methods import METHODS
from hexpath_quant.plans import PLANS, parse_plan


def test_every_error_has_its_own_exit_code():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.QuantError)]
    codes = [c.exit_code for c in classes]
    assert len(set(codes)) == len(codes)
    assert all(50 <= c <= 69 for c in codes)


def test_lists(capsys):
    assert cli.main(["methods"]) == 0
    assert cli.main(["plans"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*METHODS, *PLANS])


def test_help_is_fast():
    code = "import sys, hexpath_quant.cli as c; c.build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ptq(installed, inputs, tmp_path, capsys):
    assert cli.main(["ptq", *inputs, "--plan", "w8a8", "--method", "sqnr"]) == 0
    card = json.loads((tmp_path / "out" / "quant.json").read_text())
    assert card["method"] == "ptq:sqnr"
    assert card["head"] == "raw"
    assert card["metrics"]["map"] > 0.5
    assert "file and simulation agree" in capsys.readouterr().err


def test_qat(installed, inputs, tmp_path):
    assert (
        cli.main(
            ["qat", *inputs, "--plan", "w4a8", "--epochs", "1", "--batch", "4", "--work", str(tmp_path / "w")]
        )
        == 0
    )
    assert (tmp_path / "out" / "history.csv").exists()
    assert (tmp_path / "w" / "state.pt").exists()


@pytest.mark.parametrize(
    ("extra", "code", "text"),
    [
        (["--plan", "w8a9"], 51, "unknown plan 'w8a9'; did you mean 'w8a8'?"),
        (["--plan", "fp16"], 51, "plan 'fp16' is not quantized here"),
        (
            ["--plan", "w8a8-per-chanel"],
            51,
            "unknown weight granularity 'per-chanel'; did you mean 'per-channel'?",
        ),
        (["--method", "minimax"], 51, "unknown method 'minimax'; did you mean 'minmax'?"),
        (["--option", "head"], 51, "--option 'head' is not KEY=VALUE"),
        (["--task", "smal"], 52, "unknown task 'smal'; did you mean 'small'?"),
        (["--calibration", "0"], 56, "--calibration 0 is no number of images"),
        (["--checkpoint", "nowhere.pt"], 61, "--checkpoint nowhere.pt does not exist"),
        (["--data", "nowhere.yaml"], 61, "--data nowhere.yaml does not exist"),
        (["--out", __file__], 61, "is a file; give a folder"),
    ],
)
def test_errors(installed, inputs, capsys, extra, code, text):
    assert cli.main(["ptq", *inputs, *extra]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hexpath-quant: error: ")
    assert text in error


def test_training_errors(installed, inputs, capsys):
    assert cli.main(["qat", *inputs, "--device", "nowhere"]) == 62
    assert cli.main(["qat", *inputs, "--option", "poison=yes", "--epochs", "1"]) == 59
    assert "the loss became nan" in capsys.readouterr().err


def test_nothing_installed(monkeypatch, inputs, capsys):
    monkeypatch.setattr(task, "entry_points", lambda group: [])
    assert cli.main(["ptq", *inputs]) == 52
    assert "no task is installed (entry-point group hexpath.tasks)" in capsys.readouterr().err


def test_errors_of_a_task_keep_their_code(monkeypatch, inputs, capsys):
    class ForeignError(Exception):
        exit_code = 33

    def run(args):
        raise ForeignError("bad label")

    monkeypatch.setattr(cli, "run_ptq", run)
    assert cli.main(["ptq", *inputs]) == 33
    assert "bad label" in capsys.readouterr().err


def test_interrupt(monkeypatch, inputs):
    def run(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_ptq", run)
    assert cli.main(["ptq", *inputs]) == 130


def test_disk_full(monkeypatch, tmp_path, inputs, capsys, installed):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hexpath_quant.export.write_qdq", full)
    assert cli.main(["ptq", *inputs]) == 60
    assert "no space left while writing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_write_atomic_leaves_the_old_file(monkeypatch, tmp_path):
    files.write_atomic(tmp_path / "a", "old")

    def fail(*args):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(errors.DiskFullError, match=r"no space left while writing .*a"):
        files.write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_task():
    class Half:
        name = "half"

    with pytest.raises(TaskError, match="Half is no task: it has no calibration, evaluate"):
        task.check_task(Half())


def test_plans():
    plan = parse_plan("w4a8-per-tensor")
    assert (plan.weight_bits, plan.activation_bits, plan.per_channel, plan.name) == (
        4,
        8,
        False,
        "w4a8-per-tensor",
    )
    assert parse_plan("w8a16-per-channel").name == "w8a16"
    with pytest.raises(UnknownNameError, match="unknown plan 'int8'"):
        parse_plan("int8")


def test_unknown_attribute():
    import hexpath_quant

    assert hexpath_quant.quantize
    assert hexpath_quant.PLANS
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hexpath_quant.nothing  # noqa: B018
