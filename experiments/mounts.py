"""Which folders of this machine a stage in a container may read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import yaml

from containers import LOCKS, REPO


def mounts_of(data_yaml: str | None, *, checkpoints: Iterable[Path] = ()) -> list[str]:
    """What a stage may read besides its run folder: scripts, locks, weights placed by hand, a dataset."""
    folders = [REPO / "experiments", LOCKS, Path(os.environ.get("HEXPATH_ASSETS", REPO / "assets"))]
    folders += [path.parent for path in checkpoints]
    if data_yaml:
        folders += dataset_folders(Path(data_yaml))
    return sorted({str(folder.resolve()) for folder in folders if folder.is_dir()})


def dataset_folders(data_yaml: Path) -> list[Path]:
    """The folder of a data.yaml, and what it names outside of it."""
    facts = yaml.safe_load(data_yaml.read_text())
    home = data_yaml.parent
    root = home / str(facts.get("path") or ".")
    named = [entry for key in ("train", "val", "test") for entry in as_list(facts.get(key))]
    places = [root, *(root / name for name in named)]
    outside = [place for place in places if not place.resolve().is_relative_to(home.resolve())]
    # Labels lie beside the images: .../images/train wants .../labels/train too.
    return [home, *(place.parent.parent if "images" in place.parts[-2:] else place for place in outside)]


def as_list(value: object) -> list[str]:
    return [str(entry) for entry in (value if isinstance(value, list) else [value] if value else [])]
