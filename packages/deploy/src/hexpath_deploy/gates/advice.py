"""What would make a failed gate pass, computed from its figures."""

from __future__ import annotations

from collections.abc import Callable

from hexpath_deploy.gates.checks import STAGES
from hexpath_deploy.gates.evidence import Evidence
from hexpath_deploy.gates.figure import Figure
from hexpath_deploy.gates.limits import Limit
from hexpath_deploy.gates.matching import round_down, thresholds
from hexpath_deploy.gates.operating import passing

COMMANDS = {
    "--profile": "hexpath-deploy profile",
    "--compiled": "hexpath-deploy compile",
    "--agree": "hexpath-deploy agree",
    "--eval": "hexpath-deploy evaluate --backend emulator",
    "--fp32": "hexpath-deploy evaluate of the float model",
}


def unknown(figure: Figure) -> str:
    """Say where a missing figure comes from."""
    option = next((option for option in COMMANDS if option in figure.note), None)
    if option is not None:
        return f"run {COMMANDS[option]} and give its file with {option}"
    if "not on the artifact" in figure.note:
        return "evaluate with --backend emulator, or on a device"
    if "no boxes of this class" in figure.note:
        return "evaluate images that hold this class"
    if "needed" in figure.note:
        return f"evaluate more images of these times: the artifact saw {figure.note}"
    return "give it a figure, or waive the gate with required = false and a reason"


def latency(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """How much is over, and which stage dominates."""
    facts = {stage: float(figure.facts[stage]) for stage in STAGES}
    over = sum(facts.values()) - limit.value
    if over <= 0:
        return "the estimate leaves operators out: profile on the device, whose figure has all of them"
    worst = max(facts, key=lambda stage: facts[stage])
    text = f"{over:.2f} ms over; {worst} takes {facts[worst]:.2f} of {sum(facts.values()):.2f} ms"
    if facts[worst] > over:
        return f"{text}: passes when it runs {facts[worst] / (facts[worst] - over):.1f} times as fast"
    return f"{text}: no one stage alone can win that back"


def above(unit: str) -> Callable[[Figure, Limit, Evidence], str]:
    """Return the advice of a gate whose figure is a sum of parts in MB."""

    def told(figure: Figure, limit: Limit, evidence: Evidence) -> str:
        parts = {name: float(value) for name, value in figure.facts.items()}
        worst = max(parts, key=lambda name: parts[name])
        assert figure.value is not None
        over = figure.value - limit.value
        return f"{over:.2f} {unit} over; the largest part is {worst}, {parts[worst]:.2f} {unit}"

    return told


def recall(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """The highest threshold at which the class's recall passes."""
    found, least = evidence.matches[figure.subject], limit.of(figure.subject)
    need = next(n for n in range(found.boxes + 1) if n / found.boxes >= least)
    hits = found.scores[found.found]
    if len(hits) < need:
        return (
            f"no threshold reaches it: {len(hits)} of {found.boxes} boxes are found at any score, "
            f"{need} needed"
        )
    at = round_down(float(hits[need - 1]))
    kept = found.precision(at)
    return (
        f"at threshold {at:.3f} recall is {found.recall(at):.3f}, and precision {kept:.3f}; "
        f"{need - int(figure.facts['found'])} boxes more are needed{common(evidence)}"
    )


def precision(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """The lowest threshold at which the class's precision passes."""
    found, least = evidence.matches[figure.subject], limit.of(figure.subject)
    passing = [t for t in thresholds({"": found}) if (found.precision(t) or 0) >= least]
    if not passing:
        best = max((found.precision(t) or 0 for t in thresholds({"": found})), default=0.0)
        return f"no threshold reaches it: the highest precision at any is {best:.3f}"
    at = next((t for t in passing if t > evidence.threshold), passing[-1])
    return (
        f"at threshold {at:.3f} precision is {found.precision(at):.3f}, and recall {found.recall(at):.3f}"
        f"{common(evidence)}"
    )


def common(evidence: Evidence) -> str:
    """Whether one threshold passes recall and precision of every class, and the false positives."""
    able = passing(evidence.matches, limits=evidence.limits, images=len(evidence.image_ids))
    if not able:
        return "; no one threshold passes recall, precision and false positives of all classes"
    return (
        f"; thresholds from {able[0]:.3f} to {able[-1]:.3f} pass recall, precision and false positives "
        "of all classes"
    )


def night(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """How much is missing, and which class is the weakest at night."""
    by_class = figure.facts["per_class"]
    worst = min(by_class, key=lambda name: by_class[name])
    assert figure.value is not None
    return (
        f"{100 * (limit.value - figure.value):.1f} points short; weakest class '{worst}' at "
        f"{100 * by_class[worst]:.1f}: train on more images of that time of day"
    )


def false_positives(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """The lowest threshold that passes, and the class with the most."""
    by_class, images = figure.facts["by_class"], int(figure.facts["images"])
    worst = max(by_class, key=lambda name: by_class[name])
    at = next(
        t
        for t in [*thresholds(evidence.matches), 1.0]
        if sum(each.counts(t)[1] for each in evidence.matches.values()) / images <= limit.value
    )
    told = ", ".join(
        f"{name} {value:.3f}"
        for name, each in evidence.matches.items()
        if (value := each.recall(at)) is not None
    )
    return (
        f"most are '{worst}' ({by_class[worst]}); passes at threshold {at:.3f}, where recall is {told}"
        f"{common(evidence)}"
    )


def class_iou(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """How much is missing, and whether it is the quantization's doing."""
    assert figure.value is not None
    text = f"{100 * (limit.of(figure.subject) - figure.value):.1f} points short"
    if not evidence.fp32:
        return f"{text}: give --fp32 to see whether the float model has it"
    before = evidence.fp32_score.per_class[figure.subject]["iou"]
    if before < limit.of(figure.subject):
        return f"{text}, and so is FP32 ({100 * before:.1f}): train on more of this class"
    return f"{text}, FP32 has {100 * before:.1f}: 16 bits for the layers that this class needs"


def scenes(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """How many more, and whether the split has them."""
    assert figure.value is not None
    more = int(limit.value - figure.value)
    if int(figure.facts["images"]) >= limit.value:
        return f"evaluate {more} more: evaluate --images {int(limit.value)}"
    return f"{more} more are needed, and the split has {figure.facts['images']} images in all"


def cpu_operators(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """Which operators to replace."""
    return f"replace {', '.join(figure.facts['types']) or 'them'}, or cut the graph before them"


def agreement(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """Which output, how far, and why, where agree found a cause."""
    worst = figure.facts["worst"]
    assert figure.value is not None
    cause = f"; {figure.facts['cause']}" if figure.facts["cause"] else ""
    return f"output '{worst['name']}' is {limit.value - figure.value:.1f} dB short{cause}"


def accuracy_loss(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """How many points, and which class loses most."""
    drops = figure.facts["drops"]
    worst = max(drops, key=lambda name: drops[name])
    assert figure.value is not None
    return (
        f"{figure.value - limit.value:.1f} points too many; '{worst}' loses most ({drops[worst]:.1f}): a "
        "plan with more bits, or quantization-aware training"
    )


def class_loss(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """How many points too many."""
    assert figure.value is not None
    return (
        f"{figure.value - limit.of(figure.subject):.1f} points too many: 16 bits for the layers that this "
        "class needs (hexpath-quant sensitivity)"
    )


def class_collapse(figure: Figure, limit: Limit, evidence: Evidence) -> str:
    """How much of the class is left."""
    assert figure.value is not None
    kept, needed = 100 * figure.value, 100 * limit.of(figure.subject)
    return f"keeps {kept:.0f} of {needed:.0f}% needed: the plan loses this class"


ADVICE: dict[str, Callable[[Figure, Limit, Evidence], str]] = {
    "latency_ms": latency,
    "size_mb": above("MB"),
    "memory_mb": above("MB"),
    "recall": recall,
    "precision": precision,
    "night_map50": night,
    "false_positives_per_image": false_positives,
    "class_iou": class_iou,
    "night_miou": night,
    "scenes": scenes,
    "cpu_operators": cpu_operators,
    "agreement_db": agreement,
    "map_loss": accuracy_loss,
    "class_map_loss": class_loss,
    "mask_map_loss": accuracy_loss,
    "class_mask_map_loss": class_loss,
    "miou_loss": accuracy_loss,
    "class_iou_loss": class_loss,
    "class_collapse": class_collapse,
}
