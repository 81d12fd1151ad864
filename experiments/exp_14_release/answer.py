"""The answer of exp_14_release in sentences, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first; the plan that was judged heads the report."""
    gates = results["gates"]
    rows = [row for row in results["results"] if row.get("evaluated_on") == "emulator"]
    shipped = next((row for row in rows if row["sha256"] == gates.get("artifact_sha256")), None)
    sentences = [verdict(gates, shipped), accuracy(shipped), others(rows, shipped)]
    found: dict[str, Any] = {"answer": [sentence for sentence in sentences if sentence]}
    return found | ({"headline": shipped["id"]} if shipped else {})


def verdict(gates: Mapping[str, Any], shipped: Row | None) -> str:
    """What ships, or what stands in the way."""
    plan = f"{shipped['model']} at {shipped['id']}" if shipped else "The model"
    bad = [row for row in gates["rows"] if row["counts_as"] != "pass"]
    waived = [row for row in gates["rows"] if "waived" in row]
    if gates["verdict"] == "pass":
        told = f", {len(waived)} of them waived" if waived else ""
        return f"{plan} passes all {len(gates['rows'])} release gates{told}: it is in the bundle."
    names = dict.fromkeys(row["title"] for row in bad)
    return f"{plan} does not ship: {len(bad)} of {len(gates['rows'])} gates do not pass ({', '.join(names)})."


def accuracy(shipped: Row | None) -> str:
    """What it reaches and costs."""
    if shipped is None or "latency" not in shipped:
        return ""
    latency, own = shipped["latency"], 100 * shipped["metrics"]["map"]
    text = f"The artifact scores {own:.1f} mAP50-95 on the emulator"
    if "fp32" in (same := shipped.get("same_images", {})):
        text += f", FP32 {100 * same['fp32']['map']:.1f} on the same {shipped['images']} images"
    if "mask_map" in shipped["metrics"]:
        text += f"; of masks {100 * shipped['metrics']['mask_map']:.1f}"
        text += f", FP32 {100 * same['fp32']['mask_map']:.1f}" if "fp32" in same else ""
    kind = "an estimated" if latency["source"] == "estimate" else "a measured"
    text += f", at {kind} {latency['value_ms']:.2f} ms on {latency['target']}"
    return f"{text} and {shipped['size_mb']:.1f} MB."


def others(rows: list[Row], shipped: Row | None) -> str:
    """Why not one of the other candidates."""
    told = []
    for row in rows:
        if row is shipped or "fp32" not in row.get("same_images", {}):
            continue
        before, after = row["same_images"]["fp32"], row["metrics"]
        loss = max(100 * (before[key] - after[key]) for key in ("map", "mask_map") if key in after)
        apart = "" if row.get("agreement", {}).get("verdict") == "pass" else ", does not agree with its model"
        told.append(f"{row['id']} loses {loss:.1f} points at {row['latency']['value_ms']:.2f} ms{apart}")
    return f"The other candidates: {'; '.join(told)}." if told else ""
