"""Laying sprites onto the canvas, and telling how much of one would be seen."""

from __future__ import annotations

import numpy as np

from hexpath_data.scenes.canvas import SHADOW_STRENGTH, Canvas
from hexpath_data.scenes.materials import Terrain
from hexpath_data.scenes.noise import Float
from hexpath_data.scenes.sprite import Sprite

_SOLID = (Terrain.OBSTACLE, Terrain.WATER, Terrain.SKY, Terrain.DYNAMIC)
_MAX_OVERLAP = 0.02

Window = tuple[slice, slice]


def _windows(canvas: Canvas, *, x: int, y: int, side: int) -> tuple[Window, Window] | None:
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(canvas.size, x + side), min(canvas.size, y + side)
    if x0 >= x1 or y0 >= y1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))


def is_free(canvas: Canvas, *, x: float, y: float) -> bool:
    """Return whether something could stand at pixel (x, y) and be seen there."""
    column, row = int(x), int(y)
    if not (0 <= column < canvas.size and 0 <= row < canvas.size):
        return False
    return bool(canvas.canopy[row, column] < 0.5 and canvas.terrain[row, column] not in _SOLID)


def visible_share(canvas: Canvas, sprite: Sprite) -> float:
    """Return how much of a sprite would be seen; 0 when it would stand in something solid."""
    windows = _windows(canvas, x=sprite.x, y=sprite.y, side=sprite.alpha.shape[0])
    whole = int(np.count_nonzero(sprite.alpha > 0.5))
    if windows is None or whole == 0:
        return 0.0
    there, part = windows
    body = sprite.alpha[part] > 0.5
    blocked = np.count_nonzero(body & np.isin(canvas.terrain[there], _SOLID))
    if blocked > _MAX_OVERLAP * whole:
        return 0.0
    return float(np.count_nonzero(body & (canvas.canopy[there] < 0.5))) / whole


def shadow_of(canvas: Canvas, sprite: Sprite, *, height_m: float) -> None:
    """Darken what lies in the sprite's shadow: its own outline, swept away from the sun."""
    if canvas.view.time_of_day == "night":
        return
    reach = canvas.view.px_per_m * height_m
    for share in (0.2, 0.4, 0.6, 0.8):
        dx = round(canvas.view.sun[0] * reach * share)
        dy = round(canvas.view.sun[1] * reach * share)
        windows = _windows(canvas, x=sprite.x + dx, y=sprite.y + dy, side=sprite.alpha.shape[0])
        if windows is not None:
            there, part = windows
            _darken(canvas, there, cover=sprite.alpha[part])


def _darken(canvas: Canvas, there: Window, *, cover: Float) -> None:
    strength = np.float32(SHADOW_STRENGTH[canvas.view.time_of_day])
    cover = cover * (canvas.terrain[there] != Terrain.SKY)
    before = canvas.shade[there].copy()
    canvas.shade[there] = np.minimum(before, 1 - strength * cover)
    canvas.rgb[there] *= (canvas.shade[there] / before)[..., None]


def lay_sprite(canvas: Canvas, sprite: Sprite, *, terrain: Terrain, instance: int = 0) -> None:
    """Paint a sprite; it takes the light of the place where it stands."""
    windows = _windows(canvas, x=sprite.x, y=sprite.y, side=sprite.alpha.shape[0])
    if windows is None:
        return
    there, part = windows
    alpha, body = sprite.alpha[part], sprite.alpha[part] > 0.5
    light = np.mean(canvas.shade[there][body]) if body.any() else np.float32(1)
    light = np.float32(0.5 + 0.5 * light)
    canvas.rgb[there] = canvas.rgb[there] * (1 - alpha[..., None]) + sprite.rgb[part] * light
    canvas.heat[there] = canvas.heat[there] * (1 - alpha) + sprite.heat[part]
    canvas.terrain[there][body] = terrain
    canvas.instance[there][body] = instance
