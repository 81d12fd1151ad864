"""COCO files: images and boxes in, detections out, mean average precision by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hexpath_deploy.errors import DatasetError, OptionError
from hexpath_deploy.files import sha256_file
from hexpath_deploy.reference.hexpath_reference import Detections


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a dataset.

    `images` are COCO's entries by ascending id, `categories` the category id of each class.
    """

    path: Path
    sha256: str
    root: Path
    data: dict[str, Any]
    images: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    categories: tuple[int, ...]
    fingerprint: str | None

    def file(self, image: dict[str, Any]) -> Path:
        """Return where an image lies."""
        return self.root / str(image["file_name"])


def read_split(path: Path) -> Split:
    """Read a COCO file.

    Raises:
        DatasetError: no such file, no COCO, or no images.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = tuple(sorted(data["images"], key=lambda image: int(image["id"])))
        kinds = sorted(data["categories"], key=lambda kind: int(kind["id"]))
        info = data.get("info") or {}
        split = Split(
            path=path,
            sha256=sha256_file(path),
            root=path.parent / str(info.get("root", "")),
            data=data,
            images=images,
            names=tuple(str(kind["name"]) for kind in kinds),
            categories=tuple(int(kind["id"]) for kind in kinds),
            fingerprint=info.get("fingerprint"),
        )
    except FileNotFoundError:
        raise DatasetError(f"no such COCO file {path}: write it with hexpath-data card") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is no COCO file ({error!r}): write it with hexpath-data card") from error
    if not images:
        raise DatasetError(f"{path} holds no images: nothing can be evaluated")
    return split


def check_names(split: Split, names: Sequence[str]) -> None:
    """Hold the model's classes against the dataset's, in order: a swapped order gives wrong figures silently.

    Raises:
        DatasetError: they differ.
    """
    if len(names) != len(split.names):
        raise DatasetError(f"the model has {len(names)} classes, {split.path} has {len(split.names)}")
    for index, (ours, theirs) in enumerate(zip(names, split.names, strict=True)):
        if ours != theirs:
            raise DatasetError(
                f"class {index} is '{ours}' in the model's metadata and '{theirs}' in {split.path}: "
                "wrong class "
                "order, or the model of another dataset"
            )


def sample(split: Split, count: int | None) -> tuple[dict[str, Any], ...]:
    """Return `count` images spread evenly over the split, or all.

    Raises:
        OptionError: `count` is not positive.
    """
    if count is None or count >= len(split.images):
        return split.images
    if count < 1:
        raise OptionError(f"--images {count}: evaluate at least one image")
    places = np.unique(np.linspace(0, len(split.images) - 1, count).round().astype(int))
    return tuple(split.images[place] for place in places)


def to_results(found: Detections, *, image_id: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Return detections as COCO results: bbox is x, y, width, height in pixels."""
    corner, size = found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]
    boxes = np.concatenate([corner, size], axis=1).round(3).tolist()
    return [
        {"image_id": image_id, "category_id": categories[kind], "bbox": box, "score": round(score, 6)}
        for box, score, kind in zip(boxes, found.scores.tolist(), found.classes.tolist(), strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Score:
    """`metrics` has map50 and map (mAP50-95) as fractions; `per_class` the same,
    without classes that have no boxes.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


def score(
    split: Split, results: Sequence[dict[str, Any]], *, image_ids: Sequence[int], detections: int = 300
) -> Score:
    """Score COCO results on exactly the given images, at most `detections` boxes each.

    Raises:
        DatasetError: these images hold no boxes, so that no precision exists.
    """
    wanted = set(image_ids)
    kept = [result for result in results if result["image_id"] in wanted]
    if not any(entry["image_id"] in wanted for entry in split.data["annotations"]):
        raise DatasetError(
            f"{split.path}: the {len(wanted)} evaluated images hold no boxes, so mAP does not exist"
        )
    precision = precision_table(split, kept, image_ids=sorted(wanted), detections=detections)
    names = dict(zip(split.categories, split.names, strict=True))
    per_class = {
        names[category]: averages(precision[:, :, place])
        for place, category in enumerate(split.categories)
        if (precision[:, :, place] > -1).any()
    }
    return Score(metrics=averages(precision), per_class=per_class)


def averages(precision: Any) -> dict[str, float]:
    """Return map50 and map of a table (IoU thresholds, recalls,
    ...) in which -1 marks what does not exist.
    """
    return {
        name: float(part[part > -1].mean()) for name, part in (("map50", precision[0]), ("map", precision))
    }


def precision_table(
    split: Split, results: list[dict[str, Any]], *, image_ids: list[int], detections: int
) -> Any:
    """Return pycocotools' precision (10 IoU thresholds, 101 recalls, classes), all areas, float64."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:  # pycocotools cannot load an empty list
        has = {
            entry["category_id"] for entry in split.data["annotations"] if entry["image_id"] in set(image_ids)
        }
        return np.stack(
            [np.full((10, 101), 0.0 if kind in has else -1.0) for kind in split.categories], axis=2
        )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO()
        truth.dataset = {**split.data, "annotations": boxes_of(split)}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes([dict(result) for result in results]), "bbox")
        judge.params.imgIds = image_ids
        judge.params.maxDets = [1, 10, detections]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, -1]


def boxes_of(split: Split) -> list[dict[str, Any]]:
    """Return the boxes with what pycocotools needs and files may lack: id from 1, area, iscrowd."""
    return [
        {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry, "id": place}
        for place, entry in enumerate(split.data["annotations"], start=1)
    ]
