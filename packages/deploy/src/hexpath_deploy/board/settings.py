"""How to measure on a board; free of heavy imports, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hexpath_deploy.errors import OptionError, nearest

# The names that qnn-net-run's HTP configuration and onnxruntime-qnn share.
PERFORMANCE_MODES = (
    "burst",
    "sustained_high_performance",
    "high_performance",
    "balanced",
    "low_balanced",
    "default",
    "high_power_saver",
    "power_saver",
    "low_power_saver",
    "extreme_power_saver",
)
PROFILING = ("basic", "detailed")
RUNNERS = ("qnn-net-run", "onnxruntime-qnn")
LIMIT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class BoardSettings:
    """`device`: adb, adb:SERIAL or ssh://user@host[:port]; `runner` None: the first that the board has.

    `warm_up` runs come before the `iterations` that count; `duration_s` replaces the count of both together.
    `profiling` detailed brings the cycles of each operator, and makes the run a little slower.
    """

    device: str
    runner: str | None = None
    performance: str = "burst"
    iterations: int = 100
    warm_up: int = 10
    duration_s: float | None = None
    profiling: str = "basic"
    folder: str | None = None
    sdk: str | None = None
    python: str = "python3"
    identity: Path | None = None
    known_hosts: Path | None = None
    limit_s: float = LIMIT_S
    emulated: bool = False

    def check(self) -> None:
        """Find values that cannot be meant before the board is asked.

        Raises:
            OptionError: an unknown name, or a count below what can be measured.
        """
        for option, value, known in (
            ("runner", self.runner, RUNNERS),
            ("performance mode", self.performance, PERFORMANCE_MODES),
            ("profiling level", self.profiling, PROFILING),
        ):
            if value is not None and value not in known:
                raise OptionError(f"unknown {option} '{value}'{nearest(value, known)}")
        if self.iterations < 1 or self.warm_up < 0:
            raise OptionError(
                f"--iterations {self.iterations} with --warm-up {self.warm_up}: at least one run must count"
            )
        if self.duration_s is not None and not 0 < self.duration_s < self.limit_s:
            raise OptionError(
                f"--duration {self.duration_s:g} s must be above 0 and below --time-limit {self.limit_s:g} s"
            )
