"""Places the labels of a scatter plot so that none covers another, a point or a whisker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CHARACTER_PX = 6.4
LINE_PX = 14.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """True when the two share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        """True when this one lies wholly in `other`."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def place(
    texts: Sequence[str], *, anchors: Sequence[tuple[float, float]], obstacles: Sequence[Box], area: Box
) -> list[Box | None]:
    """A box for each text near its anchor, or None where there is no free room.

    Greedy: the nearest free place wins, rightmost anchors first, since those have the least room.
    """
    taken = list(obstacles)
    found: list[Box | None] = [None] * len(texts)
    for index in sorted(range(len(texts)), key=lambda i: -anchors[i][0]):
        width = CHARACTER_PX * len(texts[index])
        for box in _candidates(anchors[index], width=width):
            if box.inside(area) and not any(box.overlaps(other) for other in taken):
                found[index] = box
                taken.append(box)
                break
    return found


def _candidates(anchor: tuple[float, float], *, width: float) -> Iterator[Box]:
    x, y = anchor
    for distance in (9, 14, 22, 32, 44, 58, 74, 92):
        for degrees in (0, 180, 270, 90, 315, 45, 225, 135, 290, 70, 250, 110):
            angle = math.radians(degrees)
            across, down = math.cos(angle), math.sin(angle)
            left = x + distance * across + (0.0 if across > 0.3 else -width if across < -0.3 else -width / 2)
            top = y + distance * down - LINE_PX / 2
            yield Box(left=left, top=top, right=left + width, bottom=top + LINE_PX)
