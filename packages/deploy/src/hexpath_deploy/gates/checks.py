"""The gates: each takes its figures out of the evidence, and says where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hexpath_deploy.errors import DatasetError
from hexpath_deploy.gates.evidence import Evidence
from hexpath_deploy.gates.figure import Figure, missing, not_on_artifact, source_of
from hexpath_deploy.gates.limits import Limit
from hexpath_deploy.gates.losses import class_collapse, class_loss, loss

MIB_IN_MB = 1.048576
EMULATED = "the profile is of the emulator on a PC, of no device"
STAGES = ("preprocess", "inference", "postprocess")


def latency(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Preprocess + inference + postprocess, in ms."""
    if not evidence.profile:
        yield missing("--profile")
        return
    host = evidence.host.get("host_ms")
    if not host:
        yield Figure(value=None, note="pre- and postprocessing were not timed: give --eval or --host")
        return
    found, factor = evidence.profile["latency"], float(limit.options.get("host_factor", 1.0))
    if found["source"] == "emulated":
        yield Figure(value=None, note=EMULATED)
        return
    # The slow end of what is known: measured runs have a tail, an estimate an upper bound.
    key = next(name for name in ("p99_ms", "high_ms", "value_ms") if name in found)
    inference = found[key]
    stages = {
        "preprocess": factor * typical(host, "preprocess"),
        "inference": inference,
        "postprocess": factor * typical(host, "postprocess"),
    }
    left_out = int(found.get("missing_ops", 0))
    note = ", ".join(f"{stage} {stages[stage]:.2f}" for stage in STAGES)
    note += f" ms; {found['target']}" + (f" by proxy {found['proxy']}" if "proxy" in found else "")
    if left_out:
        note += f"; the estimate leaves out {left_out} operators, so that this is a lower bound"
    yield Figure(
        value=sum(stages.values()),
        source=f"{evidence.files.profile}: latency.{key}; "
        f"{evidence.files.host or evidence.files.evaluation}: host_ms",
        basis=f"inference {found['source']}, pre- and postprocess measured on this CPU (x{factor:g})",
        note=note,
        holds=left_out == 0,
        facts=stages,
    )


def typical(host: Mapping[str, Any], stage: str) -> float:
    """Return a stage's median in ms, or its mean where that is all there is."""
    return float(host.get(f"{stage}_p50", host[stage]))


def size(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """The larger one of context binary and DLC, in MB."""
    if not evidence.compiled:
        yield missing("--compiled")
        return
    parts: dict[str, float] = {
        key: float(evidence.compiled[key]) for key in ("size_mb", "dlc_mb") if key in evidence.compiled
    }
    key = max(parts, key=lambda name: parts[name])
    names = {"size_mb": "context binary", "dlc_mb": "DLC"}
    yield Figure(
        value=parts[key],
        source=f"{evidence.files.compiled}: {key}",
        basis="size of the file",
        note=", ".join(f"{names[name]} {value:.2f} MB" for name, value in parts.items()),
        facts=parts,
    )


def memory(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Measured memory, else what the compiler tells of it, in MB."""
    if not evidence.profile:
        yield missing("--profile")
        return
    if evidence.profile["latency"]["source"] == "emulated":
        yield Figure(value=None, note=EMULATED)
        return
    if "peak_memory_mb" in evidence.profile:
        yield Figure(
            value=float(evidence.profile["peak_memory_mb"]),
            source=f"{evidence.files.profile}: peak_memory_mb",
            basis="measured",
            note="peak of the process on the device",
        )
        return
    if "ddr_mb" not in evidence.profile:
        yield Figure(value=None, note="this runner measures no memory: use onnxruntime-qnn, or an estimate")
        return
    if not evidence.compiled:
        yield missing("--compiled")
        return
    if "ddr_mb" not in evidence.profile:
        yield Figure(value=None, note="the latency record has neither measured memory nor DDR traffic")
        return
    vtcm_mib = vtcm_of(str(evidence.compiled["target"]))
    parts = {
        "context binary": float(evidence.compiled["size_mb"]),
        "DDR traffic of one inference, which bounds its buffers": float(evidence.profile["ddr_mb"]),
        "VTCM": (vtcm_mib or 0) * MIB_IN_MB,
    }
    note = " + ".join(f"{name} {value:.2f}" for name, value in parts.items())
    yield Figure(
        value=sum(parts.values()),
        source=f"{evidence.files.compiled}: size_mb; {evidence.files.profile}: ddr_mb",
        basis="estimate",
        note=f"{note} MB; without the runtime's libraries and the process",
        facts=parts,
    )


def vtcm_of(name: str) -> int | None:
    """Return a target's VTCM in MiB, as far as it is known."""
    from hexpath_deploy.targets import target

    return target(name).vtcm_mib


def recall(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Recall of each class at the threshold."""
    if (reason := not_on_artifact(evidence)) is not None:
        yield reason
        return
    for name, found in evidence.matches.items():
        hits, _ = found.counts(evidence.threshold)
        note = f"{hits} of {found.boxes} boxes" if found.boxes else "no boxes of this class were evaluated"
        yield Figure(
            value=found.recall(evidence.threshold),
            subject=name,
            note=note,
            facts={"found": hits, "boxes": found.boxes},
            **source_of(evidence, "detections"),
        )


def precision(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Precision of each class at the threshold."""
    if (reason := not_on_artifact(evidence)) is not None:
        yield reason
        return
    for name, found in evidence.matches.items():
        hits, misses = found.counts(evidence.threshold)
        yield Figure(
            value=found.precision(evidence.threshold),
            subject=name,
            note=f"{hits} of {hits + misses} detections" if hits + misses else "no detections of this class",
            facts={"right": hits, "detections": hits + misses},
            **source_of(evidence, "detections"),
        )


def night(metric: str, *, of_class: str) -> Callable[[Evidence, Limit], Iterator[Figure]]:
    """Return the gate of the artifact's metric on the night's images."""

    def figures(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
        if (reason := not_on_artifact(evidence)) is not None:
            yield reason
            return
        times = tuple(limit.options.get("times", ["night"]))
        least = int(limit.options.get("images", 10))
        if not evidence.times:
            yield Figure(value=None, note="no image says its time_of_day: name them in a --meta file")
            return
        chosen = [i for i in evidence.image_ids if evidence.times.get(i) in times]
        if len(chosen) < least:
            yield Figure(
                value=None,
                note=f"{len(chosen)} of {len(evidence.image_ids)} images are of {'/'.join(times)}, "
                f"{least} needed",
            )
            return
        try:
            found = evidence.truth.score(evidence.results, image_ids=chosen)
        except DatasetError as error:
            yield Figure(value=None, note=str(error))
            return
        yield Figure(
            value=found.metrics[metric],
            note=f"{len(chosen)} images of {'/'.join(times)}",
            source=source_of(evidence, "detections")["source"],
            basis=f"{evidence.evaluation['evaluated_on']}, {len(chosen)} images",
            facts={"per_class": {name: row[of_class] for name, row in found.per_class.items()}},
        )

    return figures


def class_iou(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Intersection over union of each class that occurs in the masks."""
    if (reason := not_on_artifact(evidence)) is not None:
        yield reason
        return
    for name, row in evidence.evaluation["per_class"].items():
        yield Figure(
            value=float(row["iou"]),
            subject=name,
            note="pixel recall and precision are at least as high",
            **source_of(evidence, "per_class"),
        )


def false_positives(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Detections at the threshold that find no box, an image."""
    if (reason := not_on_artifact(evidence)) is not None:
        yield reason
        return
    by_class = {name: found.counts(evidence.threshold)[1] for name, found in evidence.matches.items()}
    images = len(evidence.image_ids)
    yield Figure(
        value=sum(by_class.values()) / images,
        note=f"{sum(by_class.values())} in {images} images",
        facts={"by_class": by_class, "images": images},
        **source_of(evidence, "detections"),
    )


def scenes(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Images, or sequences, that the artifact was evaluated on."""
    if (reason := not_on_artifact(evidence)) is not None:
        yield reason
        return
    known = len(evidence.truth.pictures)
    sequences = {evidence.sequences[i] for i in evidence.image_ids if i in evidence.sequences}
    counted = len(sequences) if sequences else len(evidence.image_ids)
    yield Figure(
        value=float(counted),
        note=f"{'sequences' if sequences else 'images'}, of {known} images in the split",
        facts={"images": known},
        **source_of(evidence, "image_ids"),
    )


def cpu_operators(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """Operators that are not on the NPU."""
    card = evidence.compiled
    if not card:
        yield missing("--compiled")
        return
    if not card["npu_ops"]:
        yield Figure(value=None, note="the compiled graph holds no operators: nothing was counted")
        return
    kinds = sorted({str(row["type"]) for row in card.get("ops", []) if row.get("on") == "cpu"})
    islands = int(card.get("float_ops", 0))
    note = f"{card['npu_ops']} on the NPU" + (f", {islands} of them in float" if islands else "")
    yield Figure(
        value=float(card["cpu_ops"]),
        source=f"{evidence.files.compiled}: cpu_ops",
        basis="the compiler's graph",
        note=note,
        facts={"types": kinds},
    )


def agreement(evidence: Evidence, limit: Limit) -> Iterator[Figure]:
    """How far the worst output lies above agree's tolerance, in dB."""
    if not evidence.agree:
        yield missing("--agree")
        return
    rows = [
        {**row, "comparison": name} for name, rows in evidence.agree["comparisons"].items() for row in rows
    ]
    broken = [row for row in rows if "problem" in row]
    if broken or not rows:
        what = f"output '{broken[0]['name']}' {broken[0]['problem']}" if broken else "nothing was compared"
        yield Figure(value=None, note=what, source=f"{evidence.files.agree}: comparisons")
        return
    noisy = [row for row in rows if "sqnr_db" in row]
    worst = min(noisy, key=lambda row: row["sqnr_db"] - row["min_sqnr_db"], default=None)
    margin = 999.0 if worst is None else worst["sqnr_db"] - worst["min_sqnr_db"]
    told = (
        "every output is identical"
        if worst is None
        else f"worst: '{worst['name']}' ({worst['comparison']}), {worst['sqnr_db']:.1f} dB, "
        f"{worst['min_sqnr_db']:g} needed"
    )
    yield Figure(
        value=margin,
        source=f"{evidence.files.agree}: comparisons",
        basis=f"emulator against ONNX Runtime, {evidence.agree['images']} images",
        note=told,
        facts={"worst": worst or {}, "cause": evidence.agree.get("cause", "")},
    )


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate: what it is called, the unit of its figures, how they are found."""

    title: str
    unit: str
    figures: Callable[[Evidence, Limit], Iterator[Figure]]


GATES: dict[str, Gate] = {
    "latency_ms": Gate(title="latency, end to end", unit="ms", figures=latency),
    "size_mb": Gate(title="model size", unit="MB", figures=size),
    "memory_mb": Gate(title="memory", unit="MB", figures=memory),
    "recall": Gate(title="recall", unit="share", figures=recall),
    "precision": Gate(title="precision", unit="share", figures=precision),
    "night_map50": Gate(title="night subset, mAP50", unit="share", figures=night("map50", of_class="map50")),
    "class_iou": Gate(title="IoU", unit="share", figures=class_iou),
    "night_miou": Gate(title="night subset, mIoU", unit="share", figures=night("miou", of_class="iou")),
    "false_positives_per_image": Gate(
        title="false positives an image", unit="count", figures=false_positives
    ),
    "scenes": Gate(title="scenes tested", unit="count", figures=scenes),
    "cpu_operators": Gate(title="operators off the NPU", unit="count", figures=cpu_operators),
    "agreement_db": Gate(title="artifact agreement above tolerance", unit="dB", figures=agreement),
    "map_loss": Gate(title="mAP50-95 lost against FP32", unit="points", figures=loss("map", of_class="map")),
    "class_map_loss": Gate(title="mAP50-95 lost", unit="points", figures=class_loss("map")),
    "mask_map_loss": Gate(
        title="mask mAP50-95 lost against FP32",
        unit="points",
        figures=loss("mask_map", of_class="mask_map"),
    ),
    "class_mask_map_loss": Gate(title="mask mAP50-95 lost", unit="points", figures=class_loss("mask_map")),
    "miou_loss": Gate(title="mIoU lost against FP32", unit="points", figures=loss("miou", of_class="iou")),
    "class_iou_loss": Gate(title="IoU lost", unit="points", figures=class_loss("iou")),
    "class_collapse": Gate(title="share of FP32 kept", unit="share", figures=class_collapse),
}
