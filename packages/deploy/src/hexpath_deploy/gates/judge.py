"""The verdict: every gate's figures against its limit, gates.json, and what a shell needs to know of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hexpath_deploy.errors import GateError, RecordError
from hexpath_deploy.files import read_json, sha256_file, write_json
from hexpath_deploy.gates.advice import ADVICE, unknown
from hexpath_deploy.gates.checks import GATES
from hexpath_deploy.gates.evidence import Evidence, Files
from hexpath_deploy.gates.figure import Figure
from hexpath_deploy.gates.limits import Limit, Limits, read_limits
from hexpath_deploy.hexagon import toolchain

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"


def judge(files: Files, *, gates: Path | None, out: Path, threshold: str | None = None) -> dict[str, Any]:
    """Judge every gate and write the verdict `out`; returns it. A failed gate is no error here.

    Raises:
        GatesFileError: the limits cannot be read.
        RecordError, StaleArtifactError, DatasetError: a stage's file is missing, broken, or another model's.
    """
    began = time.monotonic()
    limits = read_limits(gates, threshold=threshold)
    evidence = Evidence(files, limits=limits)
    rows = [row for limit in limits.of_task(evidence.task) for row in rows_of(limit, evidence)]
    record: dict[str, Any] = {
        "schema": 1,
        "verdict": PASS if all(row["counts_as"] == PASS for row in rows) else FAIL,
        "task": evidence.task,
        "counts": dict(Counter(str(row["verdict"]) for row in rows)),
        **operating_point(evidence, limits),
        "gates": rows,
        "limits": limits.path,
        "files": {
            name: {"path": str(path), "sha256": sha256_file(path)}
            for name, path in vars(files).items()
            if path is not None
        },
        **identity(evidence),
        "seconds": round(time.monotonic() - began, 2),
        "tools": toolchain.versions(),
    }
    write_json(out, record)
    return record


def operating_point(evidence: Evidence, limits: Limits) -> dict[str, Any]:
    """Return at which score and overlap detections were counted; a semantic network has none."""
    if evidence.task == "semantic":
        return {}
    rule = limits.threshold if isinstance(limits.threshold, str) else "given"
    return {"threshold": evidence.threshold, "threshold_rule": rule, "iou": limits.iou}


def identity(evidence: Evidence) -> dict[str, str]:
    """Return which model and artifact were judged, for which target."""
    card, evaluation = evidence.compiled, evidence.evaluation
    found = {
        "model_sha256": card.get("model_sha256") or evaluation.get("model_sha256"),
        "artifact_sha256": card.get("binary_sha256"),
        "target": card.get("target"),
        "evaluated_on": evaluation.get("evaluated_on"),
    }
    return {name: str(value) for name, value in found.items() if value}


def rows_of(limit: Limit, evidence: Evidence) -> list[dict[str, Any]]:
    """Judge one gate: a row a figure. A gate without any figure is unknown."""
    gate = GATES[limit.gate]
    figures = list(gate.figures(evidence, limit)) or [Figure(value=None, note="there was nothing to count")]
    return [row_of(figure, limit=limit, evidence=evidence) for figure in figures]


def row_of(figure: Figure, *, limit: Limit, evidence: Evidence) -> dict[str, Any]:
    """Judge one figure."""
    verdict = verdict_of(figure, limit)
    waived = verdict == UNKNOWN and not limit.required
    row: dict[str, Any] = {
        "gate": limit.gate,
        "title": GATES[limit.gate].title,
        "subject": figure.subject,
        "unit": GATES[limit.gate].unit,
        "side": limit.side,
        "limit": limit.of(figure.subject),
        "verdict": verdict,
        "counts_as": PASS if waived else verdict,
        "source": figure.source,
        "basis": figure.basis,
        "note": figure.note,
    }
    if figure.value is not None:
        row["figure"] = figure.value
    if waived:
        row["waived"] = limit.reason
    if row["counts_as"] != PASS:
        row["explain"] = explain(figure, limit=limit, evidence=evidence)
    return {key: value for key, value in row.items() if value != ""}


def verdict_of(figure: Figure, limit: Limit) -> str:
    """Return pass, fail or unknown; a figure that is a lower bound cannot pass."""
    if figure.value is None:
        return UNKNOWN
    if not limit.holds(figure.value, figure.subject):
        return FAIL
    return PASS if figure.holds else UNKNOWN


def explain(figure: Figure, *, limit: Limit, evidence: Evidence) -> str:
    """Return what would make the gate pass."""
    if figure.value is None:
        return unknown(figure)
    return ADVICE[limit.gate](figure, limit, evidence)


def read_verdict(path: Path) -> dict[str, Any]:
    """Read gates.json.

    Raises:
        RecordError: it is missing or is none.
    """
    record = read_json(path)
    if not isinstance(record.get("gates"), list) or "verdict" not in record or not record["gates"]:
        raise RecordError(f"{path} is no verdict of gates: write it with hexpath-deploy gate")
    return record


def refuse(record: Mapping[str, Any], *, path: Path) -> None:
    """Raise unless every gate passed or was waived.

    Raises:
        GateError: one line that names the gates.
    """
    bad = [row for row in record["gates"] if row["counts_as"] != PASS]
    if record["verdict"] == PASS and not bad:
        return
    failed = [name_of(row) for row in bad if row["verdict"] == FAIL]
    open_ = [name_of(row) for row in bad if row["verdict"] == UNKNOWN]
    told = [f"{len(failed)} failed ({', '.join(failed)})"] * bool(failed)
    told += [f"{len(open_)} have no figure ({', '.join(open_)})"] * bool(open_)
    raise GateError(f"release gates: {'; '.join(told)}; see {path}, or gate --explain")


def name_of(row: Mapping[str, Any]) -> str:
    """Return a gate's name with its class."""
    return f"{row['gate']} of {row['subject']}" if row.get("subject") else str(row["gate"])


def table(record: Mapping[str, Any], *, advice: bool) -> str:
    """Return the verdict as a text table, with the advice below failed gates."""
    lines = []
    for row in record["gates"]:
        value = amount(row["figure"], row["unit"]) if "figure" in row else "?"
        sign = "<=" if row["side"] == "max" else ">="
        mark = {PASS: "pass   ", FAIL: "FAIL   ", UNKNOWN: "UNKNOWN"}[row["verdict"]]
        mark = "waived " if "waived" in row else mark
        title = row["title"] + (f", {row['subject']}" if row.get("subject") else "")
        limit = f"{sign} {amount(row['limit'], row['unit'])}"
        lines.append(f"{mark} {title:<42} {value:>8} {limit:<10} {row.get('note', '')}".rstrip())
        if "waived" in row:
            lines.append(f"        waived: {row['waived']}")
        if advice and "explain" in row:
            lines.append(f"        -> {row['explain']}")
    return "\n".join(lines)


def amount(value: float, unit: str) -> str:
    """Return a figure with the digits that its unit deserves."""
    digits = {"ms": 2, "MB": 2, "share": 3, "count": 2, "dB": 1, "points": 2}[unit]
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if unit == "count" else text
