"""Plans set against FP32, and against each other in speed.

The rows of one `id` are evaluations of one artifact; together they are a *plan* of the report.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hexpath_deploy.errors import ResultsError

Row = Mapping[str, Any]
Metrics = Mapping[str, float]

# Which evaluation stands for a plan: ORT sees the whole split, the others usually a sample.
PREFERRED = ("ort", "device", "emulator", "torch")
# A fraction; the fastest plan within it heads the report.
HEADLINE_LOSS = 0.01
PRIMARY = ("map", "mask_map", "miou", "accuracy", "map50")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One artifact and all its evaluations, by where they ran."""

    id: str
    rows: Mapping[str, Row]

    def first(self, name: str, default: Any = None) -> Any:
        """The field `name` of the first row that has it."""
        return next((row[name] for row in self.rows.values() if name in row), default)

    @property
    def main(self) -> Row | None:
        """The row whose accuracy stands for the plan; None when it was not evaluated."""
        return next((self.rows[name] for name in PREFERRED if name in self.rows), None)

    @property
    def metrics(self) -> Metrics:
        """Figures of the main row; empty when the plan was not evaluated."""
        found: Metrics = (self.main or {}).get("metrics", {})
        return found

    @property
    def latency(self) -> Mapping[str, Any] | None:
        """Latency with bounds and source, if any row has it."""
        found: Mapping[str, Any] | None = self.first("latency")
        return found

    @property
    def is_reference(self) -> bool:
        """True for the FP32 row, which losses refer to."""
        return bool(self.first("plan") == "fp32")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A plan beside FP32 and beside the plan that speedups refer to.

    loss, class_loss: FP32 minus plan, as fractions, by metric (and class); empty without FP32 figures on
    as many images. speedup: how many times faster than `against`; None without both latencies, or where their
    sources or targets differ.
    """

    plan: Plan
    loss: Metrics
    class_loss: Mapping[str, Metrics]
    speedup: float | None
    against: str | None


def plans(results: Mapping[str, Any]) -> list[Plan]:
    """The plans of a record, in the order of its rows."""
    grouped: dict[str, dict[str, Row]] = {}
    for row in results["results"]:
        grouped.setdefault(row["id"], {})[row.get("evaluated_on", "nothing")] = row
    return [Plan(id=name, rows=rows) for name, rows in grouped.items()]


def compare(results: Mapping[str, Any], *, against: str | None = None) -> list[Comparison]:
    """Set every plan against the FP32 row of its model, and against one plan in speed.

    against: id of the plan that speedups refer to; default: the record's own `against`, else its fp16 plan,
    else the first with a latency.

    Raises:
        ResultsError: no plan is called `against`.
    """
    every = plans(results)
    base = _against(every, name=against or results.get("against"))
    return [_compare(plan, reference=_reference(plan, every=every), base=base) for plan in every]


def _compare(plan: Plan, *, reference: Plan | None, base: Plan | None) -> Comparison:
    loss, class_loss = _losses(plan, reference=reference)
    speedup = _speedup(plan.latency, base.latency if base else None)
    return Comparison(
        plan=plan, loss=loss, class_loss=class_loss, speedup=speedup, against=base.id if base else None
    )


def _against(every: Sequence[Plan], *, name: str | None) -> Plan | None:
    timed = [plan for plan in every if plan.latency]
    if name is None:
        return next((plan for plan in timed if plan.first("plan") == "fp16"), timed[0] if timed else None)
    for plan in every:
        if plan.id == name:
            return plan
    near = difflib.get_close_matches(name, [plan.id for plan in every], n=1)
    raise ResultsError(f"no plan is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _reference(plan: Plan, *, every: Sequence[Plan]) -> Plan | None:
    model = plan.first("model")
    return next((other for other in every if other.is_reference and other.first("model") == model), None)


def _losses(plan: Plan, *, reference: Plan | None) -> tuple[Metrics, Mapping[str, Metrics]]:
    main = plan.main
    if main is None or plan.is_reference:
        return {}, {}
    if (same := main.get("same_images", {}).get("fp32")) is not None:
        return _minus(same, main["metrics"]), {}
    beside = _same_count(reference, images=main["images"])
    if beside is None:
        return {}, {}
    classes = beside.get("per_class", {})
    by_class = {
        name: _minus(classes[name], figures)
        for name, figures in main.get("per_class", {}).items()
        if name in classes
    }
    return _minus(beside["metrics"], main["metrics"]), by_class


def _same_count(reference: Plan | None, *, images: int) -> Row | None:
    # Figures of another sample of images are no reference: a sample of 32 moves mAP by points.
    rows = [reference.rows[name] for name in PREFERRED if name in reference.rows] if reference else []
    return next((row for row in rows if row["images"] == images), None)


def _minus(reference: Metrics, figures: Metrics) -> Metrics:
    return {name: reference[name] - value for name, value in figures.items() if name in reference}


def _speedup(latency: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> float | None:
    if not latency or not base or not latency["value_ms"]:
        return None
    if any(latency[key] != base[key] for key in ("source", "target")):
        return None
    return float(base["value_ms"] / latency["value_ms"])


def primary_metric(results: Mapping[str, Any]) -> str:
    """The figure that ranks plans: mAP50-95 where there is one."""
    present = {name for row in results["results"] for name in row.get("metrics", {})}
    return next((name for name in PRIMARY if name in present), min(present, default="map"))


def headline(results: Mapping[str, Any], *, found: Sequence[Comparison]) -> Comparison | None:
    """The one of `found` whose figures head the report.

    The record's own `headline`, else the fastest plan that loses at most one point against FP32, else the
    most accurate of those with a latency.
    """
    metric = primary_metric(results)
    named = [item for item in found if item.plan.id == results.get("headline")]
    timed = [item for item in found if item.plan.latency and metric in item.plan.metrics]
    safe = [item for item in timed if item.loss.get(metric, 1.0) <= HEADLINE_LOSS]
    if named or safe:
        return (named or sorted(safe, key=lambda item: item.plan.latency["value_ms"]))[0]  # type: ignore[index]
    return max(timed, key=lambda item: item.plan.metrics[metric], default=None)
