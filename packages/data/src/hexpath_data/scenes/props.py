"""Things that are no object but look like one: rocks, bins, bushes, crates, bollards, sheds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hexpath_data.scenes.materials import Terrain
from hexpath_data.scenes.sprite import Board, Colour, bar, blob, ellipse, rectangle, shaded

_PAINTS: tuple[Colour, ...] = (
    (0.20, 0.35, 0.24), (0.35, 0.36, 0.38), (0.16, 0.25, 0.42), (0.55, 0.42, 0.28), (0.75, 0.73, 0.70),
    (0.60, 0.25, 0.16),
)  # fmt: skip


def _draw_rock(board: Board, rng: np.random.Generator, heat: float) -> None:
    radius, grey = rng.uniform(0.25, 0.7), rng.uniform(0.38, 0.62)
    colour = (grey, grey * 0.96, grey * 0.9)
    for step in range(4):
        outline = blob(rng, radius=radius * (1 - 0.2 * step), rough=0.12)
        board.face(outline, z=step * radius * 0.3, colour=shaded(colour, 0.6 + 0.15 * step), heat=heat)


def _draw_bin(board: Board, rng: np.random.Generator, heat: float) -> None:
    length, wide, paint = rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.5), _paint(rng)
    outline = rectangle(-length, length, half_width=wide, corner=0.05)
    board.solid(outline, low=0, high=1.1, side=shaded(paint, 0.6), top=paint, heat=heat)
    board.face(bar((-length, 0), (length, 0), width=0.05), z=1.1, colour=shaded(paint, 0.5), heat=heat)


def _draw_bush(board: Board, rng: np.random.Generator, heat: float) -> None:
    radius, green = rng.uniform(0.4, 1.0), rng.uniform(0.28, 0.42)
    for step in range(14):
        x, y = rng.normal(0, radius * 0.45, 2)
        leaf = ellipse(float(x), float(y), rx=radius * 0.45, ry=radius * 0.4, corners=9)
        tone = rng.uniform(0.55, 1.2)
        colour = (green * 0.72 * tone, green * tone, green * 0.45 * tone)
        board.face(leaf, z=0.07 * step, colour=colour, heat=heat * 0.8)


def _draw_crate(board: Board, rng: np.random.Generator, heat: float) -> None:
    length, wide = rng.uniform(0.4, 1.0), rng.uniform(0.35, 0.6)
    wood: Colour = (0.62, 0.48, 0.32)
    outline = rectangle(-length, length, half_width=wide)
    board.solid(outline, low=0, high=0.5, side=shaded(wood, 0.6), top=wood, heat=heat)
    for x in np.linspace(-length, length, 6):
        board.face(bar((x, -wide), (x, wide), width=0.05), z=0.5, colour=shaded(wood, 0.55), heat=heat)


def _draw_bollard(board: Board, rng: np.random.Generator, heat: float) -> None:
    paint: Colour = (0.85, 0.38, 0.12) if rng.random() < 0.5 else (0.3, 0.3, 0.32)
    outline = ellipse(0, 0, rx=0.2, ry=0.2)
    board.solid(outline, low=0, high=rng.uniform(0.7, 1.3), side=shaded(paint, 0.75), top=paint, heat=heat)
    board.face(ellipse(0, 0, rx=0.1, ry=0.1), z=1.0, colour=(0.9, 0.9, 0.88), heat=heat)


def _draw_bench(board: Board, rng: np.random.Generator, heat: float) -> None:
    half, wood = rng.uniform(0.6, 1.0), (0.45, 0.33, 0.22)
    for y in (-0.2, 0.0, 0.2):
        plank = bar((-half, y), (half, y), width=0.14)
        board.solid(plank, low=0.1, high=0.45, side=shaded(wood, 0.4), top=wood, heat=heat)


def _draw_shed(board: Board, rng: np.random.Generator, heat: float) -> None:
    half, wide, paint = rng.uniform(1.0, 1.7), rng.uniform(0.7, 0.9), _paint(rng)
    outline = rectangle(-half, half, half_width=wide)
    board.solid(outline, low=0, high=1.8, side=shaded(paint, 0.6), top=paint, heat=heat)
    for x in np.linspace(-half, half, 7):
        board.face(bar((x, -wide), (x, wide), width=0.06), z=1.8, colour=shaded(paint, 0.8), heat=heat)


def _draw_cart(board: Board, rng: np.random.Generator, heat: float) -> None:
    paint = _paint(rng)
    board.solid(
        rectangle(-0.6, 0.5, half_width=0.32), low=0.2, high=0.5, side=(0.1, 0.1, 0.1), top=paint, heat=heat
    )
    for y in (-0.28, 0.28):
        board.face(bar((0.5, y), (1.0, y * 0.8), width=0.07), z=0.7, colour=(0.3, 0.3, 0.3), heat=heat)
    board.face(bar((1.0, -0.3), (1.0, 0.3), width=0.08), z=0.75, colour=(0.2, 0.2, 0.2), heat=heat)


@dataclass(frozen=True, kw_only=True)
class Prop:
    """A distractor to place."""

    share: float
    reach_m: float
    height_m: float
    terrain: Terrain
    draw: Callable[[Board, np.random.Generator, float], None]


PROPS = (
    Prop(share=0.22, reach_m=1.8, height_m=0.6, terrain=Terrain.OBSTACLE, draw=_draw_rock),
    Prop(share=0.16, reach_m=1.6, height_m=1.1, terrain=Terrain.OBSTACLE, draw=_draw_bin),
    Prop(share=0.24, reach_m=3.2, height_m=0.8, terrain=Terrain.VEGETATION, draw=_draw_bush),
    Prop(share=0.10, reach_m=1.7, height_m=0.5, terrain=Terrain.OBSTACLE, draw=_draw_crate),
    Prop(share=0.10, reach_m=1.3, height_m=1.0, terrain=Terrain.OBSTACLE, draw=_draw_bollard),
    Prop(share=0.08, reach_m=1.6, height_m=0.4, terrain=Terrain.OBSTACLE, draw=_draw_bench),
    Prop(share=0.05, reach_m=3.6, height_m=1.8, terrain=Terrain.OBSTACLE, draw=_draw_shed),
    Prop(share=0.05, reach_m=1.8, height_m=0.6, terrain=Terrain.OBSTACLE, draw=_draw_cart),
)


def _paint(rng: np.random.Generator) -> Colour:
    return _PAINTS[int(rng.integers(len(_PAINTS)))]
