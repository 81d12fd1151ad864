"""A board that is ready: reached, checked, with a runner chosen. What profile and evaluate share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from hexpath_deploy.board.address import check_path, parse_address
from hexpath_deploy.board.link import connect
from hexpath_deploy.board.measurement import Measurement
from hexpath_deploy.board.place import DEFAULT, DEFAULT_ANDROID, Place
from hexpath_deploy.board.probe import Facts, need_space, probe
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.errors import BoardToolMissingError
from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.reference.hexpath_reference import Array

# In the order in which they are tried when none is named; imported on use.
RUNNERS = {"qnn-net-run": "hexpath_deploy.board.netrun", "onnxruntime-qnn": "hexpath_deploy.board.ortqnn"}


class Runner(Protocol):
    """A tool on the board that runs a compiled model."""

    def available(self, facts: Facts) -> bool:
        """Whether the board has it."""

    def measure(
        self, place: Place, artifact: Artifact, *, settings: BoardSettings, hexagon: str | None, out: Path
    ) -> Measurement:
        """Time the artifact; what came back stays in `out`."""

    def infer(
        self,
        place: Place,
        artifact: Artifact,
        *,
        settings: BoardSettings,
        hexagon: str | None,
        images: Mapping[str, Array],
        out: Path,
    ) -> None:
        """Run images by key, as the graph takes them, and write `out/<key>.npz`."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A board, our folder on it, and the runner by its name."""

    place: Place
    settings: BoardSettings
    runner: str

    @property
    def facts(self) -> Facts:
        """What the board said of itself."""
        return self.place.facts

    def run(self) -> Runner:
        """Return the runner."""
        return cast(Runner, import_module(RUNNERS[self.runner]))


def open_board(settings: BoardSettings, *, wanted_bytes: int) -> Session:
    """Reach the board and check that all is there before anything is pushed.

    Raises:
        OptionError: bad settings. BoardUnreachableError, BoardUnauthorizedError: no answer, or not to us.
        BoardToolMissingError: no runner, or no NPU. BoardSpaceError: not enough space.
    """
    settings.check()
    address = parse_address(settings.device, identity=settings.identity, known_hosts=settings.known_hosts)
    link = connect(address)
    folder = check_path(settings.folder or default_folder(settings), option="--board-dir")
    sdk = check_path(settings.sdk, option="--board-sdk") if settings.sdk else None
    facts = probe(link, folder=folder, sdk=sdk, python=settings.python)
    refuse_pc(link.name, facts, settings=settings)
    need_space(link, facts, wanted_bytes=wanted_bytes, folder=folder)
    place = Place(link=link, facts=facts, folder=folder)
    return Session(place=place, settings=settings, runner=choose(facts, settings=settings, name=link.name))


def default_folder(settings: BoardSettings) -> str:
    """Return where we may write on the board."""
    return DEFAULT if settings.device.startswith("ssh:") else DEFAULT_ANDROID


def refuse_pc(name: str, facts: Facts, *, settings: BoardSettings) -> None:
    """Refuse a board without NPU: what the emulator takes there is no device's time."""
    if facts.emulated and not settings.emulated:
        raise BoardToolMissingError(
            f"{name} is an {facts.machine} machine without Hexagon NPU: times taken there would be the "
            "emulator's; profile --backend local estimates instead"
        )


def choose(facts: Facts, *, settings: BoardSettings, name: str) -> str:
    """Return the runner: the named one, else the first that the board has.

    Raises:
        BoardToolMissingError: it has none, or not the named one.
    """
    wanted = [settings.runner] if settings.runner else list(RUNNERS)
    for runner in wanted:
        if cast(Runner, import_module(RUNNERS[runner])).available(facts):
            return runner
    raise BoardToolMissingError(
        f"{name} has no {' and no '.join(wanted)}: install a QAIRT SDK on it and name it with --board-sdk, "
        "or python3 with numpy and onnxruntime-qnn and name it with --board-python"
    )
