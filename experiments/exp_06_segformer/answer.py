"""The answer of exp_06_segformer in sentences, from the figures of its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentences import proof

Row = Mapping[str, Any]


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; a plan that was not run is not spoken of."""
    rows = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "ort"}
    files = Path("browser/browser.json")
    told = [headline(rows), training(rows), fusion(rows), proof(results, metric="miou"), in_browser(files)]
    return {"answer": [text for text in told if text]}


def points(row: Row) -> float:
    return 100 * float(row["metrics"]["miou"])


def headline(rows: Mapping[str, Row]) -> str:
    """What each precision keeps, and its latency."""
    if not {"fp32", "w8a8"} <= rows.keys():
        return ""
    parts = [
        f"{points(rows[i]):.1f} in {words} at an estimated {rows[i]['latency']['value_ms']:.2f} ms"
        for i, words in (("w8a8", "INT8"), ("w8a16", "16-bit activations"), ("fp16", "FP16"))
        if i in rows
    ]
    target = rows["w8a8"]["latency"]["target"]
    return f"SegFormer-B0 scores {points(rows['fp32']):.1f} mIoU in FP32, {', '.join(parts)} on {target}."


def training(rows: Mapping[str, Row]) -> str:
    """What QAT adds to PTQ."""
    if not {"w8a8", "w8a8-qat"} <= rows.keys():
        return ""
    before, after = points(rows["w8a8"]), points(rows["w8a8-qat"])
    return (
        f"Quantization-aware training changes INT8 by {after - before:+.1f} points "
        f"({before:.1f} to {after:.1f})."
    )


def fusion(rows: Mapping[str, Row]) -> str:
    """What the head's fused form is worth."""
    if not {"w8a8", "w8a8-late"} <= rows.keys():
        return ""
    early, late = rows["w8a8"], rows["w8a8-late"]
    before, after = (row["latency"]["value_ms"] for row in (late, early))
    return (
        f"Fusing the head's linear steps takes {after:.2f} instead of {before:.2f} ms, "
        f"at {points(early):.1f} and {points(late):.1f} mIoU."
    )


def in_browser(path: Path) -> str:
    """Sizes and CPU latencies of the browser's files."""
    if not path.is_file():
        return ""
    told = json.loads(path.read_text())
    files = [
        f"{words} {told['files'][name]['bytes'] / 1e6:.1f} MB and {told['files'][name]['cpu_ms']:.0f} ms"
        for name, words in (("model.onnx", "the float file has"), ("model_quantized.onnx", "the INT8 file"))
    ]
    return (
        f"In the browser's folder {', '.join(files)} in ONNX Runtime on {told['threads']} "
        f"core{'s' if told['threads'] > 1 else ''} of this CPU; "
        f"they agree on {100 * told['equal_pixels']:.1f}% of the pixels."
    )
