"""One model or several in one experiment: where each lies in the run folder, and what it is trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

FILES = (".pt", ".safetensors")
AXES = ("plan", "method", "selection", "calibration")


def models(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The prefix of each model's folders, with `model`, `checkpoint`, `train` and `take` of that model.

    `models: yolo11n,yolo11s,path/to/best.pt` is a matrix; so are plans that each name their `model`. Else the
    experiment has one model, whose folders have no prefix. A file is taken as it is instead of trained. A
    group of `train` with a model's name holds what is different for that model.
    """
    common = {"take": config.get("take", {})}
    named = dict.fromkeys(plan["model"] for plan in config["plans"].values() if "model" in plan)
    listed = config.get("models") or ",".join(named)
    if not listed:
        own = {"model": config["model"], "checkpoint": config.get("checkpoint"), "train": config["train"]}
        return {"": own | common}
    found = {}
    for entry in str(listed).split(","):
        is_file = entry.endswith(FILES)
        own = {"model": name_of(entry), "checkpoint": entry if is_file else None}
        own["train"] = {k: v for k, v in config["train"].items() if not isinstance(v, Mapping)}
        own["train"] |= config["train"].get(own["model"], {})
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


def of_model(plans: Mapping[str, Mapping[str, Any]], model: str) -> dict[str, Mapping[str, Any]]:
    """The plans that are made of a model: all but those of another."""
    return {name: plan for name, plan in plans.items() if plan.get("model", model) == model}


def row_id(model: str, name: str, plan: Mapping[str, Any], *, prefix: str) -> str:
    """The id of a plan in the record: unique over the matrix."""
    return f"{model}/{name}" if prefix and "model" not in plan else name


def swept(sweeps: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The plans of a PTQ study: every combination of each sweep's lists, by an id that names what it varies.

    A sweep lists `plan` and `method`, and may list `calibration` (numbers of images) and `selection` (of
    `hexpath-data select`); `npu: true` has its rows compiled, profiled and emulated as well. A later sweep
    that names a combination again adds to it.
    """
    found: dict[str, dict[str, Any]] = {}
    for sweep in sweeps:
        axes = [sweep.get(axis) or [None] for axis in AXES]
        for plan, method, selection, count in product(*axes):
            name = ".".join(str(part) for part in (plan, method, selection, count) if part is not None)
            entry = {"head": "raw", "plan": plan, "method": f"ptq:{method}", "why": str(sweep["why"])}
            chosen = {"calibration": count, "selection": selection}
            entry |= {key: value for key, value in chosen.items() if value is not None}
            entry |= {"npu": True} if sweep.get("npu") else {}
            found[name] = found.get(name, {}) | entry
    return found
