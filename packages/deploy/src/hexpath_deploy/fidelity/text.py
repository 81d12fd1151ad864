"""The comparison for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HEAD = (
    "network",
    "precision",
    "estimate ms (low, high)",
    "device",
    "runtime",
    "release",
    "published",
    "error",
)


def as_text(found: Mapping[str, Any]) -> str:
    """Return a row for each published figure, then the error by precision, then what it was made with."""
    rows = [HEAD, *(cells for row in found["rows"] for cells in lines(row))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    tools = ", ".join(f"{name} {version}" for name, version in found["tools"].items())
    errors = [
        summary(precision, error, where=where)
        for precision, overall in found["by_precision"].items()
        for where, error in (("", overall), *overall["by_target"].items())
    ]
    return "\n".join([*(line.rstrip() for line in table), "", *errors, *notes(found), f"made with {tools}"])


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not in the errors, and why."""
    for row in found["rows"]:
        name = f"{row['network']} at {row['precision']}"
        if "estimate" not in row:
            yield f"{name} is not compared, it does not compile: {row['refused'][-1]['why']}"
        elif row["estimate"]["missing_ops"]:
            yield f"{name} is not in the errors: its estimate leaves operators out, and is too low"


def lines(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of one row for each published figure; the estimate stands in the first."""
    estimate = row.get("estimate")
    if estimate is None:
        for figure in row["published"]:
            yield (
                *(row["network"], row["precision"], "does not compile"),
                *(figure["device"], figure["runtime"], figure["release"], f"{figure['ms']:.2f}", ""),
            )
        return
    missing = f", {estimate['missing_ops']} operators missing" if estimate["missing_ops"] else ""
    text = f"{estimate['ms']:.2f} ({estimate['low_ms']:.2f}, {estimate['high_ms']:.2f}){missing}"
    first = (row["network"], row["precision"], text)
    for figure in row["published"]:
        yield (
            *first,
            figure["device"],
            figure["runtime"],
            figure["release"],
            f"{figure['ms']:.2f}",
            f"{100 * figure['error']:+.0f}%",
        )
        first = ("", "", "")


def summary(precision: str, error: Mapping[str, Any], *, where: str) -> str:
    """Return one line on a precision, overall or on one device."""
    on = f"  on {where}" if where else f"{precision}: estimate"
    return (
        f"{on} against {error['cases']} published figures {100 * error['low']:+.0f}% to "
        f"{100 * error['high']:+.0f}%, median {100 * error['median']:+.0f}%"
    )
