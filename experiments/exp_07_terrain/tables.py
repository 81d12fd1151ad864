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

COLLAPSED = 0.05  # a class below this IoU that FP32 knew (above twice as much) is gone
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
    }


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
        *(alarm(by_id, plan) for plan in by_id if plan.startswith("efficientvit-w8")),
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
