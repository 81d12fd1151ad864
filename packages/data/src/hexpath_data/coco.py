"""COCO JSON for detection and instances: the records, run-length masks, reader and writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hexpath_data.errors import CocoError
from hexpath_data.files import write_atomic

DESCRIPTION = "category_id is the class id, counted from 0; file_name is relative to info.root"


@dataclass(frozen=True, kw_only=True)
class CocoInstance:
    """One annotation: box as x, y, width, height in pixels; segmentation as COCO has it, or empty."""

    class_id: int
    box: tuple[float, float, float, float]
    area: float
    segmentation: Any = ()


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One image and its annotations; `facts` are further keys of the image record."""

    file_name: str
    width: int
    height: int
    instances: tuple[CocoInstance, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """A COCO file: image ids are 1 to N in the order of `images`, category ids are class ids."""

    names: tuple[str, ...]
    images: tuple[CocoImage, ...]
    info: Mapping[str, Any] = field(default_factory=dict)


def rle_encode(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return COCO's uncompressed run-length code of a mask, bool (H, W): column-major, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    counts = np.diff(edges).tolist()
    if flat.size and flat[0]:
        counts = [0, *counts]
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": [int(c) for c in counts]}


def rle_decode(code: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask, bool (H, W), of an uncompressed run-length code.

    Raises:
        CocoError: the runs do not fill the image.
    """
    height, width = code["size"]
    counts = np.asarray(code["counts"], dtype=np.int64)
    if int(counts.sum()) != height * width:
        raise CocoError(f"run lengths sum to {int(counts.sum())}, expected {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    flat: NDArray[np.bool_] = np.repeat(values, counts)
    return flat.reshape((height, width), order="F")


def to_coco(content: CocoSet) -> dict[str, Any]:
    """Return the JSON object of a COCO set."""
    annotations: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for image_id, image in enumerate(content.images, start=1):
        size = {"width": image.width, "height": image.height}
        images.append({"id": image_id, "file_name": image.file_name, **size, **image.facts})
        for instance in image.instances:
            annotations.append(_annotation(instance, number=len(annotations) + 1, image_id=image_id))
    categories = [{"id": i, "name": name} for i, name in enumerate(content.names)]
    info = {"description": DESCRIPTION, **content.info}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def write_coco(path: Path, content: CocoSet) -> None:
    """Write a COCO set as JSON, wholly or not at all."""
    write_atomic(path, json.dumps(to_coco(content), separators=(",", ":")) + "\n")


def read_coco(path: Path) -> CocoSet:
    """Read a COCO file of instances.

    Category ids may start anywhere; they become class ids 0..n-1 in their order. Images come in the
    order of their ids.

    Raises:
        CocoError: no such file, no JSON, a missing key, or an annotation of an unknown image or category.
    """
    content = _load(path)
    try:
        return _from_coco(content, path=path)
    except KeyError as error:
        raise CocoError(f"{path}: key {error} is missing in a record; is this COCO instances?") from error
    except (TypeError, ValueError) as error:
        raise CocoError(f"{path}: a record has the wrong type: {error}") from error


def _annotation(instance: CocoInstance, *, number: int, image_id: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": instance.class_id,
        "bbox": list(instance.box),
        "area": instance.area,
        "iscrowd": 0,
    }
    if instance.segmentation:
        record["segmentation"] = instance.segmentation
    return record


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CocoError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise CocoError(f"{path}: is no JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise CocoError(f"{path}: list {key!r} is missing; is this COCO instances?")
    return dict(content)


def _from_coco(content: Mapping[str, Any], *, path: Path) -> CocoSet:
    categories = sorted(content["categories"], key=lambda record: int(record["id"]))
    class_ids = {int(record["id"]): i for i, record in enumerate(categories)}
    records = sorted(content["images"], key=lambda record: int(record["id"]))
    instances: dict[int, list[CocoInstance]] = {int(record["id"]): [] for record in records}
    for record in content["annotations"]:
        if record["image_id"] not in instances:
            raise CocoError(
                f"{path}: annotation {record.get('id')} is of image {record['image_id']}, not listed"
            )
        if record["category_id"] not in class_ids:
            raise CocoError(
                f"{path}: annotation {record.get('id')} is of category {record['category_id']}, not listed"
            )
        instances[record["image_id"]].append(_instance(record, class_ids=class_ids))
    images = tuple(_image(record, instances=instances[int(record["id"])]) for record in records)
    names = tuple(str(record["name"]) for record in categories)
    return CocoSet(names=names, images=images, info=content.get("info") or {})


def _instance(record: Mapping[str, Any], *, class_ids: Mapping[int, int]) -> CocoInstance:
    x, y, width, height = (float(value) for value in record["bbox"])
    return CocoInstance(
        class_id=class_ids[record["category_id"]],
        box=(x, y, width, height),
        area=float(record.get("area", width * height)),
        segmentation=record.get("segmentation") or (),
    )


def _image(record: Mapping[str, Any], *, instances: Sequence[CocoInstance]) -> CocoImage:
    known = ("id", "file_name", "width", "height")
    return CocoImage(
        file_name=str(record["file_name"]),
        width=int(record["width"]),
        height=int(record["height"]),
        instances=tuple(instances),
        facts={key: value for key, value in record.items() if key not in known},
    )
