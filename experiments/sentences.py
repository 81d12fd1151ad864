"""Sentences that the answers of several experiments have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def signed(value: float) -> str:
    """A difference with its sign and one decimal, without a minus before zero."""
    return f"{round(value, 1) + 0.0:+.1f}"


def proof(results: Mapping[str, Any], *, metric: str = "map") -> str:
    """The largest gap between the emulator and ONNX Runtime on the same images, in points of the metric."""
    gaps = {
        row["id"]: 100 * abs(row["metrics"][metric] - row["same_images"]["ort"][metric])
        for row in results["results"]
        if row.get("evaluated_on") == "emulator" and "ort" in row.get("same_images", {})
    }
    if not gaps:
        return ""
    worst = max(gaps, key=lambda i: gaps[i])
    return (
        f"On the Hexagon emulator the compiled artifacts score within {gaps[worst]:.1f} points of ONNX "
        f"Runtime on the same images (largest gap: {worst}, of {len(gaps)})."
    )
