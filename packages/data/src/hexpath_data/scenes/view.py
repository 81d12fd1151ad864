"""Where the camera and the sun are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUND_WIDTH_PER_ALTITUDE = 0.48  # a 27 degree field of view: at 40 m the image is 19 m wide
HORIZON_SHARE = 0.08
TIMES_OF_DAY = ("day", "dusk", "night")
TIME_SHARES = (0.55, 0.25, 0.20)


@dataclass(frozen=True, kw_only=True)
class View:
    """One camera pose and the light.

    size: image width and height in pixels.
    tilt: image shift in metres (x, y) of a point one metre above ground, at the image centre.
    sun: shadow shift in metres (x, y) of a point one metre above ground.
    horizon: first image row below the sky; 0 when the camera looks down.
    """

    size: int
    altitude_m: float
    tilt: tuple[float, float]
    sun: tuple[float, float]
    time_of_day: str
    horizon: int

    @property
    def px_per_m(self) -> float:
        """Ground resolution at the image centre."""
        return self.size / (GROUND_WIDTH_PER_ALTITUDE * self.altitude_m)

    def scale(self, y: float) -> float:
        """Return pixels per metre at image row `y`: smaller towards a horizon."""
        if not self.horizon:
            return self.px_per_m
        depth = (y - self.horizon) / (self.size - self.horizon)
        return self.px_per_m * (0.65 + 0.35 * max(0.0, depth))

    def lean(self, x: float, y: float) -> tuple[float, float]:
        """Return the image shift in metres (x, y) of a point one metre above ground at pixel (x, y)."""
        per_px = 1.0 / (self.px_per_m * self.altitude_m)
        half = self.size / 2
        return self.tilt[0] + (x - half) * per_px, self.tilt[1] + (y - half) * per_px


def draw_view(rng: np.random.Generator, *, size: int) -> View:
    """Draw a camera pose between 30 and 50 m, a sun and a time of day."""
    time_of_day = str(rng.choice(TIMES_OF_DAY, p=TIME_SHARES))
    has_horizon = bool(rng.random() < HORIZON_SHARE)
    altitude_m = round(float(rng.uniform(30, 36 if has_horizon else 50)), 1)
    side, up = rng.uniform(-0.1, 0.1), rng.uniform(0.4, 0.6)
    azimuth = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.7, 1.2) if time_of_day == "dusk" else rng.uniform(0.3, 0.8)
    return View(
        size=size,
        altitude_m=altitude_m,
        tilt=(float(side), -float(up)),
        sun=(float(reach * np.cos(azimuth)), float(reach * np.sin(azimuth))),
        time_of_day=time_of_day,
        horizon=int(size * rng.uniform(0.08, 0.18)) if has_horizon else 0,
    )
