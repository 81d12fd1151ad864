"""Backend `device`: measures on a board, over adb or ssh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from hexpath_deploy.backends import Request
from hexpath_deploy.board.evaluate import hexagon_of
from hexpath_deploy.board.measurement import Measurement
from hexpath_deploy.board.session import Session, open_board
from hexpath_deploy.errors import OptionError
from hexpath_deploy.hexagon import toolchain
from hexpath_deploy.hexagon.artifact import Artifact, open_artifact
from hexpath_deploy.hexagon.local import compile_model
from hexpath_deploy.hexagon.options import choose
from hexpath_deploy.model import Model, read_model
from hexpath_deploy.profile import EMULATED, MEASURED, Profile, measured
from hexpath_deploy.targets import target

EMULATED_NOTE = "run on the emulator of an ordinary machine: the times are the emulator's, of no device"


def profile(request: Request) -> Profile:
    """Compile if need be, check the board, push, run, pull, read.

    Raises:
        OptionError, StaleArtifactError: nothing fitting to run.
        BoardUnreachableError, BoardUnauthorizedError,
        BoardToolMissingError, BoardSpaceError, BoardTimeoutError, BoardRunError: see board.session.
    """
    if request.board is None:
        raise OptionError("--backend device needs --device: adb, adb:SERIAL or ssh://user@host[:port]")
    request.board.check()
    model = read_model(request.model)
    with artifact_of(request, model) as artifact:
        size = (artifact.folder / artifact.card["binary"]).stat().st_size
        session = open_board(request.board, wanted_bytes=size)
        found = session.run().measure(
            session.place,
            artifact,
            settings=request.board,
            hexagon=hexagon_of(artifact),
            out=request.raw,
        )
        return record_of(model, artifact=artifact, session=session, found=found)


@contextmanager
def artifact_of(request: Request, model: Model) -> Iterator[Artifact]:
    """Yield the compiled model: the given one, else compiled now into the work folder."""
    if request.compiled is not None:
        yield open_artifact(request.compiled, model=model)
        return
    if request.target is None:
        raise OptionError("--backend device needs --compiled DIR, or --target to compile for")
    wanted = target(request.target)
    options = choose(model, wanted, io=request.io, optimization=request.optimization, fp16=request.fp16)
    folder = request.work / "compiled"
    compile_model(
        model, target=wanted, options=options, out=folder, limit_s=request.limit_s, cache=request.cache
    )
    yield open_artifact(folder, model=model)


def record_of(model: Model, *, artifact: Artifact, session: Session, found: Measurement) -> Profile:
    """Return the record of a measurement; the emulator's cycles are of no NPU, and left out."""
    settings, facts = session.settings, session.facts
    tools = {
        **artifact.card["tools"],
        **found.tools,
        "hexpath-deploy": toolchain.versions()["hexpath-deploy"],
    }
    if facts.emulated:
        found = replace(found, accelerator_ms=None, accelerator_cycles=None, op_cycles={})
    cycles = found.accelerator_cycles
    return Profile(
        backend="device",
        model=str(model.path),
        model_sha256=model.sha256,
        latency=measured(
            found.times_ms,
            target=str(artifact.card["target"]),
            warm_up=found.warm_up,
            timed=found.timed,
            tools=tools,
            source=EMULATED if facts.emulated else MEASURED,
            accelerator_ms=found.accelerator_ms,
        ),
        options={
            **artifact.card["options"],
            "runner": session.runner,
            "performance": settings.performance,
            "profiling": settings.profiling,
        },
        tools=tools,
        peak_memory_mb=found.peak_memory_mb,
        cycles=None if cycles is None else {"value": cycles},
        op_cycles=found.op_cycles,
        artifact_sha256=str(artifact.card["binary_sha256"]),
        device={"address": session.place.link.name, **facts.for_record()},
        notes=(*found.notes, *((EMULATED_NOTE,) if facts.emulated else ())),
    )
