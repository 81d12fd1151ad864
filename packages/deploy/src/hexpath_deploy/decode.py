"""From a detector's outputs to boxes, scores and classes, for each head format, in numpy.

A raw head's boxes are a distribution over `reg_max` distances a side (DFL, Li et al. 2020,
arXiv:2006.04388); they are decoded only where a score passes the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hexpath_deploy.heads import DecodedHead, Head, Level, RawHead
from hexpath_deploy.nms import Detections, Settings, suppress
from hexpath_deploy.preprocess import Letterbox

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Outputs: TypeAlias = Mapping[str, Floats]


def detect(outputs: Outputs, *, head: Head, placed: Letterbox, settings: Settings) -> Detections:
    """Return the detections of one image in pixels of the original image.

    `outputs` maps the head's tensors to float32 arrays of batch 1.
    """
    found = suppress(candidates(outputs, head=head, settings=settings), settings=settings)
    return Detections(boxes=placed.to_original(found.boxes), scores=found.scores, classes=found.classes)


def candidates(outputs: Outputs, *, head: Head, settings: Settings) -> Detections:
    """Return every (anchor, class) above the threshold, boxes xyxy in input pixels."""
    if isinstance(head, RawHead):
        levels = [
            raw_level(outputs, level=level, reg_max=head.reg_max, settings=settings) for level in head.levels
        ]
        return Detections(
            boxes=np.concatenate([level.boxes for level in levels]),
            scores=np.concatenate([level.scores for level in levels]),
            classes=np.concatenate([level.classes for level in levels]),
        )
    if isinstance(head, DecodedHead):
        return centred(outputs[head.boxes][0], outputs[head.scores][0], settings=settings)
    joined = outputs[head.output][0]
    return centred(joined[:4], joined[4:], settings=settings)


def centred(boxes: Floats, scores: Floats, *, settings: Settings) -> Detections:
    """Pick from boxes (4, anchors) xywh (centre) and probabilities (classes, anchors)."""
    classes, anchors = np.nonzero(scores > settings.confidence)
    x, y, width, height = boxes[:, anchors]
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    return strongest(corners.astype(np.float32), scores[classes, anchors], classes, settings=settings)


def raw_level(outputs: Outputs, *, level: Level, reg_max: int, settings: Settings) -> Detections:
    """Pick from one level's class logits (1, classes, h, w) and DFL logits (1, 4*reg_max, h, w)."""
    logits = outputs[level.scores][0]
    columns = logits.shape[2]
    flat = logits.reshape(logits.shape[0], -1)
    lowest = np.log(settings.confidence / (1 - settings.confidence))
    classes, anchors = np.nonzero(flat > lowest)
    wanted, place = np.unique(anchors, return_inverse=True)
    bins = outputs[level.boxes][0].reshape(4, reg_max, -1)[:, :, wanted]
    corners = corners_of(distances(bins), wanted, columns=columns, stride=level.stride)
    return strongest(corners[place], sigmoid(flat[classes, anchors]), classes, settings=settings)


def distances(bins: Floats) -> Floats:
    """Return the expected distance (4, N) in cells of DFL logits (4, reg_max, N).

    Sum_i i * softmax(bins)_i.
    """
    shifted = np.exp(bins - bins.max(axis=1, keepdims=True))
    weights = np.arange(bins.shape[1], dtype=np.float32)
    expected: Floats = np.einsum("sbn,b->sn", shifted, weights).astype(np.float32)
    expected /= shifted.sum(axis=1)
    return expected


def corners_of(sides: Floats, anchors: npt.NDArray[np.intp], *, columns: int, stride: int) -> Floats:
    """Return boxes (N, 4) xyxy in input pixels of left, top, right, bottom (4,
    N) in cells around cell centres.
    """
    x, y = anchors % columns + 0.5, anchors // columns + 0.5
    left, top, right, bottom = sides
    return (np.stack([x - left, y - top, x + right, y + bottom], axis=1) * stride).astype(np.float32)


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-values))."""
    result: Floats = np.float32(1) / (np.float32(1) + np.exp(-values))
    return result


def strongest(
    boxes: Floats, scores: Floats, classes: npt.NDArray[np.intp], *, settings: Settings
) -> Detections:
    """Keep at most `settings.candidates`, by score."""
    found = Detections(boxes=boxes, scores=scores.astype(np.float32), classes=classes.astype(np.int64))
    if len(scores) <= settings.candidates:
        return found
    return found.take(np.argpartition(-scores, settings.candidates)[: settings.candidates])
