"""Class collapse: a class that loses what the mean does not show, and who did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHARE = 0.2
VANISHED = 0.05
KNOWN = 0.05  # a class below this was never found: what it loses is noise
MOST_NAMED = 5

Classes = Mapping[str, Mapping[str, float]]


def alarms(
    *,
    metric: str,
    float_classes: Classes,
    quantized: Mapping[str, Classes],
    entries: Sequence[Mapping[str, Any]],
    share: float = SHARE,
) -> list[dict[str, Any]]:
    """Return one alarm for each class and plan that loses more than ``share`` of its float metric.

    A class whose float metric is below ``KNOWN`` has none to lose.
    Regions and layers are named by what the class gains when they alone stay float, or by what it loses when
    they alone are quantized, whichever is more; those below a tenth of the loss are not named.

    Args:
        quantized: plan -> figures of the wholly quantized network by class.
        entries: of the analysis.
    """
    found = []
    for plan, classes in quantized.items():
        for name, figures in float_classes.items():
            before, after = (figure(of, metric=metric) for of in (figures, classes.get(name, {})))
            if before < KNOWN or before - after <= share * before:
                continue
            blame = {
                kind: _culprits(entries, kind=kind, plan=plan, name=name, before=before, after=after)
                for kind in ("region", "layer")
            }
            found.append(
                {
                    "class": name,
                    "plan": plan,
                    "metric": own_metric(figures, metric=metric),
                    "float": before,
                    "quantized": after,
                    "lost_share": (before - after) / before,
                    "vanished": after < VANISHED * before,
                    "regions": blame["region"],
                    "layers": blame["layer"],
                }
            )
    return found


def figure(figures: Mapping[str, float], *, metric: str) -> float:
    """Return a class's figure: the task's metric, else its first (the IoU, of which mIoU is the mean)."""
    return figures.get(own_metric(figures, metric=metric), 0.0)


def own_metric(figures: Mapping[str, float], *, metric: str) -> str:
    """Return the name under which a class has that figure."""
    return metric if metric in figures else next(iter(figures), metric)


def _culprits(
    entries: Sequence[Mapping[str, Any]], *, kind: str, plan: str, name: str, before: float, after: float
) -> list[dict[str, Any]]:
    rows = []
    for entry in entries:
        figures = entry.get("per_class", {}).get(name, {})
        if entry["kind"] != kind or entry["plan"] != plan or entry["part"] != "both" or not figures:
            continue
        row = {"name": entry["name"]}
        if "alone" in figures:
            row["drop_alone"] = before - figures["alone"]
        if "without" in figures:
            row["gain_without"] = figures["without"] - after
        row["blame"] = max(row.get("drop_alone", 0.0), row.get("gain_without", 0.0))
        if row["blame"] > 0.1 * (before - after):
            rows.append(row)
    return sorted(rows, key=lambda row: -row["blame"])[:MOST_NAMED]
