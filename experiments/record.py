"""Write results.json of a run: every plan with the files of its stages, and the experiment's answer.

    python experiments/record.py EXPERIMENT_FOLDER --out results.json      in a run folder

Reads the run's config.json; what a stage did not write is left out. `hexpath-deploy record` does the
assembling; the experiment's own answer.py puts the figures into sentences.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import matrix

REPO = Path(__file__).resolve().parent.parent
SAMPLES = 6  # images that the report shows
MAIN = ("map", "mask_map", "miou")  # what a network is judged by
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TOOLS = ("torch", "ultralytics", "aimet-torch", "onnx", "onnxruntime", "onnxruntime-qnn", "snakemake")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    facts = spec(json.loads(Path("config.json").read_text()))
    figures = Path("work/figures.json")
    code = record(facts, out=figures)
    if code == 0:
        told = answer_of(args.experiment / "answer.py")(json.loads(figures.read_text()))
        code = record(facts | told, out=args.out)
    return code


def record(facts: Mapping[str, Any], *, out: Path) -> int:
    """Have hexpath-deploy assemble the record; return its exit status."""
    out.parent.mkdir(exist_ok=True)
    Path("spec.json").write_text(json.dumps(facts, indent=1) + "\n")
    tool = Path(sys.executable).with_name("hexpath-deploy")
    return subprocess.run([tool, "record", "spec.json", "--out", out], check=False).returncode


def answer_of(path: Path) -> Any:
    """The function `answer(results) -> {"answer": [sentences], ...}` of an experiment."""
    found = importlib.util.spec_from_file_location("answer", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.answer


def spec(config: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a run, by the layout of pipeline.smk."""
    plans = config["plans"]
    models = {
        prefix: (model_of(own), matrix.of_model(plans, own["model"]))
        for prefix, own in matrix.models(config).items()
    }
    heads = config.get("audit", {}).get("heads", [])
    semantic = config.get("task") == "semantic"
    card = json.loads(Path("dataset/card.json").read_text())
    return {
        "experiment": config["experiment"],
        "name": config["name"],
        "question": config["question"],
        "commit": commit(),
        "command": config["command"],
        "config": {k: v for k, v in config.items() if k not in ("question", "command")},
        "pins": pins(),
        "tools": tools(),
        "card": "dataset/card.json",
        "dataset": {"images": card["images"], "names": card["names"]},
        "rows": [
            row(name, plan, prefix=prefix, model=model)
            for prefix, (model, own) in models.items()
            for name, plan in own.items()
        ],
        "curves": [curve for prefix, (_, own) in models.items() for curve in curves(own, prefix=prefix)],
        **(masks(config, models) if semantic else {"samples": samples(plans, prefix=next(iter(models)))}),
        **({"gates": "gates.json"} if Path("gates.json").is_file() else {}),
        **present(
            "sensitivity",
            [
                "planning/sensitivity.json",
                *(f"{m}sensitivity/{name}.json" for m in models for name in plans),
            ],
        ),
        **present("audits", [f"{m}audit/{head}.json" for m in models for head in heads]),
    }


def present(key: str, paths: list[str]) -> dict[str, list[str]]:
    """The files that a stage wrote, under a key; nothing where there are none."""
    found = [path for path in paths if Path(path).is_file()]
    return {key: found} if found else {}


def model_of(own: Mapping[str, Any]) -> str:
    """The name of a model: of one taken from a file, that of the file."""
    return matrix.name_of(own["checkpoint"]) if own["checkpoint"] else str(own["model"])


def row(name: str, plan: Mapping[str, str], *, prefix: str, model: str) -> dict[str, Any]:
    """One plan of a model, and the files of its stages."""
    folder = prefix + matrix.folder(name, plan)
    method = {"float": plan["plan"], "qat": "qat"}.get(plan["method"].split(":")[0], plan["method"])
    files = {
        "onnx": f"{folder}/model.onnx",
        "compile": f"{prefix}compile/{name}/compile.json",
        "profile": f"{prefix}profile/{name}.json",
        "agree": f"{prefix}agree/{name}.json",
    }
    found = {key: path for key, path in files.items() if Path(path).is_file()}
    evaluated = [f"{prefix}eval/{name}-{backend}.json" for backend in ("ort", "emulator")]
    evaluated = [path for path in evaluated if Path(path).is_file()]
    told = {
        "id": matrix.row_id(model, name, plan, prefix=prefix),
        "model": f"{model}, {plan['branch']}" if "branch" in plan else model,
        "method": method,
        "plan": Path(plan["plan"]).stem if plan["plan"].endswith(".yaml") else plan["plan"],
        "head": plan["head"],
        "why": plan["why"],
    }
    params = prediction(plan["plan"]) | calibration(plan, folder=folder)
    told |= {"params": params} if params else {}
    return told | found | {"eval": evaluated}


def calibration(plan: Mapping[str, Any], *, folder: str) -> dict[str, Any]:
    """What a post-training method had and took, and what the simulation scores, as its card says."""
    card = Path(folder) / "quant.json"
    if not plan["method"].startswith("ptq:") or not card.is_file():
        return {}
    facts = json.loads(card.read_text())
    kept = ("calibration_images", "method_seconds", "method_cpu_seconds")
    chosen = {"selection": plan["selection"]} if "selection" in plan else {}
    scores = {f"simulation_{name}": value for name, value in facts.get("metrics", {}).items() if name in MAIN}
    return {key: facts[key] for key in kept if key in facts} | chosen | scores


def prediction(plan: str) -> dict[str, Any]:
    """What the planner expected of a plan that it made."""
    made = Path(plan).with_name("front.json")
    if not plan.endswith(".yaml") or not made.is_file():
        return {}
    front = json.loads(made.read_text())
    known = {point["plan"]: point for point in front["points"]}
    point = known.get(Path(plan).stem)
    if point is None:
        return {}
    return {
        "predicted_ms": point["ms"],
        "predicted_drop": point["drop"],
        "predicted_error": point["error"],
        "least_step": front["least_step"],
        "regions": {region: p for region, p in point["regions"].items() if p != "w8a8"},
    }


def curves(plans: Mapping[str, Mapping[str, str]], *, prefix: str) -> list[dict[str, Any]]:
    """Training in FP32, and each QAT."""
    told = f"{Path(prefix).name} " if prefix else ""
    found = [("FP32 training", f"{prefix}train"), ("FP32 control", f"{prefix}control")]
    found += [
        (f"QAT {name}", f"{prefix}quant/{name}")
        for name, plan in plans.items()
        if plan["method"].startswith("qat")
    ]
    return [
        {"name": told + name, "path": f"{folder}/history.csv", "x": "epoch", "y": metrics}
        for name, folder in found
        if (metrics := scored(Path(folder, "history.csv")))
    ]


def scored(history: Path) -> list[str]:
    """The metrics that a training's history holds; none when there was no training."""
    if not history.is_file():
        return []
    columns = history.read_text().split("\n", 1)[0].split(",")
    return [name for name in ("map50", *MAIN) if name in columns]


def samples(plans: Mapping[str, Mapping[str, str]], *, prefix: str) -> list[dict[str, Any]]:
    """Images spread over the emulator's sample, with the boxes of FP32 and of the plan chosen, or w8a8."""
    choice = Path("choice.json")
    chosen_plan = [json.loads(choice.read_text())["plan"]] if choice.is_file() else []
    shown = next(
        (
            i
            for i in (*chosen_plan, "w8a8", *plans)
            if i in plans and Path(f"{prefix}eval/{i}-emulator.json").is_file()
        ),
        None,
    )
    if shown is None:
        return []
    ids = json.loads(Path(f"{prefix}eval/{shown}-emulator.json").read_text())["image_ids"]
    coco_path = Path("dataset/coco/val.json")
    coco = json.loads(coco_path.read_text())
    root = coco_path.parent / coco["info"]["root"]
    files = {image["id"]: os.path.normpath(root / image["file_name"]) for image in coco["images"]}
    boxes = [
        detections(name, plans.get(name, {}), backend, prefix=prefix)
        for name, backend in (("fp32", "ort"), (shown, "emulator"))
    ]
    return [{"image": files[i], "image_id": i, "truth": str(coco_path), "boxes": boxes} for i in spread(ids)]


def detections(name: str, plan: Mapping[str, Any], backend: str, *, prefix: str) -> dict[str, str]:
    evaluation = Path(f"{prefix}eval/{name}-{backend}.json")
    path = evaluation.parent / json.loads(evaluation.read_text())["detections"]
    told = matrix.row_id(Path(prefix).name, name, plan, prefix=prefix)
    return {"id": told, "evaluated_on": backend, "path": str(path)}


def masks(
    config: Mapping[str, Any], models: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Class maps of images of the emulator's sample, and what the classes cost a planner.

    Of the plans of the config's `masks`, else FP32 and w8a8: as the emulator made them, where it did. Costs
    are those of the dataset's data.yaml, else of the experiment's costs.yaml.
    """
    wanted = config.get("masks", "fp32,w8a8").split(",")
    found = []  # (id, where it was scored, pattern of its files)
    for prefix, (model, own) in models.items():
        for name in [name for name in own if name in wanted]:
            backends = [b for b in ("emulator", "ort") if Path(f"{prefix}masks/{name}-{b}").is_dir()]
            told = matrix.row_id(model, name, own[name], prefix=prefix)
            found += [(told, b, f"{prefix}{{}}/{name}-{b}{{}}") for b in backends[:1]]
    evaluated = [place.format("eval", ".json") for _, backend, place in found if backend == "emulator"]
    if not evaluated:
        return {}
    data = yaml.safe_load(Path("dataset/data.yaml").read_text())
    root = Path("dataset") / str(data.get("path") or ".")
    images, truth = root / data["val"], root / data["masks"]["val"]
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    ids = json.loads(Path(evaluated[0]).read_text())["image_ids"]
    strips = [
        {
            "image": os.path.normpath(files[i - 1]),
            "truth": os.path.normpath(truth / files[i - 1].relative_to(images).with_suffix(".png")),
            "found": [
                {"id": told, "evaluated_on": backend, "path": f"{place.format('masks', '')}/{i}.png"}
                for told, backend, place in found
            ],
        }
        for i in spread(ids)
    ]
    known = REPO / "experiments" / config["experiment"] / "costs.yaml"
    costs = yaml.safe_load(known.read_text()) if known.is_file() else {}
    costs = {name: cost for name, cost in (costs | data.get("costs", {})).items() if name in names_of(data)}
    return {"masks": {"costs": costs, "images": strips}}


def names_of(data: Mapping[str, Any]) -> list[str]:
    """The class names of a data.yaml."""
    return list(data["names"].values() if isinstance(data["names"], dict) else data["names"])


def spread(ids: list[int]) -> list[int]:
    """Some of the images, from first to last."""
    count = min(SAMPLES, len(ids))
    return [ids[round(k * (len(ids) - 1) / max(1, count - 1))] for k in range(count)]


def pins() -> dict[str, str]:
    """The lock, and the images when the stages ran in them."""
    images = json.loads(os.environ.get("HEXPATH_IMAGES", "{}"))
    lock = "docker/locks/hexpath.txt"
    return {lock: sha256(REPO / lock)} | {f"hexpath/{name}": digest for name, digest in images.items()}


def tools() -> dict[str, str]:
    """Versions of what the stages ran; run.py says them when that was in containers."""
    if told := os.environ.get("HEXPATH_TOOLS"):
        return dict(json.loads(told))
    found = {}
    for name in (*TOOLS, "hexpath-data", "hexpath-models", "hexpath-quant", "hexpath-deploy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # onnxruntime-qnn exists for one platform only
    return found


def commit() -> str:
    """The commit of the source tree, `-dirty` when it had changes, `unknown` outside a checkout."""
    if told := os.environ.get("HEXPATH_COMMIT"):
        return told
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=REPO, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
