"""The whole way to a board and back, with stand-ins: a real sshd on loopback, scripts for adb and QAIRT."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import squares
from fake_board import FakeBoard, Sshd, free_port
from made import Made, read

from hexpath_deploy.board import probe
from hexpath_deploy.board.address import parse_address
from hexpath_deploy.board.evaluate import run_images
from hexpath_deploy.board.link import AdbLink, connect, unpack
from hexpath_deploy.board.place import Place
from hexpath_deploy.board.session import open_board
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.cli import main
from hexpath_deploy.errors import BoardRunError, BoardUnreachableError
from hexpath_deploy.hexagon.artifact import open_artifact
from hexpath_deploy.hexagon.emulate import emulate, load_outputs, outputs_path
from hexpath_deploy.model import read_model


def profile(board: FakeBoard, made: Made, compiled: Path, out: Path, *more: str) -> int:
    """Run the command with few iterations."""
    head = ["profile", str(made.model), "--backend", "device", "--compiled", str(compiled), "--out", str(out)]
    return main([*head, "--iterations", "5", "--warm-up", "2", *board.reach, *more])


@pytest.mark.parametrize("link", ["over_ssh", "over_adb"])
def test_net_run_measures(
    made: Made, compiled: Path, tmp_path: Path, link: str, request: pytest.FixtureRequest
) -> None:
    board: FakeBoard = request.getfixturevalue(link)
    out = tmp_path / "p.json"
    assert profile(board, made, compiled, out, "--profiling", "detailed") == 0
    record = read(out)
    found = record["latency"]
    assert (found["source"], found["target"], found["iterations"], found["warm_up"]) == (
        "measured",
        "qcs9075",
        5,
        2,
    )
    assert found["min_ms"] <= found["p50_ms"] == found["value_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["accelerator_ms"] < found["value_ms"]
    assert record["op_cycles"] == {"/score8/Conv": 700}
    assert record["device"]["machine"] == "aarch64"
    assert record["options"]["runner"] == "qnn-net-run"
    assert record["tools"]["qairt-on-board"] == "2.51.0.260101000000"
    assert board.left() == [], "the run's folder is removed"
    assert (tmp_path / "p.raw" / "profile.csv").exists()
    assert not (tmp_path / "p.json.work").exists()


def test_onnxruntime_qnn_on_a_pc_is_never_a_measurement(
    made: Made, compiled: Path, tmp_path: Path, pc_over_ssh: FakeBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    """The emulator plays the NPU: the whole path runs, and the record says what it is."""
    out = tmp_path / "p.json"
    if platform.machine() != "x86_64":
        pytest.skip("the emulator exists for x86-64 only")
    assert profile(pc_over_ssh, made, compiled, out) == 97
    assert "an x86_64 machine without Hexagon NPU" in capsys.readouterr().err
    more = ("--emulated-board", "--runner", "onnxruntime-qnn")
    assert profile(pc_over_ssh, made, compiled, out, *more) == 0
    record = read(out)
    assert (record["latency"]["source"], record["latency"]["iterations"]) == ("emulated", 5)
    assert record["peak_memory_mb"] > 20
    assert record["tools"]["onnxruntime-qnn-on-board"]
    assert "of no device" in record["notes"][0]
    assert pc_over_ssh.left() == []


def test_compiles_when_nothing_is_given(made: Made, tmp_path: Path, over_adb: FakeBoard) -> None:
    out = tmp_path / "p.json"
    head = ["profile", str(made.model), "--backend", "device", "--target", "qcs9075", "--out", str(out)]
    assert main([*head, *over_adb.reach, "--iterations", "2"]) == 0
    assert read(out)["latency"]["target"] == "qcs9075"


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("killed", 120, "qnn-net-run on adb:4f1c2a was killed by signal 9"),
        ("sleep", 99, "qnn-net-run on adb:4f1c2a took longer than 1 s and was stopped there"),
        ("full", 98, "no space left on adb:4f1c2a while qnn-net-run ran"),
    ],
)
def test_runs_that_go_wrong(
    made: Made,
    compiled: Path,
    tmp_path: Path,
    over_adb: FakeBoard,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    code: int,
    message: str,
) -> None:
    over_adb.fault(fault)
    limit = ("--board-limit", "1") if fault == "sleep" else ()
    assert profile(over_adb, made, compiled, tmp_path / "p.json", *limit) == code
    assert message in one_line(capsys)
    assert over_adb.left() == []
    assert not (tmp_path / "p.json").exists()


def test_killed_over_ssh(
    made: Made, compiled: Path, tmp_path: Path, over_ssh: FakeBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    over_ssh.fault("killed")
    assert profile(over_ssh, made, compiled, tmp_path / "p.json") == 120
    assert "was killed by signal 9" in one_line(capsys)


def test_what_a_killed_command_left_is_removed(
    made: Made, compiled: Path, tmp_path: Path, over_adb: FakeBoard
) -> None:
    key = read(compiled / "compile.json")["binary_sha256"][:16]
    (over_adb.folder / "runs" / f"{key}-profile").mkdir(parents=True)
    (over_adb.folder / "runs" / f"{key}-profile" / "output").write_text("of another time")
    assert profile(over_adb, made, compiled, tmp_path / "p.json") == 0
    assert over_adb.left() == []


def test_pushed_once_and_again_when_damaged(compiled: Path, over_adb: FakeBoard, tmp_path: Path) -> None:
    link = connect(parse_address("adb:4f1c2a"))
    for said in ({"sha256sum": "yes"}, {}):
        place = Place(link=link, facts=probe.Facts(said=said), folder=str(over_adb.folder))
        target = Path(place.push(compiled / "model_ctx.bin"))
        stamp = target.stat().st_mtime_ns
        assert place.push(compiled / "model_ctx.bin") == str(target)
        assert target.stat().st_mtime_ns == stamp
        target.write_bytes(b"cut off")
        place.push(compiled / "model_ctx.bin")
        assert target.read_bytes() == (compiled / "model_ctx.bin").read_bytes()


def test_damaged_on_the_way(compiled: Path, over_adb: FakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    link = connect(parse_address("adb:4f1c2a"))
    place = Place(link=link, facts=probe.Facts(said={"sha256sum": "yes"}), folder=str(over_adb.folder))
    monkeypatch.setattr(AdbLink, "push", lambda self, source, target: Path(target).write_text("noise"))
    with pytest.raises(BoardRunError, match=r"model_ctx\.bin arrived damaged: run the same again"):
        place.push(compiled / "model_ctx.bin")
    assert over_adb.files() == []


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command that failed prints."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


@pytest.mark.parametrize(
    ("devices", "device", "code", "message"),
    [
        ({"4f1c2a": "device"}, "adb:4f1c2b", 95, "did you mean '4f1c2a'"),
        ({"4f1c2a": "unauthorized"}, "adb:4f1c2a", 96, "unlock it, confirm the adb dialog"),
        ({"4f1c2a": "offline"}, "adb:4f1c2a", 95, "does not answer (error: device offline)"),
        ({}, "adb", 95, "no board is connected"),
        ({"4f1c2a": "device", "77": "device"}, "adb", 95, "Name it with --device adb:SERIAL"),
    ],
)
def test_adb_says_no(
    made: Made,
    compiled: Path,
    tmp_path: Path,
    over_adb: FakeBoard,
    capsys: pytest.CaptureFixture[str],
    devices: dict[str, str],
    device: str,
    code: int,
    message: str,
) -> None:
    (over_adb.home / "adb.json").write_text(json.dumps(devices))
    assert profile(over_adb, made, compiled, tmp_path / "p.json", "--device", device) == code
    assert message in one_line(capsys)


def test_adb_is_not_installed(
    made: Made,
    compiled: Path,
    tmp_path: Path,
    over_adb: FakeBoard,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert profile(over_adb, made, compiled, tmp_path / "p.json") == 97
    assert "adb is not installed on this machine" in one_line(capsys)


def test_ssh_host_that_does_not_answer(
    made: Made, compiled: Path, tmp_path: Path, sshd: Sshd, capsys: pytest.CaptureFixture[str]
) -> None:
    board = FakeBoard(tmp_path, ("--device", f"ssh://127.0.0.1:{free_port()}"))
    assert profile(board, made, compiled, tmp_path / "p.json") == 95
    assert "Connection refused" in one_line(capsys)


def test_ssh_key_that_is_not_accepted(
    made: Made, compiled: Path, tmp_path: Path, pc_over_ssh: FakeBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    assert profile(pc_over_ssh, made, compiled, tmp_path / "p.json", "--identity", str(other)) == 96
    assert "accepts no key of yours" in one_line(capsys)


def test_ssh_host_key_that_changed(
    made: Made,
    compiled: Path,
    tmp_path: Path,
    sshd: Sshd,
    pc_over_ssh: FakeBoard,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = tmp_path / "known"
    public = (sshd.folder / "client.pub").read_text().split()
    known.write_text(f"[127.0.0.1]:{sshd.port} {public[0]} {public[1]}\n")
    assert profile(pc_over_ssh, made, compiled, tmp_path / "p.json", "--known-hosts", str(known)) == 96
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f '{known}'" in one_line(capsys)


def test_tools_that_the_board_has_not(
    made: Made, compiled: Path, tmp_path: Path, over_adb: FakeBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = ("--board-sdk", str(tmp_path / "nothing"), "--board-python", "no-such-python")
    assert profile(over_adb, made, compiled, tmp_path / "p.json", *bare) == 97
    assert "has no qnn-net-run and no onnxruntime-qnn: install a QAIRT SDK" in one_line(capsys)
    python = tmp_path / "python-without"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    named = ("--runner", "onnxruntime-qnn", "--board-python", str(python))
    assert profile(over_adb, made, compiled, tmp_path / "p.json", *named) == 97
    assert "has no module numpy: install python3 with numpy and onnxruntime-qnn" in one_line(capsys)
    for viewer in over_adb.home.glob("sdk/bin/*/qnn-profile-viewer"):
        viewer.unlink()
    assert profile(over_adb, made, compiled, tmp_path / "p.json") == 97
    assert "neither adb:4f1c2a nor this machine has qnn-profile-viewer" in one_line(capsys)


def test_no_space(
    made: Made,
    compiled: Path,
    tmp_path: Path,
    over_adb: FakeBoard,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "full")
    assert profile(over_adb, made, compiled, tmp_path / "p.json") == 98
    assert "choose another --board-dir" in one_line(capsys)
    monkeypatch.setattr(probe, "SPARE_MB", 1e9)
    assert profile(over_adb, made, compiled, tmp_path / "p.json") == 98
    assert "MB are needed: free some" in one_line(capsys)


def test_folder_that_cannot_be_made(
    made: Made, compiled: Path, tmp_path: Path, over_adb: FakeBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    more = ("--board-dir", str(tmp_path / "file" / "below"))
    assert profile(over_adb, made, compiled, tmp_path / "p.json", *more) == 120
    assert "cannot be made" in one_line(capsys)


@pytest.mark.parametrize("runner", ["qnn-net-run", "onnxruntime-qnn"])
def test_images_in_outputs_back(
    made: Made, compiled: Path, tmp_path: Path, over_adb: FakeBoard, runner: str
) -> None:
    """Bit for bit what the emulator gives, batch by batch; what is there is not run again."""
    artifact = open_artifact(compiled, model=read_model(made.model))
    images = {str(index): (lambda index=index: squares.batch(3)[index : index + 1]) for index in range(3)}
    feeds = {key: (lambda make=make: {"images": make()}) for key, make in images.items()}
    emulate(artifact, feeds=feeds, work=tmp_path / "emulated", workers=1)
    reach = dict(zip(over_adb.reach[::2], over_adb.reach[1::2], strict=True))
    settings = BoardSettings(
        device=reach["--device"],
        runner=runner,
        folder=reach["--board-dir"],
        sdk=reach["--board-sdk"],
        python=sys.executable,
        emulated=True,
    )
    if runner == "onnxruntime-qnn":  # the emulator must be told the chip, an aarch64 board knows it
        (over_adb.home / "bin" / "uname").unlink()
    seen: list[tuple[int, int]] = []
    session = open_board(settings, wanted_bytes=0)
    work = tmp_path / "work"
    run_images(session, artifact, images=images, work=work, progress=lambda *at: seen.append(at))
    assert seen == [(3, 3)]
    for key in images:
        ours = load_outputs(tmp_path / "work", key, boundary=artifact.boundary)
        theirs = load_outputs(tmp_path / "emulated", key, boundary=artifact.boundary)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])
    outputs_path(tmp_path / "work", "1").unlink()
    again = {key: images[key] if key == "1" else fail for key in images}
    run_images(session, artifact, images=again, work=work)
    assert over_adb.left() == []


def one() -> np.ndarray:
    return squares.batch(1)


def fail() -> np.ndarray:
    raise AssertionError("this image has its outputs already")


def test_output_that_is_cut_off(made: Made, compiled: Path, tmp_path: Path, over_adb: FakeBoard) -> None:
    artifact = open_artifact(compiled, model=read_model(made.model))
    reach = dict(zip(over_adb.reach[::2], over_adb.reach[1::2], strict=True))
    settings = BoardSettings(device=reach["--device"], folder=reach["--board-dir"], sdk=reach["--board-sdk"])
    over_adb.fault("cut")
    with pytest.raises(BoardRunError, match=r"_native\.raw has 3 bytes, expected"):
        run_images(open_board(settings, wanted_bytes=0), artifact, images={"1": one}, work=tmp_path / "w")
    assert not outputs_path(tmp_path / "w", "1").exists()


def test_evaluate_on_a_board(made: Made, compiled: Path, tmp_path: Path, over_adb: FakeBoard) -> None:
    """The same code scores what the board computed."""
    out = tmp_path / "e.json"
    head = ["evaluate", str(made.model), "--coco", str(made.coco), "--backend", "device", "--images", "3"]
    assert main([*head, "--compiled", str(compiled), "--out", str(out), *over_adb.reach]) == 0
    record = read(out)
    assert (record["evaluated_on"], record["images"]) == ("device", 3)
    assert record["metrics"]["map50"] == pytest.approx(1)
    assert record["sha256"] == read(compiled / "compile.json")["binary_sha256"]
    assert over_adb.left() == []


def test_evaluate_needs_a_board(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "e.json"
    head = ["evaluate", str(made.model), "--coco", str(made.coco), "--backend", "device"]
    assert main([*head, "--out", str(out)]) == 83
    assert "give --compiled and --device" in one_line(capsys)


def test_connection_that_is_lost_midway(pc_over_ssh: FakeBoard) -> None:
    reach = dict(zip(pc_over_ssh.reach[::2], pc_over_ssh.reach[1::2], strict=True))
    keys = {"identity": Path(reach["--identity"]), "known_hosts": Path(reach["--known-hosts"])}
    link = connect(parse_address(reach["--device"], **keys))
    with pytest.raises(BoardUnreachableError, match="the connection was lost"):
        link.shell("kill -9 $PPID; sleep 20", limit_s=30)


def test_interrupted_here(
    made: Made, compiled: Path, tmp_path: Path, over_adb: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C: nothing is written here, nothing stays on the board."""

    def stop(self: Place, *words: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Place, "execute", stop)
    assert profile(over_adb, made, compiled, tmp_path / "p.json") == 130
    assert over_adb.left() == []
    assert not (tmp_path / "p.json").exists()


def test_archive_that_leads_elsewhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        (tmp_path / "x").write_text("x")
        tar.add(tmp_path / "x", arcname="../out-of-here")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    (tmp_path / "target").mkdir()
    for name in ("a.tar", "cut.tar"):
        with pytest.raises(BoardRunError, match="the board sent no whole archive"):
            unpack(tmp_path / name, target=tmp_path / "target", what="pull")
    assert not (tmp_path / "out-of-here").exists()


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("error: libQnnHtp.so not found", False),
        ("error: device '4f1c2a' not found", True),
        ("adb: error: failed to get feature set: device offline", True),
        ("adb: no devices/emulators found", True),
    ],
)
def test_only_adbs_own_words_mean_that_the_board_is_gone(over_adb: FakeBoard, said: str, lost: bool) -> None:
    link, line = connect(parse_address("adb:4f1c2a")), f'echo "{said}" >&2; exit 1'
    if lost:
        with pytest.raises(BoardUnreachableError, match="does not answer"):
            link.shell(line, limit_s=30)
    else:
        assert link.shell(line, limit_s=30).code == 1
