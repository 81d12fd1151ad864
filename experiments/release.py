"""What comes after the plans are scored: choose the one to ship, judge it by the gates, pack it.

    python experiments/release.py choose|gate|bundle --out PATH        in a run folder

Reads the run's config.json and the layout of pipeline.smk; `hexpath-deploy` does the judging and packing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHOICE = Path("choice.json")
METRICS = ("map", "mask_map")  # of boxes, and of instance masks: the one that loses more counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("choose", "gate", "bundle"))
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    config = json.loads(Path("config.json").read_text())
    if args.step == "choose":
        return choose(config, out=args.out)
    line = {"gate": gate, "bundle": bundle}[args.step](config, out=args.out)
    tool = Path(sys.executable).with_name("hexpath-deploy")
    return subprocess.run([str(tool), *line], check=False).returncode


def candidates(config: Mapping[str, Any]) -> dict[str, Any]:
    """The plans that run on the NPU."""
    return {name: plan for name, plan in config["plans"].items() if not plan["plan"].startswith("fp32")}


def choose(config: Mapping[str, Any], *, out: Path) -> int:
    """Write which plan ships: the fastest whose artifact agrees and loses no more than max_loss."""
    results = {name: figures(name) for name in candidates(config)}
    chosen, why = pick(results, max_loss=float(config["release"]["max_loss"]))
    out.write_text(json.dumps({"plan": chosen, "why": why, "candidates": results}, indent=1) + "\n")
    print(f"{chosen}: {why}")
    return 0


def pick(results: Mapping[str, Mapping[str, Any]], *, max_loss: float) -> tuple[str, str]:
    """The plan, and why; where none qualifies the one that loses least, which the gates will stop."""
    able = {n: r for n, r in results.items() if r["agrees"] and r["loss_points"] <= max_loss}
    if able:
        name = min(able, key=lambda n: (able[n]["ms"], able[n]["loss_points"]))
        told = f"the fastest of {len(able)} that agree and lose at most {max_loss:g} points"
        return name, f"{told}: {able[name]['ms']:.2f} ms, {able[name]['loss_points']:.2f} points"
    name = min(results, key=lambda n: (not results[n]["agrees"], results[n]["loss_points"]))
    return name, f"no candidate agrees and loses at most {max_loss:g} points; this one loses least"


def figures(name: str) -> dict[str, Any]:
    """A candidate's loss on its artifact, latency and agreement."""
    artifact = json.loads(Path(f"eval/{name}-emulator.json").read_text())
    latency = json.loads(Path(f"profile/{name}.json").read_text())["latency"]
    verdict = json.loads(Path(f"agree/{name}.json").read_text())["verdict"]
    before, after = fp32_on(artifact["image_ids"]), artifact["metrics"]
    return {
        "loss_points": max(100 * (before[metric] - after[metric]) for metric in METRICS if metric in after),
        "ms": latency["value_ms"],
        "agrees": verdict == "pass",
    }


def fp32_on(image_ids: list[int]) -> dict[str, float]:
    """FP32's metrics on exactly these images."""
    from hexpath_deploy.evaluate import score_on

    record = json.loads(Path("eval/fp32-ort.json").read_text())
    results = json.loads(Path("eval", record["detections"]).read_text())
    return score_on(record, results=results, image_ids=image_ids)


def folder_of(plan: Mapping[str, str], name: str) -> str:
    """Where a plan's ONNX lies."""
    return plan.get("export", f"export/{plan['head']}") if plan["method"] == "float" else f"quant/{name}"


def gate(config: Mapping[str, Any], *, out: Path) -> list[str]:
    """The command that judges the chosen plan; its verdict goes into the report before it ends the run."""
    name, told = json.loads(CHOICE.read_text())["plan"], config["release"]
    line = ["gate", "--eval", f"eval/{name}-emulator.json", "--fp32", "eval/fp32-ort.json"]
    line += ["--host", f"eval/{name}-ort.json", "--compiled", f"compile/{name}"]
    line += ["--profile", f"profile/{name}.json", "--agree", f"agree/{name}.json"]
    threshold = told["threshold"] if told["threshold"] or told["gates"] else "passing"
    for key, value in (("gates", told["gates"]), ("meta", told["meta"]), ("threshold", threshold)):
        line += [f"--{key}", str(value)] if value else []
    return [*line, "--explain", "--verdict-only", "--out", str(out)]


def bundle(config: Mapping[str, Any], *, out: Path) -> list[str]:
    """The command that packs the chosen plan."""
    name, told = json.loads(CHOICE.read_text())["plan"], config["release"]
    folder = folder_of(config["plans"][name], name)
    facts = Path("work/training.json")
    facts.parent.mkdir(exist_ok=True)
    facts.write_text(json.dumps(training(config)))
    line = ["bundle", f"{folder}/model.onnx", "--compiled", f"compile/{name}", "--gates", "gates.json"]
    line += ["--eval", f"eval/{name}-emulator.json", "--fp32", "eval/fp32-ort.json"]
    line += ["--profile", f"profile/{name}.json", "--data-card", "dataset/card.json", "--facts", str(facts)]
    line += ["--report", "report.html"]
    line += ["--quant-card", f"{folder}/quant.json"] if Path(folder, "quant.json").is_file() else []
    generated = None if config["dataset"] else "none needed: generated by hexpath-data, no third-party images"
    licences = {"model": told["model_licence"], "data": told["data_licence"] or generated}
    for what, text in licences.items():
        line += [f"--{what}-licence", str(text)] if text else []
    return [*line, "--out", str(out)]


def training(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of the training."""
    if config.get("checkpoint"):
        return {"checkpoint": Path(config["checkpoint"]).name, "trained": "elsewhere"}
    return {key: value for key, value in config["train"].items() if key != "device"}


if __name__ == "__main__":
    sys.exit(main())
