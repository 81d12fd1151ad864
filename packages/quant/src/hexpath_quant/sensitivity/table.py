"""An analysis as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LAYERS = 12
BAR = 20


def table(record: Mapping[str, Any]) -> str:
    """Return alarms, regions with bars, the worst layers, and how far estimates can be trusted."""
    lines = [*_head(record), "", *_regions(record), "", *_layers(record), "", *_trust(record)]
    return "\n".join([*lines, *_alarms(record)])


def _head(record: Mapping[str, Any]) -> list[str]:
    metric = record["metric"]
    base = record["float"]["metrics"][metric]
    lines = [f"{record['model']}: {metric} {100 * base:.1f} in float on {record['images']} images"]
    for plan, found in record["quantized"].items():
        value = found["metrics"][metric]
        lines.append(f"  {plan}: {100 * value:.1f} ({100 * (value - base):+.1f})")
    return lines


def _rows(record: Mapping[str, Any], *, kind: str) -> list[Mapping[str, Any]]:
    return [
        e
        for e in record["entries"]
        if e["kind"] == kind and e["plan"] == record["plan"] and e["part"] == "both"
    ]


def _regions(record: Mapping[str, Any]) -> list[str]:
    rows = _rows(record, kind="region")
    most = max((max(e.get("drop_alone", 0.0), 0.0) for e in rows), default=0.0) or 1.0
    lines = [
        f"{'region':20} {'alone':>7} {'without':>8} {'SQNR dB':>8}  points lost when it alone is quantized"
    ]
    for e in rows:
        bar = "#" * round(BAR * max(e.get("drop_alone", 0.0), 0.0) / most)
        lines.append(
            f"{e['name'][:20]:20} {_points(e, 'drop_alone'):>7} {_points(e, 'gain_without'):>8}"
            f" {e['sqnr_db']:8.1f}  {bar}"
        )
    return lines


def _layers(record: Mapping[str, Any]) -> list[str]:
    rows = {e["name"]: e for e in _rows(record, kind="layer")}
    listed = list(dict.fromkeys([*record["worst"], *sorted(rows, key=lambda n: rows[n]["sqnr_db"])]))[:LAYERS]
    lines = [f"{'worst layers':44} {'region':16} {'alone':>7} {'without':>8} {'SQNR dB':>8}"]
    for name in listed:
        e = rows[name]
        lines.append(
            f"{name[-44:]:44} {e['region'][:16]:16} {_points(e, 'drop_alone'):>7}"
            f" {_points(e, 'gain_without'):>8} {e['sqnr_db']:8.1f}"
        )
    return lines


def _points(entry: Mapping[str, Any], key: str) -> str:
    return f"{100 * entry[key]:+.2f}" if key in entry else ""


def _trust(record: Mapping[str, Any]) -> list[str]:
    found: Sequence[Mapping[str, Any]] = [
        t for t in record["trust"] if t["kind"] == "layer" and t["truth"] == "drop_alone"
    ]
    told = ", ".join(f"{t['estimate']} {t['spearman']:.2f}" for t in found)
    return (
        [f"estimates against the true loss, rank correlation on {found[0]['n']} layers: {told}"]
        if found
        else []
    )


def _alarms(record: Mapping[str, Any]) -> list[str]:
    lines = []
    for alarm in record["alarms"]:
        who = ", ".join(row["name"] for row in alarm["regions"]) or "no single region"
        layers = ", ".join(row["name"] for row in alarm["layers"]) or "no single layer"
        state = "VANISHES" if alarm["vanished"] else "COLLAPSES"
        lines.append(
            f"ALARM: class {alarm['class']} {state} at {alarm['plan']}: {100 * alarm['float']:.1f} to"
            f" {100 * alarm['quantized']:.1f}; regions: {who}; layers: {layers}"
        )
    if not record["alarms"] and record["float"]["per_class"]:
        lines.append(f"no class loses more than {record['share']:.0%} of its {record['metric']}")
    return lines
