"""Latencies that Qualcomm publishes, as data: `published.csv`.

From the perf.yaml files of Qualcomm AI Hub Models; `release` is the version of that project, `published_as`
the network's name there, `device` the board as named there. `float` networks run as FP16 on the NPU.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from hexpath_deploy.errors import OptionError, nearest


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published latency: batch 1, the network alone, on a device."""

    network: str
    precision: str
    target: str
    device: str
    runtime: str
    ms: float
    published_as: str
    release: str

    def as_dict(self) -> dict[str, Any]:
        """Return what a comparison quotes of it."""
        wanted = ("target", "device", "runtime", "release", "ms")
        return {name: value for name, value in asdict(self).items() if name in wanted}


@cache
def published() -> tuple[Published, ...]:
    """Return all figures."""
    text = files("hexpath_deploy.fidelity").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(Published(ms=float(row.pop("ms")), **row) for row in csv.DictReader(text.splitlines()))


def figures(*, network: str, precision: str, targets: tuple[str, ...]) -> tuple[Published, ...]:
    """Return the figures of a network at a precision on the given targets.

    Raises:
        OptionError: nothing is published for that network, or not at that precision, or not there.
    """
    of_network = [row for row in published() if row.network == network]
    if not of_network:
        names = dict.fromkeys(row.network for row in published())
        raise OptionError(f"no published latency for network '{network}'{nearest(network, names)}")
    of_precision = [row for row in of_network if row.precision == precision]
    if not of_precision:
        names = dict.fromkeys(row.precision for row in of_network)
        raise OptionError(f"{network} is not published at '{precision}'{nearest(precision, names)}")
    found = tuple(row for row in of_precision if row.target in targets)
    if not found:
        there = ", ".join(dict.fromkeys(row.target for row in of_precision))
        raise OptionError(
            f"{network} at {precision} is published for {there}, not for "
            f"{', '.join(targets)}: change --targets"
        )
    return found
