"""What a network's outputs mean: the formats of `hexpath.outputs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hexpath_deploy.errors import MetadataError, nearest

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
MAX_CLASSES = 255  # a semantic mask has 8 bits, and 255 is "ignore"


@dataclass(frozen=True, kw_only=True)
class Level:
    """One pyramid level of a raw head.

    `boxes`: name of a tensor (1, 4*reg_max, H/stride, W/stride), `scores`: (1, classes, H/stride, W/stride),
    `masks`, when there are any: (1, coefficients, H/stride, W/stride).
    """

    stride: int
    boxes: str
    scores: str
    masks: str | None = None


@dataclass(frozen=True, kw_only=True)
class RawHead:
    """Head tensors as the last convolutions give them: DFL logits (left, top, right,
    bottom; distances in cells when `reg_max` is 1) and class logits.

    `nms` is false for a network that was trained to give each object once.
    `prototypes`: name of a tensor (1, coefficients, h, w).
    """

    reg_max: int
    levels: tuple[Level, ...]
    nms: bool = True
    prototypes: str | None = None
    name = "raw"

    @property
    def outputs(self) -> tuple[str, ...]:
        tensors = [name for level in self.levels for name in (level.boxes, level.scores, level.masks)]
        return tuple(name for name in (*tensors, self.prototypes) if name is not None)


@dataclass(frozen=True, kw_only=True)
class DecodedHead:
    """Boxes (1, 4, anchors) xywh (centre) in input pixels and probabilities (1, classes, anchors), apart;
    with masks their coefficients (1, coefficients, anchors) and the prototypes.
    """

    boxes: str
    scores: str
    masks: str | None = None
    prototypes: str | None = None
    name = "decoded"

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for name in (self.boxes, self.scores, self.masks, self.prototypes) if name)


@dataclass(frozen=True, kw_only=True)
class PlainHead:
    """Ultralytics' export: boxes, probabilities and mask coefficients in one tensor
    (1, 4+classes+coefficients, anchors); with masks the prototypes beside it.
    """

    output: str
    prototypes: str | None = None
    name = "plain"

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output,) if self.prototypes is None else (self.output, self.prototypes)


@dataclass(frozen=True, kw_only=True)
class SemanticHead:
    """Class logits (1, classes, H/stride, W/stride); `ignore` is the mask value that counts for nothing."""

    logits: str
    stride: int
    ignore: int = 255
    name = "semantic"

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.logits,)


Head: TypeAlias = RawHead | DecodedHead | PlainHead | SemanticHead


def parse_raw(entry: dict[str, Any]) -> RawHead:
    """Read the format `yolo-raw`."""
    if entry.get("scores", "logits") != "logits":
        raise MetadataError(f"hexpath.outputs: scores '{entry['scores']}' of a raw head, expected 'logits'")
    levels = tuple(
        Level(
            stride=int(item["stride"]),
            boxes=str(item["boxes"]),
            scores=str(item["scores"]),
            masks=text(item, "masks"),
        )
        for item in entry["levels"]
    )
    nms = entry.get("nms", True)
    if not isinstance(nms, bool):
        raise MetadataError(f"hexpath.outputs: nms {nms!r}, expected true or false")
    return RawHead(
        reg_max=int(entry["reg_max"]), levels=levels, nms=nms, prototypes=text(entry, "prototypes")
    )


def parse_decoded(entry: dict[str, Any]) -> DecodedHead:
    """Read the format `yolo-decoded`."""
    return DecodedHead(
        boxes=str(entry["boxes"]),
        scores=str(entry["scores"]),
        masks=text(entry, "masks"),
        prototypes=text(entry, "prototypes"),
    )


def parse_plain(entry: dict[str, Any]) -> PlainHead:
    """Read the format `yolo-plain`."""
    return PlainHead(output=str(entry["output"]), prototypes=text(entry, "prototypes"))


def parse_semantic(entry: dict[str, Any]) -> SemanticHead:
    """Read the format `semantic`."""
    return SemanticHead(
        logits=str(entry["logits"]), stride=int(entry["stride"]), ignore=int(entry.get("ignore", 255))
    )


def text(entry: Mapping[str, Any], key: str) -> str | None:
    """Return a text that may be absent."""
    return str(entry[key]) if entry.get(key) is not None else None


FORMATS: dict[str, Callable[[dict[str, Any]], Head]] = {
    "yolo-raw": parse_raw,
    "yolo-decoded": parse_decoded,
    "yolo-plain": parse_plain,
    "semantic": parse_semantic,
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


def check_task(head: Head, task: str) -> None:
    """Hold the head's format against the task.

    Raises:
        MetadataError: a task of masks whose head gives none, or the other way round.
    """
    if isinstance(head, SemanticHead):
        fits = task == "semantic"
    else:
        levels = head.levels if isinstance(head, RawHead) else ()
        apart = [level.masks for level in levels]
        if isinstance(head, DecodedHead):
            apart = [head.masks]
        if any((masks is None) != (head.prototypes is None) for masks in apart):
            raise MetadataError(
                "hexpath.outputs names mask coefficients without prototypes, or prototypes without the "
                "coefficients of each level: both are needed"
            )
        fits = task == ("detect" if head.prototypes is None else "segment")
    if not fits:
        raise MetadataError(
            f"the metadata says task '{task}', but its hexpath.outputs ({head.name}"
            f"{', without masks' if task == 'segment' else ''}) describe another: export the model again"
        )


def check_head(head: Head, *, shapes: Shapes, classes: int, imgsz: tuple[int, int]) -> None:
    """Hold the head against the graph's real outputs: names and shapes.

    Raises:
        MetadataError: an output is missing, or has another shape than classes and image size demand.
    """
    missing = [name for name in head.outputs if name not in shapes]
    if missing:
        raise MetadataError(
            f"the metadata names output '{missing[0]}', the graph has {', '.join(shapes)}: export again"
        )
    twice = [name for name in head.outputs if head.outputs.count(name) > 1]
    if twice:
        raise MetadataError(f"the metadata names output '{twice[0]}' for two purposes: export again")
    if isinstance(head, SemanticHead) and classes > MAX_CLASSES:
        raise MetadataError(f"{classes} classes of a semantic model, at most {MAX_CLASSES} fit into a mask")
    for name, wanted in expected_shapes(head, classes=classes, imgsz=imgsz, shapes=shapes).items():
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
    if isinstance(head, SemanticHead):
        return {head.logits: (1, classes, height // head.stride, width // head.stride)}
    prototypes = shapes[head.prototypes] if head.prototypes else (1, 0)
    wanted: dict[str, tuple[int, ...]] = {}
    if head.prototypes:  # they cover the image at a stride of their own
        stride = max(height // max(prototypes[2], 1), 1) if len(prototypes) == 4 else 1
        wanted[head.prototypes] = (1, prototypes[1], height // stride, width // stride)
    if isinstance(head, RawHead):
        return wanted | raw_shapes(head, classes=classes, imgsz=imgsz, coefficients=prototypes[1])
    if isinstance(head, DecodedHead):
        anchors = shapes[head.boxes][-1]
        wanted |= {head.boxes: (1, 4, anchors), head.scores: (1, classes, anchors)}
        return wanted | ({head.masks: (1, prototypes[1], anchors)} if head.masks else {})
    return wanted | {head.output: (1, 4 + classes + prototypes[1], shapes[head.output][-1])}


def raw_shapes(
    head: RawHead, *, classes: int, imgsz: tuple[int, int], coefficients: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a raw head's levels."""
    wanted: dict[str, tuple[int, ...]] = {}
    for level in head.levels:
        grid = (imgsz[0] // level.stride, imgsz[1] // level.stride)
        wanted |= {level.boxes: (1, 4 * head.reg_max, *grid), level.scores: (1, classes, *grid)}
        if level.masks:
            wanted[level.masks] = (1, coefficients, *grid)
    return wanted
