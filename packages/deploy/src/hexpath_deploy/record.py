"""Assembling results.json from the files of the stages that ran.

The spec is a JSON file. Its paths are relative to its own folder. A stage that it does not name is absent
from the record; a file that it names must exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from os.path import relpath
from pathlib import Path
from typing import Any

from hexpath_deploy.errors import RecordError, StaleArtifactError, nearest
from hexpath_deploy.evaluate import score_on
from hexpath_deploy.files import read_json, write_json
from hexpath_deploy.gates import read_verdict
from hexpath_deploy.report import validate

TOP = (
    "experiment",
    "name",
    "question",
    "answer",
    "commit",
    "command",
    "config",
    "pins",
    "headline",
    "against",
    "notes",
)
SPEC = (
    *TOP,
    "gates",
    "dataset",
    "card",
    "tools",
    "rows",
    "curves",
    "samples",
    "masks",
    "fp32",
    "created",
    "sensitivity",
    "audits",
)
ROW = (
    "id",
    "model",
    "method",
    "plan",
    "head",
    "why",
    "params",
    "onnx",
    "eval",
    "compile",
    "profile",
    "agree",
    "seconds",
)
# A backend gives some of these: only an estimate knows the traffic, only a device the memory.
COSTS = ("ddr_mb", "spill_mb", "ddr", "peak_memory_mb")
GATE_ROW = ("gate", "title", "unit", "side", "limit", "verdict", "counts_as")
NAMED = ("id", "model", "method", "plan", "head", "why", "params")


@dataclass(frozen=True, kw_only=True)
class Places:
    """`source`: the folder that the spec's paths start from; `target`: the folder of results.json."""

    source: Path
    target: Path

    def find(self, path: str) -> Path:
        """Return a file of the spec."""
        return self.source / path

    def shown(self, path: Path) -> str:
        """Return a path as results.json names it: relative to its own folder."""
        return relpath(path.resolve(), self.target.resolve())


def record(spec_path: Path, *, out: Path) -> dict[str, Any]:
    """Read the spec and every file that it names, write results.json, and return it.

    Raises:
        RecordError: the spec or a stage file is missing or is not what it must be.
        StaleArtifactError: stage files of one row belong to different models.
    """
    spec = read_json(spec_path)
    check_keys(spec, SPEC, where=str(spec_path), needed=("experiment", "name", "rows"))
    places = Places(source=spec_path.parent, target=out.parent)
    rows = [
        row
        for entry in spec["rows"]
        for row in rows_of(entry, places=places, baseline=baseline_of(spec, places, model=entry.get("model")))
    ]
    result: dict[str, Any] = {"schema": 1, **{key: spec[key] for key in TOP if key in spec}}
    result |= {
        "created": spec.get("created", now()),
        "dataset": dataset_of(spec, places),
        "tools": tools_of(spec, rows),
        "results": rows,
    }
    result |= lists_of(spec, places) | gates_of(spec, places)
    check_unique(rows)
    validate(result)
    write_json(out, result)
    return result


def now() -> str:
    """Return the time in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_keys(
    entry: Mapping[str, Any], known: tuple[str, ...], *, where: str, needed: tuple[str, ...]
) -> None:
    """Refuse unknown keys, offering the nearest, and missing ones."""
    for key in entry:
        if key not in known:
            raise RecordError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    missing = [key for key in needed if key not in entry]
    if missing:
        raise RecordError(f"{where}: '{missing[0]}' is missing")


def dataset_of(spec: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return the dataset's entry, with what its card says of it."""
    entry = dict(spec.get("dataset", {}))
    if "card" in spec:
        path = places.find(spec["card"])
        entry = {"fingerprint": str(read_json(path)["fingerprint"]), **entry, "card": places.shown(path)}
    if "fingerprint" not in entry:
        raise RecordError(
            "the spec names no dataset fingerprint: give 'card' or 'dataset': {'fingerprint': ...}"
        )
    return entry


def tools_of(spec: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return the versions of all tools: those of the spec, and those that the stages wrote."""
    found: dict[str, str] = dict(spec.get("tools", {}))
    for row in rows:
        found |= row.get("latency", {}).get("tools", {})
    return found


def lists_of(spec: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return curves and samples with their paths as results.json names them."""
    found: dict[str, Any] = {}
    if "sensitivity" in spec:
        found["sensitivity"] = [read_json(places.find(path)) for path in spec["sensitivity"]]
    if "audits" in spec:
        paths = [places.find(path) for path in spec["audits"]]
        found["audits"] = [{"name": path.stem, **read_json(path)} for path in paths]
    if "curves" in spec:
        found["curves"] = [
            {**curve, "path": places.shown(places.find(curve["path"]))} for curve in spec["curves"]
        ]
    if "samples" in spec:
        found["samples"] = [sample_of(sample, places) for sample in spec["samples"]]
    if "masks" in spec:
        images = [masks_of(entry, places) for entry in spec["masks"]["images"]]
        found["masks"] = {**spec["masks"], "images": images}
    return found


def gates_of(spec: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return the release gates' verdict, as far as the record keeps it."""
    if "gates" not in spec:
        return {}
    verdict = read_verdict(places.find(spec["gates"]))
    keys = ("verdict", "threshold", "threshold_rule", "target", "evaluated_on", "artifact_sha256")
    row_keys = (*GATE_ROW, "figure", "waived", "explain", "subject", "source", "basis", "note")
    rows = [{key: row[key] for key in row_keys if key in row} for row in verdict["gates"]]
    return {"gates": {key: verdict[key] for key in keys if key in verdict} | {"rows": rows}}


def sample_of(sample: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return one sample image."""
    entry = {
        **sample,
        **{key: places.shown(places.find(sample[key])) for key in ("image", "truth") if key in sample},
    }
    if "boxes" in sample:
        entry["boxes"] = [{**box, "path": places.shown(places.find(box["path"]))} for box in sample["boxes"]]
    return entry


def masks_of(entry: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return one image with its masks."""
    paths = {key: places.shown(places.find(entry[key])) for key in ("image", "truth") if key in entry}
    found = [{**one, "path": places.shown(places.find(one["path"]))} for one in entry["found"]]
    return {**entry, **paths, "found": found}


def baseline_of(
    spec: Mapping[str, Any], places: Places, *, model: str | None
) -> tuple[dict[str, Any], list[Any]] | None:
    """Return the evaluation on ONNX Runtime of the row that the spec names, else of the model's FP32 row."""
    named = spec.get("fp32")
    rows = [
        row
        for row in spec["rows"]
        if row.get("id") == named
        or (named is None and row.get("plan") == "fp32" and row.get("model") == model)
    ]
    if named is not None and not rows:
        raise RecordError(
            f"fp32 names row '{named}'{nearest(named, [str(row.get('id')) for row in spec['rows']])}"
        )
    return on_ort(evaluations(rows[0], places)) if rows else None


def on_ort(found: list[tuple[Path, dict[str, Any]]]) -> tuple[dict[str, Any], list[Any]] | None:
    """Return the evaluation on ONNX Runtime of a row, with its detections, or None."""
    for path, evaluation in found:
        if evaluation["evaluated_on"] == "ort":
            return evaluation, detections_of(path, evaluation)
    return None


def evaluations(entry: Mapping[str, Any], places: Places) -> list[tuple[Path, dict[str, Any]]]:
    """Return the evaluations of a row with their paths."""
    named = entry.get("eval", [])
    paths = [places.find(path) for path in ([named] if isinstance(named, str) else named)]
    return [(path, read_json(path)) for path in paths]


def detections_of(path: Path, evaluation: Mapping[str, Any]) -> list[Any]:
    """Return the detections that lie beside an evaluation."""
    import json

    file = path.parent / str(evaluation["detections"])
    try:
        return list(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RecordError(f"detections {file} cannot be read ({error}): evaluate again") from error


def rows_of(
    entry: Mapping[str, Any], *, places: Places, baseline: tuple[dict[str, Any], list[Any]] | None
) -> Iterator[dict[str, Any]]:
    """Yield one row for each evaluation, or one without metrics when there is only a latency."""
    check_keys(entry, ROW, where=f"row '{entry.get('id', '?')}'", needed=("id", "model", "method", "plan"))
    found = evaluations(entry, places)
    stages = {
        name: read_json(places.find(entry[name])) for name in ("compile", "profile", "agree") if name in entry
    }
    check_one_model(entry, stages | {f"eval {i}": evaluation for i, (_, evaluation) in enumerate(found)})
    common = {key: entry[key] for key in NAMED if key in entry} | facts(stages) | seconds_of(entry, stages)
    ort = on_ort(found)
    for path, evaluation in found:
        yield (
            common
            | measured(evaluation, path=path, places=places)
            | same_images(evaluation, ort=ort, fp32=baseline)
        )
    if not found and "latency" in common:
        yield common | artifact_of(entry, places)


def check_one_model(entry: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse stage files of different models in one row."""
    hashes = {name: str(stage["model_sha256"]) for name, stage in stages.items() if "model_sha256" in stage}
    if len(set(hashes.values())) > 1:
        told = ", ".join(f"{name} {value[:12]}" for name, value in hashes.items())
        raise StaleArtifactError(
            f"row '{entry['id']}' mixes stages of different models ({told}): run the stale ones again"
        )


def facts(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what compiling, profiling and agreement found, in the record's words."""
    found: dict[str, Any] = {}
    if "compile" in stages:
        card = stages["compile"]
        found |= {key: card[key] for key in ("npu_ops", "cpu_ops", "size_mb", "ops")}
    if "profile" in stages:
        profile = stages["profile"]
        found |= {"latency": profile["latency"]}
        found |= {key: profile[key] for key in COSTS if key in profile}
    if "agree" in stages:
        found["agreement"] = agreement_of(stages["agree"])
    return found


def agreement_of(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the artifact's agreement with ONNX Runtime."""
    rows = stage["comparisons"]["artifact"]
    keys = ("name", "sqnr_db", "cosine", "max_steps")
    return {
        "verdict": stage["verdict"],
        "min_sqnr_db": min(row["min_sqnr_db"] for row in rows),
        "outputs": [{key: row[key] for key in keys if key in row} for row in rows],
    }


def seconds_of(entry: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return wall-clock seconds by stage."""
    found = {name: stage["seconds"] for name, stage in stages.items() if "seconds" in stage}
    found |= dict(entry.get("seconds", {}))
    return {"seconds": found} if found else {}


def measured(evaluation: Mapping[str, Any], *, path: Path, places: Places) -> dict[str, Any]:
    """Return an evaluation in the record's words."""
    artifact = Path(evaluation["artifact"])
    return {
        **{key: evaluation[key] for key in ("evaluated_on", "images", "metrics", "per_class", "sha256")},
        "artifact": places.shown(artifact),
    }


def same_images(
    evaluation: Mapping[str, Any],
    *,
    ort: tuple[dict[str, Any], list[Any]] | None,
    fp32: tuple[dict[str, Any], list[Any]] | None,
) -> dict[str, Any]:
    """Return ORT's and FP32's metrics on exactly the images of an evaluation elsewhere."""
    found: dict[str, Any] = {}
    if evaluation["evaluated_on"] != "ort":
        for name, other in (("ort", ort), ("fp32", fp32)):
            if other is not None:
                found[name] = score_on(other[0], results=other[1], image_ids=evaluation["image_ids"])
    return {"same_images": found} if found else {}


def artifact_of(entry: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return the path of the model of a row that was not evaluated."""
    return {"artifact": places.shown(places.find(entry["onnx"]))} if "onnx" in entry else {}


def check_unique(rows: list[dict[str, Any]]) -> None:
    """Refuse two rows of one id and backend."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        key = (row["id"], row.get("evaluated_on", ""))
        if key in seen:
            raise RecordError(
                f"two rows '{key[0]}' evaluated on {key[1] or 'nothing'}: give each plan its own id"
            )
        seen.add(key)
