"""Images in, outputs back: a compiled model on a board, batch by batch, going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from hexpath_deploy.board.session import Session, open_board
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.hexagon.emulate import claim, outputs_path
from hexpath_deploy.io import Array, Boundary, Floats
from hexpath_deploy.targets import targets

BATCH = 16
Progress = Callable[[int, int], None]


def run_images(
    artifact: Artifact,
    *,
    images: Mapping[str, Callable[[], Floats]],
    work: Path,
    settings: BoardSettings,
    progress: Progress | None = None,
) -> Session:
    """Run the compiled model on the board for each image, and leave the outputs in `work` for `load_outputs`.

    `images` maps a key, usable as a file name, to a function that makes float32 (1, 3, H, W). What is there
    for the same artifact on the same board is not run again. Returns the session, for its facts.

    Raises:
        OptionError, BoardUnreachableError, BoardUnauthorizedError, BoardToolMissingError, BoardSpaceError,
        BoardTimeoutError, BoardRunError.
    """
    session = open_board(settings, wanted_bytes=needed_bytes(artifact, images))
    claim(work, key=json.dumps([artifact.key, session.place.link.name, session.runner]))
    missing = [key for key in images if not outputs_path(work, key).exists()]
    for start in range(0, len(missing), BATCH):
        batch = {
            key: stored(images[key](), boundary=artifact.boundary) for key in missing[start : start + BATCH]
        }
        session.run().infer(
            session.place,
            artifact,
            settings=settings,
            hexagon=hexagon_of(artifact),
            images=batch,
            out=work / "out",
        )
        if progress is not None:
            progress(len(images) - len(missing) + start + len(batch), len(images))
    return session


def stored(image: Floats, *, boundary: Boundary) -> Array:
    """Return an image as the compiled graph takes it."""
    encoding = next(iter(boundary.inputs.values()), None)
    return image if encoding is None else encoding.quantize(image)


def needed_bytes(artifact: Artifact, images: Mapping[str, object]) -> int:
    """Return about how much a batch takes on the board: the model, and some MB an image."""
    return (artifact.folder / artifact.card["binary"]).stat().st_size + min(BATCH, len(images)) * 8_000_000


def hexagon_of(artifact: Artifact) -> str | None:
    """Return the Hexagon generation that the artifact was compiled for, such as v73."""
    known = targets().get(artifact.card["target"])
    return known.hexagon if known is not None else None
