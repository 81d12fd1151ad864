"""The operating point: which score thresholds pass recall, precision and false positives of all classes."""

from __future__ import annotations

from collections.abc import Mapping

from hexpath_deploy.gates.limits import Limits
from hexpath_deploy.gates.matching import Matches, round_down, thresholds


def passing(matches: Mapping[str, Matches], *, limits: Limits, images: int) -> list[float]:
    """Return the thresholds that pass, ascending."""
    return [float(t) for t in thresholds(matches) if passes(matches, float(t), limits=limits, images=images)]


def passes(matches: Mapping[str, Matches], threshold: float, *, limits: Limits, images: int) -> bool:
    """Say whether recall and precision of every class, and the false positives, are within their limits."""
    for name, found in matches.items():
        for gate, value in (("recall", found.recall(threshold)), ("precision", found.precision(threshold))):
            if value is None or not limits.gates[gate].holds(value, name):
                return False
    alarms = sum(found.counts(threshold)[1] for found in matches.values())
    return limits.gates["false_positives_per_image"].holds(alarms / images, "")


def best_passing(matches: Mapping[str, Matches], *, limits: Limits, images: int) -> float | None:
    """Return the passing threshold with the highest mean F1, with three digits where that still passes."""
    able = passing(matches, limits=limits, images=images)
    if not able:
        return None
    best = max(able, key=lambda threshold: sum(found.f1(threshold) for found in matches.values()))
    rounded = round_down(best)
    return rounded if passes(matches, rounded, limits=limits, images=images) else best
