"""Training and QAT curves as small multiples."""

from __future__ import annotations

import csv
import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hexpath_deploy.errors import ReportError
from hexpath_deploy.report.labels import METRICS, metric_label
from hexpath_deploy.report.svg import Scale, tag, tick_text, ticks

WIDTH, HEIGHT = 340.0, 200.0
MOST_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Series:
    """One column of a curve: its name and (x, y) pairs."""

    name: str
    values: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small plot."""

    title: Markup
    svg: Markup


def panels(curve: Mapping[str, Any], *, root: Path, number: int) -> list[Panel]:
    """Plots of one entry of `curves`: its metrics together, every other column apart.

    Raises:
        ReportError: the CSV is missing, empty, without a named column, or holds what is no number.
    """
    series = read(root / curve["path"], x=curve["x"], y=curve["y"], where=f"curves[{number}]")
    together = [item for item in series if item.name in METRICS]
    groups = ([together] if together else []) + [[item] for item in series if item.name not in METRICS]
    return [_panel(curve["name"], series=group, x=curve["x"]) for group in groups]


def read(path: Path, *, x: str, y: Sequence[str], where: str) -> list[Series]:
    """Columns of a CSV with a header line; cells that are empty or nan are left out.

    Raises:
        ReportError: as `panels`.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header, lines = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{where}.path: {path} cannot be read ({error})") from None
    for name in (x, *y):
        if name not in header:
            near = difflib.get_close_matches(name, header, n=1) or header
            raise ReportError(
                f"{where}: {path} has no column {name!r}; did you mean {', '.join(near) or 'another file'}?"
            )
    return [Series(name=name, values=_values(lines, x=x, y=name, path=path)) for name in y]


def _values(
    lines: Sequence[Mapping[str, str | None]], *, x: str, y: str, path: Path
) -> tuple[tuple[float, float], ...]:
    found = []
    for number, line in enumerate(lines, start=2):
        if (line[x] or "").strip() and (line[y] or "").strip():
            try:
                pair = float(line[x] or ""), float(line[y] or "")
            except ValueError:
                raise ReportError(f"{path}, line {number}: {line[x]!r}, {line[y]!r}: no numbers") from None
            # nan is not equal to itself; inf has no place on an axis.
            if all(abs(value) < float("inf") for value in pair):
                found.append(pair)
    stride = max(1, -(-len(found) // MOST_POINTS))
    return tuple(found[::stride] + (found[-1:] if found and (len(found) - 1) % stride else []))


def _panel(title: str, *, series: Sequence[Series], x: str) -> Panel:
    names = [metric_label(item.name).replace("_", " ") for item in series]
    plain = f"{title}: {' and '.join(names)}"
    drawn = [item for item in series if item.values]
    words = [
        tag("b", name, class_=f"word-s{drawn.index(item) % 6}") if len(series) > 1 and item in drawn else name
        for name, item in zip(names, series, strict=True)
    ]
    heading = Markup("{}: {}").format(title, Markup(" and ").join(words))
    return Panel(title=heading, svg=_plot(drawn, x=x, title=plain))


def _plot(series: Sequence[Series], *, x: str, title: str) -> Markup:
    values = [pair for item in series for pair in item.values]
    if not values:
        note = tag("text", "no figures in this file", x=WIDTH / 2, y=HEIGHT / 2, class_="tick middle")
        return tag(
            "svg", note, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=title, class_="plot"
        )
    low, high = min(y for _, y in values), max(y for _, y in values)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    bottom = max(0.0, low - pad) if low >= 0 else low - pad
    across = Scale(
        low=min(at for at, _ in values), high=max(at for at, _ in values), start=42.0, end=WIDTH - 62
    )
    up = Scale(low=bottom, high=high + pad, start=HEIGHT - 34, end=12.0)
    parts = [*_axes(across, up=up, x=x)]
    ends = _spread([up(item.values[-1][1]) for item in series])
    for index, (item, end) in enumerate(zip(series, ends, strict=True)):
        parts += _line(item, across=across, up=up, end=end, index=index)
    return tag(
        "svg", *parts, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=title, class_="plot"
    )


def _axes(across: Scale, *, up: Scale, x: str) -> list[Markup]:
    parts = []
    for value in ticks(up.low, up.high, count=4):
        parts.append(tag("line", x1=across.start, x2=across.end, y1=up(value), y2=up(value), class_="grid"))
        parts.append(tag("text", tick_text(value), x=across.start - 6, y=up(value) + 4, class_="tick end"))
    whole = [
        value for value in ticks(across.low, across.high, count=5) if x != "epoch" or value == int(value)
    ]
    for value in whole:
        parts.append(tag("text", tick_text(value), x=across(value), y=up.start + 16, class_="tick middle"))
    parts.append(tag("line", x1=across.start, x2=across.end, y1=up.start, y2=up.start, class_="axis"))
    parts.append(tag("text", x, x=across.end, y=HEIGHT - 4, class_="axis-title end"))
    return parts


def _spread(ends: Sequence[float], *, apart: float = 13.0) -> list[float]:
    # Labels at line ends: pushed down just enough to be read apart.
    found = list(ends)
    order = sorted(range(len(found)), key=lambda index: found[index])
    for before, after in itertools.pairwise(order):
        found[after] = max(found[after], found[before] + apart)
    return found


def _line(item: Series, *, across: Scale, up: Scale, end: float, index: int) -> list[Markup]:
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in item.values)
    last_x, last_y = item.values[-1]
    colour = f"s{index % 6}"
    return [
        tag("polyline", points=points, class_=f"line {colour}"),
        tag("circle", cx=across(last_x), cy=up(last_y), r=2.8, class_=f"dot {colour}"),
        tag("text", f"{last_y:.3g}", x=across.end + 8, y=end + 4, class_=f"label text-{colour}"),
    ]
