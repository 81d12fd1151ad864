"""The answer of exp_07_terrain in sentences, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLLAPSED = 0.05  # a class below this IoU that FP32 knew (above twice as much) is gone
KEPT = 0.01  # what a repaired plan may lose of FP32's mIoU
BOARD_MS, BOARD = 20.1, "a board owner's measurement of DDRNet23-Slim at 544x640 on an IQ-9075 EVK, float I/O"

Row = Mapping[str, Any]


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; a plan that was not run is not spoken of."""
    rows = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "ort"}
    told = [
        sentence(rows, "ddrnet", "DDRNet23-Slim"),
        sentence(rows, "efficientvit", "EfficientViT-B1"),
        *(alarm(rows, plan) for plan in rows if plan.startswith("efficientvit-") and "fp32" not in plan),
        repair(rows),
        latency(rows),
        audits(results),
    ]
    return {"answer": [text for text in told if text]}


def audits(results: Mapping[str, Any]) -> str:
    """The audit's verdict on each network."""
    told = [f"{audit['model']} {audit['verdict']}" for audit in results.get("audits", [])]
    return f"Before any training, the audit calls {', '.join(told)}." if told else ""


def sentence(rows: Mapping[str, Row], prefix: str, name: str) -> str:
    """What INT8 leaves of a network's mIoU."""
    wanted = {f"{prefix}-fp32", f"{prefix}-w8a8"}
    if not wanted <= rows.keys():
        return ""
    before, after = (rows[f"{prefix}-{plan}"]["metrics"]["miou"] for plan in ("fp32", "w8a8"))
    return f"{name} keeps {100 * after:.1f} of its {100 * before:.1f} mIoU in INT8."


def collapsed(row: Row, reference: Row) -> list[str]:
    """Classes that the reference knows and the row has lost."""
    return [
        name
        for name, entry in reference["per_class"].items()
        if entry["iou"] > 2 * COLLAPSED and row["per_class"].get(name, {"iou": 0.0})["iou"] < COLLAPSED
    ]


def alarm(rows: Mapping[str, Row], plan: str) -> str:
    """Which classes a plan of EfficientViT has lost."""
    if "efficientvit-fp32" not in rows:
        return ""
    gone = collapsed(rows[plan], rows["efficientvit-fp32"])
    text = f"lost: {', '.join(gone)}" if gone else "no class collapsed"
    return f"{plan}: mIoU {100 * rows[plan]['metrics']['miou']:.1f}, {text}."


def repair(rows: Mapping[str, Row]) -> str:
    """The fastest plan of EfficientViT that keeps what FP32 has, to a point and without a lost class."""
    reference = rows.get("efficientvit-fp32")
    plans = [row for name, row in rows.items() if name.startswith("efficientvit-") and "latency" in row]
    if reference is None or not plans:
        return ""
    wanted = reference["metrics"]["miou"] - KEPT
    kept = [row for row in plans if row["metrics"]["miou"] >= wanted and not collapsed(row, reference)]
    if not kept:
        return f"No plan of EfficientViT stays within {100 * KEPT:.0f} point of FP32."
    best = min(kept, key=lambda row: row["latency"]["value_ms"])
    return (
        f"The fastest plan of EfficientViT within {100 * KEPT:.0f} point of FP32 is {best['id']}, "
        f"estimated at {best['latency']['value_ms']:.2f} ms."
    )


def latency(rows: Mapping[str, Row]) -> str:
    """DDRNet's estimates against each other and against the board."""
    if not {"ddrnet-w8a8", "ddrnet-fp16"} <= rows.keys():
        return ""
    eight, half = (rows[f"ddrnet-{plan}"]["latency"]["value_ms"] for plan in ("w8a8", "fp16"))
    return (
        f"DDRNet in INT8 is estimated at {eight:.2f} ms, {eight / half:.2f} of FP16's {half:.2f} ms; "
        f"{BOARD} is {BOARD_MS} ms."
    )
