"""Validation images with boxes side by side, as SVG over an embedded image."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from hexpath_deploy.errors import ReportError
from hexpath_deploy.report.labels import BACKENDS
from hexpath_deploy.report.svg import tag

LONGEST_PX = 480
JPEG_QUALITY = 80
COLOURS = 6
Detection = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image, once for each set of boxes."""

    name: str
    panels: tuple[tuple[str, Markup], ...]
    classes: frozenset[int]
    has_truth: bool


class Boxes:
    """Reads files of boxes once each, and hands out those of one image."""

    def __init__(self, *, root: Path, threshold: float) -> None:
        self._root = root
        self._threshold = threshold
        self._files: dict[str, Any] = {}

    def detections(self, name: str, *, image_id: int, where: str) -> list[Detection]:
        """Boxes of a COCO results list with a score of at least the threshold.

        Raises:
            ReportError: the file is missing, no JSON, or no such list.
        """
        every = self._read(name, where=where)
        if not isinstance(every, list):
            raise ReportError(f"{where}: {name} is no list of detections")
        found = _of_image(every, image_id=image_id, where=where)
        return [item for item in found if item.get("score", 1.0) >= self._threshold]

    def truth(self, name: str, *, image_id: int, where: str) -> list[Detection]:
        """Annotations of one image of a COCO file.

        Raises:
            ReportError: the file is missing, no JSON, or has no annotations.
        """
        every = self._read(name, where=where)
        if not isinstance(every, dict) or "annotations" not in every:
            raise ReportError(f"{where}: {name} is no COCO file with annotations")
        return _of_image(every["annotations"], image_id=image_id, where=where)

    def names(self, name: str, *, where: str) -> list[str]:
        """Class names by category id, from the categories of a COCO file.

        Raises:
            ReportError: the file is missing or no JSON.
        """
        every = self._read(name, where=where)
        categories = every.get("categories", []) if isinstance(every, dict) else []
        found = {item["id"]: str(item["name"]) for item in categories}
        return [found.get(number, f"class {number}") for number in range(max(found, default=-1) + 1)]

    def _read(self, name: str, *, where: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = json.loads((self._root / name).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ReportError(f"{where}: {self._root / name} cannot be read ({error})") from None
        return self._files[name]


def _of_image(every: Sequence[Any], *, image_id: int, where: str) -> list[Detection]:
    # What is no object at all is checked too, so that the message names it.
    mine = [item for item in every if not isinstance(item, dict) or item.get("image_id") == image_id]
    return [_checked(item, where=where) for item in mine]


def _checked(item: Any, *, where: str) -> Detection:
    box = item.get("bbox") if isinstance(item, dict) else None
    good = isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)
    if not good or not isinstance(item.get("category_id"), int):
        raise ReportError(f"{where}: a box needs bbox [x, y, w, h] and category_id, found {str(item)[:80]}")
    return dict(item)


def picture(
    sample: Mapping[str, Any], *, number: int, root: Path, boxes: Boxes, names: Sequence[str]
) -> Picture:
    """Draw one entry of `samples`.

    Raises:
        ReportError: the image or a file of boxes is missing or broken.
    """
    where = f"samples[{number}]"
    data, width, height = embed(root / sample["image"], where=f"{where}.image")
    truth = []
    if "truth" in sample:
        truth = boxes.truth(sample["truth"], image_id=sample["image_id"], where=f"{where}.truth")
    found, seen = [], {item["category_id"] for item in truth}
    for index, entry in enumerate(sample.get("boxes", [])):
        inside = f"{where}.boxes[{index}]"
        detections = boxes.detections(entry["path"], image_id=sample["image_id"], where=inside)
        seen |= {item["category_id"] for item in detections}
        found.append((f"{entry['id']}, {BACKENDS[entry['evaluated_on']]}", detections))
    panels = []
    for index, (title, detections) in enumerate(found or [("", [])]):
        layers = [_image(data, width=width, height=height, number=number, first=index == 0)]
        layers += [_box(item, names=names, truth=True, width=width) for item in truth]
        layers += [_box(item, names=names, truth=False, width=width) for item in detections]
        label = f"{title}: {len(detections)} boxes"
        panels.append(
            (title, tag("svg", *layers, viewBox=f"0 0 {width} {height}", role="img", aria_label=label))
        )
    return Picture(
        name=Path(sample["image"]).name, panels=tuple(panels), classes=frozenset(seen), has_truth=bool(truth)
    )


def embed(path: Path, *, where: str) -> tuple[str, int, int]:
    """A small JPEG of the image as a data URI, and the width and height of the original in pixels.

    Raises:
        ReportError: no such file, or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ReportError(f"{where}: {path} cannot be read ({error})") from None
    small.thumbnail((LONGEST_PX, LONGEST_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), width, height


def _image(data: str, *, width: int, height: int, number: int, first: bool) -> Markup:
    # The second panel refers to the image of the first: each is embedded once.
    if first:
        return tag("image", href=data, width=width, height=height, id=f"picture-{number}")
    return tag("use", href=f"#picture-{number}")


def _box(item: Detection, *, names: Sequence[str], truth: bool, width: int) -> Markup:
    x, y, across, down = item["bbox"]
    category = item["category_id"]
    name = names[category] if 0 <= category < len(names) else f"class {category}"
    tip = f"{name}, ground truth" if truth else f"{name} {item.get('score', 1.0):.2f}"
    stroke = width / 320
    place = {"x": float(x), "y": float(y), "width": float(max(across, 0)), "height": float(max(down, 0))}
    if truth:
        dark = tag("rect", **place, class_="truth-under", stroke_width=stroke * 1.9)
        dashes = f"{3 * stroke:.2f} {2.5 * stroke:.2f}"
        light = tag("rect", **place, class_="truth", stroke_width=stroke, stroke_dasharray=dashes)
        return tag("g", tag("title", tip), dark, light)
    colour = f"box c{category % COLOURS}"
    return tag("g", tag("title", tip), tag("rect", **place, class_=colour, stroke_width=stroke * 2))
