"""Making a bundle: what goes in, checked against each other, and written in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from shutil import copyfile
from typing import Any

from hexpath_deploy.bundle.archive import write_sums, write_zip
from hexpath_deploy.bundle.card import limits_of, markdown
from hexpath_deploy.errors import BundleError, StaleArtifactError
from hexpath_deploy.evaluate import score_on, truth_of
from hexpath_deploy.files import atomic_folder, read_json
from hexpath_deploy.gates.evidence import read_results
from hexpath_deploy.gates.judge import name_of, read_verdict
from hexpath_deploy.hexagon.artifact import Artifact, open_artifact
from hexpath_deploy.model import TaskModel, load_onnx, read_task_model
from hexpath_deploy.spec import DEPLOYED, Settings, postprocess_spec, preprocess_spec

UNKNOWN = "unknown"
FILES = {
    "model_card.md": "this card",
    "model_card.json": "the same, for programs",
    "model.onnx": "the model as ONNX, quantized (QDQ): what was compiled",
    "targets/*/model_ctx.onnx": "the compiled model for ONNX Runtime: a wrapper of model_ctx.bin",
    "targets/*/model_ctx.bin": "context binary for the target's NPU",
    "targets/*/model.dlc": "DLC for the QAIRT tools",
    "targets/*/compile.json": "how it was compiled: options, tools, census of operators",
    "preprocess.json, postprocess.json": "around the network: sizes, scales, thresholds, formulas",
    "labels.txt": "class names, one a line, by class id",
    "infer.py": "runs the model on an image",
    "hexpath_reference.py": "pre- and postprocessing in numpy, the code that the accuracy was measured with",
    "gates.json": "the release gates' verdict",
    "licences/": "licences of model, data and code",
    "SHA256SUMS": "checksums: `sha256sum -c SHA256SUMS`, or `hexpath-deploy verify`",
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What goes into a bundle.

    `compiled`: folders that compile wrote, one a target. `profiles`: latency records. `facts`: a JSON object
    on the
    training. `data_card`: card.json of the dataset. `model_licence`, `data_licence`: a file, or a name.
    `unreleased`: make it though gates failed or were not judged; the card says so.
    """

    model: Path
    compiled: Sequence[Path]
    evaluation: Path | None = None
    fp32: Path | None = None
    profiles: Sequence[Path] = ()
    gates: Path | None = None
    quant_card: Path | None = None
    data_card: Path | None = None
    facts: Path | None = None
    report: Path | None = None
    model_licence: str | None = None
    data_licence: str | None = None
    confidence: float | None = None
    unreleased: bool = False


def bundle(contents: Contents, *, out: Path) -> dict[str, Any]:
    """Write the bundle's folder `out` and `<out>.zip`; returns the model card.

    Raises:
        BundleError: a gate is not passed, no artifact was given, or artifacts differ at their border.
        StaleArtifactError: files of different models.
        RecordError: a file is missing or broken.
    """
    model = read_task_model(contents.model)
    artifacts = open_all(contents.compiled, model=model)
    verdict = judged(contents, model=model)
    card = card_of(contents, model=model, artifacts=artifacts, verdict=verdict, name=out.name)
    with atomic_folder(out) as folder:
        keep_model(folder, contents=contents, model=model, artifacts=artifacts)
        keep_specs(folder, model=model, artifacts=artifacts, confidence=card["confidence"])
        keep_licences(folder, contents=contents)
        if contents.gates is not None:
            write(folder / "gates.json", verdict)
        if contents.report is not None:
            copyfile(contents.report, folder / "report.html")
        write(folder / "model_card.json", card)
        (folder / "model_card.md").write_text(markdown(card), encoding="utf-8")
        write_sums(folder)
    write_zip(out, out.with_name(out.name + ".zip"))
    return card


def open_all(folders: Sequence[Path], *, model: TaskModel) -> dict[str, Artifact]:
    """Open the artifacts by target; all must take and return the same tensors."""
    if not folders:
        raise BundleError("no artifact was given: compile the model, and give the folder with --compiled")
    found: dict[str, Artifact] = {}
    for folder in folders:
        artifact = open_artifact(folder, model=model)
        target = str(artifact.card["target"])
        if target in found:
            raise BundleError(f"two artifacts for {target}: {found[target].folder} and {folder}")
        found[target] = artifact
    first = next(iter(found.values()))
    for target, artifact in found.items():
        if artifact.boundary != first.boundary:
            raise BundleError(
                f"the artifact for {target} has other I/O than that for {first.card['target']}: compile all "
                "with "
                "the same --io"
            )
    return found


def judged(contents: Contents, *, model: TaskModel) -> dict[str, Any]:
    """Return the gates' verdict; refuse a model that did not pass, unless that was asked for."""
    if contents.gates is None:
        if not contents.unreleased:
            raise BundleError("no gates were judged: give --gates, or --unreleased for a bundle that says so")
        return {"verdict": UNKNOWN, "gates": []}
    verdict = read_verdict(contents.gates)
    check_hash(verdict.get("model_sha256"), model.sha256, what=contents.gates)
    bad = [name_of(row) for row in verdict["gates"] if row["counts_as"] != "pass"]
    if (bad or verdict["verdict"] != "pass") and not contents.unreleased:
        raise BundleError(
            f"{contents.gates}: {len(bad)} gates did not pass ({', '.join(bad[:6])}): a bundle of it needs "
            "--unreleased, and says so"
        )
    return verdict


def check_hash(found: str | None, wanted: str, *, what: Path) -> None:
    """Refuse a record of another model."""
    if found is not None and found != wanted:
        raise StaleArtifactError(
            f"{what} is of model {found[:12]}, this is {wanted[:12]}: run that stage again"
        )


def keep_model(
    folder: Path, *, contents: Contents, model: TaskModel, artifacts: Mapping[str, Artifact]
) -> None:
    """Copy the ONNX file and the artifacts."""
    check_weights(model)
    copyfile(contents.model, folder / "model.onnx")
    for target, artifact in artifacts.items():
        place = folder / "targets" / target
        place.mkdir(parents=True)
        for key in ("context", "binary", "dlc"):
            copyfile(artifact.folder / artifact.card[key], place / artifact.card[key])
        write(place / "compile.json", artifact.card | {"model": "model.onnx"})


def check_weights(model: TaskModel) -> None:
    """Refuse a model whose weights lie in other files: the bundle carries one."""
    import onnx

    if any(t.external_data for t in onnx.load(model.path, load_external_data=False).graph.initializer):
        raise BundleError(f"{model.path} keeps its weights in other files: save it with its weights inside")
    load_onnx(model.path)


def keep_specs(
    folder: Path, *, model: TaskModel, artifacts: Mapping[str, Artifact], confidence: float
) -> None:
    """Write what happens around the network, and the code that does it."""
    boundary = next(iter(artifacts.values())).boundary
    settings = Settings(confidence=confidence, iou=DEPLOYED.iou, detections=DEPLOYED.detections)
    write(folder / "preprocess.json", preprocess_spec(model, boundary=boundary))
    write(folder / "postprocess.json", postprocess_spec(model, settings=settings, boundary=boundary))
    (folder / "labels.txt").write_text("\n".join(model.names) + "\n", encoding="utf-8")
    for package, name in (
        ("hexpath_deploy.reference", "hexpath_reference.py"),
        ("hexpath_deploy.bundle", "infer.py"),
    ):
        (folder / name).write_bytes(resources.files(package).joinpath(name).read_bytes())
    (folder / "infer.py").chmod(0o755)


def keep_licences(folder: Path, *, contents: Contents) -> None:
    """Write the licences of model and data as given, and of the code in the bundle."""
    place = folder / "licences"
    place.mkdir()
    for what, given in (("model", contents.model_licence), ("data", contents.data_licence)):
        (place / f"{what}.txt").write_text(licence_text(given, what=what) + "\n", encoding="utf-8")
    (place / "code.txt").write_text(
        "infer.py and hexpath_reference.py are of hexpath-deploy, Apache-2.0:\n"
        "https://www.apache.org/licenses/LICENSE-2.0\n\n"
        "model_ctx.bin and model.dlc were made by Qualcomm's QAIRT tools, which come with onnxruntime-qnn "
        "under Qualcomm's own licence; see that package's licence files.\n",
        encoding="utf-8",
    )


def licence_text(given: str | None, *, what: str) -> str:
    """Return a licence's text: of a file, else the name, else that it is unknown."""
    if given is None or not given.strip():
        return f"The licence of the {what} is unknown: it was not given when this bundle was made."
    path = Path(given)
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    if "/" in given or path.suffix in (".txt", ".md"):
        raise BundleError(f"no such licence file {given}: give a file, or a name such as CC-BY-4.0")
    return f"The licence of the {what}: {given}"


def licence_name(given: str | None) -> str:
    """Return a licence in one line."""
    if given is None or not given.strip():
        return UNKNOWN
    path = Path(given)
    if not path.is_file():
        return given
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip()), path.name)


def card_of(
    contents: Contents,
    *,
    model: TaskModel,
    artifacts: Mapping[str, Artifact],
    verdict: Mapping[str, Any],
    name: str,
) -> dict[str, Any]:
    """Return the model card."""
    rows = verdict["gates"]
    bad = [name_of(row) for row in rows if row["counts_as"] != "pass"]
    released = verdict["verdict"] == "pass" and not bad
    card: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "released": released,
        "model": {
            "architecture": model.name,
            "task": model.task,
            "classes": list(model.names),
            "imgsz": list(model.imgsz),
            "sha256": model.sha256,
        },
        "confidence": contents.confidence or float(verdict.get("threshold", DEPLOYED.confidence)),
        "data": data_of(contents, model=model),
        "training": read_json(contents.facts) if contents.facts else {},
        "plan": plan_of(contents, model=model),
        "accuracy": accuracy_of(contents, model=model),
        "latency": [latency_of(path, model=model) for path in contents.profiles],
        "targets": [sizes_of(artifact) for artifact in artifacts.values()],
        "gates": {
            "verdict": verdict["verdict"],
            "reason": "" if released else reason_of(bad),
            "rows": rows,
            "waived": [{"gate": name_of(row), "reason": row["waived"]} for row in rows if "waived" in row],
        },
        "licences": {
            "model": licence_name(contents.model_licence),
            "data": licence_name(contents.data_licence),
        },
        "files": {
            **FILES,
            **({"report.html": "the report of the run that made it"} if contents.report else {}),
        },
    }
    return card | {"limits": limits_of(card)}


def reason_of(bad: Sequence[str]) -> str:
    """Return why a model is not released."""
    return f"gates not passed: {', '.join(bad)}" if bad else "no gates were judged"


def data_of(contents: Contents, *, model: TaskModel) -> dict[str, Any]:
    """Return what the dataset's card says, without the paths of the machine that made it."""
    if contents.data_card is None:
        told = model.metadata.get("hexpath.fingerprint")
        return {"fingerprint": told} if told else {}
    card = read_json(contents.data_card)
    kept = {key: value for key, value in card.items() if key not in ("source", "tools", "schema")}
    ours = model.metadata.get("hexpath.fingerprint")
    if ours and kept.get("fingerprint") not in (None, ours):
        raise StaleArtifactError(
            f"{contents.data_card} is of dataset {str(kept['fingerprint'])[:19]}, the model was trained on "
            f"{ours[:19]}"
        )
    return kept


def plan_of(contents: Contents, *, model: TaskModel) -> dict[str, Any]:
    """Return how the model was quantized."""
    keys = {"plan": "hexpath.plan", "method": "hexpath.method"}
    found: dict[str, Any] = {
        key: model.metadata[name] for key, name in keys.items() if name in model.metadata
    }
    if model.metadata.get("hexpath.plan_regions"):
        found["regions"] = json.loads(model.metadata["hexpath.plan_regions"])
    if contents.quant_card is not None:
        card = read_json(contents.quant_card)
        found |= {key: card[key] for key in ("calibration_images", "head", "epochs") if key in card}
    return found


def accuracy_of(contents: Contents, *, model: TaskModel) -> dict[str, Any]:
    """Return the artifact's accuracy by class, and FP32's on the same images."""
    if contents.evaluation is None:
        return {}
    record = read_json(contents.evaluation)
    check_hash(record.get("model_sha256"), model.sha256, what=contents.evaluation)
    found = {key: record[key] for key in ("evaluated_on", "images", "sample", "metrics", "per_class")}
    if contents.fp32 is not None:
        other = read_json(contents.fp32)
        rows, ids = read_results(other, contents.fp32), record["image_ids"]
        score_on(other, results=rows, image_ids=ids)  # says so when an image is missing
        both = truth_of(other).score(rows, image_ids=ids)
        found["fp32"] = {"metrics": both.metrics, "per_class": both.per_class}
    return found


def latency_of(path: Path, *, model: TaskModel) -> dict[str, Any]:
    """Return a latency with its source."""
    record = read_json(path)
    check_hash(record.get("model_sha256"), model.sha256, what=path)
    return dict(record["latency"])


def sizes_of(artifact: Artifact) -> dict[str, Any]:
    """Return what compiling found out."""
    keys = ("target", "soc_model", "size_mb", "dlc_mb", "npu_ops", "cpu_ops", "float_ops", "options", "tools")
    return {key: artifact.card[key] for key in keys if key in artifact.card}


def write(path: Path, value: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
