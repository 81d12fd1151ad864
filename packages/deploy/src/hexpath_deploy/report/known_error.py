"""How far estimates have been from published device figures.

The figures stand in `fidelity/measured.json`, which `hexpath-deploy fidelity` wrote; the ranges that the
report quotes are computed from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hexpath_deploy.fidelity.measured import complete, measured
from hexpath_deploy.report.labels import MINUS


@dataclass(frozen=True, kw_only=True)
class KnownError:
    """Range of (estimate / published - 1) over the known cases of one precision.

    low, high: fractions; positive where the estimate was slower than the board. cases: compared figures.
    """

    low: float
    high: float
    cases: int

    @property
    def text(self) -> str:
        """`-21 to +14%`, with a real minus sign."""
        return f"{_signed(self.low)} to {_signed(self.high)}%"


def table() -> Mapping[str, Any]:
    """The known cases: source, caveat, tools, rows of an estimate and the published figures beside it.

    Rows without an estimate, or with one that leaves operators out, say nothing of the error: left out.
    """
    found = measured()
    return {**found, "rows": [row for row in found["rows"] if complete(row)]}


def deviations(row: Mapping[str, Any]) -> list[float]:
    """Estimate over published, minus one, for each published figure of a row of the table."""
    return [published["error"] for published in row["published"]]


def precision(plan: str) -> str | None:
    """`8`, `16` or `float`: what a plan's activations are; None for plans that mix them."""
    if match := re.fullmatch(r"w\d+a(\d+)(-.*)?", plan):
        return match[1]
    return "float" if re.fullmatch(r"fp(16|32)(-.*)?", plan) else None


def known_error(plan: str, *, target: str | None = None) -> KnownError | None:
    """What is known of the estimate's error for the precision of `plan`; None when nothing is.

    Figures of the target itself are taken where there are some, else those of all devices.
    """
    wanted = precision(plan)
    figures = [
        figure
        for row in table()["rows"]
        if wanted and precision(row["precision"]) == wanted
        for figure in row["published"]
    ]
    own = [figure for figure in figures if figure["target"] == target]
    found = [figure["error"] for figure in own or figures]
    return KnownError(low=min(found), high=max(found), cases=len(found)) if found else None


def _signed(value: float) -> str:
    return f"{100 * value:+.0f}".replace("-", MINUS)
