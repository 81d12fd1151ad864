"""mAP of an exported model on ONNX Runtime, or of its compiled artifact on the emulator.

The same code for both.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hexpath_deploy.coco import Split, check_names, read_split, sample, score, to_results
from hexpath_deploy.errors import OptionError, nearest
from hexpath_deploy.files import write_atomic, write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.artifact import Artifact, open_artifact
from hexpath_deploy.hexagon.emulate import LIMIT_S, emulate, load_outputs
from hexpath_deploy.model import Model, read_model
from hexpath_deploy.ort import OrtNetwork
from hexpath_deploy.preprocess import read_image
from hexpath_deploy.progress import Progress
from hexpath_deploy.reference.hexpath_reference import Floats, detect, preprocess
from hexpath_deploy.spec import Settings, postprocess_spec, preprocess_spec

BACKENDS = ("ort", "emulator")
FLOAT32_NOTE = (
    "run in float32, which is not FP16 as the NPU has it: the emulator's figures are of the FP16 graph"
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to evaluate, on which images, how."""

    model: Path
    coco: Path
    backend: str = "ort"
    compiled: Path | None = None
    images: int | None = None
    workers: int = 2
    threads: int | None = None
    limit_s: float = LIMIT_S
    settings: Settings = field(default_factory=Settings)


@dataclass(kw_only=True)
class Clock:
    """Seconds spent on the host, by stage."""

    preprocess_s: float = 0.0
    network_s: float = 0.0
    postprocess_s: float = 0.0


def evaluate(what: Evaluation, *, out: Path) -> dict[str, Any]:
    """Evaluate and write the record `out` with the detections beside it; returns the record.

    Raises:
        DeployError: bad model, dataset or options, or a stale artifact; the toolchain failed.
    """
    began = time.monotonic()
    check_options(what)
    model, split = read_model(what.model), read_split(what.coco)
    check_names(split, model.names)
    warn_other_data(model, split)
    chosen = sample(split, what.images)
    artifact = (
        open_artifact(what.compiled, model=model) if what.compiled and what.backend == "emulator" else None
    )
    clock = Clock()
    results = run(what, model=model, artifact=artifact, split=split, chosen=chosen, out=out, clock=clock)
    record = record_of(what, model=model, artifact=artifact, split=split, chosen=chosen, results=results)
    record |= {
        "detections": detections_path(out).name,
        "host_ms": per_image_ms(clock, len(chosen)),
        "seconds": round(time.monotonic() - began, 2),
    }
    write_atomic(detections_path(out), compact(results))
    write_json(out, record)
    shutil.rmtree(work_path(out), ignore_errors=True)
    return record


def check_options(what: Evaluation) -> None:
    """Find contradicting options before the work starts."""
    if what.backend not in BACKENDS:
        raise OptionError(f"unknown backend '{what.backend}'{nearest(what.backend, BACKENDS)}")
    if what.backend == "emulator":
        toolchain.require()
        if what.compiled is None:
            raise OptionError("--backend emulator runs a compiled artifact: give its folder with --compiled")
    if what.workers < 1:
        raise OptionError(f"--workers {what.workers}: at least one is needed")


def warn_other_data(model: Model, split: Split) -> None:
    """Say so when the model was trained on another dataset; that is allowed, and easily meant otherwise."""
    ours = model.metadata.get("hexpath.fingerprint")
    if ours and split.fingerprint and ours != split.fingerprint:
        print(
            f"hexpath-deploy: warning: {model.path} was trained on dataset {ours[:19]}, this is "
            f"{split.fingerprint[:19]}",
            file=sys.stderr,
        )


def run(
    what: Evaluation,
    *,
    model: Model,
    artifact: Artifact | None,
    split: Split,
    chosen: Sequence[dict[str, Any]],
    out: Path,
    clock: Clock,
) -> list[dict[str, Any]]:
    """Return the detections of all chosen images as COCO results."""
    progress = Progress(f"evaluate on {what.backend}")
    if artifact is None:
        outputs = on_ort(what, model=model, split=split, chosen=chosen, clock=clock)
    else:
        outputs = on_emulator(
            what, model=model, artifact=artifact, split=split, chosen=chosen, out=out, clock=clock
        )
        progress = Progress("decode", every_s=60)
    spec = postprocess_spec(model, settings=what.settings)
    results: list[dict[str, Any]] = []
    for done, (image, tensors, placed) in enumerate(outputs, start=1):
        since = time.perf_counter()
        found = detect(tensors, spec=spec, placed=placed)
        clock.postprocess_s += time.perf_counter() - since
        results += to_results(found, image_id=int(image["id"]), categories=split.categories)
        progress(done, len(chosen))
    return results


def load(path: Path, *, model: Model, clock: Clock) -> tuple[Floats, Any]:
    """Return the network's input for an image file, and how the image lies in it."""
    pixels = read_image(path)
    since = time.perf_counter()
    image, placed = preprocess(pixels, spec=preprocess_spec(model))
    clock.preprocess_s += time.perf_counter() - since
    return image.astype(np.float32), placed


def on_ort(
    what: Evaluation, *, model: Model, split: Split, chosen: Sequence[dict[str, Any]], clock: Clock
) -> Iterator[tuple[dict[str, Any], dict[str, Floats], Any]]:
    """Yield (image, outputs, letterbox) from ONNX Runtime, batch 1."""
    network = OrtNetwork(model, threads=what.threads)
    for image in chosen:
        pixels, placed = load(split.file(image), model=model, clock=clock)
        since = time.perf_counter()
        outputs = network.run(pixels)
        clock.network_s += time.perf_counter() - since
        yield image, outputs, placed


def on_emulator(
    what: Evaluation,
    *,
    model: Model,
    artifact: Artifact,
    split: Split,
    chosen: Sequence[dict[str, Any]],
    out: Path,
    clock: Clock,
) -> Iterator[tuple[dict[str, Any], dict[str, Floats], Any]]:
    """Yield (image, outputs, letterbox) of the compiled artifact.

    What an interrupted run left is not run again.
    """
    # The folder's name holds what the outputs depend on beside the artifact: other images get another folder.
    work = work_path(out) / split.sha256[:16]
    feeds = {
        str(image["id"]): (lambda image=image: load(split.file(image), model=model, clock=clock)[0])
        for image in chosen
    }
    since = time.perf_counter()
    emulate(
        artifact,
        images=feeds,
        work=work,
        workers=what.workers,
        limit_s=what.limit_s,
        progress=Progress("emulate"),
    )
    clock.network_s += time.perf_counter() - since
    for image in chosen:
        tensors = load_outputs(work, str(image["id"]), boundary=artifact.boundary)
        yield image, tensors, load(split.file(image), model=model, clock=Clock())[1]


def record_of(
    what: Evaluation,
    *,
    model: Model,
    artifact: Artifact | None,
    split: Split,
    chosen: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return what the evaluation found, for people and for the record."""
    ids = [int(image["id"]) for image in chosen]
    found = score(split, results, image_ids=ids, detections=what.settings.detections)
    evaluated = model.path if artifact is None else artifact.folder / artifact.card["binary"]
    record: dict[str, Any] = {
        "schema": 1,
        "evaluated_on": what.backend,
        "images": len(ids),
        "image_ids": ids,
        "sample": "all" if len(ids) == len(split.images) else "spread evenly over the split",
        "metrics": found.metrics,
        "per_class": found.per_class,
        "model": str(model.path),
        "model_sha256": model.sha256,
        "artifact": str(evaluated),
        "sha256": model.sha256 if artifact is None else artifact.card["binary_sha256"],
        "head": model.head.name,
        "coco": str(split.path),
        "coco_sha256": split.sha256,
        "settings": asdict(what.settings),
        "tools": toolchain.versions(),
    }
    if split.fingerprint:
        record["fingerprint"] = split.fingerprint
    if artifact is None and not model.quantized:
        record["note"] = FLOAT32_NOTE
    return record


def score_on(
    record: dict[str, Any], *, results: Sequence[dict[str, Any]], image_ids: Sequence[int]
) -> dict[str, float]:
    """Score an evaluation's detections on just the given images, such as the emulator's sample.

    Raises:
        OptionError: the evaluation did not see one of them.
    """
    unseen = sorted(set(image_ids) - set(record["image_ids"]))
    if unseen:
        raise OptionError(
            f"{record['model']} was not evaluated on image {unseen[0]} ({len(unseen)} in all are missing)"
        )
    split = read_split(Path(record["coco"]))
    return score(split, results, image_ids=image_ids, detections=record["settings"]["detections"]).metrics


def per_image_ms(clock: Clock, images: int) -> dict[str, float]:
    """Return the host's time an image in ms: on this machine's CPU, never the NPU's."""
    return {
        name.removesuffix("_s"): round(1000 * seconds / images, 3) for name, seconds in asdict(clock).items()
    }


def detections_path(out: Path) -> Path:
    """Return where the detections of a record lie: COCO results."""
    return out.with_name(f"{out.stem}.detections.json")


def work_path(out: Path) -> Path:
    """Return the folder in which an evaluation keeps what it would not like to compute twice."""
    return out.with_name(f"{out.name}.work")


def compact(results: Sequence[dict[str, Any]]) -> str:
    """Return COCO results as JSON, one detection a line."""
    import json

    return "[" + ",\n".join(json.dumps(result, separators=(",", ":")) for result in results) + "]\n"
