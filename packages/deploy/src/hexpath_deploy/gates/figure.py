"""One figure of a gate, and why there may be none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hexpath_deploy.gates.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a gate.

    `subject`: the class it is of, or empty. `source`: file and key. `basis`: how the figure came about
    (estimate, measured, emulator, ...). `facts`: what the advice is computed from. `holds` False: the figure
    is a lower bound, so that it can fail but not pass.
    """

    value: float | None
    source: str = ""
    basis: str = ""
    note: str = ""
    subject: str = ""
    holds: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


def missing(option: str, *, subject: str = "") -> Figure:
    """Return the figure of a gate whose file was not given."""
    return Figure(value=None, subject=subject, note=f"no {option} was given")


def not_on_artifact(evidence: Evidence) -> Figure | None:
    """Return why nothing is known of the artifact's accuracy, or None."""
    if not evidence.evaluation:
        return missing("--eval")
    if not evidence.on_artifact:
        return Figure(
            value=None,
            note=f"{evidence.files.evaluation} was evaluated on {evidence.evaluation.get('evaluated_on')}, "
            "not on the artifact",
        )
    if evidence.dataset not in evidence.evaluation:
        return Figure(value=None, note=f"{evidence.files.evaluation} names no dataset ('{evidence.dataset}')")
    return None


def source_of(evidence: Evidence, key: str) -> dict[str, Any]:
    """Return source and basis of a figure that is computed from the artifact's detections."""
    return {
        "source": f"{evidence.files.evaluation}: {key}",
        "basis": f"{evidence.evaluation['evaluated_on']}, {len(evidence.image_ids)} images",
    }
