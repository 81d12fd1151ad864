"""The answer of exp_02_ptq in sentences, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sentences import proof

Row = Mapping[str, Any]


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; what was not run is not spoken of."""
    rows = [row for row in results["results"] if row.get("evaluated_on") == "ort"]
    sentences = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        tried = [row for row in own if row["plan"] != "fp32" and "selection" not in row.get("params", {})]
        chosen = [row for row in own if "selection" in row.get("params", {})]
        floats = [points(row) for row in own if row["plan"] == "fp32"]
        sentences += [best(model, tried, float32=floats[0] if floats else None)]
        sentences += [granularity(model, tried), images(model, chosen)]
    sentences.append(proof(results))
    return {"answer": [s for s in sentences if s]}


def points(row: Row) -> float:
    return 100 * float(row["metrics"]["map"])


def method(row: Row) -> str:
    return str(row["method"]).removeprefix("ptq:")


def best(model: str, rows: Sequence[Row], *, float32: float | None) -> str:
    """The method that loses least under each plan, beside min-max, and what it costs."""
    told = []
    for plan in dict.fromkeys(row["plan"] for row in rows):
        own = {method(row): row for row in rows if row["plan"] == plan}
        if len(own) < 2:
            continue
        name = max(own, key=lambda m: points(own[m]))
        text = f"{plan}: {name} ({points(own[name]):.1f}"
        if "minmax" in own and name != "minmax":
            text += f", min-max {points(own['minmax']):.1f}"
        told.append(f"{text}, {own[name]['params']['method_cpu_seconds']:.0f} s)")
    if not told:
        return ""
    against = f" of FP32's {float32:.1f}" if float32 is not None else ""
    return (
        f"{model}, the method that keeps most mAP50-95{against}, and its processor time: {'; '.join(told)}."
    )


def granularity(model: str, rows: Sequence[Row]) -> str:
    """What one weight scale a tensor costs against one a channel, by method."""
    told = []
    for bits in ("w8a8", "w4a8"):
        channel = {method(row): points(row) for row in rows if row["plan"] == bits}
        tensor = {method(row): points(row) for row in rows if row["plan"] == f"{bits}-per-tensor"}
        both = [name for name in channel if name in tensor]
        if not both:
            continue
        text = ", ".join(f"{name} {tensor[name] - channel[name]:+.1f}" for name in both)
        told.append(f"{bits} {text}")
    return f"{model}, per-tensor weights against per-channel, points: {'; '.join(told)}." if told else ""


def images(model: str, rows: Sequence[Row]) -> str:
    """How much the number of calibration images and their selection matter."""
    told = []
    for plan in dict.fromkeys((row["plan"], method(row)) for row in rows):
        own = [row for row in rows if (row["plan"], method(row)) == plan]
        by = {(row["params"]["selection"], row["params"]["calibration_images"]): points(row) for row in own}
        few = min(count for _, count in by)
        at_few = ", ".join(f"{how} {by[how, few]:.1f}" for how, count in by if count == few)
        spread = max(by.values()) - min(by.values())
        told.append(
            f"{plan[0]} by {plan[1]}: {at_few} with {few} images; all sets lie within {spread:.1f} points"
        )
    return f"{model}, calibration images: {'; '.join(told)}." if told else ""
