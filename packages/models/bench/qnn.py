"""Ours at w8a8 against Ultralytics' own export for this NPU (`format=qnn`, w8a16) and FP16, in one table.

    nox -s bench -- qnn [--run=runs/exp_01_baselines/NAME]

Reads a finished run of exp_01_baselines: its networks, its w8a8 and FP16 figures. Of the same weights,
Ultralytics' exporter makes its QNN file, all of its code as it is, calibrated on the same training images. It
deletes the QDQ file on the way to a context binary that only a device can run; a copy is kept, scored in ONNX
Runtime and on the emulator, and estimated, by the code that scores ours.

Each recipe is made twice: at the size of the training for accuracy, at that of the budget for latency.
Ultralytics takes float images and returns float tensors, ours takes bytes and returns what the NPU has: the
table has ours both ways. Losses are against the FP32 score of the same branch (YOLO26: theirs is one-to-many,
with suppression).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import yaml

from hexpath_models.checkpoint import load_checkpoint
from hexpath_models.dataset import read_dataset
from hexpath_models.environment import offline
from hexpath_models.heads import Branch, Head
from hexpath_models.loading import default_settings, open_split, spread
from hexpath_models.tasks import onnx_metadata

Figures = dict[str, Any]
INPUT = "images"


def main() -> int:
    """Print the table and one JSON line."""
    args = arguments()
    run = args.run.resolve()
    config = json.loads((run / "config.json").read_text())
    rows: list[Figures] = []
    for entry in config["models"].split(","):  # a name, or a .pt file, whose rows bear its stem
        name = Path(entry).stem if entry.endswith((".pt", ".safetensors")) else entry
        rows += compare(run, name, config=config, out=args.out / name)
    print(table(rows))
    print(json.dumps(rows))
    return 0


def compare(run: Path, name: str, *, config: Mapping[str, Any], out: Path) -> list[Figures]:
    """Return the rows of one network: ours at w8a8, Ultralytics' recipe, FP16."""
    home = run / "models" / name
    size, at = int(config["train"]["imgsz"]), int(config["at"]["imgsz"])
    data = calibration_set(run, count=int(config["ptq"]["calibration"]), out=out / "images")
    few = calibration_set(run, count=int(config["at"]["calibration"]), out=out / "few")
    small = recipe(home, size=size, data=data, out=out / f"qnn-{size}")
    large = recipe(home, size=at, data=few, out=out / f"qnn-{at}")
    theirs = evaluate(small, run=run, out=out / "qnn-ort.json")
    on_npu = emulate(small, run=run, config=config, out=out)
    plain = export(home, run=run, out=out / "plain")
    reference = evaluate(plain, run=run, out=out / "plain-ort.json")
    latency = profile(large, target=config["target"], out=out / f"qnn-{at}.json")
    fp32 = read(home / "eval" / "fp32-ort.json")
    return [
        row(home, "w8a8", ort=read(home / "eval" / "w8a8-ort.json"), fp32=fp32),
        figures(name, "Ultralytics format=qnn", ort=theirs, fp32=reference, npu=on_npu, profile=latency),
        row(home, "fp16", ort=fp32, fp32=fp32),
    ]


def row(home: Path, plan: str, *, ort: Figures, fp32: Figures) -> Figures:
    """Return a row from what the run has found."""
    found = read(home / "profile-sized" / f"{plan}.json")
    emulated = read(home / "eval" / f"{plan}-emulator.json")
    return figures(home.name, f"ours {plan}", ort=ort, fp32=fp32, npu=emulated, profile=found)


def figures(
    name: str, recipe: str, *, ort: Figures, fp32: Figures, npu: Figures, profile: Figures
) -> Figures:
    """Return accuracy, loss and estimate of one recipe."""
    by_io = {io: entry["latency"] for io, entry in profile["by_io"].items()}
    best = by_io.get("quantized" if recipe.startswith("ours") else "float", by_io["float"])
    return {
        "model": name,
        "recipe": recipe,
        "map": ort["metrics"]["map"],
        "loss": fp32["metrics"]["map"] - ort["metrics"]["map"],
        "emulator_map": npu["metrics"]["map"],
        "emulator_images": npu["images"],
        "estimate_ms": best["value_ms"],
        "low_ms": best["low_ms"],
        "high_ms": best["high_ms"],
        "float_io_ms": by_io["float"]["value_ms"],
        "missing_ops": best.get("missing_ops", 0),
    }


# --- Ultralytics' recipe ----------------------------------------------------------------------------------


def recipe(home: Path, *, size: int, data: Path, out: Path) -> Path:
    """Have Ultralytics export a network for QNN; return its QDQ file with NCHW images and our metadata."""
    offline()
    from ultralytics.engine.exporter import Exporter

    out.mkdir(parents=True, exist_ok=True)
    model: Any
    model, card = load_checkpoint(home / "train" / "model.safetensors")
    model.task, model.pt_path = card.task, str(out / "model.pt")
    chosen = {"format": "qnn", "imgsz": size, "data": str(data), "batch": 1, "device": "cpu"}
    with kept(out / "theirs.onnx"):
        Exporter(overrides={**chosen, "verbose": False})(model=model)
    metadata = onnx_metadata(
        card, head=Head.PLAIN, branch=Branch.ONE_TO_MANY, size=(size, size), detect=model.model[-1]
    )
    proto = channels_first(onnx.load(out / "theirs.onnx"))
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, out / "model.onnx")
    return out / "model.onnx"


@contextmanager
def kept(target: Path) -> Iterator[None]:
    """Keep a copy of the QDQ file that Ultralytics deletes once it is compiled."""
    from onnxruntime import quantization

    original = quantization.quantize

    def quantize(source: str, out: str, settings: Any) -> None:
        original(source, out, settings)
        shutil.copyfile(out, target)

    quantization.quantize = quantize
    try:
        yield
    finally:
        quantization.quantize = original


def channels_first(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Put a Transpose before a graph that takes (1, H, W, 3), so that it takes (1, 3, H, W) as ours do."""
    (entry,) = proto.graph.input
    height, width = (dim.dim_value for dim in entry.type.tensor_type.shape.dim[1:3])
    for node in proto.graph.node:
        node.input[:] = [f"{INPUT}_nhwc" if name == entry.name else name for name in node.input]
    turn = onnx.helper.make_node("Transpose", [INPUT], [f"{INPUT}_nhwc"], name="to_nhwc", perm=[0, 2, 3, 1])
    proto.graph.node.insert(0, turn)
    entry.CopyFrom(onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [1, 3, height, width]))
    return proto


def calibration_set(run: Path, *, count: int, out: Path) -> Path:
    """Copy the training images that ours is calibrated on: Ultralytics leaves a cache beside the labels."""
    dataset = read_dataset(run / "dataset" / "data.yaml")
    source = open_split(
        dataset, split="train", image_size=(64, 64), settings=default_settings(), augment=False
    )
    shutil.rmtree(out, ignore_errors=True)
    for kind in ("images", "labels"):
        (out / kind).mkdir(parents=True)
    for index in spread(count, len(source)):
        for kind, file in (("images", source.im_files[index]), ("labels", source.label_files[index])):
            shutil.copyfile(file, out / kind / Path(file).name)
    content = {"path": str(out), "train": "images", "val": "images", "names": dataset.names}
    (out / "data.yaml").write_text(yaml.safe_dump(content))
    return out / "data.yaml"


# --- by our commands --------------------------------------------------------------------------------------


def export(home: Path, *, run: Path, out: Path) -> Path:
    """Write Ultralytics' float file: what its recipe starts from."""
    data = run / "dataset" / "data.yaml"
    weights = home / "train" / "model.safetensors"
    command("models", "export", weights, "--data", data, "--head", "plain", "--out", out)
    return out / "model.onnx"


def evaluate(model: Path, *, run: Path, out: Path) -> Figures:
    """Score a file in ONNX Runtime on the whole validation split."""
    command("deploy", "evaluate", model, "--coco", run / "dataset" / "coco" / "val.json", "--out", out)
    return read(out)


def emulate(model: Path, *, run: Path, config: Mapping[str, Any], out: Path) -> Figures:
    """Score what the compiler makes of a file on the emulator, on the sample that ours was scored on."""
    compiled, found = out / "qnn-compiled", out / "qnn-emulator.json"
    command("deploy", "compile", model, "--target", config["target"], "--out", compiled, "--io", "float")
    where = ("--coco", run / "dataset" / "coco" / "val.json", "--out", found, "--compiled", compiled)
    images = config["emulator"]["images"]
    command("deploy", "evaluate", model, "--backend", "emulator", "--images", images, *where)
    return read(found)


def profile(model: Path, *, target: str, out: Path) -> Figures:
    """Estimate a file with float tensors at its border, as Ultralytics compiles it."""
    command("deploy", "profile", model, "--target", target, "--out", out, "--io", "float")
    return read(out)


def command(package: str, *words: Any) -> None:
    """Run one of the house's commands."""
    program = Path(sys.executable).with_name(f"hexpath-{package}")
    subprocess.run([str(program), *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def read(path: Path) -> Figures:
    found: Figures = json.loads(path.read_text())
    return found


def table(rows: list[Figures]) -> str:
    """Return the table in Markdown; ratios are to ours at w8a8 of the same network."""
    lines = [
        "| network | recipe | mAP50-95 | loss | emulator | estimate, ms (low, high) | float I/O | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ours = {entry["model"]: entry["estimate_ms"] for entry in rows if entry["recipe"] == "ours w8a8"}
    for entry in rows:
        lines.append(
            f"| {entry['model']} | {entry['recipe']} | {100 * entry['map']:.1f} | {100 * entry['loss']:+.1f} "
            f"| {100 * entry['emulator_map']:.1f} ({entry['emulator_images']}) "
            f"| {entry['estimate_ms']:.2f} ({entry['low_ms']:.2f}, {entry['high_ms']:.2f}) "
            f"| {entry['float_io_ms']:.2f} | {entry['estimate_ms'] / ours[entry['model']]:.1f} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of exp_01_baselines")
    parser.add_argument("--out", type=Path, default=None, help="folder for the files (default: a temporary)")
    args = parser.parse_args()
    args.out = (args.out or Path(tempfile.mkdtemp(prefix="hexpath-qnn-"))).resolve()
    return args


if __name__ == "__main__":
    sys.exit(main())
