"""The results table for a terminal: aligned, at most 100 columns."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from hexpath_deploy.report.comparison import Comparison, compare, headline, primary_metric
from hexpath_deploy.report.labels import (
    bounds,
    level,
    megabytes,
    metric_label,
    milliseconds,
    percent,
    points,
)

COLUMNS = 100
NAME_COLUMNS = 26
COLOURS = {"ok": "", "warn": "\x1b[33m", "bad": "\x1b[31m"}
BOLD, RESET = "\x1b[1m", "\x1b[0m"


def wants_colour(stream: TextIO) -> bool:
    """True for a terminal without NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def summary(results: Mapping[str, Any], *, colour: bool = False) -> str:
    """The plans of a checked record as a table of at most 100 columns, with a line for each caveat.

    Accuracies in percent, losses in points, latencies in ms. colour: ANSI colours for losses.
    """
    metric = primary_metric(results)
    found = compare(results)
    best = headline(results, found=found)
    star = best.plan.id if best else None
    rows = [_row(item, metric=metric, colour=colour, mark=item.plan.id == star) for item in found]
    head = [
        "",
        "plan",
        metric_label(metric),
        "vs fp32",
        "emulator",
        "ms",
        "bounds",
        "speed",
        "DDR MB",
        "agrees",
    ]
    lines = [_wrap(f"{results['experiment']} / {results['name']}"), ""]
    lines += _table(
        [head, *[cells for cells, _ in rows]], styles=["", *[style for _, style in rows]], colour=colour
    )
    return "\n".join([*lines, "", *_caveats(results, found=found, best=best)]).rstrip()


def _row(item: Comparison, *, metric: str, colour: bool, mark: bool) -> tuple[list[str], str]:
    plan, latency = item.plan, item.plan.latency
    emulator = plan.rows.get("emulator", {})
    loss = item.loss.get(metric)
    sign = "~" if latency and latency["source"] == "estimate" else ""
    too_low = "+" if latency and latency.get("missing_ops") else ""
    ddr, agreement = plan.first("ddr_mb"), plan.first("agreement")
    cells = [
        "*" if mark else "",
        plan.id,
        percent(plan.metrics[metric]) if metric in plan.metrics else "",
        points(loss) if loss is not None else "",
        _emulated(emulator, metric=metric),
        f"{sign}{milliseconds(latency['value_ms'])}{too_low}" if latency else "",
        bounds(latency).replace(" to ", "-") if latency else "",
        f"{item.speedup:.2f}x" if item.speedup is not None else "",
        megabytes(ddr) if ddr is not None else "",
        {"pass": "yes", "fail": "NO"}[agreement["verdict"]] if agreement else "",
    ]
    return cells, COLOURS[level(loss)] if loss is not None and colour else ""


def _emulated(row: Mapping[str, Any], *, metric: str) -> str:
    if metric not in row.get("metrics", {}):
        return ""
    beside = row.get("same_images", {}).get("ort", {})
    return percent(row["metrics"][metric]) + (f" ({percent(beside[metric])})" if metric in beside else "")


def _cut(name: str, *, width: int = NAME_COLUMNS) -> str:
    # A control character in a name would reach the terminal.
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= width else f"{printable[: width - 3]}..."


def _table(rows: Sequence[Sequence[str]], *, styles: Sequence[str], colour: bool) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    # A column that nothing fills is left out, its heading too.
    filled = [column for column in range(len(rows[0])) if column == 1 or any(row[column] for row in rows[1:])]
    widths[1] = min(widths[1], COLUMNS - _total(widths, filled=filled) + widths[1])
    rows = [[row[0], _cut(row[1], width=widths[1]), *row[2:]] for row in rows]
    lines = []
    for number, (row, style) in enumerate(zip(rows, styles, strict=True)):
        cells = [
            row[column].ljust(widths[column]) if column < 2 else row[column].rjust(widths[column])
            for column in filled
        ]
        text = "  ".join(cells).rstrip()
        if number == 0:
            lines += [
                f"{BOLD}{text}{RESET}" if colour else text,
                "-" * min(COLUMNS, _total(widths, filled=filled)),
            ]
        else:
            lines.append(f"{style}{text}{RESET}" if style else text)
    return lines


def _total(widths: Sequence[int], *, filled: Sequence[int]) -> int:
    return sum(widths[column] for column in filled) + 2 * (len(filled) - 1)


def _caveats(
    results: Mapping[str, Any], *, found: Sequence[Comparison], best: Comparison | None
) -> list[str]:
    lines = []
    if best is not None:
        lines.append("* heads the report")
    images = sorted({item.plan.main["images"] for item in found if item.plan.main})
    if images:
        lines.append(
            f"accuracy in percent on {' or '.join(map(str, images))} images; vs fp32: points gained or lost"
        )
    sample = sorted({item.plan.rows["emulator"]["images"] for item in found if "emulator" in item.plan.rows})
    if sample:
        lines.append(
            f"emulator: on {' or '.join(map(str, sample))} images; in brackets ONNX Runtime on the same"
        )
    timed = [item for item in found if item.plan.latency]
    if any(item.plan.latency["source"] == "estimate" for item in timed if item.plan.latency):
        lines.append("~ an estimate of Qualcomm's compiler, with its bounds; no measurement on a device")
    if any((item.plan.latency or {}).get("missing_ops") for item in timed):
        lines.append("+ the estimate leaves operators out: it is too low")
    if timed and timed[0].against:
        lines.append(f"speed: times faster than {_cut(timed[0].against)}")
    return [_wrap(line) for line in [*lines, *results.get("notes", [])]]


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(" ".join(text.split()), width=COLUMNS)) or ""
