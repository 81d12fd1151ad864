"""Runner `onnxruntime-qnn` on the board: Python there runs our script on the compiled model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hexpath_deploy.board import viewer
from hexpath_deploy.board.address import remote_line
from hexpath_deploy.board.measurement import Measurement
from hexpath_deploy.board.netrun import key_of
from hexpath_deploy.board.place import Place
from hexpath_deploy.board.probe import Facts, need_tool
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.errors import BoardRunError, BoardToolMissingError
from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.reference.hexpath_reference import Array

SCRIPT, REQUEST, RESULT, CSV = "on_board.py", "request.json", "result.json", "profile.csv"
ADVICE = (
    "install python3 with numpy and onnxruntime-qnn on it, name it with --board-python, or use qnn-net-run"
)
TIMED = (
    "session.run of onnxruntime-qnn in Python: with the call to the NPU and the copies of input and output"
)
ABSENT = "ModuleNotFoundError: No module named"


def available(facts: Facts) -> bool:
    """Whether the board has Python; whether that has the modules shows when it runs."""
    return facts.tool("python") is not None


def provider_options(*, settings: BoardSettings, soc_model: int | None) -> dict[str, str]:
    """Return the provider's options; `soc_model` is for an emulated board: a real one knows itself."""
    options = {"htp_performance_mode": settings.performance}
    if settings.profiling == "detailed":
        options |= {"profiling_level": "detailed", "profiling_file_path": f"out/{CSV}"}
    return options if soc_model is None else options | {"soc_model": str(soc_model)}


def request_of(artifact: Artifact, *, settings: BoardSettings, emulated: bool) -> dict[str, Any]:
    """Return what our script reads."""
    soc_model = artifact.soc_model if emulated else None
    return {
        "model": artifact.card["context"],
        "options": provider_options(settings=settings, soc_model=soc_model),
        "warm_up": settings.warm_up,
        "iterations": settings.iterations,
        "duration_s": settings.duration_s,
    }


def measure(
    place: Place, artifact: Artifact, *, settings: BoardSettings, hexagon: str | None, out: Path
) -> Measurement:
    """Time the artifact; what the script wrote stays in `out`.

    Raises:
        BoardToolMissingError, BoardRunError, BoardTimeoutError, BoardSpaceError, BoardUnreachableError.
    """
    request = request_of(artifact, settings=settings, emulated=place.facts.emulated)
    with (
        place.run_folder(f"{key_of(artifact)}-profile", links=links_of(place, artifact)) as folder,
        tempfile.TemporaryDirectory() as scratch,
    ):
        send(place, folder=folder, made=Path(scratch), request=request)
        execute(place, folder=folder, settings=settings)
        place.pull(f"{folder}/out", out)
    return measured(out, settings=settings)


def measured(out: Path, *, settings: BoardSettings) -> Measurement:
    """Return what the script wrote.

    Raises:
        BoardRunError: it is not whole.
    """
    try:
        result = json.loads((out / RESULT).read_text(encoding="utf-8"))
        times = tuple(float(each) for each in result["times_ms"])
        peak_memory_mb, tools = float(result["peak_rss_mb"]), dict(result["versions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BoardRunError(f"{out / RESULT} is not what our script writes ({error!r}): run again") from error
    measurement = Measurement(
        times_ms=times,
        warm_up=settings.warm_up,
        timed=TIMED,
        tools={f"{name}-on-board": version for name, version in tools.items()},
        peak_memory_mb=peak_memory_mb,
    )
    if not (out / CSV).exists():
        return measurement
    text = (out / CSV).read_text(encoding="utf-8", errors="replace")
    found, skip = viewer.read_csv(text, what=str(out / CSV)), settings.warm_up
    return replace(
        measurement,
        accelerator_ms=found.accelerator_ms(skip=skip),
        accelerator_cycles=found.accelerator_cycles(skip=skip),
        op_cycles=found.mean_op_cycles(skip=skip),
    )


def infer(
    place: Place,
    artifact: Artifact,
    *,
    settings: BoardSettings,
    hexagon: str | None,
    images: Mapping[str, Array],
    out: Path,
) -> None:
    """Run the images, as the graph takes them, by key; writes `out/<key>.npz` with the outputs by name."""
    request = request_of(artifact, settings=settings, emulated=place.facts.emulated) | {"keys": list(images)}
    with (
        place.run_folder(f"{key_of(artifact)}-infer", links=links_of(place, artifact)) as folder,
        tempfile.TemporaryDirectory() as scratch,
    ):
        made = Path(scratch) / "made"
        (made / "in").mkdir(parents=True)
        for key, image in images.items():
            np.save(made / "in" / f"{key}.npy", image)
        send(place, folder=folder, made=made, request=request)
        execute(place, folder=folder, settings=settings)
        place.pull(f"{folder}/out", Path(scratch) / "pulled")
        take(Path(scratch) / "pulled", keys=list(images), out=out)


def take(pulled: Path, *, keys: list[str], out: Path) -> None:
    """Move the outputs to where they belong, once all of them are here.

    Raises:
        BoardRunError: one is missing.
    """
    lost = [key for key in keys if not (pulled / f"{key}.npz").is_file()]
    if lost:
        raise BoardRunError(f"the outputs of image {lost[0]} did not come back: run the same again")
    for key in keys:
        partial = out / f".{key}.npz"
        partial.write_bytes((pulled / f"{key}.npz").read_bytes())
        partial.replace(out / f"{key}.npz")


def links_of(place: Place, artifact: Artifact) -> dict[str, str]:
    """Push the compiled model; returns where its files lie on the board, by the names that it needs."""
    names = (artifact.card["context"], artifact.card["binary"])
    return {name: place.push(artifact.folder / name) for name in names}


def send(place: Place, *, folder: str, made: Path, request: Mapping[str, Any]) -> None:
    """Bring script, request and what else lies in `made` into the run's folder."""
    (made / "out").mkdir(exist_ok=True)
    (made / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    (made / SCRIPT).write_bytes(Path(__file__).with_name(SCRIPT).read_bytes())
    place.link.push_folder(made, folder)


def execute(place: Place, *, folder: str, settings: BoardSettings) -> None:
    """Run the script.

    Raises:
        BoardToolMissingError: there is no Python, or it lacks a module.
    """
    python = need_tool(place.link, place.facts, "python", advice=ADVICE)
    bounded = settings.limit_s if place.facts.tool("timeout") else None
    line = remote_line([python, SCRIPT], folder=folder, timeout_s=bounded)
    try:
        place.execute(line, limit_s=settings.limit_s, what="onnxruntime-qnn")
    except BoardRunError as error:
        if ABSENT in str(error):
            module = str(error).partition(ABSENT)[2].split()[0].strip("'.:")
            raise BoardToolMissingError(
                f"{python} on {place.link.name} has no module {module}: {ADVICE}"
            ) from error
        raise
