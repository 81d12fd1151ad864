"""Reading the compiler's latency estimate out of its profile CSV."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

from hexpath_deploy.errors import EstimateError

BOUND = re.compile(r"^(?P<name>.*?)\s*\((?P<bound>lower|upper) estimate\)$")
MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Qualcomm's estimate of one inference: never a measurement.

    `ddr_bytes` maps the kind of traffic (`Input Fill`, `Intermediate Spill`, ...) to bytes; `missing_ops`
    counts operators without a known cost: above 0 the figure is too low. `rows` holds every row by name.
    """

    value_ms: float
    low_ms: float
    high_ms: float
    cycles: int
    cycles_low: int
    cycles_high: int
    missing_ops: int
    ddr_bytes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def ddr_mb(self) -> float:
        """All DDR traffic of one inference in MB (1e6 bytes)."""
        return sum(self.ddr_bytes.values()) / MB

    @property
    def spill_mb(self) -> float:
        """What did not fit into VTCM and was written out in between, in MB."""
        return self.ddr_bytes.get("Intermediate Spill", 0) / MB


def read_estimate(path: Path) -> Estimate:
    """Read a profile CSV that holds one compilation. Rows are found by name, never by place.

    Raises:
        EstimateError: the compiler wrote no estimate, as for most SoC models.
    """
    rows = read_rows(path)
    time_us = triple(rows, "Accelerator exec time us")
    cycles = triple(rows, "Accelerator exec cycles")
    if time_us is None or cycles is None:
        raise EstimateError(
            "Qualcomm's compiler wrote no estimate: it knows only some SoC models (hexpath-deploy targets)"
        )
    ddr = {name: value for name, value in rows.items() if name.endswith((" Fill", " Spill"))}
    missing = next((value for name, value in rows.items() if name.startswith("Missing Ops")), 0)
    value_ms, low_ms, high_ms = (part / 1000 for part in time_us)
    return Estimate(
        value_ms=value_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        cycles=cycles[0],
        cycles_low=cycles[1],
        cycles_high=cycles[2],
        missing_ops=missing,
        ddr_bytes=ddr,
        rows=rows,
    )


def read_rows(path: Path) -> dict[str, int]:
    """Return value by name of the rows below `Performance Estimates`, bounds as `name/lower`,
    `name/upper`.
    """
    found: dict[str, int] = {}
    inside = False
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            name = (row.get("Event Identifier") or "").strip()
            inside = name == "Performance Estimates" or (inside and row.get("Event Level") == "SUB-EVENT")
            if inside and name != "Performance Estimates":
                found.setdefault(plain(name), int(row["Time"]))
    return found


def plain(name: str) -> str:
    """Turn `Simulated (X (lower estimate))` into `X/lower` and `Simulated (X)` into `X`."""
    inner = name.removeprefix("Simulated (").removesuffix(")") if name.startswith("Simulated (") else name
    match = BOUND.match(inner)
    return f"{match['name']}/{match['bound']}" if match else inner


def triple(rows: dict[str, int], name: str) -> tuple[int, int, int] | None:
    """Return value, lower and upper estimate of a row, or None."""
    if name not in rows:
        return None
    return rows[name], rows.get(f"{name}/lower", rows[name]), rows.get(f"{name}/upper", rows[name])
