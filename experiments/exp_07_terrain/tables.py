"""Write results.json of a run of exp_07_terrain, with its answer in sentences.

python experiments/exp_07_terrain/tables.py --out results.json      in a run folder
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import record

SHOWN = 4  # images with their masks
MASKS = (  # of these plans, as far as they ran
    *(("ddrnet-w8a8", "emulator"), ("efficientvit-fp32", "ort"), ("efficientvit-w8a8", "emulator")),
    *(("efficientvit-w8a8-split", "emulator"), ("efficientvit-products16", "emulator")),
)
COSTS = Path(__file__).resolve().parent / "costs.yaml"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
COLLAPSED = 0.05  # a class below this IoU that FP32 knew (above twice as much) is gone
KEPT = 0.01  # what a repaired plan may lose of FP32's mIoU
BOARD_MS, BOARD = 20.1, "a board owner's measurement of DDRNet23-Slim at 544x640 on an IQ-9075 EVK, float I/O"

Row = Mapping[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    facts = spec(json.loads(Path("config.json").read_text()))
    figures = Path("work/figures.json")
    code = record.record(facts, out=figures)
    if code == 0:
        told = {"answer": answer(json.loads(figures.read_text())["results"], verdicts())}
        code = record.record(facts | told, out=args.out)
    return code


def spec(config: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a run, by the layout of the Snakefile."""
    data = yaml.safe_load(Path(config["dataset"] or "terrain/data.yaml").read_text())
    ignored = data.get("ignore")
    names = [name for key, name in data["names"].items() if int(key) != ignored]
    return {
        "experiment": config["experiment"],
        "name": config["name"],
        "question": config["question"],
        "commit": record.commit(),
        "command": config["command"],
        "config": {key: value for key, value in config.items() if key not in ("question", "command")},
        "pins": record.pins(),
        "tools": record.tools(),
        "dataset": {
            "fingerprint": data.get("fingerprint", "unknown"),
            "images": images(config),
            "names": names,
        },
        "rows": [
            record.row(name, plan, prefix="", model=plan["model"]) for name, plan in config["plans"].items()
        ],
        "curves": [
            {"name": f"{model} in FP32", "path": f"train/{model}/history.csv", "x": "epoch", "y": ["miou"]}
            for model in sorted({plan["model"] for plan in config["plans"].values()})
        ],
        "audits": sorted(map(str, Path("audit").glob("*.json"))),
        **record.present("sensitivity", sorted(map(str, Path("sensitivity").glob("*.json")))),
        **masks(config, data=data, names=names),
    }


def masks(config: Mapping[str, Any], *, data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The masks of some images of the emulator's sample, and the costs of their classes."""
    shown = [(plan, backend) for plan, backend in MASKS if Path(f"masks/{plan}-{backend}").is_dir()]
    emulated = [f"eval/{plan}-emulator.json" for plan, backend in shown if backend == "emulator"]
    if not emulated:
        return {}
    root = Path(config["dataset"] or "terrain/data.yaml").parent / str(data.get("path") or ".")
    folder, truth = root / data["val"], root / data["masks"]["val"]
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    ids = json.loads(Path(emulated[0]).read_text())["image_ids"]
    chosen = [ids[round(k * (len(ids) - 1) / max(1, SHOWN - 1))] for k in range(min(SHOWN, len(ids)))]
    costs = {**yaml.safe_load(COSTS.read_text()), **data.get("costs", {})}
    images = [
        {
            "image": str(files[i - 1]),
            "truth": str(truth / files[i - 1].relative_to(folder).with_suffix(".png")),
            "found": [
                {"id": plan, "evaluated_on": backend, "path": f"masks/{plan}-{backend}/{i}.png"}
                for plan, backend in shown
            ],
        }
        for i in chosen
    ]
    return {"masks": {"costs": {name: costs[name] for name in names if name in costs}, "images": images}}


def images(config: Mapping[str, Any]) -> dict[str, int]:
    """How many images each split has, from the evaluations and the training's metrics."""
    first = next(iter(config["plans"]))
    count = json.loads(Path(f"eval/{first}-ort.json").read_text())["images"]
    return {"val": int(count)}


def verdicts() -> dict[str, str]:
    """The audit's verdict on each network."""
    return {path.stem: str(json.loads(path.read_text())["verdict"]) for path in Path("audit").glob("*.json")}


def answer(results: Sequence[Row], audits: Mapping[str, str]) -> list[str]:
    """The sentences, most important first; a plan that was not run is not spoken of."""
    by_id = {row["id"]: row for row in results if row["evaluated_on"] == "ort"}
    told = [
        sentence(by_id, "ddrnet", "DDRNet23-Slim"),
        sentence(by_id, "efficientvit", "EfficientViT-B1"),
        *(alarm(by_id, plan) for plan in by_id if plan.startswith("efficientvit-") and "fp32" not in plan),
        repair(by_id),
        latency(by_id),
        "; ".join(f"the audit calls {model} {verdict}" for model, verdict in sorted(audits.items())),
    ]
    return [text for text in told if text]


def sentence(rows: Mapping[str, Row], prefix: str, name: str) -> str:
    """What INT8 leaves of a network's mIoU."""
    wanted = {f"{prefix}-fp32", f"{prefix}-w8a8"}
    if not wanted <= rows.keys():
        return ""
    before, after = (rows[f"{prefix}-{plan}"]["metrics"]["miou"] for plan in ("fp32", "w8a8"))
    return f"{name} keeps {100 * after:.1f} of its {100 * before:.1f} mIoU in INT8."


def collapsed(row: Row, reference: Row) -> list[str]:
    """Classes that the reference knows and the row has lost."""
    return [
        name
        for name, entry in reference["per_class"].items()
        if entry["iou"] > 2 * COLLAPSED and row["per_class"].get(name, {"iou": 0.0})["iou"] < COLLAPSED
    ]


def alarm(rows: Mapping[str, Row], plan: str) -> str:
    """Which classes a plan of EfficientViT has lost."""
    if "efficientvit-fp32" not in rows:
        return ""
    gone = collapsed(rows[plan], rows["efficientvit-fp32"])
    text = f"lost: {', '.join(gone)}" if gone else "no class collapsed"
    return f"{plan}: mIoU {100 * rows[plan]['metrics']['miou']:.1f}, {text}."


def repair(rows: Mapping[str, Row]) -> str:
    """The fastest plan of EfficientViT that keeps what FP32 has, to a point and without a lost class."""
    reference = rows.get("efficientvit-fp32")
    plans = [row for name, row in rows.items() if name.startswith("efficientvit-") and "latency" in row]
    if reference is None or not plans:
        return ""
    wanted = reference["metrics"]["miou"] - KEPT
    kept = [row for row in plans if row["metrics"]["miou"] >= wanted and not collapsed(row, reference)]
    if not kept:
        return f"No plan of EfficientViT stays within {100 * KEPT:.0f} point of FP32."
    best = min(kept, key=lambda row: row["latency"]["value_ms"])
    return (
        f"The fastest plan of EfficientViT within {100 * KEPT:.0f} point of FP32 is {best['id']}, "
        f"estimated at {best['latency']['value_ms']:.2f} ms."
    )


def latency(rows: Mapping[str, Row]) -> str:
    """DDRNet's estimates against each other and against the board."""
    if not {"ddrnet-w8a8", "ddrnet-fp16"} <= rows.keys():
        return ""
    eight, half = (rows[f"ddrnet-{plan}"]["latency"]["value_ms"] for plan in ("w8a8", "fp16"))
    return (
        f"DDRNet in INT8 is estimated at {eight:.2f} ms, {eight / half:.2f} of FP16's {half:.2f} ms; "
        f"{BOARD} is {BOARD_MS} ms."
    )


if __name__ == "__main__":
    sys.exit(main())
