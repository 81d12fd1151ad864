"""What surfaces look like to both cameras, and which terrain class they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Terrain(IntEnum):
    """The 7-class terrain ontology."""

    SMOOTH = 0
    ROUGH = 1
    VEGETATION = 2
    OBSTACLE = 3
    WATER = 4
    SKY = 5
    DYNAMIC = 6
    IGNORE = 255


@dataclass(frozen=True, kw_only=True)
class Material:
    """A surface.

    colour, other: sRGB in [0, 1]; the texture moves between the two.
    grain: strength of the fine texture. heat_day, heat_night: thermal brightness in [0, 1].
    """

    colour: tuple[float, float, float]
    other: tuple[float, float, float]
    grain: float
    heat_day: float
    heat_night: float
    terrain: Terrain

    def heat(self, time_of_day: str) -> float:
        """Return the thermal brightness; dusk lies between day and night."""
        share = {"day": 0.0, "dusk": 0.5, "night": 1.0}[time_of_day]
        return self.heat_day * (1 - share) + self.heat_night * share


def _material(
    colour: tuple[float, float, float],
    other: tuple[float, float, float],
    *,
    grain: float,
    heat: tuple[float, float],
    terrain: Terrain,
) -> Material:
    return Material(
        colour=colour, other=other, grain=grain, heat_day=heat[0], heat_night=heat[1], terrain=terrain
    )


ASPHALT = _material(
    (0.36, 0.36, 0.37), (0.29, 0.29, 0.31), grain=0.030, heat=(0.62, 0.40), terrain=Terrain.SMOOTH
)
CONCRETE = _material(
    (0.63, 0.61, 0.57), (0.54, 0.53, 0.50), grain=0.024, heat=(0.58, 0.38), terrain=Terrain.SMOOTH
)
DIRT = _material(
    (0.53, 0.44, 0.33), (0.45, 0.36, 0.26), grain=0.042, heat=(0.60, 0.33), terrain=Terrain.SMOOTH
)
GRAVEL = _material(
    (0.55, 0.52, 0.47), (0.44, 0.41, 0.38), grain=0.060, heat=(0.60, 0.36), terrain=Terrain.ROUGH
)
PLOUGHED = _material(
    (0.42, 0.32, 0.23), (0.34, 0.26, 0.19), grain=0.042, heat=(0.57, 0.30), terrain=Terrain.ROUGH
)
GRASS = _material(
    (0.32, 0.44, 0.20), (0.40, 0.46, 0.24), grain=0.048, heat=(0.45, 0.26), terrain=Terrain.VEGETATION
)
DRY_GRASS = _material(
    (0.57, 0.53, 0.33), (0.44, 0.45, 0.26), grain=0.054, heat=(0.52, 0.28), terrain=Terrain.VEGETATION
)
WATER = _material(
    (0.15, 0.27, 0.31), (0.20, 0.32, 0.33), grain=0.02, heat=(0.30, 0.34), terrain=Terrain.WATER
)
ROOF = _material(
    (0.50, 0.28, 0.22), (0.42, 0.25, 0.20), grain=0.036, heat=(0.66, 0.37), terrain=Terrain.OBSTACLE
)
FLAT_ROOF = _material(
    (0.52, 0.53, 0.55), (0.45, 0.46, 0.48), grain=0.030, heat=(0.64, 0.35), terrain=Terrain.OBSTACLE
)

OPEN_GROUND = (GRASS, DRY_GRASS, DIRT, GRAVEL, PLOUGHED)
