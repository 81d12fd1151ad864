"""What pre- and postprocessing cost on this machine's CPU: beside the NPU's time part of the whole budget.

It times the reference file as an application would run it: at the threshold of a product, on the quantized
tensors of the artifact. It is numpy on this CPU, neither the board's CPU nor optimized code.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hexpath_deploy.errors import OptionError
from hexpath_deploy.reference import hexpath_reference as reference
from hexpath_deploy.reference.hexpath_reference import Array, Floats, Pixels, Placed

CPUINFO = Path("/proc/cpuinfo")
WARM_UP, ROUNDS, LIMIT_S = 3, 5, 3.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image, uint8 RGB (height, width, 3), and what the network returned for it, float32 by name."""

    pixels: Pixels
    values: Mapping[str, Floats]


def host_cost(
    cases: Sequence[Case], *, pre: Mapping[str, Any], post: Mapping[str, Any], limit_s: float = LIMIT_S
) -> dict[str, Any]:
    """Return median and 99th percentile of one image's pre- and postprocessing in ms, and the CPU time of it.

    `preprocess` and `postprocess` are the median of all runs; `_quiet` is the median over the images of each
    one's fastest run, which other load on the machine raises least.

    The cases are timed in turns until each was timed `ROUNDS` times or `limit_s` is over (at least one turn),
    after a warm-up. Reading and decoding the image file is not part of it.

    Args:
        cases: images with the network's outputs.
        pre: preprocess.json.
        post: postprocess.json; outputs that it calls quantized are handed over as stored.

    Raises:
        OptionError: there are no cases.
    """
    if not cases:
        raise OptionError("no images to time pre- and postprocessing on")
    placed = [reference.preprocess(case.pixels, spec=pre)[1] for case in cases]
    stored = [store(case.values, post=post) for case in cases]
    jobs: dict[str, list[Callable[[], object]]] = {
        "preprocess": [partial(reference.preprocess, case.pixels, spec=pre) for case in cases],
        "postprocess": [
            partial(after, one, post=post, placed=at) for one, at in zip(stored, placed, strict=True)
        ],
    }
    found: dict[str, Any] = {}
    for stage, some in jobs.items():
        wall = clock(some, limit_s=limit_s / len(jobs))
        quiet = np.median(wall.min(axis=0))
        found |= {stage: round(float(np.median(wall)), 3), f"{stage}_quiet": round(float(quiet), 3)}
        found |= {f"{stage}_p99": round(float(np.percentile(wall, 99)), 3), f"{stage}_runs": wall.size}
    told = {key: post[key] for key in ("confidence", "detections") if key in post}
    return found | {"images": len(cases), **told, "cpu": cpu()}


def after(stored: Mapping[str, Array], *, post: Mapping[str, Any], placed: Placed) -> object:
    """Do what comes after the network."""
    return reference.postprocess(reference.dequantize(stored, spec=post), spec=post, placed=placed)


def store(values: Mapping[str, Floats], *, post: Mapping[str, Any]) -> dict[str, Array]:
    """Return the outputs as the artifact gives them."""
    return {
        name: reference.quantize(
            values[name], scale=entry["scale"], zero_point=entry["zero_point"], dtype=entry["dtype"]
        )
        if "scale" in entry
        else values[name]
        for name, entry in post["outputs"].items()
    }


def clock(jobs: Sequence[Callable[[], object]], *, limit_s: float) -> NDArray[np.float64]:
    """Return wall-clock time in ms, (turns, jobs), of all jobs in turns, after a warm-up."""
    for place in range(WARM_UP):
        jobs[place % len(jobs)]()
    turns: list[list[float]] = []
    began = time.perf_counter()
    while not turns or (len(turns) < ROUNDS and time.perf_counter() - began <= limit_s):
        turns.append([])
        for job in jobs:
            since = time.perf_counter()
            job()
            turns[-1].append(1000 * (time.perf_counter() - since))
    return np.array(turns)


def cpu() -> str:
    """Return this machine's CPU by name, as far as the system tells."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
