"""Which board `--device` names, and the command lines that reach it. Everything here is pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hexpath_deploy.errors import OptionError

# What a folder on the board may look like: no shell on the way can take such a path for anything else.
SAFE_PATH = re.compile(r"/[A-Za-z0-9._/-]*")
FORMS = "adb, adb:SERIAL or ssh://user@host[:port]"
CONNECT_S = 10


@dataclass(frozen=True, kw_only=True)
class Adb:
    """A board over adb; without `serial` the only one that is connected."""

    serial: str | None = None

    @property
    def name(self) -> str:
        """The board in the user's words."""
        return f"adb:{self.serial}" if self.serial else "adb"


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """A board over ssh. `identity` is a private key, `known_hosts` the file that holds its host key."""

    host: str
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    known_hosts: Path | None = None

    @property
    def name(self) -> str:
        """The board in the user's words."""
        return (
            f"ssh://{self.user + '@' if self.user else ''}{self.host}{f':{self.port}' if self.port else ''}"
        )


def parse_address(text: str, *, identity: Path | None = None, known_hosts: Path | None = None) -> Adb | Ssh:
    """Read `--device`.

    Raises:
        OptionError: it has none of the forms.
    """
    if text == "adb" or re.fullmatch(r"adb:[A-Za-z0-9._:-]+", text):
        return Adb(serial=text.partition(":")[2] or None)
    if text.startswith("ssh://"):
        return parse_ssh(text, identity=identity, known_hosts=known_hosts)
    raise OptionError(f"--device '{text}' is not one of {FORMS}")


def parse_ssh(text: str, *, identity: Path | None, known_hosts: Path | None) -> Ssh:
    """Read an ssh address; no part of it may look like an option of ssh."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise OptionError(f"--device '{text}': the port is no number from 1 to 65535") from None
    if parts.password is not None:
        raise OptionError("--device: no password in an address; use a key (--identity, or ssh's own config)")
    plain = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]*")
    if not plain.fullmatch(parts.hostname or "") or (parts.username and not plain.fullmatch(parts.username)):
        raise OptionError(f"--device '{text}' is not of the form ssh://user@host[:port]")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise OptionError(f"--device '{text}': nothing may follow the port; give the folder with --board-dir")
    return Ssh(
        host=parts.hostname or "", user=parts.username, port=port, identity=identity, known_hosts=known_hosts
    )


def check_path(path: str, *, option: str) -> str:
    """Refuse a folder on the board that a shell could take for something else.

    Raises:
        OptionError: it is not absolute, or has other characters than letters, digits and ._-/.
    """
    if not SAFE_PATH.fullmatch(path) or "/../" in f"{path}/":
        raise OptionError(
            f"{option} '{path}' must be an absolute path on the board, of letters, digits and ._-/ only"
        )
    return path.rstrip("/") or "/"


def adb_command(address: Adb, *words: str) -> list[str]:
    """Return an adb command line."""
    return ["adb", *(["-s", address.serial] if address.serial else []), *words]


def ssh_command(address: Ssh, line: str) -> list[str]:
    """Return an ssh command line that runs `line` on the board and never asks anything.

    An unknown host key is taken once and kept; a changed one is refused.
    """
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "accept-new",
        "ConnectTimeout": str(CONNECT_S),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
    }
    if address.known_hosts is not None:
        options["UserKnownHostsFile"] = f'"{address.known_hosts}"'
    if address.identity is not None:
        options["IdentitiesOnly"] = "yes"
    words = ["ssh", "-T", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    words += ["-i", str(address.identity)] if address.identity is not None else []
    words += ["-p", str(address.port)] if address.port is not None else []
    return [*words, f"{address.user}@{address.host}" if address.user else address.host, line]


def remote_line(
    argv: Sequence[str], *, folder: str, env: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> str:
    """Return the line for the board's shell that runs `argv` in `folder`.

    The shell stays until the command ends (`exit $?`), so that a signal becomes 128 plus its number.
    """
    limit = ["timeout", "-k", "5", str(max(1, round(timeout_s)))] if timeout_s is not None else []
    words = [f"{key}={shlex.quote(value)}" for key, value in (env or {}).items()]
    return f"cd {shlex.quote(folder)} && {' '.join([*words, shlex.join([*limit, *argv])])}; exit $?"
