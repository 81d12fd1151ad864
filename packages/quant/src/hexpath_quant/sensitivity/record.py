"""The JSON of an analysis, from its journal."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hexpath_quant.sensitivity.alarm import alarms, figure
from hexpath_quant.sensitivity.engine import Base, Part
from hexpath_quant.sensitivity.estimate import parts_of
from hexpath_quant.sensitivity.sweep import Variation
from hexpath_quant.sensitivity.trust import trust

if TYPE_CHECKING:
    from hexpath_quant.sensitivity.analysis import Analysis

SCHEMA = 1
TEN = 10


def build_record(analysis: Analysis) -> dict[str, Any]:
    """Return the record; see the README of the package for its fields."""
    entries = [e for names in _all(analysis) if (e := _entry(analysis, **names)) is not None]
    scorer, settings = analysis.scorer, analysis.settings
    quantized = {e["plan"]: e for e in entries if e["kind"] == "network" and e["part"] == "both"}
    classes = {plan: entry.get("classes", {}) for plan, entry in quantized.items()}
    for entry in entries:
        entry.pop("classes", None)
    return {
        "schema": SCHEMA,
        "task": analysis.task.name,
        "model": str(analysis.task.metadata.get("hexpath.model", analysis.task.name)),
        "metric": scorer.metric,
        "plan": analysis.main,
        "plans": list(settings.plans),
        "method": settings.method,
        "calibration": settings.calibration,
        "images": scorer.count,
        "sample": settings.sample,
        "share": settings.share,
        "float": scorer.float.as_json(),
        "quantized": {
            plan: {"metrics": entry["metrics"], "per_class": classes[plan]}
            for plan, entry in quantized.items()
        },
        "regions": {r: list(m) for r, m in analysis.members(analysis.engines[analysis.main]).items()},
        "entries": entries,
        "worst": worst(entries, plan=analysis.main),
        "trust": trust(entries, plan=analysis.main),
        "alarms": alarms(
            metric=scorer.metric,
            float_classes=scorer.float.per_class,
            quantized=classes,
            entries=entries,
            share=settings.share,
        ),
        "seconds": analysis.seconds,
        "tools": {name: version(name) for name in ("torch", "aimet-torch", "hexpath-quant")},
    }


def worst(entries: list[dict[str, Any]], *, plan: str) -> list[str]:
    """Return the ten layers whose quantization alone costs most, by score where scored, then by SQNR."""
    rows = [e for e in entries if e["kind"] == "layer" and e["plan"] == plan and e["part"] == "both"]
    scored = [e for e in rows if "drop_alone" in e]
    found = sorted(scored or rows, key=lambda e: (-e.get("drop_alone", 0.0), e["sqnr_db"]))
    return [e["name"] for e in found[:TEN]]


def _all(analysis: Analysis) -> list[dict[str, Any]]:
    engine = analysis.engines[analysis.main]
    found: list[dict[str, Any]] = []
    for plan in analysis.engines:
        found += [{"kind": "network", "name": "all", "part": part, "plan": plan} for part in Part]
        for region in analysis.members(engine):
            parts = list(Part) if plan == analysis.main else [Part.BOTH]
            found += [{"kind": "region", "name": region, "part": part, "plan": plan} for part in parts]
    for layer in engine.layers:
        found += [
            {"kind": "layer", "name": layer, "part": part, "plan": analysis.main}
            for part in parts_of(engine, layer)
        ]
    return found


def _entry(analysis: Analysis, *, kind: str, name: str, part: Part, plan: str) -> dict[str, Any] | None:
    answers = {
        base: _answer(analysis, kind=kind, name=name, part=part, plan=plan, base=base) for base in Base
    }
    alone, without = answers[Base.ALONE], answers[Base.WITHOUT]
    if alone is None:
        return None
    entry: dict[str, Any] = {"kind": kind, "name": name, "part": str(part), "plan": plan}
    entry |= {"sqnr_db": alone["sqnr_db"], "cosine": alone["cosine"]}
    entry |= _layer_facts(analysis, kind=kind, name=name, part=part)
    quantized = _answer(analysis, kind="network", name="all", part=Part.BOTH, plan=plan, base=Base.ALONE)
    if without is not None:
        entry |= {"sqnr_without_db": without["sqnr_db"]}
        if quantized is not None:
            entry["sqnr_gain_db"] = without["sqnr_db"] - quantized["sqnr_db"]
    entry |= _scores(analysis, alone=alone, without=without, quantized=quantized)
    if kind == "network":
        entry |= {"metrics": alone["metrics"], "classes": alone["per_class"]}
    return entry


def _layer_facts(analysis: Analysis, *, kind: str, name: str, part: Part) -> dict[str, Any]:
    engine = analysis.engines[analysis.main]
    if kind == "network":
        return {}
    layers = [name] if kind == "layer" else analysis.members(engine)[name]
    found = [analysis.estimates[layer, part] for layer in layers if (layer, part) in analysis.estimates]
    facts: dict[str, Any] = {
        "fisher": sum(e.fisher for e in found),
        "diagonal": sum(e.diagonal for e in found),
    }
    facts["estimate"] = facts["diagonal"]  # ordered the true losses best (experiments/exp_04_sensitivity)
    if kind == "layer":
        step = engine.steps[engine.at_layer[name]]
        region = next(r for r, members in analysis.members(engine).items() if name in members)
        facts |= {"region": region, "operator": type(step.module).__name__, "position": engine.at_layer[name]}
    return facts


def _scores(analysis: Analysis, *, alone: Any, without: Any, quantized: Any) -> dict[str, Any]:
    metric, base = analysis.scorer.metric, analysis.scorer.float
    entry: dict[str, Any] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in base.per_class}
    if "metrics" in alone:
        entry["metric_alone"] = alone["metrics"][metric]
        entry["drop_alone"] = base.metrics[metric] - entry["metric_alone"]
        for name, figures in per_class.items():
            figures["alone"] = figure(alone["per_class"].get(name, {}), metric=metric)
    if without is not None and "metrics" in without and quantized is not None:
        entry["metric_without"] = without["metrics"][metric]
        entry["gain_without"] = entry["metric_without"] - quantized["metrics"][metric]
        for name, figures in per_class.items():
            figures["without"] = figure(without["per_class"].get(name, {}), metric=metric)
    if any(per_class.values()):
        entry["per_class"] = per_class
    return entry


def _answer(
    analysis: Analysis, *, kind: str, name: str, part: Part, plan: str, base: Base
) -> dict[str, Any] | None:
    """Return the scored answer, else that of the sample; SQNR stays that of the sample where there is one."""
    found: dict[str, Any] = {}
    for scored in (True, False):
        variation = Variation(kind=kind, name=name, part=part, plan=plan, base=base, layers=(), scored=scored)
        if variation.key in analysis.journal:
            found |= analysis.journal[variation.key]
    return found or None
