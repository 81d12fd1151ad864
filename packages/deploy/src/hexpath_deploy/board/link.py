"""The two ways to a board behind one Protocol: run a line in its shell, push, pull."""

from __future__ import annotations

import re
import shlex
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hexpath_deploy.board.address import Adb, Ssh, adb_command, ssh_command
from hexpath_deploy.board.process import Done, run
from hexpath_deploy.errors import (
    BoardRunError,
    BoardSpaceError,
    BoardUnauthorizedError,
    BoardUnreachableError,
    DeployError,
    nearest,
)

TRANSFER_S = 600.0
NO_SPACE = re.compile(r"No space left|not enough space|Disk quota exceeded", re.IGNORECASE)
# adb's own sentences; a tool on the board may say "error: ... not found" of something else.
ADB_LOST = re.compile(
    r"^(?:error|adb): (?:error: failed to [^:]+: )?"
    r"(?:device (?:'[^']*' not found|offline|unauthorized)|no devices|more than one device|closed|"
    r"protocol fault)",
    re.MULTILINE,
)
SSH_LOST = re.compile(
    r"^(ssh:|kex_|client_loop|Connection |Read from remote|Timeout, server|Host key verification|"
    r"No (ED25519|RSA|ECDSA) host key|.*Permission denied \(|.*REMOTE HOST IDENTIFICATION|Bad owner)",
    re.MULTILINE,
)


class Link(Protocol):
    """A connection to a board; `name` is the board in the user's words."""

    @property
    def name(self) -> str:
        """The board in the user's words."""

    def shell(self, line: str, *, limit_s: float) -> Done:
        """Run a line in the board's shell; raises only when the board itself does not answer."""

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the board."""

    def push_folder(self, source: Path, target: str) -> None:
        """Copy the files of a folder into the folder `target` on the board, which exists."""

    def pull_folder(self, source: str, target: Path) -> None:
        """Copy the files of a folder on the board into the folder `target`, which exists."""


@dataclass(frozen=True)
class AdbLink:
    """A board over adb."""

    address: Adb

    @property
    def name(self) -> str:
        """The board in the user's words."""
        return self.address.name

    def shell(self, line: str, *, limit_s: float) -> Done:
        """Run a line in the board's shell."""
        done = run(
            adb_command(self.address, "shell", line), limit_s=limit_s, what=f"{self.name}: the command"
        )
        if done.code and ADB_LOST.search(done.err):
            raise self.lost(done)
        return done

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the board."""
        self.transfer("push", str(source), target)

    def push_folder(self, source: Path, target: str) -> None:
        """Copy the files of a folder to the board."""
        self.transfer("push", f"{source}/.", f"{target}/")

    def pull_folder(self, source: str, target: Path) -> None:
        """Copy a folder of the board: adb puts it into the existing `target` under its own name."""
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            self.transfer("pull", source, scratch)
            for path in (Path(scratch) / Path(source).name).iterdir():
                path.replace(target / path.name)

    def transfer(self, *words: str) -> None:
        """Push or pull."""
        what = f"{self.name}: {words[0]} of {words[1]}"
        done = run(adb_command(self.address, *words), limit_s=TRANSFER_S, what=what)
        if done.code:
            raise self.lost(done) if ADB_LOST.search(done.err + done.out) else failed(what, done, self.name)

    def lost(self, done: Done) -> DeployError:
        """Return what adb's refusal means."""
        if "unauthorized" in done.said:
            return BoardUnauthorizedError(
                f"{self.name}: the board does not trust this machine yet: unlock it, confirm the adb dialog, "
                "then run the same again"
            )
        listed = run(["adb", "devices"], limit_s=30, what="adb devices").out
        serials = re.findall(r"^(\S+)\t(?:device|unauthorized|offline)", listed, re.MULTILINE)
        known = nearest(self.address.serial or "", serials) if serials else "; no board is connected"
        return BoardUnreachableError(
            f"{self.name} does not answer ({done.said}){known}. Name it with --device adb:SERIAL"
        )


@dataclass(frozen=True)
class SshLink:
    """A board over ssh; files go through its shell, so that it needs no file server."""

    address: Ssh

    @property
    def name(self) -> str:
        """The board in the user's words."""
        return self.address.name

    def shell(self, line: str, *, limit_s: float) -> Done:
        """Run a line in the board's shell."""
        return self.run(line, limit_s=limit_s, what="the command")

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the board."""
        what = f"push of {source}"
        done = self.run(f"cat > {shlex.quote(target)}", limit_s=TRANSFER_S, what=what, source=source)
        if done.code:
            raise failed(f"{self.name}: {what}", done, self.name)

    def push_folder(self, source: Path, target: str) -> None:
        """Copy the files of a folder to the board."""
        what = f"push to {target}"
        with tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch) / "pushed.tar"
            with tarfile.open(archive, "w") as tar:
                tar.add(source, arcname=".")
            line = f"tar -C {shlex.quote(target)} -xf -"
            done = self.run(line, limit_s=TRANSFER_S, what=what, source=archive)
        if done.code:
            raise failed(f"{self.name}: {what}", done, self.name)

    def pull_folder(self, source: str, target: Path) -> None:
        """Copy the files of a folder of the board."""
        what = f"pull of {source}"
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            archive = Path(scratch) / "pulled.tar"
            line = f"tar -C {shlex.quote(source)} -cf - ."
            done = self.run(line, limit_s=TRANSFER_S, what=what, into=archive)
            if done.code:
                raise failed(f"{self.name}: {what}", done, self.name)
            unpack(archive, target=target, what=f"{self.name}: {what}")

    def run(
        self, line: str, *, limit_s: float, what: str, source: Path | None = None, into: Path | None = None
    ) -> Done:
        """Run ssh."""
        argv = ssh_command(self.address, line)
        done = run(argv, limit_s=limit_s, what=f"{self.name}: {what}", source=source, into=into)
        if done.code == 255 and SSH_LOST.search(done.err):
            raise self.lost(done)
        return done

    def lost(self, done: Done) -> DeployError:
        """Return what ssh's refusal means."""
        if "REMOTE HOST IDENTIFICATION" in done.err or "Host key verification" in done.err:
            return BoardUnauthorizedError(
                f"{self.name} shows another host key than before: if the board was set up anew, remove the "
                f"old one with ssh-keygen -R '{self.host_entry()}'{self.file_word()}, else somebody is in "
                "between"
            )
        if "Permission denied" in done.err:
            return BoardUnauthorizedError(
                f"{self.name} accepts no key of yours ({done.said[-120:]}): install one with ssh-copy-id, or "
                "name it with --identity; passwords are never asked for"
            )
        return BoardUnreachableError(
            f"{self.name} does not answer, or the connection was lost ({done.said}): is it on, and is the "
            "address right? Then run the same again"
        )

    def host_entry(self) -> str:
        """Return the host as known_hosts has it."""
        port = self.address.port
        return self.address.host if port in (None, 22) else f"[{self.address.host}]:{port}"

    def file_word(self) -> str:
        """Return the option that names a known_hosts file of one's own."""
        return f" -f '{self.address.known_hosts}'" if self.address.known_hosts else ""


def connect(address: Adb | Ssh) -> Link:
    """Return the way to a board; nothing is sent yet."""
    return AdbLink(address) if isinstance(address, Adb) else SshLink(address)


def failed(what: str, done: Done, name: str) -> DeployError:
    """Return what a failed transfer means."""
    if NO_SPACE.search(done.err + done.out):
        return BoardSpaceError(f"no space left on {name} ({what}): free some, or choose another --board-dir")
    return BoardRunError(f"{what} failed with code {done.code}: {done.said}")


def unpack(archive: Path, *, target: Path, what: str) -> None:
    """Unpack what a board sent; a name that leads elsewhere is refused."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise BoardRunError(
            f"{what}: the board sent no whole archive ({error}): run the same again"
        ) from error
