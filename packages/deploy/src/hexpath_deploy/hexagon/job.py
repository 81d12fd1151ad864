"""Starting the worker, waiting for it, and saying in one line what went wrong in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hexpath_deploy
from hexpath_deploy.errors import (
    CompileError,
    DeployError,
    DiskFullError,
    ToolchainCrashError,
    ToolchainTimeoutError,
    UnreadableModelError,
    UnsupportedOperatorError,
)
from hexpath_deploy.hexagon.refusals import explain, read_refusals

LOGGED = re.compile(r"\[E:onnxruntime:[^\]]*\] (.*?)(?:\x1b\[m)?$", re.MULTILINE)
NOISE = ("power config", "fallback to CPU EP has been explicitly disabled", "GetCapability() for")
ADVICE = "try --optimization 2 or 1, or --io float"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job for a worker: what it is told, where it works, and what it works on (for messages)."""

    request: Mapping[str, Any]
    scratch: Path
    subject: Path


def run_job(job: Job, *, limit_s: float) -> None:
    """Run one job to its end.

    Raises:
        ToolchainTimeoutError, ToolchainCrashError, UnsupportedOperatorError, CompileError: see `check`.
    """
    run_jobs([job], limit_s=limit_s, pulse=lambda: 0)


def run_jobs(jobs: Sequence[Job], *, limit_s: float, pulse: Callable[[], int]) -> None:
    """Run jobs side by side until all have ended.

    `pulse` returns a number that grows with the work done; `limit_s` is how long it may stand still.
    """
    running = [start(job) for job in jobs]
    try:
        wait(jobs, running, limit_s=limit_s, pulse=pulse)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
    for job, process in zip(jobs, running, strict=True):
        check(job, process.returncode)


def wait(
    jobs: Sequence[Job],
    running: Sequence[subprocess.Popen[bytes]],
    *,
    limit_s: float,
    pulse: Callable[[], int],
) -> None:
    """Wait for all, and stop early at the first that fails or when nothing moves for `limit_s`."""
    done, since = pulse(), time.monotonic()
    while any(process.poll() is None for process in running):
        if any(process.returncode not in (None, 0) for process in running):
            return
        time.sleep(0.02)
        now = pulse()
        if now != done:
            done, since = now, time.monotonic()
        if time.monotonic() - since > limit_s:
            raise ToolchainTimeoutError(
                f"Qualcomm's {stage(jobs[0])} of {jobs[0].subject} showed no progress for {limit_s:.0f} "
                "s and was "
                "stopped: raise --time-limit, or try a smaller model"
            )
    pulse()


def start(job: Job) -> subprocess.Popen[bytes]:
    """Start a worker in the job's scratch folder; its output goes to worker.log there."""
    job.scratch.mkdir(parents=True, exist_ok=True)
    (job.scratch / "request.json").write_text(json.dumps(job.request), encoding="utf-8")
    source = str(Path(hexpath_deploy.__file__).parents[1])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-m", "hexpath_deploy.hexagon.worker"]
    with (job.scratch / "worker.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=job.scratch, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path}
        )


def stage(job: Job) -> str:
    """Return the tool that a job uses, for messages."""
    return "emulator" if job.request["job"] == "emulate" else "compiler"


def check(job: Job, code: int) -> None:
    """Raise what the worker's end means; return when it ended well."""
    log = (job.scratch / "worker.log").read_text(encoding="utf-8", errors="replace")
    result = job.scratch / "result.json"
    if code < 0:
        raise ToolchainCrashError(
            f"Qualcomm's {stage(job)} crashed ({signal.Signals(-code).name}) on {job.subject} with "
            f"{describe(job.request)}: {ADVICE}"
        )
    if code or not result.exists():
        raise ToolchainCrashError(
            f"the worker for {job.subject} ended with code {code}: {log.strip()[-300:]}"
        )
    error = json.loads(result.read_text(encoding="utf-8")).get("error")
    if error is not None:
        raise translate(error, log=log, job=job)


def describe(request: Mapping[str, Any]) -> str:
    """Return the options of a request in the words of the command line."""
    options = request["options"]
    words = {
        "soc_model": "soc_model",
        "htp_graph_finalization_optimization_mode": "--optimization",
        "enable_htp_fp16_precision": "fp16",
    }
    return ", ".join(f"{words[key]} {value}" for key, value in options.items() if key in words)


def translate(error: str, *, log: str, job: Job) -> DeployError:
    """Return the error of this package that a worker's exception stands for."""
    refused = read_refusals(log)
    if refused:
        return UnsupportedOperatorError(
            f"{job.subject}: the NPU cannot run {explain(refused)}: replace them, quantize their inputs and "
            "outputs, or cut the graph before them and compute the rest outside"
        )
    if "Unsupported model IR version" in error or "Unsupported model opset" in error:
        return UnreadableModelError(
            f"{job.subject}: {error.split('Unsupported ', 1)[-1]}: export an older IR version"
        )
    if "No space left" in error or "No space left" in log:
        return DiskFullError(
            f"no space left while Qualcomm's {stage(job)} worked on {job.subject}: free some"
        )
    said = [line for line in LOGGED.findall(log) if not any(noise in line for noise in NOISE)]
    return CompileError(
        f"Qualcomm's {stage(job)} refused {job.subject} with {describe(job.request)}: "
        f"{' | '.join(dict.fromkeys(said[:4])) or error}; {ADVICE}"[:1200]
    )
