"""Running a compiled model on Qualcomm's bit-accurate emulator, in parallel processes,
and going on after a kill.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from hexpath_deploy.errors import StaleArtifactError
from hexpath_deploy.files import write_atomic
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.hexagon.job import Job, run_jobs
from hexpath_deploy.io import Boundary
from hexpath_deploy.reference.hexpath_reference import Array, Floats

LIMIT_S = 600.0
Progress = Callable[[int, int], None]
# By a key, usable as a file name: a function that makes the arrays of every input, by name, as the model
# takes them.
Feeds: TypeAlias = Mapping[str, Callable[[], Mapping[str, Array]]]


def emulate(
    artifact: Artifact,
    *,
    feeds: Feeds,
    work: Path,
    workers: int = 2,
    limit_s: float = LIMIT_S,
    progress: Progress | None = None,
) -> None:
    """Run the compiled model on each feed and leave the outputs in `work`, for `load_outputs`.

    What is there for the same artifact is not run again. `limit_s` is how long one feed may take.

    Raises:
        ToolchainMissingError, ToolchainCrashError, ToolchainTimeoutError.
    """
    toolchain.require()
    claim(work, key=artifact.key)
    missing = [key for key in feeds if not outputs_path(work, key).exists()]
    for key in missing:
        save_inputs(work / "in" / f"{key}.npz", feeds[key](), boundary=artifact.boundary)
    jobs = split(artifact, missing, work=work, workers=workers)
    if jobs:
        run_jobs(jobs, limit_s=limit_s, pulse=counter(work, total=len(feeds), progress=progress))


def claim(work: Path, *, key: str) -> None:
    """Make the work folder this artifact's own; outputs of another one are thrown away."""
    mark = work / "artifact.json"
    if not mark.exists() or mark.read_text(encoding="utf-8") != key:
        shutil.rmtree(work, ignore_errors=True)
        write_atomic(mark, key)
    for name in ("in", "out"):
        (work / name).mkdir(exist_ok=True)


def save_inputs(path: Path, feed: Mapping[str, Array], *, boundary: Boundary) -> None:
    """Write one feed as the compiled graph takes it."""
    stored = {
        name: boundary.inputs[name].quantize(array.astype(np.float32)) if name in boundary.inputs else array
        for name, array in feed.items()
    }
    np.savez(path, **stored)  # type: ignore[arg-type]


def split(artifact: Artifact, keys: Sequence[str], *, work: Path, workers: int) -> list[Job]:
    """Deal the feeds out to the workers."""
    request = {
        "job": "emulate",
        "session": str(artifact.context.resolve()),
        "folder": str(work.resolve()),
        "options": {"soc_model": str(artifact.soc_model)},
    }
    shares = [share for i in range(workers) if (share := list(keys[i::workers]))]
    return [
        Job(request={**request, "keys": share}, scratch=work / f"worker{i}", subject=artifact.folder)
        for i, share in enumerate(shares)
    ]


def counter(work: Path, *, total: int, progress: Progress | None) -> Callable[[], int]:
    """Return a function that counts finished feeds and reports the count."""

    def count() -> int:
        done = sum(1 for _ in (work / "out").glob("[!.]*.npz"))
        if progress is not None:
            progress(done, total)
        return done

    return count


def outputs_path(work: Path, key: str) -> Path:
    """Return where the outputs of a feed lie."""
    return work / "out" / f"{key}.npz"


def load_outputs(work: Path, key: str, *, boundary: Boundary) -> dict[str, Floats]:
    """Return the outputs of one feed as float32, by name.

    Raises:
        StaleArtifactError: there are none.
    """
    path = outputs_path(work, key)
    if not path.exists():
        raise StaleArtifactError(f"{path} is missing: the emulator did not run this input; run again")
    with np.load(path) as stored:
        return {name: as_float(stored[name], name=name, boundary=boundary) for name in stored.files}


def as_float(stored: Array, *, name: str, boundary: Boundary) -> Floats:
    """Return one output as float32."""
    encoding = boundary.outputs.get(name)
    return stored.astype(np.float32) if encoding is None else encoding.dequantize(stored)
