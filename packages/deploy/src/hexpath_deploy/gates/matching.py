"""Which detections find which boxes, as COCO matches them: one to one, best score first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hexpath_deploy.coco import Split

Doubles: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
MOST_THRESHOLDS = 2000


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The detections of one class: `scores` (N,), descending, and which `found` one of the `boxes`."""

    scores: Doubles
    found: Bools
    boxes: int

    def counts(self, threshold: float) -> tuple[int, int]:
        """Return true and false positives at and above a score."""
        kept = int((self.scores >= threshold).sum())
        hits = int(self.found[:kept].sum())
        return hits, kept - hits

    def recall(self, threshold: float) -> float | None:
        """Return the share of boxes that are found; None when there are none."""
        return self.counts(threshold)[0] / self.boxes if self.boxes else None

    def precision(self, threshold: float) -> float | None:
        """Return the share of detections that find a box; None when there are none."""
        hits, misses = self.counts(threshold)
        return hits / (hits + misses) if hits + misses else None

    def f1(self, threshold: float) -> float:
        """Return 2 hits / (detections + boxes); 0 when there are neither."""
        hits, misses = self.counts(threshold)
        return 2 * hits / max(1, hits + misses + self.boxes)


def match_all(
    split: Split, results: Sequence[Mapping[str, Any]], *, image_ids: Iterable[int], iou: float
) -> dict[str, Matches]:
    """Match the detections (COCO results) of the given images, class by class."""
    wanted = set(image_ids)
    truth: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in split.data["annotations"]:
        if entry["image_id"] in wanted:
            truth[entry["category_id"], entry["image_id"]].append(entry)
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        if result["image_id"] in wanted:
            found[result["category_id"], result["image_id"]].append(result)
    return {
        name: match_class(category, truth=truth, found=found, iou=iou)
        for category, name in zip(split.categories, split.names, strict=True)
    }


def match_class(
    category: int,
    *,
    truth: Mapping[tuple[int, int], list[Mapping[str, Any]]],
    found: Mapping[tuple[int, int], list[Mapping[str, Any]]],
    iou: float,
) -> Matches:
    """Match one class over all images. What lies on a crowd counts neither way."""
    scores: list[float] = []
    hits: list[bool] = []
    for key in [key for key in found if key[0] == category]:
        ranked = sorted(found[key], key=lambda result: -float(result["score"]))
        verdicts = match_image(ranked, truth.get(key, []), iou=iou)
        scores += [float(r["score"]) for r, hit in zip(ranked, verdicts, strict=True) if hit is not None]
        hits += [hit for hit in verdicts if hit is not None]
    order = np.argsort(-np.array(scores, np.float64), kind="stable")
    boxes = sum(not entry.get("iscrowd", 0) for key in truth if key[0] == category for entry in truth[key])
    return Matches(
        scores=np.array(scores, np.float64)[order], found=np.array(hits, np.bool_)[order], boxes=boxes
    )


def match_image(
    ranked: Sequence[Mapping[str, Any]], boxes: Sequence[Mapping[str, Any]], *, iou: float
) -> list[bool | None]:
    """Return for each detection, best first, whether it finds a box that is still free; None: ignored."""
    if not boxes:
        return [False] * len(ranked)
    crowd = np.array([bool(box.get("iscrowd", 0)) for box in boxes])
    overlaps = overlap(ranked, boxes, crowd=crowd)
    taken = np.zeros(len(boxes), np.bool_)
    verdicts: list[bool | None] = []
    for row in overlaps:
        free = np.where(taken | crowd, 0.0, row)
        best = int(free.argmax())
        if free[best] >= iou:
            taken[best] = True
            verdicts.append(True)
        else:
            verdicts.append(None if (crowd & (row >= iou)).any() else False)
    return verdicts


def overlap(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, crowd: Bools | None = None
) -> Doubles:
    """Return intersection over union (N, M) of boxes x, y, width, height; for a crowd over the detection."""
    one = np.array([entry["bbox"] for entry in first], np.float64).reshape(-1, 1, 4)
    two = np.array([entry["bbox"] for entry in second], np.float64).reshape(1, -1, 4)
    low = np.maximum(one[..., :2], two[..., :2])
    high = np.minimum(one[..., :2] + one[..., 2:], two[..., :2] + two[..., 2:])
    inner = np.maximum(high - low, 0).prod(axis=2)
    area, other = one[..., 2:].prod(axis=2), two[..., 2:].prod(axis=2)
    union = area + other - inner
    if crowd is not None:
        union = np.where(crowd[None, :], area, union)
    result: Doubles = inner / np.maximum(union, 1e-12)
    return result


def thresholds(matches: Mapping[str, Matches]) -> Doubles:
    """Return the scores at which a count changes, ascending, thinned to at most MOST_THRESHOLDS."""
    scores = np.unique(np.concatenate([each.scores for each in matches.values()] or [np.zeros(0)]))
    if len(scores) > MOST_THRESHOLDS:
        scores = scores[np.linspace(0, len(scores) - 1, MOST_THRESHOLDS).astype(int)]
    return scores.astype(np.float64)


def best_f1(matches: Mapping[str, Matches]) -> float:
    """Return the threshold with the highest mean F1 over classes that have boxes; 0.5 without detections."""
    kept = [each for each in matches.values() if each.boxes]
    candidates = thresholds(matches)
    if not len(candidates) or not kept:
        return 0.5
    means = [sum(each.f1(threshold) for each in kept) for threshold in candidates]
    return round_down(float(candidates[int(np.argmax(means))]))


def round_down(value: float) -> float:
    """Return a threshold with three digits that still keeps a detection of score `value`."""
    return max(0.001, np.floor(value * 1000) / 1000)
