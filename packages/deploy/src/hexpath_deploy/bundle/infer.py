#!/usr/bin/env python3
"""Run this bundle's model on an image and print what it finds as JSON.

    python infer.py image.jpg [--draw out.png]

Needs numpy, pillow and onnxruntime, and for the NPU or its emulator onnxruntime-qnn; nothing of hexpath. On a
board the compiled model runs on its Hexagon NPU, on an x86-64 Linux machine on Qualcomm's bit-accurate
emulator (a
second or so an image), and with `--backend cpu` the QDQ model on ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageDraw, ImageOps

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True  # a bundle stays as its SHA256SUMS say

from hexpath_reference import dequantize, postprocess, preprocess, read_spec  # noqa: E402

PROVIDER = "QNNExecutionProvider"
COLOURS = ((230, 60, 60), (60, 160, 230), (240, 180, 40), (90, 200, 90), (190, 90, 220), (250, 130, 60))


def main() -> int:
    args = parse()
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Qualcomm's libraries print to stdout, which is for our JSON
    backend = choose(args.backend)
    pre, post = read_spec(HERE / "preprocess.json"), read_spec(HERE / "postprocess.json")
    if backend == "cpu":  # the QDQ model takes and returns floats
        pre, post = pre | {"input": floating(pre["input"])}, post | {"outputs": all_floating(post["outputs"])}
    if args.confidence is not None:
        post["confidence"] = args.confidence
    pixels = read_image(args.image)
    began = time.perf_counter()
    tensor, placed = preprocess(pixels, spec=pre)
    ready = time.perf_counter()
    session = open_session(backend, target=args.target)
    opened = time.perf_counter()
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: tensor}), strict=True))
    ran = time.perf_counter()
    found = postprocess(dequantize(outputs, spec=post), spec=post, placed=placed)
    done = time.perf_counter()
    ms = {"preprocess": ready - began, "network": ran - opened, "postprocess": done - ran}
    told = {"image": str(args.image), "height": pixels.shape[0], "width": pixels.shape[1], "backend": backend}
    told |= {"ms": {name: round(1000 * seconds, 3) for name, seconds in ms.items()}}
    if args.draw is not None:
        draw(pixels, found, post=post).save(args.draw)
    print(json.dumps(told | describe(found, post=post), indent=1), file=answer, flush=True)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--backend", choices=("auto", "htp", "emulator", "cpu"), default="auto", help="default: by machine"
    )
    parser.add_argument("--target", help="folder below targets/ (default: the only one, or the first)")
    parser.add_argument("--confidence", type=float, help="lowest score (default: that of postprocess.json)")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="write the image with what was found in it")
    args = parser.parse_args()
    args.draw = args.draw and args.draw.resolve()
    return args


def choose(wanted: str) -> str:
    """Return where to run: the NPU on Arm, its emulator on x86-64 Linux, the CPU where there is neither."""
    if wanted != "auto":
        return wanted
    if not has_qnn():
        print("infer.py: onnxruntime-qnn is not installed: running the QDQ model on the CPU", file=sys.stderr)
        return "cpu"
    return "emulator" if platform.machine() in ("x86_64", "AMD64") else "htp"


def has_qnn() -> bool:
    try:
        import onnxruntime_qnn  # noqa: F401
    except ImportError:
        return PROVIDER in ort.get_available_providers()
    return True


def open_session(backend: str, *, target: str | None) -> Any:
    """Open the compiled model on the NPU or its emulator, or the QDQ model on the CPU."""
    settings: Any = ort.SessionOptions()
    settings.log_severity_level = 3
    if backend == "cpu":
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(str(HERE / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    folder = target_folder(target)
    os.chdir(folder)  # Qualcomm's libraries get relative paths: odd characters in ours cannot hurt
    card = json.loads(Path("compile.json").read_text(encoding="utf-8"))
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options = {"soc_model": str(card["soc_model"])}
    if backend == "htp":
        options = {"htp_performance_mode": "burst"}
    try:
        import onnxruntime_qnn as qnn
    except ImportError:  # builds of onnxruntime that have the provider inside
        library = "QnnHtp.dll" if sys.platform == "win32" else "libQnnHtp.so"
        providers = [(PROVIDER, {"backend_path": library, **options})]
        return ort.InferenceSession(card["context"], settings, providers=providers)
    ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER][:1]
    settings.add_provider_for_devices(devices, {"backend_path": qnn.get_qnn_htp_path(), **options})
    return ort.InferenceSession(card["context"], settings)


def target_folder(target: str | None) -> Path:
    folders = sorted(path for path in (HERE / "targets").iterdir() if path.is_dir())
    chosen = [path for path in folders if target in (None, path.name)]
    if not chosen:
        sys.exit(
            f"infer.py: no target '{target}' in this bundle; it has {', '.join(p.name for p in folders)}"
        )
    return chosen[0]


def floating(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input's or output's entry as of float32."""
    return {k: v for k, v in entry.items() if k not in ("scale", "zero_point")} | {"dtype": "float32"}


def all_floating(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: floating(entry) for name, entry in entries.items()}


def read_image(path: Path) -> Any:
    """Return an image upright (EXIF orientation applied), uint8 RGB (height, width, 3)."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            high = (np.asarray(upright) >> 8).astype(np.uint8)
            return np.repeat(high[..., None], 3, axis=2)
        return np.asarray(upright.convert("RGB"))


def describe(found: Any, *, post: Mapping[str, Any]) -> dict[str, Any]:
    """Return detections, boxes x0, y0, x1, y1 in pixels of the image; or the share of each class's pixels."""
    names = post["classes"]
    if post["task"] == "semantic":
        counts = np.bincount(found.ravel(), minlength=len(names))
        shares = {name: round(int(count) / found.size, 6) for name, count in zip(names, counts, strict=False)}
        return {"task": "semantic", "shares": shares}
    rows = [
        {"class": names[kind], "score": round(float(score), 6), "box": [round(float(v), 3) for v in box]}
        for box, score, kind in zip(found.boxes, found.scores, found.classes, strict=True)
    ]
    for row, mask in zip(rows, found.masks, strict=False):
        row["mask_pixels"] = int(mask.inside.sum())
    return {"task": post["task"], "detections": rows}


def draw(pixels: Any, found: Any, *, post: Mapping[str, Any]) -> Image.Image:
    """Return the image with boxes, masks or class colours on it."""
    canvas = pixels.astype(np.float32)
    if post["task"] == "semantic":
        canvas = canvas / 2 + np.array(COLOURS, np.float32)[found % len(COLOURS)] / 2
        return Image.fromarray(canvas.astype(np.uint8))
    for kind, mask in zip(found.classes, found.masks, strict=False):
        inside = mask.full(pixels.shape[:2])
        canvas[inside] = canvas[inside] / 2 + np.array(COLOURS[kind % len(COLOURS)], np.float32) / 2
    image = Image.fromarray(canvas.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for box, score, kind in zip(found.boxes, found.scores, found.classes, strict=True):
        x0, y0, x1, y1 = (float(side) for side in box)
        colour = COLOURS[kind % len(COLOURS)]
        pen.rectangle((x0, y0, x1, y1), outline=colour, width=2)
        pen.text((x0 + 2, max(0.0, y0 - 11)), f"{post['classes'][kind]} {score:.2f}", fill=colour)
    return image


if __name__ == "__main__":
    sys.exit(main())
