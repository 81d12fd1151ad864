"""From an image file to what the network takes, as Ultralytics does it, in numpy and Pillow.

File -> uint8 RGB (height, width, 3) -> letterbox to (H, W) with grey 114 -> float32 (1, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from hexpath_deploy.errors import DatasetError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """How an image of `original` (height, width) lies in a canvas: scaled to `inner`,
    then padded at `top`, `left`.
    """

    original: tuple[int, int]
    canvas: tuple[int, int]
    inner: tuple[int, int]
    top: int
    left: int

    def to_original(self, boxes: Floats) -> Floats:
        """Map boxes (N, 4) xyxy from canvas pixels to pixels of the original image, clipped to it."""
        height, width = self.original
        gain_y, gain_x = self.inner[0] / height, self.inner[1] / width
        shift = np.array([self.left, self.top] * 2, np.float32)
        mapped = (boxes - shift) / np.array([gain_x, gain_y] * 2, np.float32)
        return np.clip(mapped, 0, np.array([width, height] * 2, np.float32)).astype(np.float32)


def fit(original: tuple[int, int], canvas: tuple[int, int]) -> Letterbox:
    """Place an image of `original` (height, width) in the middle of `canvas`, scaled by the smaller ratio."""
    gain = min(canvas[0] / original[0], canvas[1] / original[1])
    inner = (max(round(original[0] * gain), 1), max(round(original[1] * gain), 1))
    top, left = (round((canvas[i] - inner[i]) / 2 - 0.1) for i in (0, 1))
    return Letterbox(original=original, canvas=canvas, inner=inner, top=top, left=left)


def read_image(path: Path) -> Pixels:
    """Read an image upright (EXIF orientation applied) as uint8 RGB (height, width, 3).

    Raises:
        DatasetError: no such file, empty, or no image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # keep the high byte, as Ultralytics does
                high = (np.asarray(upright) >> 8).astype(np.uint8)
                return np.repeat(high[..., None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except FileNotFoundError:
        raise DatasetError(f"no such image {path}: the COCO file names it; check info.root") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DatasetError(f"image {path} cannot be read ({error}): replace it or take it out") from error


def letterbox(pixels: Pixels, *, canvas: tuple[int, int], pad_value: int = 114) -> tuple[Pixels, Letterbox]:
    """Return the image on its canvas, uint8 (H, W, 3), and how it lies there."""
    placed = fit((pixels.shape[0], pixels.shape[1]), canvas)
    full = np.full((*canvas, 3), pad_value, np.uint8)
    height, width = placed.inner
    full[placed.top : placed.top + height, placed.left : placed.left + width] = resize(
        pixels, size=placed.inner
    )
    return full, placed


def resize(pixels: Pixels, *, size: tuple[int, int]) -> Pixels:
    """Resize bilinearly to `size` (height, width): half-pixel centres, no antialiasing,
    like cv2.INTER_LINEAR.
    """
    if pixels.shape[:2] == size:
        return pixels
    y0, y1, fy = taps(pixels.shape[0], size[0])
    x0, x1, fx = taps(pixels.shape[1], size[1])
    rows = blend(pixels[y0], pixels[y1], fy[:, None, None])
    both = blend(rows[:, x0], rows[:, x1], fx[None, :, None])
    return (both + np.float32(0.5)).astype(np.uint8)


def blend(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], weight: Floats) -> Floats:
    """Return first + (second - first) * weight as float32."""
    base = first.astype(np.float32)
    difference = second.astype(np.float32)
    difference -= base
    difference *= weight
    difference += base
    return difference


def taps(source: int, wanted: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Return for each of `wanted` pixels its two source pixels and the weight of the second."""
    centre = (np.arange(wanted) + 0.5) * (source / wanted) - 0.5
    first = np.floor(centre).astype(np.intp)
    weight = (centre - first).astype(np.float32)
    return np.clip(first, 0, source - 1), np.clip(first + 1, 0, source - 1), weight


def to_input(pixels: Pixels) -> Floats:
    """Turn uint8 RGB (H, W, 3) into the network's input: float32 (1, 3, H, W) in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
    return planes.astype(np.float32) / np.float32(255)
