"""The answer of exp_05_mixed_precision in sentences, from the figures of its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
OTHERS = {
    "w8a8": "8 bit everywhere",
    "w8a16": "16 bit everywhere",
    "flat": "the flat 10% flip",
    "amp": "AIMET's automatic mixed precision",
}
METRICS = {"map": "mAP50-95", "mask_map": "mask mAP50-95", "miou": "mIoU"}
SAME_POINTS = 0.05  # differences below it are no difference
SAME_TIME = 1.005  # two compiles of one plan differ by less


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; a plan that was not run is not spoken of."""
    metric = read("planning/plans/front.json").get("metric", "map")  # that the planner held to
    rows = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "ort"}
    rows = {name: row | {"points": 100 * float(row["metrics"][metric])} for name, row in rows.items()}
    front = front_of(rows)
    sentences = [
        best(rows, front, metric=metric),
        dominance(rows, front, noise=noise_of(front)),
        latency_error(front),
        loss_error(rows, front, metric=metric),
        effort(),
        qat(rows),
    ]
    found: dict[str, Any] = {"answer": [s for s in sentences if s]}
    return found | ({"against": "w8a16"} if "w8a16" in rows else {})


def front_of(rows: Mapping[str, Row]) -> list[Row]:
    """The points of the front, each plan once: a short front repeats its last point."""
    found: dict[str, Row] = {}
    for name, row in rows.items():
        if name.startswith("front-"):
            plan = json.dumps(row.get("params", {}).get("regions", name), sort_keys=True)
            found.setdefault(plan, row)
    return list(found.values())


def noise_of(front: list[Row]) -> float:
    """Points of the metric that two measured losses must differ by to be called different."""
    steps = [100 * row["params"]["least_step"] for row in front if "least_step" in row.get("params", {})]
    return max(steps, default=SAME_POINTS)


def points(row: Row) -> float:
    return float(row["points"])


def ms(row: Row) -> float:
    return float(row["latency"]["value_ms"])


def best(rows: Mapping[str, Row], front: list[Row], *, metric: str) -> str:
    """The fastest point of the front within half a point of the most accurate one."""
    if not front or "fp32" not in rows:
        return ""
    top = max(points(row) for row in front)
    chosen = min((row for row in front if points(row) >= top - 0.5), key=ms)
    what = description(chosen)
    told = [
        f"{words} {points(rows[i]):.1f} at {ms(rows[i]):.2f} ms" for i, words in OTHERS.items() if i in rows
    ]
    return (
        f"{chosen['id']} ({what or 'w8a8 everywhere'}) scores {points(chosen):.1f} {METRICS[metric]} of "
        f"FP32's {points(rows['fp32']):.1f} at an estimated {ms(chosen):.2f} ms"
        + (f"; {', '.join(told)}" if told else "")
        + "."
    )


def description(row: Row) -> str:
    """The regions of a plan that are not at w8a8, or the one precision that all have."""
    regions = row.get("params", {}).get("regions", {})
    planned = read("planning/plans/front.json").get("points", [])
    everywhere: dict[str, str] = next((p["regions"] for p in planned if p["plan"] == row["id"]), {})
    if everywhere and len(set(everywhere.values())) == 1:
        return f"{next(iter(everywhere.values()))} everywhere"
    return ", ".join(f"{region} {precision}" for region, precision in regions.items())


def dominance(rows: Mapping[str, Row], front: list[Row], *, noise: float) -> str:
    """At the latency of each other plan: is the front, as far as it is as fast, as accurate?"""
    others = [rows[i] for i in OTHERS if i in rows]
    if not front or not others:
        return ""
    better: list[str] = []
    close: list[str] = []
    for other in others:
        as_fast = [points(row) for row in front if ms(row) <= SAME_TIME * ms(other)]
        ahead = points(other) - max(as_fast, default=0.0)
        if ahead > SAME_POINTS:
            told = f"{other['id']} is {ahead:.2f} points better than any point of the front that is as fast"
            (better if ahead > noise else close).append(told)
    within = f" Within noise ({noise:.2f} points): {'; '.join(close)}." if close else ""
    names = ", ".join(other["id"] for other in others)
    held = f"At no latency is the front dominated by {names}."
    return (f"Dominated: {'; '.join(better)}." if better else held) + within


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


def loss_error(rows: Mapping[str, Row], front: list[Row], *, metric: str) -> str:
    """Predicted loss, with the error stated for it, against the simulation's; and the file's beside it.

    The prediction is of the simulation, which the planner measured. The file is scored by another package,
    whose figures of one network differ a little.
    """
    score = read("planning/plans/front.json").get("float")
    known = f"simulation_{metric}"
    told = [row for row in front if {"predicted_drop", known} <= row.get("params", {}).keys()]
    if "fp32" not in rows or score is None or not told:
        return ""
    listed, held, apart = [], 0, []
    for row in told:
        expected, error, simulated = (
            100 * row["params"]["predicted_drop"],
            100 * row["params"]["predicted_error"],
            100 * (score - row["params"][known]),
        )
        listed.append(f"{row['id']} {expected:.2f} ± {error:.2f}, lost {simulated:.2f}")
        held += abs(expected - simulated) <= 2 * error
        apart.append(abs(points(rows["fp32"]) - points(row) - simulated))
    return (
        f"Predicted loss in points and that of the simulation: {'; '.join(listed)}; {held} of {len(told)} "
        f"within two standard errors. The file's loss differs from its simulation's by {max(apart):.2f} "
        "at most."
    )


def effort() -> str:
    """How often the planner and AIMET asked for the task's metric, and how long that took."""
    ours, theirs = read("planning/plans/front.json"), read("planning/amp/amp.json")
    if "scores" not in ours or "seconds" not in theirs:
        return ""
    return (
        f"Search: ours asked for the metric {ours['scores']} times in {ours['seconds']:.0f} s; AIMET looked "
        f"at the outputs {theirs['outputs']} times and asked for the metric {theirs['scores']} times in "
        f"{theirs['seconds']:.0f} s."
    )


def read(path: str) -> dict[str, Any]:
    """A JSON file of the run folder; empty where it is not there."""
    return dict(json.loads(Path(path).read_text())) if Path(path).is_file() else {}


def qat(rows: Mapping[str, Row]) -> str:
    """What training under a mixed plan adds."""
    if not {"raw-w4a8", "raw-w4a8-qat"} <= rows.keys():
        return ""
    before, after = rows["raw-w4a8"], rows["raw-w4a8-qat"]
    return (
        f"Training under a mixed plan (4-bit weights, 16-bit stem and scores, raw heads) takes it from "
        f"{points(before):.1f} to {points(after):.1f}."
    )
