"""The answer of exp_04_sensitivity in sentences, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Analysis = Mapping[str, Any]


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first: each plan's analysis, its alarms, the audit."""
    analyses: Sequence[Analysis] = results.get("sensitivity", [])
    sentences = [loss(a) for a in analyses] + [collapse(a) for a in analyses] + [audits(results)]
    return {"answer": [s for s in sentences if s]}


def loss(analysis: Analysis) -> str:
    """What the plan costs, and which region costs most of it."""
    metric, plan = analysis["metric"], analysis["plan"]
    before = 100 * analysis["float"]["metrics"][metric]
    after = 100 * analysis["quantized"][plan]["metrics"][metric]
    regions = [
        e for e in analysis["entries"] if e["kind"] == "region" and e["plan"] == plan and e["part"] == "both"
    ]
    worst = max(regions, key=lambda e: e["drop_alone"])
    repair = max(regions, key=lambda e: e["gain_without"])
    return (
        f"{analysis['model']} goes from {before:.1f} to {after:.1f} {metric} at {plan}; quantized alone, "
        f"{worst['name']} costs most ({100 * worst['drop_alone']:.2f} points), and leaving "
        f"{repair['name']} in float wins back most ({100 * repair['gain_without']:+.2f})."
    )


def collapse(analysis: Analysis) -> str:
    """Classes that collapse, and who did it."""
    told = [
        f"{alarm['class']} loses {alarm['lost_share']:.0%} of its {alarm['metric']} at {alarm['plan']}"
        + (f" (by {', '.join(row['name'] for row in alarm['regions'][:3])})" if alarm["regions"] else "")
        for alarm in analysis["alarms"]
    ]
    return f"Class collapse: {'; '.join(told)}." if told else ""


def audits(results: Mapping[str, Any]) -> str:
    """The audit's verdicts."""
    told = [f"{audit['name']} {audit['verdict']}" for audit in results.get("audits", [])]
    return f"Before any training, the audit calls the heads: {', '.join(told)}." if told else ""
