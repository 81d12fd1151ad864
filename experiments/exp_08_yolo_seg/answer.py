"""The answer of exp_08_yolo_seg in sentences, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentences import proof, signed

Row = Mapping[str, Any]
BRANCHES = {
    "prototypes-16": "the mask prototypes",
    "coefficients-16": "the mask coefficients",
    "masks-16": "prototypes and coefficients",
    "boxes-16": "the box branches",
    "scores-16": "the score branches",
}


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; a plan that was not run is not spoken of."""
    rows = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "ort"}
    sentences = [loss(rows), branches(rows), bound(rows), proof(results)]
    found: dict[str, Any] = {"answer": [s for s in sentences if s]}
    return found | ({"against": "w8a16"} if "w8a16" in rows else {})


def points(row: Row, metric: str) -> float:
    return 100 * float(row["metrics"][metric])


def loss(rows: Mapping[str, Row]) -> str:
    """What 8 bit costs boxes and masks."""
    if not {"fp32", "w8a8"} <= rows.keys():
        return ""
    float32, int8 = rows["fp32"], rows["w8a8"]
    told = [
        f"{kind} {points(float32, metric):.1f} to {points(int8, metric):.1f}"
        for kind, metric in (("boxes", "map"), ("masks", "mask_map"))
    ]
    return f"{int8['model']} at w8a8, mAP50-95: {', '.join(told)}."


def branches(rows: Mapping[str, Row]) -> str:
    """What 16 bit in each branch wins back, and what it costs."""
    if "w8a8" not in rows:
        return ""
    base = rows["w8a8"]
    told = [
        f"{words} {signed(gain(rows[name], base, 'mask_map'))} "
        f"(boxes {signed(gain(rows[name], base, 'map'))}, {extra_ms(rows[name], base):+.2f} ms)"
        for name, words in BRANCHES.items()
        if name in rows
    ]
    return f"Mask mAP50-95 won by 16 bit in one branch: {'; '.join(told)}." if told else ""


def bound(rows: Mapping[str, Row]) -> str:
    """What 16 bit everywhere would give."""
    if not {"w8a8", "w8a16"} <= rows.keys():
        return ""
    base, wide = rows["w8a8"], rows["w8a16"]
    times = wide["latency"]["value_ms"] / base["latency"]["value_ms"]
    return (
        f"16-bit activations everywhere: masks {signed(gain(wide, base, 'mask_map'))}, boxes "
        f"{signed(gain(wide, base, 'map'))}, at {times:.1f} times the estimated latency."
    )


def gain(row: Row, base: Row, metric: str) -> float:
    return points(row, metric) - points(base, metric)


def extra_ms(row: Row, base: Row) -> float:
    return float(row["latency"]["value_ms"]) - float(base["latency"]["value_ms"])
