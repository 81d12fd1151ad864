"""YOLO label files and Ultralytics data.yaml: parse, read, write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hexpath_data.errors import (
    BoxSizeError,
    ClassIdError,
    CoordinateError,
    DataError,
    DuplicateLabelError,
    LabelFormatError,
)
from hexpath_data.files import write_atomic

VALUE_TOLERANCE = 1e-4  # values this far outside [0, 1] are rounding: less than a tenth of a pixel at 640
EDGE_TOLERANCE = 1e-2  # a box may reach out by this share of the image (a warning); further is an error


@dataclass(frozen=True, kw_only=True)
class Box:
    """One labelled object.

    class_id: index into the dataset's names. cx, cy, width, height: shares of the image's width and height.
    polygon: its outline as (x, y) shares when the label row was a polygon, else empty.
    """

    class_id: int
    cx: float
    cy: float
    width: float
    height: float
    polygon: tuple[tuple[float, float], ...] = ()

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 as shares of the image."""
        half_w, half_h = self.width / 2, self.height / 2
        return self.cx - half_w, self.cy - half_h, self.cx + half_w, self.cy + half_h

    def overhang(self) -> float:
        """Return how far the box reaches out of the image, as a share; 0 inside."""
        x0, y0, x1, y1 = self.corners
        return max(0.0, -x0, -y0, x1 - 1, y1 - 1)


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One line of a label file: either a box or the error that it is."""

    line: int
    box: Box | None
    error: DataError | None


def parse_row(text: str, *, classes: int) -> Box:
    """Parse `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon).

    Raises:
        LabelFormatError: a wrong number of columns, or a value that is no finite number.
        ClassIdError, CoordinateError, BoxSizeError: a value that cannot be meant.
    """
    columns = text.split()
    if len(columns) < 5 or (len(columns) > 5 and len(columns) % 2 == 0):
        raise LabelFormatError(
            f"{len(columns)} columns; expected 5 (class cx cy w h) or a class and at least 3 points"
        )
    values = [_number(column) for column in columns]
    class_id = _class_id(values[0], classes=classes)
    if len(values) == 5:
        return _box(class_id, values[1:])
    return _polygon_box(class_id, values[1:])


def parse_labels(text: str, *, classes: int) -> Iterator[LabelRow]:
    """Yield every row of a label file, good or bad; blank lines are skipped."""
    first_line: dict[Box, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            box = parse_row(line, classes=classes)
            if box in first_line:
                raise DuplicateLabelError(f"same row as line {first_line[box]}; delete one")
        except DataError as error:
            yield LabelRow(line=number, box=None, error=error)
            continue
        first_line[box] = number
        yield LabelRow(line=number, box=box, error=None)


def read_labels(path: Path, *, classes: int) -> tuple[Box, ...]:
    """Read a label file; a file that does not exist is an image without objects.

    Raises:
        DataError: the kind of the first bad row, naming file and line.
    """
    if not path.is_file():
        return ()
    boxes = []
    for row in parse_labels(read_label_text(path), classes=classes):
        if row.error is not None:
            raise type(row.error)(f"{path}:{row.line}: {row.error}")
        if row.box is not None:
            boxes.append(row.box)
    return tuple(boxes)


def read_label_text(path: Path) -> str:
    """Return a label file's text.

    Raises:
        LabelFormatError: it is no text, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise LabelFormatError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def format_labels(boxes: Sequence[Box]) -> str:
    """Return the text of a label file: polygons where there are any, else boxes, six decimals."""
    lines = []
    for box in boxes:
        points = [value for point in box.polygon for value in point]
        values = points or [box.cx, box.cy, box.width, box.height]
        lines.append(" ".join([str(box.class_id), *(f"{value:.6f}" for value in values)]))
    return "".join(f"{line}\n" for line in lines)


def write_labels(path: Path, *, boxes: Sequence[Box]) -> None:
    """Write a label file, wholly or not at all."""
    write_atomic(path, format_labels(boxes))


def format_data_yaml(
    *, root: str, splits: Mapping[str, str | list[str]], names: Sequence[str], extra: Mapping[str, Any]
) -> str:
    """Return the text of an Ultralytics data.yaml; `extra` adds keys of our own."""
    content = {"path": root, **splits, "names": dict(enumerate(names)), **extra}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def write_data_yaml(
    path: Path,
    *,
    root: str,
    splits: Mapping[str, str | list[str]],
    names: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write an Ultralytics data.yaml, wholly or not at all."""
    write_atomic(path, format_data_yaml(root=root, splits=splits, names=names, extra=extra or {}))


def _number(column: str) -> float:
    try:
        value = float(column)
    except ValueError:
        raise LabelFormatError(f"{column!r} is no number") from None
    if not math.isfinite(value):
        raise LabelFormatError(f"{column!r} is not finite")
    return value


def _class_id(value: float, *, classes: int) -> int:
    if value != int(value):
        raise ClassIdError(f"class id {value:g} is no whole number")
    if not 0 <= value < classes:
        raise ClassIdError(f"class id {value:.0f} is not in 0 to {classes - 1}, the ids of the names")
    return int(value)


def _inside(value: float) -> float:
    if not -VALUE_TOLERANCE <= value <= 1 + VALUE_TOLERANCE:
        raise CoordinateError(f"coordinate {value:g} is outside [0, 1]; divide by the image's size")
    return value


def _box(class_id: int, values: Sequence[float]) -> Box:
    cx, cy, width, height = values
    for name, extent in (("width", width), ("height", height)):
        if extent <= 0:
            raise BoxSizeError(f"{name} {extent:g} is not above 0")
    for value in values:
        _inside(value)
    box = Box(class_id=class_id, cx=cx, cy=cy, width=width, height=height)
    if box.overhang() > EDGE_TOLERANCE:
        raise CoordinateError(f"box reaches out of the image by {box.overhang():.1%}; clip it to the image")
    return box


def _polygon_box(class_id: int, values: Sequence[float]) -> Box:
    xs, ys = [_inside(v) for v in values[0::2]], [_inside(v) for v in values[1::2]]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    if width <= 0 or height <= 0:
        raise BoxSizeError("the polygon has no area")
    return Box(
        class_id=class_id,
        cx=min(xs) + width / 2,
        cy=min(ys) + height / 2,
        width=width,
        height=height,
        polygon=tuple(zip(xs, ys, strict=True)),
    )
