"""Smooth random fields, the source of every texture."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

Float = NDArray[np.float32]


def colour_array(values: ArrayLike) -> Float:
    """Return a colour as float32 (3,)."""
    return np.asarray(values, dtype=np.float32)


def over_channels(field: Float) -> Float:
    """Return float32 (H, W, 3), the field in each channel; contiguous, for numpy's fast loops."""
    height, width = field.shape
    return np.repeat(field, 3, axis=1).reshape(height, width, 3)


def smooth_noise(rng: np.random.Generator, *, size: int, cells: int) -> Float:
    """Return float32 (size, size), about standard normal, varying over `size / cells` pixels."""
    grid = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    image = Image.fromarray(grid)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def fractal_noise(rng: np.random.Generator, *, size: int, cells: int = 4, octaves: int = 4) -> Float:
    """Return float32 (size, size): octaves of smooth noise, each half as strong and twice as fine."""
    field = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        count = min(cells * 2**octave, size)
        field += smooth_noise(rng, size=size, cells=count) * np.float32(0.5**octave)
    return field


def blur(field: Float, *, radius: float) -> Float:
    """Return `field` float32 (H, W) in [0, 1], blurred by about `radius` pixels (8 bit precision)."""
    image = Image.fromarray((np.clip(field, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / np.float32(255)
