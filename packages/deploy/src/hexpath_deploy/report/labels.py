"""How figures and names are written, in the report as in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = {
    "map": "mAP50-95",
    "map50": "mAP50",
    "box_map": "box mAP50-95",
    "mask_map": "mask mAP50-95",
    "mask_map50": "mask mAP50",
    "miou": "mIoU",
}
BACKENDS = {
    "ort": "ONNX Runtime",
    "emulator": "Hexagon emulator",
    "device": "device",
    "torch": "PyTorch simulation",
}
HEADS = {"raw": "raw heads", "decoded": "decoded in the graph", "plain": "plain export, one output"}
SOURCES = {"estimate": "estimated", "measured": "measured"}

MINUS = "\u2212"

# Points of a metric: what a reader should look at, and what breaks a model.
WARN_POINTS = 1.0
BAD_POINTS = 5.0


def metric_label(name: str) -> str:
    """The usual way to write a metric."""
    return METRICS.get(name, name)


def percent(value: float) -> str:
    """0.6447 as 64.5."""
    return f"{100 * value:.1f}"


def points(loss: float) -> str:
    """A loss (fraction, FP32 minus plan) as the change that a reader sees: -0.9 for a loss of 0.009."""
    value = -100 * loss
    text = f"{abs(value):.1f}"
    if text == "0.0":
        return "\u00b10.0"
    return ("+" if value > 0 else MINUS) + text


def level(loss: float) -> str:
    """`ok`, `warn` or `bad`, by points lost."""
    lost = round(100 * loss, 1)
    return "bad" if lost > BAD_POINTS else "warn" if lost > WARN_POINTS else "ok"


def milliseconds(value: float) -> str:
    """Three significant digits at most: 0.667, 2.09, 38.0, 860."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def megabytes(value: float) -> str:
    """Two decimals below 10 MB, one above."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def bounds(latency: Mapping[str, Any]) -> str:
    """`1.86 to 2.36`, or nothing where the latency has no bounds."""
    if "low_ms" not in latency or "high_ms" not in latency:
        return ""
    return f"{milliseconds(latency['low_ms'])} to {milliseconds(latency['high_ms'])}"


def amount(value: float, unit: str) -> str:
    """A gate's figure in its unit: `7.57 ms`, `94.8 %` for a share, `12` for a count."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "count":
        return f"{value:.2f}".rstrip("0").rstrip(".")
    digits = {"ms": 2, "MB": 2, "dB": 1, "points": 1}[unit]
    return f"{value:.{digits}f} {unit}".replace("-", MINUS)
