"""The report: one self-contained HTML file, from a checked record and the files that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hexpath_deploy.report import card, labels
from hexpath_deploy.report.comparison import Comparison, compare, headline, primary_metric
from hexpath_deploy.report.curves import Panel, panels
from hexpath_deploy.report.known_error import deviations, known_error, table
from hexpath_deploy.report.masks import Masks, masks
from hexpath_deploy.report.redact import redact, redact_text
from hexpath_deploy.report.samples import Boxes, Picture, picture
from hexpath_deploy.report.scatter import Point, scatter
from hexpath_deploy.report.sensitivity import panels as sensitivity_panels
from hexpath_deploy.report.tables import class_table, common_note, ops_bars, plan_rows, traffic_bars

SCORE_THRESHOLD = 0.25


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What the report shows out of the files that the record names."""

    curves: tuple[Panel, ...]
    pictures: tuple[Picture, ...]
    facts: tuple[tuple[str, str], ...]
    masks: Masks | None = None
    names: tuple[str, ...] = ()


def render(
    results: Mapping[str, Any],
    *,
    root: Path,
    against: str | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    files: bool = True,
) -> str:
    """The HTML of a checked record.

    root: folder that the record's paths are relative to. against: id of the plan that speedups refer to.
    score_threshold: boxes below it are not drawn. files: False leaves out curves, images and the card.

    Raises:
        ReportError: a file that the record names is missing or broken.
        ResultsError: no plan is called `against`.
    """
    clean = redact(results)
    found = compare(clean, against=against)
    drawn = (
        draw(clean, root=root, score_threshold=score_threshold)
        if files
        else Drawn(curves=(), pictures=(), facts=())
    )
    html = (
        environment()
        .get_template("report.html.j2")
        .render(context(clean, found=found, drawn=drawn), score_threshold=score_threshold, files=files)
    )
    return redact_text(html)


def environment() -> Environment:
    """The templates, with every value escaped."""
    made = Environment(
        loader=PackageLoader("hexpath_deploy.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=labels.percent,
        ms=labels.milliseconds,
        mb=labels.megabytes,
        points=labels.points,
        amount=labels.amount,
        level=labels.level,
    )
    return made


def draw(results: Mapping[str, Any], *, root: Path, score_threshold: float = SCORE_THRESHOLD) -> Drawn:
    """Read the curves, images and the dataset card that the record names.

    Raises:
        ReportError: one of them is missing or broken.
    """
    curves = [
        panel
        for number, curve in enumerate(results.get("curves", []))
        for panel in panels(curve, root=root, number=number)
    ]
    boxes = Boxes(root=root, threshold=score_threshold)
    names = _names(results, boxes=boxes)
    pictures = [
        picture(sample, number=number, root=root, boxes=boxes, names=names)
        for number, sample in enumerate(results.get("samples", []))
    ]
    facts = card.facts(results["dataset"], root=root)
    return Drawn(
        curves=tuple(curves),
        pictures=tuple(pictures),
        facts=tuple(facts),
        masks=masks(results, root=root),
        names=tuple(names),
    )


def _names(results: Mapping[str, Any], *, boxes: Boxes) -> list[str]:
    if results["dataset"].get("names"):
        return list(results["dataset"]["names"])
    truth = next((sample["truth"] for sample in results.get("samples", []) if "truth" in sample), None)
    return boxes.names(truth, where="samples[].truth") if truth else []


def context(results: Mapping[str, Any], *, found: list[Comparison], drawn: Drawn) -> dict[str, Any]:
    """Everything that the template shows."""
    metric = primary_metric(results)
    rows = plan_rows(found, metric=metric)
    best = headline(results, found=found)
    return {
        "r": results,
        "config": json.dumps(results.get("config", {}), indent=2, ensure_ascii=False),
        "metric": metric,
        "metric_label": labels.metric_label(metric),
        "heads": labels.HEADS,
        "backends": labels.BACKENDS,
        "sources": labels.SOURCES,
        "warn_points": labels.WARN_POINTS,
        "bad_points": labels.BAD_POINTS,
        "plans": rows,
        "note": common_note(rows),
        "has_loss": any(row.loss is not None for row in rows),
        "has_emulator": any(row.emulator for row in rows),
        "only_estimates": all(row.latency["source"] == "estimate" for row in rows if row.latency),
        "best": best,
        "best_error": _best_error(best),
        "reference": next((item.plan for item in found if item.plan.is_reference and item.plan.main), None),
        "against": next((item.against for item in found), None),
        "timed": [item for item in found if item.plan.latency],
        "targets": sorted({item.plan.latency["target"] for item in found if item.plan.latency}),
        "plots": _plots(found, metric=metric, best=best),
        "has_line": _line(found, metric=metric) is not None,
        "classes": class_table(found),
        "traffic": traffic_bars(found),
        "ops": ops_bars(found),
        "agreements": [
            (item.plan, item.plan.first("agreement")) for item in found if item.plan.first("agreement")
        ],
        "errors": table(),
        "deviations": deviations,
        "sensitivity": sensitivity_panels(results),
        "drawn": drawn,
        "picture_classes": sorted({number for item in drawn.pictures for number in item.classes}),
    }


def _best_error(best: Comparison | None) -> str | None:
    if best is None or best.plan.latency is None or best.plan.latency["source"] != "estimate":
        return None
    known = known_error(best.plan.first("plan"), target=best.plan.latency["target"])
    return known.text if known else None


def _line(found: list[Comparison], *, metric: str) -> float | None:
    """FP32's accuracy, drawn as a line where there is one FP32 network for all plans."""
    figures = [item.plan.metrics.get(metric) for item in found if item.plan.is_reference]
    return figures[0] if len(figures) == 1 else None


def _plots(found: list[Comparison], *, metric: str, best: Comparison | None) -> list[Any]:
    points = []
    for item in found:
        latency = item.plan.latency
        if latency and metric in item.plan.metrics:
            value = latency["value_ms"]
            points.append(
                Point(
                    name=item.plan.id,
                    ms=value,
                    low_ms=latency.get("low_ms", value),
                    high_ms=latency.get("high_ms", value),
                    accuracy=item.plan.metrics[metric],
                    marked=best is not None and item.plan.id == best.plan.id,
                )
            )
    if len(points) < 2:
        return []
    reference = _line(found, metric=metric)
    label = labels.metric_label(metric)
    return [
        scatter(points, reference=reference, metric=label, width=1000.0, height=430.0),
        scatter(points, reference=reference, metric=label, width=400.0, height=440.0),
    ]
