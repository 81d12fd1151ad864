"""Every scale and family: does preparing change the numbers, does the file, does w8a8 run wholly on the NPU?

    nox -s bench -- scales [--models=yolo11n,yolov8n-seg] [--imgsz=640]

Random weights, which neither the deviations nor the operators depend on; each network comes in as a .pt file
of one's own does. Prints a row a network: parameters
and GFLOPs as built, the prepared network's deviation from Ultralytics' own forward and ONNX Runtime's from
the prepared network (both relative to the largest value of a tensor, raw heads), the operators of the
compiled w8a8 file, and Qualcomm's estimate. A network that is refused is a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from hexpath_models.errors import ModelError
from hexpath_models.export import export
from hexpath_models.importing import import_checkpoint
from hexpath_models.prepare import Head, prepare
from hexpath_models.registry import MODELS, build_network, measure

FAMILIES = (
    "yolov3-tiny",
    "yolov5n",
    "yolov8n",
    "yolov8n-seg",
    "yolov9t",
    "yolov9c-seg",
    "yolov10n",
    "yolo12n",
    "yolo26n-seg",
)
NAMES = {0: "person", 1: "vehicle", 2: "motorcycle"}


def main() -> int:
    """Print the table."""
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        command("data", "generate", work / "data", "--train", 8, "--val", 4, "--labels", "segments")
        print("| network | params, M | GFLOPs | prepared | ONNX | NPU operators | CPU | estimate, ms |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in args.models.split(","):
            print(row(name, args=args, work=work / name, data=work / "data" / "data.yaml"), flush=True)
    return 0


def row(name: str, *, args: argparse.Namespace, work: Path, data: Path) -> str:
    """Return the row of one network."""
    try:
        return tried(name, args=args, work=work, data=data)
    except (ModelError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        return f"| {name} | {' '.join(told.strip().splitlines()[-1].split())} |"


def tried(name: str, *, args: argparse.Namespace, work: Path, data: Path) -> str:
    """Build, hold against the original, export, quantize, compile."""
    sides = [int(side) for side in args.imgsz.split("x")]
    size = sides[0], sides[-1]
    checkpoint = write(name, size=size, out=work / "model.safetensors")
    prepared, onnx = checkpoint[1], export(checkpoint=checkpoint[0], data=data, head=Head.RAW, out=work / "f")
    options = ("--task", "yolo", "--checkpoint", checkpoint[0], "--data", data, "--option", "images=1")
    command("quant", "ptq", *options, "--plan", "w8a8", "--calibration", 2, "--out", work / "q")
    command("deploy", "compile", work / "q/model.onnx", "--target", args.target, "--out", work / "c")
    card = json.loads((work / "c" / "compile.json").read_text())
    found = card.get("estimates", {}).get("quantized", {})
    size_of = measure(MODELS[name]) if name in MODELS else None
    counted = f"{size_of.params_m:.1f} | {size_of.gflops_640:.1f}" if size_of else " | "
    return (
        f"| {name} | {counted} | {prepared:.0e} | {onnx.deviation:.0e} | {card['npu_ops']} "
        f"| {card.get('cpu_ops', 0)} | {found.get('value_ms', float('nan')):.2f} |"
    )


@torch.inference_mode()
def write(name: str, *, size: tuple[int, int], out: Path) -> tuple[Path, float]:
    """Write a network with random weights; return its file, and how far preparing moves its raw outputs."""
    torch.manual_seed(0)
    task = "segment" if name.endswith("-seg") else "detect"
    model: Any = build_network(f"{name}.yaml", task=task, names=NAMES).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.rand(1, 3, *size)
    prepared = prepare(model, head=Head.RAW, image_size=size)(images)
    deviation = compare(prepared, model(images)[1])
    model.names, model.args = NAMES, {"imgsz": list(size)}
    out.parent.mkdir(parents=True)
    torch.save({"epoch": -1, "model": model, "ema": None}, out.with_suffix(".pt"))
    import_checkpoint(out.with_suffix(".pt"), out=out, size=size)
    return out, deviation


def compare(found: tuple[torch.Tensor, ...], predictions: dict[str, Any]) -> float:
    """Return the largest deviation of raw outputs from Ultralytics' own, relative to each tensor's range."""
    expected = predictions.get("one2one", predictions)
    kinds = ["boxes", "scores"] + (["mask_coefficient"] if "proto" in expected else [])
    levels, last = list(found), []
    if "proto" in expected:
        last = [(levels.pop(), expected["proto"])]
    joined = [torch.cat([t.flatten(2) for t in levels[i :: len(kinds)]], 2) for i in range(len(kinds))]
    pairs = [(ours, expected[kind]) for ours, kind in zip(joined, kinds, strict=True)] + last
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def command(package: str, *words: Any) -> None:
    """Run one of the house's commands."""
    program = Path(sys.executable).with_name(f"hexpath-{package}")
    subprocess.run([str(program), *map(str, words)], check=True, capture_output=True, text=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join((*MODELS, *FAMILIES)))
    parser.add_argument("--imgsz", default="640", help="320, or 544x640 (default: %(default)s)")
    parser.add_argument("--target", default="qcs9075")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
