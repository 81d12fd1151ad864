"""Images and labels through Ultralytics' own dataset, without its traces in the user's folders."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dataset import Dataset
from .environment import offline
from .errors import DataFileError

if TYPE_CHECKING:
    from types import SimpleNamespace

    from torch import Tensor

# Fine-tuning a network that is trained already: colour, flip, a little shift and zoom; no mosaic.
LIGHT_AUGMENTATION: dict[str, float] = {
    "hsv_h": 0.015,
    "hsv_s": 0.4,
    "hsv_v": 0.3,
    "fliplr": 0.5,
    "scale": 0.15,
    "translate": 0.05,
    "mosaic": 0.0,
}


@cache
def dataset_class() -> type:
    """Return a YOLODataset that caches labels in our settings folder and rewrites no image."""
    settings = offline()
    from ultralytics.data.dataset import YOLODataset

    class UntouchedDataset(YOLODataset):
        """Ultralytics writes labels.cache beside the labels and repairs JPEG files in place."""

        def _load_or_scan_cache(self, cache_path: Path, cache_hash: str) -> tuple[dict[str, Any], bool]:
            for file in self.im_files:
                _refuse_truncated_jpeg(Path(file))
            folder = settings / "labels"
            folder.mkdir(parents=True, exist_ok=True)
            result: tuple[dict[str, Any], bool] = super()._load_or_scan_cache(
                folder / f"{cache_hash[:16]}.cache", cache_hash
            )
            return result

    return UntouchedDataset


def _refuse_truncated_jpeg(file: Path) -> None:
    """Raise DataFileError for the JPEG files that Ultralytics would replace by a repaired copy."""
    if file.suffix.lower() not in (".jpg", ".jpeg"):
        return
    try:
        with file.open("rb") as stream:
            is_jpeg = stream.read(2) == b"\xff\xd8"
            stream.seek(-2, 2)
            complete = stream.read() == b"\xff\xd9"
    except OSError as error:
        raise DataFileError(
            f"cannot read image {file}: {error.strerror or error}; replace or remove it"
        ) from error
    if is_jpeg and not complete:
        raise DataFileError(f"{file} is a truncated JPEG; replace or remove it")


def open_split(
    dataset: Dataset,
    *,
    split: str,
    image_size: tuple[int, int],
    settings: SimpleNamespace,
    augment: bool,
    task: str = "detect",
) -> Any:
    """Return the Ultralytics dataset of a split, with instance masks for the task `segment`.

    Without augmentation images are letterboxed to image_size (height, width), as in deployment; with it,
    image_size must be square. Raises DataFileError when Ultralytics finds nothing usable, or no outlines
    where masks are needed.
    """
    try:
        return dataset_class()(
            img_path=[str(path) for path in dataset.split(split)],
            imgsz=image_size[0] if image_size[0] == image_size[1] else image_size,
            batch_size=int(settings.batch),
            augment=augment,
            hyp=settings,
            rect=False,
            cache=None,
            stride=32,
            pad=0.0,
            prefix=f"{split}: ",
            task=task,
            data=dataset.for_ultralytics(),
        )
    except (FileNotFoundError, RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).split(" See http")[0]
        raise DataFileError(
            f"{dataset.file}: the {split} split cannot be read: {reason}{_hint(reason, task=task)}"
        ) from error


def _hint(reason: str, *, task: str) -> str:
    """Say where outlines come from when masks are needed and the labels hold boxes."""
    if task != "segment" or "segments" not in reason:
        return ""
    return (
        "; masks need polygons in the label files, as `hexpath-data generate --labels segments` writes them"
    )


def default_settings(**overrides: Any) -> SimpleNamespace:
    """Return Ultralytics' full configuration with some values replaced."""
    offline()
    from ultralytics.cfg import get_cfg

    settings = get_cfg(overrides={"task": "detect", "plots": False, "rect": False, "batch": 16, **overrides})
    settings.augmentations = []  # an installed albumentations must not change the training
    return settings


def collate(source: Any, indices: list[int]) -> dict[str, Any]:
    """Return Ultralytics' batch of some samples: img uint8 (B, 3, H, W) RGB, cls, bboxes, batch_idx."""
    batch: dict[str, Any] = source.collate_fn([source[index] for index in indices])
    return batch


def to_float(images: Tensor) -> Tensor:
    """uint8 images in [0, 255] to float32 in [0, 1]."""
    return images.float() / 255


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Run a block with Python's, numpy's and torch's generators seeded by `parts`; restore them after it."""
    import numpy as np
    import torch

    value = int(np.random.SeedSequence(parts).generate_state(1)[0])
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(value)
        np.random.seed(value)
        torch.manual_seed(value)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def shuffled(count: int, *, seed: int, epoch: int) -> list[int]:
    """Return a permutation of range(count) that depends on (seed, epoch) alone."""
    import numpy as np

    order: list[int] = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    return order


def spread(count: int, total: int) -> list[int]:
    """Return up to `count` indices spread evenly over range(total), without repetition."""
    wanted = min(count, total)
    return [index * total // wanted for index in range(wanted)]


def listed(file: Path, *, images: Sequence[Path]) -> list[int]:
    """Return the positions in `images` of those that a list names, one a line, in the list's order.

    Lines may be relative to the list. Raises DataFileError when the list is missing or empty, or names an
    image that is not among `images`.
    """
    if not file.is_file():
        raise DataFileError(f"no such list of images: {file}; `hexpath-data select` writes one")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise DataFileError(f"{file} names no image; give one a line")
    known = {image.resolve(): index for index, image in enumerate(images)}
    for line in lines:
        if (file.parent / line).resolve() not in known:
            raise DataFileError(f"{file} names {line}, which is no image of the training split")
    return [known[(file.parent / line).resolve()] for line in lines]
