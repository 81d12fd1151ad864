"""Logs a record to Weights & Biases: tables, figures, the report, the record as an artifact with its lineage.

W&B only copies: the record on disk is read, never written, whatever fails here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hexpath_deploy.errors import ReportError, TrackingError, TrackingMissingError
from hexpath_deploy.report.comparison import compare, headline, primary_metric
from hexpath_deploy.report.redact import redact, secrets

PROJECT = "hexpath"
TIMEOUT_S = 30.0
# Columns of the table of rows: name, path into the row.
COLUMNS = {
    "id": ("id",), "model": ("model",), "method": ("method",), "plan": ("plan",), "head": ("head",),
    "evaluated_on": ("evaluated_on",), "images": ("images",), "latency_ms": ("latency", "value_ms"),
    "latency_low_ms": ("latency", "low_ms"), "latency_high_ms": ("latency", "high_ms"),
    "latency_source": ("latency", "source"), "target": ("latency", "target"),
    "missing_ops": ("latency", "missing_ops"), "ddr_mb": ("ddr_mb",), "spill_mb": ("spill_mb",),
    "size_mb": ("size_mb",), "npu_ops": ("npu_ops",), "cpu_ops": ("cpu_ops",),
    "agreement": ("agreement", "verdict"), "artifact": ("artifact",), "sha256": ("sha256",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Logged:
    """Where a record went. mode: `online` or `offline`; place: the run's address or folder."""

    mode: str
    project: str
    place: str


def mode() -> str:
    """WANDB_MODE where set, else online with a WANDB_API_KEY and offline without."""
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def project() -> str:
    """WANDB_PROJECT, else `hexpath`."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def log(results: Mapping[str, Any], *, path: Path, report: Path | None, folder: Path) -> Logged:
    """Log a checked record.

    path: its results.json. report: the HTML file, if there is one. folder: W&B's files go to `folder`/wandb.
    Online without an answer within 30 s, the run is kept offline, to be sent later by `wandb sync`.

    Raises:
        TrackingMissingError: wandb is not installed.
        TrackingError: W&B refused the run, or its files cannot be written; the record is untouched.
        ReportError: a file to log holds the value of a secret environment variable.
    """
    wandb = _wandb()
    for file in (path, report):
        if file is not None:
            _refuse_secrets(file)
    clean = redact(results)
    try:
        run = _start(wandb, results=clean, folder=folder)
        with run:
            _write(wandb, run=run, results=clean, path=path, report=report)
            offline = bool(run.offline)
            place = str(run.settings.sync_dir if offline else run.url)
    except (wandb.errors.Error, OSError) as error:
        raise TrackingError(f"W&B took nothing ({error}); {path} is complete: run `log` again") from error
    return Logged(mode="offline" if offline else "online", project=project(), place=place)


def close() -> None:
    """End W&B's background service; returns when its files are complete. For commands, not for libraries."""
    _wandb().teardown()


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise TrackingMissingError(
            "wandb is not installed: pip install 'hexpath-deploy[wandb]'; the record and the report need none"
        ) from None
    return wandb


def _refuse_secrets(path: Path) -> None:
    data = path.read_bytes()
    if any(value.encode() in data for value in secrets()):
        raise ReportError(f"{path} holds the value of a secret environment variable: write it again without")


def _start(wandb: Any, *, results: Mapping[str, Any], folder: Path) -> Any:
    try:
        return _init(wandb, results=results, folder=folder, how=mode())
    except wandb.errors.Error as error:
        if mode() == "offline":
            raise
        print(f"wandb: no answer ({error}); keeping the run offline", file=sys.stderr)
        return _init(wandb, results=results, folder=folder, how="offline")


def _init(wandb: Any, *, results: Mapping[str, Any], folder: Path, how: str) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        init_timeout=TIMEOUT_S, silent=True, console="off", disable_git=True, save_code=False,
        x_disable_stats=True, x_disable_meta=True,
    )  # fmt: skip
    facts = {
        key: results[key]
        for key in ("experiment", "name", "commit", "command", "dataset", "tools", "pins")
        if key in results
    }
    return wandb.init(
        project=project(),
        group=f"{results['experiment']}/{results['name']}",
        name=f"{results['name']} report",
        job_type="report",
        config={**results.get("config", {}), "record": facts},
        dir=str(folder),
        mode=how,
        notes=" ".join(results.get("answer", [])) or None,
        settings=settings,
    )


def _write(wandb: Any, *, run: Any, results: Mapping[str, Any], path: Path, report: Path | None) -> None:
    columns, rows = row_table(results)
    class_columns, class_rows = class_table(results)
    logged: dict[str, Any] = {"results": wandb.Table(columns=columns, data=rows)}
    if class_rows:
        logged["per_class"] = wandb.Table(columns=class_columns, data=class_rows)
    if report is not None:
        logged["report"] = wandb.Html(report.read_text(encoding="utf-8"), inject=False)
    run.log(logged)
    run.summary.update(scalars(results))
    fingerprint = results["dataset"]["fingerprint"]
    hashes = {row["id"]: row["sha256"] for row in results["results"] if "sha256" in row}
    lineage = {"dataset_fingerprint": fingerprint, "commit": results.get("commit", ""), "artifacts": hashes}
    artifact = wandb.Artifact(
        f"{results['experiment']}-{results['name']}-results", type="results", metadata=lineage
    )
    artifact.add_file(str(path), name="results.json")
    if report is not None:
        artifact.add_file(str(report), name="report.html")
    run.log_artifact(artifact)


def row_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The rows of the record as a flat table: column names, and a list a row."""
    metrics = sorted({name for row in results["results"] for name in row.get("metrics", {})})
    columns = [*COLUMNS, *metrics]
    rows = [
        [
            *(_at(row, path=path) for path in COLUMNS.values()),
            *(row.get("metrics", {}).get(name) for name in metrics),
        ]
        for row in results["results"]
    ]
    return columns, rows


def _at(row: Mapping[str, Any], *, path: tuple[str, ...]) -> Any:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def class_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Figures by class: id, evaluated_on, class, metric, value."""
    rows = [
        [row["id"], row["evaluated_on"], name, metric, value]
        for row in results["results"]
        for name, figures in row.get("per_class", {}).items()
        for metric, value in figures.items()
    ]
    return ["id", "evaluated_on", "class", "metric", "value"], rows


def scalars(results: Mapping[str, Any]) -> dict[str, float | str]:
    """Figures for W&B's summary: `<id>/map`, `<id>/loss_points`, `<id>/latency_ms_estimate`, ..."""
    metric = primary_metric(results)
    found: dict[str, float | str] = {}
    compared = compare(results)
    for item in compared:
        found |= {f"{item.plan.id}/{name}": value for name, value in item.plan.metrics.items()}
        if metric in item.loss:
            found[f"{item.plan.id}/loss_points"] = 100 * item.loss[metric]
        if item.plan.latency:
            found[f"{item.plan.id}/latency_ms_{item.plan.latency['source']}"] = item.plan.latency["value_ms"]
        if item.speedup is not None:
            found[f"{item.plan.id}/speedup"] = item.speedup
    best = headline(results, found=compared)
    return found | ({"headline": best.plan.id} if best else {})
