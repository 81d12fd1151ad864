"""An analysis as tables in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hexpath_quant.tracking import Tracker

COLUMNS = (
    "kind", "name", "part", "plan", "region", "sqnr_db", "cosine", "metric_alone", "drop_alone",
    "metric_without", "gain_without", "fisher", "diagonal",
)  # fmt: skip


def log_tables(record: Mapping[str, Any], *, folder: Path) -> None:
    """Log entries, the class x region matrix, and alarms; nothing where tracking is off."""
    facts = {key: record[key] for key in ("task", "model", "plans", "method", "images")}
    tracker = Tracker(
        config=facts, folder=folder, name=f"sensitivity-{record['plan']}", job_type="sensitivity"
    )
    rows = [[entry.get(column) for column in COLUMNS] for entry in record["entries"]]
    tracker.table("sensitivity", columns=COLUMNS, rows=rows)
    tracker.table(
        "sensitivity_classes",
        columns=("kind", "name", "plan", "class", "alone", "without"),
        rows=[
            [entry["kind"], entry["name"], entry["plan"], name, figures.get("alone"), figures.get("without")]
            for entry in record["entries"]
            for name, figures in entry.get("per_class", {}).items()
            if entry["part"] == "both"
        ],
    )
    tracker.table(
        "collapse_alarms",
        columns=("class", "plan", "float", "quantized", "regions", "layers"),
        rows=[
            [
                *(alarm[key] for key in ("class", "plan", "float", "quantized")),
                ", ".join(row["name"] for row in alarm["regions"]),
                ", ".join(row["name"] for row in alarm["layers"]),
            ]
            for alarm in record["alarms"]
        ],
    )
    tracker.finish()
