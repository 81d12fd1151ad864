"""Scores of outputs that were computed elsewhere: the task sees a model that only hands them out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hexpath_quant.errors import TaskError
from hexpath_quant.sensitivity.sweep import Array
from hexpath_quant.task import Task

Classes = dict[str, dict[str, float]]
SAME = 1e-9


@dataclass(frozen=True, kw_only=True)
class Score:
    """A task's figures, and those of each class where the task has them."""

    metrics: dict[str, float]
    per_class: Classes = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return {"metrics", "per_class"}."""
        return {"metrics": self.metrics, "per_class": self.per_class}


class Scorer:
    """Records the batches that a task evaluates, and scores outputs for them.

    Args:
        task: with the optional members ``evaluate_classes(forward, images=None)`` and
            ``evaluate(forward, images=)``, where it has them.
        model: the float model.
        images: how many validation images; None: all.

    Raises:
        TaskError: fewer images are asked for than the task can limit itself to.
    """

    def __init__(self, task: Task, *, model: nn.Module, images: int | None) -> None:
        self.task = task
        self.options = _limit(task.evaluate, images=images, name=task.name)
        self.batches: list[Array] = []
        outputs: list[tuple[Array, ...]] = []

        def record(pictures: Tensor) -> tuple[Tensor, ...]:
            self.batches.append(pictures.cpu().numpy().copy())
            with torch.no_grad():
                found = model(pictures)
            found = (found,) if isinstance(found, Tensor) else tuple(found)
            outputs.append(tuple(o.detach().cpu().numpy() for o in found))
            return found

        metrics = task.evaluate(record, **self.options)
        if not self.batches:
            raise TaskError(f"task {task.name} evaluates without calling the model; nothing can be measured")
        self.metric = next(iter(metrics))
        self.by_class = hasattr(task, "evaluate_classes")
        classes = self._classes(outputs)
        self.from_classes = _is_mean(classes, of=metrics)
        self.float = Score(metrics=metrics, per_class=classes)

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(len(batch) for batch in self.batches)

    def score(self, outputs: Sequence[tuple[Array, ...]]) -> Score:
        """Score outputs, given by batch in the order of ``batches``."""
        classes = self._classes(outputs)
        if self.from_classes and set(classes) == set(self.float.per_class):
            names = list(self.float.metrics)
            return Score(
                metrics={n: float(np.mean([c[n] for c in classes.values()])) for n in names},
                per_class=classes,
            )
        return Score(metrics=self.task.evaluate(_replay(outputs), **self.options), per_class=classes)

    def _classes(self, outputs: Sequence[tuple[Array, ...]]) -> Classes:
        if not self.by_class:
            return {}
        task: Any = self.task
        found: Classes = task.evaluate_classes(_replay(outputs), **self.options)
        return found


def _limit(evaluate: Callable[..., Any], *, images: int | None, name: str) -> dict[str, Any]:
    if images is None:
        return {}
    if "images" not in inspect.signature(evaluate).parameters:
        raise TaskError(f"task {name} cannot evaluate fewer images than its split; leave --images out")
    return {"images": images}


def _replay(outputs: Sequence[tuple[Array, ...]]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    waiting: Iterator[tuple[Array, ...]] = iter(outputs)

    def forward(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array) for array in next(waiting))

    return forward


def _is_mean(classes: Classes, *, of: dict[str, float]) -> bool:
    """Return whether the task's figures are the means of its classes': one scoring then gives both."""
    if not classes:
        return False
    names = set.intersection(*(set(figures) for figures in classes.values()))
    means = {name: float(np.mean([figures[name] for figures in classes.values()])) for name in names}
    return set(of) <= names and all(abs(means[name] - value) < SAME for name, value in of.items())
