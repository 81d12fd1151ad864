"""A finished run with SYNTHETIC figures, shaped like the real ones. Test data only: nothing was measured."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

CLASSES = ["person", "vehicle", "motorcycle"]
OUTPUTS = ["boxes_8", "scores_8", "boxes_16", "scores_16", "boxes_32", "scores_32"]

# id, method, plan, head, ORT map, emulator map, ms, low, high, ddr in/fill/spill/out MB, ops, why
PLANS: list[tuple[Any, ...]] = [
    ("fp32", "fp32", "fp32", "raw", 0.645, None, None, None, None, None, 0, "the trained network"),
    (
        "fp16-raw",
        "none",
        "fp16",
        "raw",
        0.645,
        0.643,
        5.3,
        4.52,
        6.31,
        (5.6, 4.1, 4.0, 0.9),
        171,
        "the float NPU baseline",
    ),
    (
        "w8a16-decoded-minmax",
        "ptq:minmax",
        "w8a16",
        "decoded",
        0.643,
        0.641,
        4.73,
        4.2,
        5.4,
        (3.1, 2.2, 2.2, 0.6),
        223,
        "what yolo export format=qnn gives users today",
    ),
    (
        "w8a8-plain-minmax",
        "ptq:minmax",
        "w8a8",
        "plain",
        0.0021,
        0.002,
        2.03,
        1.8,
        2.3,
        (2.9, 0.8, 0.8, 0.3),
        231,
        "the pitfall: one scale for boxes and scores",
    ),
    (
        "w8a8-decoded-minmax",
        "ptq:minmax",
        "w8a8",
        "decoded",
        0.469,
        0.471,
        2.13,
        1.9,
        2.41,
        (2.9, 0.8, 0.8, 0.3),
        228,
        "boxes decoded in 8 bits",
    ),
    (
        "w8a8-raw-ptq",
        "ptq:minmax",
        "w8a8",
        "raw",
        0.6445,
        0.641,
        1.39,
        1.22,
        1.61,
        (2.8, 0.4, 0.4, 0.3),
        168,
        "the headline for speed",
    ),
    (
        "w8a8-raw-qat",
        "qat",
        "w8a8",
        "raw",
        0.641,
        0.64,
        1.39,
        1.22,
        1.61,
        (2.8, 0.4, 0.4, 0.3),
        168,
        "does training add anything here?",
    ),
    (
        "w4a8-raw-ptq",
        "ptq:minmax",
        "w4a8",
        "raw",
        0.600,
        0.602,
        1.31,
        1.15,
        1.52,
        (1.6, 0.4, 0.4, 0.3),
        168,
        "where PTQ fails",
    ),
    (
        "w4a8-raw-qat",
        "qat",
        "w4a8",
        "raw",
        0.6315,
        0.63,
        1.31,
        1.15,
        1.52,
        (1.6, 0.4, 0.4, 0.3),
        168,
        "where QAT must earn its keep",
    ),
]


def results() -> dict[str, Any]:
    """The record, with every optional field."""
    rows = [row for plan in PLANS for row in _rows(plan)]
    return {
        "schema": 1,
        "experiment": "exp_99_fixture",
        "name": "default",
        "question": "What does quantization-aware training win back on a detector? (fixture)",
        "answer": [
            "At w8a8 on raw heads PTQ alone stays within 0.1 points of FP32 and runs 3.4 times faster.",
            "QAT earns its keep at w4a8, where it wins back 3.2 of 4.5 lost points.",
            "The plain export collapses: one 8-bit scale for boxes and scores leaves every score at zero.",
        ],
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "created": "2026-11-21T09:30:00+00:00",
        "command": "nox -s exp_99_fixture -- --name default",
        "config": {
            "train": {"epochs": 20, "lr": 0.003},
            "qat": {"epochs": 5, "lr": 0.0002},
            "target": "qcs9075",
        },
        "dataset": {
            "name": "fixture",
            "fingerprint": "sha256:" + "ab" * 32,
            "images": {"train": 400, "val": 100},
            "card": "data/card.json",
            "names": CLASSES,
        },
        "tools": {"torch": "2.11.0", "aimet-torch": "2.42.0", "onnxruntime-qnn": "2.7.0", "qairt": "2.51.0"},
        "pins": {"docker/locks/all.txt": "sha256:" + "cd" * 32},
        "against": "w8a16-decoded-minmax",
        "results": rows,
        "curves": [
            {"name": "FP32", "path": "train/history.csv", "x": "epoch", "y": ["map50", "map", "train_loss"]},
            {"name": "QAT w8a8", "path": "quant/w8a8-raw-qat/history.csv", "x": "epoch", "y": ["map", "ema"]},
            {
                "name": "QAT w4a8",
                "path": "quant/w4a8-raw-qat/history.csv",
                "x": "epoch",
                "y": ["map", "loss"],
            },
        ],
        "samples": [_sample(number) for number in range(1, 7)],
        "notes": ["Every figure of this record is invented: it is a fixture of the tests."],
    }


def _metrics(value: float) -> dict[str, float]:
    return {"map50": round(min(value * 1.46, 0.97), 4), "map": value}


def _rows(plan: tuple[Any, ...]) -> list[dict[str, Any]]:
    name, method, width, head, ort, emulator, ms, low, high, ddr, ops, why = plan
    base = {"id": name, "model": "yolo11n", "method": method, "plan": width, "head": head, "why": why}
    files = {"artifact": f"quant/{name}/model.onnx", "sha256": "ef" * 32}
    row: dict[str, Any] = {**base, **files, "evaluated_on": "ort", "images": 100, "metrics": _metrics(ort)}
    spread = {"person": 0.9, "vehicle": 1.2, "motorcycle": 0.9 - (0.645 - ort) * 0.4}
    row["per_class"] = {key: _metrics(round(ort * factor, 4)) for key, factor in spread.items()}
    if ms is None:
        return [row]
    row["latency"] = {
        "value_ms": ms,
        "low_ms": low,
        "high_ms": high,
        "source": "estimate",
        "target": "qcs9075",
        "missing_ops": 0,
        "tools": {"onnxruntime-qnn": "2.7.0", "qairt": "2.51.0"},
    }
    row |= {"ddr": dict(zip(("input_mb", "fill_mb", "spill_mb", "output_mb"), ddr, strict=True))}
    row |= {"ddr_mb": round(sum(ddr), 3), "spill_mb": ddr[2], "size_mb": 5.8 if "fp16" in name else 3.1}
    row |= {"npu_ops": ops, "cpu_ops": 0, "ops": _census(ops, width=width), "agreement": _agreement(name)}
    sampled = {**base, **files, "evaluated_on": "emulator", "images": 32, "metrics": _metrics(emulator)}
    sampled["same_images"] = {"ort": _metrics(round(emulator + 0.002, 4)), "fp32": _metrics(0.646)}
    return [row, sampled]


def _census(ops: int, *, width: str) -> list[dict[str, Any]]:
    kind = {"fp16": "float16", "w8a16": "ufixed16"}.get(width, "ufixed8")
    counts = {
        "Conv2d": 88,
        "ElementWiseMultiply": 30,
        "Sigmoid": 20,
        "Concat": 12,
        "ElementWiseAdd": 10,
        "Resize": 2,
    }
    rest = ops - sum(counts.values())
    census = [{"type": key, "dtype": kind, "count": count, "on": "npu"} for key, count in counts.items()]
    return [
        *census,
        {"type": "StridedSlice", "dtype": kind, "count": 4},
        {"type": "Reshape", "dtype": "float32", "count": rest - 4},
    ]


def _agreement(name: str) -> dict[str, Any]:
    draw = random.Random(name)
    outputs = [
        {
            "name": output,
            "sqnr_db": round(draw.uniform(26, 41), 2),
            "cosine": 0.9996,
            "max_steps": float(draw.randint(1, 5)),
        }
        for output in OUTPUTS
    ]
    return {"verdict": "pass", "min_sqnr_db": 20.0, "outputs": outputs}


def _sample(number: int) -> dict[str, Any]:
    boxes = [
        {"id": "fp32", "evaluated_on": "ort", "path": "eval/fp32-ort.json"},
        {"id": "w8a8-raw-ptq", "evaluated_on": "emulator", "path": "eval/w8a8-raw-ptq-emulator.json"},
    ]
    return {"image": f"data/{number}.png", "image_id": number, "truth": "data/val.json", "boxes": boxes}


def write_run(root: Path, *, record: dict[str, Any] | None = None) -> Path:
    """Write the run's folder, with images, boxes, curves and card; return the path of its results.json."""
    for folder in ("data", "train", "eval", "quant/w8a8-raw-qat", "quant/w4a8-raw-qat"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _write_curves(root)
    _write_images(root)
    card = {
        "fingerprint": "sha256:ab",
        "splits": {"train": {"images": 400, "boxes": 3211}, "val": {"images": 100}},
        "duplicates": [],
        "classes": {"person": 1530, "vehicle": 1411, "motorcycle": 270},
    }
    (root / "data/card.json").write_text(json.dumps(card))
    path = root / "results.json"
    path.write_text(json.dumps(record or results(), indent=1))
    return path


def _write_curves(root: Path) -> None:
    lines = ["epoch,train_loss,map50,map,lr,seconds"]
    for epoch in range(1, 21):
        reached = 0.645 * (1 - 0.82**epoch)
        lines.append(
            f"{epoch},{6.2 * 0.9**epoch + 1.4:.4f},{min(0.95, reached * 1.5):.4f},{reached:.4f},0.003,8.0"
        )
    (root / "train/history.csv").write_text("\n".join(lines) + "\n")
    for name, first, last in (("w8a8-raw-qat", 0.632, 0.641), ("w4a8-raw-qat", 0.600, 0.6315)):
        rows = ["epoch,loss,map50,map,lr,ema,seconds"]
        for epoch in range(6):
            value = last - (last - first) * 0.45**epoch
            loss = "" if epoch == 0 else f"{2.2 + 0.5 * 0.6**epoch:.4f}"
            rows.append(f"{epoch},{loss},{value * 1.46:.4f},{value:.4f},0.0002,{value - 0.002:.4f},20")
        (root / f"quant/{name}/history.csv").write_text("\n".join(rows) + "\n")


def _write_images(root: Path) -> None:
    draw_from = random.Random(7)
    annotations, sets = [], {"fp32-ort": [], "w8a8-raw-ptq-emulator": []}  # type: ignore[var-annotated]
    for number in range(1, 7):
        image = Image.new("RGB", (320, 320), (96 + 8 * number, 118, 84))
        canvas = ImageDraw.Draw(image)
        canvas.rectangle((0, 120 + 12 * number, 320, 170 + 12 * number), fill=(120, 118, 112))
        for _ in range(7):
            x, y, category = draw_from.randint(5, 270), draw_from.randint(5, 280), draw_from.randint(0, 2)
            across, down = ((10, 18), (40, 24), (20, 16))[category]
            canvas.rectangle(
                (x, y, x + across, y + down), fill=((200, 60, 60), (60, 70, 160), (40, 40, 40))[category]
            )
            common = {"image_id": number, "category_id": category}
            annotations.append({"id": len(annotations) + 1, **common, "bbox": [x, y, across, down]})
            for name, found in sets.items():
                if name == "fp32-ort" or draw_from.random() > 0.12:
                    box = [
                        x + draw_from.uniform(-2, 2),
                        y + draw_from.uniform(-2, 2),
                        across + 1.5,
                        down - 1.0,
                    ]
                    found.append({**common, "bbox": box, "score": draw_from.uniform(0.3, 0.95)})
        image.save(root / f"data/{number}.png")
    (root / "data/val.json").write_text(json.dumps({"images": [], "annotations": annotations}))
    for name, found in sets.items():
        (root / f"eval/{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    import sys

    print(write_run(Path(sys.argv[1])))
