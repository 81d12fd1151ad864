"""The outline of a mask as one polygon along the edges of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def outline(mask: NDArray[np.bool_]) -> list[Point]:
    """Return corners (x, y) in pixels of a polygon that encloses exactly the pixels of `mask`, bool (H, W).

    Its extremes are those of the mask's box and its area is the count of pixels. Parts that are apart, and
    holes, are joined by lines that are walked there and back, which label formats of one polygon need.
    An empty mask has no corners.
    """
    path: list[Point] = []
    first: Point | None = None
    for loop in _loops(mask):
        first = first or loop[0]
        path += [*loop, loop[0], first] if path else [*loop, first]
    return path[:-1] if path else []


def _loops(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """Return the closed walks along the mask's border, clockwise around pixels, the first one outermost."""
    following = _border(mask)
    loops: list[list[Point]] = []
    while following:
        start = min(following, key=lambda point: (point[1], point[0])) if not loops else next(iter(following))
        loop, at = [start], _step(following, start)
        while at != start:
            loop.append(at)
            at = _step(following, at)
        loops.append(_corners(loop))
    return loops


def _border(mask: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Return where each border edge that starts at a point leads to; the pixel lies on its right hand."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (inside & ~padded[1:-1, 2:], (1, 0), (1, 1)),
        (inside & ~padded[2:, 1:-1], (1, 1), (0, 1)),
        (inside & ~padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    following: dict[Point, list[Point]] = {}
    for where, start, end in sides:
        for y, x in np.argwhere(where).tolist():
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    return following


def _step(following: dict[Point, list[Point]], at: Point) -> Point:
    ends = following[at]
    end = ends.pop()
    if not ends:
        del following[at]
    return end


def _corners(loop: list[Point]) -> list[Point]:
    """Drop the points on straight stretches."""
    before, after = [loop[-1], *loop[:-1]], [*loop[1:], loop[0]]
    return [
        p
        for a, p, b in zip(before, loop, after, strict=True)
        if (p[0] - a[0]) * (b[1] - p[1]) != (p[1] - a[1]) * (b[0] - p[0])
    ]
