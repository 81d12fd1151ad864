"""From reflectance and heat to what the two cameras record."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from hexpath_data.scenes.canvas import Canvas
from hexpath_data.scenes.materials import Terrain
from hexpath_data.scenes.noise import Float, colour_array, fractal_noise

_TINT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 0.99, 0.96),
    "dusk": (1.06, 0.95, 0.84),
    "night": (0.85, 0.95, 1.12),
}
_GAIN = {"day": (0.9, 1.15), "dusk": (0.78, 0.98), "night": (0.55, 0.72)}
_NOISE = {"day": (0.004, 0.010), "dusk": (0.006, 0.014), "night": (0.010, 0.020)}


def expose(canvas: Canvas, *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the colour camera's image, uint8 (H, W, 3) RGB."""
    view = canvas.view
    light = colour_array(_TINT[view.time_of_day]) * np.float32(rng.uniform(*_GAIN[view.time_of_day]))
    lit = (canvas.rgb.reshape(view.size, -1) * np.tile(light, view.size)).reshape(canvas.rgb.shape)
    if view.time_of_day == "night":
        lit += canvas.rgb * _street_lamps(canvas, rng=rng)
    image = _sharpness(lit, rng=rng)
    sigma = np.float32(rng.uniform(*_NOISE[view.time_of_day]))
    image += sigma * rng.standard_normal(image.shape, dtype=np.float32)
    contrast = np.float32(rng.uniform(0.9, 1.1))
    return _to_bytes(0.5 + (image - 0.5) * contrast if view.time_of_day == "day" else image)


def _street_lamps(canvas: Canvas, *, rng: np.random.Generator) -> Float:
    rows, columns = np.ogrid[0 : canvas.size, 0 : canvas.size]
    light = np.zeros((canvas.size, canvas.size), np.float32)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, canvas.size, 2)
        reach = rng.uniform(4, 8) * canvas.view.px_per_m
        far = ((columns - x) ** 2 + (rows - y) ** 2) / reach**2
        light += (rng.uniform(0.25, 0.5) * np.exp(-2 * far)).astype(np.float32)
    lit: Float = light[..., None] * colour_array((1.0, 0.85, 0.6))
    return lit


def _sharpness(image: Float, *, rng: np.random.Generator) -> Float:
    picture = Image.fromarray(_to_bytes(image))
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.6))))
    blurred: Float = np.asarray(picture, dtype=np.float32) * np.float32(1 / 255)
    if rng.random() < 0.15:
        shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
        blurred = (blurred + np.roll(blurred, shift, axis=(0, 1))) * np.float32(0.5)
    return blurred


def sense_heat(canvas: Canvas, *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the thermal camera's image, uint8 (H, W), brighter is warmer, softer than the colour image."""
    drift = np.float32(0.03) * fractal_noise(rng, size=canvas.size, cells=3, octaves=4)
    sunlit = np.float32({"day": 0.12, "dusk": 0.05, "night": 0.0}[canvas.view.time_of_day])
    heat = canvas.heat + drift - sunlit * (1 - canvas.shade) * (canvas.instance == 0)
    soft = Image.fromarray(_to_bytes(heat)).filter(ImageFilter.GaussianBlur(1.0))
    recorded = np.asarray(soft, dtype=np.float32) / np.float32(255)
    recorded = recorded + np.float32(0.012) * rng.standard_normal(recorded.shape, dtype=np.float32)
    return _to_bytes(recorded)


def add_sky(canvas: Canvas, *, rng: np.random.Generator) -> None:
    """Lay sky and a hazy tree line above the horizon, and haze over the far ground."""
    top = canvas.view.horizon
    if not top:
        return
    rows = np.arange(canvas.size, dtype=np.float32)[:, None, None]
    haze = np.clip(1 - (rows - top) / (0.35 * canvas.size), 0, 1) * np.float32(0.45)
    sky = colour_array((0.66, 0.74, 0.84)) * np.float32(rng.uniform(0.85, 1.1))
    canvas.rgb += haze * (sky - canvas.rgb)
    bumps = fractal_noise(rng, size=canvas.size, cells=12, octaves=3)[0]
    line = (top - np.abs(bumps) * 0.02 * canvas.size)[None, :]
    above = rows[..., 0] < line
    far_trees = (rows[..., 0] >= line) & (rows[..., 0] < top)
    canvas.rgb[above] = (sky * (0.9 + 0.1 * rows / max(1, top)))[:, 0][np.nonzero(above)[0]]
    canvas.rgb[far_trees] = colour_array((0.34, 0.42, 0.38))
    canvas.heat[above], canvas.heat[far_trees] = 0.05, 0.4
    canvas.terrain[above], canvas.terrain[far_trees] = Terrain.SKY, Terrain.VEGETATION


def _to_bytes(image: Float) -> NDArray[np.uint8]:
    return (np.clip(image, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
