"""The ways to an NPU: each a module with `profile(request) -> Profile`, all in one dict."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hexpath_deploy.backends.hub_settings import HubSettings
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.errors import OptionError, nearest

if TYPE_CHECKING:
    from hexpath_deploy.hexagon.cache import JobCache
    from hexpath_deploy.profile import Profile

# Imported on use: no backend's libraries are loaded for another, nor for --help.
BACKENDS = {
    "local": "hexpath_deploy.backends.local",
    "device": "hexpath_deploy.backends.device",
    "aihub": "hexpath_deploy.backends.aihub",
}
COMPILE_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to profile, and how.

    `compiled` is a folder that `compile` wrote for this model; without it the model is compiled first, for
    `target` with `io`, `optimization` and `fp16`. `work` keeps what an interrupted run should not do again,
    `raw` what a board or AI Hub sent, unread; `cache` what was ever compiled.
    """

    model: Path
    work: Path
    raw: Path
    target: str | None = None
    compiled: Path | None = None
    io: str | None = None
    optimization: int = 3
    fp16: bool = False
    limit_s: float = COMPILE_S
    board: BoardSettings | None = None
    hub: HubSettings | None = None
    cache: JobCache | None = None


class Backend(Protocol):
    """A way to an NPU."""

    def profile(self, request: Request) -> Profile:
        """Find out what one inference costs."""


def backend(name: str) -> Backend:
    """Return a backend.

    Raises:
        OptionError: no such backend; the message offers the nearest.
    """
    if name not in BACKENDS:
        raise OptionError(f"unknown backend '{name}'{nearest(name, BACKENDS)}")
    return cast(Backend, import_module(BACKENDS[name]))
