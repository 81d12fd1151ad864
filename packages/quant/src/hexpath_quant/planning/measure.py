"""Pairs of regions, measured: what the network loses when two sensitive ones are put to 16 bit together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from hexpath_quant.planning.losses import sensitive_regions
from hexpath_quant.plans import BASE, MixedPlan
from hexpath_quant.progress import Ticker, say
from hexpath_quant.ptq import score, simulate
from hexpath_quant.task import Task

UP = "w8a16"


def measure_pairs(
    task: Task,
    *,
    analysis: Mapping[str, Any],
    top: int,
    overrides: Mapping[str, Sequence[str]] | None = None,
    up: str = UP,
) -> dict[str, Any]:
    """Return {"up", "pairs": [{"regions": {a: up, b: up}, "drop"}], "seconds"} for the ``top`` most sensitive
    regions.

    The analysis' own metric, method and calibration; the whole validation split.
    """
    regions = sensitive_regions(analysis, count=top)
    metric = analysis["metric"]
    base = float(analysis["float"]["metrics"][metric])
    couples = list(combinations(regions, 2))
    start = time.perf_counter()
    say(f"{len(couples)} pairs of {', '.join(regions)} at {up}, the rest at {BASE}")
    ticker, rows = Ticker(total=len(couples), label="pairs"), []
    for done, pair in enumerate(couples, start=1):
        plan = MixedPlan(name="pair", default=BASE, regions=dict.fromkeys(pair, up))
        sim = simulate(
            task,
            plan=plan,
            method=analysis["method"],
            calibration=analysis["calibration"],
            overrides=overrides,
        )
        rows.append({"regions": dict(plan.regions), "drop": base - score(task, sim=sim)[metric]})
        ticker.tick(done)
    return {"up": up, "pairs": rows, "seconds": round(time.perf_counter() - start, 1)}
