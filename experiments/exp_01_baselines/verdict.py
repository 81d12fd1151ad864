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
from typing import Any, NamedTuple

COLORS = ("#1b6ca8", "#c8553d", "#3b8f5a", "#8a5fbf", "#a07a1f", "#4d4d4d")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 20, 36, 50


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
        "preprocess_ms": undisturbed(host["host_ms"], "preprocess"),
        "npu_ms": latency["latency"]["value_ms"],
        "postprocess_ms": undisturbed(host["host_ms"], "postprocess"),
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


def undisturbed(host_ms: Mapping[str, Any], stage: str) -> float:
    """What a stage takes undisturbed: by the clock, or its CPU time where other load held it up."""
    return float(min(host_ms[stage], host_ms[f"{stage}_cpu"]))


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


class Axes(NamedTuple):
    """Where milliseconds (log) and points lie on the picture, both given as (low, high)."""

    ms: tuple[float, float]
    points: tuple[float, float]

    def x(self, ms: float) -> float:
        """Return the pixel column of a time."""
        low, high = map(math.log, self.ms)
        return LEFT + (math.log(ms) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, points: float) -> float:
        """Return the pixel row of an accuracy."""
        low, high = self.points
        return HEIGHT - BOTTOM - (points - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def plot(rows: Sequence[Mapping[str, Any]], *, budget: Mapping[str, float]) -> str:
    """Accuracy over end-to-end time as SVG: a point a configuration, its upper bound, a line a budget."""
    times = [row[key] for row in rows for key in ("end_to_end_ms", "end_to_end_high_ms")] + [*budget.values()]
    scores = [100 * row["map"] for row in rows]
    axes = Axes(
        ms=(min(times) * 0.8, max(times) * 1.25), points=(max(min(scores) - 2, 0), min(max(scores) + 2, 100))
    )
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(dict.fromkeys(r["model"] for r in rows))}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *grid(axes),
        *(line(axes, ms=ms) for ms in (budget["tight_ms"], budget["ms"])),
        *(point(row, axes=axes, color=colors[row["model"]]) for row in rows),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def grid(axes: Axes) -> list[str]:
    """Ticks and titles of both axes."""
    low, high = axes.points
    found = [
        text(WIDTH / 2, HEIGHT - 8, "end to end, ms (log); the bar ends at the upper bound of the estimate"),
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
        "mAP50-95</text>",
    ]
    for tick in range(math.ceil(low), math.floor(high) + 1, max(1, round((high - low) / 6))):
        y = axes.y(tick)
        found += [
            text(LEFT - 8, y + 4, f"{tick}", anchor="end"),
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>',
        ]
    ticks = [step * 10**power for power in range(-1, 4) for step in (1, 2, 5)]
    shown = [ms for ms in ticks if axes.ms[0] <= ms <= axes.ms[1]]
    return found + [text(axes.x(ms), HEIGHT - BOTTOM + 18, f"{ms:g}") for ms in shown]


def line(axes: Axes, *, ms: float) -> str:
    """A budget."""
    x = axes.x(ms)
    stroke = f'y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#999" stroke-dasharray="4 4"/>'
    return f'<line x1="{x:.1f}" x2="{x:.1f}" {stroke}' + text(x, TOP - 8, f"budget {ms:g} ms")


def point(row: Mapping[str, Any], *, axes: Axes, color: str) -> str:
    """A configuration, named where there is room: in integers filled and named below, else above."""
    x, y, end = axes.x(row["end_to_end_ms"]), axes.y(100 * row["map"]), axes.x(row["end_to_end_high_ms"])
    is_float = row["plan"].startswith("fp")
    fill, beside = ("white", y - 7) if is_float else (color, y + 17)
    left = x > WIDTH - RIGHT - 150
    return (
        f'<line x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{color}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{color}" stroke-width="2"/>'
        + text(x - 9 if left else x + 9, beside, escape(row["id"]), anchor="end" if left else "start")
    )


def text(x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


if __name__ == "__main__":
    sys.exit(main())
