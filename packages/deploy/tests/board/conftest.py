from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_board import STAND_INS, FakeBoard, Sshd, free_port, install, wait_for
from made import Made


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Start sshd with its own keys; its sessions find the stand-ins of `bin` first."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("OpenSSH's server (sshd) is not installed: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "client.pub", folder / "authorized")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    config = folder / "config"
    lines = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "MaxStartups": 100,
        "SetEnv": f"PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin",
    }
    config.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
    try:
        wait_for(port, process, log=folder / "log")
        yield Sshd(folder, port, folder / "client")
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def pc_over_ssh(sshd: Sshd, tmp_path: Path) -> FakeBoard:
    """This machine as it is, over ssh."""
    install(tmp_path / "fake")
    reach = (
        "--device",
        sshd.address,
        "--identity",
        str(sshd.key),
        "--known-hosts",
        str(sshd.folder / "known"),
    )
    places = ("--board-dir", str(tmp_path / "fake" / "board"), "--board-python", sys.executable)
    return FakeBoard(tmp_path / "fake", (*reach, *places))


@pytest.fixture
def over_ssh(sshd: Sshd, tmp_path: Path, made: Made, compiled: Path) -> Iterator[FakeBoard]:
    """A board over ssh that says it is aarch64 and has an SDK."""
    install(tmp_path / "fake", compiled=compiled)
    (sshd.folder / "bin").symlink_to(tmp_path / "fake" / "bin")
    reach = (
        "--device",
        sshd.address,
        "--identity",
        str(sshd.key),
        "--known-hosts",
        str(sshd.folder / "known"),
    )
    places = ("--board-dir", str(tmp_path / "fake" / "board"), "--board-sdk", str(tmp_path / "fake" / "sdk"))
    yield FakeBoard(tmp_path / "fake", (*reach, *places))
    (sshd.folder / "bin").unlink()


@pytest.fixture
def over_adb(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    """A board over the adb stand-in, with an SDK."""
    home = tmp_path / "fake"
    install(home, compiled=compiled)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "adb").write_text(
        (STAND_INS / "adb").read_text().replace("/usr/bin/env python3", sys.executable)
    )
    (tools / "adb").chmod(0o755)
    (home / "adb.json").write_text(json.dumps({"4f1c2a": "device"}))
    monkeypatch.setenv("STAND_IN", str(home))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    places = ("--board-dir", str(home / "board"), "--board-sdk", str(home / "sdk"))
    return FakeBoard(home, ("--device", "adb:4f1c2a", *places))
