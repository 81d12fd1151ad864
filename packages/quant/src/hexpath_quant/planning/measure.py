"""Plans measured: what the simulated network loses with each, as rows for the fit of ``losses``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from hexpath_quant.planning.figures import Figures
from hexpath_quant.planning.losses import sensitive_regions, whole_loss
from hexpath_quant.plans import BASE, MixedPlan
from hexpath_quant.progress import Ticker, say
from hexpath_quant.ptq import score, simulate
from hexpath_quant.task import Task

UP = "w8a16"


def pairs_of(analysis: Mapping[str, Any], *, top: int) -> list[dict[str, str]]:
    """Return the pairs of the ``top`` most sensitive regions, both at 16 bit."""
    return [dict.fromkeys(pair, UP) for pair in combinations(sensitive_regions(analysis, count=top), 2)]


def uniform(analysis: Mapping[str, Any], *, figures: Figures) -> list[dict[str, Any]]:
    """Return what the analysis measured of whole networks at one precision, as rows of ``measure_plans``."""
    common = set.intersection(*(set(figures.precisions(region)) for region in figures.regions))
    return [
        {
            "regions": {} if p == BASE else dict.fromkeys(figures.regions, p),
            "drop": whole_loss(analysis, precision=p),
        }
        for p in analysis["quantized"]
        if p in common
    ]


def measure_plans(
    task: Task, *, analysis: Mapping[str, Any], plans: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Return [{"regions": {region: precision}, "drop"}], regions that a plan does not name being at BASE.

    The analysis' own metric, method, calibration and regions; the whole validation split. ``drop`` is a share
    of 1.
    """
    metric = analysis["metric"]
    base = float(analysis["float"]["metrics"][metric])
    say(f"measuring {len(plans)} plans")
    ticker, rows = Ticker(total=len(plans), label="plans measured"), []
    for done, regions in enumerate(plans, start=1):
        sim = simulate(
            task,
            plan=MixedPlan(name="measured", default=BASE, regions=dict(regions)),
            method=analysis["method"],
            calibration=analysis["calibration"],
            overrides=analysis["regions"],
        )
        rows.append({"regions": dict(regions), "drop": base - score(task, sim=sim)[metric]})
        ticker.tick(done)
    return rows
