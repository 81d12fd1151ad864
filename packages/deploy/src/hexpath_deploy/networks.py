"""Ways to run a network: what turns images into outputs, here or on a device, behind one interface.

`evaluate` takes any object of the Protocol `Network`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

from hexpath_deploy.hexagon.artifact import Artifact
from hexpath_deploy.hexagon.emulate import LIMIT_S, emulate, load_outputs
from hexpath_deploy.io import NONE, Boundary
from hexpath_deploy.model import TaskModel
from hexpath_deploy.ort import OrtNetwork
from hexpath_deploy.progress import Progress
from hexpath_deploy.reference.hexpath_reference import Floats

# By a key, usable as a file name: a function that makes the network's input, float32 (1, 3, H, W) in [0, 1].
Feeds: TypeAlias = Mapping[str, Callable[[], Floats]]
Outputs: TypeAlias = dict[str, Floats]


class Network(Protocol):
    """Something that runs a model, or an artifact compiled from it.

    `evaluated_on` is its name in records (`ort`, `emulator`, `device`); `path` and `sha256` are of the file
    that runs, whose accuracy is measured; `boundary` says which of its inputs and outputs are quantized.
    """

    evaluated_on: str
    path: Path
    sha256: str
    boundary: Boundary

    def outputs(self, feeds: Feeds) -> Iterator[tuple[str, Outputs]]:
        """Yield for each key, in any order, the outputs by name, as float32 of batch 1.

        What is quantized at the border is quantized and dequantized here, with `boundary`.
        """
        ...


class OnOrt:
    """The model on ONNX Runtime, several images side by side on one core each."""

    evaluated_on = "ort"
    boundary = NONE

    def __init__(self, model: TaskModel, *, workers: int) -> None:
        self.path, self.sha256, self.workers = model.path, model.sha256, workers
        self.session = OrtNetwork(model, threads=1)

    def outputs(self, feeds: Feeds) -> Iterator[tuple[str, Outputs]]:
        """Yield in the order of `feeds`; at most a few images are kept ahead."""
        waiting: deque[tuple[str, Future[Outputs]]] = deque()
        keys = iter(feeds)
        with ThreadPoolExecutor(self.workers) as pool:
            for key in islice(keys, 2 * self.workers):
                waiting.append((key, pool.submit(self.run, feeds[key])))
            while waiting:
                key, done = waiting.popleft()
                yield key, done.result()
                for more in islice(keys, 1):
                    waiting.append((more, pool.submit(self.run, feeds[more])))

    def run(self, feed: Callable[[], Floats]) -> Outputs:
        """Return the outputs for one image."""
        return self.session.run(feed())


class OnEmulator:
    """A compiled artifact on Qualcomm's emulator, in parallel processes.

    `name` is the graph's input. What an interrupted run left in `work` is not run again.
    """

    evaluated_on = "emulator"

    def __init__(
        self, artifact: Artifact, *, name: str, work: Path, workers: int = 2, limit_s: float = LIMIT_S
    ) -> None:
        self.name = name
        self.artifact, self.work, self.workers, self.limit_s = artifact, work, workers, limit_s
        self.path = artifact.folder / artifact.card["binary"]
        self.sha256 = str(artifact.card["binary_sha256"])
        self.boundary = artifact.boundary

    def outputs(self, feeds: Feeds) -> Iterator[tuple[str, Outputs]]:
        """Run all, then yield in the order of `feeds`."""
        emulate(
            self.artifact,
            feeds={key: named(self.name, feed) for key, feed in feeds.items()},
            work=self.work,
            workers=self.workers,
            limit_s=self.limit_s,
            progress=Progress("emulate"),
        )
        for key in feeds:
            yield key, load_outputs(self.work, key, boundary=self.boundary)


def named(name: str, feed: Callable[[], Floats]) -> Callable[[], Mapping[str, Floats]]:
    """Return a function that gives what `feed` does as the input `name`."""
    return lambda: {name: feed()}
