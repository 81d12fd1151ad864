"""What suffers from quantization: region bars, a heat strip over the network, classes by regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hexpath_deploy.report.labels import metric_label
from hexpath_deploy.report.svg import Scale, tag, tick_text, ticks

WIDTH = 1000.0
ROW = 26.0
NAMES = 170.0
STRIP = 74.0
QUIET_DB, LOUD_DB = 60.0, 20.0  # the heat strip's ends: unhurt, and badly hurt
WORST = 12

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One analysis, drawn.

    Attributes:
        title: model and plan.
        bars, strip: plots; empty where there is nothing to draw.
        matrix: class x region: losses alone, as fractions.
        worst: rows of the ranked table.
        trust: rank correlations on layers.
    """

    title: str
    plan: str
    metric: str
    images: int
    before: float
    after: float
    alarms: tuple[Mapping[str, Any], ...]
    share: float
    bars: Markup
    strip: Markup
    regions: tuple[str, ...]
    matrix: tuple[tuple[str, tuple[float | None, ...]], ...]
    worst: tuple[Entry, ...]
    trust: tuple[Mapping[str, Any], ...]
    classes: bool


def panels(results: Mapping[str, Any]) -> list[Panel]:
    """One panel for each analysis of the record."""
    return [_panel(analysis) for analysis in results.get("sensitivity", [])]


def _panel(analysis: Mapping[str, Any]) -> Panel:
    plan, metric = analysis["plan"], analysis["metric"]
    regions, layers = (_rows(analysis, kind=kind) for kind in ("region", "layer"))
    return Panel(
        title=f"{analysis['model']} at {plan}",
        plan=plan,
        metric=metric_label(metric),
        images=analysis["images"],
        before=analysis["float"]["metrics"][metric],
        after=analysis["quantized"][plan]["metrics"][metric],
        alarms=tuple(analysis.get("alarms", [])),
        share=analysis.get("share", 0.2),
        bars=bars(regions),
        strip=strip(layers),
        regions=tuple(e["name"] for e in regions),
        matrix=_matrix(analysis, regions=regions),
        worst=_worst(analysis, layers=layers),
        trust=tuple(t for t in analysis.get("trust", []) if t["kind"] == "layer"),
        classes=bool(analysis["float"].get("per_class")),
    )


def _rows(analysis: Mapping[str, Any], *, kind: str) -> list[Entry]:
    return [
        e
        for e in analysis["entries"]
        if e["kind"] == kind and e["plan"] == analysis["plan"] and e["part"] == "both"
    ]


def _worst(analysis: Mapping[str, Any], *, layers: Sequence[Entry]) -> tuple[Entry, ...]:
    by_name = {e["name"]: e for e in layers}
    noisy = sorted(by_name, key=lambda name: by_name[name]["sqnr_db"])
    names = [*(n for n in analysis.get("worst", []) if n in by_name), *noisy]
    return tuple(by_name[name] for name in list(dict.fromkeys(names))[:WORST])


def _matrix(
    analysis: Mapping[str, Any], *, regions: Sequence[Entry]
) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    rows = []
    for name, figures in analysis["float"].get("per_class", {}).items():
        before = figures.get(analysis["metric"], next(iter(figures.values()), 0.0))
        alone = [e.get("per_class", {}).get(name, {}).get("alone") for e in regions]
        rows.append((name, tuple(None if value is None else before - value for value in alone)))
    return tuple(rows)


def bars(regions: Sequence[Entry]) -> Markup:
    """Two bars a region: points lost with it alone quantized, points won back with it alone in float."""
    shown = [e for e in regions if "drop_alone" in e]
    if not shown:
        return Markup("")
    values = [100 * e[key] for e in shown for key in ("drop_alone", "gain_without") if key in e]
    scale = Scale(low=min(0.0, *values), high=max(0.1, *values), start=NAMES, end=WIDTH - 60)
    height = ROW * len(shown) + 24
    parts = [_axis(scale, height=height)]
    for number, entry in enumerate(shown):
        top = ROW * number + 2
        parts.append(_text(entry["name"], x=NAMES - 10, y=top + 15, kind="end label"))
        for offset, key, colour in ((0.0, "drop_alone", "s5"), (11.0, "gain_without", "s0")):
            if key in entry:
                parts.append(_bar(scale, value=100 * entry[key], top=top + offset, colour=colour))
    return _plot(parts, height=height, label="points lost and won back by region")


def _bar(scale: Scale, *, value: float, top: float, colour: str) -> Markup:
    zero, end = scale(0.0), scale(value)
    rect = tag(
        "rect",
        tag("title", f"{value:+.2f} points"),
        x=min(zero, end),
        y=top,
        width=max(abs(end - zero), 0.8),
        height=10.0,
        class_=f"heat {colour}",
    )
    outside = _text(f"{value:.2f}", x=max(zero, end) + 5, y=top + 9, kind="tiny")
    return rect + outside


def _axis(scale: Scale, *, height: float) -> Markup:
    parts = []
    for value in ticks(scale.low, scale.high):
        x = scale(value)
        kind = "axis" if value == 0 else "grid"
        parts.append(tag("line", x1=x, x2=x, y1=0.0, y2=height - 20, class_=kind))
        parts.append(_text(tick_text(value), x=x, y=height - 5, kind="middle"))
    return Markup("").join(parts)


def strip(layers: Sequence[Entry]) -> Markup:
    """Layers from input to output, coloured by the SQNR of the outputs when one alone is quantized."""
    if not layers:
        return Markup("")
    ordered = sorted(layers, key=lambda e: e.get("position", 0))
    width = WIDTH / len(ordered)
    parts = [_cell(e, x=index * width, width=width) for index, e in enumerate(ordered)]
    return _plot([*parts, *_spans(ordered, width=width)], height=STRIP, label="SQNR of each layer, in order")


def _cell(entry: Entry, *, x: float, width: float) -> Markup:
    heat = min(max((QUIET_DB - entry["sqnr_db"]) / (QUIET_DB - LOUD_DB), 0.0), 1.0)
    lost = f", {100 * entry['drop_alone']:+.2f} points lost" if "drop_alone" in entry else ""
    told = f"{entry['name']} ({entry.get('operator', '')}): {entry['sqnr_db']:.1f} dB{lost}"
    return tag(
        "rect",
        tag("title", told),
        x=x,
        y=0.0,
        width=width,
        height=36.0,
        class_="heat s5",
        fill_opacity=0.06 + 0.94 * heat,
    )


def _spans(ordered: Sequence[Entry], *, width: float) -> list[Markup]:
    """A line and a name below each run of one region; names that do not fit step down or are left out."""
    parts, start, free = [], 0, [0.0, 0.0]
    for index in range(1, len(ordered) + 1):
        region = ordered[start].get("region", "")
        if index < len(ordered) and ordered[index].get("region", "") == region:
            continue
        left, right = start * width, index * width
        parts.append(tag("line", x1=left + 1, x2=right - 1, y1=40.0, y2=40.0, class_="axis"))
        row = next((r for r in (0, 1) if min(left, WIDTH - 7.2 * len(region) - 6) >= free[r]), None)
        if row is not None:
            long = 7.2 * len(region) + 6
            x = min(left, WIDTH - long)  # the last name ends with the strip
            parts.append(_text(region, x=x, y=54.0 + 15 * row, kind="label"))
            free[row] = x + long
        start = index
    return parts


def _text(text: str, *, x: float, y: float, kind: str) -> Markup:
    return tag("text", text, x=x, y=y, class_=kind)


def _plot(parts: Sequence[Markup], *, height: float, label: str) -> Markup:
    return tag(
        "svg",
        Markup("").join(parts),
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        class_="plot",
        role="img",
        aria_label=label,
    )
