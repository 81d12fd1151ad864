"""What a plan is expected to cost and to lose, from the cost table and the sensitivity analysis.

Latency is the table's own formula: base, marginals in context, terms of neighbours that change together.
Loss is a sum over regions and over pairs of sensitive ones, fitted to all that was measured (``losses``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hexpath_quant.errors import OutputError, PlanError
from hexpath_quant.planning.losses import fit_losses
from hexpath_quant.plans import BASE, FP16

Choice = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Term:
    """Holds when every region of ``when`` has one of its precisions; then ``value`` is added."""

    when: Mapping[str, tuple[str, ...]]
    value: float

    def holds(self, plan: Choice) -> bool:
        """Return whether a plan (region -> precision, of all regions) has the term."""
        return all(plan[region] in wanted for region, wanted in self.when.items())


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Costs and losses of a network's regions.

    Attributes:
        metric: of the losses, which are shares of 1 (0.005 is half a point).
        ms, mb, drop: region -> precision -> what it adds to the sums.
        base_ms, base_mb: of the network at BASE.
        ms_terms, drop_terms: what pairs of regions add.
        fit: how well the losses' model fits what was measured.
        error_of: the standard error of a plan's predicted loss, a share of 1.
    """

    metric: str
    base_ms: float
    base_mb: float
    ms: Mapping[str, Mapping[str, float]]
    mb: Mapping[str, Mapping[str, float]]
    drop: Mapping[str, Mapping[str, float]]
    ms_terms: Sequence[Term] = ()
    drop_terms: Sequence[Term] = ()
    fit: Mapping[str, float] = field(default_factory=dict)
    error_of: Callable[[Choice], float] = lambda _: 0.0

    @property
    def noise(self) -> float:
        """Standard deviation of one measured loss, a share of 1."""
        return self.fit.get("noise", 0.0)

    @property
    def regions(self) -> list[str]:
        """In the order of execution."""
        return list(self.ms)

    def precisions(self, region: str) -> list[str]:
        """Return the precisions of a region that have both a cost and a loss."""
        return [precision for precision in self.ms[region] if precision in self.drop[region]]

    def latency_ms(self, plan: Choice) -> float:
        """Return the predicted latency of a plan (region -> precision, of all regions)."""
        return self.base_ms + _sum(self.ms, self.ms_terms, plan)

    def size_mb(self, plan: Choice) -> float:
        """Return the predicted size of a plan's context binary."""
        return self.base_mb + _sum(self.mb, (), plan)

    def loss(self, plan: Choice) -> float:
        """Return the predicted loss of a plan against the float network."""
        return _sum(self.drop, self.drop_terms, plan)


def _sum(table: Mapping[str, Mapping[str, float]], terms: Iterable[Term], plan: Choice) -> float:
    return sum(table[r][p] for r, p in plan.items()) + sum(t.value for t in terms if t.holds(plan))


def read_figures(
    *,
    sensitivity: Path,
    costs: Path,
    precisions: Sequence[str] = (),
    measured: Sequence[Mapping[str, Any]] = (),
) -> Figures:
    """Read the two files; ``precisions`` limits the choice, ``measured`` are rows of ``measure_plans``.

    Raises:
        OutputError: no such file.
        PlanError: a file is no JSON of its kind, or the two know different regions.
    """
    table = read_json(costs, kind="cost table", keys=("base_ms", "regions", "borders"))
    analysis = read_json(sensitivity, kind="sensitivity analysis", keys=("metric", "entries", "quantized"))
    regions = list(analysis["regions"])
    if set(regions) != set(table["regions"]):
        odd = ", ".join(sorted(set(regions) ^ set(table["regions"])))
        raise PlanError(f"{costs} and {sensitivity} know different regions ({odd}); make both from one model")
    scale = table["borders"].get("scale", {"regions": 1.0, "terms": 1.0})
    both = known(table, analysis)
    wanted = [p for p in both if not precisions or p in precisions]
    if not wanted:
        named, have = ", ".join(precisions), ", ".join(both)
        raise PlanError(f"no precision of {named} has costs and losses; {have} have")
    fitted = fit_losses(analysis, precisions=wanted, measured=measured)
    costs_of = {r: {BASE: {"ms": 0.0, "mb": 0.0}} | dict(table["regions"][r]) for r in regions}
    return Figures(
        metric=str(analysis["metric"]),
        base_ms=float(table["base_ms"]),
        base_mb=float(table["base_mb"]),
        ms={
            r: {p: scale["regions"] * costs_of[r][p]["ms"] for p in wanted if p in costs_of[r]}
            for r in regions
        },
        mb={r: {p: costs_of[r][p]["mb"] for p in wanted if p in costs_of[r]} for r in regions},
        drop=fitted.drop,
        ms_terms=[
            Term(
                when={r: (p,) for r, p in zip(row["regions"], row["precisions"], strict=True)},
                value=scale["terms"] * row["ms"],
            )
            for row in table["borders"].get("terms", [])
        ],
        drop_terms=[Term(when={a: (p,), b: (q,)}, value=e) for (a, b, p, q), e in fitted.pairs.items()],
        fit=fitted.fit,
        error_of=fitted.error,
    )


def known(table: Mapping[str, Any], analysis: Mapping[str, Any]) -> list[str]:
    """Return the precisions that have costs and losses: BASE, those measured in both, and fp16 (no loss)."""
    costed = dict.fromkeys(p for row in table["regions"].values() for p in row)
    return [BASE, *(p for p in costed if p in analysis["quantized"] or p == FP16)]


def count_scores(analysis: Mapping[str, Any]) -> int:
    """Return how often a sensitivity analysis asked for the task's metric, the float network's included."""
    return 1 + sum(key in e for e in analysis["entries"] for key in ("metric_alone", "metric_without"))


def read_json(path: Path, *, kind: str, keys: Sequence[str]) -> dict[str, Any]:
    """Read a JSON object that has ``keys``. Raises OutputError, PlanError."""
    if not path.is_file():
        raise OutputError(f"{kind} {path} does not exist")
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise PlanError(f"{path} is no JSON: {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise PlanError(f"{path} is no {kind}: it has no {', '.join(missing)}")
    return dict(content)
