"""A small drawing board for one object: solids in metres, seen from the camera, four times oversampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from hexpath_data.scenes.noise import Float
from hexpath_data.scenes.view import View

Colour = tuple[float, float, float]
Outline = Sequence[tuple[float, float]]
_OVERSAMPLE = 4


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """A finished object to lay onto the canvas.

    x, y: canvas pixel of the patch's upper left corner.
    alpha: float32 (P, P) cover. rgb: float32 (P, P, 3) and heat: float32 (P, P), premultiplied by alpha.
    """

    x: int
    y: int
    alpha: Float
    rgb: Float
    heat: Float


class Board:
    """Draws solids given in the object's own frame: x forward, y left, z up, in metres."""

    def __init__(self, view: View, *, x: float, y: float, heading: float, reach_m: float) -> None:
        self.scale = view.scale(y)
        self.lean = view.lean(x, y)
        self.turn = (math.cos(heading), math.sin(heading))
        half = math.ceil(self.scale * reach_m) + 3
        self.corner = (math.floor(x) - half, math.floor(y) - half)
        self.centre = (x - self.corner[0], y - self.corner[1])
        side = 2 * half * _OVERSAMPLE
        self._rgb, self._mask, self._heat = Image.new("RGB", (side, side)), _grey(side), _grey(side)
        self._draw_rgb = ImageDraw.Draw(self._rgb)
        self._draw_mask, self._draw_heat = ImageDraw.Draw(self._mask), ImageDraw.Draw(self._heat)

    def face(self, outline: Outline, *, z: float, colour: Colour, heat: float) -> None:
        """Draw a flat outline at height `z`; `heat` in [0, 1]."""
        corners = [self._project(x, y, z) for x, y in outline]
        self._draw_rgb.polygon(corners, fill=_to_bytes(colour))
        self._draw_mask.polygon(corners, fill=255)
        self._draw_heat.polygon(corners, fill=max(0, min(255, round(heat * 255))))

    def solid(
        self, outline: Outline, *, low: float, high: float, side: Colour, top: Colour, heat: float
    ) -> None:
        """Draw an extruded outline from height `low` to `high`."""
        steps = max(1, math.ceil((high - low) * self.scale * math.hypot(*self.lean) * 0.6))
        for step in range(steps):
            z = low + (high - low) * step / steps
            self.face(outline, z=z, colour=side, heat=heat * 0.94)
        self.face(outline, z=high, colour=top, heat=heat)

    def finish(self) -> Sprite:
        """Return the object at canvas resolution."""
        return Sprite(
            x=self.corner[0],
            y=self.corner[1],
            alpha=_reduced(self._mask),
            rgb=_reduced(self._rgb),
            heat=_reduced(self._heat),
        )

    def _project(self, x: float, y: float, z: float) -> tuple[float, float]:
        cos, sin = self.turn
        across = x * cos - y * sin + z * self.lean[0]
        down = x * sin + y * cos + z * self.lean[1]
        return (
            (self.centre[0] + self.scale * across) * _OVERSAMPLE,
            (self.centre[1] + self.scale * down) * _OVERSAMPLE,
        )


def rectangle(x0: float, x1: float, *, half_width: float, corner: float = 0.0) -> Outline:
    """Return a rectangle from `x0` to `x1` with cut corners, in metres."""
    w, c = half_width, corner
    return [
        (x0 + c, -w), (x1 - c, -w), (x1, -w + c), (x1, w - c),
        (x1 - c, w), (x0 + c, w), (x0, w - c), (x0, -w + c),
    ]  # fmt: skip


def ellipse(x: float, y: float, *, rx: float, ry: float, corners: int = 12) -> Outline:
    """Return an ellipse about (x, y) as a polygon, in metres."""
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def bar(start: tuple[float, float], end: tuple[float, float], *, width: float) -> Outline:
    """Return a straight bar between two points, in metres."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length * width / 2, dx / length * width / 2
    return [
        (start[0] + nx, start[1] + ny), (end[0] + nx, end[1] + ny),
        (end[0] - nx, end[1] - ny), (start[0] - nx, start[1] - ny),
    ]  # fmt: skip


def blob(rng: np.random.Generator, *, radius: float, rough: float = 0.2, corners: int = 11) -> Outline:
    """Return an irregular round outline about the origin, in metres."""
    radii = radius * (1 + rough * rng.standard_normal(corners))
    turns = 2 * np.pi * np.arange(corners) / corners
    return [(float(r * np.cos(t)), float(r * np.sin(t))) for r, t in zip(radii, turns, strict=True)]


def shaded(colour: Colour, factor: float) -> Colour:
    """Return a darker (factor below 1) or lighter colour."""
    red, green, blue = (min(1.0, max(0.0, c * factor)) for c in colour)
    return red, green, blue


def _grey(side: int) -> Image.Image:
    return Image.new("L", (side, side))


def _reduced(image: Image.Image) -> Float:
    return np.asarray(image.reduce(_OVERSAMPLE), dtype=np.float32) / np.float32(255)


def _to_bytes(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(1.0, max(0.0, c))) for c in colour)
    return red, green, blue
