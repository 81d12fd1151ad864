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
    emulated = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "emulator"}
    told = [
        sentence(rows, emulated, "ddrnet", "DDRNet23-Slim"),
        sentence(rows, emulated, "efficientvit", "EfficientViT-B1"),
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


def sentence(rows: Mapping[str, Row], emulated: Mapping[str, Row], prefix: str, name: str) -> str:
    """What INT8 leaves of a network's mIoU: in ONNX Runtime, in the simulation, on the emulator."""
    wanted = {f"{prefix}-fp32", f"{prefix}-w8a8"}
    if not wanted <= rows.keys():
        return ""
    int8 = rows[f"{prefix}-w8a8"]
    text = f"{name} keeps {points(int8)} of its {points(rows[f'{prefix}-fp32'])} mIoU in INT8"
    if "simulation_miou" in int8.get("params", {}):
        text += f", {100 * int8['params']['simulation_miou']:.1f} in the simulation"
    npu = emulated.get(f"{prefix}-w8a8")
    if npu is not None:
        same = npu.get("same_images", {}).get("fp32")
        text += f", {points(npu)} on the emulator"
        text += f" where FP32 has {100 * same['miou']:.1f} on the same {npu['images']} images" if same else ""
    return f"{text}."


def points(row: Row) -> str:
    return f"{100 * row['metrics']['miou']:.1f}"


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
