"""The tables and stacked bars of the report, as plain values for the template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hexpath_deploy.report.comparison import Comparison, Plan
from hexpath_deploy.report.known_error import known_error
from hexpath_deploy.report.labels import BACKENDS, megabytes, metric_label

TRAFFIC = {
    "input_mb": "weights and input, read",
    "fill_mb": "intermediate results, read back",
    "spill_mb": "intermediate results, spilled",
    "output_mb": "output, written",
}
MOST_OP_TYPES = 6
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A line of the table of plans. Shares of bars in percent of the widest."""

    item: Comparison
    accuracy: float | None
    loss: float | None
    emulator: Mapping[str, Any] | None
    gap: float | None
    latency: Mapping[str, Any] | None
    share: float
    low: float
    high: float
    error: str | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A stacked bar: segments of (label, value, text, share in percent, colour class)."""

    plan: Plan
    total: str
    segments: tuple[tuple[str, float, str, float, str], ...]
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Stacked bars with a legend of (label, colour class)."""

    legend: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """Accuracy by class: `cells[class][plan index]` is (value, loss) or None."""

    metric: str
    plans: tuple[Plan, ...]
    cells: Mapping[str, tuple[tuple[float, float | None] | None, ...]]

    @property
    def classes_across(self) -> bool:
        """True when few classes make plans the better rows."""
        return len(self.cells) <= 6


def plan_rows(found: Sequence[Comparison], *, metric: str) -> list[PlanRow]:
    """The table of plans."""
    latencies = [item.plan.latency for item in found if item.plan.latency]
    slowest = max((latency.get("high_ms", latency["value_ms"]) for latency in latencies), default=1.0) or 1.0
    return [_plan_row(item, metric=metric, slowest=slowest) for item in found]


def _plan_row(item: Comparison, *, metric: str, slowest: float) -> PlanRow:
    latency = item.plan.latency
    value = latency["value_ms"] if latency else 0.0
    emulator = item.plan.rows.get("emulator")
    beside = (emulator or {}).get("same_images", {}).get("ort", {})
    both = emulator is not None and metric in beside and metric in emulator["metrics"]
    estimated = latency is not None and latency["source"] == "estimate"
    known = known_error(item.plan.first("plan"), target=latency["target"]) if latency and estimated else None
    return PlanRow(
        item=item,
        accuracy=item.plan.metrics.get(metric),
        loss=item.loss.get(metric),
        emulator=emulator if emulator and metric in emulator["metrics"] else None,
        gap=beside[metric] - emulator["metrics"][metric] if both and emulator else None,
        latency=latency,
        share=100 * value / slowest,
        low=100 * (latency or {}).get("low_ms", value) / slowest,
        high=100 * (latency or {}).get("high_ms", value) / slowest,
        error=known.text if known else None,
        note=_note(item),
    )


def _note(item: Comparison) -> str:
    main = item.plan.main
    return f"{BACKENDS[main['evaluated_on']]}, {main['images']} images" if main else ""


def common_note(rows: Sequence[PlanRow]) -> str | None:
    """Where and on how many images all plans were evaluated; None when they differ."""
    notes = {row.note for row in rows if row.note}
    return notes.pop() if len(notes) == 1 else None


def class_table(found: Sequence[Comparison]) -> ClassTable | None:
    """Accuracy by class of every plan that has it, by the strictest metric that all of them share."""
    shown = [item for item in found if item.plan.main and item.plan.main.get("per_class")]
    present = Counter(name for item in shown for name in _class_metrics(item))
    metric = next(
        (name for name in ("map", "mask_map", "iou", "miou", "map50", *present) if present[name]), None
    )
    if metric is None:
        return None
    names = dict.fromkeys(name for item in shown for name in (item.plan.main or {})["per_class"])
    cells = {name: tuple(_class_cell(item, name=name, metric=metric) for item in shown) for name in names}
    return ClassTable(metric=metric_label(metric), plans=tuple(item.plan for item in shown), cells=cells)


def _class_metrics(item: Comparison) -> set[str]:
    return {name for figures in (item.plan.main or {})["per_class"].values() for name in figures}


def _class_cell(item: Comparison, *, name: str, metric: str) -> tuple[float, float | None] | None:
    figures = (item.plan.main or {})["per_class"].get(name, {})
    if metric not in figures:
        return None
    return figures[metric], item.class_loss.get(name, {}).get(metric)


def traffic_bars(found: Sequence[Comparison]) -> Bars | None:
    """DDR traffic of one inference by kind."""
    shown = [item.plan for item in found if item.plan.first("ddr")]
    widest = max((sum(plan.first("ddr").values()) for plan in shown), default=0.0)
    if not widest:
        return None
    colours = {key: f"s{index}" for index, key in enumerate(TRAFFIC)}
    bars = []
    for plan in shown:
        ddr = plan.first("ddr")
        segments = tuple(
            (TRAFFIC[key], ddr[key], f"{megabytes(ddr[key])} MB", 100 * ddr[key] / widest, colours[key])
            for key in TRAFFIC
            if ddr.get(key)
        )
        bars.append(Bar(plan=plan, total=f"{megabytes(sum(ddr.values()))} MB", segments=segments))
    return Bars(legend=tuple((TRAFFIC[key], colours[key]) for key in TRAFFIC), bars=tuple(bars))


def ops_bars(found: Sequence[Comparison]) -> Bars | None:
    """Operators of the compiled graph by type; the rarer types together."""
    shown = [item.plan for item in found if item.plan.first("ops")]
    totals: Counter[str] = Counter()
    for plan in shown:
        totals.update(_by_type(plan))
    widest = max((sum(_by_type(plan).values()) for plan in shown), default=0)
    if not widest:
        return None
    common = [name for name, _ in totals.most_common(MOST_OP_TYPES)]
    colours = {name: f"s{index}" for index, name in enumerate(common)} | {OTHER: "rest"}
    bars = [_ops_bar(plan, colours=colours, widest=widest) for plan in shown]
    legend = [
        (name, colours[name]) for name in (*common, OTHER) if name != OTHER or len(totals) > len(common)
    ]
    return Bars(legend=tuple(legend), bars=tuple(bars))


def _by_type(plan: Plan) -> Counter[str]:
    counts: Counter[str] = Counter()
    for op in plan.first("ops"):
        counts[op["type"]] += op["count"]
    return counts


def _ops_bar(plan: Plan, *, colours: Mapping[str, str], widest: int) -> Bar:
    counts: Counter[str] = Counter()
    for name, count in _by_type(plan).items():
        counts[name if name in colours else OTHER] += count
    segments = tuple(
        (name, float(counts[name]), str(counts[name]), 100 * counts[name] / widest, colours[name])
        for name in colours
        if counts[name]
    )
    kinds: Counter[str] = Counter()
    for op in plan.first("ops"):
        kinds[op.get("dtype", "")] += op["count"]
    remark = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4) if kind)
    return Bar(plan=plan, total=str(sum(counts.values())), segments=segments, remark=remark)
