"""What is on the board: reachable, which chip, which tools, how much space. One line asks all."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hexpath_deploy.board.link import Link
from hexpath_deploy.errors import BoardRunError, BoardSpaceError, BoardToolMissingError, BoardUnreachableError

NET_RUN, VIEWER = "qnn-net-run", "qnn-profile-viewer"
# Folders of a QAIRT SDK, by what `uname` and the board's system say; the first that is there is taken.
SDK_TARGETS = (
    ("android", ("aarch64-android",)),
    ("x86_64", ("x86_64-linux-clang",)),
    ("*", ("aarch64-oe-linux-gcc11.2", "aarch64-ubuntu-gcc9.4", "aarch64-oe-linux-gcc9.3")),
)
SPARE_MB = 64
LIMIT_S = 60.0
FACTS = ("machine", "kernel", "system", "model", "soc", "soc_id", "cpus")
# Boards of this kind have no Hexagon NPU: what runs there is Qualcomm's emulator.
EMULATED = ("x86_64", "amd64")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the board said of itself. Paths are on the board; what it does not have is absent.

    `machine` is its kind as `uname -m` says, `free_mb` the space below the folder that we use.
    """

    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def machine(self) -> str:
        """The kind of machine, such as aarch64."""
        return self.said.get("machine", "")

    @property
    def emulated(self) -> bool:
        """Whether the board is an ordinary PC, on which Qualcomm's emulator plays the NPU."""
        return self.machine.lower() in EMULATED

    @property
    def free_mb(self) -> float:
        """Free space in MB (1e6 bytes)."""
        return int(self.said["free_kib"]) * 1024 / 1e6

    def tool(self, name: str) -> str | None:
        """Return the path of a tool on the board, or None."""
        return self.said.get(name) or None

    def for_record(self) -> dict[str, Any]:
        """Return what belongs into a record."""
        return {key: self.said[key] for key in FACTS if self.said.get(key)} | {"free_mb": round(self.free_mb)}


def probe_script(*, folder: str, sdk: str | None, python: str) -> str:
    """Return the line for the board's shell that answers with `key=value` lines."""
    where = shlex.quote(folder)
    parts = [
        'p() { echo "$1=$2"; }',
        'p machine "$(uname -m)"',
        'p kernel "$(uname -sr)"',
        'p system "$(if command -v getprop >/dev/null 2>&1; then '
        'echo "Android $(getprop ro.build.version.release)"; '
        'else . /etc/os-release 2>/dev/null && echo "$PRETTY_NAME"; fi)"',
        'p model "$(getprop ro.product.model 2>/dev/null '
        '|| tr -d "\\0" 2>/dev/null </proc/device-tree/model)"',
        'p soc "$(cat /sys/devices/soc0/machine 2>/dev/null)"',
        'p soc_id "$(cat /sys/devices/soc0/soc_id 2>/dev/null)"',
        'p cpus "$(grep -c ^processor /proc/cpuinfo 2>/dev/null)"',
        *(f'p {tool} "$(command -v {tool} 2>/dev/null)"' for tool in ("timeout", "sha256sum")),
        f'p python "$(command -v {shlex.quote(python)} 2>/dev/null)"',
        *tool_lines(sdk),
        f"mkdir -p {where} && p made yes",
        f'set -- $(df -Pk {where} | tail -n 1) && p free_kib "$4"',
    ]
    return "; ".join(parts)


def tool_lines(sdk: str | None) -> list[str]:
    """Return the lines that look for Qualcomm's tools: in the SDK, flat or as it is delivered, or on PATH."""
    if sdk is None:
        return [f'p {tool} "$(command -v {tool} 2>/dev/null)"' for tool in (NET_RUN, VIEWER)]
    folders = {kind: " ".join(f"{sdk}/bin/{target}" for target in targets) for kind, targets in SDK_TARGETS}
    kinds = " ".join(f"{kind}) d='{folders[kind]}';;" for kind in folders)
    return [
        "k=$(uname -m); if command -v getprop >/dev/null 2>&1; then k=android; fi",
        f'case "$k" in {kinds} esac',
        *(
            f"for f in {sdk} {sdk}/bin $d; do "
            f'if [ -x "$f/{tool}" ]; then p {tool} "$f/{tool}"; break; fi; done'
            for tool in (NET_RUN, VIEWER)
        ),
    ]


def probe(link: Link, *, folder: str, sdk: str | None, python: str) -> Facts:
    """Ask the board.

    Raises:
        BoardUnreachableError, BoardUnauthorizedError: it does not answer, or lets nobody in.
        BoardSpaceError: the folder cannot be made for lack of space. BoardRunError: for another reason.
    """
    done = link.shell(probe_script(folder=folder, sdk=sdk, python=python), limit_s=LIMIT_S)
    said = dict(line.partition("=")[::2] for line in done.out.splitlines() if "=" in line)
    if "machine" not in said:
        raise BoardUnreachableError(
            f"{link.name} answers, but not as a shell does (code {done.code}: {done.said})"
        )
    if "made" not in said or not said.get("free_kib", "").isdigit():
        if "No space left" in done.err:
            raise BoardSpaceError(f"no space left on {link.name}: free some, or choose another --board-dir")
        raise BoardRunError(
            f"{link.name}: the folder {folder} cannot be made ({done.said}): choose another --board-dir"
        )
    return Facts(said=said)


def need_space(link: Link, facts: Facts, *, wanted_bytes: int, folder: str) -> None:
    """Refuse to start what would fill the board.

    Raises:
        BoardSpaceError: less than `wanted_bytes` and a reserve are free.
    """
    wanted_mb = wanted_bytes / 1e6 + SPARE_MB
    if facts.free_mb < wanted_mb:
        raise BoardSpaceError(
            f"{link.name} has {facts.free_mb:.0f} MB free below {folder}, {wanted_mb:.0f} MB are needed: "
            "free some, or choose another --board-dir"
        )


def need_tool(link: Link, facts: Facts, tool: str, *, advice: str) -> str:
    """Return the path of a tool on the board.

    Raises:
        BoardToolMissingError: it is not there.
    """
    path = facts.tool(tool)
    if path is None:
        raise BoardToolMissingError(f"{link.name} has no {tool}: {advice}")
    return path
