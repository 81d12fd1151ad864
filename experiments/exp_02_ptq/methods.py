"""What every post-training method gains over min-max, and what it takes, as tables and a plot.

    python experiments/exp_02_ptq/methods.py        in a run folder

Writes methods.json and methods.svg, and prints the tables in Markdown. The cost is the processor time of the
method alone: all its passes over the calibration images, without preparing, exporting and scoring.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from plot import log_x, name_points, save

COLUMNS = 2  # panels
BASE = "minmax"

Row = Mapping[str, Any]


def main() -> int:
    results = json.loads(Path("results.json").read_text())
    rows = facts(results)
    Path("methods.json").write_text(json.dumps(rows, indent=1) + "\n")
    save(plot([row for row in rows if "gain" in row]), Path("methods.svg"))
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


def plot(rows: Sequence[Row]) -> Figure:
    """Gain over min-max in points over the method's processor time (log), a panel a model and plan."""
    groups = dict.fromkeys((row["model"], row["plan"]) for row in rows)
    shown = {group: [row for row in rows if (row["model"], row["plan"]) == group] for group in groups}
    lines = max(1, -(-len(shown) // COLUMNS))
    figure = Figure(figsize=(5 * COLUMNS, 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, sharex=True, squeeze=False).flatten()
    for axes, ((model, plan), own) in zip(panels, shown.items(), strict=False):
        axes.set_title(f"{model} {plan}", loc="left", fontweight="bold")
        log_x(axes)
        axes.set(xlabel="processor time, seconds", ylabel="points against min-max")
        axes.tick_params(labelbottom=True)
        axes.axhline(0, color="#888", linewidth=1)
        axes.plot([row["seconds"] for row in own], [row["gain"] for row in own], "o", gid="points")
        axes.margins(x=0.1, y=0.18)
    for axes in panels[len(shown) :]:
        axes.remove()
    # Behind the last point, since all panels share the axis of time.
    for axes, own in zip(panels, shown.values(), strict=False):
        name_points(axes, [(row["seconds"], row["gain"]) for row in own], [row["method"] for row in own])
    return figure


if __name__ == "__main__":
    sys.exit(main())
