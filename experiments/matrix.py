"""One model or several in one experiment: where each lies in the run folder, and what it is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES = (".pt", ".safetensors")


def models(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The prefix of each model's folders, with `model`, `checkpoint`, `train` and `take` of that model.

    `models: yolo11n,yolo11s,path/to/best.pt` is a matrix; without it the experiment has one model, whose
    folders have no prefix. A file is taken as it is instead of trained.
    """
    common = {"train": config["train"], "take": config.get("take", {})}
    listed = config.get("models")
    if not listed:
        return {"": {"model": config["model"], "checkpoint": config.get("checkpoint"), **common}}
    found = {}
    for entry in str(listed).split(","):
        is_file = entry.endswith(FILES)
        own = {"model": name_of(entry), "checkpoint": entry if is_file else None}
        found[f"models/{own['model']}/"] = own | common
    return found


def name_of(entry: str) -> str:
    """The name of a model by which its folder and its rows are called."""
    return Path(entry).stem if entry.endswith(FILES) else entry


def folder(name: str, plan: Mapping[str, str]) -> str:
    """Where a plan's ONNX lies below its model's folder: float ones are the exports themselves."""
    if plan["method"] != "float":
        return f"quant/{name}"
    branch = "-one-to-many" if plan.get("branch") == "one-to-many" else ""
    return plan.get("export", f"export/{plan['head']}{branch}")


def row_id(model: str, name: str, *, prefix: str) -> str:
    """The id of a plan in the record: unique over the matrix."""
    return f"{model}/{name}" if prefix else name
