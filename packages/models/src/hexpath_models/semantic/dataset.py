"""Images with one id mask each, as a data.yaml describes them; read without touching the folder.

path, train and val (folders of images), masks (a folder of PNGs with one channel for each split, of the same
names), ignore (the id that does not count, 255 by default), names (by id). The id to ignore may be named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..dataset import _read_yaml, image_size
from ..errors import ClassMismatchError, DataFileError

__all__ = ["image_size"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IGNORE = 255  # in the tensors, whatever the files say
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image and its mask."""

    image: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class SemanticDataset:
    """data.yaml with its pairs found; `names` are the classes that count, `ignore` the id in the files."""

    file: Path
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    names: dict[int, str]
    ignore: int
    fingerprint: str

    def split(self, name: str) -> tuple[Item, ...]:
        """Return the pairs of `train` or `val`."""
        return {"train": self.train, "val": self.val}[name]

    @cached_property
    def table(self) -> Any:
        """Return int64 (65536,): the class of an id, IGNORE to ignore, -1 where an id is unknown."""
        table = np.full(65536, -1, np.int64)
        table[list(self.names)] = list(self.names)
        table[self.ignore] = IGNORE
        return table

    def read(self, item: Item) -> tuple[Tensor, Tensor]:
        """Return image uint8 (3, H, W) RGB and classes uint8 (H, W) with IGNORE.

        Raises DataFileError for a file that cannot be read, another size, or ids that are not in names.
        """
        image = _open(item.image, "image")
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        ids = np.asarray(_open(item.mask, "mask"))
        if ids.ndim != 2:
            raise DataFileError(
                f"mask {item.mask} has {ids.shape[2]} channels, expected one class id a pixel"
            )
        if ids.shape != pixels.shape[:2]:
            raise DataFileError(
                f"mask {item.mask} has {ids.shape[1]}x{ids.shape[0]} pixels, its image {item.image} "
                f"{pixels.shape[1]}x{pixels.shape[0]}; make the masks again"
            )
        classes = self.table[ids.astype(np.int64)]
        if classes.min() < 0:
            raise DataFileError(_unknown(self, item, ids[classes < 0]))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), torch.from_numpy(classes.astype(np.uint8))


def _unknown(dataset: SemanticDataset, item: Item, ids: Any) -> str:
    found, counts = np.unique(ids, return_counts=True)
    pairs = [f"{i} ({n} pixels)" for i, n in list(zip(found, counts, strict=True))[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"mask {item.mask} holds the unknown ids {', '.join(pairs)}{more}; {dataset.file} names 0 to "
        f"{len(dataset.names) - 1} and ignores {dataset.ignore}"
    )


def _open(path: Path, kind: str) -> Any:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    # Once imported, Ultralytics makes Image.open ask for a package that reads HEIF where a file is no image.
    except (UnidentifiedImageError, OSError, SyntaxError, ImportError) as error:
        raise DataFileError(f"{kind} {path} cannot be read ({error}); replace it or take it out") from error


def read_semantic(file: Path) -> SemanticDataset:
    """Read data.yaml and find its pairs.

    Raises DataFileError: no such file, a key missing, an empty split, an image without a mask.
    """
    content = _read_yaml(file)
    root = (file.resolve().parent / str(content.get("path") or ".")).resolve()
    ignore = _ignored(file, content)
    return SemanticDataset(
        file=file.resolve(),
        train=_pairs(file, content, root=root, split="train"),
        val=_pairs(file, content, root=root, split="val"),
        names=_names(file, content, ignore=ignore),
        ignore=ignore,
        fingerprint=str(content.get("fingerprint") or ""),
    )


def _ignored(file: Path, content: Mapping[str, Any]) -> int:
    try:
        value = int(content.get("ignore", IGNORE))
    except (TypeError, ValueError):
        value = -1
    if not 0 <= value < 65536:
        raise DataFileError(f"{file}: ignore is {content['ignore']!r}, expected an id such as 255")
    return value


def _names(file: Path, content: Mapping[str, Any], *, ignore: int) -> dict[int, str]:
    raw = content.get("names")
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw if isinstance(raw, list) else [])
    try:
        names = {int(key): str(name) for key, name in pairs if int(key) != ignore}
    except (TypeError, ValueError) as error:
        raise DataFileError(f"{file}: names has a key that is no class id: {error}") from error
    if len(names) < 2 or sorted(names) != list(range(len(names))):
        raise DataFileError(
            f"{file}: names must number at least two classes 0 to N-1 beside ignore={ignore}, found {raw!r}"
        )
    return dict(sorted(names.items()))


def _pairs(file: Path, content: Mapping[str, Any], *, root: Path, split: str) -> tuple[Item, ...]:
    masks = content.get("masks")
    if not isinstance(masks, dict) or split not in masks or not content.get(split):
        raise DataFileError(
            f"{file} needs {split}: FOLDER and masks: {{{split}: FOLDER}} for images and masks"
        )
    images, folder = root / str(content[split]), root / str(masks[split])
    for path in (images, folder):
        if not path.is_dir():
            raise DataFileError(f"{file}: {split} points to {path}, which is no folder")
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataFileError(f"{file}: {split} holds no images in {images}")
    items = [Item(image=path, mask=folder / path.relative_to(images).with_suffix(".png")) for path in found]
    lacking = [item.mask for item in items if not item.mask.is_file()]
    if lacking:
        raise DataFileError(f"{file}: {len(lacking)} images of {split} have no mask, e.g. {lacking[0]}")
    return tuple(items)


def check_names(dataset: SemanticDataset, names: Mapping[int, str], *, checkpoint: Path) -> None:
    """Raise ClassMismatchError when the checkpoint was trained on other classes."""
    if dict(names) != dataset.names:
        raise ClassMismatchError(
            f"{dataset.file} has the classes {_listed(dataset.names)}, {checkpoint} was trained on "
            f"{_listed(names)}; use the dataset of the checkpoint, or train on this one"
        )


def _listed(names: Mapping[int, str]) -> str:
    shown = [f"{key} {name}" for key, name in list(names.items())[:_SHOWN]]
    return ", ".join(shown) + (f"... ({len(names)} in all)" if len(names) > _SHOWN else "")


def pixel_counts(dataset: SemanticDataset, items: Sequence[Item]) -> Tensor:
    """Return int64 (classes,): pixels of each class in these masks."""
    total = torch.zeros(256, dtype=torch.int64)
    for item in items:
        total += torch.bincount(dataset.read(item)[1].flatten().long(), minlength=256)
    return total[: len(dataset.names)]
