"""Accuracy against latency, as SVG: bounds as whiskers, the front as a line, labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hexpath_deploy.report.labels import milliseconds, percent
from hexpath_deploy.report.place import LINE_PX, Box, place
from hexpath_deploy.report.svg import Scale, tag, tick_text, ticks

STRIP_PX = 34.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """A plan in the plot: latency in ms with bounds, accuracy as a fraction."""

    name: str
    ms: float
    low_ms: float
    high_ms: float
    accuracy: float
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Scales of the plot, and the points that lie too low for it."""

    x: Scale
    y: Scale
    fallen: frozenset[str]
    width: float
    height: float

    def at(self, point: Point) -> tuple[float, float]:
        """Pixels of a point; the fallen ones lie in the strip below the axis break."""
        y = self.y.start + STRIP_PX * 0.6 if point.name in self.fallen else self.y(point.accuracy)
        return self.x(point.ms), y


def scatter(
    points: Sequence[Point],
    *,
    reference: float | None,
    metric: str,
    width: float = 1000.0,
    height: float = 430.0,
) -> Markup:
    """Draw the plot. reference: accuracy of FP32 (a fraction), a dashed line; metric: its label."""
    frame = _frame(points, reference=reference, width=width, height=height)
    parts = [
        *_grid(frame, metric=metric),
        *_reference(frame, value=reference),
        _front(frame, points=points),
        *(_mark(frame, point=point) for point in points),
        *_labels(frame, points=points, reference=reference),
    ]
    title = f"{metric} against latency of {len(points)} plans"
    return tag(
        "svg", *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=title, class_="plot"
    )


def front(points: Sequence[Point]) -> list[Point]:
    """The plans that no other plan beats in both latency and accuracy, by latency."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda item: (item.ms, -item.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def _frame(points: Sequence[Point], *, reference: float | None, width: float, height: float) -> _Frame:
    best = max([point.accuracy for point in points] + [reference or 0.0])
    standing = [point.accuracy for point in points if point.accuracy >= best / 2]
    # A plan that collapsed would press all others together at the top: it goes to a strip of its own.
    fallen = frozenset(p.name for p in points if p.accuracy < best / 2) if len(standing) > 1 else frozenset()
    shown = (standing if fallen else [point.accuracy for point in points]) + (
        [reference] if reference else []
    )
    pad = max((max(shown) - min(shown)) * 0.12, 0.004)
    left, right, top, bottom = 46.0, width - 14, 24.0, height - 44 - (STRIP_PX if fallen else 0)
    slowest = max(point.high_ms for point in points) or 1.0
    return _Frame(
        x=Scale(low=0.0, high=slowest * 1.06, start=left, end=right),
        y=Scale(low=max(0.0, min(shown) - pad), high=min(1.0, max(shown) + pad), start=bottom, end=top),
        fallen=fallen,
        width=width,
        height=height,
    )


def _grid(frame: _Frame, *, metric: str) -> list[Markup]:
    x, y = frame.x, frame.y
    floor = y.start + (STRIP_PX if frame.fallen else 0.0)
    parts = []
    for value in ticks(100 * y.low, 100 * y.high, count=6):
        at = y(value / 100)
        parts.append(tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", tick_text(value), x=x.start - 8, y=at + 4, class_="tick end"))
    for value in ticks(0, x.high, count=8 if frame.width > 600 else 5):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=floor, y2=floor + 4, class_="axis"))
        parts.append(tag("text", tick_text(value), x=x(value), y=floor + 17, class_="tick middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=floor, y2=floor, class_="axis"))
    parts.append(tag("text", f"{metric}, %", x=4.0, y=13.0, class_="axis-title"))
    parts.append(tag("text", "latency, ms", x=x.end, y=frame.height - 6, class_="axis-title end"))
    if frame.fallen:
        parts.append(
            tag("rect", x=x.start, y=y.start, width=x.end - x.start, height=STRIP_PX, class_="strip")
        )
        parts.append(tag("text", "below", x=x.start - 8, y=y.start + STRIP_PX * 0.6 + 4, class_="tick end"))
    return parts


def _reference(frame: _Frame, *, value: float | None) -> list[Markup]:
    if value is None:
        return []
    at = frame.y(value)
    text = f"FP32 {percent(value)}"
    return [
        tag("line", x1=frame.x.start, x2=frame.x.end, y1=at, y2=at, class_="reference"),
        tag("text", text, x=frame.x.end, y=at - 5, class_="tick end"),
    ]


def _front(frame: _Frame, *, points: Sequence[Point]) -> Markup:
    standing = [point for point in front(points) if point.name not in frame.fallen]
    path = ""
    for index, point in enumerate(standing):
        x, y = frame.at(point)
        path += f"M{x:.1f} {y:.1f}" if index == 0 else f"H{x:.1f}V{y:.1f}"
    return tag("path", d=path, class_="front")


def _mark(frame: _Frame, *, point: Point) -> Markup:
    x, y = frame.at(point)
    low, high = frame.x(point.low_ms), frame.x(point.high_ms)
    tip = f"{point.name}: {percent(point.accuracy)} % at {milliseconds(point.ms)} ms"
    if point.high_ms > point.low_ms:
        tip += f" ({milliseconds(point.low_ms)} to {milliseconds(point.high_ms)})"
    ends = [tag("line", x1=at, x2=at, y1=y - 4, y2=y + 4) for at in (low, high)] if high > low else []
    whisker = tag("g", tag("line", x1=low, x2=high, y1=y, y2=y), *ends, class_="whisker")
    dot = tag("circle", cx=x, cy=y, r=6.0 if point.marked else 5.0)
    return tag("g", tag("title", tip), whisker, dot, class_="point marked" if point.marked else "point")


def _obstacles(frame: _Frame, *, points: Sequence[Point], reference: float | None) -> list[Box]:
    boxes = []
    if reference is not None:
        at, right = frame.y(reference), frame.x.end
        boxes.append(Box(left=right - 64, top=at - 5 - LINE_PX, right=right, bottom=at))
    for point in points:
        x, y = frame.at(point)
        boxes.append(Box(left=x - 7, top=y - 7, right=x + 7, bottom=y + 7))
        low, high = frame.x(point.low_ms), frame.x(point.high_ms)
        boxes.append(Box(left=low - 5, top=y - 4, right=high + 5, bottom=y + 4))
    return boxes


def _labels(frame: _Frame, *, points: Sequence[Point], reference: float | None) -> list[Markup]:
    texts = [
        f"{shorten(point.name)} ({percent(point.accuracy)})"
        if point.name in frame.fallen
        else shorten(point.name)
        for point in points
    ]
    floor = frame.y.start + (STRIP_PX if frame.fallen else 0.0)
    area = Box(left=frame.x.start + 2, top=4.0, right=frame.width - 2, bottom=floor)
    anchors = [frame.at(point) for point in points]
    boxes = place(
        texts, anchors=anchors, obstacles=_obstacles(frame, points=points, reference=reference), area=area
    )
    parts = []
    for text, box, (x, y), point in zip(texts, boxes, anchors, points, strict=True):
        if box is not None:
            parts += _label(text, box=box, x=x, y=y, marked=point.marked)
    return parts


def _label(text: str, *, box: Box, x: float, y: float, marked: bool) -> list[Markup]:
    middle = (box.top + box.bottom) / 2
    near_x = min(max(x, box.left), box.right)
    parts = []
    if (near_x - x) ** 2 + (middle - y) ** 2 > 18.0**2:
        edge = box.bottom if box.bottom < y else box.top if box.top > y else middle
        parts.append(tag("line", x1=x, y1=y, x2=near_x, y2=edge, class_="leader"))
    label = "label marked" if marked else "label"
    parts.append(
        tag("text", text, x=(box.left + box.right) / 2, y=box.top + LINE_PX - 3.5, class_=f"{label} middle")
    )
    return parts


def shorten(name: str, *, limit: int = 28) -> str:
    """A name of at most `limit` characters, cut in the middle."""
    if len(name) <= limit:
        return name
    half = (limit - 1) // 2
    return f"{name[:half]}\u2026{name[-half:]}"
