"""What every post-training method gains over min-max, and what it takes, as tables and a plot.

    python experiments/exp_02_ptq/methods.py        in a run folder

Writes methods.json and methods.svg, and prints the tables in Markdown. The cost is the processor time of the
method alone: all its passes over the calibration images, without preparing, exporting and scoring.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

COLORS = ("#1b6ca8", "#7fb2d9", "#c8553d", "#e5a890", "#3b8f5a", "#8a5fbf")
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 820, 460, 70, 20, 60, 40
BASE = "minmax"

Row = Mapping[str, Any]


def main() -> int:
    results = json.loads(Path("results.json").read_text())
    rows = facts(results)
    Path("methods.json").write_text(json.dumps(rows, indent=1) + "\n")
    Path("methods.svg").write_text(plot([row for row in rows if "gain" in row]))
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        print(f"{model}\n\n{method_table(own)}\n")
        if any("selection" in row for row in own):
            print(f"{image_table(own)}\n")
    return 0


def facts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a quantized row: loss against FP32 and gain over min-max in points, cost in seconds."""
    rows = [row for row in results["results"] if row.get("evaluated_on") == "ort"]
    float32 = {row["model"]: float(row["metrics"]["map"]) for row in rows if row["plan"] == "fp32"}
    told = [fact(row, float32=float32[row["model"]]) for row in rows if row["plan"] != "fp32"]
    bases = {
        (one["model"], one["plan"]): one["map"]
        for one in told
        if one["method"] == BASE and "selection" not in one
    }
    for one in told:
        base = bases.get((one["model"], one["plan"]))
        if base is not None and "selection" not in one and one["method"] != BASE:
            one["gain"] = round(100 * (one["map"] - base), 2)
    return told


def fact(row: Row, *, float32: float) -> dict[str, Any]:
    """The figures of one row."""
    params = row["params"]
    return {
        "id": row["id"],
        "model": row["model"],
        "plan": row["plan"],
        "method": str(row["method"]).removeprefix("ptq:"),
        "map": float(row["metrics"]["map"]),
        "loss": round(100 * (float(row["metrics"]["map"]) - float32), 2),
        "images": params["calibration_images"],
        "seconds": params["method_cpu_seconds"],
        **({"selection": params["selection"]} if "selection" in params else {}),
    }


def method_table(rows: Sequence[Row]) -> str:
    """Methods by plans: points lost against FP32, and the cost under the last plan that has one."""
    tried = {(row["method"], row["plan"]): row for row in rows if "selection" not in row}
    plans = list(dict.fromkeys(plan for _, plan in tried))
    lines = [f"| method | {' | '.join(plans)} | seconds |", "|---|" + "---|" * (len(plans) + 1)]
    for method in dict.fromkeys(method for method, _ in tried):
        own = [tried.get((method, plan)) for plan in plans]
        cells = [f"{row['loss']:+.1f}" if row else "" for row in own]
        seconds = [row["seconds"] for row in own if row]
        lines.append(f"| {method} | {' | '.join(cells)} | {min(seconds):.0f} to {max(seconds):.0f} |")
    return "\n".join(lines)


def image_table(rows: Sequence[Row]) -> str:
    """Selections by numbers of images: points lost against FP32."""
    chosen = [row for row in rows if "selection" in row]
    counts = sorted({row["images"] for row in chosen})
    lines = [
        f"| plan, method | selection | {' | '.join(map(str, counts))} |",
        "|---|---|" + "---|" * len(counts),
    ]
    for plan, method, how in dict.fromkeys((r["plan"], r["method"], r["selection"]) for r in chosen):
        found = {
            row["images"]: f"{row['loss']:+.1f}"
            for row in chosen
            if (row["plan"], row["method"], row["selection"]) == (plan, method, how)
        }
        cells = " | ".join(found.get(count, "") for count in counts)
        lines.append(f"| {plan}, {method} | {how} | {cells} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row]) -> str:
    """Gain over min-max in points over the method's processor time (log), one colour a plan, as SVG."""
    if not rows:
        return '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"></svg>\n'
    times, gains = [row["seconds"] for row in rows], [row["gain"] for row in rows]
    low, high = math.log(max(min(times), 0.1) * 0.8), math.log(max(times) * 1.9)
    margin = 0.08 * (max(gains) - min(gains)) + 0.2
    bottom, top = min(*gains, 0.0) - margin, max(*gains, 0.0) + margin

    def x(seconds: float) -> float:
        return LEFT + (math.log(max(seconds, 0.1)) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(gain: float) -> float:
        return HEIGHT - BOTTOM - (gain - bottom) / (top - bottom) * (HEIGHT - BOTTOM - TOP)

    models = list(dict.fromkeys(row["model"] for row in rows))
    colors = dict(zip(dict.fromkeys(row["plan"] for row in rows), COLORS, strict=False))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 14}" text-anchor="middle">processor time of the '
        "method, seconds (log)</text>",
        f'<text x="18" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 18 {HEIGHT / 2})">'
        "mAP50-95 against min-max, points</text>",
        *axis_y(bottom, top, at=y),
        *axis_x(low, high, at=x),
        *legend(colors),
    ]
    places: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda r: -r["gain"]):
        at, height = x(row["seconds"]), y(row["gain"])
        color = colors.get(row["plan"], "#4d4d4d")
        name = row["method"] if len(models) == 1 else f"{row['model']} {row['method']}"
        parts.append(f'<circle cx="{at:.1f}" cy="{height:.1f}" r="4.5" fill="{color}"/>')
        parts.append(label(name, at=at, height=height, color=color, places=places))
    return "\n".join([*parts, "</svg>"]) + "\n"


def label(name: str, *, at: float, height: float, color: str, places: list[tuple[float, float]]) -> str:
    """A point's name beside it, moved down while it would lie on another's."""
    line = height + 4
    while any(abs(line - other) < 12 and abs(at - there) < 150 for there, other in places):
        line += 3
    places.append((at, line))
    return f'<text x="{at + 8:.1f}" y="{line:.1f}" font-size="11" fill="{color}">{escape(name)}</text>'


def axis_y(bottom: float, top: float, *, at: Any) -> list[str]:
    """Lines and figures of the gain; the line of min-max is dark."""
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if (top - bottom) / s <= 8)
    parts = []
    for number in range(math.ceil(bottom / step), math.floor(top / step) + 1):
        height = at(number * step)
        stroke = "#888" if number == 0 else "#eee"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="{stroke}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{number * step:+g}</text>')
    return parts


def axis_x(low: float, high: float, *, at: Any) -> list[str]:
    """Figures of the cost."""
    marks = [m * 10**k for k in range(-1, 5) for m in (1, 2, 5)]
    return [
        f'<text x="{at(mark):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{mark:g}</text>'
        for mark in marks
        if low <= math.log(mark) <= high
    ]


def legend(colors: Mapping[str, str]) -> list[str]:
    """The plans' colours, above the plot."""
    parts = []
    for index, (plan, color) in enumerate(colors.items()):
        left = LEFT + 10 + 150 * index
        parts.append(f'<circle cx="{left}" cy="18" r="4.5" fill="{color}"/>')
        parts.append(f'<text x="{left + 10}" y="22" fill="{color}">{escape(plan)}</text>')
    return parts


if __name__ == "__main__":
    sys.exit(main())
