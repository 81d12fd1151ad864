"""The answer of exp_05_mixed_precision in sentences, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
OTHERS = {
    "w8a16": "16 bit everywhere",
    "flat": "the flat 10% flip",
    "amp": "AIMET's automatic mixed precision",
}
SAME_POINTS = 0.05  # differences below it are no difference


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; a plan that was not run is not spoken of."""
    rows = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "ort"}
    front = [row for name, row in rows.items() if name.startswith("front-")]
    sentences = [
        best(rows, front),
        dominance(rows, front),
        latency_error(front),
        loss_error(rows, front),
        qat(rows),
    ]
    found: dict[str, Any] = {"answer": [s for s in sentences if s]}
    return found | ({"against": "w8a16"} if "w8a16" in rows else {})


def points(row: Row) -> float:
    return 100 * float(row["metrics"]["map"])


def ms(row: Row) -> float:
    return float(row["latency"]["value_ms"])


def best(rows: Mapping[str, Row], front: list[Row]) -> str:
    """The fastest point of the front within half a point of the most accurate one."""
    if not front or not {"fp32", "w8a8"} <= rows.keys():
        return ""
    top = max(points(row) for row in front)
    chosen = min((row for row in front if points(row) >= top - 0.5), key=ms)
    base = rows["w8a8"]
    text = (
        f"{chosen['id']} scores {points(chosen):.1f} mAP50-95 of FP32's {points(rows['fp32']):.1f} "
        f"at an estimated {ms(chosen):.2f} ms, where w8a8 scores {points(base):.1f} at {ms(base):.2f} ms"
    )
    told = [
        f"{words} {points(rows[i]):.1f} at {ms(rows[i]):.2f} ms" for i, words in OTHERS.items() if i in rows
    ]
    return text + (f"; {', '.join(told)}" if told else "") + "."


def dominance(rows: Mapping[str, Row], front: list[Row]) -> str:
    """Whether another plan is at least as fast and more accurate than a point of the front."""
    others = [rows[i] for i in OTHERS if i in rows]
    if not front or not others:
        return ""
    beaten = [
        f"{row['id']} by {other['id']}"
        for row in front
        for other in others
        if ms(other) <= ms(row) and points(other) > points(row) + SAME_POINTS
    ]
    names = ", ".join(row["id"] for row in others)
    return f"Dominated: {'; '.join(beaten)}." if beaten else f"No point of the front is dominated by {names}."


def latency_error(front: list[Row]) -> str:
    """Predicted latency against the estimate of the whole compile."""
    errors = [
        abs(row["params"]["predicted_ms"] / ms(row) - 1)
        for row in front
        if "predicted_ms" in row.get("params", {})
    ]
    if not errors:
        return ""
    return (
        f"The predicted latency of a plan differs from its whole compile by "
        f"{100 * sum(errors) / len(errors):.1f}% in the mean, {100 * max(errors):.1f}% at most, "
        f"over {len(errors)} plans."
    )


def loss_error(rows: Mapping[str, Row], front: list[Row]) -> str:
    """Predicted loss against that of the artifact."""
    if "fp32" not in rows:
        return ""
    errors = [
        abs(100 * row["params"]["predicted_drop"] - (points(rows["fp32"]) - points(row)))
        for row in front
        if "predicted_drop" in row.get("params", {})
    ]
    if not errors:
        return ""
    return (
        f"The predicted loss differs from the artifact's by {sum(errors) / len(errors):.2f} points "
        f"in the mean, {max(errors):.2f} at most."
    )


def qat(rows: Mapping[str, Row]) -> str:
    """What training under a mixed plan adds."""
    if not {"raw-w4a8", "raw-w4a8-qat"} <= rows.keys():
        return ""
    before, after = rows["raw-w4a8"], rows["raw-w4a8-qat"]
    return (
        f"Training under a mixed plan (4-bit weights, 16-bit stem and scores, raw heads) takes it from "
        f"{points(before):.1f} to {points(after):.1f}."
    )
