"""The one function that runs adb and ssh."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hexpath_deploy.errors import BoardTimeoutError, BoardToolMissingError


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended: `code` is its exit status, of the command on the board where there was one."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last words of the command, in one line."""
        return " ".join((self.err.strip() or self.out.strip()).split())[-300:]


def run(
    argv: Sequence[str], *, limit_s: float, what: str, source: Path | None = None, into: Path | None = None
) -> Done:
    """Run a command with a time limit; `source` becomes its input, `into` takes its output.

    It never asks: without `source` its input is empty.

    Raises:
        BoardToolMissingError: there is no such program here.
        BoardTimeoutError: it took longer than `limit_s`; it and all that it started are ended.
    """
    with opened(source, "rb") as stdin, opened(into, "wb") as stdout:
        process = start(argv, stdin=stdin, stdout=stdout if into is not None else subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise BoardTimeoutError(
                f"{what} took longer than {limit_s:.0f} s and was stopped: raise --time-limit, "
                "or look at the board"
            ) from None
        finally:
            end(process)
    return Done(code=process.returncode, out=text(out), err=text(err))


def opened(path: Path | None, mode: str) -> IO[bytes]:
    """Open a file, or nothing."""
    return open(path or os.devnull, mode)


def start(argv: Sequence[str], *, stdin: IO[bytes], stdout: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, so that all of it can be ended."""
    try:
        return subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, start_new_session=True
        )
    except FileNotFoundError:
        raise BoardToolMissingError(
            f"{argv[0]} is not installed on this machine: install Android's platform tools (adb) "
            "or OpenSSH's client (ssh)"
        ) from None


def end(process: subprocess.Popen[bytes]) -> None:
    """End what is still running of a command."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def text(data: bytes | None) -> str:
    """Return what a command said."""
    return (data or b"").decode("utf-8", "replace").replace("\r\n", "\n")
