"""Images in, outputs back: a compiled model on a board, batch by batch, going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from hexpath_deploy.board.session import Session, open_board
from hexpath_deploy.board.settings import BoardSettings
from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.hexagon.emulate import claim, load_outputs, outputs_path
from hexpath_deploy.io import Boundary
from hexpath_deploy.networks import Feeds, Outputs
from hexpath_deploy.progress import Progress
from hexpath_deploy.reference.hexpath_reference import Array, Floats
from hexpath_deploy.targets import targets

BATCH = 16
IMAGE_BYTES = 8_000_000


class OnBoard:
    """A compiled artifact on a board, as `evaluate` takes a network.

    The board is checked when this is made. What an interrupted run left in `work` is not run again. A PC
    with the emulator is called what it is.
    """

    def __init__(self, artifact: Artifact, *, settings: BoardSettings, work: Path) -> None:
        """Reach the board.

        Raises:
            OptionError, BoardUnreachableError, BoardUnauthorizedError, BoardToolMissingError,
            BoardSpaceError.
        """
        self.artifact, self.work = artifact, work
        self.path = artifact.folder / artifact.card["binary"]
        self.sha256 = str(artifact.card["binary_sha256"])
        self.boundary = artifact.boundary
        self.session = open_board(settings, wanted_bytes=self.path.stat().st_size + BATCH * IMAGE_BYTES)
        self.evaluated_on = "emulator" if self.session.facts.emulated else "device"

    def outputs(self, feeds: Feeds) -> Iterator[tuple[str, Outputs]]:
        """Run all, then yield in the order of `feeds`.

        Raises:
            BoardUnreachableError, BoardSpaceError, BoardTimeoutError, BoardRunError.
        """
        progress = Progress(f"run on {self.session.place.link.name}")
        run_images(self.session, self.artifact, images=feeds, work=self.work, progress=progress)
        for key in feeds:
            yield key, load_outputs(self.work, key, boundary=self.boundary)


def run_images(
    session: Session,
    artifact: Artifact,
    *,
    images: Feeds,
    work: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Run the compiled model on the board for each image, and leave the outputs in `work` for `load_outputs`.

    What is there for the same artifact on the same board is not run again.
    """
    claim(work, key=json.dumps([artifact.key, session.place.link.name, session.runner]))
    missing = [key for key in images if not outputs_path(work, key).exists()]
    for start in range(0, len(missing), BATCH):
        keys = missing[start : start + BATCH]
        session.run().infer(
            session.place,
            artifact,
            settings=session.settings,
            hexagon=hexagon_of(artifact),
            images={key: stored(images[key](), boundary=artifact.boundary) for key in keys},
            out=work / "out",
        )
        if progress is not None:
            progress(len(images) - len(missing) + start + len(keys), len(images))


def stored(image: Floats, *, boundary: Boundary) -> Array:
    """Return an image as the compiled graph takes it."""
    encoding = next(iter(boundary.inputs.values()), None)
    return image if encoding is None else encoding.quantize(image)


def hexagon_of(artifact: Artifact) -> str | None:
    """Return the Hexagon generation that the artifact was compiled for, such as v73."""
    known = targets().get(artifact.card["target"])
    return known.hexagon if known is not None else None
