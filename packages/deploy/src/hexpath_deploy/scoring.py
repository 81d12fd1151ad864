"""What a network's findings are held against, whatever the task: images, the truth about them, a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from hexpath_deploy.errors import DatasetError, OptionError
from hexpath_deploy.reference.hexpath_reference import Detections, Pixels

Rows: TypeAlias = list[dict[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of a dataset's split."""

    id: int
    file: Path


@dataclass(frozen=True, kw_only=True)
class Score:
    """`metrics` are fractions from 0 to 1 by name; `per_class` the same, of classes that occur."""

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


class Truth(Protocol):
    """A split with what is known of it; one class a kind of annotation."""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The split's images by ascending id."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """The dataset's, where it is known."""
        ...

    def about(self) -> dict[str, Any]:
        """Return where it comes from, with a hash of what it says, for the record."""
        ...

    def rows(self, found: Detections | Pixels, *, picture: Picture) -> Rows:
        """Return what was found in an image as JSON keeps it: enough to score any choice of images later."""
        ...

    def score(self, rows: Iterable[Mapping[str, Any]], *, image_ids: Sequence[int]) -> Score:
        """Score such rows on exactly the given images."""
        ...


def sample(items: Sequence[T], count: int | None) -> tuple[T, ...]:
    """Return `count` items spread evenly, or all.

    Raises:
        OptionError: `count` is not positive.
    """
    if count is None or count >= len(items):
        return tuple(items)
    if count < 1:
        raise OptionError(f"--images {count}: evaluate at least one image")
    places = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))
    return tuple(items[place] for place in places)


def check_names(ours: Sequence[str], theirs: Sequence[str], *, path: Path) -> None:
    """Hold the model's classes against the dataset's, in order: a swapped order gives wrong figures silently.

    Raises:
        DatasetError: they differ.
    """
    if len(ours) != len(theirs):
        raise DatasetError(f"the model has {len(ours)} classes, {path} has {len(theirs)}")
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            raise DatasetError(
                f"class {index} is '{one}' in the model's metadata and '{other}' in {path}: wrong class "
                "order, or the model of another dataset"
            )
