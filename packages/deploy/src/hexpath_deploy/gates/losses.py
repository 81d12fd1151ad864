"""What the artifact loses against FP32 on the same images, by each task's own metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hexpath_deploy.gates.evidence import Evidence
from hexpath_deploy.gates.figure import Figure, missing, not_on_artifact, source_of
from hexpath_deploy.gates.limits import Limit

Figures = Callable[[Evidence, Limit], Iterator[Figure]]
# What a class must keep a share of: all of these, by task.
KEPT = {"detect": ("map50",), "segment": ("map50", "mask_map50"), "semantic": ("iou",)}
WORDS = {"map50": "mAP50", "mask_map50": "mask mAP50", "iou": "IoU"}


def losses(evidence: Evidence) -> Figure | None:
    """Return why no loss against FP32 is known, or None."""
    if (reason := not_on_artifact(evidence)) is not None:
        return reason
    return None if evidence.fp32 else missing("--fp32")


def loss(metric: str, *, of_class: str) -> Figures:
    """Return the gate of a metric over all: points lost. `of_class` is its name in a class's figures."""

    def figures(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
        if (reason := losses(evidence)) is not None:
            yield reason
            return
        before, after = evidence.fp32_score.metrics[metric], evidence.evaluation["metrics"][metric]
        yield Figure(
            value=100 * (before - after),
            note=f"{100 * before:.1f} to {100 * after:.1f}",
            facts={"drops": {name: 100 * (b - a) for name, b, a in classes(evidence, of_class)}},
            **source_of(evidence, f"metrics.{metric}"),
        )

    return figures


def class_loss(metric: str) -> Figures:
    """Return the gate of a metric of each class: points lost."""

    def figures(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
        if (reason := losses(evidence)) is not None:
            yield reason
            return
        for name, before, after in classes(evidence, metric):
            yield Figure(
                value=100 * (before - after),
                subject=name,
                note=f"{100 * before:.1f} to {100 * after:.1f}",
                **source_of(evidence, "per_class"),
            )

    return figures


def classes(evidence: Evidence, metric: str) -> Iterator[tuple[str, float, float]]:
    """Yield class, FP32's metric and the artifact's, for classes that occur; a class not found has 0."""
    after = evidence.evaluation["per_class"]
    for name, row in evidence.fp32_score.per_class.items():
        yield name, float(row[metric]), float(after.get(name, {}).get(metric, 0.0))


def class_collapse(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Share that each class keeps of what FP32 reaches; with several metrics, of the one that keeps least."""
    if (reason := losses(evidence)) is not None:
        yield reason
        return
    kept: dict[str, Figure] = {}
    for metric in KEPT[evidence.task]:
        for name, before, after in classes(evidence, metric):
            change = f"{WORDS[metric]} {100 * before:.1f} to {100 * after:.1f}"
            found = Figure(
                value=after / before if before else None,
                subject=name,
                note=change if before else "FP32 does not find it either",
                **source_of(evidence, "per_class"),
            )
            kept[name] = worse(kept[name], found) if name in kept else found
    yield from kept.values()


def worse(one: Figure, other: Figure) -> Figure:
    """Return the figure that is unknown, else the lower one."""
    if one.value is None or other.value is None:
        return one if one.value is None else other
    return min(one, other, key=lambda figure: figure.value or 0.0)
