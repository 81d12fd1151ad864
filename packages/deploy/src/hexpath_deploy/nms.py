"""Non-maximum suppression in numpy, with the settings of Ultralytics' validator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`confidence`: lowest score; `iou`: overlap from which the weaker of one class goes.

    At most `detections` an image.
    """

    confidence: float = 0.001
    iou: float = 0.7
    detections: int = 300
    candidates: int = 30_000


@dataclass(frozen=True, kw_only=True)
class Detections:
    """`boxes` float32 (N, 4) xyxy in pixels, `scores` float32 (N,), `classes` int64 (N,), best first."""

    boxes: Floats
    scores: Floats
    classes: Ints

    def take(self, index: npt.NDArray[np.generic]) -> Detections:
        """Return the detections at `index`."""
        return Detections(boxes=self.boxes[index], scores=self.scores[index], classes=self.classes[index])


def suppress(found: Detections, *, settings: Settings) -> Detections:
    """Keep the best of each class, greedily by score, until `settings.detections` are kept."""
    order = np.argsort(-found.scores, kind="stable")[: settings.candidates]
    best = found.take(order)
    return best.take(np.array(greedy(best, settings=settings), np.intp))


def greedy(best: Detections, *, settings: Settings) -> list[int]:
    """Return the indices that stay, of detections sorted by score."""
    x0, y0, x1, y1 = np.ascontiguousarray(best.boxes.T)
    areas = (x1 - x0) * (y1 - y0)
    alive = np.arange(len(areas))
    kept: list[int] = []
    while len(alive) and len(kept) < settings.detections:
        head, rest = alive[0], alive[1:]
        kept.append(int(head))
        width = np.minimum(x1[head], x1[rest]) - np.maximum(x0[head], x0[rest])
        height = np.minimum(y1[head], y1[rest]) - np.maximum(y0[head], y0[rest])
        inner = np.maximum(width, 0) * np.maximum(height, 0)
        union = areas[head] + areas[rest] - inner
        gone = (inner > settings.iou * union) & (best.classes[rest] == best.classes[head])
        alive = rest[~gone]
    return kept
