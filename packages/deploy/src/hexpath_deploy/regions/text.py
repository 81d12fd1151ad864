"""The cost table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_text(table: Mapping[str, Any]) -> str:
    """Return the table, what was refused, and how well it adds up, as text."""
    precisions = list(table["whole"])
    width = max(len(name) for name in ("whole", *table["regions"]))
    head = f"{'region':{width}}  " + "  ".join(f"{name:>16}" for name in precisions)
    lines = [
        f"{table['model']} on {table['target']}: {table['base']} {table['base_ms']:.3f} ms estimated, "
        f"{table['base_mb']:.2f} MB; what a region adds (ms, MB):",
        head,
    ]
    for region, costs in table["regions"].items():
        lines.append(f"{region:{width}}  " + "  ".join(cell(costs.get(name)) for name in precisions))
    base = {"ms": table["base_ms"], "mb": table["base_mb"]}
    whole = [cell(minus(table["whole"][name], base)) for name in precisions]
    lines.append(f"{'whole':{width}}  " + "  ".join(whole))
    return "\n".join([*lines, *refusals(table), fit(table)])


def cell(cost: Mapping[str, Any] | None) -> str:
    """Return one cell."""
    return f"{'refused':>16}" if cost is None else f"{cost['ms']:+8.3f} {cost['mb']:+7.2f}"


def minus(cost: Mapping[str, Any], base: Mapping[str, float]) -> dict[str, float] | None:
    """Return a whole network's cost over the base."""
    return None if "ms" not in cost else {unit: cost[unit] - base[unit] for unit in ("ms", "mb")}


def refusals(table: Mapping[str, Any]) -> list[str]:
    """Return a line for each region and precision that the compiler refused."""
    return [
        f"refused: {region} at {precision}: {why}"
        for region, entries in table["refused"].items()
        for precision, why in entries.items()
    ]


def fit(table: Mapping[str, Any]) -> str:
    """Return how well the table predicted plans that were compiled whole."""
    found = table["fit"]
    if not found["checked_plans"]:
        return f"none of {found['refused_plans']} random plans compiled: the table is not checked"
    plain = found["unscaled"], found["without_borders"]
    text = (
        f"{found['checked_plans']} random plans compiled whole: mean error {100 * found['mean_error']:.1f}%, "
        f"worst {100 * found['worst_error']:.1f}% ({found['worst_ms']:.3f} ms), "
        f"{100 * found['within_5_percent']:.0f}% of them within 5%, rank correlation "
        f"{found['rank_correlation']:.3f}; unscaled {100 * plain[0]['mean_error']:.1f}%, "
        f"without border terms {100 * plain[1]['mean_error']:.1f}%"
    )
    if "isolated" in table:
        text += f"; regions cut out add up to {table['isolated']['over_whole']:.2f} times the whole"
    return text
