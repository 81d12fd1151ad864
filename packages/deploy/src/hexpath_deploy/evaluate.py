"""The accuracy of an exported model on ONNX Runtime, or of its compiled artifact on the emulator or a device.

The same code for all of them and for every task: boxes, instance masks, semantic masks.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hexpath_deploy.agree import verify_pair
from hexpath_deploy.board.evaluate import OnBoard
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.coco import Annotated, read_split
from hexpath_deploy.diagnose import check_class_order
from hexpath_deploy.errors import OptionError, nearest
from hexpath_deploy.files import write_atomic, write_json
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.artifact import open_artifact
from hexpath_deploy.hexagon.emulate import LIMIT_S
from hexpath_deploy.hostcost import Case, host_cost
from hexpath_deploy.masks import read_masks, save_mask
from hexpath_deploy.model import TaskModel, read_task_model
from hexpath_deploy.networks import Network, OnEmulator, OnOrt
from hexpath_deploy.ort import available_cores
from hexpath_deploy.preprocess import read_image
from hexpath_deploy.progress import Progress
from hexpath_deploy.reference.hexpath_reference import Floats, Placed, postprocess, preprocess
from hexpath_deploy.scoring import Picture, Rows, Truth, check_names, sample
from hexpath_deploy.spec import Settings, postprocess_spec, preprocess_spec

BACKENDS = ("ort", "emulator", "device")
TIMED = 8
FLOAT32_NOTE = (
    "run in float32, which is not FP16 as the NPU has it: the emulator's figures are of the FP16 graph"
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to evaluate, on which images, how.

    `coco` for boxes and instance masks, `data` (a data.yaml) for semantic masks. `workers` are emulator
    processes, `threads` images side by side on ONNX Runtime; `board` is for backend `device`. `masks`:
    a folder that gets the mask found in each image, a PNG of class ids of its size, named by the image's id.
    """

    model: Path
    coco: Path | None = None
    data: Path | None = None
    split: str = "val"
    backend: str = "ort"
    compiled: Path | None = None
    images: int | None = None
    workers: int = 2
    threads: int | None = None
    limit_s: float = LIMIT_S
    board: BoardSettings | None = None
    masks: Path | None = None
    settings: Settings = field(default_factory=Settings)


def evaluate(what: Evaluation, *, out: Path, network: Network | None = None) -> dict[str, Any]:
    """Evaluate and write the record `out` with what was found beside it; returns the record.

    `network` runs the model in place of `what.backend`: on a device, for example.

    Raises:
        DeployError: bad model, dataset or options, or a stale artifact; the toolchain failed.
    """
    began = time.monotonic()
    check_options(what, network=network)
    model = read_task_model(what.model)
    truth = open_truth(what, model=model)
    warn_other_data(model, truth)
    verify_pair(model)
    chosen = sample(truth.pictures, what.images)
    network = network or open_network(what, model=model, truth=truth, out=out)
    run = Run(model=model, truth=truth, network=network, settings=what.settings, masks=what.masks)
    rows = run.all(chosen)
    if isinstance(truth, Annotated):
        check_class_order(truth.split, rows, image_ids=[picture.id for picture in chosen])
    record = record_of(run, chosen=chosen, rows=rows)
    record |= {
        "detections": results_path(out).name,
        "host_ms": run.host_ms(),
        "seconds": round(time.monotonic() - began, 2),
    }
    write_atomic(results_path(out), compact(rows))
    write_json(out, record)
    shutil.rmtree(work_path(out), ignore_errors=True)
    return record


def check_options(what: Evaluation, *, network: Network | None) -> None:
    """Find contradicting options before the work starts."""
    if network is None and what.backend not in BACKENDS:
        raise OptionError(f"unknown backend '{what.backend}'{nearest(what.backend, BACKENDS)}")
    if network is None and what.backend == "emulator":
        toolchain.require()
        if what.compiled is None:
            raise OptionError("--backend emulator runs a compiled artifact: give its folder with --compiled")
    if network is None and what.backend == "device" and (what.compiled is None or what.board is None):
        raise OptionError(
            "--backend device runs a compiled artifact on a board: give --compiled and --device"
        )
    for name, count in (("workers", what.workers), ("threads", what.threads)):
        if count is not None and count < 1:
            raise OptionError(f"--{name} {count}: at least one is needed")


def open_truth(what: Evaluation, *, model: TaskModel) -> Truth:
    """Open the dataset that the model's task asks for, and check its classes.

    Raises:
        OptionError: a COCO file where masks are needed, or the other way round.
        DatasetError: it cannot be used, or has other classes.
    """
    wanted, given = ("--data DATA.yaml", what.data) if model.task == "semantic" else ("--coco F", what.coco)
    if given is None:
        raise OptionError(f"{model.path} is for task '{model.task}': give its dataset with {wanted}")
    if what.masks is not None and model.task != "semantic":
        raise OptionError(f"--masks: {model.path} is for task '{model.task}', which finds no class masks")
    if model.task == "semantic":
        return read_masks(given, names=model.names, split=what.split)
    split = read_split(given)
    check_names(model.names, split.names, path=given)
    return Annotated(split=split, detections=what.settings.detections, masks=model.task == "segment")


def warn_other_data(model: TaskModel, truth: Truth) -> None:
    """Say so when the model was trained on another dataset; that is allowed, and easily meant otherwise."""
    ours = model.metadata.get("hexpath.fingerprint")
    if ours and truth.fingerprint and ours != truth.fingerprint:
        print(
            f"hexpath-deploy: warning: {model.path} was trained on dataset {ours[:19]}, this is "
            f"{truth.fingerprint[:19]}",
            file=sys.stderr,
        )


def open_network(what: Evaluation, *, model: TaskModel, truth: Truth, out: Path) -> Network:
    """Return what runs the model."""
    if what.backend == "ort":
        return OnOrt(model, workers=what.threads or available_cores())
    assert what.compiled is not None
    # The folder's name holds what the outputs depend on beside the artifact: other images get another folder.
    told = next(value for key, value in truth.about().items() if key.endswith("_sha256"))
    artifact, work = open_artifact(what.compiled, model=model), work_path(out) / str(told)[:16]
    if what.board is not None and what.backend == "device":
        return OnBoard(artifact, settings=what.board, work=work)
    return OnEmulator(artifact, name=model.input, work=work, workers=what.workers, limit_s=what.limit_s)


class Run:
    """Images through preprocessing, network and postprocessing."""

    def __init__(
        self,
        *,
        model: TaskModel,
        truth: Truth,
        network: Network,
        settings: Settings,
        masks: Path | None = None,
    ) -> None:
        self.masks = masks
        self.model, self.truth, self.network, self.settings = model, truth, network, settings
        self.pre = preprocess_spec(model)
        self.post = postprocess_spec(model, settings=settings)
        self.placed: dict[int, Placed] = {}
        self.timed: list[Case] = []

    def all(self, chosen: Sequence[Picture]) -> Rows:
        """Return what was found in all chosen images."""
        by_key = {str(picture.id): picture for picture in chosen}
        feeds = {key: (lambda picture=picture: self.load(picture)) for key, picture in by_key.items()}
        timed = {picture.id for picture in sample(chosen, TIMED)}
        progress = Progress(f"evaluate on {self.network.evaluated_on}")
        rows: dict[int, Rows] = {}
        for key, values in self.network.outputs(feeds):
            picture = by_key[key]
            if picture.id not in self.placed:  # it ran before an interruption
                self.load(picture)
            found = postprocess(values, spec=self.post, placed=self.placed[picture.id])
            if self.masks is not None:
                save_mask(found, self.masks / f"{picture.id}.png")
            rows[picture.id] = self.truth.rows(found, picture=picture)
            if picture.id in timed:
                self.timed.append(Case(pixels=read_image(picture.file), values=values))
            progress(len(rows), len(chosen))
        return [row for picture in chosen for row in rows[picture.id]]

    def load(self, picture: Picture) -> Floats:
        """Return the network's input for an image, and keep how the image lies in it."""
        tensor, self.placed[picture.id] = preprocess(read_image(picture.file), spec=self.pre)
        return tensor.astype(np.float32, copy=False)

    def host_ms(self) -> dict[str, Any]:
        """Return what pre- and postprocessing cost here, at a product's threshold, quantized tensors in."""
        boundary = self.network.boundary
        return host_cost(
            self.timed,
            pre=preprocess_spec(self.model, boundary=boundary),
            post=postprocess_spec(self.model, boundary=boundary),
        )


def record_of(run: Run, *, chosen: Sequence[Picture], rows: Rows) -> dict[str, Any]:
    """Return what the evaluation found, for people and for the record."""
    ids = [picture.id for picture in chosen]
    found = run.truth.score(rows, image_ids=ids)
    model, network = run.model, run.network
    record: dict[str, Any] = {
        "schema": 1,
        "evaluated_on": network.evaluated_on,
        "task": model.task,
        "images": len(ids),
        "image_ids": ids,
        "sample": "all" if len(ids) == len(run.truth.pictures) else "spread evenly over the split",
        "metrics": found.metrics,
        "per_class": found.per_class,
        "model": str(model.path),
        "model_sha256": model.sha256,
        "artifact": str(network.path),
        "sha256": network.sha256,
        "head": model.head.name,
        **run.truth.about(),
        "settings": asdict(run.settings),
        "tools": toolchain.versions(),
    }
    if run.truth.fingerprint:
        record["fingerprint"] = run.truth.fingerprint
    if network.evaluated_on == "ort" and not model.quantized:
        record["note"] = FLOAT32_NOTE
    return record


def score_on(
    record: Mapping[str, Any], *, results: Sequence[dict[str, Any]], image_ids: Sequence[int]
) -> dict[str, float]:
    """Score an evaluation's results on just the given images, such as the emulator's sample.

    Raises:
        OptionError: the evaluation did not see one of them.
    """
    unseen = sorted(set(image_ids) - set(record["image_ids"]))
    if unseen:
        raise OptionError(
            f"{record['model']} was not evaluated on image {unseen[0]} ({len(unseen)} in all are missing)"
        )
    return truth_of(record).score(results, image_ids=image_ids).metrics


def truth_of(record: Mapping[str, Any]) -> Truth:
    """Open the dataset of an evaluation again."""
    task = record.get("task", "detect")
    if task == "semantic":
        return read_masks(Path(record["data"]), names=record["names"], split=record["split"])
    split = read_split(Path(record["coco"]))
    return Annotated(split=split, detections=record["settings"]["detections"], masks=task == "segment")


def results_path(out: Path) -> Path:
    """Return where the results of a record lie: COCO results, or for semantic masks a confusion an image."""
    return out.with_name(f"{out.stem}.detections.json")


def work_path(out: Path) -> Path:
    """Return the folder in which an evaluation keeps what it would not like to compute twice."""
    return out.with_name(f"{out.name}.work")


def compact(results: Sequence[dict[str, Any]]) -> str:
    """Return results as JSON, one a line."""
    return "[" + ",\n".join(json.dumps(result, separators=(",", ":")) for result in results) + "]\n"
