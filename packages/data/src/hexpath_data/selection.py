"""Choosing images to calibrate a quantizer with, so that few of them cover what the split holds.

Each image is a row of cheap figures (brightness, colours, edges, how many boxes of which class and size), all
groups weighing the same. `cover` takes the image nearest to the middle, then again and again the one farthest
from all that were taken (farthest-first traversal; Gonzalez, Clustering to Minimize the Maximum Intercluster
Distance, 1985; as core-set selection in Sener and Savarese, ICLR 2018): at most twice the smallest possible
covering radius, the outliers that decide ranges first.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hexpath_data.dataset import Dataset, label_path
from hexpath_data.errors import ImageError, ParameterError
from hexpath_data.files import write_atomic
from hexpath_data.progress import progress
from hexpath_data.yolo import Box, read_labels

Floats = NDArray[np.float64]

_SIDE = 64  # pixels of the picture that figures are taken from
_COLOURS, _DIRECTIONS = 4, 8  # bins of each colour channel, of the edges' directions
_SIZES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)  # bins of a box's side, as a share of the image's
_BRIGHTNESS = (1, 10, 50, 90, 99)  # percentiles
_THREADS = 4
_DRAWS = 20  # random selections that a selection is compared with


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How far the images of a split are from the nearest selected one, in units of the figures' spread.

    radius: of the farthest image. mean: of all. random_radius, random_mean: the same of random selections of
    the same size, averaged over 20 draws.
    """

    radius: float
    mean: float
    random_radius: float
    random_mean: float


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The selected images in the order of their use, how many there were, and how they cover the split."""

    images: tuple[Path, ...]
    of: int
    coverage: Coverage


def select(
    dataset: Dataset, *, count: int, method: str = "cover", split: str = "train", seed: int = 0
) -> Selection:
    """Select up to `count` images of a split; deterministic for the same files, method and seed.

    method: cover, first (by name), random (by `seed`), spread (evenly over the names).

    Raises:
        ParameterError: count below 1, unknown method or split.
        ImageError: an image cannot be decoded. LabelFormatError and others: a label row is broken.
    """
    if count < 1:
        raise ParameterError(f"--count {count} is no number of images; give at least 1")
    if method not in METHODS:
        raise ParameterError(f"unknown method {method!r} of selection; there are: {', '.join(METHODS)}")
    if split not in dataset.splits:
        known = ", ".join(dataset.splits)
        raise ParameterError(f"{dataset.yaml_path} has no split {split!r}; it has {known}")
    images = dataset.splits[split].images
    figures = features(images, classes=len(dataset.names))
    wanted = min(count, len(images))
    chosen = METHODS[method](figures, wanted, seed)
    return Selection(
        images=tuple(images[i] for i in chosen),
        of=len(images),
        coverage=coverage(figures, chosen=chosen, seed=seed),
    )


def features(images: Sequence[Path], *, classes: int) -> Floats:
    """Return one row of standardized figures an image, float64 (images, figures)."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda image: _groups(image, classes=classes), images)
        rows = list(progress(found, total=len(images), what="select: images"))
    return np.hstack([_standardized(np.array(group)) for group in zip(*rows, strict=True)])


def cover(figures: Floats, count: int, seed: int = 0) -> list[int]:
    """Return the rows of a farthest-first traversal that starts at the row nearest to the middle."""
    chosen = [int(_distances(figures, figures.mean(axis=0)).argmin())]
    nearest = _distances(figures, figures[chosen[0]])
    while len(chosen) < count:
        chosen.append(int(_unless(nearest, chosen).argmax()))
        nearest = np.minimum(nearest, _distances(figures, figures[chosen[-1]]))
    return chosen


def first(figures: Floats, count: int, seed: int = 0) -> list[int]:
    """Return the first rows."""
    return list(range(count))


def random(figures: Floats, count: int, seed: int = 0) -> list[int]:
    """Return random rows; more of them begin with the same."""
    order: list[int] = np.random.default_rng(seed).permutation(len(figures))[:count].tolist()
    return order


def spread(figures: Floats, count: int, seed: int = 0) -> list[int]:
    """Return rows spread evenly; the only method of which a shorter list is no beginning of a longer one."""
    return [i * len(figures) // count for i in range(count)]


METHODS: dict[str, Callable[[Floats, int, int], list[int]]] = {
    "cover": cover,
    "first": first,
    "random": random,
    "spread": spread,
}


def coverage(figures: Floats, *, chosen: Sequence[int], seed: int = 0) -> Coverage:
    """Measure how well the rows `chosen` cover all rows, beside random selections of the same size."""
    radius, mean = _reach(figures, chosen)
    draws = [_reach(figures, random(figures, len(chosen), seed + 1 + draw)) for draw in range(_DRAWS)]
    return Coverage(
        radius=radius,
        mean=mean,
        random_radius=float(np.mean([one for one, _ in draws])),
        random_mean=float(np.mean([one for _, one in draws])),
    )


def write_list(selection: Selection, *, path: Path, root: Path) -> None:
    """Write one image a line, as Ultralytics reads lists: relative to it where both lie in one folder tree.

    Raises:
        OutputError, DiskFullError: it cannot be written.
    """
    folder = path.absolute().parent
    near = root.is_relative_to(folder.parent)
    lines = [
        f"../{image.relative_to(folder.parent).as_posix()}" if near else str(image)
        for image in selection.images
    ]
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def _reach(figures: Floats, chosen: Sequence[int]) -> tuple[float, float]:
    nearest = np.full(len(figures), np.inf)
    for row in chosen:
        nearest = np.minimum(nearest, _distances(figures, figures[row]))
    return float(nearest.max()), float(nearest.mean())


def _distances(figures: Floats, point: Floats) -> Floats:
    found: Floats = np.sqrt(np.square(figures - point).sum(axis=1))
    return found


def _unless(values: Floats, taken: Sequence[int]) -> Floats:
    left = values.copy()
    left[list(taken)] = -1.0
    return left


def _standardized(group: Floats) -> Floats:
    """Return figures with mean 0 and, over the whole group, variance 1: every group weighs the same."""
    centred = group - group.mean(axis=0)
    spread_of = centred.std(axis=0)
    scaled = np.divide(centred, spread_of, out=np.zeros_like(centred), where=spread_of > 1e-9)
    return np.asarray(scaled / np.sqrt(max(1, int((spread_of > 1e-9).sum()))))


def _groups(image: Path, *, classes: int) -> list[Floats]:
    pixels = _pixels(image)
    boxes = read_labels(label_path(image), classes=classes)
    return [_light(pixels), _colours(pixels), _edges(pixels), _boxes(boxes, classes=classes)]


def _pixels(path: Path) -> Floats:
    """Return the picture, small: float64 (64, 64, 3) RGB in [0, 1]."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).split(" <")[0]
        raise ImageError(f"{path}: cannot be decoded ({reason}); `hexpath-data check` lists all") from error
    return np.asarray(small, dtype=np.float64) / 255


def _light(pixels: Floats) -> Floats:
    grey = pixels.mean(axis=2)
    return np.array([*np.percentile(grey, _BRIGHTNESS), grey.std()])


def _colours(pixels: Floats) -> Floats:
    counts = [np.histogram(pixels[..., c], bins=_COLOURS, range=(0, 1))[0] for c in range(3)]
    return np.sqrt(np.concatenate(counts) / pixels[..., 0].size)


def _edges(pixels: Floats) -> Floats:
    down, right = np.gradient(pixels.mean(axis=2))
    strength = np.hypot(down, right)
    directions = np.arctan2(down, right) % np.pi
    counts, _ = np.histogram(directions, bins=_DIRECTIONS, range=(0, np.pi), weights=strength)
    return np.sqrt(np.append(counts, strength.sum()) / strength.size)


def _boxes(boxes: Sequence[Box], *, classes: int) -> Floats:
    ids = np.array([box.class_id for box in boxes], dtype=np.int64)
    sides = [np.sqrt(box.width * box.height) for box in boxes]
    counts = [np.bincount(ids, minlength=classes), np.histogram(sides, bins=_SIZES)[0]]
    return np.log1p(np.concatenate(counts).astype(np.float64))
