"""experiments/run.py: parameters, run folders, and what a person reads when something is wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import matrix
import run

REPO = Path(__file__).resolve().parent.parent


def config_of(*argv: str, experiment: str = "exp_03_qat") -> dict:
    return run.resolve(run.parse([experiment, *argv]))


@pytest.mark.parametrize("experiment", run.experiments())
@pytest.mark.parametrize(("name", "argv"), [("default", []), ("full", ["--full"])])
def test_resolved_config_is_the_golden_one(experiment: str, name: str, argv: list[str]) -> None:
    golden = REPO / "tests" / "golden" / f"{experiment}.{name}.yaml"
    resolved = yaml.safe_dump(config_of(*argv, experiment=experiment), sort_keys=False)
    assert resolved == golden.read_text(), (
        f"if that is meant: run.py {experiment} {' '.join(argv)} --print-config > {golden}"
    )


def test_one_model_has_no_prefix_and_several_have() -> None:
    assert list(matrix.models(config_of())) == [""]
    config = config_of("--models", "yolo11n,yolo26n", experiment="exp_01_baselines")
    assert {prefix: own["model"] for prefix, own in matrix.models(config).items()} == {
        "models/yolo11n/": "yolo11n",
        "models/yolo26n/": "yolo26n",
    }
    assert matrix.row_id("yolo11n", "w8a8", {}, prefix="") == "w8a8"
    assert matrix.row_id("yolo11n", "w8a8", {}, prefix="models/yolo11n/") == "yolo11n/w8a8"


def test_plans_that_name_their_models() -> None:
    plans = {"d-w8a8": {"model": "ddrnet23_slim"}, "e-w8a8": {"model": "efficientvit_seg_b1"}, "fp32": {}}
    config = {"plans": plans, "train": {"lr": 0.1, "epochs": 6, "ddrnet23_slim": {"epochs": 18}}}
    assert {prefix: own["train"] for prefix, own in matrix.models(config).items()} == {
        "models/ddrnet23_slim/": {"lr": 0.1, "epochs": 18},
        "models/efficientvit_seg_b1/": {"lr": 0.1, "epochs": 6},
    }
    assert list(matrix.of_model(plans, "ddrnet23_slim")) == ["d-w8a8", "fp32"]
    told = matrix.row_id("ddrnet23_slim", "d-w8a8", plans["d-w8a8"], prefix="models/ddrnet23_slim/")
    assert told == "d-w8a8"


def test_plans_lie_where_their_method_puts_them() -> None:
    plan = {"head": "raw", "method": "float"}
    assert matrix.folder("fp16", plan) == "export/raw"
    assert matrix.folder("fp16", plan | {"branch": "one-to-many"}) == "export/raw-one-to-many"
    assert matrix.folder("fp32-control", plan | {"export": "export/control"}) == "export/control"
    assert matrix.folder("w8a8", plan | {"method": "ptq:minmax"}) == "quant/w8a8"


def test_a_network_of_ones_own_is_taken_and_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "best.pt"
    own.touch()
    config = config_of(f"checkpoint={own}")
    assert {"fp32-control", "w8a8-qat", "w4a8-qat"}.isdisjoint(config["plans"])
    assert list(config_of(f"checkpoint={own}", "--plans", "w8a8-qat")["plans"]) == ["fp32", "w8a8-qat"]
    assert matrix.models(config)[""]["checkpoint"] == str(own)
    listed = config_of("--models", f"yolo11n,{own}", experiment="exp_01_baselines")
    assert matrix.models(listed)["models/best/"]["checkpoint"] == str(own)
    assert run.main(["exp_03_qat", "checkpoint=/nowhere/best.pt"]) == run.RunError.exit_code
    assert (
        "checkpoint /nowhere/best.pt: no such file; give a .pt or model.safetensors file"
        in capsys.readouterr().err
    )


def test_extra_plans_run_when_they_are_named() -> None:
    assert "w4a8" not in config_of(experiment="exp_01_baselines")["plans"]
    assert "w4a8" in config_of("--plans", "w4a8", experiment="exp_01_baselines")["plans"]


def test_sweeps_are_every_combination_of_their_lists() -> None:
    plans = matrix.swept(
        [
            {"plan": ["w8a8", "w4a8"], "method": ["minmax", "cle+sqnr"], "why": "all"},
            {
                "plan": ["w8a8"],
                "method": ["minmax"],
                "selection": ["cover"],
                "calibration": [8, 32],
                "why": "n",
            },
            {"plan": ["w4a8"], "method": ["minmax"], "npu": True, "why": "sample"},
        ]
    )
    assert list(plans) == [
        *("w8a8.minmax", "w8a8.cle+sqnr", "w4a8.minmax", "w4a8.cle+sqnr"),
        *("w8a8.minmax.cover.8", "w8a8.minmax.cover.32"),
    ]
    assert plans["w4a8.cle+sqnr"] == {
        "head": "raw",
        "plan": "w4a8",
        "method": "ptq:cle+sqnr",
        "why": "all",
    }
    assert plans["w8a8.minmax.cover.32"]["calibration"] == 32
    assert plans["w4a8.minmax"]["npu"] is True
    assert "npu" not in plans["w8a8.minmax"]


def test_parameters_of_the_command_line() -> None:
    config = config_of("qat.epochs=3", "qat.lr=1e-4", "train.pretrained=true", "--target", "sm8650")
    assert config["qat"]["epochs"] == 3
    assert config["qat"]["lr"] == 1e-4
    assert config["train"]["pretrained"] is True
    assert config["target"] == "sm8650"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["qat.epoch=3"], "unknown parameter qat.epoch in the command line; did you mean qat.epochs?"),
        (["quat.epochs=3"], "unknown parameter quat in the command line; did you mean qat?"),
        (["zzz=3"], "there are: question, model"),
        (["qat.epochs=many"], "qat.epochs='many' in the command line: expected int, like 4"),
        (["qat=3"], "qat is a group; set one of: qat.epochs"),
        (["--plans", "w8a8,w8a9"], "unknown plan 'w8a9' in --plans; did you mean w8a8?"),
    ],
)
def test_wrong_parameters_offer_the_right_ones(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["exp_03_qat", *argv, "--print-config"]) == run.ParameterError.exit_code
    assert message in capsys.readouterr().err


def test_plain_word_is_no_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["exp_03_qat", "epochs", "--print-config"]) == run.ParameterError.exit_code
    assert "'epochs' is not KEY=VALUE, e.g. qat.epochs=3" in capsys.readouterr().err


def test_missing_data_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["exp_03_qat", "--data", "/nowhere/data.yaml"]) == run.RunError.exit_code
    assert "--data /nowhere/data.yaml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", ""])
def test_run_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(SystemExit):
        run.parse(["exp_03_qat", "--name", name])


def test_unknown_target_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    code = run.main(["exp_03_qat", "--target", "qcs9057", "--name", "test-never-made"])
    assert code >= 70
    assert "qcs9075" in capsys.readouterr().err
    assert not (REPO / "runs" / "exp_03_qat" / "test-never-made").exists()


def test_plans_are_chosen_in_the_order_of_the_config() -> None:
    assert list(config_of("--plans", "w4a8,w8a8")["plans"]) == ["fp32", "w8a8", "w4a8"]


def test_a_run_folder_is_used_by_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        run.claimed(tmp_path / "r"),
        pytest.raises(run.BusyError, match="is in use by another run"),
        run.claimed(tmp_path / "r"),
    ):
        pass
    with run.claimed(tmp_path / "r"):
        pass


def test_a_killed_run_leaves_no_one_working_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    orphan = subprocess.Popen(["sleep", "600"], cwd=folder, start_new_session=True)
    (folder / ".group").write_text(str(orphan.pid))
    with run.claimed(folder):
        assert orphan.wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_stops_its_stages(how: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    script = (
        "import os, sys; from pathlib import Path; import run\n"
        "run.heed_signals()\n"
        "run.command = lambda args, folder: ['sh', '-c', 'echo started; sleep 600 & wait']\n"
        "folder = Path(sys.argv[1])\n"
        "run.execute(run.parse(['exp_03_qat']), folder, env=os.environ)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        cwd=REPO / "experiments",
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_IGN
        ),  # as a shell starts what it backgrounds
    )
    deadline = time.monotonic() + 30
    while not (folder / ".group").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    group = int((folder / ".group").read_text())
    time.sleep(0.2)
    process.send_signal(how)
    _, told = process.communicate(timeout=40)
    assert process.returncode == -signal.SIGINT, told
    assert "KeyboardInterrupt" in told
    run.wait_until_gone(group)
    assert run.members(group) == []


def test_a_reused_process_group_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    stranger = subprocess.Popen(["sleep", "600"], cwd=tmp_path, start_new_session=True)
    try:
        (folder / ".group").write_text(str(stranger.pid))
        with run.claimed(folder):
            time.sleep(0.2)
            assert stranger.poll() is None
    finally:
        stranger.kill()


def test_a_new_name_starts_from_hard_links_of_the_base(tmp_path: Path) -> None:
    base, new = tmp_path / "default", tmp_path / "try2"
    (base / ".snakemake" / "metadata").mkdir(parents=True)
    (base / ".snakemake" / "metadata" / "dHJhaW4=").write_text("record")
    (base / "train").mkdir()
    (base / "train" / "model.safetensors").write_bytes(b"weights")
    (base / "work").mkdir()
    (base / "work" / "last.pt").write_bytes(b"half")
    (base / "config.json").write_text("{}")
    new.mkdir()
    run.seed_from(base, new)
    assert os.path.samefile(base / "train" / "model.safetensors", new / "train" / "model.safetensors")
    record = Path(".snakemake") / "metadata" / "dHJhaW4="
    assert (new / record).read_text() == "record"
    assert not os.path.samefile(base / record, new / record), "Snakemake rewrites its records in place"
    assert not (new / "work").exists()
    assert not (new / "config.json").exists()


def test_no_key_reaches_the_stages_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-key-of-a-test")
    args = run.parse(["exp_03_qat"])
    run.write_config(tmp_path, run.resolve(args))
    assert "secret-key" not in (tmp_path / "config.json").read_text()


def test_without_a_key_wandb_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    env = run.environment(run.parse(["exp_03_qat"]), tmp_path)
    assert env["WANDB_MODE"] == "offline"
    assert env["YOLO_OFFLINE"] == "true"
    assert env["HF_HUB_OFFLINE"] == "1"


def test_stage_keeps_its_log_and_its_exit_status(tmp_path: Path) -> None:
    script = "import sys; print('epoch 1/2'); print('tool: error: bad thing', file=sys.stderr); sys.exit(42)"
    line = [
        sys.executable,
        str(REPO / "experiments" / "stage.py"),
        "qat/x",
        "--",
        sys.executable,
        "-c",
        script,
    ]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 42
    assert "epoch 1/2" in (tmp_path / "logs" / "qat-x.log").read_text()
    assert '"event": "failed"' in done.stdout
    assert "tool: error: bad thing" in done.stdout


def planned(experiment: str, *argv: str) -> str:
    """What a run from nothing would do, with the commands, as `--dry-run` says it."""
    name = "test-dry"
    line = [sys.executable, str(REPO / "experiments" / "run.py"), experiment, "--name", name, "--dry-run"]
    try:
        return subprocess.run([*line, "--base", "none", *argv], capture_output=True, text=True).stdout
    finally:
        shutil.rmtree(REPO / "runs" / experiment / name, ignore_errors=True)


def test_a_row_that_names_a_selection_waits_for_its_list() -> None:
    """Of the two plans one is calibrated with chosen images, the other goes to the emulator."""
    told = planned("exp_02_ptq", "--plans", "w8a8.minmax,w8a8.minmax.cover.8")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", told, flags=re.MULTILINE))
    assert {key: counts[key] for key in ("select", "ptq", "evaluate_ort", "evaluate_emulator")} == {
        "select": "1",
        "ptq": "2",
        "evaluate_ort": "3",
        "evaluate_emulator": "1",
    }


@pytest.mark.parametrize("experiment", ["exp_04_sensitivity", "exp_05_mixed_precision"])
def test_options_of_the_task_reach_every_command_that_builds_it(experiment: str) -> None:
    told = planned(
        experiment, "model=efficientvit_seg_b1", "task=semantic", "options=attention=split,equalize=12"
    )
    commands = [line for line in told.splitlines() if re.search(r"hexpath-quant \w+ .*--task semantic", line)]
    assert len(commands) >= 4
    assert [line for line in commands if "--option attention=split --option equalize=12" not in line] == []
