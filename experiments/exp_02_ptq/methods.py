"""What every post-training method gains over min-max, and what it takes, as tables and a plot.

    python experiments/exp_02_ptq/methods.py        in a run folder

Writes methods.json and methods.svg, and prints the tables in Markdown. The cost is the processor time of the
method alone: all its passes over the calibration images, without preparing, exporting and scoring.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

COLOR = "#1b6ca8"
COLUMNS, WIDTH, HEIGHT = 2, 480, 280  # panels; pixels of one
LEFT, RIGHT, BOTTOM, TOP = 60, 15, 46, 34
BASE = "minmax"

Row = Mapping[str, Any]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


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
    """Gain over min-max in points over the method's processor time (log), a panel a plan, as SVG."""
    groups = list(dict.fromkeys((row["model"], row["plan"]) for row in rows))
    height = HEIGHT * -(-len(groups) // COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} {max(height, 10)}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{COLUMNS * WIDTH}" height="{max(height, 10)}" fill="white"/>',
    ]
    seconds = [row["seconds"] for row in rows]
    for index, (model, plan) in enumerate(groups):
        own = [row for row in rows if (row["model"], row["plan"]) == (model, plan)]
        left, top = WIDTH * (index % COLUMNS), HEIGHT * (index // COLUMNS)
        parts.append(f'<g transform="translate({left} {top})">')
        parts += [*panel(own, title=f"{model} {plan}", seconds=seconds), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(rows: Sequence[Row], *, title: str, seconds: Sequence[float]) -> list[str]:
    """The points of one model and plan; all panels share the axis of time."""
    low, high = math.log(max(min(seconds), 0.1) * 0.7), math.log(max(*seconds, 1.0) * 1.4)
    gains = [row["gain"] for row in rows]
    margin = 0.15 * (max(*gains, 0.0) - min(*gains, 0.0)) + 0.1
    bottom, top = min(*gains, 0.0) - margin, max(*gains, 0.0) + margin

    def x(value: float) -> float:
        return LEFT + (math.log(max(value, 0.1)) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(gain: float) -> float:
        return HEIGHT - BOTTOM - (gain - bottom) / (top - bottom) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<text x="{LEFT}" y="{TOP - 12}" font-size="13" font-weight="bold">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="#555">'
        "processor time, seconds</text>",
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" fill="#555" '
        f'transform="rotate(-90 14 {HEIGHT / 2})">points against min-max</text>',
        *axis_y(bottom, top, at=y),
        *axis_x(low, high, at=x),
    ]
    points = [(x(row["seconds"]), y(row["gain"]), row["method"]) for row in rows]
    taken = [(at - 5, height - 5, at + 5, height + 5) for at, height, _ in points]
    for at, height, name in sorted(points, key=lambda point: point[1]):
        parts.append(f'<circle cx="{at:.1f}" cy="{height:.1f}" r="4.5" fill="{COLOR}"/>')
        parts.append(label(name, at=at, height=height, taken=taken))
    return parts


def label(name: str, *, at: float, height: float, taken: list[Box]) -> str:
    """A point's name right of it, left, above or below: the first place where nothing lies yet."""
    wide = 6.2 * len(name)
    places = [
        ("start", at + 8, height + 4),
        ("end", at - 8, height + 4),
        ("middle", at, height - 9),
        ("middle", at, height + 17),
        ("end", at + 6, height + 17),
        ("start", at - 6, height + 17),
    ]

    def box(anchor: str, x: float, line: float) -> Box:
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * wide
        return left, line - 9, left + wide, line + 2

    def is_free(found: Box) -> bool:
        inside = found[0] >= LEFT and found[2] <= WIDTH - RIGHT
        return inside and all(
            found[0] > other[2] or found[2] < other[0] or found[1] > other[3] or found[3] < other[1]
            for other in taken
        )

    anchor, x, line = next((place for place in places if is_free(box(*place))), places[0])
    taken.append(box(anchor, x, line))
    return f'<text x="{x:.1f}" y="{line:.1f}" font-size="11" text-anchor="{anchor}">{escape(name)}</text>'


def axis_y(bottom: float, top: float, *, at: Callable[[float], float]) -> list[str]:
    """Lines and figures of the gain; the line of min-max is dark."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if (top - bottom) / s <= 6)
    parts = []
    for number in range(math.ceil(bottom / step), math.floor(top / step) + 1):
        height, stroke = at(number * step), "#888" if number == 0 else "#e6e6e6"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="{stroke}"/>'
        )
        sign = "" if number == 0 else "+"
        figure = f"{number * step:{sign}.2g}"
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{figure}</text>')
    return parts


def axis_x(low: float, high: float, *, at: Callable[[float], float]) -> list[str]:
    """Figures of the cost."""
    marks = [m * 10.0**k for k in range(-1, 5) for m in (1, 2, 5)]
    return [
        f'<text x="{at(mark):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{mark:g}</text>'
        for mark in marks
        if low <= math.log(mark) <= high
    ]


if __name__ == "__main__":
    sys.exit(main())
