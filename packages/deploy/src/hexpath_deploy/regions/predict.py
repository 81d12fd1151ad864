"""What a plan will take, from the cost table alone.

    predicted(plan) = base + scale.regions * sum over regions r of regions[r][plan[r]]
                           + scale.terms * sum over borders.terms whose regions have its precisions

Flipping a region alone pays for the converts at all of its borders. Where its neighbour flips too, these
converts are not there, or are others: the terms hold that difference, measured with both flipped. Pairs
with activations at 8 bits on one side have no term, it is 0. The two scales, near 1, are fitted to random
plans: with many regions flipped, converts and traffic overlap, and the plain sum is some percent too high.
Sizes (MB) need no scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hexpath_deploy.errors import OptionError
from hexpath_deploy.regions.precision import BASE, check_plan

Table: TypeAlias = Mapping[str, Any]
Plan: TypeAlias = Mapping[str, str]
Floats: TypeAlias = npt.NDArray[np.float64]
UNSCALED = {"regions": 1.0, "terms": 1.0}
WITHOUT_BORDERS = {"regions": 1.0, "terms": 0.0}


def predict(table: Table, plan_regions: Plan) -> float:
    """Return the predicted estimate of a plan in ms; regions that it leaves out are at w8a8.

    Raises:
        OptionError: a region or precision is unknown, or the table has no cost for it.
    """
    regions, terms = parts(table, plan_regions, unit="ms")
    scale = table["borders"]["scale"]
    return float(table["base_ms"] + scale["regions"] * regions + scale["terms"] * terms)


def predict_mb(table: Table, plan_regions: Plan) -> float:
    """Return the predicted size of a plan's context binary in MB (1e6 bytes)."""
    return float(table["base_mb"] + sum(parts(table, plan_regions, unit="mb")))


def parts(table: Table, plan_regions: Plan, *, unit: str) -> tuple[float, float]:
    """Return what the regions of a plan add, each for itself, and what its borders add to that."""
    plan = check_plan(plan_regions, regions=list(table["regions"]))
    check_measured(table, plan)
    return (
        sum(table["regions"][region][precision][unit] for region, precision in plan.items()),
        sum(term[unit] for term in table["borders"]["terms"] if holds(term, plan)),
    )


def holds(term: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether the two regions of a border term have its precisions in a plan."""
    return [plan.get(region, BASE) for region in term["regions"]] == list(term["precisions"])


def check_measured(table: Table, plan: Plan) -> None:
    """Refuse what the table has no figure for."""
    for region, precision in plan.items():
        if precision not in table["regions"][region]:
            why = table["refused"].get(region, {}).get(precision)
            known = ", ".join(table["regions"][region]) or "none"
            raise OptionError(
                f"region '{region}' has no cost at {precision}: "
                + (why or f"the table holds {known}; measure it with --precisions {precision}")
            )


def fitted(table: Table, plans: Sequence[Plan], measured: Sequence[float]) -> dict[str, float]:
    """Return the two scales with the least squared relative error over plans that were compiled whole."""
    rows, target = equations(table, plans, measured)
    return as_scale(solve(rows, target))


def compare(table: Table, plans: Sequence[Plan], measured: Sequence[float]) -> dict[str, Any]:
    """Hold predictions against whole compiles; each plan is predicted by scales fitted to the others."""
    rows, target = equations(table, plans, measured)
    scales = [solve(np.delete(rows, i, 0), np.delete(target, i)) for i in range(len(plans))]
    return {
        "checked_plans": len(plans),
        **errors(table, plans, measured, [as_scale(scale) for scale in scales]),
        "unscaled": errors(table, plans, measured, [UNSCALED] * len(plans)),
        "without_borders": errors(table, plans, measured, [WITHOUT_BORDERS] * len(plans)),
    }


def equations(table: Table, plans: Sequence[Plan], measured: Sequence[float]) -> tuple[Floats, Floats]:
    """Return rows (regions, terms) and right sides (measured - base), relative to the measured time."""
    weights = 1 / np.asarray(measured, np.float64)
    rows = np.asarray([parts(table, plan, unit="ms") for plan in plans], np.float64)
    return rows * weights[:, None], (np.asarray(measured) - table["base_ms"]) * weights


def solve(rows: Floats, target: Floats) -> Floats:
    """Return the two scales, drawn weakly towards 1, which matters only where plans are few."""
    pull = 0.01 * np.eye(2)
    system, right = np.vstack([rows, pull]), np.concatenate([target, pull.sum(0)])
    solution: Floats = np.linalg.lstsq(system, right, rcond=None)[0]
    return solution


def as_scale(values: Floats) -> dict[str, float]:
    """Return the scales by name."""
    return {"regions": round(float(values[0]), 4), "terms": round(float(values[1]), 4)}


def errors(
    table: Table,
    plans: Sequence[Plan],
    measured: Sequence[float],
    scales: Sequence[Mapping[str, float]],
) -> dict[str, float]:
    """Return mean and worst of |predicted / measured - 1|, worst in ms, bias, Spearman's correlation."""
    found = np.asarray(
        [
            predict({**table, "borders": {**table["borders"], "scale": scale}}, plan)
            for plan, scale in zip(plans, scales, strict=True)
        ]
    )
    true = np.asarray(measured, np.float64)
    error = found / true - 1
    return {
        "mean_error": round(float(np.abs(error).mean()), 5),
        "worst_error": round(float(np.abs(error).max()), 5),
        "worst_ms": round(float(np.abs(found - true).max()), 4),
        "bias": round(float(error.mean()), 5),
        "within_5_percent": round(float((np.abs(error) <= 0.05).mean()), 4),
        "rank_correlation": round(spearman(found, true), 4),
    }


def spearman(a: Floats, b: Floats) -> float:
    """Return Spearman's rank correlation; 0 where one side does not vary."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else 0.0


def ranks(values: Floats) -> Floats:
    """Return ranks from 0, their mean where values are equal."""
    return np.asarray([(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values])
