"""What quantization must know of a model's job, and how installed jobs are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from hexpath_quant.errors import TaskError, nearest

GROUP = "hexpath.tasks"

Forward = Callable[[Tensor], tuple[Tensor, ...]]


@runtime_checkable
class Task(Protocol):
    """A model's job: how to build, calibrate, train and score it.

    Structural: a class with these members is a task, whatever it inherits from.

    Attributes:
        name: of the job, for messages and records.
        input_names: of the exported graph; one image input.
        output_names: of the exported graph, in the order of ``forward``'s outputs.
        metadata: written into the exported ONNX as ``metadata_props``.
        example: float32 (1, 3, H, W) in [0, 1], on any device; fixes the exported shapes.
    """

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    metadata: Mapping[str, str]
    example: Tensor

    def float_model(self) -> nn.Module:
        """Return a fresh float32 model in eval mode that torch.fx can trace; outputs are a tuple."""

    def calibration(self, count: int) -> Iterator[Tensor]:
        """Yield float32 (B, 3, H, W) in [0, 1], ``count`` images in all, from the training split."""

    def samples(self, count: int) -> Tensor:
        """Return float32 (count, 3, H, W) in [0, 1] from the validation split."""

    def training(self, *, batch: int, epoch: int, seed: int) -> Iterator[Any]:
        """Yield one epoch of augmented batches, the same for the same ``seed`` and ``epoch``."""

    def steps(self, batch: int) -> int:
        """Return the number of batches in an epoch."""

    def images(self, batch: Any) -> Tensor:
        """Return a training batch's images: float32 (B, 3, H, W) in [0, 1]."""

    def loss(self, outputs: tuple[Tensor, ...], batch: Any) -> Tensor:
        """Return the scalar training loss."""

    def evaluate(self, forward: Forward) -> dict[str, float]:
        """Score ``forward`` on the whole validation split; the first figure is maximized."""


def installed_tasks() -> dict[str, Any]:
    """Return the installed tasks' entry points by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load_task(*, name: str, checkpoint: Path, data: Path, options: Mapping[str, str]) -> Task:
    """Build the installed task ``name`` for a checkpoint and a dataset.

    Raises:
        TaskError: not installed (the nearest name is offered), or not a task.
    """
    points = installed_tasks()
    if not points:
        raise TaskError(
            f"no task is installed (entry-point group {GROUP}); install hexpath-models, or use the API"
        )
    if name not in points:
        raise TaskError(f"unknown task '{name}'{nearest(name=name, known=points)}")
    task = points[name].load()(checkpoint=checkpoint, data=data, options=options)
    return check_task(task)


def check_task(task: Any) -> Task:
    """Return ``task`` when it has every member of the protocol.

    Raises:
        TaskError: a member is missing; the message names it.
    """
    wanted = [*Task.__annotations__, *(name for name in vars(Task) if not name.startswith("_"))]
    missing = sorted({name for name in wanted if not hasattr(task, name)})
    if missing:
        raise TaskError(f"{type(task).__name__} is no task: it has no {', '.join(missing)}")
    found: Task = task
    return found
