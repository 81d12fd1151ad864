"""Semantic segmentation: a data.yaml with one id mask an image, scored by intersection over union.

The file names `path`, the folders of images (`train`, `val`) and of masks (`masks: {train, val}`), the value
to `ignore` and the `names` by id. A mask is a PNG with one channel, of its image's size and name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image, UnidentifiedImageError

from hexpath_deploy.errors import DatasetError, nearest
from hexpath_deploy.reference.hexpath_reference import Detections, Ints, Pixels
from hexpath_deploy.scoring import Picture, Rows, Score, check_names

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IGNORE = 255

Ids: TypeAlias = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Masks:
    """A split with a mask of class ids for each image. `masks` maps an image's id to its mask."""

    path: Path
    split: str
    pictures: tuple[Picture, ...]
    masks: Mapping[int, Path]
    names: tuple[str, ...]
    ignore: int
    fingerprint: str | None

    def about(self) -> dict[str, Any]:
        """Return the file's place and a hash of it and of the list of its images."""
        told = [self.path.read_text(encoding="utf-8"), *(picture.file.name for picture in self.pictures)]
        digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
        return {
            "data": str(self.path),
            "split": self.split,
            "data_sha256": digest,
            "names": list(self.names),
            "ignore": self.ignore,
        }

    def rows(self, found: Detections | Pixels, *, picture: Picture) -> Rows:
        """Return the confusion of one image: [truth, found, pixels], pairs that do not occur left out."""
        assert isinstance(found, np.ndarray)
        truth = self.read(picture)
        if truth.shape != found.shape:
            raise DatasetError(
                f"mask {self.masks[picture.id]} has {truth.shape[1]}x{truth.shape[0]} pixels, its image "
                f"{found.shape[1]}x{found.shape[0]}: make the masks again"
            )
        table = confusion(truth, found, classes=len(self.names), ignore=self.ignore)
        pairs = [[int(one), int(other), int(table[one, other])] for one, other in np.argwhere(table)]
        return [{"image_id": picture.id, "confusion": pairs}]

    def read(self, picture: Picture) -> Ids:
        """Read the mask of an image.

        Raises:
            DatasetError: it is missing, unreadable, has several channels, or holds an unknown id.
        """
        path = self.masks[picture.id]
        try:
            with Image.open(path) as image:
                ids = np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DatasetError(f"mask {path} cannot be read ({error}): make it again") from error
        if ids.ndim != 2:
            raise DatasetError(
                f"mask {path} has {ids.shape[2]} channels, expected one with a class id a pixel"
            )
        ids = ids.astype(np.int64)
        strange = np.setdiff1d(np.unique(ids), [*range(len(self.names)), self.ignore])
        if len(strange):
            raise DatasetError(
                f"mask {path} holds id {strange[0]}; {self.path} has classes 0 to {len(self.names) - 1} and "
                f"ignores {self.ignore}"
            )
        return ids

    def score(self, rows: Iterable[Mapping[str, Any]], *, image_ids: Sequence[int]) -> Score:
        """Return mIoU and pixel accuracy, and IoU by class, over all pixels of these images together.

        A class that does not occur in their masks has no IoU and does not count for mIoU.

        Raises:
            DatasetError: no pixel of these images has a class.
        """
        wanted = set(image_ids)
        table = np.zeros((len(self.names), 1 + max(len(self.names), 255)), np.int64)
        for row in rows:
            if row["image_id"] in wanted:
                for one, other, pixels in row["confusion"]:
                    table[one, other] += pixels
        if not table.any():
            raise DatasetError(
                f"{self.path}: the {len(wanted)} evaluated masks hold nothing but ignored pixels"
            )
        hits = np.diagonal(table)
        union = table.sum(axis=1) + table.sum(axis=0)[: len(hits)] - hits
        occurs = [kind for kind in range(len(hits)) if table[kind].any()]
        iou = {kind: float(hits[kind] / union[kind]) for kind in occurs}
        metrics = {
            "miou": float(np.mean(list(iou.values()))),
            "pixel_accuracy": float(hits.sum() / table.sum()),
        }
        return Score(metrics=metrics, per_class={self.names[kind]: {"iou": iou[kind]} for kind in occurs})


def save_mask(found: Detections | Pixels, path: Path) -> None:
    """Write class ids (H, W) as a PNG with one channel."""
    assert isinstance(found, np.ndarray)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(found.astype(np.uint8)).save(path)


def confusion(truth: Ids, found: Pixels, *, classes: int, ignore: int) -> Ints:
    """Count pixels by truth and found class, int64 (classes, 256), those to ignore left out."""
    counts = truth != ignore
    pairs = truth[counts].astype(np.int64) * 256 + found[counts]
    return np.bincount(pairs, minlength=classes * 256).reshape(classes, 256).astype(np.int64)


def read_masks(path: Path, *, names: Sequence[str], split: str = "val") -> Masks:
    """Read a split of a data.yaml for a model with these class names.

    The id to ignore may be named, and the model may leave that class out when its id is the last or beyond.

    Raises:
        DatasetError: no such file or folder, not of this form, an image without a mask, or other classes.
    """
    data = read_yaml(path)
    try:
        root = path.parent / str(data.get("path", "."))
        images, masks = root / str(data[split]), root / str(data["masks"][split])
        theirs = {int(key): str(name) for key, name in dict(data["names"]).items()}
        ignore = int(data.get("ignore", IGNORE))
    except KeyError as error:
        raise DatasetError(f"{path} has no entry {error}{nearest(split, data)}") from None
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path} is no dataset of masks ({error}): see the README") from error
    listed = list_names(theirs, ignore=ignore, count=len(names), path=path)
    check_names(names, listed, path=path)
    pictures = list_pictures(images, told_by=path)
    return Masks(
        path=path,
        split=split,
        pictures=pictures,
        masks={one.id: mask_of(one.file, images=images, masks=masks) for one in pictures},
        names=tuple(listed),
        ignore=ignore,
        fingerprint=data.get("fingerprint"),
    )


def list_names(named: Mapping[int, str], *, ignore: int, count: int, path: Path) -> list[str]:
    """Return the class names by id; the id to ignore is left out, unless the model has a class for it."""
    counted = {kind: name for kind, name in named.items() if kind != ignore}
    chosen = named if sorted(counted) != list(range(len(counted))) or len(named) == count else counted
    if sorted(chosen) != list(range(len(chosen))):
        raise DatasetError(f"{path}: names must map 0..N-1 to names, found ids {sorted(named)}")
    return [chosen[kind] for kind in range(len(chosen))]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"no such dataset {path}: give the data.yaml of images and masks") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no YAML ({error}): write it again") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path} holds a {type(data).__name__}, expected keys such as val and masks")
    return data


def list_pictures(folder: Path, *, told_by: Path) -> tuple[Picture, ...]:
    """Return the images of a folder, ids from 1 in the order of their names."""
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not found:
        raise DatasetError(f"{told_by}: no images in {folder}: nothing can be evaluated")
    return tuple(Picture(id=number, file=file) for number, file in enumerate(found, start=1))


def mask_of(image: Path, *, images: Path, masks: Path) -> Path:
    """Return where the mask of an image lies."""
    mask = masks / image.relative_to(images).with_suffix(".png")
    if not mask.is_file():
        raise DatasetError(f"image {image} has no mask {mask}: make it, or take the image out")
    return mask
