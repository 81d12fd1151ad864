"""Float and INT8 file side by side in ONNX Runtime: bytes, milliseconds, equal pixels."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

RUNS, WARM_UP = 10, 2


def compare(files: Mapping[str, Path], *, images: Any, input_name: str) -> dict[str, Any]:
    """Return sizes and median latencies of the files, and the share of pixels on which their classes agree.

    files: the first is the reference. images: uint8 (N, 3, H, W) RGB. Latency is that of one image with all
    of ONNX Runtime's optimizations, on the cores that this process may use.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told: dict[str, Any] = {"images": len(images), "threads": threads, "files": {}}
    maps = {}
    for name, file in files.items():
        session = _session(file, threads=threads)
        maps[name] = np.stack([class_map(session, image, input_name=input_name) for image in images])
        milliseconds = _latency(session, images[0], input_name=input_name)
        told["files"][name] = {"bytes": file.stat().st_size, "cpu_ms": round(milliseconds, 2)}
    reference, other = maps.values()
    told["equal_pixels"] = round(float((reference == other).mean()), 5)
    return told


def class_map(session: Any, image: Any, *, input_name: str) -> Any:
    """Return uint8 (H, W): the class of each pixel of uint8 (3, H, W) RGB, logits enlarged bilinearly."""
    import torch
    import torch.nn.functional as F

    feed = {input_name: image[None].astype(np.float32) / np.float32(255)}
    logits = torch.from_numpy(session.run(None, feed)[0])
    full = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return full.argmax(1)[0].numpy().astype(np.uint8)


def _session(file: Path, *, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _latency(session: Any, image: Any, *, input_name: str) -> float:
    """Return the median milliseconds of a run."""
    feed = {input_name: image[None].astype(np.float32) / np.float32(255)}
    taken = []
    for _ in range(WARM_UP + RUNS):
        started = time.perf_counter()
        session.run(None, feed)
        taken.append(1000 * (time.perf_counter() - started))
    return float(np.median(taken[WARM_UP:]))
