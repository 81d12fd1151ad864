"""What the gates judge: the files that the stages wrote, held against each other first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hexpath_deploy.coco import Annotated, Split
from hexpath_deploy.errors import RecordError, StaleArtifactError
from hexpath_deploy.evaluate import truth_of
from hexpath_deploy.files import read_json
from hexpath_deploy.gates.limits import PASSING, Limits
from hexpath_deploy.gates.matching import Matches, best_f1, match_all
from hexpath_deploy.gates.operating import best_passing
from hexpath_deploy.scoring import Score, Truth

ON_ARTIFACT = ("emulator", "device")


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one model's stages; what did not run is None.

    `evaluation`: of the artifact. `fp32`: of the float model. `host`: whose times of pre- and postprocessing
    count, else those of `evaluation`. `meta`: time of day by image, JSON lines, where the COCO file has none.
    """

    evaluation: Path | None = None
    fp32: Path | None = None
    host: Path | None = None
    compiled: Path | None = None
    profile: Path | None = None
    agree: Path | None = None
    meta: Path | None = None


class Evidence:
    """The files' contents. A file that was not given is an empty mapping."""

    def __init__(self, files: Files, *, limits: Limits) -> None:
        """Read the files and check that they are of one model.

        Raises:
            RecordError: a file is missing or is no record.
            StaleArtifactError: two files belong to different models, artifacts or datasets.
        """
        self.files, self.limits = files, limits
        self.evaluation = read_optional(files.evaluation)
        self.fp32 = read_optional(files.fp32)
        self.host = read_optional(files.host) or self.evaluation
        self.compiled = read_optional(files.compiled)
        self.profile = read_optional(files.profile)
        self.agree = read_optional(files.agree)
        check_one_model(self)

    @property
    def task(self) -> str:
        """What the network does: of that depends which gates hold."""
        return str(self.evaluation.get("task") or self.fp32.get("task") or "detect")

    @property
    def dataset(self) -> str:
        """Under which name an evaluation of this task keeps its dataset."""
        return "data" if self.task == "semantic" else "coco"

    @cached_property
    def on_artifact(self) -> bool:
        """Was the artifact itself evaluated, and not its ONNX file?"""
        return self.evaluation.get("evaluated_on") in ON_ARTIFACT

    @cached_property
    def truth(self) -> Truth:
        """The dataset of the evaluation."""
        place = beside(str(self.evaluation[self.dataset]), self.files.evaluation)
        return truth_of({"settings": {"detections": 300}} | self.evaluation | {self.dataset: str(place)})

    @property
    def split(self) -> Split:
        """The same as COCO has it: of boxes."""
        assert isinstance(self.truth, Annotated)
        return self.truth.split

    @cached_property
    def image_ids(self) -> list[int]:
        """The images that the artifact was evaluated on."""
        return [int(i) for i in self.evaluation["image_ids"]]

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """The artifact's detections, COCO results."""
        return read_results(self.evaluation, self.files.evaluation)

    @cached_property
    def matches(self) -> dict[str, Matches]:
        """The artifact's detections against the boxes, by class."""
        return match_all(self.split, self.results, image_ids=self.image_ids, iou=self.limits.iou)

    @cached_property
    def threshold(self) -> float:
        """The score below which detections do not count."""
        wanted = self.limits.threshold
        if not isinstance(wanted, str):
            return wanted
        if not self.on_artifact or "coco" not in self.evaluation:
            return 0.25  # nothing is counted at it
        images = len(self.image_ids)
        able = best_passing(self.matches, limits=self.limits, images=images) if wanted == PASSING else None
        return best_f1(self.matches) if able is None else able

    @cached_property
    def fp32_score(self) -> Score:
        """FP32's metrics on exactly the artifact's images."""
        return self.truth.score(read_results(self.fp32, self.files.fp32), image_ids=self.image_ids)

    @cached_property
    def times(self) -> dict[int, str]:
        """Time of day by image id, as far as it is known: of the meta file, else of the COCO file."""
        told = self.facts("time_of_day")
        if self.files.meta:
            ids = {picture.file.name: picture.id for picture in self.truth.pictures}
            told |= read_meta(self.files.meta, ids=ids)
        return {i: told[i] for i in self.image_ids if i in told}

    @cached_property
    def sequences(self) -> dict[int, str]:
        """The sequence of an image by its id, where the COCO file names them."""
        return self.facts("sequence")

    def facts(self, key: str) -> dict[int, str]:
        """Return what the COCO file says of its images beside what COCO asks for."""
        images = self.truth.split.images if isinstance(self.truth, Annotated) else ()
        return {int(image["id"]): str(image[key]) for image in images if image.get(key) not in (None, "")}


def read_optional(path: Path | None) -> dict[str, Any]:
    """Read a stage's file, or return nothing where there is none."""
    return read_json(path) if path is not None else {}


def beside(told: str, record: Path | None) -> Path:
    """Return a path that a record names: as it stands, else from the record's own folder."""
    path = Path(told)
    if path.exists() or record is None:
        return path
    return record.parent / path if (record.parent / path).exists() else path


def read_results(evaluation: Mapping[str, Any], path: Path | None) -> list[dict[str, Any]]:
    """Read the detections beside an evaluation.

    Raises:
        RecordError: they are missing or no list.
    """
    where = Path(path or ".").parent / str(evaluation["detections"])
    try:
        found = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"detections {where} cannot be read ({error}): evaluate again") from error
    if not isinstance(found, list):
        raise RecordError(f"{where} holds a {type(found).__name__}, expected a list of COCO results")
    return found


def read_meta(path: Path, *, ids: Mapping[str, int]) -> dict[int, str]:
    """Read time of day by image id from JSON lines with `file_name` and `time_of_day`.

    `ids` are the images' ids by file name.

    Raises:
        RecordError: no such file, or a line is no object with both.
    """
    found: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise RecordError(
            f"no such file {path}: --meta takes JSON lines with file_name, time_of_day"
        ) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, time = Path(str(entry["file_name"])).name, str(entry["time_of_day"])
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path}, line {number}: expected an object with file_name and time_of_day ({error!r})"
            ) from error
        if name in ids:
            found[ids[name]] = time
    return found


def check_one_model(evidence: Evidence) -> None:
    """Refuse files of different models, artifacts or datasets: their figures say nothing together."""
    own = {
        "evaluation": evidence.evaluation,
        "host evaluation": evidence.host,
        "compile.json": evidence.compiled,
        "profile": evidence.profile,
        "agree": evidence.agree,
    }
    refuse_mix({name: f["model_sha256"] for name, f in own.items() if f}, what="models")
    binary = {"compile.json": evidence.compiled.get("binary_sha256")}
    if evidence.on_artifact:
        binary["evaluation"] = evidence.evaluation.get("sha256")
    binary["agree"] = evidence.agree.get("artifact_sha256")
    refuse_mix({name: value for name, value in binary.items() if value}, what="artifacts")
    data = {"evaluation": evidence.evaluation, "FP32 evaluation": evidence.fp32}
    hashes = {name: f.get("coco_sha256") or f.get("data_sha256") for name, f in data.items() if f}
    refuse_mix({name: str(value) for name, value in hashes.items() if value}, what="datasets")
    refuse_mix({name: str(f["task"]) for name, f in data.items() if f.get("task")}, what="tasks")


def refuse_mix(hashes: Mapping[str, str], *, what: str) -> None:
    """Raise when the hashes differ."""
    if len(set(hashes.values())) > 1:
        told = ", ".join(f"{name} {value[:12]}" for name, value in hashes.items())
        raise StaleArtifactError(
            f"the gates' files are of different {what} ({told}): run the stale ones again"
        )
