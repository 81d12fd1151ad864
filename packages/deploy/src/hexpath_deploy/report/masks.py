"""Class masks side by side, and what a planner would make of them: free, caution, blocked."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from hexpath_deploy.errors import ReportError
from hexpath_deploy.report.labels import BACKENDS

LONGEST_PX = 320
# Of classes by id, again from the start where there are more: told apart in print and by most eyes.
PALETTE = (
    *("#b08968", "#e9c46a", "#2a9d5c", "#c1272d", "#3a86ff", "#a8dadc", "#f72585", "#6a4c93", "#8d99ae"),
    *("#ff7f0e", "#264653", "#90be6d", "#577590", "#e5989b", "#bc6c25", "#00b4d8", "#d4d700", "#7209b7"),
    "#5f0f40",
)
COSTS = {"free": "#2e9e4f", "caution": "#f2b134", "blocked": "#d1372c"}
BLANK = "#555555"  # pixels that do not count, and classes without a cost
STRENGTH = 0.6  # of a cost's colour over the grey image

Ids = npt.NDArray[np.integer[Any]]
Table = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture as a data URI, what is in it, and what a cursor tells."""

    title: str
    image: str
    tip: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One image: its masks, and its costs where classes have any."""

    name: str
    masks: tuple[Panel, ...]
    costs: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Everything of the section: strips, and the legends by name and colour."""

    strips: tuple[Strip, ...]
    classes: tuple[tuple[str, str], ...]
    costs: tuple[tuple[str, str, str], ...]


def masks(results: Mapping[str, Any], *, root: Path) -> Masks | None:
    """Draw the record's `masks`; None when there are none. `root`: folder that paths are relative to.

    Raises:
        ReportError: an image or mask is missing or broken, or a class's cost is none of COSTS.
    """
    told = results.get("masks")
    if not told:
        return None
    names = list(results["dataset"].get("names", []))
    costs = dict(told.get("costs", {}))
    for name, cost in costs.items():
        if cost not in COSTS:
            raise ReportError(f"masks.costs: '{name}' is '{cost}', expected {', '.join(COSTS)}")
    strips = [
        strip(entry, where=f"masks.images[{number}]", root=root, names=names, costs=costs)
        for number, entry in enumerate(told["images"])
    ]
    grouped = [
        (cost, colour, ", ".join(name for name in names if costs.get(name) == cost))
        for cost, colour in COSTS.items()
    ]
    return Masks(
        strips=tuple(strips),
        classes=tuple((name, PALETTE[kind % len(PALETTE)]) for kind, name in enumerate(names)),
        costs=tuple(row for row in grouped if row[2]),
    )


def strip(
    entry: Mapping[str, Any], *, where: str, root: Path, names: Sequence[str], costs: Mapping[str, str]
) -> Strip:
    """Draw one image with its true mask and the found ones."""
    image = _open(root / entry["image"], where=f"{where}.image").convert("RGB")
    image.thumbnail((LONGEST_PX, LONGEST_PX))
    found = [("ground truth", "truth", entry["truth"])] if "truth" in entry else []
    found += [
        (f"{one['id']}, {BACKENDS[one['evaluated_on']]}", f"found[{n}]", one["path"])
        for n, one in enumerate(entry["found"])
    ]
    shown = [Panel(title="image", image=_uri(image, kind="JPEG"), tip=Path(entry["image"]).name)]
    blended = []
    for title, place, path in found:
        ids = _ids(root / path, size=image.size, where=f"{where}.{place}")
        image_uri = _uri(painted(ids, classes=len(names)), kind="PNG")
        shown.append(Panel(title=title, image=image_uri, tip=_shares(ids, names)))
        if costs:
            over = blend(image, colours(ids, names=names, costs=costs))
            levels = np.array([costs.get(name, "no cost") for name in names])
            blended.append(Panel(title=title, image=_uri(over, kind="JPEG"), tip=_levels(ids, levels)))
    return Strip(name=Path(entry["image"]).name, masks=tuple(shown), costs=tuple(blended))


def painted(ids: Ids, *, classes: int) -> Image.Image:
    """Return class ids (H, W) in the palette's colours; an id beyond the classes does not count."""
    table = np.array([_rgb(BLANK)] * 256, np.uint8)
    for kind in range(classes):
        table[kind] = _rgb(PALETTE[kind % len(PALETTE)])
    found = Image.fromarray(ids.astype(np.uint8), mode="P")
    found.putpalette(table.tobytes())
    return found


def colours(ids: Ids, *, names: Sequence[str], costs: Mapping[str, str]) -> Table:
    """Return uint8 (H, W, 3): the colour of each pixel's cost."""
    table = np.array([_rgb(BLANK)] * 256, np.uint8)
    for kind, name in enumerate(names):
        if name in costs:
            table[kind] = _rgb(COSTS[costs[name]])
    return table[ids]


def blend(image: Image.Image, over: Table) -> Image.Image:
    """Lay colours over the image in grey."""
    grey = np.asarray(image.convert("L").convert("RGB"), np.float32)
    mixed = (1 - STRENGTH) * grey + STRENGTH * over
    return Image.fromarray(mixed.round().astype(np.uint8))


def _shares(ids: Ids, names: Sequence[str]) -> str:
    counts = np.bincount(ids[ids < len(names)].ravel(), minlength=len(names))
    total = max(int(counts.sum()), 1)
    listed = [(100 * int(n) / total, name) for n, name in zip(counts, names, strict=False) if n]
    return ", ".join(f"{name} {share:.0f}%" for share, name in sorted(listed, reverse=True))


def _levels(ids: Ids, levels: npt.NDArray[np.str_]) -> str:
    counted = levels[ids[ids < len(levels)]]
    return ", ".join(f"{cost} {100 * float((counted == cost).mean()):.0f}%" for cost in COSTS if counted.size)


def _ids(path: Path, *, size: tuple[int, int], where: str) -> Ids:
    image = _open(path, where=where)
    ids = np.asarray(image.resize(size, Image.Resampling.NEAREST))
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ReportError(f"{where}: {path} is no mask of class ids below 256")
    return ids


def _open(path: Path, *, where: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError) as error:
        raise ReportError(f"{where}: {path} cannot be read ({error})") from None


def _uri(image: Image.Image, *, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **({"quality": 78} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rgb(colour: str) -> tuple[int, int, int]:
    value = int(colour[1:], 16)
    return value >> 16, value >> 8 & 255, value & 255
