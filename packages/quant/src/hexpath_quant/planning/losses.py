"""What a plan loses: a sum over regions, and over pairs of sensitive ones, fitted to all that was measured.

    loss(plan) = sum over regions r of d[r][plan[r]]
               + sum over pairs (a, b) whose activations have 8 bits of e[a, b][plan[a], plan[b]]

Quantizing a region alone measures its ``d``. Two quantized regions together mostly lose less than the sum:
``e`` is what is left over. Leaving one region out of the quantized network, and the whole network, measure
sums of them; so do whole plans that were measured (``measure``). All are rows of one least-squares fit
with ``d`` at least 0 (a region that seems to gain from noise must not be bought) and ``e`` drawn towards 0.

What the fit leaves over is the noise of one measured loss: rounding that does no harm still moves detections
across thresholds, and with them the metric. Its standard deviation, with the degrees of freedom that the fit
uses taken off, is ``noise``; plans whose losses differ by less are not told apart (``solve``), and the error
of a predicted loss is noise * sqrt(1 + x (A'A)^-1 x'), x the plan's row and A the fit's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from hexpath_quant.plans import BASE, FP16, parse_precision

SENSITIVE = 6  # regions whose pairs have terms
WHOLE_WEIGHT, PULL = 3.0, 0.3
Key = tuple[str, ...]
Rows = list[tuple[dict[Key, float], float, float, str]]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Losses as shares of 1.

    Attributes:
        drop: region -> precision -> loss.
        pairs: (region, region, precision, precision) -> loss.
        fit: rows; root mean square and largest difference between the model and what was measured; noise.
        keys: of the fit's unknowns.
        spread: float64 (keys, keys), the inverse of A'A.
    """

    drop: Mapping[str, Mapping[str, float]]
    pairs: Mapping[tuple[str, str, str, str], float]
    fit: Mapping[str, float]
    keys: Sequence[Key]
    spread: NDArray[np.float64]

    def error(self, plan: Mapping[str, str]) -> float:
        """Return the standard error of a plan's predicted loss against one measurement of it."""
        row = np.zeros(len(self.keys))
        for index, (kind, *names) in enumerate(self.keys):
            if kind == "d":
                row[index] = plan[names[0]] == names[1]
            else:  # of two unlike 8-bit precisions the mean counts, see _all_pairs
                both = [plan[region] for region in names[:2]]
                row[index] = both.count(names[2]) / 2 if all(map(_is_low, both)) else 0.0
        return float(self.fit["noise"] * np.sqrt(1 + row @ self.spread @ row))


def fit_losses(
    analysis: Mapping[str, Any], *, precisions: Sequence[str], measured: Sequence[Mapping[str, Any]] = ()
) -> Fitted:
    """Fit the model to a sensitivity analysis and to measured plans (rows of ``measure_plans``)."""
    regions = list(analysis["regions"])
    sensitive = sensitive_regions(analysis, count=SENSITIVE)
    couples = list(combinations([r for r in regions if r in sensitive], 2))
    integer = [p for p in precisions if p != FP16]
    rows: Rows = []
    for precision in integer:
        rows += _rows(analysis, precision=precision, couples=couples if _is_low(precision) else [])
    for row in measured:
        coefficients = _plan_row(
            {r: row["regions"].get(r, BASE) for r in regions}, couples=couples, skip=precisions
        )
        if coefficients:
            rows.append((coefficients, float(row["drop"]), 1.0, BASE))
    keys = list(dict.fromkeys(key for coefficients, *_ in rows for key in coefficients))
    system, right = _system(rows, keys=keys)
    values = _solve(system, right, keys=keys)
    spread = np.linalg.pinv(system.T @ system).astype(np.float64)
    noise = _noise(system[: len(rows)], right[: len(rows)], values=values, spread=spread)
    return Fitted(
        drop={r: {p: values.get(("d", r, p), 0.0) for p in precisions} for r in regions},
        pairs=_all_pairs(values, couples=couples, low=integer),
        fit=_fit(rows, values) | {"noise": round(noise, 6)},
        keys=keys,
        spread=spread,
    )


def sensitive_regions(analysis: Mapping[str, Any], *, count: int) -> list[str]:
    """Return the regions that lose most at BASE, alone or by what leaving them out wins back, worst first."""
    rows = _entries(analysis, precision=BASE)
    return sorted(rows, key=lambda r: -max(rows[r]["drop_alone"], rows[r].get("gain_without", 0.0)))[:count]


def whole_loss(analysis: Mapping[str, Any], *, precision: str) -> float:
    """Return what the network loses when all of it has one precision."""
    metric = analysis["metric"]
    return float(analysis["float"]["metrics"][metric] - analysis["quantized"][precision]["metrics"][metric])


def _is_low(precision: str) -> bool:
    return precision != FP16 and parse_precision(precision).activation_bits == 8


def _entries(analysis: Mapping[str, Any], *, precision: str) -> dict[str, Any]:
    return {
        e["name"]: e
        for e in analysis["entries"]
        if (e["kind"], e["plan"], e["part"]) == ("region", precision, "both") and "drop_alone" in e
    }


def _rows(analysis: Mapping[str, Any], *, precision: str, couples: Sequence[tuple[str, str]]) -> Rows:
    """Return the rows of one precision: each region alone, all but it, and the whole network."""
    entries, whole = _entries(analysis, precision=precision), whole_loss(analysis, precision=precision)
    rows: Rows = []
    for region, entry in entries.items():
        rows.append(({("d", region, precision): 1.0}, float(entry["drop_alone"]), 1.0, precision))
        if "gain_without" in entry:
            rest = _uniform([r for r in entries if r != region], precision=precision, couples=couples)
            rows.append((rest, whole - float(entry["gain_without"]), 1.0, precision))
    rows.append(
        (_uniform(list(entries), precision=precision, couples=couples), whole, WHOLE_WEIGHT, precision)
    )
    return rows


def _uniform(
    regions: Sequence[str], *, precision: str, couples: Sequence[tuple[str, str]]
) -> dict[Key, float]:
    found: dict[Key, float] = {("d", region, precision): 1.0 for region in regions}
    return found | {("e", a, b, precision): 1.0 for a, b in couples if a in regions and b in regions}


def _plan_row(
    plan: Mapping[str, str], *, couples: Sequence[tuple[str, str]], skip: Sequence[str]
) -> dict[Key, float]:
    """Return the row of a whole plan; none when it has a precision that is not in question."""
    if any(p not in skip for p in plan.values()):
        return {}
    found: dict[Key, float] = {("d", r, p): 1.0 for r, p in plan.items() if p != FP16}
    return found | {("e", a, b, BASE): 1.0 for a, b in couples if plan[a] == plan[b] == BASE}


def _system(rows: Rows, *, keys: Sequence[Key]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted rows, those that draw pairs towards 0 last, and what each shall give."""
    at = {key: index for index, key in enumerate(keys)}
    pulled = [key for key in keys if key[0] == "e"]
    system, right = np.zeros((len(rows) + len(pulled), len(keys))), np.zeros(len(rows) + len(pulled))
    for index, (coefficients, value, weight, _) in enumerate(rows):
        for key, coefficient in coefficients.items():
            system[index, at[key]] = weight * coefficient
        right[index] = weight * value
    for index, key in enumerate(pulled, start=len(rows)):
        system[index, at[key]] = PULL
    return system, right


def _solve(
    system: NDArray[np.float64], right: NDArray[np.float64], *, keys: Sequence[Key]
) -> dict[Key, float]:
    least = np.array([0.0 if key[0] == "d" else -np.inf for key in keys])
    solution = lsq_linear(system, right, bounds=(least, np.inf))
    return {key: float(value) for key, value in zip(keys, solution.x, strict=True)}


def _noise(
    system: NDArray[np.float64],
    right: NDArray[np.float64],
    *,
    values: Mapping[Key, float],
    spread: NDArray[np.float64],
) -> float:
    """Return the standard deviation of a measured loss: residuals over the degrees of freedom left."""
    left = len(system) - float(np.trace(system @ spread @ system.T))
    residuals = system @ np.array(list(values.values())) - right
    return float(np.sqrt(np.sum(residuals**2) / max(left, 1.0)))


def _all_pairs(
    values: Mapping[Key, float], *, couples: Sequence[tuple[str, str]], low: Sequence[str]
) -> dict[tuple[str, str, str, str], float]:
    """Return the pairs' losses; of two unlike 8-bit precisions, the mean of both."""
    found = {}
    for a, b in couples:
        for p, q in _low_pairs(low):
            found[a, b, p, q] = (values.get(("e", a, b, p), 0.0) + values.get(("e", a, b, q), 0.0)) / 2
    return {key: value for key, value in found.items() if abs(value) > 1e-6}


def _low_pairs(precisions: Sequence[str]) -> Iterator[tuple[str, str]]:
    low = [p for p in precisions if _is_low(p)]
    return ((p, q) for p in low for q in low)


def _fit(rows: Rows, values: Mapping[Key, float]) -> dict[str, float]:
    differences = np.array([sum(c * values[k] for k, c in row.items()) - value for row, value, *_ in rows])
    return {
        "rows": len(rows),
        "rms": round(float(np.sqrt(np.mean(differences**2))), 6),
        "worst": round(float(np.abs(differences).max()), 6),
    }
