"""The numbers of a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hexpath_data.checks import Checked

_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_SMALL_PX2, _MEDIUM_PX2 = 32**2, 96**2  # COCO's areas


def split_statistics(
    images: Sequence[Checked], *, names: Sequence[str], facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the counts and sizes of one split; `facts` are the images' meta rows by file name."""
    counts = Counter(box.class_id for one in images for box in one.boxes)
    total = sum(counts.values())
    return {
        "images": len(images),
        "backgrounds": sum(not one.boxes for one in images),
        "instances": total,
        "classes": {
            name: {"instances": counts[i], "share": round(counts[i] / total, 4) if total else 0.0}
            for i, name in enumerate(names)
        },
        "imbalance": _imbalance([counts[i] for i in range(len(names))]),
        "objects_per_image": percentiles([len(one.boxes) for one in images]),
        "image_sizes": _image_sizes(images),
        "boxes": _box_statistics(images, names=names),
        **_meta_statistics(images, facts=facts),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return percentiles by name (p0, p5, ... p100), or nothing for no values."""
    if not values:
        return {}
    found = np.percentile(np.asarray(values, dtype=np.float64), _PERCENTILES)
    return {f"p{p}": round(float(value), 2) for p, value in zip(_PERCENTILES, found, strict=True)}


def _imbalance(counts: Sequence[int]) -> float | None:
    # the commonest class over the rarest; undefined when one has no instances
    return round(max(counts) / min(counts), 2) if min(counts) > 0 else None


def _image_sizes(images: Sequence[Checked]) -> list[dict[str, int]]:
    sizes = Counter((one.width, one.height) for one in images)
    ordered = sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"width_px": w, "height_px": h, "images": count} for (w, h), count in ordered]


def _box_statistics(images: Sequence[Checked], *, names: Sequence[str]) -> dict[str, Any]:
    rows = [(b.class_id, b.width * one.width, b.height * one.height) for one in images for b in one.boxes]
    areas = [width * height for _, width, height in rows]
    longest = {
        name: percentiles([max(width, height) for class_id, width, height in rows if class_id == i])
        for i, name in enumerate(names)
    }
    return {
        "width_px": percentiles([width for _, width, _ in rows]),
        "height_px": percentiles([height for _, _, height in rows]),
        "longest_side_px": longest,
        "area_shares": _area_shares(areas),
    }


def _area_shares(areas: Sequence[float]) -> dict[str, float]:
    if not areas:
        return {}
    values = np.asarray(areas)
    small, large = np.mean(values < _SMALL_PX2), np.mean(values > _MEDIUM_PX2)
    shares = {"small": small, "medium": 1 - small - large, "large": large}
    return {name: round(float(share), 4) for name, share in shares.items()}


def _meta_statistics(images: Sequence[Checked], *, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows = [facts[one.path.name] for one in images if one.path.name in facts]
    times = Counter(str(row["time_of_day"]) for row in rows if "time_of_day" in row)
    altitudes = [float(row["altitude_m"]) for row in rows if "altitude_m" in row]
    found: dict[str, Any] = {}
    if times:
        found["time_of_day"] = dict(sorted(times.items()))
    if altitudes:
        found["altitude_m"] = percentiles(altitudes)
    return found
