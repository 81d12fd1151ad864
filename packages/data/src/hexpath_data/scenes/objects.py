"""The three classes: person, vehicle, motorcycle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hexpath_data.scenes.sprite import Board, Colour, bar, ellipse, rectangle, shaded

CLASS_NAMES = ("person", "vehicle", "motorcycle")
PERSON, VEHICLE, MOTORCYCLE = range(3)

_GLASS: Colour = (0.12, 0.15, 0.18)
_RUBBER: Colour = (0.10, 0.10, 0.11)
_PAINTS: tuple[Colour, ...] = (
    (0.88, 0.88, 0.87), (0.68, 0.69, 0.71), (0.42, 0.43, 0.45), (0.13, 0.13, 0.14), (0.60, 0.12, 0.11),
    (0.13, 0.24, 0.50), (0.20, 0.34, 0.26), (0.80, 0.66, 0.20), (0.58, 0.50, 0.40),
)  # fmt: skip
_CLOTHES: tuple[Colour, ...] = (
    (0.22, 0.22, 0.28), (0.18, 0.32, 0.75), (0.90, 0.89, 0.87), (0.82, 0.14, 0.14), (0.85, 0.75, 0.20),
    (0.20, 0.55, 0.35), (0.60, 0.25, 0.55), (0.95, 0.50, 0.12), (0.40, 0.65, 0.80),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = ((0.10, 0.08, 0.07), (0.22, 0.15, 0.09), (0.42, 0.30, 0.18), (0.70, 0.55, 0.43))


@dataclass(frozen=True, kw_only=True)
class Warmth:
    """Thermal brightness of what lives or runs, at one time of day, in [0, 1]."""

    skin: float
    cloth: float
    metal: float
    engine: float


WARMTH = {
    "day": Warmth(skin=0.80, cloth=0.72, metal=0.58, engine=0.85),
    "dusk": Warmth(skin=0.84, cloth=0.70, metal=0.42, engine=0.80),
    "night": Warmth(skin=0.88, cloth=0.70, metal=0.24, engine=0.80),
}


def draw_person(board: Board, *, rng: np.random.Generator, warmth: Warmth) -> None:
    """Draw a standing or walking person, 1.6 to 2 m tall, with shoulders across the heading.

    Nearly twice as wide as in life: at this resolution a lifelike one is six pixels wide.
    """
    tall = rng.uniform(1.6, 2.0) / 1.75
    top, trousers = _pick(_CLOTHES, rng), shaded(_pick(_CLOTHES, rng), 0.8)
    stride, swing = rng.uniform(0, 0.4), rng.uniform(0, 0.28)
    for side in (-1, 1):
        foot = ellipse(side * stride / 2, side * 0.17, rx=0.23, ry=0.14, corners=8)
        board.solid(foot, low=0.0, high=0.5 * tall, side=trousers, top=trousers, heat=warmth.cloth)
    hips = ellipse(0, 0, rx=0.27, ry=0.34)
    board.solid(hips, low=0.5 * tall, high=0.9 * tall, side=trousers, top=trousers, heat=warmth.cloth)
    chest = ellipse(0, 0, rx=0.30, ry=0.48)
    board.solid(chest, low=0.9 * tall, high=1.4 * tall, side=shaded(top, 0.8), top=top, heat=warmth.cloth)
    _draw_arms(board, top=top, swing=swing, z=1.2 * tall, warmth=warmth)
    _draw_head(board, x=0.03, z=1.6 * tall, colour=_pick(_HAIR, rng), warmth=warmth)


def _draw_arms(board: Board, *, top: Colour, swing: float, z: float, warmth: Warmth) -> None:
    for side in (-1, 1):
        shoulder, hand = (0.0, side * 0.45), (side * swing, side * 0.57)
        board.face(bar(shoulder, hand, width=0.21), z=z, colour=shaded(top, 0.9), heat=warmth.cloth)


def _draw_head(board: Board, *, x: float, z: float, colour: Colour, warmth: Warmth) -> None:
    head = ellipse(x, 0, rx=0.22, ry=0.21, corners=10)
    board.solid(head, low=z - 0.12, high=z + 0.1, side=shaded(colour, 0.8), top=colour, heat=warmth.skin)


def draw_motorcycle(board: Board, *, rng: np.random.Generator, warmth: Warmth) -> None:
    """Draw a motorcycle or scooter, 2 to 2.5 m long; two of three carry a rider, part of the instance."""
    half, paint = rng.uniform(1.0, 1.25), _pick(_PAINTS, rng)
    for x in (-half, half - 0.55):
        wheel = rectangle(x, x + 0.55, half_width=0.10, corner=0.05)
        board.solid(wheel, low=0.0, high=0.55, side=_RUBBER, top=shaded(_RUBBER, 1.6), heat=warmth.metal)
    engine = ellipse(0.0, 0, rx=0.5, ry=0.22)
    board.solid(
        engine, low=0.3, high=0.7, side=shaded(paint, 0.6), top=shaded(paint, 0.8), heat=warmth.engine
    )
    board.face(rectangle(-0.75, 0.1, half_width=0.15, corner=0.08), z=0.8, colour=_RUBBER, heat=warmth.metal)
    board.face(ellipse(0.25, 0, rx=0.36, ry=0.20), z=0.9, colour=paint, heat=warmth.engine * 0.9)
    board.face(bar((0.5, -0.4), (0.5, 0.4), width=0.08), z=1.0, colour=(0.3, 0.3, 0.32), heat=warmth.metal)
    board.face(ellipse(half - 0.25, 0, rx=0.14, ry=0.12), z=0.8, colour=(0.8, 0.8, 0.75), heat=warmth.metal)
    if rng.random() < 0.67:
        _draw_rider(board, rng=rng, warmth=warmth)


def _draw_rider(board: Board, *, rng: np.random.Generator, warmth: Warmth) -> None:
    top, helmet = _pick(_CLOTHES, rng), _pick(_PAINTS, rng)
    for side in (-1, 1):
        thigh = bar((-0.35, side * 0.12), (0.1, side * 0.24), width=0.18)
        board.face(thigh, z=0.9, colour=shaded(top, 0.5), heat=warmth.cloth)
    chest = ellipse(-0.25, 0, rx=0.20, ry=0.29)
    board.solid(chest, low=0.9, high=1.3, side=shaded(top, 0.8), top=top, heat=warmth.cloth)
    for side in (-1, 1):
        arm = bar((-0.2, side * 0.24), (0.48, side * 0.34), width=0.12)
        board.face(arm, z=1.2, colour=shaded(top, 0.9), heat=warmth.cloth)
    _draw_head(board, x=-0.12, z=1.5, colour=helmet, warmth=warmth)


def draw_vehicle(board: Board, *, rng: np.random.Generator, warmth: Warmth) -> None:
    """Draw a car, van, pickup or small truck, 2.7 to 4.2 m long."""
    body = _BODIES[int(rng.choice(len(_BODIES), p=_BODY_SHARES))]
    half, wide, paint = float(rng.uniform(*body.half_length)), rng.uniform(0.72, 0.84), _pick(_PAINTS, rng)
    bonnet = warmth.engine if rng.random() < 0.5 else warmth.metal
    outline = rectangle(-half, half, half_width=wide, corner=0.22)
    wheels = rectangle(-half + 0.2, half - 0.2, half_width=wide, corner=0.1)
    board.face(wheels, z=0.0, colour=_RUBBER, heat=0.3)
    board.solid(outline, low=0.25, high=0.85, side=shaded(paint, 0.55), top=paint, heat=warmth.metal)
    hood = rectangle(0.35 * half, half - 0.1, half_width=wide - 0.12, corner=0.15)
    board.face(hood, z=0.86, colour=shaded(paint, 0.95), heat=bonnet)
    _draw_lamps(board, half=half, wide=wide, warmth=warmth)
    body.draw_cabin(board, half, float(wide), paint, warmth)


def _draw_lamps(board: Board, *, half: float, wide: float, warmth: Warmth) -> None:
    for side in (-1, 1):
        y = side * (wide - 0.28)
        front = bar((half - 0.12, y - 0.16), (half - 0.12, y + 0.16), width=0.16)
        rear = bar((-half + 0.1, y - 0.16), (-half + 0.1, y + 0.16), width=0.14)
        board.face(front, z=0.86, colour=(0.95, 0.95, 0.88), heat=warmth.metal)
        board.face(rear, z=0.86, colour=(0.65, 0.10, 0.08), heat=warmth.metal)


def _cabin(board: Board, half: float, wide: float, paint: Colour, warmth: Warmth, *, span: Span) -> None:
    rear, front, high = span
    foot = rectangle(rear * half, front * half, half_width=wide - 0.06, corner=0.2)
    board.solid(foot, low=0.85, high=high - 0.05, side=_GLASS, top=_GLASS, heat=warmth.metal * 0.85)
    roof = rectangle(rear * half + 0.32, front * half - 0.5, half_width=wide - 0.2, corner=0.15)
    board.face(roof, z=high, colour=shaded(paint, 1.06), heat=warmth.metal * 1.05)


Span = tuple[float, float, float]


def _draw_car(board: Board, half: float, wide: float, paint: Colour, warmth: Warmth) -> None:
    _cabin(board, half, wide, paint, warmth, span=(-0.72, 0.45, 1.4))


def _draw_van(board: Board, half: float, wide: float, paint: Colour, warmth: Warmth) -> None:
    _cabin(board, half, wide, paint, warmth, span=(-0.97, 0.78, 1.8))


def _draw_pickup(board: Board, half: float, wide: float, paint: Colour, warmth: Warmth) -> None:
    bed = rectangle(-half + 0.15, -0.1 * half, half_width=wide - 0.15, corner=0.05)
    board.face(bed, z=0.86, colour=shaded(paint, 0.35), heat=warmth.metal * 0.9)
    _cabin(board, half, wide, paint, warmth, span=(-0.12, 0.6, 1.5))


def _draw_truck(board: Board, half: float, wide: float, paint: Colour, warmth: Warmth) -> None:
    _cabin(board, half, wide, paint, warmth, span=(0.35, 0.95, 1.7))
    box = rectangle(-half, 0.35 * half, half_width=wide + 0.04, corner=0.03)
    colour = (0.80, 0.80, 0.78)
    board.solid(box, low=0.6, high=2.1, side=shaded(colour, 0.6), top=colour, heat=warmth.metal)


@dataclass(frozen=True, kw_only=True)
class _Body:
    half_length: tuple[float, float]
    draw_cabin: Callable[[Board, float, float, Colour, Warmth], None]


_BODIES = (
    _Body(half_length=(1.35, 1.8), draw_cabin=_draw_car),
    _Body(half_length=(1.6, 1.95), draw_cabin=_draw_van),
    _Body(half_length=(1.75, 2.0), draw_cabin=_draw_pickup),
    _Body(half_length=(1.8, 2.1), draw_cabin=_draw_truck),
)
_BODY_SHARES = (0.62, 0.15, 0.12, 0.11)


def _pick(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    base = colours[int(rng.integers(len(colours)))]
    return shaded(base, float(rng.uniform(0.85, 1.15)))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A class to place: how far it reaches from its centre, how high it stands, how it is drawn."""

    class_id: int
    reach_m: float
    height_m: float
    draw: Callable[..., None]


KINDS = (
    Kind(class_id=PERSON, reach_m=2.2, height_m=1.7, draw=draw_person),
    Kind(class_id=VEHICLE, reach_m=3.9, height_m=1.4, draw=draw_vehicle),
    Kind(class_id=MOTORCYCLE, reach_m=2.7, height_m=1.1, draw=draw_motorcycle),
)
