from __future__ import annotations

import errno
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import onnx
import pytest
from made import Made, needs_toolchain
from onnx import helper

from hexpath_deploy import cli
from hexpath_deploy.cli import main
from hexpath_deploy.errors import (
    CompileError,
    DeployError,
    DiskFullError,
    EstimateError,
    ToolchainCrashError,
    ToolchainMissingError,
    ToolchainTimeoutError,
    UnreadableModelError,
)
from hexpath_deploy.files import atomic_folder, atomic_path, disk_full, write_atomic
from hexpath_deploy.hexagon import job as jobs
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.estimate import read_estimate
from hexpath_deploy.hexagon.job import Job, check, run_job, translate
from hexpath_deploy.hexagon.refusals import Refusal, explain, read_refusals

CSV = Path(__file__).parent / "golden" / "profile.csv"


def with_operator(made: Made, path: Path, kind: str) -> Path:
    """Write the float model with an operator before its first output."""
    model = onnx.load(made.float_model)
    name = "scores_8"
    maker = next(node for node in model.graph.node if name in node.output)
    maker.output[0] = "before"
    model.graph.node.append(helper.make_node(kind, ["before"], [name], name="my_odd_node"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("kind", ["Acosh", "Erf"])
def test_operator_that_the_npu_cannot_run_is_named(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    needs_toolchain()
    path = with_operator(made, tmp_path / "odd.onnx", kind)
    code = main(["compile", str(path), "--target", "qcs9075", "--fp16", "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert code == 74, message
    assert f"the NPU cannot run {kind} 'my_odd_node' (Operators of type `{kind}` are not supported" in message
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_every_refused_operator_is_named_with_its_reason() -> None:
    """The log is recorded, see its README."""
    log = (CSV.parent / "refused.log").read_text()
    refused = {each.name: each for each in read_refusals(log)}
    assert {name: each.type for name, each in refused.items()} == {
        "odd_mod": "Mod",
        "odd_erf": "Erf",
        "odd_acosh": "Acosh",
        "my_norm": "LayerNormalization",
    }
    assert refused["odd_mod"].why == "QNN Mod Op only support fmod == 0 for now"
    assert refused["odd_erf"].why == "Operators of type `Erf` are not supported by QNN EP"
    assert refused["my_norm"].why == (
        "Unsupported input/output datatypes requested for the HTP Op 'LayerNorm' in the node 'my_norm': "
        "UFIXED_POINT_8, SFIXED_POINT_8 -> UFIXED_POINT_8"
    )


def test_refused_operators_of_one_reason_are_told_together() -> None:
    refused = [Refusal(type="Erf", name=f"e{i}", why="no") for i in range(40)]
    told = explain([*refused, Refusal(type="Mod", name="m")])
    assert told.startswith("Erf 'e0', 'e1', ")
    assert told.endswith("'e39' (no); Mod 'm'")
    assert read_refusals("nothing of the kind") == []


def job(tmp_path: Path, kind: str = "context") -> Job:
    options = {
        "soc_model": "77",
        "htp_graph_finalization_optimization_mode": "3",
        "enable_htp_fp16_precision": "0",
    }
    return Job(request={"job": kind, "options": options}, scratch=tmp_path, subject=Path("m.onnx"))


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let another program play the worker."""
    real = jobs.subprocess.Popen

    def popen(command: list[str], **rest: object) -> object:
        return real([sys.executable, "-c", code], **rest)

    monkeypatch.setattr(jobs.subprocess, "Popen", popen)


def test_crash_names_model_and_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(
        ToolchainCrashError,
        match=r"compiler crashed \(SIGSEGV\) on m\.onnx with soc_model 77, "
        r"--optimization 3, fp16 0: try --optimization 2",
    ):
        run_job(job(tmp_path), limit_s=30)


def test_worker_that_ends_oddly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "raise SystemExit('no such thing')")
    with pytest.raises(ToolchainCrashError, match="ended with code 1: no such thing"):
        run_job(job(tmp_path), limit_s=30)


def test_time_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "import time; time.sleep(60)")
    with pytest.raises(ToolchainTimeoutError, match=r"emulator of m.onnx showed no progress for 0 s"):
        run_job(job(tmp_path, "emulate"), limit_s=0.2)


@pytest.mark.parametrize(
    ("error", "log", "kind", "message"),
    [
        (
            "Unsupported model IR version: 14, max supported IR version: 13",
            "",
            UnreadableModelError,
            "model IR version: 14",
        ),
        (
            "failed",
            "write: No space left on device",
            DiskFullError,
            "no space left while Qualcomm's compiler",
        ),
        (
            "failed",
            "\x1b[1;31mx [E:onnxruntime:, f.cc:1 G] QNN says no\x1b[m",
            CompileError,
            "refused m.onnx.*QNN says no",
        ),
        ("what ORT says", "", CompileError, "what ORT says"),
    ],
)
def test_errors_are_translated(
    tmp_path: Path, error: str, log: str, kind: type[DeployError], message: str
) -> None:
    found = translate(error, log=log, job=job(tmp_path))
    assert type(found) is kind
    with pytest.raises(kind, match=message):
        raise found


def test_good_end(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("")
    (tmp_path / "result.json").write_text("{}")
    check(job(tmp_path), 0)
    with pytest.raises(ToolchainCrashError, match="SIGABRT"):
        check(job(tmp_path), -signal.SIGABRT)


@pytest.mark.parametrize(
    ("platform", "machine", "libc", "message"),
    [
        ("darwin", "arm64", ("", ""), "need x86-64 Linux with glibc 2.35 or newer; this is"),
        ("linux", "aarch64", ("glibc", "2.39"), "on aarch64"),
        ("win32", "AMD64", ("", ""), "need x86-64 Linux"),
        ("linux", "x86_64", ("glibc", "2.31"), "this is glibc 2.31"),
        ("linux", "x86_64", ("", ""), "this is another C library"),
    ],
)
def test_unsupported_platform(
    monkeypatch: pytest.MonkeyPatch,
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    platform: str,
    machine: str,
    libc: tuple[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(toolchain.sys, "platform", platform)
    monkeypatch.setattr(toolchain.platform, "machine", lambda: machine)
    monkeypatch.setattr(toolchain.platform, "libc_ver", lambda: libc)
    for command in (["compile", "--out"], ["profile", "--out"]):
        arguments = [command[0], str(made.model), "--target", "qcs9075", "--out", str(tmp_path / "out")]
        assert main(arguments) == 75
    error = capsys.readouterr().err
    assert message in error
    assert "Without it evaluate --backend ort, record, report, log and targets work" in error


def test_toolchain_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "platform_problem", lambda: None)
    monkeypatch.setattr(toolchain.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainMissingError, match=r"pip install 'onnxruntime-qnn>=2.7.0'"):
        toolchain.require()


def test_estimate_is_read_by_name() -> None:
    found = read_estimate(CSV)
    assert (found.value_ms, found.low_ms, found.high_ms) == (0.543, 0.483, 0.615)
    assert (found.cycles, found.cycles_low, found.cycles_high) == (814000, 723767, 921933)
    assert found.missing_ops == 0
    assert found.ddr_bytes["Input Fill"] == 4143104
    assert found.ddr_mb == pytest.approx(5.39648)
    assert found.spill_mb == 0


def test_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("".join(CSV.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(EstimateError, match="wrote no estimate"):
        read_estimate(tmp_path / "p.csv")


def stop_in(writing: AbstractContextManager[Path]) -> None:
    """Write something and fail."""
    with writing as partial:
        (partial / "f" if partial.is_dir() else partial).write_text("new")
        raise RuntimeError("stop")


def test_nothing_half_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "old")
    for writer, name in ((atomic_path, "a"), (atomic_folder, "d")):
        with pytest.raises(RuntimeError, match="stop"):
            stop_in(writer(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_disk_full(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="no space left while writing"), disk_full(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), disk_full(tmp_path / "a"):
        raise PermissionError("no")


@pytest.mark.parametrize(
    ("raised", "code"),
    [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "full"), 85), (CompileError("bad\nthing"), 76)],
)
def test_main_turns_errors_into_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int
) -> None:
    def fail(args: object) -> int:
        raise raised

    module = cli.import_module("hexpath_deploy.commands.targets")
    monkeypatch.setattr(module, "run", fail)
    assert main(["targets"]) == code
    assert len(capsys.readouterr().err.splitlines()) == 1
