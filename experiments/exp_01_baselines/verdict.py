"""Keep or drop: every configuration against the latency budgets, end to end, as a table and a plot.

    python experiments/exp_01_baselines/verdict.py        in a run folder

Writes verdict.json and verdict.svg. The time of the NPU is Qualcomm's estimate at the size of the budget,
that of pre- and postprocessing was measured on the CPU of the machine that ran this, by numpy code.
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


def main() -> int:
    config = json.loads(Path("config.json").read_text())
    results = json.loads(Path("results.json").read_text())
    rows = verdicts(results, config)
    Path("verdict.json").write_text(json.dumps(rows, indent=1) + "\n")
    save(plot(rows, budget=config["budget"]), Path("verdict.svg"))
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
        "preprocess_ms": host["host_ms"]["preprocess_quiet"],
        "npu_ms": latency["latency"]["value_ms"],
        "postprocess_ms": host["host_ms"]["postprocess_quiet"],
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


def plot(rows: Sequence[Mapping[str, Any]], *, budget: Mapping[str, float]) -> Figure:
    """Accuracy over end-to-end time: a point a configuration, its upper bound, a line a budget."""
    figure = Figure(figsize=(7.9, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(
        xlabel="end to end, ms (log); the bar ends at the upper bound of the estimate",
        ylabel="mAP50-95",
    )
    log_x(axes)
    axes.margins(x=0.12, y=0.15)
    for ms in (budget["tight_ms"], budget["ms"]):
        axes.axvline(ms, color="#999", linestyle="--", linewidth=1)
        at = axes.get_xaxis_transform()
        axes.text(ms, 1.01, f"budget {ms:g} ms", ha="center", va="bottom", transform=at)
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(row["model"] for row in rows))}
    for row in rows:
        score, color = 100 * row["map"], colors[row["model"]]
        axes.plot([row["end_to_end_ms"], row["end_to_end_high_ms"]], [score, score], color=color, linewidth=1)
        fill = "white" if row["plan"].startswith("fp") else color
        axes.plot(
            row["end_to_end_ms"], score, "o", color=color, markerfacecolor=fill, gid=f"point-{row['id']}"
        )
    points = [(row["end_to_end_ms"], 100 * row["map"]) for row in rows]
    name_points(axes, points, [row["id"] for row in rows])
    return figure


if __name__ == "__main__":
    sys.exit(main())
