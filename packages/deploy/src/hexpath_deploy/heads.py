"""What a detector's outputs mean: the three formats of `hexpath.outputs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hexpath_deploy.errors import MetadataError, nearest

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Level:
    """One pyramid level of a raw head.

    `boxes`: name of a tensor (1, 4*reg_max, H/stride, W/stride), `scores`: (1, classes, H/stride, W/stride).
    """

    stride: int
    boxes: str
    scores: str


@dataclass(frozen=True, kw_only=True)
class RawHead:
    """Head tensors as the last convolutions give them: DFL logits (left, top, right,
    bottom) and class logits.
    """

    reg_max: int
    levels: tuple[Level, ...]
    name = "raw"

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for level in self.levels for name in (level.boxes, level.scores))


@dataclass(frozen=True, kw_only=True)
class DecodedHead:
    """Boxes (1, 4, anchors) xywh (centre) in input pixels and probabilities (1, classes, anchors), apart."""

    boxes: str
    scores: str
    name = "decoded"

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.boxes, self.scores)


@dataclass(frozen=True, kw_only=True)
class PlainHead:
    """Ultralytics' export: boxes and probabilities in one tensor (1, 4+classes, anchors)."""

    output: str
    name = "plain"

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output,)


Head: TypeAlias = RawHead | DecodedHead | PlainHead


def parse_raw(entry: dict[str, Any]) -> RawHead:
    """Read the format `yolo-raw`."""
    if entry.get("scores", "logits") != "logits":
        raise MetadataError(f"hexpath.outputs: scores '{entry['scores']}' of a raw head, expected 'logits'")
    levels = tuple(
        Level(stride=int(item["stride"]), boxes=str(item["boxes"]), scores=str(item["scores"]))
        for item in entry["levels"]
    )
    return RawHead(reg_max=int(entry["reg_max"]), levels=levels)


def parse_decoded(entry: dict[str, Any]) -> DecodedHead:
    """Read the format `yolo-decoded`."""
    return DecodedHead(boxes=str(entry["boxes"]), scores=str(entry["scores"]))


def parse_plain(entry: dict[str, Any]) -> PlainHead:
    """Read the format `yolo-plain`."""
    return PlainHead(output=str(entry["output"]))


FORMATS: dict[str, Callable[[dict[str, Any]], Head]] = {
    "yolo-raw": parse_raw,
    "yolo-decoded": parse_decoded,
    "yolo-plain": parse_plain,
}


def parse_head(text: str) -> Head:
    """Read the JSON of `hexpath.outputs`.

    Raises:
        MetadataError: it is no JSON, names an unknown format, or lacks a field of its format.
    """
    try:
        entry = json.loads(text)
        name = entry["format"]
        reader = FORMATS.get(name)
        if reader is None:
            raise MetadataError(f"hexpath.outputs: unknown format '{name}'{nearest(str(name), FORMATS)}")
        return reader(entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetadataError(f"hexpath.outputs cannot be read ({error!r}): export the model again") from error


def check_head(head: Head, *, shapes: Shapes, classes: int, imgsz: tuple[int, int]) -> None:
    """Hold the head against the graph's real outputs: names and shapes.

    Raises:
        MetadataError: an output is missing, or has another shape than classes and image size demand.
    """
    for name, wanted in expected_shapes(head, classes=classes, imgsz=imgsz, shapes=shapes).items():
        if name not in shapes:
            raise MetadataError(
                f"the metadata names output '{name}', the graph has {', '.join(shapes)}: export again"
            )
        if shapes[name] != wanted:
            raise MetadataError(
                f"output '{name}' has shape {list(shapes[name])}, but the metadata ({classes} classes, image "
                f"{imgsz[0]}x{imgsz[1]}, head {head.name}) demands {list(wanted)}: the metadata is "
                "another model's"
            )


def expected_shapes(
    head: Head, *, classes: int, imgsz: tuple[int, int], shapes: Shapes
) -> dict[str, tuple[int, ...]]:
    """Return the shape that each output must have."""
    height, width = imgsz
    if isinstance(head, RawHead):
        grids = {level: (height // level.stride, width // level.stride) for level in head.levels}
        wanted: dict[str, tuple[int, ...]] = {}
        for level, grid in grids.items():
            wanted |= {level.boxes: (1, 4 * head.reg_max, *grid), level.scores: (1, classes, *grid)}
        return wanted
    if isinstance(head, DecodedHead):
        anchors = shapes.get(head.boxes, (0,))[-1]
        return {head.boxes: (1, 4, anchors), head.scores: (1, classes, anchors)}
    return {head.output: (1, 4 + classes, shapes.get(head.output, (0,))[-1])}
