"""The scene while it is painted: colour, heat and terrain in one pixel grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hexpath_data.scenes.materials import Material
from hexpath_data.scenes.noise import Float, colour_array, fractal_noise, over_channels
from hexpath_data.scenes.view import View

Point = tuple[float, float]
_OVERSAMPLE = 2


@dataclass(kw_only=True)
class Canvas:
    """Pixel-aligned layers of a scene, painted in place.

    rgb: float32 (H, W, 3) sRGB reflectance in [0, 1]. heat: float32 (H, W) in [0, 1].
    terrain: uint8 (H, W) terrain ids. shade: float32 (H, W), 1 in the sun.
    canopy: float32 (H, W), the cover of trees above ground.
    instance: uint8 (H, W), 0 or the 1-based number of the instance seen there.
    """

    view: View
    rgb: Float
    heat: Float
    terrain: NDArray[np.uint8]
    shade: Float
    canopy: Float
    instance: NDArray[np.uint8]

    @property
    def size(self) -> int:
        """Width and height in pixels."""
        return self.view.size


def new_canvas(view: View) -> Canvas:
    """Return an empty canvas."""
    shape = (view.size, view.size)
    return Canvas(
        view=view,
        rgb=np.zeros((*shape, 3), np.float32),
        heat=np.zeros(shape, np.float32),
        terrain=np.zeros(shape, np.uint8),
        shade=np.ones(shape, np.float32),
        canopy=np.zeros(shape, np.float32),
        instance=np.zeros(shape, np.uint8),
    )


def polygon_mask(*polygons: Sequence[Point], size: int) -> Float:
    """Return float32 (size, size) cover in [0, 1] of polygons together, corners (x, y) in pixels."""
    image = Image.new("L", (size * _OVERSAMPLE, size * _OVERSAMPLE))
    draw = ImageDraw.Draw(image)
    for points in polygons:
        draw.polygon([(x * _OVERSAMPLE, y * _OVERSAMPLE) for x, y in points], fill=255)
    return np.asarray(image.reduce(_OVERSAMPLE), dtype=np.float32) / np.float32(255)


def lines_mask(lines: Sequence[tuple[Point, Point]], *, width_px: float, size: int) -> Float:
    """Return float32 (size, size) cover in [0, 1] of straight lines between pixel positions."""
    image = Image.new("L", (size * _OVERSAMPLE, size * _OVERSAMPLE))
    draw = ImageDraw.Draw(image)
    width = max(1, round(width_px * _OVERSAMPLE))
    for (x0, y0), (x1, y1) in lines:
        ends = (x0 * _OVERSAMPLE, y0 * _OVERSAMPLE, x1 * _OVERSAMPLE, y1 * _OVERSAMPLE)
        draw.line(ends, fill=255, width=width)
    return np.asarray(image.reduce(_OVERSAMPLE), dtype=np.float32) / np.float32(255)


def texture(material: Material, *, rng: np.random.Generator, size: int) -> Float:
    """Return float32 (size, size, 3): the material between its two colours, with grain."""
    mix = np.clip(0.5 + 0.3 * fractal_noise(rng, size=size, cells=3, octaves=4), 0, 1)
    grain = 1 + np.float32(material.grain) * rng.standard_normal((size, size), dtype=np.float32)
    tint = colour_array(rng.normal(1, 0.025, 3) * rng.normal(1, 0.06))
    first, second = colour_array(material.colour) * tint, colour_array(material.other) * tint
    # whole rows at once: a last axis of three would keep numpy in its slow loops
    surface: Float = np.repeat(mix, 3, axis=1) * np.tile(second - first, size) + np.tile(first, size)
    surface *= np.repeat(grain, 3, axis=1)
    return surface.reshape(size, size, 3)


def paint(canvas: Canvas, cover: Float, *, material: Material, surface: Float) -> None:
    """Paint a textured material where `cover` float32 (H, W) is set."""
    canvas.rgb += over_channels(cover) * (surface - canvas.rgb)
    canvas.heat += cover * (np.float32(material.heat(canvas.view.time_of_day)) - canvas.heat)
    canvas.terrain[cover > 0.5] = material.terrain


def paint_flat(canvas: Canvas, cover: Float, *, colour: tuple[float, float, float], opacity: float) -> None:
    """Paint a plain colour (markings, kerbs) that changes neither heat nor terrain."""
    rows, columns = np.nonzero(cover)
    share = (cover[rows, columns] * np.float32(opacity))[:, None]
    canvas.rgb[rows, columns] += share * (colour_array(colour) - canvas.rgb[rows, columns])


SHADOW_STRENGTH = {"day": 0.45, "dusk": 0.33, "night": 0.12}


def add_shadow(canvas: Canvas, cover: Float) -> None:
    """Darken the ground where `cover` float32 (H, W) lies in shadow."""
    strength = np.float32(SHADOW_STRENGTH[canvas.view.time_of_day])
    np.minimum(canvas.shade, 1 - strength * cover, out=canvas.shade)
