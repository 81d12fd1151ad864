"""Boards that this machine plays; the fixtures themselves stand in conftest.py."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import hexpath_deploy

STAND_INS = Path(__file__).parent / "stand_ins"
SOURCE = Path(hexpath_deploy.__file__).parents[1]


@dataclass(frozen=True)
class FakeBoard:
    """A folder that plays a board's disk, with an SDK in it; `reach` are the arguments that lead there."""

    home: Path
    reach: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.home / "board"

    def fault(self, kind: str) -> None:
        """Let the next run of qnn-net-run go wrong."""
        (self.home / "fault").write_text(kind)

    def left(self) -> list[str]:
        """What runs left behind."""
        return sorted(path.name for path in (self.folder / "runs").glob("*"))

    def files(self) -> list[Path]:
        """What was pushed."""
        return sorted((self.folder / "files").glob("*"))


def install(home: Path, *, compiled: Path | None = None) -> None:
    """Lay the stand-ins out as a QAIRT SDK, and leave the compiled model's wrapper to them."""
    for target in ("aarch64-oe-linux-gcc11.2", "x86_64-linux-clang"):
        folder = home / "sdk" / "bin" / target
        folder.mkdir(parents=True)
        for name in ("qnn-net-run", "qnn-profile-viewer"):
            text = (STAND_INS / name).read_text().replace("/usr/bin/env python3", sys.executable)
            (folder / name).write_text(
                text.replace(
                    "import argparse\n",
                    f"import sys; sys.path.insert(0, {str(SOURCE)!r})\nimport argparse\n",
                    1,
                )
            )
            (folder / name).chmod(0o755)
        (folder / "home").write_text(str(home))
        (home / "sdk" / "lib" / target).mkdir(parents=True)
    (home / "bin").mkdir()
    shutil.copy(STAND_INS / "uname", home / "bin" / "uname")
    if compiled is not None:
        shutil.copytree(compiled, home / "compiled")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Sshd:
    """A real sshd on loopback that lets in whoever holds `key`."""

    folder: Path
    port: int
    key: Path

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"


def wait_for(port: int, process: subprocess.Popen[bytes], *, log: Path) -> None:
    """Wait until somebody listens."""
    for _ in range(100):
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text()[-300:]}")
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.skip("sshd does not listen")
