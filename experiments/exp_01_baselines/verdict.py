"""Keep or drop: every configuration against the latency budgets, end to end, as a table and a plot.

    python experiments/exp_01_baselines/verdict.py        in a run folder

Writes verdict.json and verdict.svg. The time of the NPU is Qualcomm's estimate at the size of the budget,
that of pre- and postprocessing was measured on the CPU of the machine that ran this, by numpy code.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

COLORS = ("#1b6ca8", "#c8553d", "#3b8f5a", "#8a5fbf", "#a07a1f", "#4d4d4d")
WIDTH, HEIGHT, LEFT, BOTTOM = 760, 420, 70, 60


def main() -> int:
    config = json.loads(Path("config.json").read_text())
    results = json.loads(Path("results.json").read_text())
    rows = verdicts(results, config)
    Path("verdict.json").write_text(json.dumps(rows, indent=1) + "\n")
    Path("verdict.svg").write_text(plot(rows, budget=config["budget"]))
    print(table(rows, budget=config["budget"]))
    return 0


def verdicts(results: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a configuration that runs on the NPU, the most accurate first."""
    rows = {row["id"]: row for row in results["results"] if row.get("evaluated_on") == "ort"}
    told = [
        entry(row, budget=config["budget"], size=str(config["at"]["imgsz"]))
        for row in rows.values()
        if row["plan"] != "fp32"
    ]
    return sorted(told, key=lambda e: -e["map"])


def entry(row: Mapping[str, Any], *, budget: Mapping[str, float], size: str) -> dict[str, Any]:
    """Accuracy and the parts of the end-to-end time of one configuration, with its verdict."""
    model, plan = row["id"].split("/")
    files = [Path(f"models/{model}/{kind}-sized/{plan}.json") for kind in ("profile", "host")]
    latency, host = (json.loads(path.read_text()) for path in files)
    parts = {
        "preprocess_ms": host["host_ms"]["preprocess"],
        "npu_ms": latency["latency"]["value_ms"],
        "postprocess_ms": host["host_ms"]["postprocess"],
    }
    total = sum(parts.values())
    worst = total - parts["npu_ms"] + latency["latency"]["high_ms"]
    return {
        "id": row["id"],
        "model": row["model"],
        "plan": row["plan"],
        "map": row["metrics"]["map"],
        "map50": row["metrics"]["map50"],
        "at": size,
        **parts,
        "end_to_end_ms": round(total, 3),
        "end_to_end_high_ms": round(worst, 3),
        "verdict": verdict(worst, limit=budget["ms"]),
        "tight_verdict": verdict(worst, limit=budget["tight_ms"]),
        "source": "estimate (NPU), measured on this CPU (pre- and postprocessing)",
        "cpu": host["host_ms"].get("cpu"),
        "missing_ops": latency["latency"].get("missing_ops", 0),
    }


def verdict(ms: float, *, limit: float) -> str:
    """Keep what stays within the limit with the upper bound of its estimate."""
    return "keep" if ms <= limit else "drop"


def table(rows: Sequence[Mapping[str, Any]], *, budget: Mapping[str, float]) -> str:
    """The table in Markdown."""
    lines = [
        "| configuration | mAP50-95 | pre, ms | NPU (estimate), ms | post, ms | end to end, ms "
        f"| {budget['ms']:g} ms | {budget['tight_ms']:g} ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['id']} | {100 * row['map']:.1f} | {row['preprocess_ms']:.2f} | {row['npu_ms']:.2f} "
            f"| {row['postprocess_ms']:.2f} | {row['end_to_end_ms']:.2f} | {row['verdict']} "
            f"| {row['tight_verdict']} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], *, budget: Mapping[str, float]) -> str:
    """Accuracy over end-to-end time (log), one point a configuration, a line a budget, as SVG."""
    times = [row["end_to_end_ms"] for row in rows] + [budget["ms"], budget["tight_ms"]]
    low, high = math.log(min(times) * 0.8), math.log(max(times) * 1.25)
    scores = [100 * row["map"] for row in rows]
    bottom, top = min(scores) - 2, max(scores) + 2

    def x(ms: float) -> float:
        return LEFT + (math.log(ms) - low) / (high - low) * (WIDTH - LEFT - 20)

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - (score - bottom) / (top - bottom) * (HEIGHT - BOTTOM - 20)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">end to end, ms (log)</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
        "mAP50-95</text>",
    ]
    for tick in range(math.ceil(bottom), math.floor(top) + 1, max(1, round((top - bottom) / 6))):
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#eee"/>'
        )
    for ms in (budget["tight_ms"], budget["ms"]):
        parts.append(
            f'<line x1="{x(ms):.1f}" x2="{x(ms):.1f}" y1="20" y2="{HEIGHT - BOTTOM}" stroke="#999" '
            f'stroke-dasharray="4 4"/><text x="{x(ms):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{ms:g} ms</text>"
        )
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(dict.fromkeys(r["model"] for r in rows))}
    for row in rows:
        at, score = x(row["end_to_end_ms"]), y(100 * row["map"])
        parts.append(f'<circle cx="{at:.1f}" cy="{score:.1f}" r="5" fill="{colors[row["model"]]}"/>')
        parts.append(f'<text x="{at + 8:.1f}" y="{score - 6:.1f}">{escape(row["id"])}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
