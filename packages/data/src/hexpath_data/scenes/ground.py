"""The ground: open land, roads, parking lots, plazas, water, buildings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hexpath_data.scenes import materials
from hexpath_data.scenes.canvas import (
    Canvas,
    Point,
    add_shadow,
    lines_mask,
    paint,
    paint_flat,
    polygon_mask,
    texture,
)
from hexpath_data.scenes.materials import Material
from hexpath_data.scenes.noise import Float, blur, fractal_noise, over_channels

_MARKING = (0.86, 0.86, 0.82)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place where a vehicle would stand: pixel position and heading in radians."""

    x: float
    y: float
    heading: float


def lay_ground(canvas: Canvas, *, rng: np.random.Generator) -> list[Slot]:
    """Paint the ground and return where vehicles would stand, in random order."""
    _lay_open(canvas, rng=rng)
    if canvas.view.horizon:
        return []
    if rng.random() < 0.22:
        _lay_water(canvas, rng=rng)
    slots = LAYOUTS[str(rng.choice(list(LAYOUTS), p=_LAYOUT_SHARES))](canvas, rng)
    order = rng.permutation(len(slots))
    return [slots[i] for i in order]


def _lay_open(canvas: Canvas, *, rng: np.random.Generator) -> None:
    whole = np.ones((canvas.size, canvas.size), np.float32)
    first, second = (materials.OPEN_GROUND[i] for i in rng.permutation(len(materials.OPEN_GROUND))[:2])
    paint(canvas, whole, material=first, surface=_surface(first, canvas, rng=rng))
    patches = _threshold(fractal_noise(rng, size=canvas.size, cells=2), level=float(rng.uniform(0.2, 1.2)))
    paint(canvas, patches, material=second, surface=_surface(second, canvas, rng=rng))


def _surface(material: Material, canvas: Canvas, *, rng: np.random.Generator) -> Float:
    surface = texture(material, rng=rng, size=canvas.size)
    if material is not materials.PLOUGHED:
        return surface
    angle, period_m = rng.uniform(0, np.pi), rng.uniform(0.5, 0.9)
    rows, columns = np.mgrid[0 : canvas.size, 0 : canvas.size].astype(np.float32)
    phase = (columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi / (period_m * canvas.view.px_per_m))
    furrows: Float = surface * over_channels((1 + 0.07 * np.sin(phase)).astype(np.float32))
    return furrows


def _threshold(field: Float, *, level: float, sharpness: float = 6.0) -> Float:
    cover: Float = np.clip((field - level) * sharpness + 0.5, 0, 1).astype(np.float32)
    return cover


def _lay_water(canvas: Canvas, *, rng: np.random.Generator) -> None:
    field = fractal_noise(rng, size=canvas.size, cells=2, octaves=2)
    level = float(np.quantile(field, rng.uniform(0.7, 0.9)))
    shore = _threshold(field, level=level - 0.08, sharpness=9)
    paint(canvas, shore, material=materials.DIRT, surface=texture(materials.DIRT, rng=rng, size=canvas.size))
    surface = texture(materials.WATER, rng=rng, size=canvas.size)
    paint(canvas, _threshold(field, level=level, sharpness=12), material=materials.WATER, surface=surface)


def _lay_nothing(canvas: Canvas, rng: np.random.Generator) -> list[Slot]:
    return []


def _lay_road(canvas: Canvas, rng: np.random.Generator) -> list[Slot]:
    angle, width_m = rng.uniform(0, np.pi), rng.uniform(4.5, 6.0)
    centre = _centre(canvas, 0.3, 0.7, rng=rng)
    material = materials.DIRT if rng.random() < 0.2 else materials.ASPHALT
    if material is materials.ASPHALT and rng.random() < 0.6:
        _strip(canvas, centre, angle, width_m + rng.uniform(2, 4), material=materials.CONCRETE, rng=rng)
    _strip(canvas, centre, angle, width_m, material=material, rng=rng)
    if material is materials.ASPHALT:
        _mark_road(canvas, centre, angle, width_m, rng=rng)
    return _road_slots(canvas, centre, angle, width_m, rng=rng)


def _lay_crossing(canvas: Canvas, rng: np.random.Generator) -> list[Slot]:
    angle, width_m = rng.uniform(0, np.pi), rng.uniform(4.2, 5.5)
    centre = _centre(canvas, 0.35, 0.65, rng=rng)
    for turn in (0.0, np.pi / 2):
        _strip(canvas, centre, angle + turn, width_m + 2.5, material=materials.CONCRETE, rng=rng)
    slots: list[Slot] = []
    for turn in (0.0, np.pi / 2):
        _strip(canvas, centre, angle + turn, width_m, material=materials.ASPHALT, rng=rng)
        slots += _road_slots(canvas, centre, angle + turn, width_m, rng=rng)
    return slots


def _lay_parking(canvas: Canvas, rng: np.random.Generator) -> list[Slot]:
    angle, centre = rng.uniform(0, np.pi), _centre(canvas, 0.4, 0.6, rng=rng)
    length_m, pitch_m, depth_m = 60.0, rng.uniform(2.2, 2.5), 4.2
    _strip(canvas, centre, angle, rng.uniform(14, 20), material=materials.ASPHALT, rng=rng)
    lines: list[tuple[Point, Point]] = []
    slots: list[Slot] = []
    for side in (-1, 1):
        near, far = side * 2.6, side * (2.6 + depth_m)
        for along in np.arange(-length_m / 2, length_m / 2, pitch_m):
            lines.append((_at(canvas, centre, angle, along, near), _at(canvas, centre, angle, along, far)))
            x, y = _at(canvas, centre, angle, along + pitch_m / 2, (near + far) / 2)
            heading = angle + np.pi / 2 * side + rng.normal(0, 0.04)
            slots.append(Slot(x=x, y=y, heading=float(heading)))
    cover = lines_mask(lines, width_px=0.12 * canvas.view.px_per_m, size=canvas.size)
    paint_flat(canvas, cover, colour=_MARKING, opacity=float(rng.uniform(0.4, 0.8)))
    return slots


def _lay_plaza(canvas: Canvas, rng: np.random.Generator) -> list[Slot]:
    angle, centre = rng.uniform(0, np.pi), _centre(canvas, 0.35, 0.65, rng=rng)
    _strip(canvas, centre, angle, rng.uniform(12, 20), material=materials.CONCRETE, rng=rng)
    pitch_m = rng.uniform(1.0, 2.5)
    grid = [k * pitch_m for k in range(-12, 13)]
    lines = [(_at(canvas, centre, angle, -30, g), _at(canvas, centre, angle, 30, g)) for g in grid]
    lines += [(_at(canvas, centre, angle, g, -30), _at(canvas, centre, angle, g, 30)) for g in grid]
    cover = lines_mask(lines, width_px=0.06 * canvas.view.px_per_m, size=canvas.size)
    cover *= canvas.terrain == materials.Terrain.SMOOTH
    paint_flat(canvas, cover, colour=(0.42, 0.41, 0.39), opacity=0.6)
    return []


LAYOUTS: dict[str, Callable[[Canvas, np.random.Generator], list[Slot]]] = {
    "road": _lay_road,
    "crossing": _lay_crossing,
    "parking": _lay_parking,
    "plaza": _lay_plaza,
    "open": _lay_nothing,
}
_LAYOUT_SHARES = (0.34, 0.12, 0.22, 0.14, 0.18)


def _centre(canvas: Canvas, low: float, high: float, *, rng: np.random.Generator) -> Point:
    x, y = canvas.size * rng.uniform(low, high, 2)
    return float(x), float(y)


def _at(canvas: Canvas, centre: Point, angle: float, along_m: float, across_m: float) -> Point:
    scale = canvas.view.px_per_m
    x = centre[0] + scale * (along_m * np.cos(angle) - across_m * np.sin(angle))
    y = centre[1] + scale * (along_m * np.sin(angle) + across_m * np.cos(angle))
    return float(x), float(y)


def _strip(
    canvas: Canvas,
    centre: Point,
    angle: float,
    width_m: float,
    *,
    material: Material,
    rng: np.random.Generator,
) -> None:
    half = width_m / 2
    corners = [(-60, -half), (60, -half), (60, half), (-60, half)]
    points = [_at(canvas, centre, angle, along, across) for along, across in corners]
    surface = texture(material, rng=rng, size=canvas.size)
    paint(canvas, polygon_mask(points, size=canvas.size), material=material, surface=surface)


def _mark_road(
    canvas: Canvas, centre: Point, angle: float, width_m: float, *, rng: np.random.Generator
) -> None:
    dash_m, gap_m = rng.uniform(1.5, 3), rng.uniform(1.5, 3)
    starts = np.arange(-60, 60, dash_m + gap_m)
    lines = [(_at(canvas, centre, angle, s, 0), _at(canvas, centre, angle, s + dash_m, 0)) for s in starts]
    for edge in (-width_m / 2 + 0.25, width_m / 2 - 0.25):
        lines.append((_at(canvas, centre, angle, -60, edge), _at(canvas, centre, angle, 60, edge)))
    cover = lines_mask(lines, width_px=0.13 * canvas.view.px_per_m, size=canvas.size)
    paint_flat(canvas, cover, colour=_MARKING, opacity=float(rng.uniform(0.5, 0.9)))


def _road_slots(
    canvas: Canvas, centre: Point, angle: float, width_m: float, *, rng: np.random.Generator
) -> list[Slot]:
    slots = []
    for side in (-1, 1):
        for along in np.arange(-20, 20, 4.8) + rng.uniform(0, 5):
            x, y = _at(canvas, centre, angle, along + rng.normal(0, 0.8), side * width_m / 4)
            heading = angle + (np.pi if side < 0 else 0) + rng.normal(0, 0.06)
            slots.append(Slot(x=x, y=y, heading=float(heading)))
    return slots


def build_house(canvas: Canvas, *, rng: np.random.Generator) -> None:
    """Paint one building with walls, roof and shadow."""
    angle, centre = rng.uniform(0, np.pi), _centre(canvas, -0.05, 1.05, rng=rng)
    half_x, half_y, height_m = rng.uniform(1.8, 3.6), rng.uniform(1.5, 2.8), rng.uniform(2.0, 3.4)
    corners = [(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]
    base = [_at(canvas, centre, angle, along, across) for along, across in corners]
    roof_at = _raised(base, canvas=canvas, shift=canvas.view.lean(*centre), height_m=height_m)
    shadow_at = _raised(base, canvas=canvas, shift=canvas.view.sun, height_m=height_m)
    add_shadow(canvas, blur(_hull_mask(base, shadow_at, size=canvas.size), radius=1.0))
    walls = materials.CONCRETE if rng.random() < 0.7 else materials.ROOF
    cover = _hull_mask(base, roof_at, size=canvas.size)
    paint(canvas, cover, material=materials.ROOF, surface=0.7 * texture(walls, rng=rng, size=canvas.size))
    roof = materials.ROOF if rng.random() < 0.5 else materials.FLAT_ROOF
    _paint_roof(canvas, roof_at, material=roof, rng=rng)


def _paint_roof(
    canvas: Canvas, corners: list[Point], *, material: Material, rng: np.random.Generator
) -> None:
    cover = polygon_mask(corners, size=canvas.size)
    paint(canvas, cover, material=material, surface=texture(material, rng=rng, size=canvas.size))
    canvas.shade[cover > 0.5] = 1.0
    if material is materials.ROOF:
        ends = [_middle(corners[0], corners[3]), _middle(corners[1], corners[2])]
        sunny = polygon_mask([corners[0], corners[1], ends[1], ends[0]], size=canvas.size)
        paint_flat(canvas, sunny, colour=(0.95, 0.75, 0.65), opacity=0.15)


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


def _raised(base: list[Point], *, canvas: Canvas, shift: Point, height_m: float) -> list[Point]:
    reach = canvas.view.px_per_m * height_m
    return [(x + reach * shift[0], y + reach * shift[1]) for x, y in base]


def _hull_mask(lower: list[Point], upper: list[Point], *, size: int) -> Float:
    # the hull of a shifted parallelogram is the union of its sides' sweeps and both ends
    following = [*range(1, len(lower)), 0]
    sides = [[lower[i], lower[j], upper[j], upper[i]] for i, j in enumerate(following)]
    return polygon_mask(lower, upper, *sides, size=size)
