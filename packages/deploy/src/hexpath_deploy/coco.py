"""COCO files: images, boxes and masks in, detections out, mean average precision by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hexpath_deploy.errors import DatasetError
from hexpath_deploy.files import sha256_file
from hexpath_deploy.reference.hexpath_reference import Detections, Mask, Pixels
from hexpath_deploy.scoring import Picture, Rows, Score


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


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A COCO split as the truth about detections, at most `detections` an image; with `masks` theirs too."""

    split: Split
    detections: int = 300
    masks: bool = False

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The split's images."""
        return tuple(Picture(id=int(image["id"]), file=self.split.file(image)) for image in self.split.images)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of the category ids."""
        return self.split.names

    @property
    def fingerprint(self) -> str | None:
        """The dataset's."""
        return self.split.fingerprint

    def about(self) -> dict[str, Any]:
        """Return the COCO file's place and hash."""
        return {"coco": str(self.split.path), "coco_sha256": self.split.sha256}

    def rows(self, found: Detections | Pixels, *, picture: Picture) -> Rows:
        """Return detections as COCO results, masks run-length encoded."""
        assert isinstance(found, Detections)
        rows = to_results(found, image_id=picture.id, categories=self.split.categories)
        if self.masks:
            for row, coded in zip(rows, encode(found.masks, shape=found.shape), strict=True):
                row["segmentation"] = coded
        return rows

    def score(self, rows: Iterable[Mapping[str, Any]], *, image_ids: Sequence[int]) -> Score:
        """Return map50 and map of the boxes, with masks also mask_map50 and mask_map."""
        results = [dict(row) for row in rows]
        boxes = score(self.split, results, image_ids=image_ids, detections=self.detections)
        if not self.masks:
            return boxes
        own = score(self.split, results, image_ids=image_ids, detections=self.detections, kind="segm")
        prefixed = {name: prefix(entry) for name, entry in own.per_class.items()}
        return Score(
            metrics=boxes.metrics | prefix(own.metrics),
            per_class={name: entry | prefixed.get(name, {}) for name, entry in boxes.per_class.items()},
        )


def prefix(metrics: Mapping[str, float]) -> dict[str, float]:
    """Name metrics as those of masks."""
    return {f"mask_{name}": value for name, value in metrics.items()}


def encode(masks: Sequence[Mask], *, shape: tuple[int, int]) -> Iterable[dict[str, Any]]:
    """Yield masks run-length encoded, as COCO does, over the whole image of `shape` (height, width)."""
    from pycocotools import mask as coder

    for mask in masks:
        coded = coder.encode(np.asfortranarray(mask.full(shape).astype(np.uint8)))
        yield {"size": list(shape), "counts": coded["counts"].decode()}


def to_results(found: Detections, *, image_id: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Return detections as COCO results: bbox is x, y, width, height in pixels."""
    corner, size = found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]
    boxes = np.concatenate([corner, size], axis=1).round(3).tolist()
    return [
        {"image_id": image_id, "category_id": categories[kind], "bbox": box, "score": round(score, 6)}
        for box, score, kind in zip(boxes, found.scores.tolist(), found.classes.tolist(), strict=True)
    ]


def score(
    split: Split,
    results: Sequence[dict[str, Any]],
    *,
    image_ids: Sequence[int],
    detections: int = 300,
    kind: str = "bbox",
) -> Score:
    """Score COCO results on exactly the given images, at most `detections` each.

    Returns map50 and map (mAP50-95) as fractions; classes that do not occur have no entry. `kind` is `bbox`
    for boxes or `segm` for masks.

    Raises:
        DatasetError: these images hold no boxes, so that no precision exists, or a box has no mask.
    """
    wanted = set(image_ids)
    kept = [result for result in results if result["image_id"] in wanted]
    if not any(entry["image_id"] in wanted for entry in split.data["annotations"]):
        raise DatasetError(
            f"{split.path}: the {len(wanted)} evaluated images hold no boxes, so mAP does not exist"
        )
    precision = precision_table(split, kept, image_ids=sorted(wanted), detections=detections, kind=kind)
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
    split: Split, results: list[dict[str, Any]], *, image_ids: list[int], detections: int, kind: str
) -> Any:
    """Return pycocotools' precision (10 IoU thresholds, 101 recalls, classes), all areas, float64."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:  # pycocotools cannot load an empty list
        has = {
            entry["category_id"] for entry in split.data["annotations"] if entry["image_id"] in set(image_ids)
        }
        return np.stack(
            [np.full((10, 101), 0.0 if category in has else -1.0) for category in split.categories], axis=2
        )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO()
        truth.dataset = {**split.data, "annotations": boxes_of(split, kind=kind)}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes([dict(result) for result in results]), kind)
        judge.params.imgIds = image_ids
        judge.params.maxDets = [1, 10, detections]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, -1]


def boxes_of(split: Split, *, kind: str = "bbox") -> list[dict[str, Any]]:
    """Return the boxes with what pycocotools needs and files may lack: id from 1, area, iscrowd."""
    if kind == "segm":
        without = [entry for entry in split.data["annotations"] if not entry.get("segmentation")]
        if without:
            raise DatasetError(
                f"{split.path}: {len(without)} boxes have no segmentation, the first in image "
                f"{without[0]['image_id']}: masks cannot be scored on a dataset of boxes"
            )
    return [
        {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry, "id": place}
        for place, entry in enumerate(split.data["annotations"], start=1)
    ]
