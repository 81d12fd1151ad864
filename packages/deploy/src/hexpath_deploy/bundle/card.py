"""The model card: what a model is, was trained on, reaches, costs, and its limits; as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hexpath_deploy.report.known_error import known_error

CHECKLIST = {"pass": "pass", "fail": "**FAIL**", "unknown": "**unknown**"}


def limits_of(card: Mapping[str, Any]) -> list[str]:
    """Return what a user must know before relying on the model, computed from the card."""
    found = []
    for latency in card["latency"]:
        if latency["source"] == "estimate":
            by = f" by its proxy {latency['proxy']}" if "proxy" in latency else ""
            found.append(
                f"Latency on {latency['target']} is the compiler's estimate{by}, not measured on a device; "
                f"{error_text(card)}"
            )
        if latency.get("missing_ops"):
            found.append(f"That estimate leaves out {latency['missing_ops']} operators: it is too low.")
    accuracy = card.get("accuracy")
    if not accuracy:
        found.append("Accuracy: the artifact was not evaluated.")
    else:
        found.append(
            f"Accuracy was measured on {accuracy['images']} images ({accuracy['sample']}) on the "
            f"{accuracy['evaluated_on']}; other scenes, cameras and seasons were not seen."
        )
    found += ranges_of(card.get("data", {}))
    for row in card["gates"].get("waived", []):
        found.append(f"Gate {row['gate']} has no figure and was waived: {row['reason']}.")
    return found


def error_text(card: Mapping[str, Any]) -> str:
    """Return how far such estimates were off."""
    known = known_error(str(card["plan"].get("plan", "")))
    if known is None:
        return "how far such estimates are off is not known for this plan."
    return f"such estimates were {known.text} off published device figures."


def ranges_of(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield in which conditions the training data were taken, as far as its card says."""
    train = data.get("splits", {}).get("train", {})
    if "altitude_m" in train:
        found = train["altitude_m"]
        yield f"Training images were taken from {found['p0']:g} to {found['p100']:g} m altitude."
    if "time_of_day" in train:
        told = ", ".join(f"{name} {count}" for name, count in train["time_of_day"].items())
        yield f"Training images by time of day: {told}."


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown."""
    parts = [head(card), training(card), accuracy(card), costs(card), gates(card), ends(card), files(card)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def head(card: Mapping[str, Any]) -> str:
    """What it is."""
    model = card["model"]
    status = "" if card["released"] else f"**NOT RELEASED: {card['gates']['reason']}**\n\n"
    size = f"{model['imgsz'][1]}x{model['imgsz'][0]}"
    return (
        f"# {card['name']}\n\n{status}{model['architecture']}, task *{model['task']}*, input {size}, "
        f"{len(model['classes'])} classes: {', '.join(model['classes'])}.\n\n"
        f"Run it: `python infer.py image.jpg`. What goes in and comes out stands in `preprocess.json` and "
        "`postprocess.json`, with formulas; `hexpath_reference.py` does it in numpy."
    )


def training(card: Mapping[str, Any]) -> str:
    """Data, training, quantization."""
    data, lines = card.get("data", {}), []
    if data:
        images = ", ".join(f"{count} {split}" for split, count in data.get("images", {}).items())
        lines.append(f"- Data: {images or 'unknown'} images, fingerprint `{data['fingerprint']}`")
    else:
        lines.append("- Data: unknown")
    facts = ", ".join(f"{key} {value}" for key, value in card.get("training", {}).items())
    lines.append(f"- Training: {facts or 'unknown'}")
    plan = card["plan"]
    told = ", ".join(f"{key} {value}" for key, value in plan.items() if not isinstance(value, dict | list))
    lines.append(f"- Quantization: {told or 'unknown'}")
    if plan.get("regions"):
        lines.append("- Regions: " + ", ".join(f"{name} {bits}" for name, bits in plan["regions"].items()))
    lines += [f"- Licence of the {what}: {text}" for what, text in card["licences"].items()]
    return "## Where it comes from\n\n" + "\n".join(lines)


def accuracy(card: Mapping[str, Any]) -> str:
    """Accuracy by class, beside FP32's on the same images."""
    found = card.get("accuracy")
    if not found:
        return "## Accuracy\n\nThe artifact was not evaluated."
    names = list(found["metrics"])
    fp32 = found.get("fp32", {})
    header = ["class", *names, *([f"FP32 {name}" for name in names] if fp32 else [])]
    rows = [["all", *cells(found["metrics"], names), *(cells(fp32["metrics"], names) if fp32 else [])]]
    for kind, row in found["per_class"].items():
        other = cells(fp32["per_class"].get(kind, {}), names) if fp32 else []
        rows.append([kind, *cells(row, names), *other])
    return (
        f"## Accuracy\n\nOf the compiled artifact on the {found['evaluated_on']}, {found['images']} images "
        f"({found['sample']}), percent.\n\n{table(header, rows)}"
    )


def cells(row: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Return metrics in percent."""
    return [f"{100 * row[name]:.1f}" if name in row else "" for name in names]


def costs(card: Mapping[str, Any]) -> str:
    """Latency with its source, and sizes, by target."""
    rows = [
        [
            found["target"],
            f"{found['value_ms']:.2f}",
            bounds(found),
            found["source"] + (f" by {found['proxy']}" if "proxy" in found else ""),
            tools_of(found),
        ]
        for found in card["latency"]
    ]
    text = "## Latency and size\n\n"
    text += table(["target", "ms", "bounds", "source", "tools"], rows) if rows else "No latency is known."
    sizes = [
        [
            entry["target"],
            f"{entry['size_mb']:.2f}",
            f"{entry['dlc_mb']:.2f}",
            str(entry["npu_ops"]),
            str(entry["cpu_ops"]),
        ]
        for entry in card["targets"]
    ]
    header = ["target", "context binary, MB", "DLC, MB", "operators on the NPU", "on the CPU"]
    return f"{text}\n\n{table(header, sizes)}"


def bounds(found: Mapping[str, Any]) -> str:
    """Return the bounds of a latency."""
    if "low_ms" in found and "high_ms" in found:
        return f"{found['low_ms']:.2f} to {found['high_ms']:.2f}"
    return f"p99 {found['p99_ms']:.2f}" if "p99_ms" in found else ""


def tools_of(found: Mapping[str, Any]) -> str:
    """Return the versions of the tools behind a latency."""
    return ", ".join(f"{name} {version}" for name, version in found.get("tools", {}).items())


def gates(card: Mapping[str, Any]) -> str:
    """The checklist."""
    rows = [
        [
            CHECKLIST[row["verdict"]] if "waived" not in row else "waived",
            row["title"] + (f", {row['subject']}" if row.get("subject") else ""),
            f"{row['figure']:.4g}" if "figure" in row else "?",
            f"{'at most' if row['side'] == 'max' else 'at least'} {row['limit']:g} {row['unit']}",
            row.get("basis", ""),
        ]
        for row in card["gates"].get("rows", [])
    ]
    if not rows:
        return "## Release gates\n\nNo gates were judged."
    return "## Release gates\n\n" + table(["verdict", "gate", "figure", "limit", "basis"], rows)


def ends(card: Mapping[str, Any]) -> str:
    """Its limits."""
    return "## Limits\n\n" + "\n".join(f"- {text}" for text in card["limits"])


def files(card: Mapping[str, Any]) -> str:
    """What lies in the bundle."""
    rows = [[f"`{name}`", text] for name, text in card["files"].items()]
    return "## Files\n\n" + table(["file", "what"], rows)
