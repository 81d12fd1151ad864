"""Command lines and files for the board, as they are; nothing here runs anything."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from hexpath_deploy.board import netrun, ortqnn
from hexpath_deploy.board.address import (
    Adb,
    Ssh,
    adb_command,
    check_path,
    parse_address,
    remote_line,
    ssh_command,
)
from hexpath_deploy.board.probe import probe_script
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.errors import OptionError

SSH_OPTIONS = (
    "-o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=10 -o ServerAliveInterval=5 "
    "-o ServerAliveCountMax=3"
)


def test_adb() -> None:
    assert adb_command(Adb(serial="4f1c2a"), "shell", "ls") == ["adb", "-s", "4f1c2a", "shell", "ls"]
    assert adb_command(Adb(), "push", "a b", "/t") == ["adb", "push", "a b", "/t"]


def test_ssh() -> None:
    assert ssh_command(Ssh(host="board"), "uname -m") == shlex.split(f"ssh -T {SSH_OPTIONS} board 'uname -m'")
    full = Ssh(host="10.0.0.7", user="root", port=2222, identity=Path("k"), known_hosts=Path("my hosts"))
    assert ssh_command(full, "x") == [
        *shlex.split(f"ssh -T {SSH_OPTIONS}"),
        *("-o", 'UserKnownHostsFile="my hosts"', "-o", "IdentitiesOnly=yes"),
        *("-i", "k", "-p", "2222", "root@10.0.0.7", "x"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adb", Adb()),
        ("adb:192.168.1.5:5555", Adb(serial="192.168.1.5:5555")),
        ("ssh://board", Ssh(host="board")),
        ("ssh://root@10.0.0.7:2222", Ssh(host="10.0.0.7", user="root", port=2222)),
    ],
)
def test_addresses(text: str, expected: Adb | Ssh) -> None:
    assert parse_address(text) == expected
    assert parse_address(text).name == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("board", "is not one of adb, adb:SERIAL or ssh://"),
        ("adb:", "is not one of"),
        ("adb:a;reboot", "is not one of"),
        ("ssh://-oProxyCommand=x", "is not of the form"),
        ("ssh://root@", "is not of the form"),
        ("ssh://root:secret@board", "no password in an address"),
        ("ssh://board:99999", "the port is no number"),
        ("ssh://board/home", "nothing may follow the port"),
    ],
)
def test_addresses_that_are_none(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        parse_address(text)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("path", ["relative", "/a b", "/a;b", "/a/../b", "/$HOME", "/a\nb"])
def test_folders_that_a_shell_could_misread(path: str) -> None:
    with pytest.raises(OptionError, match=r"--board-dir (?s:.*) must be an absolute path on the board"):
        check_path(path, option="--board-dir")


def test_remote_line() -> None:
    line = remote_line(["./tool", "a b", "c'd"], folder="/t", env={"A": "x;y"}, timeout_s=600)
    assert line == """cd /t && A='x;y' timeout -k 5 600 ./tool 'a b' 'c'"'"'d'; exit $?"""
    done = subprocess.run(["sh", "-c", remote_line(["sh", "-c", "kill -9 $$"], folder="/")], check=False)
    assert done.returncode == 137, "a signal arrives as a code"


def test_net_run() -> None:
    settings = BoardSettings(device="adb", iterations=50, warm_up=5)
    common = (
        "/sdk/qnn-net-run --backend libQnnHtp.so --retrieve_context context.bin --input_list input_list.txt "
        "--output_dir output --config_file backend.json --use_native_input_files --use_native_output_files "
        "--log_level error"
    )
    profiled = f"{common} --profiling_level basic --keep_num_outputs 1"
    assert netrun.command("/sdk/qnn-net-run", settings=None) == common.split()
    assert netrun.command("/sdk/qnn-net-run", settings=settings) == f"{profiled} --num_inferences 55".split()
    timed = BoardSettings(device="adb", duration_s=2.5)
    assert netrun.command("/sdk/qnn-net-run", settings=timed) == f"{profiled} --duration 2.5".split()


@pytest.mark.parametrize(
    ("tool", "libraries", "skeleton"),
    [
        (
            "/opt/q/bin/aarch64-android/qnn-net-run",
            "/opt/q/lib/aarch64-android",
            "/opt/q/lib/hexagon-v75/unsigned",
        ),
        ("/data/local/tmp/q/qnn-net-run", "/data/local/tmp/q", "/data/local/tmp/q"),
        ("/usr/bin/qnn-net-run", None, "/usr/lib/dsp/cdsp"),
    ],
)
def test_where_net_run_finds_its_libraries(tool: str, libraries: str | None, skeleton: str) -> None:
    found = netrun.environment(tool, hexagon="v75")
    assert found.get("LD_LIBRARY_PATH") == libraries
    assert found["ADSP_LIBRARY_PATH"].split(";")[0] == skeleton
    assert found["ADSP_LIBRARY_PATH"].endswith(";/dsp")


def test_files_of_net_run() -> None:
    assert netrun.input_list(
        [{"images": "0-images.raw", "prompt": "0-prompt.raw"}, {"images": "1-images.raw"}]
    ) == ("images:=0-images.raw prompt:=0-prompt.raw\nimages:=1-images.raw\n")
    assert netrun.backend_config() == {
        "backend_extensions": {
            "shared_library_path": "libQnnHtpNetRunExtensions.so",
            "config_file_path": "htp.json",
        }
    }
    assert json.loads(json.dumps(netrun.htp_config(performance="burst", hexagon="v73"))) == {
        "devices": [
            {
                "dsp_arch": "v73",
                "cores": [{"core_id": 0, "perf_profile": "burst", "rpc_control_latency": 100}],
            }
        ]
    }


def test_options_of_onnxruntime_qnn() -> None:
    settings = BoardSettings(device="adb", performance="balanced", profiling="detailed")
    assert ortqnn.provider_options(settings=settings, soc_model=None) == {
        "htp_performance_mode": "balanced",
        "profiling_level": "detailed",
        "profiling_file_path": "out/profile.csv",
    }


@pytest.mark.parametrize("sdk", [None, "/opt/qairt"])
def test_probe(tmp_path: Path, sdk: str | None) -> None:
    """Every shell that a board may have reads it; each answer is one line."""
    script = probe_script(folder=f"{tmp_path}/made", sdk=sdk, python="python3")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    lines = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {"machine", "kernel", "made", "free_kib"} <= set(lines)
    assert lines["free_kib"].isdigit()
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"performance": "bursty"}, "unknown performance mode 'bursty'; did you mean 'burst'"),
        ({"runner": "qnn-netrun"}, "did you mean 'qnn-net-run'"),
        ({"profiling": "all"}, "unknown profiling level 'all'"),
        ({"iterations": 0}, "at least one run must count"),
        ({"warm_up": -1}, "--iterations 100 with --warm-up -1"),
        ({"duration_s": 700.0}, "--duration 700 s must be above 0 and below --time-limit 600 s"),
    ],
)
def test_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        BoardSettings(device="adb", **settings).check()  # type: ignore[arg-type]
