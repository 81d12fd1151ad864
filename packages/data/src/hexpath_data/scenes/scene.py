"""One scene from one seed: ground, things on it, trees above, two cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hexpath_data.scenes.canvas import Canvas, new_canvas
from hexpath_data.scenes.ground import Slot, build_house, lay_ground
from hexpath_data.scenes.light import add_sky, expose, sense_heat
from hexpath_data.scenes.materials import Terrain
from hexpath_data.scenes.objects import KINDS, PERSON, VEHICLE, WARMTH, Kind
from hexpath_data.scenes.place import is_free, lay_sprite, shadow_of, visible_share
from hexpath_data.scenes.props import PROPS
from hexpath_data.scenes.sprite import Board, Sprite
from hexpath_data.scenes.trees import grow_trees, paint_crowns
from hexpath_data.scenes.view import View, draw_view

CLASS_SHARES = (0.38, 0.30, 0.32)
_MIN_VISIBLE = 0.65
_TRIES = 12


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One labelled object: its class and where it is seen, `mask` bool (H, W)."""

    class_id: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return x0, y0, x1, y1 in pixels, the right and lower edges exclusive."""
        columns, rows = np.flatnonzero(self.mask.any(axis=0)), np.flatnonzero(self.mask.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rendered scene.

    rgb: uint8 (H, W, 3) RGB. thermal: uint8 (H, W), aligned. terrain: uint8 (H, W) terrain ids.
    """

    rgb: NDArray[np.uint8]
    thermal: NDArray[np.uint8]
    terrain: NDArray[np.uint8]
    instances: tuple[Instance, ...]
    altitude_m: float
    time_of_day: str


def render(*, size: int, seed: tuple[int, ...]) -> Frame:
    """Render the scene that belongs to `seed`; the same seed gives the same pixels in any process."""
    rng = np.random.default_rng(seed)
    canvas = new_canvas(draw_view(rng, size=size))
    slots = lay_ground(canvas, rng=rng)
    _raise_buildings(canvas, rng=rng)
    grow_trees(canvas, rng=rng, count=int(rng.integers(0, 4)))
    canvas.rgb *= canvas.shade[..., None]
    add_sky(canvas, rng=rng)
    _place_props(canvas, rng=rng)
    class_ids = _place_objects(canvas, slots=slots, rng=rng)
    paint_crowns(canvas, rng=rng)
    return _record(canvas, class_ids=class_ids, rng=rng)


def _record(canvas: Canvas, *, class_ids: list[int], rng: np.random.Generator) -> Frame:
    seen = [(class_id, canvas.instance == k) for k, class_id in enumerate(class_ids, start=1)]
    return Frame(
        rgb=expose(canvas, rng=rng),
        thermal=sense_heat(canvas, rng=rng),
        terrain=canvas.terrain,
        instances=tuple(Instance(class_id=c, mask=mask) for c, mask in seen if mask.any()),
        altitude_m=canvas.view.altitude_m,
        time_of_day=canvas.view.time_of_day,
    )


def _raise_buildings(canvas: Canvas, *, rng: np.random.Generator) -> None:
    count = 0 if canvas.view.horizon else int(rng.choice(3, p=(0.6, 0.3, 0.1)))
    for _ in range(count):
        build_house(canvas, rng=rng)


def _place_props(canvas: Canvas, *, rng: np.random.Generator) -> None:
    shares = [prop.share for prop in PROPS]
    for _ in range(int(rng.integers(1, 7))):
        prop = PROPS[int(rng.choice(len(PROPS), p=shares))]
        x, y = rng.uniform(0, canvas.size, 2)
        heat = float({"day": 0.6, "dusk": 0.42, "night": 0.3}[canvas.view.time_of_day] + rng.normal(0, 0.04))
        board = Board(canvas.view, x=x, y=y, heading=rng.uniform(0, 2 * np.pi), reach_m=prop.reach_m)
        prop.draw(board, rng, heat)
        sprite = board.finish()
        if visible_share(canvas, sprite) > 0.3:
            shadow_of(canvas, sprite, height_m=prop.height_m)
            lay_sprite(canvas, sprite, terrain=prop.terrain)


def _place_objects(canvas: Canvas, *, slots: list[Slot], rng: np.random.Generator) -> list[int]:
    placed: list[int] = []
    for _ in range(int(rng.integers(5, 13))):
        kind = KINDS[int(rng.choice(len(KINDS), p=CLASS_SHARES))]
        sprite = _find_place(canvas, kind, slots=slots, rng=rng)
        if sprite is not None:
            placed.append(kind.class_id)
            shadow_of(canvas, sprite, height_m=kind.height_m)
            lay_sprite(canvas, sprite, terrain=Terrain.DYNAMIC, instance=len(placed))
    return placed


def _find_place(canvas: Canvas, kind: Kind, *, slots: list[Slot], rng: np.random.Generator) -> Sprite | None:
    for _ in range(_TRIES):
        slot = _draw_slot(canvas.view, kind, slots=slots, rng=rng)
        if not is_free(canvas, x=slot.x, y=slot.y):
            continue  # before the costly drawing
        board = Board(canvas.view, x=slot.x, y=slot.y, heading=slot.heading, reach_m=kind.reach_m)
        kind.draw(board, rng=rng, warmth=WARMTH[canvas.view.time_of_day])
        sprite = board.finish()
        if visible_share(canvas, sprite) >= _MIN_VISIBLE:
            return sprite
    return None


def _draw_slot(view: View, kind: Kind, *, slots: list[Slot], rng: np.random.Generator) -> Slot:
    on_slot = {PERSON: 0.0, VEHICLE: 0.75}.get(kind.class_id, 0.4)
    if slots and rng.random() < on_slot:
        return slots[int(rng.integers(len(slots)))]
    x, y = rng.uniform(0, view.size), rng.uniform(view.horizon * 1.3, view.size)
    return Slot(x=float(x), y=float(y), heading=float(rng.uniform(0, 2 * np.pi)))
