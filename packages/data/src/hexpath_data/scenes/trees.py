"""Tree crowns: they cover what stands below and cast shadows."""

from __future__ import annotations

import numpy as np

from hexpath_data.scenes.canvas import Canvas, add_shadow
from hexpath_data.scenes.materials import Terrain
from hexpath_data.scenes.noise import Float, blur, colour_array, fractal_noise

_HEAT = {"day": 0.42, "dusk": 0.38, "night": 0.34}


def grow_trees(canvas: Canvas, *, rng: np.random.Generator, count: int) -> None:
    """Add the cover and the shadows of `count` crowns; `paint_crowns` shows them later."""
    cover = np.zeros((canvas.size, canvas.size), np.float32)
    shadow = cover.copy()
    ragged = fractal_noise(rng, size=canvas.size, cells=16, octaves=3)
    for _ in range(count):
        x, y = rng.uniform(0, canvas.size, 2)
        radius_px, height_m = rng.uniform(0.8, 1.9) * canvas.view.scale(y), rng.uniform(1.8, 4.0)
        np.maximum(cover, _crown(ragged, x=x, y=y, radius_px=radius_px), out=cover)
        reach = height_m * canvas.view.px_per_m
        shift_x = (canvas.view.sun[0] - canvas.view.lean(x, y)[0]) * reach
        shift_y = (canvas.view.sun[1] - canvas.view.lean(x, y)[1]) * reach
        np.maximum(shadow, _crown(ragged, x=x + shift_x, y=y + shift_y, radius_px=radius_px), out=shadow)
    cover[: canvas.view.horizon] = 0
    canvas.canopy = cover
    add_shadow(canvas, blur(shadow, radius=1.5))


def _crown(ragged: Float, *, x: float, y: float, radius_px: float) -> Float:
    size = ragged.shape[0]
    rows, columns = np.ogrid[0:size, 0:size]
    distance = np.sqrt((columns - np.float32(x)) ** 2 + (rows - np.float32(y)) ** 2, dtype=np.float32)
    edge = np.float32(radius_px) * (1 + np.float32(0.16) * ragged) - distance
    cover: Float = np.clip(edge * np.float32(0.7), 0, 1)
    return cover


def paint_crowns(canvas: Canvas, *, rng: np.random.Generator) -> None:
    """Lay the crowns over everything painted so far."""
    if not canvas.canopy.any():
        return
    leaves = fractal_noise(rng, size=canvas.size, cells=24, octaves=3)
    relief = leaves - np.roll(leaves, (2, 2), axis=(0, 1))
    tone = np.clip(0.75 + 0.18 * leaves + 0.14 * relief, 0.25, 1.5)
    tint = rng.normal(1, 0.12) * rng.normal(1, 0.06, 3)
    green = colour_array(np.array((0.22, 0.33, 0.14)) * tint)
    rows, columns = np.nonzero(canvas.canopy)
    cover = canvas.canopy[rows, columns][:, None]
    canvas.rgb[rows, columns] += cover * (tone[rows, columns][:, None] * green - canvas.rgb[rows, columns])
    canvas.heat += canvas.canopy * (np.float32(_HEAT[canvas.view.time_of_day]) - canvas.heat)
    canvas.terrain[canvas.canopy > 0.3] = Terrain.IGNORE
    canvas.terrain[canvas.canopy > 0.7] = Terrain.VEGETATION
    canvas.instance[canvas.canopy > 0.5] = 0
