"""The answer of exp_03_qat in sentences, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentences import proof

Row = Mapping[str, Any]


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; a plan that was not run is not spoken of."""
    rows = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "ort"}
    sentences = [headline(rows), training(rows), pitfalls(rows), proof(results)]
    found: dict[str, Any] = {"answer": [s for s in sentences if s]}
    return found | ({"against": "w8a16-plain"} if "w8a16-plain" in rows else {})


def points(row: Row, *, metric: str = "map") -> float:
    return 100 * float(row["metrics"][metric])


def headline(rows: Mapping[str, Row]) -> str:
    """What INT8 costs and what it buys."""
    if not {"fp32", "w8a8"} <= rows.keys():
        return ""
    float32, int8 = rows["fp32"], rows["w8a8"]
    latency = int8["latency"]
    text = (
        f"{int8['model']} keeps {points(int8):.1f} of its {points(float32):.1f} mAP50-95 in INT8 "
        f"(w8a8, {int8['method']}, raw heads), at an estimated {latency['value_ms']:.2f} ms "
        f"on {latency['target']}"
    )
    faster = [
        f"{rows[i]['latency']['value_ms'] / latency['value_ms']:.1f} times faster than {words}"
        for i, words in (("w8a16-plain", "the 16-bit export that users get today"), ("fp16", "FP16"))
        if i in rows
    ]
    return text + (": " + ", ".join(faster) if faster else "") + "."


def training(rows: Mapping[str, Row]) -> str:
    """What QAT adds to PTQ, plan by plan."""
    gains = [
        f"{points(rows[f'{plan}-qat']) - points(rows[plan]):+.1f} points at {plan} "
        f"({points(rows[plan]):.1f} to {points(rows[f'{plan}-qat']):.1f})"
        for plan in ("w8a8", "w4a8")
        if plan in rows and f"{plan}-qat" in rows
    ]
    if not gains:
        return ""
    control = f"; {points(rows['fp32-control']):.1f} is what as much more float training gives"
    return (
        f"Quantization-aware training changes mAP50-95 by {' and '.join(gains)}"
        f"{control if 'fp32-control' in rows else ''}."
    )


def pitfalls(rows: Mapping[str, Row]) -> str:
    """What INT8 costs when the graph is cut in the wrong place."""
    told = {
        "w8a8-decoded": "with boxes decoded in the graph",
        "w8a8-plain": "with boxes and scores in one output",
    }
    costs = [f"{points(rows[i]):.1f} {words}" for i, words in told.items() if i in rows]
    return f"The same calibration at w8a8 leaves {' and '.join(costs)}." if costs else ""
